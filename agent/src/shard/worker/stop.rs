//! The shard goes: nothing new is accepted, and everything that was taken is settled first.

use std::time::Duration;

use super::Worker;
use crate::config::settings::Protocol;
use crate::shard::counters::CloseReason;
use crate::shard::op::{Kernel, ListenerId, Op, PeerId};

/// At a stop, a UDP socket counts as drained when nothing has come for this long, with buffers
/// free: the kernel delivers what is queued within one wake-up.
pub(super) const DRAIN_QUIET_NS: u64 = 20_000_000;
/// Where the gate is not in the kernel, or stays open because the sockets go on in the next life,
/// nothing keeps datagrams from coming while the queue is drained, and a steady sender never lets it
/// be quiet: it is drained for this long at the most.
pub(super) const DRAIN_OPEN_NS: u64 = 200_000_000;
/// At a stop, the longest time given to UDP queues to run dry, to the disk and to peers that take
/// their acknowledgements; then the shard ends all the same and says so.
/// Half of `stop_timeout`, less where it is long: these are waits for a disk and for peers, which an
/// agent that runs has in milliseconds.
const STOP_NS_MAX: u64 = 20_000_000_000;

/// Where the worker's own life stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Running,
    /// Accepts nothing new; takes what the UDP queues still hold.
    Draining {
        since_ns: u64,
    },
    /// Everything taken goes to the disk and is acknowledged.
    Settling {
        since_ns: u64,
    },
    Stopped,
}

/// What of `stop_timeout` the shards may use.
pub(super) fn stop_ns(stop_timeout: Duration) -> u64 {
    (stop_timeout.as_nanos() as u64 / 2).min(STOP_NS_MAX)
}

impl<K: Kernel> Worker<K> {
    /// Stops accepting; `turn` says `Stopped` once everything taken is durable and acknowledged.
    pub fn begin_stop(&mut self) {
        if self.life == Life::Running {
            self.life = Life::Draining {
                since_ns: self.now.monotonic_ns,
            };
            self.last_bundle_ns = self.now.monotonic_ns;
        }
    }

    /// One step of stopping, where the last one is over.
    pub(super) fn advance_life(&mut self) {
        let now_ns = self.now.monotonic_ns;
        // Each of the two steps has half of it.
        let step_ns = self.stop_ns / 2;
        let late = |since_ns: u64| now_ns.saturating_sub(since_ns) >= step_ns;
        match self.life {
            Life::Running | Life::Stopped => {}
            Life::Draining { since_ns } => {
                self.cancel_listeners(Protocol::Tcp);
                let quiet = now_ns.saturating_sub(self.last_bundle_ns) >= DRAIN_QUIET_NS;
                let stand_in = self
                    .listeners
                    .iter()
                    .any(|listener| listener.plan.stand_in.is_some());
                let open = stand_in || self.sockets_kept;
                let enough = open && now_ns.saturating_sub(since_ns) >= DRAIN_OPEN_NS;
                let drained = (quiet || enough) && self.held.is_empty();
                if !drained && !late(since_ns) {
                    return;
                }
                self.cancel_listeners(Protocol::Udp);
                self.close_mailbox();
                let peers: Vec<PeerId> = self.peers.ids().collect();
                for peer in peers {
                    self.finish(peer, CloseReason::Stopping);
                }
                self.life = Life::Settling { since_ns: now_ns };
            }
            Life::Settling { since_ns } => {
                self.intake.journal.flush(self.now);
                let settled = self.intake.journal.is_settled()
                    && self.held.is_empty()
                    && self.peers.is_empty()
                    && self.listeners.iter().all(|listener| !listener.armed);
                if settled {
                    self.life = Life::Stopped;
                } else if late(since_ns) {
                    tracing::error!(
                        shard = self.plan_shard,
                        connections = self.peers.len(),
                        journal_settled = self.intake.journal.is_settled(),
                        "stopped before everything was settled: nothing of the rest was acknowledged",
                    );
                    self.life = Life::Stopped;
                }
            }
        }
    }

    pub(super) fn cancel_listeners(&mut self, protocol: Protocol) {
        for index in 0..self.listeners.len() {
            if self.listeners[index].plan.protocol == protocol {
                self.cancel_listener(ListenerId(index as u16));
            }
        }
    }

    /// Ends the accept or the receive that is in the kernel.
    pub(super) fn cancel_listener(&mut self, listener: ListenerId) {
        let serving = &mut self.listeners[usize::from(listener.0)];
        if !serving.armed || serving.cancelling {
            return;
        }
        serving.cancelling = true;
        self.kernel.push(match serving.plan.protocol {
            Protocol::Tcp => Op::AcceptCancel { listener },
            Protocol::Udp => Op::ReceiveFromCancel { listener },
        });
    }
}
