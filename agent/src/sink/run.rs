//! The cursor loop: one thread per sink and shard.
//!
//! ```text
//!           ┌──────────────── an error: counted, then a growing pause ───────────────┐
//!           ▼                                                                        │
//!        resume ─▶ next block: from memory if it is the next one, ─▶ deliver ─▶ commit at bounds
//!                  else from disk, up to the durable mark               ▲            │
//!                                                                       └────────────┘
//!        feed closed and everything durable delivered ─▶ seal ─▶ end
//! ```
//!
//! After any error the loop forgets what it holds and starts over with `resume`, exactly as after a
//! crash: there is one way back to a consistent state, and it is used every day.

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use penstock_client::Transport;

use crate::config::settings::{SinkKind, SinkSettings};
use crate::journal::feed::{Fed, FeedReceiver, JournalMarks, SinkMark};
use crate::journal::format::{segment_file_name, shard_folder_name};
use crate::journal::reader::{JournalReader, ReadError, oldest, read_segment_header};
use crate::privilege;
use crate::schema::table::Schemas;
use crate::shard::buffer::SharedBlock;
use crate::sink::clock::Clock;
use crate::sink::file::cursor::CursorFile;
use crate::sink::file::disk::RealDisk;
use crate::sink::file::{CURSORS_FOLDER, FileSink};
use crate::sink::forward::{self, ForwardPlan, ForwardSink};
use crate::sink::{
    Block, Cursor, Delivered, ErrorReason, Sink, SinkError, SinkLag, SinkStats, SkipReason,
    StopDeadline,
};

/// Commit at the latest this long after the first uncommitted record: what a crash makes the sink
/// write again, and how long the journal's oldest segment may wait for a sink that keeps up.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Commit at the latest after this much journal: a commit costs about four syncs (0.14 ms each on
/// the machine this was measured on), which 64 MiB of input make negligible, and a retry has at
/// most this much to read again. A quarter of the longest segment, so that segments are released one by one.
const COMMIT_INPUT_LEN: u64 = 64 << 20;
/// How long the loop waits for a block before it looks at the marks and the clock.
const WAIT: Duration = Duration::from_millis(100);
/// The pause after a failure: doubled up to the maximum, back to the first after a commit.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

const _: () = assert!(COMMIT_INPUT_LEN * 4 <= crate::limits::SEGMENT_LEN_MAX);

/// What a sink's thread needs.
pub struct SinkPlan {
    pub settings: SinkSettings,
    pub shard: u16,
    pub data_dir: PathBuf,
    /// The journal is recovered: its marks say how far it is durable.
    pub feed: FeedReceiver,
    pub schemas: Schemas,
    /// Shared by all shards of this sink.
    pub stats: Arc<SinkStats>,
    /// This thread's own.
    pub lag: Arc<SinkLag>,
    /// This thread's own, or shared by all sinks.
    pub stop: Arc<StopDeadline>,
}

/// Starts a sink's thread.
pub fn spawn(plan: SinkPlan) -> io::Result<JoinHandle<Result<(), SinkError>>> {
    match plan.settings.kind {
        SinkKind::File => {
            let sink = FileSink::new(
                RealDisk,
                &plan.settings,
                plan.shard,
                &plan.data_dir,
                &plan.schemas,
                Arc::clone(&plan.stats),
            )?;
            spawn_loop(sink, plan)
        }
        SinkKind::Penstock => {
            let forward = ForwardPlan {
                name: plan.settings.name.clone(),
                shard: plan.shard,
                data_dir: plan.data_dir.clone(),
                targets: plan.settings.to.len(),
                stats: Arc::clone(&plan.stats),
                stop: Arc::clone(&plan.stop),
                marks: Arc::clone(&plan.feed.marks),
                mark: Arc::clone(&plan.feed.mark),
                seed: None,
            };
            let transport = Transport::new(plan.settings.to.clone());
            spawn_loop(ForwardSink::new(forward, RealDisk, transport), plan)
        }
    }
}

fn spawn_loop<S: Sink + Send + 'static>(
    sink: S,
    plan: SinkPlan,
) -> io::Result<JoinHandle<Result<(), SinkError>>> {
    let name = format!("sink-{}-{:02}", plan.settings.name, plan.shard);
    let folder = journal_folder(&plan);
    std::thread::Builder::new().name(name).spawn(move || {
        privilege::give_up();
        Loop::new(sink, folder, plan).run()
    })
}

/// Stands in for the thread of a sink that is not enabled: the sink's mark stays where its cursor
/// is, so that the journal keeps what it has still to get.
pub fn hold(plan: &SinkPlan) -> Result<(), SinkError> {
    let name = &plan.settings.name;
    let saved = match plan.settings.kind {
        SinkKind::File => {
            let cursors = plan.data_dir.join(CURSORS_FOLDER);
            let saved = CursorFile::new(cursors, name, plan.shard).load(&mut RealDisk)?;
            saved.map(|saved| saved.cursor)
        }
        SinkKind::Penstock => {
            forward::saved_cursor(&plan.data_dir, name, plan.shard, &mut RealDisk)?
        }
    };
    let at = match saved {
        Some(cursor) => cursor,
        None => first(&journal_folder(plan), &plan.feed.marks)?,
    };
    plan.feed.mark.commit(at.position, at.records);
    Ok(())
}

fn journal_folder(plan: &SinkPlan) -> PathBuf {
    let shard_folder = shard_folder_name(plan.shard);
    plan.data_dir.join("journal").join(shard_folder)
}

/// Where a sink without a cursor begins: at the oldest segment there is.
fn first(folder: &Path, marks: &JournalMarks) -> Result<Cursor, SinkError> {
    let end = (marks.durable(), marks.durable_records());
    let (position, records) = oldest(folder)?.unwrap_or(end);
    Ok(Cursor { position, records })
}

/// Waits for a sink's thread until `deadline`; `None` where it still hangs in the kernel then.
pub fn join_until(
    thread: JoinHandle<Result<(), SinkError>>,
    deadline: Instant,
) -> Option<std::thread::Result<Result<(), SinkError>>> {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Some(thread.join())
}

/// The loop of one sink and shard. `spawn` runs it on a thread; a simulation calls `step`.
pub struct Loop<S> {
    sink: S,
    sink_name: String,
    shard: u16,
    folder: PathBuf,
    feed: FeedReceiver,
    stats: Arc<SinkStats>,
    lag: Arc<SinkLag>,
    stop: Arc<StopDeadline>,
    /// Where the next block begins.
    at: Cursor,
    /// Where this sink begins if it turns out to have no cursor: the oldest segment when it was looked
    /// at first. What is dropped before the sink can begin is then skipped, and counted.
    begins: Option<Cursor>,
    /// A block from memory that is not the next one yet.
    ahead: Option<SharedBlock>,
    /// The feed will bring nothing more.
    closed: bool,
    reader: Option<JournalReader>,
    names: ListenerNames,
    uncommitted: Uncommitted,
    /// The next step is `resume`.
    resumed: bool,
    backoff: Duration,
    clock: Clock,
}

/// What was delivered since the last commit.
#[derive(Default)]
struct Uncommitted {
    records: u64,
    skipped: [u64; SkipReason::COUNT],
    input_len: u64,
    last_observed_unix_nano: u64,
    /// When the first of it was delivered.
    since: Option<Instant>,
}

/// The listener names of the segment that in-memory blocks come from.
#[derive(Default)]
struct ListenerNames {
    segment: Option<u64>,
    names: Vec<String>,
}

impl ListenerNames {
    fn of(&mut self, folder: &Path, segment: u64) -> Result<&[String], ReadError> {
        if self.segment != Some(segment) {
            let header = read_segment_header(&folder.join(segment_file_name(segment)))?;
            self.names = header.listeners;
            self.segment = Some(segment);
        }
        Ok(&self.names)
    }
}

/// What one turn of the loop came to.
enum Turn {
    GoOn,
    End,
}

/// What a step asks of whoever drives the loop.
#[derive(Debug)]
pub enum Step {
    /// The next step, at once.
    GoOn,
    /// It failed; the next step after this pause starts over from the last commit.
    Failed { error: SinkError, pause: Duration },
    /// Everything is delivered and sealed, or the stop's deadline has passed.
    End(Result<(), SinkError>),
}

impl<S: Sink> Loop<S> {
    pub fn new(sink: S, folder: PathBuf, plan: SinkPlan) -> Self {
        Self {
            clock: sink.clock(),
            sink,
            sink_name: plan.settings.name,
            shard: plan.shard,
            folder,
            feed: plan.feed,
            stats: plan.stats,
            lag: plan.lag,
            stop: plan.stop,
            at: Cursor::default(),
            begins: None,
            ahead: None,
            closed: false,
            reader: None,
            names: ListenerNames::default(),
            uncommitted: Uncommitted::default(),
            resumed: false,
            backoff: BACKOFF_FIRST,
        }
    }

    fn run(mut self) -> Result<(), SinkError> {
        loop {
            match self.step(WAIT) {
                Step::GoOn => {}
                Step::Failed { error, pause } => {
                    if !self.pause(pause) {
                        return Err(error);
                    }
                }
                Step::End(outcome) => return outcome,
            }
        }
    }

    /// One turn, or one way back to the last commit; waits for a block at most `wait`.
    pub fn step(&mut self, wait: Duration) -> Step {
        let turn = if self.resumed {
            self.turn(wait)
        } else {
            self.resume()
        };
        match turn {
            Ok(Turn::GoOn) => {
                self.resumed = true;
                Step::GoOn
            }
            Ok(Turn::End) => Step::End(Ok(())),
            Err(error) => {
                self.resumed = false;
                self.on_error(&error);
                if matches!(error, SinkError::Deadline { .. }) {
                    return Step::End(Err(error));
                }
                let pause = self.backoff;
                self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
                Step::Failed { error, pause }
            }
        }
    }

    /// What the sink has committed, for a simulation's checks.
    pub fn mark(&self) -> &SinkMark {
        &self.feed.mark
    }

    /// Back to the last commit; the first time of all, to the oldest segment there is.
    fn resume(&mut self) -> Result<Turn, SinkError> {
        self.ahead = None;
        self.reader = None;
        self.uncommitted = Uncommitted::default();
        self.check_deadline()?;
        let first = match self.begins {
            Some(first) => first,
            None => *self.begins.insert(first(&self.folder, &self.feed.marks)?),
        };
        self.at = match self.sink.resume()? {
            Some(cursor) => self.within_journal(cursor),
            None => {
                self.sink.begin(first)?;
                first
            }
        };
        self.feed.mark.commit(self.at.position, self.at.records);
        Ok(Turn::GoOn)
    }

    /// A cursor beyond the durable mark speaks of another journal than this one (its folder was
    /// replaced). What this journal takes from now on is new: go on from its end.
    fn within_journal(&mut self, cursor: Cursor) -> Cursor {
        let marks = &self.feed.marks;
        if cursor.position <= marks.durable() {
            return cursor;
        }
        let end = Cursor {
            position: marks.durable(),
            records: marks.durable_records(),
        };
        tracing::error!(
            sink = self.sink_name,
            shard = self.shard,
            cursor = cursor.position,
            durable = end.position,
            "the cursor lies beyond the journal's end: the journal was replaced; going on from its end"
        );
        self.stats.count_error(ErrorReason::JournalMissing, 1);
        self.sink.skip_to(end);
        end
    }

    /// One block, or one wait; then a commit if it is time.
    fn turn(&mut self, wait: Duration) -> Result<Turn, SinkError> {
        if self.stop.is_leaving() {
            let cursor = self.sink.seal()?;
            self.on_committed(cursor);
            return Ok(Turn::End);
        }
        self.check_deadline()?;
        if self.ahead.is_none() && !self.closed {
            // While there is more on disk, memory is only looked at, not waited for.
            let durable = self.feed.marks.durable();
            let wait = if self.reader.is_some() && self.at.position < durable {
                Duration::ZERO
            } else {
                wait
            };
            match self.feed.wait(wait) {
                Fed::Block(block) => self.ahead = Some(block),
                Fed::Nothing => {}
                Fed::Closed => self.closed = true,
            }
        }
        let next = self.ahead.as_ref().map(|block| block.header().position);
        match next {
            Some(position) if position < self.at.position => self.ahead = None,
            Some(position) if position == self.at.position => self.deliver_from_memory()?,
            // A gap, or nothing in memory although the mark moved: it is on disk.
            _ => {
                let limit = next.unwrap_or(self.feed.marks.durable());
                if self.at.position < limit {
                    self.deliver_from_disk(limit)?;
                } else if self.closed && self.ahead.is_none() {
                    let cursor = self.sink.seal()?;
                    self.on_committed(cursor);
                    return Ok(Turn::End);
                }
            }
        }
        let now = self.clock.instant();
        let waited = self
            .uncommitted
            .since
            .map(|since| now.saturating_duration_since(since));
        if waited.is_some_and(|waited| waited >= COMMIT_INTERVAL)
            || self.uncommitted.input_len >= COMMIT_INPUT_LEN
            || self.sink.wants_commit()
        {
            let cursor = self.sink.commit()?;
            self.on_committed(cursor);
        }
        Ok(Turn::GoOn)
    }

    fn deliver_from_memory(&mut self) -> Result<(), SinkError> {
        let Some(shared) = self.ahead.take() else {
            return Ok(());
        };
        // The reader's buffer is only worth its memory while the sink lags.
        self.reader = None;
        let header = *shared.header();
        let block = Block {
            header,
            bytes: shared.bytes(),
            listeners: self.names.of(&self.folder, header.segment)?,
            // The agent checked it on receipt and has held it since.
            verify_payload: false,
        };
        let end = end_of(&block);
        let delivered = self.sink.deliver(block)?;
        self.on_delivered(
            end,
            u64::from(header.len),
            u64::from(header.records),
            delivered,
        );
        Ok(())
    }

    fn deliver_from_disk(&mut self, limit: u64) -> Result<(), SinkError> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            none => none.insert(JournalReader::open(&self.folder, self.at.position)?),
        };
        if reader.position() != self.at.position {
            reader.seek(self.at.position);
        }
        match reader.next_block(limit) {
            Ok(None) => Ok(()),
            Ok(Some(block)) => {
                let header = block.header;
                let end = end_of(&block);
                // Records that stood in bytes which had to be stepped over.
                let skipped = header.records_before.saturating_sub(self.at.records);
                let delivered = self.sink.deliver(block)?;
                self.skip(SkipReason::Unreadable, skipped);
                self.on_delivered(
                    end,
                    u64::from(header.len),
                    u64::from(header.records),
                    delivered,
                );
                Ok(())
            }
            Err(error) => self.on_unreadable(error),
        }
    }

    /// Damage and missing segments are counted and stepped over: waiting would not bring the bytes
    /// back, and the records behind them are good.
    fn on_unreadable(&mut self, error: ReadError) -> Result<(), SinkError> {
        let to = match &error {
            ReadError::Damaged { to, .. } => *to,
            ReadError::Missing {
                next: Some(next), ..
            } => *next,
            _ => return Err(error.into()),
        };
        let was_dropped =
            matches!(error, ReadError::Missing { .. }) && to <= self.feed.marks.dropped_until();
        let error = SinkError::Journal(error);
        if !was_dropped {
            self.on_error(&error);
        }
        let records_before = match &error {
            SinkError::Journal(ReadError::Missing { .. }) => self
                .reader
                .as_ref()
                .and_then(|reader| {
                    let segments = &reader.listing().segments;
                    segments.iter().find(|segment| segment.header.base == to)
                })
                .map(|segment| segment.header.records_before),
            _ => None,
        };
        let records = records_before.unwrap_or(self.at.records);
        let missing = records.saturating_sub(self.at.records);
        if was_dropped {
            self.stats.count_error(ErrorReason::Dropped, 1);
            tracing::error!(
                sink = self.sink_name,
                shard = self.shard,
                records = missing,
                from = self.at.position,
                to,
                "this sink lagged too far behind: the journal was full and dropped what it had not \
                 got (journal.on_full); going on with the oldest there is"
            );
            self.skip(SkipReason::Dropped, missing);
        } else {
            self.skip(SkipReason::Unreadable, missing);
        }
        self.at = Cursor {
            position: to,
            records,
        };
        self.sink.skip_to(self.at);
        self.uncommitted.since.get_or_insert(self.clock.instant());
        Ok(())
    }

    fn skip(&mut self, reason: SkipReason, records: u64) {
        self.uncommitted.skipped[reason as usize] += records;
    }

    fn on_delivered(&mut self, end: Cursor, len: u64, records: u64, delivered: Delivered) {
        if delivered.damaged_entries + delivered.undecodable_entries > 0 {
            self.stats
                .count_error(ErrorReason::Damaged, delivered.damaged_entries);
            self.stats
                .count_error(ErrorReason::Undecodable, delivered.undecodable_entries);
            let left_out = records.saturating_sub(delivered.records);
            self.skip(SkipReason::Unreadable, left_out);
            tracing::error!(
                sink = self.sink_name,
                shard = self.shard,
                position = self.at.position,
                damaged = delivered.damaged_entries,
                fault = delivered.first_fault.map(tracing::field::display),
                undecodable = delivered.undecodable_entries,
                reason = delivered.first_reason.map(|reason| reason.label()),
                "entries of a journal block were stepped over"
            );
        }
        if self.uncommitted.since.is_none() {
            self.uncommitted.since = Some(self.clock.instant());
            self.lag
                .set_oldest_pending(delivered.observed_time_unix_nano);
        }
        self.uncommitted.records += delivered.records;
        self.uncommitted.input_len += len;
        self.uncommitted.last_observed_unix_nano = delivered.observed_time_unix_nano;
        self.at = end;
    }

    fn on_committed(&mut self, cursor: Cursor) {
        assert!(
            cursor == self.at,
            "committed {cursor:?}, delivered up to {:?}",
            self.at
        );
        self.feed.mark.commit(cursor.position, cursor.records);
        self.begins = None;
        let uncommitted = std::mem::take(&mut self.uncommitted);
        self.stats
            .records
            .fetch_add(uncommitted.records, Ordering::Relaxed);
        for (reason, records) in SkipReason::ALL.into_iter().zip(uncommitted.skipped) {
            self.stats.count_skipped(reason, records);
        }
        let behind = cursor.position < self.feed.marks.durable();
        self.lag.set_oldest_pending(if behind {
            uncommitted.last_observed_unix_nano
        } else {
            0
        });
        self.backoff = BACKOFF_FIRST;
    }

    fn on_error(&self, error: &SinkError) {
        self.stats.count_error(error.reason(), 1);
        tracing::error!(
            sink = self.sink_name,
            shard = self.shard,
            reason = error.reason().label(),
            "{error}"
        );
    }

    /// Waits before the next try; `false` where the stop's deadline passed meanwhile.
    fn pause(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            if self.stop.has_passed(Instant::now()) {
                return false;
            }
            std::thread::sleep(WAIT.min(until.saturating_duration_since(Instant::now())));
        }
        !self.stop.has_passed(Instant::now())
    }

    fn check_deadline(&self) -> Result<(), SinkError> {
        if !self.stop.has_passed(self.clock.instant()) {
            return Ok(());
        }
        let behind = self.feed.marks.durable_records();
        Err(SinkError::Deadline {
            undelivered: behind.saturating_sub(self.feed.mark.committed_records()),
        })
    }
}

fn end_of(block: &Block<'_>) -> Cursor {
    Cursor {
        position: block.end_position(),
        records: block.end_records(),
    }
}
