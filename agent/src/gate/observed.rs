//! What the gate remembers for people, wherever it stands: no verdict depends on it.

use agent_common::observe::{SizeCounts, SourceCounts};
use agent_common::source::Source;

use super::refused::{WATCH_LEASE, Watched};
use super::{Gate, Place};
use crate::shard::op::ListenerId;

impl Gate {
    /// Every source that is counted now, with what came from it since it has been: at most
    /// `agent_common::observe::WHO_MAX` in the kernel. What is read while datagrams arrive is not of
    /// one moment.
    pub fn sources(&self) -> Vec<(Source, SourceCounts)> {
        match &self.place {
            Place::Kernel(gate) => gate.observer.sources(),
            Place::UserSpace(stand_in, _) => stand_in.observer().sources(),
        }
    }

    /// How many bits of an address make a source, IPv4 and IPv6.
    pub fn source_bits(&self) -> (u8, u8) {
        let policy = self.policy();
        (policy.source_prefix_v4, policy.source_prefix_v6)
    }

    /// The listener's datagrams by size, whatever their verdict.
    pub fn sizes(&self, listener: ListenerId) -> SizeCounts {
        let listener = u32::from(listener.0);
        match &self.place {
            Place::Kernel(gate) => gate.observer.sizes(listener),
            Place::UserSpace(stand_in, _) => stand_in.observer().sizes(listener),
        }
    }

    /// Samples of refused datagrams after that number; keeps sampling on until `WATCH_LEASE` from
    /// now. `name` names a listener.
    pub fn watch(&mut self, after: u64, name: impl Fn(u32) -> String) -> Watched {
        match &mut self.place {
            Place::Kernel(gate) => {
                let left_out = gate.observer.left_out();
                let kept = gate.observer.watch(WATCH_LEASE, monotonic_ns());
                kept.after(after, left_out, name)
            }
            Place::UserSpace(stand_in, _) => {
                let observer = stand_in.observer();
                let left_out = observer.left_out();
                let kept = observer.watch(WATCH_LEASE, monotonic_ns());
                kept.after(after, left_out, name)
            }
        }
    }
}

/// What `bpf_ktime_get_ns` and the shards' clock tell: CLOCK_MONOTONIC.
fn monotonic_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call fills the struct that it is given, and cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
