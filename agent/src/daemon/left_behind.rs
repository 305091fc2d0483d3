//! The journals of shards that are gone.

use std::sync::Arc;

use crate::daemon::sinks::Sinks;
use crate::exit::Failure;
use crate::journal::dedup::StartBarrier;
use crate::journal::feed::{JournalMarks, SinkMark};
use crate::journal::format::SEGMENT_HEADER_LEN;
use crate::journal::writer::{ExistingSegment, JournalStart};

/// The journal of a shard that an earlier, larger configuration had: it is delivered and gets no
/// more.
pub struct LeftBehind {
    pub shard: u16,
    pub start: JournalStart,
    barrier: Option<Arc<StartBarrier>>,
    /// Nothing is left of it but what `retire` leaves.
    is_retired: bool,
}

impl LeftBehind {
    pub fn deliver(
        shard: u16,
        start: JournalStart,
        barrier: Option<Arc<StartBarrier>>,
        sinks: &mut Sinks,
    ) -> Result<Self, Failure> {
        let is_page = |segment: &ExistingSegment| segment.bytes == SEGMENT_HEADER_LEN as u64;
        let is_retired = start.existing.iter().all(is_page);
        if !is_retired {
            tracing::info!(
                shard,
                records = start.records,
                "delivering the journal of a shard that is gone"
            );
        }
        let marks = Arc::new(JournalMarks::new(start.position, start.records));
        // Without its senders a feed is closed: the sinks read what is there and end.
        drop(sinks.start(shard, &marks, None)?);
        marks.close();
        Ok(Self {
            shard,
            start,
            barrier,
            is_retired,
        })
    }

    /// Whether nobody needs it: every sink has all of it, and what it remembered of the producers
    /// is durable in the journals of those who own them now. Without a sink it is the only copy.
    ///
    /// `sinks` says how far each is with this journal; `None` where one has yet to begin.
    pub fn is_done(&self, sinks: Option<&[Arc<SinkMark>]>) -> bool {
        let is_durable = self
            .barrier
            .as_ref()
            .is_none_or(|barrier| barrier.is_passed());
        let has_all = |mark: &Arc<SinkMark>| mark.committed() >= self.start.position;
        let Some(sinks) = sinks else {
            return false;
        };
        is_durable && !self.is_retired && !sinks.is_empty() && sinks.iter().all(has_all)
    }
}
