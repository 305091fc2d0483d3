//! The journal made it durable, or failed to: whoever waits is told.

use penstock_proto::reason::Reason;
use penstock_proto::wire::{Ack, AckStatus};

use super::Worker;
use crate::journal::writer::Settled;
use crate::shard::counters::CloseReason;
use crate::shard::op::{Errno, Kernel, Op, PeerId, SendLease};
use crate::shard::peer::Phase;
use crate::shard::settle::Waiting;

/// What a producer waits before it sends again what was not taken for lack of room.
pub(super) const RETRY_AFTER_BACKPRESSURE_MS: u32 = 1_000;
/// What a producer waits that is one too many: others expire by the minute, not by the second.
pub(super) const RETRY_AFTER_CROWDED_MS: u32 = 10_000;
/// What it waits where a segment failed: the next one is a moment away.
pub(super) const RETRY_AFTER_FAILURE_MS: u32 = 200;

impl<K: Kernel> Worker<K> {
    pub(super) fn on_settled(&mut self, settled: Settled) {
        if settled.durable || settled.written {
            let journal = &self.intake.journal;
            let (mark, synced) = (journal.acknowledgeable(), journal.synced());
            while let Some(run) = self.waiting.pop_before(mark) {
                let status = match run.duplicate {
                    _ if run.ticket.0 >= synced => AckStatus::Written,
                    true => AckStatus::Duplicate,
                    false => AckStatus::Durable,
                };
                self.acknowledge(run, status, 0, 0);
            }
            if let Some(tenants) = &mut self.intake.tenants {
                tenants.on_settled(mark);
            }
            self.intake.counters.journal_appended_records = self.intake.journal.records_appended();
        }
        if let Some(ns) = settled.oldest_ns {
            self.observer.ingest(ns);
        }
        if let Some(ns) = settled.sync_ns {
            self.observer.sync(ns);
            if let Some(tenants) = &mut self.intake.tenants {
                tenants.on_synced(ns);
            }
        }
        if let Some((reason, records)) = settled.lost {
            self.intake.counters.journal_lost_records[reason as usize] += records;
            if let Some(tenants) = &mut self.intake.tenants {
                tenants.on_lost();
            }
            while let Some(run) = self.waiting.pop() {
                let reason = Reason::JournalFailed as u8;
                self.acknowledge(run, AckStatus::TryLater, reason, RETRY_AFTER_FAILURE_MS);
            }
        }
    }

    pub(super) fn acknowledge(
        &mut self,
        run: Waiting,
        status: AckStatus,
        reason: u8,
        retry_after_ms: u32,
    ) {
        let Some(connection) = self.peers.get_mut(run.peer) else {
            return;
        };
        connection.waiting -= u64::from(run.count);
        let ack = Ack {
            status,
            reason,
            producer: run.producer,
            sequence: run.sequence,
            retry_after_ms,
            count: run.count,
        };
        if matches!(connection.phase, Phase::Closing | Phase::Closed) {
            return;
        }
        if connection.acks.push(ack) {
            self.touch(run.peer);
        } else {
            self.close(run.peer, CloseReason::AcksNotRead);
        }
    }

    pub(super) fn on_ack_sent(
        &mut self,
        peer: PeerId,
        mut lease: SendLease,
        result: Result<u32, Errno>,
    ) {
        let connection = self
            .peers
            .get_mut(peer)
            .expect("a peer with a send is not removed");
        let socket = connection.socket;
        match result {
            Ok(sent) if lease.sent + sent < lease.filled && connection.phase != Phase::Closing => {
                lease.sent += sent;
                self.kernel.push(Op::AckSend {
                    peer,
                    socket,
                    lease,
                });
            }
            Ok(_) => {
                connection.sending = false;
                self.kernel.give_back_send(lease);
                self.touch(peer);
            }
            Err(_) => {
                connection.sending = false;
                self.kernel.give_back_send(lease);
                self.close(peer, CloseReason::PeerError);
                self.touch(peer);
            }
        }
    }

    /// Sends what waits and closes what is over.
    pub(super) fn tend_touched(&mut self) {
        let mut touched =
            std::mem::replace(&mut self.touched, std::mem::take(&mut self.touched_spare));
        for peer in touched.drain(..) {
            let Some(connection) = self.peers.get_mut(peer) else {
                continue;
            };
            connection.touched = false;
            if !connection.sending && !connection.acks.is_empty() {
                self.send_acks(peer);
            }
            let Some(connection) = self.peers.get_mut(peer) else {
                continue;
            };
            match connection.phase {
                Phase::Finishing { reason, .. } if connection.is_settled() => {
                    self.linger(peer, reason);
                }
                // It has closed its side too, or can no longer be read.
                Phase::Lingering { reason, .. } if !connection.receiving => {
                    self.close(peer, reason);
                }
                _ => {}
            }
            let Some(connection) = self.peers.get_mut(peer) else {
                continue;
            };
            if connection.phase == Phase::Closing && !connection.receiving && !connection.sending {
                connection.phase = Phase::Closed;
                let socket = connection.socket;
                self.kernel.push(Op::PeerClose { peer, socket });
            }
        }
        self.touched_spare = touched;
    }

    pub(super) fn send_acks(&mut self, peer: PeerId) {
        let Some(mut lease) = self.kernel.take_send_buffer() else {
            // All are in flight: one of their completions brings the next turn.
            return self.touch(peer);
        };
        let connection = self.peers.get_mut(peer).expect("looked up by the caller");
        let acks = &mut self.intake.counters.acks;
        let out = self.kernel.send_bytes_mut(&mut lease);
        let filled = connection.acks.write(out, |ack| {
            acks[ack.status as usize] += u64::from(ack.count);
        });
        lease.filled = filled as u32;
        connection.sending = true;
        let socket = connection.socket;
        self.kernel.push(Op::AckSend {
            peer,
            socket,
            lease,
        });
    }

    /// Puts a connection on the list that `tend_touched` works through at the turn's end.
    pub(super) fn touch(&mut self, peer: PeerId) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        if !std::mem::replace(&mut connection.touched, true) {
            self.touched.push(peer);
        }
    }
}
