//! Exactly once at the door: which sequences of which producers are in the journal already.
//!
//! `window` is one producer's memory, `table` all producers of a shard within their bound,
//! `snapshot` the bytes in which they stand at the head of each segment, so that retention may
//! delete what came before.
//!
//! What is remembered is what was *taken* into the journal. A frame that is refused, for whatever
//! reason, leaves no trace here: a retry of it is judged anew. What was taken and then lost with a
//! poisoned segment is taken back out.

mod recalled;
pub mod snapshot;
pub mod table;
pub mod window;

pub use agent_common::owner::owner;
pub use recalled::{Recalled, StartBarrier};
pub use table::{Judgement, Known, Remembered, Windows};
pub use window::{Verdict, WINDOW_LEN, Window};
