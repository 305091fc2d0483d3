//! Penstock's daemon as a library: the binary, the tests and the benchmarks use it.
//!
//! ARCHITECTURE.md is the map. A log line meets the modules in this order: `fence` (the kernel),
//! `shard` (the loop), `source` (peers), `frame` and `decode` (parsers), `journal`, `sink`.

pub mod admin;
pub mod command;
pub mod config;

pub mod daemon;
pub mod decode;
pub mod exit;
pub mod fence;
pub mod frame;
pub mod gate;
pub mod journal;
pub mod limits;
pub mod log;
pub mod metric;
pub mod privilege;
pub mod record;
pub mod schema;
pub mod shard;
pub mod sink;
pub mod source;
