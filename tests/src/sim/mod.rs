//! A worker's whole world, from one number: virtual time, a disk that forgets, a network of fake
//! producers, and a kernel between them that answers in any order it may.
//!
//! ```text
//! scenario   builds a world from a seed, runs lives of an agent in it, checks what is left
//!   kernel   `shard::op::Kernel`: answers ops, asserts that the worker keeps its side
//!     clock, disk, network        what stands and moves behind it
//!     producer, frame             who sends, and what: good frames and one of each bad kind
//!   book     what was sent and what must become of it
//!   check    what is durable, read with `journal::format` alone; each acknowledgement against it
//! ```
//!
//! Nothing here depends on a host's time, addresses or hash order: a seed is replayed exactly.

pub mod book;
pub mod check;
pub mod clock;
pub mod disk;
pub mod frame;
pub mod kernel;
pub mod network;
pub mod producer;
pub mod rng;
pub mod scenario;
