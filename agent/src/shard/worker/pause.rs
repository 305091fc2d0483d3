//! The journal takes nothing: connections are not read, so that what their producers send stays with
//! them, in the kernel's buffers and then in their own.
//!
//! A connection whose bytes came while the journal refused has been told "try later" for each whole
//! frame of them; then its receive is cancelled. What arrives before the cancellation does is
//! answered as well, and a frame's beginning is kept. The pause ends when the journal takes frames
//! again, or after as long as producers are asked to wait: so that one that sends again is answered,
//! and one that has gone gives its slot back.

use super::Worker;
use super::acknowledge::RETRY_AFTER_BACKPRESSURE_MS;
use crate::journal::writer::Room;
use crate::shard::op::{Kernel, Op, PeerId};
use crate::shard::peer::Phase;

const PAUSE_NS: u64 = RETRY_AFTER_BACKPRESSURE_MS as u64 * 1_000_000;

impl<K: Kernel> Worker<K> {
    pub(super) fn pause(&mut self, peer: PeerId) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        if connection.phase != Phase::Streaming || connection.paused_until_ns > 0 {
            return;
        }
        connection.paused_until_ns = self.now.monotonic_ns + PAUSE_NS;
        if connection.receiving {
            self.kernel.push(Op::ReceiveCancel { peer });
        }
        // Those that were closed meanwhile stand in the list until their time.
        if self.paused.len() >= usize::from(self.peers.slots()) {
            let peers = &mut self.peers;
            self.paused.retain(|peer| peers.get_mut(*peer).is_some());
        }
        self.paused.push_back(peer);
    }

    /// Reads again from those whose pause is over.
    pub(super) fn end_pauses(&mut self) {
        if self.paused.is_empty() {
            return;
        }
        let refuses = matches!(self.intake.journal.room(), Room::Refused(_));
        while let Some(&peer) = self.paused.front() {
            if let Some(connection) = self.peers.get_mut(peer) {
                if refuses && self.now.monotonic_ns < connection.paused_until_ns {
                    break;
                }
                connection.paused_until_ns = 0;
            }
            self.paused.pop_front();
            // Where the cancellation is still on its way, its completion does this.
            self.receive(peer);
        }
    }
}
