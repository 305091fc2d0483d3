//! The fence: every kernel call of the hot path stands in this folder (aya's stand in `gate/`).
//! Above it are `Op`, `Completion` and buffer ids; below it pointers and file descriptors.

mod message;
mod queue;
mod receive;
mod ring;
mod token;

pub use queue::receive_queue;
pub use ring::{Ring, RingError, RingPlan, Waker, waker};
