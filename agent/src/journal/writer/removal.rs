//! Segments go: the oldest once every sink has it (or to make room, where the configuration says
//! so), and those of which nothing is worth keeping. A removal that fails is tried again; until it
//! has succeeded the file is there, and its bytes count.

use super::segment::SEGMENT_RETRY_NS;
use super::{ExistingSegment, Writer};
use crate::journal::format::SEGMENT_HEADER_LEN;
use crate::shard::counters::{Refusal, SegmentCall};
use crate::shard::op::{Errno, Now, Op};

/// Files that are to go and cannot be removed: with more of them no segment is made, or a folder
/// in which files can be created but not removed would fill without end.
pub(super) const LITTER_MAX: usize = 4;
/// The same thing is said at most this often: at the limit, segments come and go all the time.
const SAY_AGAIN_NS: u64 = 10_000_000_000;

/// A file that holds nothing: given up while it was made, or poisoned before anything of it was
/// durable. Recovery would remove it too.
pub(super) struct Litter {
    number: u64,
    /// Its removal is in the kernel.
    pub removing: bool,
}

/// What was said in the log, and when, so that an episode is one line.
#[derive(Default)]
pub(super) struct Said {
    refusal: Option<(Refusal, u64)>,
    failed: Option<(SegmentCall, Errno, u64)>,
    dropped_ns: Option<u64>,
}

impl Said {
    fn is_new(last_ns: Option<u64>, now: Now) -> bool {
        last_ns.is_none_or(|last| now.monotonic_ns.saturating_sub(last) >= SAY_AGAIN_NS)
    }
}

impl Writer {
    /// Removes the oldest finished segment, one at a time, once every sink has committed it.
    /// Without a sink nothing is removed so: the journal is then the only copy.
    ///
    /// A later segment is never removed before an earlier one: its base says where the earlier
    /// one's valid part ends. And the last one stays until there is a durable block behind it, or a
    /// restart would find nothing that tells which positions were given out. Nor does one go that
    /// holds what is remembered of the producers (`snapshot`).
    pub(super) fn remove_segment(&mut self, now: Now) {
        self.remove_litter(now);
        if self
            .finished
            .front()
            .is_some_and(|oldest| self.is_committed(oldest))
        {
            self.remove_oldest(now);
        }
    }

    /// Removes the oldest finished segment although a sink lacks it. One that finds its next
    /// position missing goes on at the oldest there is and counts what it did not get: only it knows
    /// that, as it may still be reading the file.
    ///
    /// What `max_size` wants is known at once. What a removal does for the disk is seen by the
    /// control thread a moment later, and others may fill the disk: one segment a second.
    pub(super) fn drop_oldest(&mut self, cause: Refusal, now: Now) {
        let Some(oldest) = self.finished.front().copied() else {
            return;
        };
        let waits = cause != Refusal::MaxSize && now.monotonic_ns < self.next_drop_ns;
        if waits || self.is_committed(&oldest) || !self.can_go(&oldest, now) {
            return;
        }
        self.next_drop_ns = now.monotonic_ns + SEGMENT_RETRY_NS;
        self.plan.marks.drop_until(oldest.end);
        if Said::is_new(self.said.dropped_ns, now) {
            tracing::error!(
                shard = self.shard,
                segment = oldest.number,
                cause = cause.label(),
                "the journal is full: its oldest segments are dropped undelivered \
                 (journal.on_full); penstock_sink_skipped_records_total counts what a sink lost",
            );
        }
        self.said.dropped_ns = Some(now.monotonic_ns);
        self.remove_oldest(now);
    }

    fn remove_oldest(&mut self, now: Now) {
        let Some(oldest) = self.finished.front() else {
            return;
        };
        let number = oldest.number;
        if self.can_go(oldest, now) {
            self.removing = Some(number);
            self.outbox.push(Op::SegmentRemove { number });
        }
    }

    fn can_go(&self, oldest: &ExistingSegment, now: Now) -> bool {
        let waits = self
            .doomed
            .iter()
            .any(|doomed| doomed.number < oldest.number);
        let rests = now.monotonic_ns < self.next_removal_ns;
        let is_needed = !self.is_forgettable(oldest.number) || !self.has_successor();
        self.removing.is_none() && !waits && !rests && !is_needed
    }

    /// Whether a durable block lies behind the oldest finished segment.
    fn has_successor(&self) -> bool {
        let open = self.segments.front();
        self.finished.len() > 1 || open.is_some_and(|segment| segment.base < self.durable)
    }

    fn is_committed(&self, segment: &ExistingSegment) -> bool {
        let marks = self.plan.feeds.iter().map(|feed| feed.mark.committed());
        marks
            .min()
            .is_some_and(|committed| segment.end <= committed)
    }

    /// Bytes of a segment that goes as soon as its successor has a block: they do not count against
    /// the limit, or a limit that was lowered between two lives could keep that block away.
    pub(super) fn held_back(&self) -> u64 {
        match self.finished.front() {
            Some(oldest) if !self.has_successor() && self.is_committed(oldest) => oldest.bytes,
            _ => 0,
        }
    }

    /// A file of which nothing is to stay; it is closed, and its bytes count until it is gone.
    pub(super) fn discard(&mut self, number: u64) {
        self.litter.push(Litter {
            number,
            removing: true,
        });
        self.outbox.push(Op::SegmentRemove { number });
    }

    fn remove_litter(&mut self, now: Now) {
        if now.monotonic_ns < self.next_removal_ns {
            return;
        }
        for litter in self.litter.iter_mut().filter(|litter| !litter.removing) {
            litter.removing = true;
            let number = litter.number;
            self.outbox.push(Op::SegmentRemove { number });
        }
    }

    pub fn on_segment_removed(&mut self, number: u64, result: Result<(), Errno>, now: Now) {
        // Somebody else's removal is as good.
        let failed = result.err().filter(|errno| errno.0 != libc::ENOENT);
        if let Some(errno) = failed {
            self.on_call_failed(SegmentCall::Remove, number, errno, now);
            self.next_removal_ns = now.monotonic_ns + SEGMENT_RETRY_NS;
        }
        if self.removing == Some(number) {
            self.removing = None;
            if failed.is_none() {
                let removed = self.finished.pop_front().expect("it was asked to go");
                assert_eq!(removed.number, number, "the oldest goes first");
                self.bytes -= removed.bytes;
            }
            return;
        }
        let litter = self
            .litter
            .iter()
            .position(|litter| litter.number == number);
        let at = litter.unwrap_or_else(|| panic!("segment {number} was not to be removed"));
        if failed.is_some() {
            self.litter[at].removing = false;
        } else {
            self.litter.swap_remove(at);
            self.bytes -= self.plan.segment_len + SEGMENT_HEADER_LEN as u64;
        }
    }

    /// Counts a call that failed, and says so once while it goes on failing in the same way.
    pub(super) fn on_call_failed(
        &mut self,
        call: SegmentCall,
        number: u64,
        errno: Errno,
        now: Now,
    ) {
        self.call_errors[call as usize] += 1;
        let same = self
            .said
            .failed
            .filter(|said| (said.0, said.1) == (call, errno));
        if Said::is_new(same.map(|said| said.2), now) {
            let error = std::io::Error::from(errno);
            tracing::error!(
                shard = self.shard,
                segment = number,
                "cannot {} a segment: {error}; trying again each second",
                call.words(),
            );
            self.said.failed = Some((call, errno, now.monotonic_ns));
        }
    }

    /// Says when frames begin to be refused, and when they are taken again.
    pub(super) fn tell_refusal(&mut self, refusal: Option<Refusal>, now: Now) {
        self.plan.marks.set_refusal(refusal);
        let told = self.said.refusal;
        match (refusal, told) {
            (Some(cause), _) if told.is_none_or(|told| told.0 != cause) => {
                tracing::error!(
                    shard = self.shard,
                    cause = cause.label(),
                    journal_bytes = self.bytes,
                    "the journal takes nothing: senders are told to try later, UDP is refused",
                );
                self.said.refusal = Some((cause, now.monotonic_ns));
            }
            (Some(cause), _) => self.said.refusal = Some((cause, now.monotonic_ns)),
            // At the limit, with a sink that keeps up, it comes and goes: that is one episode.
            (None, Some((_, last_ns))) if Said::is_new(Some(last_ns), now) => {
                tracing::info!(shard = self.shard, "the journal takes frames again");
                self.said.refusal = None;
            }
            (None, _) => {}
        }
    }
}
