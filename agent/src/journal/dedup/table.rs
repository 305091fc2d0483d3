//! All producers that a shard remembers, within a bound.
//!
//! Slots are reserved once; after that a new producer takes a free one, and where there is none,
//! one that has been idle for longer than the expiry. Only where none has, the new one is told to
//! try later. A connection keeps its producer's slot ([`Known`]), so that a frame costs no look-up.

use std::collections::HashMap;
use std::time::Duration;

use super::window::{Verdict, Window};

/// How often a full table is searched for producers that have expired: strangers with new ids must
/// not make the shard search it for each of them.
const SEARCH_NS: u64 = 1_000_000_000;

/// A producer as recovery finds it, and as a snapshot holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    pub window: Box<Window>,
    /// When its last frame came, nanoseconds since 1970.
    pub seen_unix_ns: u64,
}

/// Where a connection's producer stands in the table: a hint that is checked at each use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    index: Option<u32>,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    New,
    /// Taken before. `behind` is a position: once the journal is durable up to it, so is the
    /// original. It may be a later frame's of the same producer; 0 is long durable.
    Duplicate {
        behind: u64,
    },
    Conflict,
    TooOld,
    /// A producer that is not remembered, and no place for it.
    TooMany,
}

struct Slot {
    producer: u64,
    /// What of this producer was taken last is durable once the journal is up to here.
    behind: u64,
    window: Window,
}

/// The producers of one shard.
pub struct Windows {
    slots: Vec<Slot>,
    /// By slot: when its last frame came. Apart from the slots, so that a search reads 8 bytes of
    /// each producer and not 4 KiB.
    seen_unix_ns: Vec<u64>,
    index: HashMap<u64, u32>,
    free: Vec<u32>,
    producers_max: usize,
    expiry_ns: u64,
    searched_unix_ns: u64,
}

impl Windows {
    /// Reserves all there will ever be.
    pub fn new(producers_max: usize, expiry: Duration) -> Self {
        Self {
            slots: Vec::with_capacity(producers_max),
            seen_unix_ns: Vec::with_capacity(producers_max),
            // Twice: a map grows when more than half of it is what was removed.
            index: HashMap::with_capacity(2 * producers_max),
            free: Vec::with_capacity(producers_max),
            producers_max,
            expiry_ns: u64::try_from(expiry.as_nanos()).unwrap_or(u64::MAX),
            searched_unix_ns: 0,
        }
    }

    /// Takes over what recovery found. Where that is more than there is room for (fewer shards than
    /// before), the longest idle are forgotten; returns how many.
    pub fn restore(
        &mut self,
        found: impl IntoIterator<Item = (u64, Remembered)>,
        now_unix_ns: u64,
    ) -> usize {
        let mut found: Vec<(u64, Remembered)> = found
            .into_iter()
            .filter(|(_, remembered)| !self.is_expired(remembered.seen_unix_ns, now_unix_ns))
            .collect();
        found.sort_unstable_by_key(|(producer, remembered)| {
            (std::cmp::Reverse(remembered.seen_unix_ns), *producer)
        });
        let forgotten = found.len().saturating_sub(self.producers_max);
        found.truncate(self.producers_max);
        for (producer, remembered) in found {
            let index = self.slots.len() as u32;
            self.slots.push(Slot {
                producer,
                behind: 0,
                window: *remembered.window,
            });
            self.seen_unix_ns.push(remembered.seen_unix_ns);
            self.index.insert(producer, index);
        }
        forgotten
    }

    /// Producers that are remembered now.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Judges a frame whose checksums are right. Nothing is remembered yet: see `take`.
    #[inline]
    pub fn judge(
        &mut self,
        known: &mut Known,
        producer: u64,
        sequence: u64,
        crc: u32,
        now_unix_ns: u64,
    ) -> Judgement {
        let Some(at) = self.find(known, producer) else {
            return match self.make_room(now_unix_ns) {
                true => Judgement::New,
                false => Judgement::TooMany,
            };
        };
        let slot = &self.slots[at];
        let judgement = match slot.window.judge(sequence, crc) {
            Verdict::New => Judgement::New,
            Verdict::Duplicate => Judgement::Duplicate {
                behind: slot.behind,
            },
            Verdict::Conflict => Judgement::Conflict,
            Verdict::TooOld => Judgement::TooOld,
        };
        self.seen_unix_ns[at] = now_unix_ns;
        judgement
    }

    /// Remembers a frame that `judge` called new and that is in the journal's memory now: durable
    /// once the journal is up to `behind`.
    #[inline]
    pub fn take(
        &mut self,
        known: &mut Known,
        producer: u64,
        sequence: u64,
        crc: u32,
        behind: u64,
        now_unix_ns: u64,
    ) {
        let at = match self.find(known, producer) {
            Some(at) => at,
            None => {
                let at = self.insert(producer);
                known.index = Some(at as u32);
                at
            }
        };
        let slot = &mut self.slots[at];
        slot.window.take(sequence, crc);
        slot.behind = behind;
        self.seen_unix_ns[at] = now_unix_ns;
    }

    /// A frame was lost with its segment: a retry of it is new.
    pub fn forget(&mut self, producer: u64, sequence: u64) {
        if let Some(at) = self.index.get(&producer) {
            self.slots[*at as usize].window.forget(sequence);
        }
    }

    /// All that is still remembered is durable: what was not has been forgotten.
    pub fn settle_all(&mut self) {
        for slot in &mut self.slots {
            slot.behind = 0;
        }
    }

    /// Lets go of whoever has expired.
    pub fn expire(&mut self, now_unix_ns: u64) {
        self.searched_unix_ns = now_unix_ns;
        for at in 0..self.slots.len() {
            // A free slot has producer 0, which nobody has.
            let producer = self.slots[at].producer;
            if producer != 0 && self.is_expired(self.seen_unix_ns[at], now_unix_ns) {
                self.index.remove(&producer);
                self.slots[at].producer = 0;
                self.free.push(at as u32);
            }
        }
    }

    /// The remembered producers from slot `from` on: slot, producer, window and when it was seen.
    pub fn from_slot(&self, from: usize) -> impl Iterator<Item = (usize, u64, &Window, u64)> + '_ {
        let slots = self.slots.iter().zip(&self.seen_unix_ns).enumerate();
        slots
            .skip(from)
            .filter(|(_, (slot, _))| slot.producer != 0)
            .map(|(at, (slot, seen))| (at, slot.producer, &slot.window, *seen))
    }

    #[inline]
    fn find(&self, known: &mut Known, producer: u64) -> Option<usize> {
        if let Some(index) = known.index
            && self.slots[index as usize].producer == producer
        {
            return Some(index as usize);
        }
        known.index = self.index.get(&producer).copied();
        known.index.map(|index| index as usize)
    }

    fn is_expired(&self, seen_unix_ns: u64, now_unix_ns: u64) -> bool {
        // A clock that was set back makes nobody older.
        now_unix_ns.saturating_sub(seen_unix_ns) > self.expiry_ns
    }

    /// Whether there is a place for one more.
    fn make_room(&mut self, now_unix_ns: u64) -> bool {
        let has_room =
            |table: &Self| table.slots.len() < table.producers_max || !table.free.is_empty();
        let since_search = now_unix_ns.abs_diff(self.searched_unix_ns);
        if !has_room(self) && since_search >= SEARCH_NS {
            self.expire(now_unix_ns);
        }
        has_room(self)
    }

    fn insert(&mut self, producer: u64) -> usize {
        let at = match self.free.pop() {
            Some(at) => {
                let slot = &mut self.slots[at as usize];
                slot.producer = producer;
                slot.behind = 0;
                slot.window = Window::default();
                at as usize
            }
            None => {
                assert!(
                    self.slots.len() < self.producers_max,
                    "{} producers of {}: judge made room",
                    self.slots.len(),
                    self.producers_max
                );
                self.slots.push(Slot {
                    producer,
                    behind: 0,
                    window: Window::default(),
                });
                self.seen_unix_ns.push(0);
                self.slots.len() - 1
            }
        };
        self.index.insert(producer, at as u32);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const START: u64 = 1_795_178_701_000_000_000;
    const SECOND: u64 = 1_000_000_000;

    /// Judges, and takes where that is what the judgement says.
    fn frame(table: &mut Windows, producer: u64, sequence: u64, now: u64) -> Judgement {
        let mut known = Known::default();
        let judgement = table.judge(&mut known, producer, sequence, 5, now);
        if judgement == Judgement::New {
            table.take(&mut known, producer, sequence, 5, 1, now);
        }
        judgement
    }

    #[test]
    fn at_the_bound_a_new_producer_waits_until_one_has_expired() {
        let mut table = Windows::new(2, HOUR);
        assert_eq!(frame(&mut table, 1, 1, START), Judgement::New);
        assert_eq!(frame(&mut table, 2, 1, START + SECOND), Judgement::New);
        assert_eq!(
            frame(&mut table, 3, 1, START + 2 * SECOND),
            Judgement::TooMany
        );
        // Those who are there go on.
        assert_eq!(frame(&mut table, 2, 2, START + 3 * SECOND), Judgement::New);
        let duplicate = Judgement::Duplicate { behind: 1 };
        assert_eq!(frame(&mut table, 1, 1, START + 4 * SECOND), duplicate);
        // An hour and a little after its last frame, the duplicate, the first one is let go.
        let hour = 3_600 * SECOND;
        assert_eq!(
            frame(&mut table, 3, 1, START + 4 * SECOND + hour),
            Judgement::New,
            "producer 2 was last seen an hour and a second ago"
        );
        assert_eq!(
            frame(&mut table, 1, 1, START + 4 * SECOND + hour),
            duplicate
        );
        assert_eq!(
            frame(&mut table, 2, 2, START + 5 * SECOND + hour),
            Judgement::TooMany
        );
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_connections_hint_does_not_outlive_its_producer() {
        let mut table = Windows::new(1, HOUR);
        let mut first = Known::default();
        assert_eq!(table.judge(&mut first, 1, 1, 5, START), Judgement::New);
        table.take(&mut first, 1, 1, 5, 1, START);
        let later = START + 2 * 3_600 * SECOND;
        assert_eq!(frame(&mut table, 2, 9, later), Judgement::New);
        // The slot is another's now: sequence 9 is not the first one's.
        assert_eq!(table.judge(&mut first, 1, 9, 5, later), Judgement::TooMany);
    }

    #[test]
    fn what_was_lost_is_new_again_and_the_rest_is_durable() {
        let mut table = Windows::new(4, HOUR);
        frame(&mut table, 1, 1, START);
        frame(&mut table, 1, 2, START);
        table.forget(1, 2);
        table.forget(8, 2);
        table.settle_all();
        assert_eq!(
            frame(&mut table, 1, 1, START),
            Judgement::Duplicate { behind: 0 }
        );
        assert_eq!(frame(&mut table, 1, 2, START), Judgement::New);
    }

    #[test]
    fn a_producer_costs_what_the_limits_say() {
        // The slot, its time, its place in `free`, and two places of an id, an index and the map's
        // own byte in the index.
        let bytes = size_of::<Slot>() + 8 + 4 + 2 * (16 + 1);
        assert!(bytes <= crate::limits::PRODUCER_MEMORY, "{bytes} bytes");
    }

    #[test]
    fn nothing_grows_however_many_come_and_go() {
        let mut table = Windows::new(8, Duration::from_secs(1));
        let capacities = |table: &Windows| {
            (
                table.slots.capacity(),
                table.index.capacity(),
                table.free.capacity(),
                table.seen_unix_ns.capacity(),
            )
        };
        let before = capacities(&table);
        for producer in 1..2_000 {
            let now = START + producer * SECOND;
            assert_eq!(frame(&mut table, producer, 1, now), Judgement::New);
        }
        assert_eq!(capacities(&table), before);
        assert!(table.len() <= 8);
    }

    #[test]
    fn what_recovery_finds_beyond_the_bound_is_forgotten_by_age() {
        let remembered = |seconds: u64| {
            let mut window = Window::default();
            window.take(3, 5);
            Remembered {
                window: Box::new(window),
                seen_unix_ns: START + seconds * SECOND,
            }
        };
        let mut table = Windows::new(2, HOUR);
        let found = [(1, remembered(9)), (2, remembered(5)), (3, remembered(7))];
        assert_eq!(table.restore(found, START + 10 * SECOND), 1);
        let duplicate = Judgement::Duplicate { behind: 0 };
        assert_eq!(frame(&mut table, 1, 3, START + 11 * SECOND), duplicate);
        assert_eq!(frame(&mut table, 3, 3, START + 11 * SECOND), duplicate);
        assert_eq!(
            frame(&mut table, 2, 3, START + 11 * SECOND),
            Judgement::TooMany
        );

        let mut table = Windows::new(2, HOUR);
        let old = [(1, remembered(0)), (2, remembered(2))];
        assert_eq!(
            table.restore(old, START + 3_601 * SECOND),
            0,
            "expired, not crowded out"
        );
        assert_eq!(table.len(), 1);
    }
}
