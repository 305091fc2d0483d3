//! The sink that hands over to another Penstock: the producer's state machine
//! (`penstock_client::Exchange`) reading the journal.
//!
//! Each entry goes out as one frame, its payload, encoding and compression as they came. Its number
//! is its place: the ordinal of the entry since the cursor's beginning. So after a crash of either
//! end the same entries are read again and bear the same numbers, and the receiver knows those that
//! it took: exactly once across the hop.
//!
//! ```text
//!        saved.sequence        exchange.base()                 next entry
//!  durable cursor ┤ settled, in `places` │ outstanding, queued, in `places` │ not read
//!                 └──────────── begun: less than 1,024 ───────┘
//! ```
//!
//! - The receiver remembers 1,024 numbers. So a frame is begun only if it lies less than that above
//!   the *durable* cursor: `store_progress` moves it every `PROGRESS_FRAMES`, also into the middle
//!   of a block.
//! - The cursor passes only what is settled, in order.
//! - An entry that cannot be read keeps its number: read from memory it may have been sent, and read
//!   from disk after a crash be damaged. The others' numbers must not change by that.
//! - Where the journal itself has a hole, nobody knows how many entries stood there. The numbers jump
//!   beyond all that may have been used.

pub mod cursor;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use penstock_client::report::Report;
use penstock_client::window::Passed;
use penstock_client::{Exchange, Options, Transport, random_producer_id};
use penstock_proto::wire;

use crate::journal::feed::{JournalMarks, SinkMark};
use crate::journal::format::Entry;
use crate::limits::{FORWARD_BYTES_MAX, OUTSTANDING_FRAMES_MAX};
use crate::sink::clock::Clock;
use crate::sink::file::CURSORS_FOLDER;
use crate::sink::file::cursor::CursorFile;
use crate::sink::file::disk::Disk;
use crate::sink::file::output::failed;
use crate::sink::{
    Block, Cursor, Delivered, ErrorReason, Sink, SinkError, SinkStats, SkipReason, StopDeadline,
};
use cursor::SavedForward;

/// The durable cursor follows at the latest after so many settled frames: half of what may be
/// outstanding, so that the other half goes on meanwhile.
const PROGRESS_FRAMES: u64 = OUTSTANDING_FRAMES_MAX as u64 / 2;
/// How far the numbers jump where the journal has a hole.
const JUMP: u64 = 2 * OUTSTANDING_FRAMES_MAX as u64;
/// The longest wait for an answer before the stop's deadline is looked at.
const WAIT: Duration = Duration::from_millis(100);
/// Refusals are logged once in so long, added up.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The way to the other agent. `Transport` is the real one.
pub trait Pipe {
    /// Does what the exchange demands; waits at most `wait`.
    fn turn(&mut self, exchange: &mut Exchange, wait: Duration) -> io::Result<()>;
    fn now(&self) -> Instant;
    /// The last thing that went wrong with a connection, once.
    fn take_error(&mut self) -> Option<io::Error>;
}

impl Pipe for Transport {
    fn turn(&mut self, exchange: &mut Exchange, wait: Duration) -> io::Result<()> {
        let demand = exchange.poll(Instant::now());
        Transport::turn(self, exchange, demand, None, wait).map(|_| ())
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn take_error(&mut self) -> Option<io::Error> {
        Transport::take_error(self)
    }
}

/// Who forwards, and where its marks are.
pub struct ForwardPlan {
    pub name: String,
    pub shard: u16,
    pub data_dir: PathBuf,
    pub targets: usize,
    pub stats: Arc<SinkStats>,
    pub stop: Arc<StopDeadline>,
    pub marks: Arc<JournalMarks>,
    pub mark: Arc<SinkMark>,
    /// The producer id and the jitter's seed, for simulations that are to be replayed; `None`: both
    /// are the system's.
    pub seed: Option<u64>,
}

impl ForwardPlan {
    /// An id that nobody has had.
    fn new_producer(&self) -> u64 {
        self.seed
            .map_or_else(random_producer_id, |seed| seed.max(1))
    }
}

/// Where reading goes on behind an entry.
#[derive(Clone, Copy, Debug)]
struct Place {
    cursor: Cursor,
    entries: u32,
}

/// One sink's way through one shard's journal.
pub struct ForwardSink<D: Disk, P: Pipe> {
    plan: ForwardPlan,
    disk: D,
    pipe: P,
    cursors: CursorFile,
    exchange: Exchange,
    /// What the cursor's file says.
    saved: SavedForward,
    /// For each entry from `saved.sequence` on that was read.
    places: VecDeque<Place>,
    /// What has been read: a block's end.
    cursor: Cursor,
    /// Entries of the next block that are settled already.
    skip_entries: u32,
    /// The journal had a hole at `cursor`.
    jump: bool,
    /// Nothing was delivered since the loop asked last.
    quiet: Cell<bool>,
    skipped_records: u64,
    /// What of the exchange's books is in the sink's.
    counted: Counted,
}

#[derive(Default)]
struct Counted {
    passed: Passed,
    failures: u64,
    tried_later: u64,
    refused_frames: u64,
    logged: Option<(Instant, Report)>,
}

impl<D: Disk, P: Pipe> ForwardSink<D, P> {
    pub fn new(plan: ForwardPlan, disk: D, pipe: P) -> Self {
        let cursors = CursorFile::new(plan.data_dir.join(CURSORS_FOLDER), &plan.name, plan.shard);
        let saved = SavedForward {
            producer: plan.new_producer(),
            cursor: Cursor::default(),
            entries: 0,
            sequence: 1,
        };
        Self {
            exchange: exchange(&plan, &saved),
            plan,
            disk,
            pipe,
            cursors,
            saved,
            places: VecDeque::with_capacity(OUTSTANDING_FRAMES_MAX),
            cursor: Cursor::default(),
            skip_entries: 0,
            jump: false,
            quiet: Cell::new(true),
            skipped_records: 0,
            counted: Counted::default(),
        }
    }

    /// Everything begins at the saved cursor; connections and frames in memory are forgotten.
    fn start(&mut self) {
        self.exchange = exchange(&self.plan, &self.saved);
        self.set_limit();
        self.places.clear();
        self.cursor = self.saved.cursor;
        self.skip_entries = self.saved.entries;
        self.jump = false;
        self.skipped_records = 0;
        self.counted = Counted::default();
    }

    fn set_limit(&mut self) {
        let limit = self.saved.sequence + OUTSTANDING_FRAMES_MAX as u64;
        self.exchange.set_begin_limit(limit);
    }

    /// The sequence of the next entry to be read.
    fn next_sequence(&self) -> u64 {
        self.saved.sequence + self.places.len() as u64
    }

    /// One exchange with the other agent, and the cursor after it where it is time.
    fn pump(&mut self, wait: Duration) -> Result<(), SinkError> {
        let stop = self.plan.stop.get();
        if stop.is_some_and(|deadline| self.pipe.now() >= deadline) {
            let journalled = self.plan.marks.durable_records();
            let committed = self.plan.mark.committed_records();
            return Err(SinkError::Deadline {
                undelivered: journalled.saturating_sub(committed),
            });
        }
        self.pipe
            .turn(&mut self.exchange, wait)
            .map_err(SinkError::Connection)?;
        self.count_failures();
        if self.exchange.base() >= self.saved.sequence + PROGRESS_FRAMES {
            self.store_progress()?;
        }
        Ok(())
    }

    /// Until there is room for a frame of this length.
    fn wait_for_room(&mut self, frame_len: usize) -> Result<(), SinkError> {
        while !self.exchange.has_room() || self.exchange.bytes() + frame_len > FORWARD_BYTES_MAX {
            self.pump(WAIT)?;
        }
        Ok(())
    }

    /// Until everything that was read is settled.
    fn settle_all(&mut self) -> Result<(), SinkError> {
        while self.exchange.base() < self.next_sequence() {
            self.pump(WAIT)?;
        }
        Ok(())
    }

    /// The durable cursor moves over what is settled, wherever in a block that ends.
    fn store_progress(&mut self) -> Result<(), SinkError> {
        let settled = (self.exchange.base() - self.saved.sequence) as usize;
        let Some(place) = settled.checked_sub(1).map(|last| self.places[last]) else {
            return Ok(());
        };
        self.store(SavedForward {
            cursor: place.cursor,
            entries: place.entries,
            sequence: self.exchange.base(),
            ..self.saved
        })
    }

    /// Everything is settled: the durable cursor moves to the end of what was read.
    fn store_all(&mut self) -> Result<(), SinkError> {
        let jump = std::mem::take(&mut self.jump);
        let saved = SavedForward {
            cursor: self.cursor,
            entries: 0,
            sequence: self.exchange.base() + if jump { JUMP } else { 0 },
            ..self.saved
        };
        if saved != self.saved {
            self.store(saved)?;
        }
        if jump {
            self.start();
        }
        Ok(())
    }

    fn store(&mut self, saved: SavedForward) -> Result<(), SinkError> {
        self.cursors.store_text(&mut self.disk, &saved.to_text())?;
        let passed = self
            .places
            .len()
            .min((saved.sequence - self.saved.sequence) as usize);
        self.places.drain(..passed);
        self.saved = saved;
        self.set_limit();
        let now = self.exchange.passed();
        let before = std::mem::replace(&mut self.counted.passed, now);
        let stats = &self.plan.stats;
        let delivered = now.acknowledged.records - before.acknowledged.records;
        stats.records.fetch_add(delivered, Ordering::Relaxed);
        let lost = now.lost.records - before.lost.records;
        stats.count_skipped(SkipReason::Refused, lost);
        Ok(())
    }

    /// What went wrong since the last look, in the sink's books and in the log.
    fn count_failures(&mut self) {
        let report = self.exchange.report();
        let stats = &self.plan.stats;
        let count = |counted: &mut u64, now: u64, reason| {
            let more = now - std::mem::replace(counted, now);
            if more > 0 {
                stats.count_error(reason, more);
            }
            more
        };
        let counted = &mut self.counted;
        let failures = report.connects_failed + report.connections_lost;
        let failed = count(&mut counted.failures, failures, ErrorReason::Connection);
        count(
            &mut counted.tried_later,
            report.tried_later_frames,
            ErrorReason::TryLater,
        );
        let refused = report.refused.total().frames;
        count(&mut counted.refused_frames, refused, ErrorReason::Refused);
        if failed > 0 {
            let error = self.pipe.take_error();
            tracing::warn!(
                sink = self.plan.name,
                shard = self.plan.shard,
                target = self.exchange.target(),
                "the agent that this sink forwards to: {}",
                error.map_or_else(|| "no answer in time".to_owned(), |error| error.to_string())
            );
        }
        if refused > 0 {
            self.log_refusals();
        }
    }

    fn log_refusals(&mut self) {
        let now = self.pipe.now();
        let report = self.exchange.report();
        let logged = self.counted.logged.as_ref();
        if logged.is_some_and(|(at, before)| {
            now < *at + LOG_INTERVAL || before.refused == report.refused
        }) {
            return;
        }
        for (reason, tally) in report.refused.iter() {
            tracing::error!(
                sink = self.plan.name,
                shard = self.plan.shard,
                reason,
                frames = tally.frames,
                records = tally.records,
                "refused by the agent that this sink forwards to, and not sent again (totals since \
                 this sink's last start)"
            );
        }
        self.counted.logged = Some((now, report.clone()));
    }

    fn create_folder(&mut self) -> Result<(), SinkError> {
        let folder = self.plan.data_dir.join(CURSORS_FOLDER);
        self.disk
            .create_folder(&folder)
            .map_err(failed("create folder", &folder))?;
        // A rename that a crash cut short of its folder's sync is made durable before it is believed.
        for folder in [&self.plan.data_dir, &folder] {
            let synced = self.disk.sync_folder(folder);
            synced.map_err(failed("sync folder", folder))?;
        }
        Ok(())
    }
}

/// The forwarding sink's own waits; batches are not its business.
fn exchange(plan: &ForwardPlan, saved: &SavedForward) -> Exchange {
    let options = Options {
        connect_timeout: Duration::from_secs(2),
        jitter_seed: plan.seed,
        ..Options::default()
    };
    Exchange::new(options, saved.producer, saved.sequence, plan.targets)
}

/// The entry as one frame. Producer and sequence are set when it is begun.
fn frame(entry: &Entry<'_>) -> Vec<u8> {
    let mut frame = Vec::with_capacity(entry.header.frame_len());
    frame.extend_from_slice(&wire::seal(&entry.header));
    frame.extend_from_slice(entry.payload);
    frame
}

/// How far a sink that is not enabled has come.
pub fn saved_cursor(
    data_dir: &Path,
    name: &str,
    shard: u16,
    disk: &mut impl Disk,
) -> Result<Option<Cursor>, SinkError> {
    let file = CursorFile::new(data_dir.join(CURSORS_FOLDER), name, shard);
    let saved = file.load_as(disk, SavedForward::from_text)?;
    Ok(saved.map(|saved| saved.cursor))
}

impl<D: Disk, P: Pipe> Sink for ForwardSink<D, P> {
    fn resume(&mut self) -> Result<Option<Cursor>, SinkError> {
        self.create_folder()?;
        let Some(saved) = self
            .cursors
            .load_as(&mut self.disk, SavedForward::from_text)?
        else {
            return Ok(None);
        };
        self.saved = saved;
        self.start();
        Ok(Some(saved.cursor))
    }

    fn begin(&mut self, cursor: Cursor) -> Result<(), SinkError> {
        let saved = SavedForward {
            producer: self.plan.new_producer(),
            cursor,
            entries: 0,
            sequence: 1,
        };
        self.cursors.store_text(&mut self.disk, &saved.to_text())?;
        self.saved = saved;
        self.start();
        Ok(())
    }

    fn deliver(&mut self, block: Block<'_>) -> Result<Delivered, SinkError> {
        self.quiet.set(false);
        if self.jump {
            self.settle_all()?;
            self.store_all()?;
        }
        let begin = Cursor {
            position: block.header.position,
            records: block.header.records_before,
        };
        let skip = std::mem::take(&mut self.skip_entries);
        let mut observed_time_unix_nano = 0;
        let mut readable = 0;
        let mut damaged = 0;
        let mut first_fault = None;
        for (ordinal, entry) in (0..).zip(block.entries()) {
            if let Ok(entry) = &entry {
                observed_time_unix_nano = entry.envelope.observed_time_unix_nano;
                readable += u64::from(entry.header.records);
            }
            if ordinal < skip {
                continue;
            }
            match entry {
                Ok(entry) => {
                    self.wait_for_room(entry.header.frame_len())?;
                    let now = self.pipe.now();
                    self.exchange
                        .enqueue(frame(&entry), entry.header.records, now);
                }
                Err(fault) => {
                    self.wait_for_room(0)?;
                    self.exchange.enqueue_gap();
                    damaged += 1;
                    first_fault.get_or_insert(fault);
                }
            }
            self.places.push_back(Place {
                cursor: begin,
                entries: ordinal + 1,
            });
        }
        self.cursor = Cursor {
            position: block.end_position(),
            records: block.end_records(),
        };
        if damaged > 0 {
            self.skipped_records += u64::from(block.header.records).saturating_sub(readable);
            self.plan.stats.count_error(ErrorReason::Damaged, damaged);
            tracing::error!(
                sink = self.plan.name,
                shard = self.plan.shard,
                position = begin.position,
                damaged,
                fault = first_fault.map(tracing::field::display),
                "entries of a journal block were stepped over"
            );
        }
        // What can go out now does; answers are read with the next block, or in the commit.
        self.pump(Duration::ZERO)?;
        // Records count when they are settled, by `store`: some may be refused.
        Ok(Delivered {
            observed_time_unix_nano,
            ..Delivered::default()
        })
    }

    fn skip_to(&mut self, cursor: Cursor) {
        self.cursor = cursor;
        self.skip_entries = 0;
        self.jump = true;
    }

    /// While blocks come, the loop's own bounds do; when they pause, what is outstanding is waited
    /// for at once.
    fn wants_commit(&self) -> bool {
        self.quiet.replace(true) && !self.places.is_empty()
    }

    fn commit(&mut self) -> Result<Cursor, SinkError> {
        self.settle_all()?;
        self.store_all()?;
        let skipped = std::mem::take(&mut self.skipped_records);
        let stats = &self.plan.stats;
        stats.count_skipped(SkipReason::Unreadable, skipped);
        Ok(self.cursor)
    }

    fn seal(&mut self) -> Result<Cursor, SinkError> {
        self.commit()
    }

    fn clock(&self) -> Clock {
        self.disk.clock()
    }
}
