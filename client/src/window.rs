//! The frames that were begun and are not settled.
//!
//! ```text
//!        base                                    next_sequence
//!         │ in flight │ settled │ deferred │ pending │
//!  settled┴───────────── at most 1,024 ──────────────┴ not begun, not numbered
//! ```
//!
//! The frame at `base` is never settled, and a frame is begun only while it lies less than 1,024
//! above `base`: so nothing is ever sent that lies 1,024 or more above an unsettled frame.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::report::Tally;

/// Frames of one producer that may be outstanding (PROTOCOL.md).
pub const OUTSTANDING_FRAMES_MAX: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// To be sent again as soon as it is its turn.
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
    /// Nobody knows whether an agent has it: it was begun, and no answer said "not taken".
    exposed: bool,
    /// Settled, and an agent has it.
    taken: bool,
}

/// What became of the frames below the window's base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// An agent has them.
    pub acknowledged: Tally,
    /// Refused, or given up.
    pub lost: Tally,
}

/// A frame on its way out.
#[derive(Debug)]
pub struct Outgoing {
    pub bytes: Arc<[u8]>,
    pub records: u32,
    /// It was begun before.
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
    exposed: usize,
    unsettled: Tally,
    passed: Passed,
    bytes: usize,
}

impl Window {
    /// An empty window whose first frame gets `sequence`.
    pub fn starting_at(sequence: u64) -> Self {
        assert!(sequence > 0, "sequences begin at 1");
        Self {
            base: sequence,
            slots: VecDeque::new(),
            pending: BTreeSet::new(),
            deferred: BTreeSet::new(),
            in_flight: 0,
            exposed: 0,
            unsettled: Tally::default(),
            passed: Passed::default(),
            bytes: 0,
        }
    }

    /// Frames between the oldest unsettled one and the newest, settled ones included.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub fn has_room(&self) -> bool {
        self.slots.len() < OUTSTANDING_FRAMES_MAX
    }

    /// Everything below is settled.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The sequence that the next frame gets.
    pub fn next_sequence(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    /// Takes the frame numbered `next_sequence`, which is in flight from here on.
    pub fn begin_new(&mut self, bytes: Vec<u8>, records: u32) -> Outgoing {
        assert!(
            self.has_room(),
            "{} frames are outstanding",
            self.slots.len()
        );
        let bytes: Arc<[u8]> = bytes.into();
        self.bytes += bytes.len();
        self.unsettled.add(records);
        self.in_flight += 1;
        self.exposed += 1;
        self.slots.push_back(Slot {
            bytes: Arc::clone(&bytes),
            records,
            stage: Stage::InFlight,
            exposed: true,
            taken: false,
        });
        self.invariants();
        Outgoing {
            bytes,
            records,
            again: false,
        }
    }

    /// The number `next_sequence` is not used.
    pub fn pass_over(&mut self) {
        assert!(
            self.has_room(),
            "{} frames are outstanding",
            self.slots.len()
        );
        self.slots.push_back(Slot {
            bytes: Arc::from([]),
            records: 0,
            stage: Stage::Settled,
            exposed: false,
            taken: false,
        });
        self.advance();
        self.invariants();
    }

    /// What became of the frames below `base`, those of a number not used left out.
    pub fn passed(&self) -> Passed {
        self.passed
    }

    /// The next frame to send again, which is in flight from here on.
    pub fn begin_again(&mut self) -> Option<Outgoing> {
        let sequence = self.pending.pop_first()?;
        let slot = &mut self.slots[(sequence - self.base) as usize];
        slot.stage = Stage::InFlight;
        self.in_flight += 1;
        if !std::mem::replace(&mut slot.exposed, true) {
            self.exposed += 1;
        }
        let outgoing = Outgoing {
            bytes: Arc::clone(&slot.bytes),
            records: slot.records,
            again: true,
        };
        self.invariants();
        Some(outgoing)
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

    /// Frames that an agent may have taken, or not: nobody knows.
    pub fn exposed(&self) -> usize {
        self.exposed
    }

    pub fn unsettled(&self) -> Tally {
        self.unsettled
    }

    /// The part of the `count` frames ending at `last` that lies in the window.
    pub fn clamp(&self, last: u64, count: u32) -> std::ops::Range<u64> {
        let end = last.saturating_add(1);
        let first = end.saturating_sub(count.into());
        first.max(self.base)..end.min(self.next_sequence())
    }

    /// Settles a frame in flight and returns its records; `None` where it is not in flight. `taken`:
    /// an agent has it.
    pub fn settle(&mut self, sequence: u64, taken: bool) -> Option<u32> {
        self.in_flight_slot(sequence)?.taken = taken;
        self.in_flight -= 1;
        let records = self.settle_slot((sequence - self.base) as usize);
        self.advance();
        self.invariants();
        Some(records)
    }

    /// Settles whatever lies below `first`, answered or not, and returns what was not.
    pub fn give_up_below(&mut self, first: u64) -> Tally {
        let mut given_up = Tally::default();
        let end = first.min(self.next_sequence());
        for sequence in self.base..end {
            let index = (sequence - self.base) as usize;
            match self.slots[index].stage {
                Stage::Settled => continue,
                Stage::InFlight => self.in_flight -= 1,
                Stage::Pending => {
                    self.pending.remove(&sequence);
                }
                Stage::Deferred(until) => {
                    self.deferred.remove(&(until, sequence));
                }
            }
            given_up.add(self.settle_slot(index));
        }
        self.advance();
        if self.slots.is_empty() {
            self.base = self.base.max(first);
        }
        self.invariants();
        given_up
    }

    fn settle_slot(&mut self, index: usize) -> u32 {
        let slot = &mut self.slots[index];
        slot.stage = Stage::Settled;
        if std::mem::take(&mut slot.exposed) {
            self.exposed -= 1;
        }
        let bytes = std::mem::replace(&mut slot.bytes, Arc::from([]));
        self.bytes -= bytes.len();
        self.unsettled.frames -= 1;
        self.unsettled.records -= u64::from(slot.records);
        slot.records
    }

    /// The base passes what is settled.
    fn advance(&mut self) {
        let is_settled = |slot: &Slot| slot.stage == Stage::Settled;
        while self.slots.front().is_some_and(is_settled)
            && let Some(slot) = self.slots.pop_front()
        {
            self.base += 1;
            match slot.taken {
                true => self.passed.acknowledged.add(slot.records),
                false if slot.records > 0 => self.passed.lost.add(slot.records),
                false => {}
            }
        }
    }

    /// The agent did not take a frame in flight: it is sent again at `until`. `false` where it is
    /// not in flight.
    pub fn defer(&mut self, sequence: u64, until: Instant) -> bool {
        let Some(slot) = self.in_flight_slot(sequence) else {
            return false;
        };
        slot.stage = Stage::Deferred(until);
        slot.exposed = false;
        self.exposed -= 1;
        self.in_flight -= 1;
        self.deferred.insert((until, sequence));
        self.invariants();
        true
    }

    /// When the first deferred frame is due.
    pub fn deferred_until(&self) -> Option<Instant> {
        self.deferred.first().map(|(until, _)| *until)
    }

    /// When the last deferred frame is due.
    pub fn deferred_last(&self) -> Option<Instant> {
        self.deferred.last().map(|(until, _)| *until)
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

    /// The agent that asked for it is left: nothing is deferred any more.
    pub fn wake_all(&mut self) {
        if let Some(last) = self.deferred_last() {
            self.wake_deferred(last);
        }
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
        let count =
            |wanted: fn(&Slot) -> bool| self.slots.iter().filter(|slot| wanted(slot)).count();
        assert!(self.slots.len() <= OUTSTANDING_FRAMES_MAX);
        assert!(
            self.slots.front().is_none_or(|s| s.stage != Stage::Settled),
            "the frame at the base is settled"
        );
        assert_eq!(count(|s| s.stage == Stage::Pending), self.pending.len());
        assert_eq!(
            count(|s| matches!(s.stage, Stage::Deferred(_))),
            self.deferred.len()
        );
        assert_eq!(count(|s| s.stage == Stage::InFlight), self.in_flight);
        assert_eq!(count(|s| s.exposed), self.exposed);
        let unsettled = count(|s| s.stage != Stage::Settled);
        assert_eq!(unsettled as u64, self.unsettled.frames);
    }
}
