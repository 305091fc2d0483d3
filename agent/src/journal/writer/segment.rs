//! A segment's life: made ahead of need, turned to, finished when it is wholly durable, removed when
//! every sink has it behind it.
//!
//! ```text
//! Idle ─half of this one is filled─▶ Making: open, allocate, sync the name ─▶ Ready ─turn─▶ takes blocks
//!   ▲                                  │ fails, or the limit is reached                       │
//!   └──────── a later tick ◀── Refused ┘             removed ◀─ finished ◀─ wholly durable ◀──┘
//! ```

use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::Ordering;

use super::commit::Contents;
use super::removal::LITTER_MAX;
use super::{ExistingSegment, Writer};
use crate::config::settings::OnFull;
use crate::journal::format::{BlockHeader, SEGMENT_HEADER_LEN, SegmentHeader};
use crate::shard::buffer::OpenBlock;
use crate::shard::counters::{Refusal, SegmentCall};
use crate::shard::op::{Errno, Now, Op, SegmentFile};

/// How long the writer waits before it tries again what failed: to create a segment, to remove one.
pub(super) const SEGMENT_RETRY_NS: u64 = 1_000_000_000;

/// A segment that is not wholly durable yet.
pub(super) struct Segment {
    pub number: u64,
    pub file: SegmentFile,
    pub salt: u64,
    pub base: u64,
    /// Bytes of blocks assigned to it.
    pub filled: u64,
    /// How many listeners its header names.
    pub listeners: usize,
}

impl Segment {
    pub fn end(&self) -> u64 {
        self.base + self.filled
    }
}

/// The segment that comes next.
pub(super) enum NextSegment {
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
    Refused { cause: Refusal, until_ns: u64 },
}

impl Writer {
    /// Starts the next segment when half of this one is filled: making one takes the disk a few
    /// milliseconds, and half a segment is a tenth of a second at 1 GB/s.
    pub(super) fn prepare_segment(&mut self, now: Now) {
        let refused = match self.next {
            NextSegment::Refused { cause, until_ns } if now.monotonic_ns >= until_ns => Some(cause),
            NextSegment::Idle => {
                let here = self
                    .segments
                    .back()
                    .map_or(u64::MAX, |segment| segment.filled);
                if here < self.plan.segment_len / 2 && !self.lacks_names() {
                    return;
                }
                None
            }
            _ => return,
        };
        let short = self.shortage();
        if self.plan.on_full == OnFull::DropOldest
            && let Some(cause) = short.or(refused.filter(|cause| *cause == Refusal::DiskFull))
        {
            self.drop_oldest(cause, now);
        }
        if short == Some(Refusal::MaxSize) && self.removing.is_some() {
            // The room is on its way: what has arrived waits for it.
            self.next = NextSegment::Idle;
            return;
        }
        // The first snapshot must have its place: until it is durable nothing else may go.
        if let Some(cause) = short
            && !self.owes_snapshot
        {
            // Looked at again at every tick: the sinks or the operator may make room at any time.
            let until_ns = now.monotonic_ns;
            self.next = NextSegment::Refused { cause, until_ns };
            return;
        }
        let Some(page) = self.blocks.acquire() else {
            // Blocks come back with the next sync, and the next tick tries again.
            if refused.is_none() {
                self.next = NextSegment::Idle;
            }
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

    /// Why no segment may be made now.
    fn shortage(&self) -> Option<Refusal> {
        let segment_bytes = self.plan.segment_len + SEGMENT_HEADER_LEN as u64;
        if self.bytes - self.held_back() + segment_bytes > self.plan.size_max {
            Some(Refusal::MaxSize)
        } else if self.plan.disk_low.load(Ordering::Relaxed) {
            Some(Refusal::MinFree)
        } else if self.litter.len() >= LITTER_MAX {
            Some(Refusal::Failed)
        } else {
            None
        }
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
            Err(errno) => self.give_up_segment(errno, SegmentCall::Create, now),
        }
    }

    pub fn on_segment_allocated(&mut self, number: u64, result: Result<(), Errno>, now: Now) {
        match result {
            Ok(()) => self.outbox.push(Op::FolderSync { number }),
            Err(errno) => self.give_up_segment(errno, SegmentCall::Allocate, now),
        }
    }

    pub fn on_folder_synced(&mut self, number: u64, result: Result<(), Errno>, now: Now) {
        if let Err(errno) = result {
            return self.give_up_segment(errno, SegmentCall::SyncName, now);
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
    fn give_up_segment(&mut self, errno: Errno, call: SegmentCall, now: Now) {
        let cause = Refusal::of(errno.0);
        let until_ns = now.monotonic_ns + SEGMENT_RETRY_NS;
        let failed = std::mem::replace(&mut self.next, NextSegment::Refused { cause, until_ns });
        let NextSegment::Making { number, file, .. } = failed else {
            panic!("a segment failed that was not being made");
        };
        self.on_call_failed(call, number, errno, now);
        if let Some(file) = file {
            self.outbox.push(Op::SegmentClose { number, file });
            self.discard(number);
        }
    }

    /// Turns to the next segment where a frame waits for it, or what was remembered at the start is
    /// to be made durable, and it is ready. The block being filled goes to the segment that is left.
    pub(super) fn turn_where_wanted(&mut self, now: Now) {
        let owes = self.owes_snapshot && self.segments.is_empty();
        let wanted = (self.turn_wanted || owes) && !self.has_place() || self.lacks_names();
        if wanted && self.snapshot.is_none() && matches!(self.next, NextSegment::Ready { .. }) {
            self.seal();
            self.turn_wanted = false;
            self.turn_segment(now);
            self.begin_snapshot(now);
        }
    }

    /// From here on blocks go to the next segment, which is ready. Its header page is written
    /// before its first block, so that `written` passes it first.
    fn turn_segment(&mut self, now: Now) {
        let NextSegment::Ready {
            number,
            file,
            mut page,
        } = std::mem::replace(&mut self.next, NextSegment::Idle)
        else {
            panic!("segment {} is needed and not ready", self.next_number);
        };
        let salt = self.salt(number);
        let header = SegmentHeader {
            shard: self.shard,
            number,
            base: self.accepted,
            records_before: self.records_accepted,
            created_unix_nano: now.unix_ns,
            predecessor: self.predecessor(),
            salt,
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
            salt,
            base: self.accepted,
            filled: 0,
            listeners: self.listeners.len(),
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
            salt,
        };
        self.write(
            file,
            0,
            page.share(marker),
            Contents::Page,
            SEGMENT_HEADER_LEN,
        );
        // The one before may be wholly durable already: no sync of it is to come that would say so.
        self.finish_segments();
    }

    /// Nobody outside can guess it: the seed is random and leaves the process only through this.
    fn salt(&self, number: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.plan.salt_seed);
        hasher.write_u64(number);
        hasher.finish()
    }

    /// The segment before the next one, be it still written to, poisoned or finished.
    fn predecessor(&self) -> u64 {
        let open = self.segments.back().map(|segment| segment.number);
        let doomed = self.doomed.iter().filter(|doomed| doomed.is_kept());
        let doomed = doomed.map(|doomed| doomed.number).max();
        let finished = self.finished.back().map(|segment| segment.number);
        open.or(doomed.max(finished)).unwrap_or(0)
    }

    /// Segments that will get no more blocks and are wholly durable are closed.
    pub(super) fn finish_segments(&mut self) {
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
}
