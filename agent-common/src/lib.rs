//! One code for kernel and user space: the frame's layout, the classifier, the maps' layouts.
//!
//! Everything here is `no_std`, allocates nothing and calls nothing: the eBPF programs in
//! `agent-ebpf`, the agent's user-space stand-in, the simulator and the fuzzers compile the same
//! functions.
#![cfg_attr(not(test), no_std)]

pub mod bundle;
pub mod classify;
pub mod frame;
pub mod keep;
pub mod layout;
pub mod ramp;
pub mod verdict;
