//! A connection goes.

use super::Worker;
use super::stop::Life;
use crate::shard::counters::CloseReason;
use crate::shard::op::{Kernel, Op, PeerId};
use crate::shard::peer::{Connection, Phase};

/// How long a peer that sends no more may take to read its acknowledgements: many times what a slow
/// disk needs for a sync. Without it, one that reads nothing would keep its slot for ever.
const FINISH_NS: u64 = 30_000_000_000;
/// How long a peer may take to close after it was told the stream's end: a round trip and its own
/// turn. One that goes on sending for longer is reset.
const LINGER_NS: u64 = 1_000_000_000;
/// How often connections are looked at for that.
const SWEEP_NS: u64 = 1_000_000_000;

/// Ends what is in the kernel of a connection's receiving side.
fn receive_cancel(connection: &Connection, peer: PeerId) -> Op {
    match connection.peeking {
        true => Op::PeekCancel { peer },
        false => Op::ReceiveCancel { peer },
    }
}

impl<K: Kernel> Worker<K> {
    /// Takes nothing more; closes once what is in the journal is acknowledged. What still comes is
    /// read and thrown away.
    pub(super) fn finish(&mut self, peer: PeerId, reason: CloseReason) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        if connection.phase != Phase::Streaming {
            return;
        }
        let since_ns = self.now.monotonic_ns;
        connection.phase = Phase::Finishing { reason, since_ns };
        self.touch(peer);
    }

    /// Everything was said to a peer that is finishing: it is told so, and waited for. Without a
    /// receive in the kernel there is nothing to wait with: it has closed, or buffers ran out.
    pub(super) fn linger(&mut self, peer: PeerId, reason: CloseReason) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        let socket = connection.socket;
        self.kernel.push(Op::PeerEnd { peer, socket });
        if !connection.receiving {
            return self.close(peer, reason);
        }
        let since_ns = self.now.monotonic_ns;
        connection.phase = Phase::Lingering { reason, since_ns };
        let counts = &mut self.intake.counters.listeners[usize::from(connection.listener.0)];
        counts.connections_closed[reason as usize] += 1;
    }

    /// Closes as soon as nothing of it is in the kernel.
    pub(super) fn close(&mut self, peer: PeerId, reason: CloseReason) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        if matches!(connection.phase, Phase::Closing | Phase::Closed) {
            return;
        }
        if connection.receiving {
            let cancel = receive_cancel(connection, peer);
            self.kernel.push(cancel);
        }
        if connection.sending {
            // A peer that reads nothing would keep its send, and with it the slot, for ever.
            let socket = connection.socket;
            self.kernel.push(Op::PeerShutdown { peer, socket });
        }
        let counts = &mut self.intake.counters.listeners[usize::from(connection.listener.0)];
        if !matches!(connection.phase, Phase::Lingering { .. }) {
            counts.connections_closed[reason as usize] += 1;
        }
        connection.phase = Phase::Closing;
        connection.acks.clear();
        self.touch(peer);
    }

    /// Closes connections that have been finishing for too long.
    pub(super) fn sweep(&mut self) {
        let now_ns = self.now.monotonic_ns;
        // A stop waits for them: then they are looked at in each turn.
        if now_ns < self.next_sweep_ns && self.life == Life::Running {
            return;
        }
        self.next_sweep_ns = now_ns + SWEEP_NS;
        if let Some(tenants) = &mut self.intake.tenants {
            tenants.sweep(self.intake.journal.load().delivered, now_ns);
        }
        for slot in 0..self.peers.slots() {
            let Some(peer) = self.peers.at(slot) else {
                continue;
            };
            let phase = self.peers.get_mut(peer).map(|connection| connection.phase);
            let late = |since_ns, limit| now_ns.saturating_sub(since_ns) >= limit;
            match phase {
                Some(Phase::Finishing { since_ns, .. }) if late(since_ns, FINISH_NS) => {
                    self.close(peer, CloseReason::AcksNotRead);
                }
                Some(Phase::Lingering { since_ns, reason }) if late(since_ns, LINGER_NS) => {
                    self.close(peer, reason);
                }
                _ => {}
            }
        }
    }

    pub(super) fn on_peer_closed(&mut self, peer: PeerId) {
        if usize::from(peer.slot) == usize::from(u16::MAX) {
            return;
        }
        let connection = self.peers.remove(peer);
        self.carry_bytes -= connection.reader.carry_capacity();
        if let (Some(tenants), Some(slot)) = (&mut self.intake.tenants, connection.tenant) {
            tenants.detach(slot);
        }
        self.intake.counters.listeners[usize::from(connection.listener.0)].connections -= 1;
    }
}
