//! The agent as a process: what is made in which order, and how it ends.
//!
//! ```text
//! start   data folder locked ─▶ journals recovered ─▶ gate loaded ─▶ sockets guarded, then bound
//!         ─▶ sinks ─▶ shards ─▶ admin ─▶ ready
//! reload  files read ─▶ plan ─▶ new sockets bound ─▶ shards and sinks told ─▶ what goes is run dry
//! stop    gate closing ─▶ shards drain, sync, acknowledge ─▶ sinks deliver and seal ─▶ exit 0
//! ```
//!
//! Where the service manager keeps the sockets (`systemd/store.rs`), a start takes them over instead
//! of binding, and a stop leaves the gate open: what waits in them is the next life's.

mod agent;
mod control;
pub mod data;
mod disk;
pub mod gate_change;
pub mod gate_requests;
mod left_behind;
mod listen;
mod listeners;
mod pulse;
pub mod recall;
pub mod reload;
pub mod request;
mod shards;
mod signal;
mod sinks;
mod status;
mod systemd;

pub use control::run;
