//! What became of every record, exactly.

use penstock_proto::reason::Reason;

/// Frames and the records in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub frames: u64,
    pub records: u64,
}

impl Tally {
    pub fn add(&mut self, records: u32) {
        self.frames += 1;
        self.records += u64::from(records);
    }

    pub fn add_all(&mut self, other: Tally) {
        self.frames += other.frames;
        self.records += other.records;
    }
}

/// Refusals by reason; a number that this client does not know is counted apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    by_reason: [Tally; Reason::COUNT],
    pub unknown: Tally,
}

impl Default for Refused {
    fn default() -> Self {
        Self {
            by_reason: [Tally::default(); Reason::COUNT],
            unknown: Tally::default(),
        }
    }
}

impl Refused {
    pub fn add(&mut self, reason: u8, records: u32) {
        match Reason::from_wire(reason) {
            Some(reason) => self.by_reason[reason.index()].add(records),
            None => self.unknown.add(records),
        }
    }

    pub fn of(&self, reason: Reason) -> Tally {
        self.by_reason[reason.index()]
    }

    /// The reasons that occurred, with their labels.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Tally)> + '_ {
        let known = Reason::ALL
            .iter()
            .map(|reason| (reason.label(), self.of(*reason)));
        known
            .chain([("unknown", self.unknown)])
            .filter(|(_, tally)| tally.frames > 0)
    }

    pub fn total(&self) -> Tally {
        self.iter().fold(Tally::default(), |sum, (_, tally)| Tally {
            frames: sum.frames + tally.frames,
            records: sum.records + tally.records,
        })
    }
}

/// A producer's books.
///
/// Records taken + recovered = durable + duplicate + written + refused + dropped (oldest) +
/// unsettled. Records offered = taken + too long + dropped (newest).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Records taken from the program.
    pub records_taken: u64,
    /// Records not taken, as no frame could carry them.
    pub records_too_long: u64,
    /// Records not taken, as there was no room ([`crate::Overflow`]).
    pub records_dropped_newest: u64,
    /// Taken, and dropped before they were settled, to make room for newer ones. Of frames that
    /// were begun on a connection (only with a spool) an agent may have stored some.
    pub dropped_oldest: Tally,
    /// Unsettled frames of an earlier life, found in the spool.
    pub recovered: Tally,
    /// Put on a connection at least once in this life.
    pub sent: Tally,
    /// Put on a connection again.
    pub resent: Tally,
    /// Bytes handed to connections, resends included.
    pub bytes_sent: u64,
    pub durable: Tally,
    /// Durable before; the agent had taken an earlier transmission.
    pub duplicate: Tally,
    /// Written and not synced (an agent with `sync` other than `always`).
    pub written: Tally,
    pub refused: Refused,
    /// "Try later", once per frame and answer.
    pub tried_later_frames: u64,
    /// Not settled: sent or not, nobody said what became of it. The batch that is being filled
    /// counts as one frame.
    pub unsettled: Tally,
    pub connections: u64,
    /// Attempts that opened none.
    pub connects_failed: u64,
    pub connections_lost: u64,
    /// Times that another target was chosen.
    pub failovers: u64,
    /// The agent said that it lost the frames' boundaries.
    pub framing_lost: u64,
    /// Answers that spoke of frames which were not waiting for one.
    pub stray_acks: u64,
}

impl Report {
    /// Records that were taken or recovered and neither acknowledged nor still waiting, and those
    /// never taken: what this producer lost by its agent's word or its own settings.
    pub fn records_lost(&self) -> u64 {
        self.refused.total().records
            + self.records_too_long
            + self.records_dropped_newest
            + self.dropped_oldest.records
    }

    /// On disk at the agent, or in its hands where it was configured not to sync.
    pub fn acknowledged(&self) -> Tally {
        Tally {
            frames: self.durable.frames + self.duplicate.frames + self.written.frames,
            records: self.durable.records + self.duplicate.records + self.written.records,
        }
    }
}
