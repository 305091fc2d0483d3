//! Whole agents in a world made from one number: virtual time, a disk that forgets, a network of
//! fake producers, and a kernel between them that answers in any order it may.
//!
//! ```text
//! scenario   a run: lives of an agent in one world, each ended by a stop, a kill or a power cut
//!   setup    what makes a run, by hand or from a seed
//!   life     shards and sinks, each turned when it has something to do
//!     kernel      `shard::op::Kernel`: answers ops, asserts that the worker keeps its side
//!       clock, disk, network        what stands and moves behind it
//!       producer, frame             who sends, and what: good frames and one of each bad kind
//!       client, wire                the client library's producer, and its end of a connection
//!     reload      listeners that come and go while the agent runs
//!     sinks       the real loop and the real file sink
//!       files     the disk that they write to
//!   hop      two agents, the first of which forwards to the second
//!   restart  the agent's own recovery on what a crash has left; the sums after a stop
//!   book     what was sent and what must become of it
//!   check    what is durable, read with `journal::format` alone; each acknowledgement against it
//! ```
//!
//! Nothing here depends on a host's time, addresses or hash order: a seed is replayed exactly.

pub mod book;
pub mod check;
pub mod client;
pub mod clock;
pub mod disk;
pub mod files;
pub mod frame;
pub mod hop;
pub mod kernel;
pub mod life;
pub mod network;
pub mod producer;
pub mod reload;
pub mod restart;
pub mod rng;
pub mod scenario;
pub mod setup;
pub mod sinks;
pub mod wire;
