//! The fence over io_uring: ops become submissions, completions are reaped from a ring.

mod probe;
mod receive;
mod ring;
mod token;

pub use probe::probe;
pub use ring::Ring;
pub(super) use token::{pack_peer, unpack_peer};
