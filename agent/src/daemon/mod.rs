//! The agent as a process: what is made in which order, and how it ends.
//!
//! ```text
//! start   data folder locked ─▶ journals recovered ─▶ gate loaded ─▶ sockets guarded, then bound
//!         ─▶ sinks ─▶ shards ─▶ admin ─▶ ready
//! reload  files read ─▶ plan ─▶ new sockets bound ─▶ shards and sinks told ─▶ what goes is run dry
//! stop    gate closing ─▶ shards drain, sync, acknowledge ─▶ sinks deliver and seal ─▶ exit 0
//! ```

mod agent;
mod control;
pub mod data;
mod disk;
mod left_behind;
mod listen;
mod listeners;
pub mod recall;
pub mod reload;
pub mod request;
mod shards;
mod signal;
mod sinks;
mod status;

pub use control::run;
