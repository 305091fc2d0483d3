//! One worker thread: its ring, its sockets, its buffers, its journal. Shards share nothing on the
//! hot path.

pub mod buffer;
pub mod counters;
pub mod op;
