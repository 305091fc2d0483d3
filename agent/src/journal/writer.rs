//! The worker's side of the journal: one copy of each frame into an aligned block, blocks written
//! in order, synced by group, acknowledged only then.
//!
//! The writer calls nothing: it pushes ops into an outbox and is told their completions. Its
//! blocks move through one list, oldest first:
//!
//! ```text
//! append ─▶ filling ─seal─▶ Writing ─▶ Written ─sync─▶ durable: offered to the sinks, let go
//! ```
//!
//! A block is opened only where its place on disk is certain: the segment has room for it, or the
//! next segment is ready. Where neither holds, the worker waits or refuses ([`Room`]).
//!
//! A write or a sync that fails poisons the segment: everything of it that is not durable is lost
//! to the journal (and said so to whoever waits), and the writer goes on in a new segment, whose
//! base records where the valid part ends. A later success proves nothing about earlier bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use penstock_proto::reason::Reason;

use crate::journal::feed::{FeedSender, JournalMarks};
use crate::journal::format::{
    BLOCK_ALIGN, BLOCK_HEADER_LEN, BlockHeader, ENTRY_ALIGN, ENTRY_HEADER_LEN, Envelope,
    SEGMENT_HEADER_LEN, SegmentHeader,
};
use crate::shard::buffer::{BlockId, BlockPool, OpenBlock, SharedBlock};
use crate::shard::counters::LostReason;
use crate::shard::op::{Errno, Now, Op, SegmentFile};

/// How long the writer waits before it tries again to create a segment.
const SEGMENT_RETRY_NS: u64 = 1_000_000_000;

/// Where a journal begins after recovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalStart {
    /// The number of the first segment to be created.
    pub segment: u64,
    /// Its base: where the valid part of what is there already ends.
    pub position: u64,
    pub records: u64,
    /// What is there already, oldest first.
    pub existing: Vec<ExistingSegment>,
}

/// A segment that an earlier life has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExistingSegment {
    pub number: u64,
    /// The position behind its last valid block.
    pub end: u64,
    /// The file's size.
    pub bytes: u64,
}

/// What a writer needs to know.
pub struct JournalPlan {
    pub commit_interval: Duration,
    /// Bytes of blocks in a segment; a multiple of 4096, at least one block.
    pub segment_len: u64,
    /// Bytes that the shard's segments may take together.
    pub size_max: u64,
    pub start: JournalStart,
    /// One per sink.
    pub feeds: Vec<FeedSender>,
    pub marks: Arc<JournalMarks>,
    /// The file system is below `min_free`: no segment is created while this is set.
    pub disk_low: Arc<std::sync::atomic::AtomicBool>,
}

/// A ticket for one appended frame: it is durable once the durable mark lies beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Whether a frame can be appended now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Yes,
    /// Not before a write completes or the next segment is ready: keep what has arrived.
    Wait,
    /// Not before a sink, the limit or the disk gives way: refuse what has arrived.
    Refused(Reason),
}

/// The block that is being filled. Its position is `accepted`, the end of what was sealed.
struct Filling {
    block: OpenBlock,
    len: usize,
    entries: u32,
    records: u32,
    /// When its first entry came: the commit interval counts from here.
    since_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockState {
    Writing,
    Written,
}

/// A sealed block; or a segment's header page, which takes no room as a position.
struct Sealed {
    block: SharedBlock,
    /// The position behind it.
    end: u64,
    /// When its first entry came; `None` for a header page.
    since_ns: Option<u64>,
    state: BlockState,
}

/// A segment that is not wholly durable yet.
struct Segment {
    number: u64,
    file: SegmentFile,
    base: u64,
    /// Bytes of blocks assigned to it.
    filled: u64,
}

impl Segment {
    fn end(&self) -> u64 {
        self.base + self.filled
    }
}

/// The segment that comes next.
enum NextSegment {
    /// Not needed yet.
    Idle,
    /// Its file is being made: opened, then allocated, then its name synced.
    Making {
        number: u64,
        file: Option<SegmentFile>,
        page: OpenBlock,
    },
    /// `page` is kept for its header.
    Ready {
        number: u64,
        file: SegmentFile,
        page: OpenBlock,
    },
    /// It may not be made now, or making it failed; tried again later.
    Refused { until_ns: u64 },
}

/// A poisoned segment, kept until nothing of it is in the kernel.
struct Doomed {
    number: u64,
    file: SegmentFile,
    base: u64,
    /// Where its durable part ends.
    end: u64,
    writing: Vec<SharedBlock>,
    syncing: bool,
}

struct Syncing {
    segment: u64,
    target: u64,
    since_ns: u64,
}

/// What a completion settled, for the worker to act on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The durable mark moved: every ticket before it is durable.
    pub durable: bool,
    /// Age of the oldest block that became durable, counted from its first entry.
    pub oldest_ns: Option<u64>,
    /// How long the sync took.
    pub sync_ns: Option<u64>,
    /// The segment was poisoned: every ticket that is not durable is lost, with its records.
    pub lost: Option<(LostReason, u64)>,
}

/// Invariant: *acked ≤ durable ≤ written ≤ accepted*, as positions. The worker acknowledges only
/// tickets before `durable`; [`Writer::invariants`] checks the rest.
pub struct Writer {
    shard: u16,
    listeners: Vec<String>,
    blocks: Arc<BlockPool>,
    plan: JournalPlan,
    outbox: Vec<Op>,

    filling: Option<Filling>,
    /// A free block held ready, so that any frame can be appended once `room` said yes.
    spare: Option<OpenBlock>,
    /// Oldest first.
    sealed: VecDeque<Sealed>,
    /// Oldest first; the last one takes blocks.
    segments: VecDeque<Segment>,
    next: NextSegment,
    next_number: u64,
    doomed: Vec<Doomed>,
    syncing: Option<Syncing>,

    /// The position behind the last sealed block.
    accepted: u64,
    /// Everything before it has been written.
    written: u64,
    durable: u64,
    /// Records before `accepted` and before `durable`.
    records_accepted: u64,
    records_durable: u64,

    /// Wholly durable segments, oldest first; removed once every sink is past them.
    finished: VecDeque<ExistingSegment>,
    removing: bool,
    bytes: u64,
}

impl Writer {
    pub fn new(
        shard: u16,
        listeners: Vec<String>,
        blocks: Arc<BlockPool>,
        plan: JournalPlan,
    ) -> Self {
        assert!(
            plan.segment_len >= 4 * blocks.block_len() as u64,
            "a segment of {} bytes for blocks of {}",
            plan.segment_len,
            blocks.block_len(),
        );
        let start = plan.start.clone();
        plan.marks.advance(start.position, start.records);
        Self {
            shard,
            listeners,
            outbox: Vec::with_capacity(64),
            filling: None,
            spare: None,
            sealed: VecDeque::with_capacity(blocks.count()),
            segments: VecDeque::with_capacity(4),
            next: NextSegment::Refused { until_ns: 0 },
            next_number: start.segment,
            doomed: Vec::new(),
            syncing: None,
            accepted: start.position,
            written: start.position,
            durable: start.position,
            records_accepted: start.records,
            records_durable: start.records,
            bytes: start.existing.iter().map(|segment| segment.bytes).sum(),
            finished: start.existing.into(),
            removing: false,
            blocks,
            plan,
        }
    }

    /// Ops to push, in order.
    pub fn outbox(&mut self) -> std::vec::Drain<'_, Op> {
        self.outbox.drain(..)
    }

    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Records that became durable in this life.
    pub fn records_appended(&self) -> u64 {
        self.records_durable - self.plan.start.records
    }

    /// Preallocated bytes of the segments that exist.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a frame of any length can be appended.
    #[inline]
    pub fn room(&mut self) -> Room {
        if !self.has_places() {
            return match self.next {
                NextSegment::Refused { .. } => Room::Refused(Reason::Backpressure),
                _ => Room::Wait,
            };
        }
        if self.spare.is_none() {
            self.spare = self.blocks.acquire();
        }
        match self.spare {
            Some(_) => Room::Yes,
            None => Room::Wait,
        }
    }

    /// Whether the block being filled and the one after it have their places on disk.
    #[inline]
    fn has_places(&self) -> bool {
        let both = 2 * self.blocks.block_len() as u64;
        let here = self.segments.back();
        here.is_some_and(|segment| segment.filled + both <= self.plan.segment_len)
            || matches!(self.next, NextSegment::Ready { .. })
    }

    /// Copies a frame into the open block; `room` must have said yes since the last append.
    #[inline]
    pub fn append(&mut self, envelope: &Envelope, frame: &[u8], records: u32, now: Now) -> Ticket {
        let entry_len = ENTRY_HEADER_LEN + frame.len();
        let block_len = self.blocks.block_len();
        if self
            .filling
            .as_ref()
            .is_some_and(|filling| filling.len + entry_len > block_len)
        {
            self.seal(now);
        }
        let filling = match &mut self.filling {
            Some(filling) => filling,
            empty => empty.insert(Filling {
                block: self.spare.take().expect("room was asked before append"),
                len: BLOCK_HEADER_LEN,
                entries: 0,
                records: 0,
                since_ns: now.monotonic_ns,
            }),
        };
        let out = &mut filling.block.bytes_mut()[filling.len..][..entry_len];
        let (head, body) = out
            .split_first_chunk_mut::<ENTRY_HEADER_LEN>()
            .expect("entry_len");
        envelope.write(frame.len(), head);
        body.copy_from_slice(frame);
        // The last entry's alignment may point behind the block's end, by less than 8.
        filling.len = (filling.len + entry_len.next_multiple_of(ENTRY_ALIGN)).min(block_len);
        filling.entries += 1;
        filling.records += records;
        Ticket(self.accepted)
    }

    /// Closes the open block: it gets its place and goes on its way to the disk.
    fn seal(&mut self, now: Now) {
        let Some(mut filling) = self.filling.take() else {
            return;
        };
        let len = filling.len;
        let padded = len.next_multiple_of(BLOCK_ALIGN);
        let fits = |segment: &Segment| segment.filled + padded as u64 <= self.plan.segment_len;
        if !self.segments.back().is_some_and(fits) {
            self.turn_segment(now);
        }
        let segment = self.segments.back_mut().expect("turn_segment opened one");
        let header = BlockHeader {
            len: len as u32,
            position: self.accepted,
            durable: self.durable,
            segment: segment.number,
            records_before: self.records_accepted,
            entries: filling.entries,
            records: filling.records,
        };
        let bytes = filling.block.bytes_mut();
        header.write(
            bytes
                .first_chunk_mut()
                .expect("a block is longer than its header"),
        );
        // What an earlier use of the memory left must not reach the disk as if it meant something.
        bytes[len..padded].fill(0);
        let (file, offset) = (segment.file, SEGMENT_HEADER_LEN as u64 + segment.filled);
        segment.filled += padded as u64;
        self.records_accepted += u64::from(filling.records);
        self.accepted += padded as u64;
        let since_ns = Some(filling.since_ns);
        self.write(file, offset, filling.block.share(header), since_ns, padded);
    }

    fn write(
        &mut self,
        file: SegmentFile,
        offset: u64,
        block: SharedBlock,
        since_ns: Option<u64>,
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
            since_ns,
            state: BlockState::Writing,
        });
    }

    /// From here on blocks go to the next segment, which `room` made certain is ready. Its header
    /// page is written before its first block, so that `written` passes it first.
    fn turn_segment(&mut self, now: Now) {
        let NextSegment::Ready {
            number,
            file,
            mut page,
        } = std::mem::replace(&mut self.next, NextSegment::Idle)
        else {
            panic!("segment {} is needed and not ready", self.next_number);
        };
        let header = SegmentHeader {
            shard: self.shard,
            number,
            base: self.accepted,
            records_before: self.records_accepted,
            created_unix_nano: now.unix_ns,
            predecessor: self.predecessor(),
            listeners: self.listeners.clone(),
        };
        header.write(
            page.bytes_mut()
                .first_chunk_mut()
                .expect("a block holds a page"),
        );
        self.segments.push_back(Segment {
            number,
            file,
            base: self.accepted,
            filled: 0,
        });
        // A marker for the list; the page's own bytes are the segment's header.
        let marker = BlockHeader {
            len: SEGMENT_HEADER_LEN as u32,
            position: self.accepted,
            durable: self.durable,
            segment: number,
            records_before: self.records_accepted,
            entries: 0,
            records: 0,
        };
        self.write(file, 0, page.share(marker), None, SEGMENT_HEADER_LEN);
    }

    fn predecessor(&self) -> u64 {
        let open = self.segments.back().map(|segment| segment.number);
        let finished = self.finished.back().map(|segment| segment.number);
        // A poisoned segment with a durable part, of which something is still in the kernel.
        let doomed = self.doomed.iter().filter(|doomed| doomed.end > doomed.base);
        let doomed = doomed.map(|doomed| doomed.number).max();
        open.or(finished.max(doomed)).unwrap_or(0)
    }

    /// Time has passed: a block that has waited long enough is sealed, a segment that will be
    /// needed is made, one that every sink has behind it is removed.
    pub fn tick(&mut self, now: Now) {
        if self
            .deadline_ns()
            .is_some_and(|deadline| deadline <= now.monotonic_ns)
        {
            self.seal(now);
        }
        self.prepare_segment(now);
        self.remove_segment();
        self.plan.marks.set_writable(self.has_places());
    }

    /// When `tick` has something to do for the block being filled.
    pub fn deadline_ns(&self) -> Option<u64> {
        let filling = self.filling.as_ref()?;
        Some(filling.since_ns + self.plan.commit_interval.as_nanos() as u64)
    }

    /// Seals what is open, to drain at a stop.
    pub fn flush(&mut self, now: Now) {
        self.seal(now);
    }

    /// Whether everything appended is durable and nothing is in the kernel.
    pub fn is_settled(&self) -> bool {
        self.filling.is_none()
            && self.sealed.is_empty()
            && self.syncing.is_none()
            && self.doomed.is_empty()
            && !self.removing
            && !matches!(self.next, NextSegment::Making { .. })
    }

    /// Starts the next segment when half of this one is filled: making one takes the disk a few
    /// milliseconds, and half a segment is a tenth of a second at 1 GB/s.
    fn prepare_segment(&mut self, now: Now) {
        match self.next {
            NextSegment::Refused { until_ns } if now.monotonic_ns >= until_ns => {}
            NextSegment::Idle => {
                let here = self
                    .segments
                    .back()
                    .map_or(u64::MAX, |segment| segment.filled);
                if here < self.plan.segment_len / 2 {
                    return;
                }
            }
            _ => return,
        }
        let segment_bytes = self.plan.segment_len + SEGMENT_HEADER_LEN as u64;
        let disk_low = self
            .plan
            .disk_low
            .load(std::sync::atomic::Ordering::Relaxed);
        let full = self.bytes + segment_bytes > self.plan.size_max;
        let page = if disk_low || full {
            None
        } else {
            self.blocks.acquire()
        };
        let Some(page) = page else {
            // Looked at again at every tick: the sinks or the operator may make room at any time.
            self.next = NextSegment::Refused {
                until_ns: now.monotonic_ns,
            };
            return;
        };
        let number = self.next_number;
        self.next_number += 1;
        self.next = NextSegment::Making {
            number,
            file: None,
            page,
        };
        self.outbox.push(Op::SegmentOpen { number });
    }

    pub fn on_segment_opened(&mut self, number: u64, result: Result<SegmentFile, Errno>, now: Now) {
        let NextSegment::Making {
            number: making,
            file,
            ..
        } = &mut self.next
        else {
            panic!("segment {number} was opened but none was asked for");
        };
        assert_eq!(*making, number, "segments are made one at a time");
        match result {
            Ok(opened) => {
                *file = Some(opened);
                let len = self.plan.segment_len + SEGMENT_HEADER_LEN as u64;
                self.bytes += len;
                self.outbox.push(Op::SegmentAllocate {
                    number,
                    file: opened,
                    len,
                });
            }
            Err(errno) => self.give_up_segment(errno, "create", now),
        }
    }

    pub fn on_segment_allocated(&mut self, number: u64, result: Result<(), Errno>, now: Now) {
        match result {
            Ok(()) => self.outbox.push(Op::FolderSync { number }),
            Err(errno) => self.give_up_segment(errno, "allocate", now),
        }
    }

    pub fn on_folder_synced(&mut self, number: u64, result: Result<(), Errno>, now: Now) {
        if let Err(errno) = result {
            return self.give_up_segment(errno, "sync the name of", now);
        }
        let making = std::mem::replace(&mut self.next, NextSegment::Idle);
        let NextSegment::Making {
            number: made,
            file: Some(file),
            page,
        } = making
        else {
            panic!("the folder was synced for segment {number}, which is not being made");
        };
        assert_eq!(made, number, "segments are made one at a time");
        self.next = NextSegment::Ready { number, file, page };
    }

    /// The next segment cannot be made now: what was made of it is removed, and it is tried again.
    fn give_up_segment(&mut self, errno: Errno, what: &str, now: Now) {
        let until_ns = now.monotonic_ns + SEGMENT_RETRY_NS;
        let failed = std::mem::replace(&mut self.next, NextSegment::Refused { until_ns });
        let NextSegment::Making { number, file, .. } = failed else {
            panic!("a segment failed that was not being made");
        };
        let error = std::io::Error::from(errno);
        tracing::error!(
            shard = self.shard,
            segment = number,
            "cannot {what} a segment: {error}"
        );
        if let Some(file) = file {
            self.bytes -= self.plan.segment_len + SEGMENT_HEADER_LEN as u64;
            self.outbox.push(Op::SegmentClose { number, file });
            self.outbox.push(Op::SegmentRemove { number });
        }
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
        self.written = prefix.last().map_or(self.written, |sealed| sealed.end);
        self.push_sync(now);
        Settled::default()
    }

    /// Syncs what is written, of one segment at a time and in order, so that nothing of a segment
    /// is durable before all of its predecessor is. One sync is in flight at most: what is written
    /// meanwhile is the next group.
    fn push_sync(&mut self, now: Now) {
        // A segment that was durable to its end before its successor came has nothing left to
        // sync: it must not stand before the successor for ever.
        self.finish_segments();
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
        self.plan.marks.advance(self.durable, self.records_durable);
        self.push_sync(now);
        Settled {
            durable: true,
            oldest_ns,
            sync_ns: Some(now.monotonic_ns.saturating_sub(syncing.since_ns)),
            lost: None,
        }
    }

    /// Offers durable blocks to the sinks and lets them go; returns the oldest one's age.
    fn release_durable(&mut self, now: Now) -> Option<u64> {
        let mut oldest = None;
        while let Some(sealed) = self.sealed.front()
            && sealed.end <= self.durable
            && sealed.state == BlockState::Written
        {
            let sealed = self.sealed.pop_front().expect("there is a front");
            let Some(since_ns) = sealed.since_ns else {
                continue;
            };
            oldest = oldest.or(Some(now.monotonic_ns.saturating_sub(since_ns)));
            self.records_durable += u64::from(sealed.block.header().records);
            // Half of the blocks are the writer's: a sink that falls behind reads from disk.
            if self.blocks.free() * 2 >= self.blocks.count() {
                for feed in &self.plan.feeds {
                    feed.offer(sealed.block.clone());
                }
            }
        }
        oldest
    }

    /// Segments that will get no more blocks and are wholly durable are closed.
    fn finish_segments(&mut self) {
        while self.segments.len() > 1 && self.segments[0].end() <= self.durable {
            let segment = self.segments.pop_front().expect("there are two");
            self.outbox.push(Op::SegmentClose {
                number: segment.number,
                file: segment.file,
            });
            self.finished.push_back(ExistingSegment {
                number: segment.number,
                end: segment.end(),
                bytes: self.plan.segment_len + SEGMENT_HEADER_LEN as u64,
            });
        }
    }

    /// A write or a sync failed: nothing that is not durable now ever will be. What waits in the
    /// open block goes the same way, as its tickets name positions that are given out anew.
    fn poison(&mut self, reason: LostReason, errno: Option<Errno>, now: Now) -> Settled {
        let error = errno.map_or("a short write".to_owned(), |errno| {
            std::io::Error::from(errno).to_string()
        });
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
        for Doomed {
            number,
            file,
            base,
            end,
            ..
        } in over
        {
            self.outbox.push(Op::SegmentClose { number, file });
            if end > base {
                let at = self
                    .finished
                    .partition_point(|segment| segment.number < number);
                self.finished.insert(
                    at,
                    ExistingSegment {
                        number,
                        end,
                        bytes: segment_bytes,
                    },
                );
            } else {
                self.bytes -= segment_bytes;
                self.outbox.push(Op::SegmentRemove { number });
            }
        }
    }

    /// Removes the oldest finished segment, one at a time, once every sink has committed it.
    /// Without a sink nothing is ever removed: the journal is then the only copy.
    ///
    /// The last durable block stays, whoever has committed it: a journal without one begins again
    /// at position 0, before the sinks' cursors, and they would pass over what is stored there.
    fn remove_segment(&mut self) {
        let Some(oldest) = self.finished.front() else {
            return;
        };
        let committed = self
            .plan
            .feeds
            .iter()
            .map(|feed| feed.mark.committed())
            .min();
        // In order: a poisoned segment whose last write or sync is late would else be left behind
        // a gap, which recovery takes for damage.
        let overtakes = self.doomed.iter().any(|doomed| doomed.number < oldest.number);
        let needed = oldest.end >= self.durable || overtakes;
        if self.removing || needed || committed.is_none_or(|committed| committed < oldest.end) {
            return;
        }
        self.removing = true;
        self.outbox.push(Op::SegmentRemove {
            number: oldest.number,
        });
    }

    pub fn on_segment_removed(&mut self, number: u64, result: Result<(), Errno>) {
        if let Err(errno) = result {
            let error = std::io::Error::from(errno);
            tracing::error!(
                shard = self.shard,
                segment = number,
                "cannot remove: {error}"
            );
        }
        // A segment that was given up or held nothing durable is not in the list.
        if self.removing
            && self
                .finished
                .front()
                .is_some_and(|oldest| oldest.number == number)
        {
            self.removing = false;
            let removed = self.finished.pop_front().expect("there is a front");
            self.bytes -= removed.bytes;
        }
    }

    /// Checks the sentence on the struct; the worker calls it after each turn in debug builds.
    pub fn invariants(&self) {
        assert!(
            self.durable <= self.written && self.written <= self.accepted,
            "durable {} written {} accepted {}",
            self.durable,
            self.written,
            self.accepted,
        );
        assert!(
            self.records_durable <= self.records_accepted,
            "records durable {} accepted {}",
            self.records_durable,
            self.records_accepted,
        );
        let ends = self.sealed.iter().map(|sealed| sealed.end);
        assert!(ends.is_sorted(), "blocks are in order");
        let last = self
            .sealed
            .back()
            .map_or(self.accepted, |sealed| sealed.end);
        assert_eq!(
            last, self.accepted,
            "the last sealed block ends what is accepted"
        );
        if self.segments.is_empty() {
            assert!(
                self.sealed.is_empty() && self.syncing.is_none(),
                "blocks without a segment"
            );
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.plan.marks.set_writable(false);
        self.plan.marks.close();
    }
}
