//! The agent as a process: what is made in which order, and how it ends.
//!
//! ```text
//! start   data folder locked ─▶ journals recovered ─▶ gate loaded ─▶ sockets guarded, then bound
//!         ─▶ sinks ─▶ shards ─▶ admin ─▶ ready
//! stop    gate closing ─▶ shards drain, sync, acknowledge ─▶ sinks deliver and seal ─▶ exit 0
//! ```

mod control;
pub mod data;
mod disk;
mod listen;
pub mod recall;
mod shards;
mod status;

pub use control::run;
