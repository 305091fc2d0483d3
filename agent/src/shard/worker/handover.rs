//! A connection goes to the shard that owns its producer, or comes from the one that accepted it.

use super::Worker;
use crate::shard::counters::CloseReason;
use crate::shard::handover::{Handed, Refused};
use crate::shard::op::{Errno, Kernel, Op, Peeked, PeerId};
use crate::shard::peer::{Connection, Phase};

impl<K: Kernel> Worker<K> {
    /// Looks at a new connection's first frame before anything of it is taken.
    pub(super) fn peek(&mut self, peer: PeerId) {
        let connection = self.peers.get_mut(peer).expect("it was just admitted");
        connection.receiving = true;
        connection.peeking = true;
        let socket = connection.socket;
        self.kernel.push(Op::PeerPeek { peer, socket });
    }

    pub(super) fn on_peer_peeked(&mut self, peer: PeerId, result: Result<Peeked, Errno>) {
        let connection = self
            .peers
            .get_mut(peer)
            .expect("a peer with a peek is not removed");
        connection.receiving = false;
        connection.peeking = false;
        match connection.phase {
            Phase::Streaming => {}
            // It has closed, or has begun to send what nobody takes any more.
            Phase::Lingering { reason, .. } => return self.close(peer, reason),
            // It waits for this to be closed.
            _ => return self.touch(peer),
        }
        // Nothing is taken unseen: it might be another shard's.
        let Ok(peeked) = result else {
            return self.close(peer, CloseReason::PeerError);
        };
        let handover = self.handover.as_ref().expect("who peeks may hand over");
        match handover.owner_elsewhere(peeked.bytes()) {
            Some(owner) => self.hand_over(peer, owner),
            // Ours, nobody's, or no frame at all: the receive says what it is.
            None => self.receive(peer),
        }
    }

    /// Nothing of the connection is in the kernel, and nothing of it is taken: the socket is all.
    fn hand_over(&mut self, peer: PeerId, owner: u16) {
        let connection = self.peers.remove(peer);
        let listener = connection.listener;
        self.intake.counters.listeners[usize::from(listener.0)].connections -= 1;
        let handed = Handed {
            socket: connection.socket,
            listener,
            address: connection.address,
            place: connection.place,
        };
        let handover = self.handover.as_ref().expect("there is another shard");
        let posted = handover.mailboxes[usize::from(owner)].post(handed);
        if let Err((handed, refused)) = posted {
            let reason = match refused {
                Refused::Full => CloseReason::HandoverFull,
                Refused::Closed => CloseReason::Stopping,
            };
            self.turn_away(handed.socket, listener, reason);
        }
    }

    /// Takes over what others have accepted.
    pub(super) fn take_mail(&mut self) {
        while let Some(handed) = self.handover.as_ref().and_then(|all| all.own().take()) {
            self.take_over(handed);
        }
    }

    /// At a stop: what waits is closed, and what comes later its sender closes.
    pub(super) fn close_mailbox(&mut self) {
        let Some(handover) = &self.handover else {
            return;
        };
        for handed in handover.own().close() {
            self.take_over(handed);
        }
    }

    fn take_over(&mut self, handed: Handed) {
        let Handed {
            socket,
            listener,
            address,
            place,
        } = handed;
        let connection = Connection {
            place,
            ..Connection::new(socket, listener, address)
        };
        if let Some(peer) = self.admit(connection) {
            self.receive(peer);
        }
    }
}
