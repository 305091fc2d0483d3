//! The agent as a systemd service: it says when it is ready, proves that its shards turn, and keeps
//! its listening sockets with the service manager from one life to the next.
//!
//! Nothing here needs systemd: without its variables in the environment each part does nothing.
//!
//! | variable | since systemd | says |
//! |---|---|---|
//! | `NOTIFY_SOCKET` | 1 | where messages go |
//! | `WATCHDOG_USEC` | 183 | how often a sign of life is due |
//! | `FDSTORE` | 254; the unit sets it for older ones | how many sockets it keeps for us |
//! | `LISTEN_FDS`, `LISTEN_FDNAMES` | 227 | which ones it has kept |

mod between;
mod held;
mod service;
mod store;
mod watchdog;

pub use service::{Service, Standing};
pub use store::SocketStore;
