//! A connection goes.

use super::Worker;
use crate::shard::counters::CloseReason;
use crate::shard::op::{Kernel, Op, PeerId};
use crate::shard::peer::Phase;

impl<K: Kernel> Worker<K> {
    /// Reads nothing more; closes once what is in the journal is acknowledged.
    pub(super) fn finish(&mut self, peer: PeerId, reason: CloseReason) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        if connection.phase != Phase::Streaming {
            return;
        }
        connection.phase = Phase::Finishing(reason);
        if connection.receiving {
            self.kernel.push(Op::ReceiveCancel { peer });
        }
        self.touch(peer);
    }

    /// Closes as soon as nothing of it is in the kernel.
    pub(super) fn close(&mut self, peer: PeerId, reason: CloseReason) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        if matches!(connection.phase, Phase::Closing | Phase::Closed) {
            return;
        }
        if connection.receiving && connection.phase == Phase::Streaming {
            self.kernel.push(Op::ReceiveCancel { peer });
        }
        if connection.sending {
            // A peer that reads nothing would keep its send, and with it the slot, for ever.
            let socket = connection.socket;
            self.kernel.push(Op::PeerShutdown { peer, socket });
        }
        connection.phase = Phase::Closing;
        connection.acks.clear();
        let counts = &mut self.intake.counters.listeners[usize::from(connection.listener.0)];
        counts.connections_closed[reason as usize] += 1;
        self.touch(peer);
    }

    pub(super) fn on_peer_closed(&mut self, peer: PeerId) {
        if usize::from(peer.slot) == usize::from(u16::MAX) {
            return;
        }
        let connection = self.peers.remove(peer);
        self.carry_bytes -= connection.reader.carry_capacity();
        self.intake.counters.listeners[usize::from(connection.listener.0)].connections -= 1;
    }
}
