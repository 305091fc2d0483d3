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
            Place::UserSpace(standin) => standin.observers().sources(),
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
            Place::UserSpace(standin) => standin.observers().sizes(listener),
        }
    }

    /// Samples of refused datagrams after that number; keeps sampling on until `WATCH_LEASE` from
    /// now. `name` names a listener.
    pub fn watch(&mut self, after: u64, name: impl Fn(u32) -> String) -> Watched {
        match &mut self.place {
            Place::Kernel(gate) => {
                let left_out = gate.observer.left_out();
                let kept = gate.observer.watch(WATCH_LEASE);
                kept.after(after, left_out, name)
            }
            Place::UserSpace(standin) => {
                let observers = standin.observers();
                let kept = observers.watch(WATCH_LEASE);
                kept.after(after, observers.left_out(), name)
            }
        }
    }
}
