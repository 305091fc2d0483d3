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
//! A block is opened only where its place on disk is certain: the segment has room for it. Where it
//! has not, the worker waits for the next segment or refuses ([`Room`]). The turn to the next one
//! comes at a tick, between two blocks, and the first thing in it is what is remembered of the
//! producers (`snapshot`): of all frames before the segment, and of none in it.
//!
//! A write or a sync that fails poisons the segment: everything of it that is not durable is lost
//! to the journal (and said so to whoever waits), and the writer goes on in a new segment, whose
//! base records where the valid part ends. A later success proves nothing about earlier bytes.

mod commit;
mod live;
mod load;
mod plan;
mod removal;
mod segment;
mod snapshot;

use std::collections::VecDeque;
use std::sync::Arc;

use penstock_proto::reason::Reason;

use self::commit::{Contents, Doomed, Sealed, Syncing};
use self::removal::{Litter, Said};
use self::segment::{NextSegment, Segment};
use self::snapshot::Snapshot;
use crate::config::settings::SyncMode;
use crate::journal::dedup::Windows;
use crate::journal::format::{
    BLOCK_ALIGN, BLOCK_HEADER_LEN, BlockHeader, ENTRY_ALIGN, ENTRY_HEADER_LEN, Envelope,
    SEGMENT_HEADER_LEN,
};
use crate::shard::buffer::{BlockPool, OpenBlock};
use crate::shard::counters::{Refusal, SegmentCall};
use crate::shard::op::{Now, Op};

pub use self::load::{Lag, Load};
pub use self::plan::{ExistingSegment, JournalPlan, JournalStart, Room, Settled, Ticket};

/// The block that is being filled. Its position is `accepted`, the end of what was sealed.
struct Filling {
    block: OpenBlock,
    len: usize,
    entries: u32,
    records: u32,
    /// When its first entry came: the commit interval counts from here.
    since_ns: u64,
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
    synced_at_ns: u64,
    /// Everything goes to the disk now, whatever the intervals say.
    flushing: bool,

    /// A frame waits for the next segment.
    turn_wanted: bool,
    /// The snapshot at the head of the last segment, while it is being written: frames wait.
    snapshot: Option<Snapshot>,
    /// The last whole snapshot that is not known to be durable: where it ends, and in which segment.
    snapshot_end: Option<(u64, u64)>,
    /// The start's barrier waits for this shard's first snapshot.
    owes_snapshot: bool,
    /// The last one given out.
    last_ticket: Ticket,

    /// The position behind the last sealed block.
    accepted: u64,
    /// Everything before it has been written.
    written: u64,
    durable: u64,
    /// Every sink has what lies before it, as far as was seen at the last tick; or it was given up.
    delivered: u64,
    /// Records before `accepted` and before `durable`.
    records_accepted: u64,
    records_durable: u64,

    /// Wholly durable segments, oldest first; removed once every sink is past them.
    finished: VecDeque<ExistingSegment>,
    /// The oldest of them, while it is being removed.
    removing: Option<u64>,
    litter: Vec<Litter>,
    /// After a failure nothing is removed before this time.
    next_removal_ns: u64,
    /// For the disk's sake no segment is dropped before this time.
    next_drop_ns: u64,
    call_errors: [u64; SegmentCall::COUNT],
    said: Said,
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
        let recalled = &plan.recalled;
        let barrier = recalled.barrier.as_ref();
        let owes_snapshot = barrier.is_some() && !recalled.windows.is_empty();
        if let Some(barrier) = barrier.filter(|_| !owes_snapshot) {
            barrier.arrive();
        }
        Self {
            shard,
            listeners,
            outbox: Vec::with_capacity(64),
            filling: None,
            spare: None,
            sealed: VecDeque::with_capacity(blocks.count()),
            segments: VecDeque::with_capacity(4),
            next: NextSegment::Idle,
            next_number: start.segment,
            doomed: Vec::new(),
            syncing: None,
            synced_at_ns: 0,
            flushing: false,
            turn_wanted: false,
            snapshot: None,
            snapshot_end: None,
            owes_snapshot,
            last_ticket: Ticket(start.position),
            accepted: start.position,
            written: start.position,
            durable: start.position,
            delivered: 0,
            records_accepted: start.records,
            records_durable: start.records,
            bytes: start.existing.iter().map(|segment| segment.bytes).sum(),
            finished: start.existing.into(),
            removing: None,
            litter: Vec::new(),
            next_removal_ns: 0,
            next_drop_ns: 0,
            call_errors: [0; SegmentCall::COUNT],
            said: Said::default(),
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

    /// Tickets before it may be acknowledged.
    pub fn acknowledgeable(&self) -> u64 {
        match self.plan.sync {
            SyncMode::Always => self.durable,
            SyncMode::Interval | SyncMode::Never => self.written,
        }
    }

    /// Tickets before it are synced.
    pub fn synced(&self) -> u64 {
        match self.plan.sync {
            SyncMode::Always | SyncMode::Interval => self.durable,
            SyncMode::Never => 0,
        }
    }

    /// The last ticket that was given out. Whatever waits for a frame that is not durable yet can
    /// wait for this one: it is that frame's or a later one's.
    pub fn last_ticket(&self) -> Ticket {
        self.last_ticket
    }

    /// What is remembered of the producers.
    pub fn windows_mut(&mut self) -> &mut Windows {
        &mut self.plan.recalled.windows
    }

    /// Records that became durable in this life.
    pub fn records_appended(&self) -> u64 {
        self.records_durable - self.plan.start.records
    }

    /// Preallocated bytes of the segments that exist.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Calls on segments that failed.
    pub fn call_errors(&self) -> [u64; SegmentCall::COUNT] {
        self.call_errors
    }

    /// Whether a frame of any length can be appended.
    #[inline]
    pub fn room(&mut self) -> Room {
        if self.snapshot.is_some() {
            return Room::Wait;
        }
        if !self.has_place() {
            self.turn_wanted = true;
            return match self.next {
                NextSegment::Refused {
                    cause: Refusal::Failed,
                    ..
                } => Room::Refused(Reason::JournalFailed),
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

    /// Whether the segment has room for the block being filled, sealed as it is, and a whole one.
    /// (For one that goes on being filled, there was room for a whole one when it was opened.)
    #[inline]
    fn has_place(&self) -> bool {
        let open = self.filling.as_ref();
        let open = open.map_or(0, |filling| filling.len.next_multiple_of(BLOCK_ALIGN));
        let both = (open + self.blocks.block_len()) as u64;
        let here = self.segments.back();
        here.is_some_and(|segment| segment.filled + both <= self.plan.segment_len)
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
            self.seal();
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
        let is_enough = filling.len >= self.plan.commit_size;
        let ticket = Ticket(self.accepted);
        self.last_ticket = ticket;
        if is_enough {
            self.seal();
        }
        ticket
    }

    /// Closes the open block: it gets its place and goes on its way to the disk.
    fn seal(&mut self) {
        if let Some(filling) = self.filling.take() {
            let (entries, records) = (filling.entries, filling.records);
            let since_ns = Some(filling.since_ns);
            self.place(filling.block, filling.len, entries, records, since_ns);
        }
    }

    /// Gives a block its header and its place, behind all others.
    fn place(
        &mut self,
        mut block: OpenBlock,
        len: usize,
        entries: u32,
        records: u32,
        since_ns: Option<u64>,
    ) {
        let padded = len.next_multiple_of(BLOCK_ALIGN);
        let segment = self.segments.back_mut().expect("a block has a segment");
        assert!(
            segment.filled + padded as u64 <= self.plan.segment_len,
            "a block of {padded} bytes at {} of {} in segment {}",
            segment.filled,
            self.plan.segment_len,
            segment.number,
        );
        let header = BlockHeader {
            len: len as u32,
            position: self.accepted,
            durable: self.durable,
            segment: segment.number,
            records_before: self.records_accepted,
            entries,
            records,
            salt: segment.salt,
        };
        let bytes = block.bytes_mut();
        header.write(
            bytes
                .first_chunk_mut()
                .expect("a block is longer than its header"),
        );
        // What an earlier use of the memory left must not reach the disk as if it meant something.
        bytes[len..padded].fill(0);
        let (file, offset) = (segment.file, SEGMENT_HEADER_LEN as u64 + segment.filled);
        segment.filled += padded as u64;
        self.records_accepted += u64::from(records);
        self.accepted += padded as u64;
        let sealed = Contents::Block { since_ns };
        self.write(file, offset, block.share(header), sealed, padded);
    }

    /// Time has passed: a block that has waited long enough is sealed, the next segment is turned
    /// to, one that will be needed is made, one that every sink has behind it is removed.
    pub fn tick(&mut self, now: Now) {
        self.look_at_sinks();
        if self
            .commit_deadline_ns()
            .is_some_and(|deadline| deadline <= now.monotonic_ns)
        {
            self.seal();
        }
        self.turn_where_wanted(now);
        self.write_snapshot(now);
        self.prepare_segment(now);
        self.remove_segment(now);
        self.push_sync(now);
        let is_writable = self.has_place() || matches!(self.next, NextSegment::Ready { .. });
        self.plan.marks.set_writable(is_writable);
        let refusal = match self.next {
            NextSegment::Refused { cause, .. } if !is_writable => Some(cause),
            _ => None,
        };
        self.tell_refusal(refusal, now);
    }

    fn commit_deadline_ns(&self) -> Option<u64> {
        let filling = self.filling.as_ref()?;
        Some(filling.since_ns + self.plan.commit_interval.as_nanos() as u64)
    }

    /// When `tick` has something to do for what was appended.
    pub fn deadline_ns(&self) -> Option<u64> {
        let commit = self.commit_deadline_ns();
        let sync = self.sync_deadline_ns();
        commit.into_iter().chain(sync).min()
    }

    /// Seals what is open and syncs what is written, to drain at a stop.
    pub fn flush(&mut self, now: Now) {
        self.flushing = true;
        self.seal();
        self.push_sync(now);
    }

    /// Whether everything appended is durable and nothing is in the kernel.
    pub fn is_settled(&self) -> bool {
        self.filling.is_none()
            && self.sealed.iter().all(Sealed::is_written_page)
            && self.syncing.is_none()
            && self.snapshot.is_none()
            && self.doomed.is_empty()
            && self.removing.is_none()
            && !self.litter.iter().any(|litter| litter.removing)
            && !matches!(self.next, NextSegment::Making { .. })
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
