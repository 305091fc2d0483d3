//! A tenant has what it may have: its connection is not read until it may have more, so that what its
//! producer sends stays with the kernel and then with the producer. What was read already is answered
//! "try later" with the same time: a producer that comes then finds room, and one that comes late by
//! what clients add at random has lost none of its rate, as a bucket goes on filling meanwhile.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Worker;
use crate::shard::op::{Kernel, Op, PeerId};
use crate::shard::peer::Phase;

/// Connections by the end of their waits. A connection is in it once at most, and those that were
/// closed meanwhile leave it when their time comes.
pub(super) struct Throttled {
    ends: BinaryHeap<Reverse<(u64, PeerId)>>,
    connections_max: usize,
}

impl Throttled {
    pub fn new(connections_max: usize) -> Self {
        Self {
            ends: BinaryHeap::with_capacity(2 * connections_max),
            connections_max,
        }
    }

    pub fn next_ns(&self) -> Option<u64> {
        self.ends.peek().map(|Reverse((end_ns, _))| *end_ns)
    }
}

impl<K: Kernel> Worker<K> {
    pub(super) fn throttle(&mut self, peer: PeerId, ns: u64) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        if connection.phase != Phase::Streaming || connection.throttled_until_ns > 0 {
            return;
        }
        connection.throttled_until_ns = self.now.monotonic_ns + ns;
        if connection.receiving {
            self.kernel.push(Op::ReceiveCancel { peer });
        }
        let end_ns = connection.throttled_until_ns;
        if self.throttled.ends.len() >= 2 * self.throttled.connections_max {
            let peers = &mut self.peers;
            let is_there =
                |Reverse((_, peer)): &Reverse<(u64, PeerId)>| peers.get_mut(*peer).is_some();
            self.throttled.ends.retain(is_there);
        }
        self.throttled.ends.push(Reverse((end_ns, peer)));
    }

    /// Reads again from those whose wait is over.
    pub(super) fn end_throttles(&mut self) {
        while self
            .throttled
            .next_ns()
            .is_some_and(|end_ns| end_ns <= self.now.monotonic_ns)
        {
            let Some(Reverse((_, peer))) = self.throttled.ends.pop() else {
                return;
            };
            if let Some(connection) = self.peers.get_mut(peer) {
                connection.throttled_until_ns = 0;
            }
            // Where the cancellation is still on its way, its completion does this.
            self.receive(peer);
        }
    }
}
