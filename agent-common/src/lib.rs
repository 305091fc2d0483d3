//! One code for kernel and user space: the frame's layout, the classifier, every rule by which the
//! gate judges, the maps' layouts.
//!
//! Everything here is `no_std`, allocates nothing and calls nothing: the eBPF programs in
//! `agent-ebpf`, the agent's user-space stand-in, the simulator and the fuzzers compile the same
//! functions.
#![cfg_attr(not(test), no_std)]

pub mod bucket;
pub mod bundle;
pub mod classify;
pub mod connection;
pub mod frame;
pub mod judge;
pub mod keep;
pub mod layout;
pub mod limit;
pub mod observe;
pub mod owner;
pub mod ramp;
pub mod source;
pub mod steer;
pub mod syslog;
pub mod verdict;
pub mod word;
