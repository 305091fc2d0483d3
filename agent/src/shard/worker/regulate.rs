//! The shard looks at what it has in use, and says what it can bear.
//!
//! It does so itself, and within its turns, not the control thread by a timer: a receive buffer of
//! 16 MiB is full within 6 ms of what one host can send itself, a turn may take as long, and a timer
//! of another thread comes when the scheduler lets it. A look is one short call for each UDP socket
//! (SO_MEMINFO), for each mebibyte of datagrams, and once a millisecond.

use agent_common::keep::Keep;

use super::Worker;
use crate::config::settings::Protocol;
use crate::gate::pressure::{Reading, Regulator, SYNC_SLOW_NS, fraction};
use crate::shard::op::Kernel;
use crate::shard::regulation::Regulation;

/// At 1 GB/s it is a millisecond.
const LOOK_BYTES: usize = 1 << 20;
const LOOK_NS: u64 = 1_000_000;
/// While something is shed and nothing comes, ratios are let go in steps of this.
pub(super) const RELEASE_STEP_NS: u64 = 10_000_000;

/// One shard's part in regulating.
pub(super) struct Regulate {
    pub regulation: Regulation,
    regulator: Regulator,
    keep: Keep,
    /// The same for what waited behind a gate in the kernel: see `keep_of_waiting`.
    waiting_regulator: Regulator,
    waiting_keep: Keep,
    pressure: u32,
    /// Datagrams' bytes since the last look.
    bytes: usize,
    looked_ns: u64,
}

impl Regulate {
    pub fn new(regulation: Regulation, now_ns: u64) -> Self {
        Self {
            regulation,
            regulator: Regulator::new(now_ns),
            keep: Keep::ALL,
            waiting_regulator: Regulator::new(now_ns),
            waiting_keep: Keep::ALL,
            pressure: 0,
            bytes: 0,
            looked_ns: now_ns,
        }
    }

    /// What is kept of the datagrams that a gate in the kernel has passed.
    ///
    /// The gate sheds for the sake of the socket's buffer, before a datagram takes room in it. What
    /// has its room is not shed for that again: behind a stall, or a restart that kept the socket, a
    /// full buffer is work to be done, and no reason to throw it away. What the journal cannot bear
    /// counts as ever, and so does the ceiling: of a bundle that passed for one of its datagrams, the
    /// others are sampled here.
    pub fn keep_of_waiting(&self) -> Keep {
        self.waiting_keep.min(self.regulation.board.ceiling())
    }

    /// Time alone will change what is kept.
    pub fn is_restless(&self) -> bool {
        !self.regulator.is_calm() || !self.waiting_regulator.is_calm()
    }
}

impl<K: Kernel> Worker<K> {
    /// Datagrams came. Within a turn the clock stands still: bytes say when to look.
    pub(super) fn note_datagrams(&mut self, bytes: usize) {
        self.regulate.bytes += bytes;
        if self.regulate.bytes >= LOOK_BYTES {
            self.look_at_pressure();
        }
    }

    /// Once in each turn.
    pub(super) fn regulate(&mut self) {
        let passed_ns = self
            .now
            .monotonic_ns
            .saturating_sub(self.regulate.looked_ns);
        if passed_ns >= LOOK_NS {
            self.look_at_pressure();
        }
    }

    fn look_at_pressure(&mut self) {
        let now = self.now;
        let reading = self.read_pressure();
        let regulate = &mut self.regulate;
        regulate.bytes = 0;
        regulate.looked_ns = now.monotonic_ns;
        let keep = regulate
            .regulator
            .step(reading.pressure(), now.monotonic_ns);
        let waiting = Reading {
            sockets: 0,
            ..reading
        };
        regulate.waiting_keep = regulate
            .waiting_regulator
            .step(waiting.pressure(), now.monotonic_ns);
        let board = &regulate.regulation.board;
        let pressure = regulate.regulator.pressure();
        if regulate.pressure != pressure {
            regulate.pressure = pressure;
            board.tell_pressure(self.plan_shard, pressure);
        }
        if regulate.keep != keep {
            regulate.keep = keep;
            board.tell_keep(self.plan_shard, keep);
        }
    }

    fn read_pressure(&self) -> Reading {
        let udp = self.listeners.iter();
        let udp = udp.filter(|listener| listener.plan.protocol == Protocol::Udp);
        let sockets = udp.map(|listener| {
            let queue = self.kernel.receive_queue(listener.plan.socket);
            match queue.limit {
                // The kernel does not say.
                0 => 0,
                limit => fraction(queue.used, limit),
            }
        });
        let (lag, load) = (
            self.intake.journal.lag(self.now),
            self.intake.journal.load(),
        );
        Reading {
            sockets: sockets.max().unwrap_or(0),
            pool: match self.udp_buffers {
                0 => 0,
                buffers => fraction(self.udp_out as u64, buffers as u64),
            },
            blocks: fraction(lag.blocks as u64, lag.blocks_max as u64),
            sync: fraction(lag.sync_ns, SYNC_SLOW_NS),
            journal: match (self.intake.journal.drops_oldest(), lag.refuses) {
                (true, _) => 0,
                (false, true) => fraction(1, 1),
                (false, false) => fraction(load.undelivered_bytes, load.room_bytes),
            },
        }
    }
}
