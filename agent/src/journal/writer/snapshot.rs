//! What is remembered of the producers, at the head of each segment; and what is forgotten with a
//! segment that is poisoned.
//!
//! A segment is turned to between two blocks, so a snapshot speaks of all frames before the segment
//! and of none in it: frames that follow carry their own producer, sequence and checksum, and
//! recovery adds them. That the frames before it may not be durable yet does no harm: segments
//! become durable in order, so a snapshot is believed only where they are.
//!
//! It is copied block by block, as blocks are free: the largest one takes a quarter of a segment
//! (`limits`), and more memory than the pool has.

use super::Writer;
use crate::journal::dedup::{Windows, snapshot};
use crate::journal::format::{
    BLOCK_HEADER_LEN, BlockHeader, ENTRY_HEADER_LEN, Entries, write_windows_header,
};
use crate::shard::op::Now;

/// How far the snapshot being written is.
pub(super) struct Snapshot {
    slot: usize,
    part: u32,
}

impl Writer {
    /// The segment has just been turned to. Nothing is written where nobody is remembered.
    pub(super) fn begin_snapshot(&mut self, now: Now) {
        self.plan.recalled.windows.expire(now.unix_ns);
        match self.plan.recalled.windows.is_empty() {
            true => self.end_snapshot(),
            false => self.snapshot = Some(Snapshot { slot: 0, part: 0 }),
        }
    }

    /// Writes what is left of the snapshot, as far as there are free blocks.
    pub(super) fn write_snapshot(&mut self, now: Now) {
        const BODY_AT: usize = BLOCK_HEADER_LEN + ENTRY_HEADER_LEN;
        while let Some(Snapshot { slot, part }) = self.snapshot {
            let Some(mut block) = self.blocks.acquire() else {
                return;
            };
            let bytes = block.bytes_mut();
            let (head, body) = bytes.split_at_mut(BODY_AT);
            let (len, next) = snapshot::write_part(&self.plan.recalled.windows, slot, part, body);
            let head = head.last_chunk_mut().expect("an entry's header");
            write_windows_header(now.unix_ns, &body[..len], head);
            self.place(block, BODY_AT + len, 1, 0, None);
            let part = part + 1;
            self.snapshot = next.map(|slot| Snapshot { slot, part });
            if self.snapshot.is_none() {
                self.end_snapshot();
            }
        }
        self.note_snapshot();
    }

    fn end_snapshot(&mut self) {
        let segment = self.segments.back().expect("it is in one");
        self.snapshot_end = Some((self.accepted, segment.number));
    }

    /// Once a snapshot is durable, segments before it may go; and the barrier hears of the first.
    pub(super) fn note_snapshot(&mut self) {
        let Some((_, number)) = self.snapshot_end.take_if(|(end, _)| *end <= self.durable) else {
            return;
        };
        self.plan.recalled.held_in = number;
        if std::mem::replace(&mut self.owes_snapshot, false)
            && let Some(barrier) = &self.plan.recalled.barrier
        {
            barrier.arrive();
        }
    }

    /// Whether a segment may go, as far as the memory of the producers is concerned.
    pub(super) fn is_forgettable(&self, segment: u64) -> bool {
        let recalled = &self.plan.recalled;
        let barrier = recalled.barrier.as_ref();
        segment < recalled.held_in && barrier.is_none_or(|barrier| barrier.is_passed())
    }

    /// The segment is poisoned: what of it is not durable was never taken, as far as producers are
    /// concerned, and a retry of it is new. The lost blocks themselves say what that is.
    pub(super) fn forget_lost(&mut self) {
        self.snapshot = None;
        self.snapshot_end = None;
        let windows = &mut self.plan.recalled.windows;
        for sealed in &self.sealed {
            let header = sealed.header();
            if header.position >= self.durable {
                forget(windows, sealed.bytes(), header);
            }
        }
        if let Some(filling) = &mut self.filling {
            let header = BlockHeader {
                len: filling.len as u32,
                position: self.accepted,
                durable: self.durable,
                segment: 0,
                records_before: self.records_accepted,
                entries: filling.entries,
                records: filling.records,
                salt: 0,
            };
            forget(windows, filling.block.bytes_mut(), &header);
        }
        windows.settle_all();
    }
}

fn forget(windows: &mut Windows, block: &[u8], header: &BlockHeader) {
    for entry in Entries::new(block, header, false) {
        let entry = entry.unwrap_or_else(|fault| {
            panic!("an entry in memory at {}: {fault}", header.position);
        });
        if entry.envelope.deduplicated {
            windows.forget(entry.header.producer, entry.header.sequence);
        }
    }
}
