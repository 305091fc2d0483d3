//! What changes while the writer writes: the listeners' names, the sinks, some of the plan.

use std::sync::Arc;

use super::Writer;
use crate::journal::feed::{FeedSender, SinkMark};
use crate::limits::LISTENER_NAMES_MAX;
use crate::shard::op::ListenerId;
use crate::shard::orders::Tuning;

impl Writer {
    /// The next listener's name. A segment's header names the listeners that its entries speak of,
    /// so this asks for a segment: the writer turns to it once it is ready, be the one before full
    /// or not.
    pub fn name_listener(&mut self, name: &str) {
        assert!(
            self.listeners.len() < LISTENER_NAMES_MAX,
            "{} names, as many as a header holds",
            self.listeners.len()
        );
        self.listeners.push(name.to_owned());
    }

    /// Whether an entry may speak of the listener. Where no segment takes blocks, the next one has
    /// all names.
    pub fn knows_listener(&self, listener: ListenerId) -> bool {
        let here = self.segments.back();
        here.is_none_or(|segment| usize::from(listener.0) < segment.listeners)
    }

    /// A listener waits for a segment that has its name.
    pub(super) fn lacks_names(&self) -> bool {
        let here = self.segments.back();
        here.is_some_and(|segment| segment.listeners < self.listeners.len())
    }

    /// One sink less, one more, or another in its place: in one step, so that no segment goes which
    /// the new one has not got.
    pub fn change_feed(&mut self, remove: Option<Arc<SinkMark>>, add: Option<FeedSender>) {
        let feeds = &mut self.plan.feeds;
        if let Some(mark) = remove {
            feeds.retain(|feed| !Arc::ptr_eq(&feed.mark, &mark));
        }
        feeds.extend(add);
    }

    /// A segment is on its way out, by what was known when that was decided.
    pub fn is_removing(&self) -> bool {
        self.removing.is_some()
    }

    pub fn tune(&mut self, tuning: Tuning) {
        self.plan.commit_interval = tuning.commit_interval;
        self.plan.commit_size = tuning.commit_size as usize;
        self.plan.sync_interval = tuning.sync_interval;
        self.plan.on_full = tuning.on_full;
    }
}
