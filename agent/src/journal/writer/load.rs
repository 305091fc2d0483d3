//! How much of its room the journal has in use: in memory until it is durable, and on disk until
//! every sink has it.

use super::Writer;
use crate::config::settings::OnFull;
use crate::journal::format::SEGMENT_HEADER_LEN;
use crate::shard::op::Now;

/// The journal's room, and what of it is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes appended and not durable, and the memory that there is for such.
    pub unsynced_bytes: u64,
    pub memory_bytes: u64,
    /// Bytes that a sink has still to deliver, and the room for such. Beyond it the journal may take
    /// more or not, by how the bytes lie in segments.
    pub undelivered_bytes: u64,
    pub room_bytes: u64,
    /// Everything before this position is delivered or given up.
    pub delivered: u64,
}

/// What else tells that the journal is slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Sealed and not durable.
    pub blocks: usize,
    pub blocks_max: usize,
    /// How long the sync has taken that is in flight.
    pub sync_ns: u64,
    /// Nothing is taken: the journal, or the disk, is at its limit.
    pub refuses: bool,
}

impl Writer {
    pub fn load(&self) -> Load {
        let filling = self.filling.as_ref().map_or(0, |filling| filling.len);
        let accepted = self.accepted + filling as u64;
        let block_len = self.blocks.block_len() as u64;
        let segment_len = self.plan.segment_len;
        let segments = self.plan.size_max / (segment_len + SEGMENT_HEADER_LEN as u64);
        Load {
            unsynced_bytes: accepted - self.durable,
            memory_bytes: self.blocks.count() as u64 * block_len,
            undelivered_bytes: accepted.saturating_sub(self.delivered),
            // The oldest segment stays until all of it is delivered.
            room_bytes: segments.saturating_sub(1).max(1) * segment_len,
            delivered: self.delivered,
        }
    }

    pub fn lag(&self, now: Now) -> Lag {
        let syncing = self.syncing.as_ref();
        Lag {
            blocks: self.sealed.len(),
            blocks_max: self.blocks.count(),
            sync_ns: syncing.map_or(0, |syncing| syncing.age_ns(now)),
            refuses: self.plan.marks.refusal().is_some(),
        }
    }

    /// Whether a journal that is full gives up what is oldest: then its room never runs out.
    pub fn drops_oldest(&self) -> bool {
        self.plan.on_full == OnFull::DropOldest
    }

    /// Looks at how far the sinks are.
    pub(super) fn look_at_sinks(&mut self) {
        let committed = self.plan.feeds.iter().map(|feed| feed.mark.committed());
        let delivered = committed.min().unwrap_or(0);
        let given_up = self.plan.marks.dropped_until();
        self.delivered = self.delivered.max(delivered).max(given_up);
    }
}
