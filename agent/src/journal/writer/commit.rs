//! From sealed to durable: writes, one sync at a time, and the poison that a failure of either is.

use std::collections::VecDeque;

use super::segment::{NextSegment, SEGMENT_RETRY_NS};
use super::{ExistingSegment, Settled, Writer};
use crate::config::settings::SyncMode;
use crate::journal::format::{BLOCK_ALIGN, BlockHeader, SEGMENT_HEADER_LEN};
use crate::shard::buffer::{BlockId, SharedBlock};
use crate::shard::counters::{LostReason, Refusal};
use crate::shard::op::{Errno, Now, Op, SegmentFile};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockState {
    Writing,
    Written,
}

/// What a write carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    /// A segment's header page, which takes no room as a position.
    Page,
    /// A block; `since_ns` is when its first entry came, `None` where it holds a snapshot.
    Block { since_ns: Option<u64> },
}

/// A sealed block; or a segment's header page, which takes no room as a position.
pub(super) struct Sealed {
    block: SharedBlock,
    /// The position behind it.
    pub end: u64,
    contents: Contents,
    state: BlockState,
}

impl Sealed {
    pub fn header(&self) -> &BlockHeader {
        self.block.header()
    }

    /// The header page of a segment that no block has come to yet needs no sync of its own.
    pub fn is_written_page(&self) -> bool {
        self.contents == Contents::Page && self.state == BlockState::Written
    }

    /// Of a header page, which has no entries, its own.
    pub fn bytes(&self) -> &[u8] {
        self.block.bytes()
    }
}

/// A poisoned segment, kept until nothing of it is in the kernel.
pub(super) struct Doomed {
    pub number: u64,
    file: SegmentFile,
    base: u64,
    /// Where its durable part ends.
    end: u64,
    writing: Vec<SharedBlock>,
    syncing: bool,
}

impl Doomed {
    /// Something of it is durable: the file stays.
    pub fn is_kept(&self) -> bool {
        self.base < self.end
    }
}

pub(super) struct Syncing {
    segment: u64,
    target: u64,
    since_ns: u64,
}

impl Syncing {
    pub fn age_ns(&self, now: Now) -> u64 {
        now.monotonic_ns.saturating_sub(self.since_ns)
    }
}

impl Writer {
    /// Sends a sealed block, or a header page, on its way to the disk.
    pub(super) fn write(
        &mut self,
        file: SegmentFile,
        offset: u64,
        block: SharedBlock,
        contents: Contents,
        len: usize,
    ) {
        self.outbox.push(Op::JournalWrite {
            file,
            block: block.id(),
            offset,
            len: len as u32,
        });
        let end = self.accepted;
        self.sealed.push_back(Sealed {
            block,
            end,
            contents,
            state: BlockState::Writing,
        });
    }

    /// A block's write is over.
    pub fn on_written(&mut self, block: BlockId, result: Result<u32, Errno>, now: Now) -> Settled {
        for doomed in &mut self.doomed {
            if let Some(at) = doomed
                .writing
                .iter()
                .position(|writing| writing.id() == block)
            {
                doomed.writing.swap_remove(at);
                self.bury();
                return Settled::default();
            }
        }
        let Some(sealed) = self
            .sealed
            .iter_mut()
            .find(|sealed| sealed.block.id() == block)
        else {
            panic!("block {} was written but is not in flight", block.0);
        };
        let len = sealed
            .block
            .header()
            .len
            .next_multiple_of(BLOCK_ALIGN as u32);
        sealed.state = BlockState::Written;
        match result {
            Ok(written) if written == len => {}
            // A short write of a preallocated file means that the disk gave up in the middle.
            Ok(_) | Err(_) => return self.poison(LostReason::WriteFailed, result.err(), now),
        }
        let prefix = self
            .sealed
            .iter()
            .take_while(|sealed| sealed.state == BlockState::Written);
        let before = self.written;
        self.written = prefix.last().map_or(before, |sealed| sealed.end);
        match self.plan.sync {
            SyncMode::Never if self.written > before => self.settle_written(now),
            mode => {
                self.push_sync(now);
                Settled {
                    written: mode == SyncMode::Interval && self.written > before,
                    ..Settled::default()
                }
            }
        }
    }

    /// Without syncs, what is written is all that is promised, to producers and sinks alike.
    fn settle_written(&mut self, now: Now) -> Settled {
        self.durable = self.written;
        let oldest_ns = self.release_durable(now);
        self.finish_segments();
        Settled {
            durable: true,
            written: true,
            oldest_ns,
            ..Settled::default()
        }
    }

    /// Syncs what is written, of one segment at a time and in order, so that nothing of a segment
    /// is durable before all of its predecessor is. One sync is in flight at most: what is written
    /// meanwhile is the next group.
    ///
    /// Where `sync` is `Interval`, it waits for the interval, unless something waits for the sync:
    /// a stop, a segment that is full, or the memory of the blocks.
    pub(super) fn push_sync(&mut self, now: Now) {
        let due = match self.plan.sync {
            SyncMode::Always => true,
            SyncMode::Never => false,
            SyncMode::Interval => {
                self.flushing
                    || self.segments.len() > 1
                    || self.blocks.free() * 2 < self.blocks.count()
                    || now.monotonic_ns >= self.synced_at_ns + self.sync_interval_ns()
            }
        };
        if !due {
            return;
        }
        let Some(front) = self.segments.front() else {
            return;
        };
        let segment_end = if self.segments.len() > 1 {
            front.end()
        } else {
            u64::MAX
        };
        let target = self.written.min(segment_end);
        if self.syncing.is_some() || target <= self.durable {
            return;
        }
        self.outbox.push(Op::JournalSync {
            file: front.file,
            segment: front.number,
        });
        self.syncing = Some(Syncing {
            segment: front.number,
            target,
            since_ns: now.monotonic_ns,
        });
        self.synced_at_ns = now.monotonic_ns;
    }

    fn sync_interval_ns(&self) -> u64 {
        self.plan.sync_interval.as_nanos() as u64
    }

    /// When the next sync by time is due.
    pub(super) fn sync_deadline_ns(&self) -> Option<u64> {
        let waits = self.plan.sync == SyncMode::Interval
            && self.written > self.durable
            && self.syncing.is_none();
        waits.then(|| self.synced_at_ns + self.sync_interval_ns())
    }

    pub fn on_synced(&mut self, segment: u64, result: Result<(), Errno>, now: Now) -> Settled {
        if let Some(doomed) = self
            .doomed
            .iter_mut()
            .find(|doomed| doomed.number == segment && doomed.syncing)
        {
            // Whatever it says: after a failure in the segment nothing of it is believed.
            doomed.syncing = false;
            self.bury();
            return Settled::default();
        }
        let syncing = self
            .syncing
            .take()
            .expect("a sync completed that was pushed");
        assert_eq!(syncing.segment, segment, "one sync is in flight at a time");
        if let Err(errno) = result {
            return self.poison(LostReason::SyncFailed, Some(errno), now);
        }
        self.durable = syncing.target;
        let oldest_ns = self.release_durable(now);
        self.finish_segments();
        self.push_sync(now);
        Settled {
            durable: true,
            written: false,
            oldest_ns,
            sync_ns: Some(syncing.age_ns(now)),
            lost: None,
        }
    }

    /// Offers durable blocks to the sinks and lets them go; returns the oldest one's age.
    fn release_durable(&mut self, now: Now) -> Option<u64> {
        let count = self.sealed.partition_point(|sealed| {
            sealed.end <= self.durable && sealed.state == BlockState::Written
        });
        let blocks = self.sealed.range(..count);
        self.records_durable += blocks
            .map(|sealed| u64::from(sealed.block.header().records))
            .sum::<u64>();
        // Before the blocks: a sink that has one finds that it is durable.
        self.plan.marks.advance(self.durable, self.records_durable);
        let mut oldest = None;
        for Sealed {
            block, contents, ..
        } in self.sealed.drain(..count)
        {
            let Contents::Block { since_ns } = contents else {
                continue;
            };
            let age_ns = since_ns.map(|since_ns| now.monotonic_ns.saturating_sub(since_ns));
            oldest = oldest.or(age_ns);
            // Half of the blocks are the writer's: a sink that falls behind reads from disk.
            if self.blocks.free() * 2 >= self.blocks.count() {
                for feed in &self.plan.feeds {
                    feed.offer(block.clone());
                }
            }
        }
        self.note_snapshot();
        oldest
    }

    /// A write or a sync failed: nothing that is not durable now ever will be. What waits in the
    /// open block goes the same way, as its tickets name positions that are given out anew.
    ///
    /// Until a successor's header is durable, nothing on the disk says that these frames were lost: a
    /// crash in between may bring back the first few of them (recovery keeps sound blocks that
    /// follow the durable part without a gap), although their senders were told "try later". That
    /// loses nothing and stores nothing twice: what comes back is durable and in its place, with its
    /// producer and sequence, so recovery puts it into the dedup window, and the sender's retry is
    /// answered "duplicate of a frame that is durable", which is then true. A sender that does not
    /// retry has a frame stored that it gave up, which "try later" never excluded. The other order,
    /// a successor first, makes the loss final: its base excludes the frames, and the retry is new.
    fn poison(&mut self, reason: LostReason, errno: Option<Errno>, now: Now) -> Settled {
        let error = errno.map_or("a short write".to_owned(), |errno| {
            std::io::Error::from(errno).to_string()
        });
        self.forget_lost();
        let filling_records = self
            .filling
            .take()
            .map_or(0, |filling| u64::from(filling.records));
        let lost = self.records_accepted - self.records_durable + filling_records;
        tracing::error!(
            shard = self.shard,
            segment = self.segments.front().map(|segment| segment.number),
            lost_records = lost,
            "the journal's segment is poisoned ({}): {error}; senders are told, a new segment follows",
            reason.label(),
        );
        let syncing = self.syncing.take().map(|syncing| syncing.segment);
        let mut sealed = std::mem::take(&mut self.sealed);
        sealed.retain(|sealed| sealed.state == BlockState::Writing);
        for segment in self.segments.drain(..) {
            let writing = sealed
                .iter()
                .filter(|sealed| sealed.block.header().segment == segment.number)
                .map(|sealed| sealed.block.clone())
                .collect();
            self.doomed.push(Doomed {
                number: segment.number,
                file: segment.file,
                base: segment.base,
                end: segment.end().min(self.durable).max(segment.base),
                writing,
                syncing: syncing == Some(segment.number),
            });
        }
        self.sealed = VecDeque::with_capacity(self.blocks.count());
        self.accepted = self.durable;
        self.written = self.durable;
        self.records_accepted = self.records_durable;
        if matches!(self.next, NextSegment::Idle) {
            // A disk that fails each write must not be given a new segment each millisecond.
            self.next = NextSegment::Refused {
                cause: errno.map_or(Refusal::Failed, |errno| Refusal::of(errno.0)),
                until_ns: now.monotonic_ns + SEGMENT_RETRY_NS,
            };
        }
        self.bury();
        Settled {
            lost: Some((reason, lost)),
            ..Settled::default()
        }
    }

    /// Closes poisoned segments of which nothing is in the kernel any more, and removes those that
    /// hold nothing durable.
    fn bury(&mut self) {
        let segment_bytes = self.plan.segment_len + SEGMENT_HEADER_LEN as u64;
        let (busy, over) = self
            .doomed
            .drain(..)
            .partition(|doomed| doomed.syncing || !doomed.writing.is_empty());
        self.doomed = busy;
        let over: Vec<Doomed> = over;
        for doomed in over {
            let number = doomed.number;
            self.outbox.push(Op::SegmentClose {
                number,
                file: doomed.file,
            });
            if doomed.is_kept() {
                let earlier = |segment: &ExistingSegment| segment.number < number;
                let at = self.finished.partition_point(earlier);
                self.finished.insert(
                    at,
                    ExistingSegment {
                        number,
                        end: doomed.end,
                        bytes: segment_bytes,
                    },
                );
            } else {
                self.discard(number);
            }
        }
    }
}
