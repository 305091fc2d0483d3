//! The fence: every kernel call of the hot path stands in this folder (aya's stand in `gate/`).
//! Above it are `Op`, `Completion` and buffer ids; below it pointers and file descriptors.
//!
//! There are two, and a shard's loop is compiled for each: `uring` (Linux 6.1), and `epoll` for
//! hosts that forbid io_uring. Which one it is, `choice` says before the first shard starts.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use crate::shard::buffer::BlockPool;

pub mod choice;
pub mod epoll;
pub mod uring;

mod buffers;
mod clock;
mod folder;
mod message;
mod queue;
mod socket;
mod wake;

pub use queue::receive_queue;
pub use wake::{Waker, waker};

/// What a fence needs to know.
pub struct FencePlan {
    /// The shard's journal folder; it exists.
    pub folder: PathBuf,
    pub blocks: Arc<BlockPool>,
    pub tcp_buffers: usize,
    pub udp_buffers: usize,
    pub send_buffers: usize,
    /// Read end of the shard's waker.
    pub wake: OwnedFd,
}

/// A fence that cannot be had, with the call that failed.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {source}")]
pub struct FenceError {
    pub call: &'static str,
    pub source: io::Error,
}

/// For `map_err`: names the call.
fn failed(call: &'static str) -> impl FnOnce(io::Error) -> FenceError {
    move |source| FenceError { call, source }
}
