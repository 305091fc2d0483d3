//! One worker thread: its ring, its sockets, its buffers, its journal. Shards share nothing on the
//! hot path.
//!
//! `worker` is the loop; `intake` is what happens to a frame; `peer` holds the connections;
//! `settle` the frames that wait for the disk. `op` is the border to the kernel.

pub mod buffer;
pub mod counters;
pub mod handover;
pub mod intake;
pub mod op;
pub mod orders;
pub mod peer;
pub mod region;
pub mod regulation;
pub mod settle;
pub mod tenant;
pub mod worker;
