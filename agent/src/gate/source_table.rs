//! What the stand-in remembers of sources: a table of fixed size, changed by all shards without a
//! lock.
//!
//! ```text
//!  hash of the source ─▶ set of 8 places ─▶ the place with its tag, or for a new one the free or
//!                                           longest unused place
//! ```
//!
//! A source is told apart by 64 bits of a keyed hash: that two of the sources that are remembered
//! share them has a chance of 1 in 8 billion, and nobody outside knows the key. A shard that found
//! a place may change its words while another gives the place away: one bundle is then charged to
//! the wrong source.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use agent_common::layout::SOURCES_MAX;
use agent_common::limit::{SourceState, StateWords};
use agent_common::source::Source;

const WAYS: usize = 8;
const SETS: usize = SOURCES_MAX as usize / WAYS;
const FREE: u64 = 0;
/// A place that is being given away; the hash makes neither of these.
const TAKEN: u64 = 1;

/// The words of one source, or of all newcomers.
#[derive(Default)]
pub struct Words {
    datagrams: AtomicU64,
    bytes: AtomicU64,
    connections: AtomicU64,
    settled: AtomicU64,
}

#[derive(Default)]
struct Place {
    tag: AtomicU64,
    used_ticks: AtomicU64,
    words: Words,
}

/// 3 MiB.
pub struct SourceTable {
    places: Box<[Place]>,
    hasher: RandomState,
}

const _: () = assert!(SETS.is_power_of_two() && size_of::<Place>() == 48);

impl Default for SourceTable {
    fn default() -> Self {
        Self {
            places: (0..SETS * WAYS).map(|_| Place::default()).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl SourceTable {
    /// A source that is remembered; it is now the last that will be forgotten.
    pub fn get(&self, source: &Source, now_ticks: u64) -> Option<&Words> {
        let tag = self.tag(source);
        let mut places = self.set(tag).iter();
        let place = places.find(|place| place.tag.load(Ordering::Acquire) == tag)?;
        place.used_ticks.store(now_ticks, Ordering::Relaxed);
        Some(&place.words)
    }

    /// Gives a new source a place. Where another shard is quicker with that place, the source stays
    /// a newcomer until its next bundle.
    pub fn admit(&self, source: &Source, state: SourceState, now_ticks: u64) {
        let tag = self.tag(source);
        let used = |place: &&Place| match place.tag.load(Ordering::Relaxed) {
            FREE => 0,
            _ => place.used_ticks.load(Ordering::Relaxed) + 1,
        };
        let Some(place) = self.set(tag).iter().min_by_key(used) else {
            return;
        };
        let old = place.tag.load(Ordering::Relaxed);
        let swap = |from, to| {
            let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
            place.tag.compare_exchange(from, to, success, failure)
        };
        if old == TAKEN || swap(old, TAKEN).is_err() {
            return;
        }
        place.used_ticks.store(now_ticks, Ordering::Relaxed);
        place.words.set(&state);
        place.tag.store(tag, Ordering::Release);
    }

    fn set(&self, tag: u64) -> &[Place] {
        let set = tag as usize % SETS;
        &self.places[set * WAYS..][..WAYS]
    }

    fn tag(&self, source: &Source) -> u64 {
        self.hasher.hash_one(source).max(TAKEN + 1)
    }
}

impl Words {
    pub fn state(&self) -> StateWords<&AtomicU64> {
        StateWords {
            datagrams: &self.datagrams,
            bytes: &self.bytes,
            connections: &self.connections,
            settled: &self.settled,
        }
    }

    fn set(&self, state: &SourceState) {
        for (word, value) in [
            (&self.datagrams, state.datagrams),
            (&self.bytes, state.bytes),
            (&self.connections, state.connections),
            (&self.settled, state.settled),
        ] {
            word.store(value, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn source(number: u32) -> Source {
        IpAddr::V4(Ipv4Addr::from(number)).into()
    }

    fn state(datagrams: u64) -> SourceState {
        SourceState {
            datagrams,
            ..SourceState::default()
        }
    }

    #[test]
    fn a_source_finds_its_own_words() {
        let table = SourceTable::default();
        for number in 0..1000 {
            assert!(table.get(&source(number), 1).is_none());
            table.admit(&source(number), state(u64::from(number) + 7), 1);
        }
        for number in 0..1000 {
            let words = table.get(&source(number), 2).unwrap();
            assert_eq!(
                words.datagrams.load(Ordering::Relaxed),
                u64::from(number) + 7
            );
        }
    }

    /// Many more sources than places: one that goes on sending is never the longest unused of its
    /// set, and stays.
    #[test]
    fn who_sends_is_not_forgotten_for_who_does_not() {
        let table = SourceTable::default();
        let faithful = source(u32::MAX);
        table.admit(&faithful, state(42), 0);
        for number in 0..4 * SOURCES_MAX {
            table.admit(&source(number), state(1), u64::from(2 * number));
            let words = table.get(&faithful, u64::from(2 * number + 1));
            let words = words.expect("still there");
            assert_eq!(words.datagrams.load(Ordering::Relaxed), 42);
        }
        let kept = (0..4 * SOURCES_MAX).filter(|n| table.get(&source(*n), 0).is_some());
        let kept = kept.count();
        assert!(
            kept < SOURCES_MAX as usize && kept > SOURCES_MAX as usize / 2,
            "{kept}"
        );
    }
}
