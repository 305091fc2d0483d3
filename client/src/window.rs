//! The frames that are not settled, and which of them may be sent.
//!
//! ```text
//!        base                                   next_sequence
//!         │ in flight │ settled │ deferred │ pending │
//!  settled┴──────────────── at most 1,024 ───────────┴ not numbered yet
//! ```
//!
//! The frame at `base` is never settled, and a frame is numbered only while it lies less than
//! 1,024 above `base`: so nothing is ever sent that lies 1,024 or more above an unsettled frame.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// Frames of one producer that may be outstanding (PROTOCOL.md).
pub const OUTSTANDING_FRAMES_MAX: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// To be sent as soon as it is its turn.
    Pending,
    /// The agent asked to try it later.
    Deferred(Instant),
    /// Begun on the connection that is open.
    InFlight,
    Settled,
}

#[derive(Debug)]
struct Slot {
    bytes: Arc<[u8]>,
    records: u32,
    stage: Stage,
    sent_before: bool,
}

/// A frame on its way out.
#[derive(Debug)]
pub struct Outgoing {
    pub bytes: Arc<[u8]>,
    pub records: u32,
    /// It was begun on an earlier connection, or the agent asked for it again.
    pub again: bool,
}

#[derive(Debug)]
pub struct Window {
    base: u64,
    slots: VecDeque<Slot>,
    /// By sequence: resends go out in order.
    pending: BTreeSet<u64>,
    deferred: BTreeSet<(Instant, u64)>,
    in_flight: usize,
    unsettled: usize,
    unsettled_records: u64,
    bytes: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            base: 1,
            slots: VecDeque::new(),
            pending: BTreeSet::new(),
            deferred: BTreeSet::new(),
            in_flight: 0,
            unsettled: 0,
            unsettled_records: 0,
            bytes: 0,
        }
    }
}

impl Window {
    pub fn has_room(&self) -> bool {
        self.slots.len() < OUTSTANDING_FRAMES_MAX
    }

    /// The sequence that the next frame gets.
    pub fn next_sequence(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    /// Takes the frame numbered `next_sequence`.
    pub fn append(&mut self, bytes: Vec<u8>, records: u32) {
        assert!(
            self.has_room(),
            "{} frames are outstanding",
            self.slots.len()
        );
        self.pending.insert(self.next_sequence());
        self.bytes += bytes.len();
        self.unsettled += 1;
        self.unsettled_records += u64::from(records);
        self.slots.push_back(Slot {
            bytes: bytes.into(),
            records,
            stage: Stage::Pending,
            sent_before: false,
        });
        self.invariants();
    }

    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Bytes of unsettled frames.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub fn unsettled(&self) -> usize {
        self.unsettled
    }

    pub fn unsettled_records(&self) -> u64 {
        self.unsettled_records
    }

    /// The next frame to send, which is in flight from here on.
    pub fn begin_next(&mut self) -> Option<Outgoing> {
        let sequence = self.pending.pop_first()?;
        let slot = &mut self.slots[(sequence - self.base) as usize];
        slot.stage = Stage::InFlight;
        self.in_flight += 1;
        let outgoing = Outgoing {
            bytes: Arc::clone(&slot.bytes),
            records: slot.records,
            again: std::mem::replace(&mut slot.sent_before, true),
        };
        self.invariants();
        Some(outgoing)
    }

    /// The part of the `count` frames ending at `last` that lies in the window.
    pub fn clamp(&self, last: u64, count: u32) -> std::ops::Range<u64> {
        let end = last.saturating_add(1);
        let first = end.saturating_sub(count.into());
        first.max(self.base)..end.min(self.next_sequence())
    }

    /// Settles a frame in flight and returns its records; `None` where it is not in flight.
    pub fn settle(&mut self, sequence: u64) -> Option<u32> {
        let slot = self.in_flight_slot(sequence)?;
        slot.stage = Stage::Settled;
        let records = slot.records;
        let bytes = std::mem::replace(&mut slot.bytes, Arc::from([]));
        self.bytes -= bytes.len();
        self.in_flight -= 1;
        self.unsettled -= 1;
        self.unsettled_records -= u64::from(records);
        while self
            .slots
            .front()
            .is_some_and(|s| s.stage == Stage::Settled)
        {
            self.slots.pop_front();
            self.base += 1;
        }
        self.invariants();
        Some(records)
    }

    /// Sends a frame in flight again at `until`; `false` where it is not in flight.
    pub fn defer(&mut self, sequence: u64, until: Instant) -> bool {
        let Some(slot) = self.in_flight_slot(sequence) else {
            return false;
        };
        slot.stage = Stage::Deferred(until);
        self.deferred.insert((until, sequence));
        self.in_flight -= 1;
        self.invariants();
        true
    }

    /// When the first deferred frame is due.
    pub fn deferred_until(&self) -> Option<Instant> {
        self.deferred.first().map(|(until, _)| *until)
    }

    /// Deferred frames whose time has come wait to be sent.
    pub fn wake_deferred(&mut self, now: Instant) {
        while let Some(&(until, sequence)) = self.deferred.first()
            && until <= now
        {
            self.deferred.pop_first();
            self.slots[(sequence - self.base) as usize].stage = Stage::Pending;
            self.pending.insert(sequence);
        }
        self.invariants();
    }

    /// The connection is gone: whatever was in flight is to be sent again. What was deferred stays
    /// so: the agent's wish does not end with the connection.
    pub fn on_disconnected(&mut self) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.stage == Stage::InFlight {
                slot.stage = Stage::Pending;
                self.pending.insert(self.base + index as u64);
            }
        }
        self.in_flight = 0;
        self.invariants();
    }

    fn in_flight_slot(&mut self, sequence: u64) -> Option<&mut Slot> {
        let index = usize::try_from(sequence.checked_sub(self.base)?).ok()?;
        let slot = self.slots.get_mut(index)?;
        (slot.stage == Stage::InFlight).then_some(slot)
    }

    /// The books agree with the slots; looked at after each change in debug builds.
    fn invariants(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        let count = |wanted: fn(&Stage) -> bool| {
            self.slots.iter().filter(|slot| wanted(&slot.stage)).count()
        };
        assert!(self.slots.len() <= OUTSTANDING_FRAMES_MAX);
        assert!(
            self.slots.front().is_none_or(|s| s.stage != Stage::Settled),
            "the frame at the base is settled"
        );
        assert_eq!(count(|s| *s == Stage::Pending), self.pending.len());
        assert_eq!(
            count(|s| matches!(s, Stage::Deferred(_))),
            self.deferred.len()
        );
        assert_eq!(count(|s| *s == Stage::InFlight), self.in_flight);
        assert_eq!(count(|s| *s != Stage::Settled), self.unsettled);
    }
}
