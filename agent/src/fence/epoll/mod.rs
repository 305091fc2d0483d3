//! The fence over epoll, for hosts that forbid io_uring: the same ops, the same completions.
//!
//! An op is begun in `wait`. What can be done at once is done at once (a send into a socket with
//! room, a close); what waits for a socket becomes its interest in the epoll set; what waits for a
//! disk goes to threads of the shard's own (`files`), so that the loop never stops for one.
//!
//! ```text
//! wait:  pushed ops ─▶ epoll_wait ─▶ per ready socket: one recvmmsg, one recv, some accepts, a send
//!                          ▲                                        │
//!        file threads ─────┘ (an eventfd)                           ▼ completions, for `reap`
//! ```
//!
//! Interests are level-triggered: a socket that was not read to its end is ready again in the next
//! wait, and there is nothing to remember about it.

mod datagrams;
mod files;
mod interest;
mod poll;
mod source;
mod streams;

pub use poll::Poll;
