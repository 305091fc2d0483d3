//! After a clean stop: nothing is left over, and the counts that an agent must have come to.

use std::collections::BTreeMap;

use penstock::shard::op::Op;

use super::super::book::Tally;
use super::world::World;

impl World {
    /// Nothing of a port is on loan, in flight or open.
    pub fn check_at_rest(&self, at: usize) {
        let port = &self.ports[at];
        for (pool, name) in [(&port.tcp, "tcp"), (&port.udp, "udp")] {
            assert_eq!(
                pool.free(),
                pool.count(),
                "{name} buffers that were never given back"
            );
        }
        // Closing and removing what was given up may be left to the exit; nothing else.
        let tidying = |op: &Op| matches!(op, Op::SegmentClose { .. } | Op::SegmentRemove { .. });
        assert!(
            port.pushed.iter().all(tidying),
            "never submitted: {:?}",
            port.pushed
        );
        assert!(port.writing.is_empty(), "a stop with a write in flight");
        assert!(port.syncing.is_empty(), "a stop with a sync in flight");
        let open: Vec<_> = self
            .sockets
            .values()
            .filter(|&&id| self.conns[id].port == Some(at))
            .map(|&id| (id, self.conns[id].peer))
            .collect();
        assert!(open.is_empty(), "a stop with open connections: {open:?}");
        for (listener, backlog) in port.backlogs() {
            assert!(
                !backlog.multishot,
                "a stop with listener {listener} accepting"
            );
        }
        for (listener, socket) in port.datagrams() {
            assert!(
                !socket.multishot,
                "a stop with listener {listener} receiving"
            );
        }
    }

    /// What each listener of an agent must have counted, all shards together, once it has stopped.
    pub fn tallies(&self, agent: usize) -> BTreeMap<u16, Tally> {
        let mut tallies: BTreeMap<u16, Tally> = BTreeMap::new();
        for port in self.ports.iter().filter(|port| port.agent == agent) {
            for (&listener, tally) in &port.tallies {
                tallies.entry(listener).or_default().add(tally);
            }
        }
        for conn in &self.conns {
            if conn.agent != agent || conn.dead {
                continue;
            }
            let tally = tallies.get_mut(&conn.listener).expect("a listener");
            let unsure = conn.send_failed || conn.ended || self.producers[conn.producer].is_deaf();
            let arrivals = if unsure {
                &mut tally.perhaps
            } else {
                &mut tally.certain
            };
            arrivals.add(&conn.arrivals);
            tally.perhaps.add(&conn.arrivals_late);
        }
        tallies
    }

    /// Whoever could be answered was.
    pub fn check_answered(&self, agent: usize) {
        for conn in &self.conns {
            if conn.agent != agent
                || conn.dead
                || conn.reset
                // What came when the agent had begun to end it is thrown away, unanswered.
                || conn.ended
                || conn.send_failed
                || self.producers[conn.producer].is_deaf()
            {
                continue;
            }
            for (key, numbers) in &conn.waiting {
                assert!(
                    numbers.iter().all(|&(_, owed)| !owed),
                    "frame {key:?} was never answered, though its connection could be"
                );
            }
        }
    }

    /// Journal writes in flight.
    pub fn writes_in_flight(&self) -> usize {
        self.ports.iter().map(|port| port.writing.len()).sum()
    }

    pub fn syncs_in_flight(&self) -> usize {
        self.ports.iter().map(|port| port.syncing.len()).sum()
    }

    /// Syncs that came to an end, good or bad.
    pub fn syncs_done(&self) -> u64 {
        self.syncs
    }

    /// Blocks written as a whole or not, so far (header pages do not count).
    pub fn writes_begun(&self) -> u64 {
        self.writes
    }
}
