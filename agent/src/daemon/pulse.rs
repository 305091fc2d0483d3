//! The heartbeat of a shard: a number that rises by one with each of its turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::shard::counters::ShardCounters;
use crate::shard::op::ListenerId;
use crate::shard::worker::{ListenerPlan, Observe};

/// A shard's turns so far, as other threads see them.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    pub fn turns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// An observer that counts a turn for each time it is told the counts, and passes all on.
    pub fn taken_from(&self, observer: impl Observe + Send + 'static) -> Box<dyn Observe + Send> {
        Box::new(Beating {
            pulse: self.clone(),
            observer,
        })
    }
}

struct Beating<O> {
    pulse: Pulse,
    observer: O,
}

impl<O: Observe> Observe for Beating<O> {
    fn publish(&mut self, counters: &ShardCounters) {
        // Only this thread writes it: no read-modify-write is needed.
        let turns = self.pulse.0.load(Ordering::Relaxed);
        self.pulse.0.store(turns + 1, Ordering::Relaxed);
        self.observer.publish(counters);
    }

    fn listen(&mut self, listener: ListenerId, plan: &ListenerPlan) {
        self.observer.listen(listener, plan);
    }

    fn sync(&mut self, ns: u64) {
        self.observer.sync(ns);
    }

    fn ingest(&mut self, ns: u64) {
        self.observer.ingest(ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_counted_for_each_publication_and_nothing_else() {
        let pulse = Pulse::default();
        let mut observer = pulse.taken_from(());
        assert_eq!(pulse.turns(), 0);
        observer.sync(1);
        observer.ingest(1);
        assert_eq!(pulse.turns(), 0);
        observer.publish(&ShardCounters::default());
        observer.publish(&ShardCounters::default());
        assert_eq!(pulse.turns(), 2);
    }
}
