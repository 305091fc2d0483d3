//! Virtual time: it stands still while code runs and jumps to the next thing that happens.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use penstock::shard::op::Now;

/// When every simulated run begins: 2025-06-15T15:06:40Z.
pub const START_UNIX_NS: u64 = 1_750_000_000_000_000_000;
/// The monotonic clock begins elsewhere than at 0, so that nobody takes 0 for "now".
const START_MONOTONIC_NS: u64 = 1_000_000_000;

/// What will happen, in the order of its time; at the same time, in the order it was entered.
pub struct Agenda<E> {
    now_ns: u64,
    entered: u64,
    times: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, E>,
}

impl<E> Default for Agenda<E> {
    fn default() -> Self {
        Self {
            now_ns: 0,
            entered: 0,
            times: BinaryHeap::new(),
            events: BTreeMap::new(),
        }
    }
}

impl<E> Agenda<E> {
    /// Nanoseconds since the run began.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// The two clocks that a worker reads.
    pub fn now(&self) -> Now {
        Now {
            monotonic_ns: START_MONOTONIC_NS + self.now_ns,
            unix_ns: START_UNIX_NS + self.now_ns,
        }
    }

    pub fn after(&mut self, delay_ns: u64, event: E) {
        self.times
            .push(Reverse((self.now_ns + delay_ns, self.entered)));
        self.events.insert(self.entered, event);
        self.entered += 1;
    }

    /// When the next event is due.
    pub fn next_ns(&self) -> Option<u64> {
        self.times.peek().map(|Reverse((at, _))| *at)
    }

    /// Moves on to the next event, if one is due at `until_ns` or before.
    pub fn pop(&mut self, until_ns: u64) -> Option<E> {
        let Reverse((at, entered)) = *self.times.peek()?;
        if at > until_ns {
            return None;
        }
        self.times.pop();
        self.now_ns = self.now_ns.max(at);
        self.events.remove(&entered)
    }

    /// Lets time pass; events in between stay due.
    pub fn advance_to(&mut self, at_ns: u64) {
        self.now_ns = self.now_ns.max(at_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_then_by_entry() {
        let mut agenda = Agenda::default();
        agenda.after(20, 'c');
        agenda.after(10, 'a');
        agenda.after(10, 'b');
        assert_eq!(agenda.next_ns(), Some(10));
        assert_eq!(agenda.pop(9), None);
        assert_eq!(agenda.now_ns(), 0);
        assert_eq!((agenda.pop(99), agenda.now_ns()), (Some('a'), 10));
        assert_eq!(agenda.pop(99), Some('b'));
        agenda.advance_to(50);
        assert_eq!((agenda.pop(99), agenda.now_ns()), (Some('c'), 50));
        assert_eq!(agenda.pop(99), None);
    }
}
