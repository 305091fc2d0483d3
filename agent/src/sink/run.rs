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

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::config::settings::SinkSettings;
use crate::journal::feed::{Fed, FeedReceiver, JournalMarks};
use crate::journal::format::{segment_file_name, shard_folder_name};
use crate::journal::reader::{JournalReader, ReadError, oldest, read_segment_header};
use crate::shard::buffer::SharedBlock;
use crate::sink::file::cursor::CursorFile;
use crate::sink::file::disk::RealDisk;
use crate::sink::file::{CURSORS_FOLDER, FileSink};
use crate::sink::{
    Block, Cursor, Delivered, ErrorReason, Sink, SinkError, SinkLag, SinkStats, StopDeadline,
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
    /// Shared by all shards of this sink.
    pub stats: Arc<SinkStats>,
    /// This thread's own.
    pub lag: Arc<SinkLag>,
    /// Shared by all sinks.
    pub stop: Arc<StopDeadline>,
}

/// Starts the thread of a file sink.
pub fn spawn(plan: SinkPlan) -> io::Result<JoinHandle<Result<(), SinkError>>> {
    let name = format!("sink-{}-{:02}", plan.settings.name, plan.shard);
    let sink = FileSink::new(
        RealDisk,
        &plan.settings,
        plan.shard,
        &plan.data_dir,
        Arc::clone(&plan.stats),
    )?;
    let folder = journal_folder(&plan);
    std::thread::Builder::new()
        .name(name)
        .spawn(move || Loop::new(sink, folder, plan).run())
}

/// Stands in for the thread of a sink that is not enabled: the sink's mark stays where its cursor
/// is, so that the journal keeps what it has still to get.
pub fn hold(plan: &SinkPlan) -> Result<(), SinkError> {
    let cursors = plan.data_dir.join(CURSORS_FOLDER);
    let saved = CursorFile::new(cursors, &plan.settings.name, plan.shard).load(&mut RealDisk)?;
    let at = match saved {
        Some(saved) => saved.cursor,
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

struct Loop<S> {
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
    /// A block from memory that is not the next one yet.
    ahead: Option<SharedBlock>,
    /// The feed will bring nothing more.
    closed: bool,
    reader: Option<JournalReader>,
    names: ListenerNames,
    uncommitted: Uncommitted,
    backoff: Duration,
}

/// What was delivered since the last commit.
#[derive(Default)]
struct Uncommitted {
    records: u64,
    skipped: u64,
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

impl<S: Sink> Loop<S> {
    fn new(sink: S, folder: PathBuf, plan: SinkPlan) -> Self {
        Self {
            sink,
            sink_name: plan.settings.name,
            shard: plan.shard,
            folder,
            feed: plan.feed,
            stats: plan.stats,
            lag: plan.lag,
            stop: plan.stop,
            at: Cursor::default(),
            ahead: None,
            closed: false,
            reader: None,
            names: ListenerNames::default(),
            uncommitted: Uncommitted::default(),
            backoff: BACKOFF_FIRST,
        }
    }

    fn run(mut self) -> Result<(), SinkError> {
        let mut resumed = false;
        loop {
            let turn = if resumed { self.turn() } else { self.resume() };
            match turn {
                Ok(Turn::GoOn) => resumed = true,
                Ok(Turn::End) => return Ok(()),
                Err(error) => {
                    resumed = false;
                    self.on_error(&error);
                    if matches!(error, SinkError::Deadline { .. }) || !self.pause() {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Back to the last commit; the first time of all, to the oldest segment there is.
    fn resume(&mut self) -> Result<Turn, SinkError> {
        self.ahead = None;
        self.reader = None;
        self.uncommitted = Uncommitted::default();
        self.check_deadline()?;
        self.at = match self.sink.resume()? {
            Some(cursor) => self.within_journal(cursor),
            None => {
                let first = first(&self.folder, &self.feed.marks)?;
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
    fn turn(&mut self) -> Result<Turn, SinkError> {
        self.check_deadline()?;
        if self.ahead.is_none() && !self.closed {
            // While there is more on disk, memory is only looked at, not waited for.
            let durable = self.feed.marks.durable();
            let wait = if self.reader.is_some() && self.at.position < durable {
                Duration::ZERO
            } else {
                WAIT
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
        let waited = self.uncommitted.since.map(|since| since.elapsed());
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
                self.uncommitted.skipped += skipped;
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
        let error = SinkError::Journal(error);
        self.on_error(&error);
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
        self.uncommitted.skipped += records.saturating_sub(self.at.records);
        self.at = Cursor {
            position: to,
            records,
        };
        self.sink.skip_to(self.at);
        self.uncommitted.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn on_delivered(&mut self, end: Cursor, len: u64, records: u64, delivered: Delivered) {
        if delivered.damaged_entries + delivered.undecodable_entries > 0 {
            self.stats
                .count_error(ErrorReason::Damaged, delivered.damaged_entries);
            self.stats
                .count_error(ErrorReason::Undecodable, delivered.undecodable_entries);
            self.uncommitted.skipped += records.saturating_sub(delivered.records);
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
            self.uncommitted.since = Some(Instant::now());
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
        let uncommitted = std::mem::take(&mut self.uncommitted);
        self.stats
            .records
            .fetch_add(uncommitted.records, Ordering::Relaxed);
        self.stats
            .records_skipped
            .fetch_add(uncommitted.skipped, Ordering::Relaxed);
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
    fn pause(&mut self) -> bool {
        let until = Instant::now() + self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        while Instant::now() < until {
            if self.stop.has_passed() {
                return false;
            }
            std::thread::sleep(WAIT.min(until.saturating_duration_since(Instant::now())));
        }
        !self.stop.has_passed()
    }

    fn check_deadline(&self) -> Result<(), SinkError> {
        if !self.stop.has_passed() {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::settings::Compression;
    use crate::journal::feed::{FeedSender, JournalMarks, feed};
    use crate::sink::file::container::{ContainerReader, Next};
    use crate::sink::sample::{SampleEntry, SampleJournal, numbered, pool, shared};

    /// A journal, its feed, and one sink's thread.
    struct Stage {
        journal: SampleJournal,
        marks: Arc<JournalMarks>,
        sender: FeedSender,
        stats: Arc<SinkStats>,
        stop: Arc<StopDeadline>,
        thread: JoinHandle<Result<(), SinkError>>,
    }

    fn settings() -> SinkSettings {
        SinkSettings {
            name: "files".to_owned(),
            kind: crate::config::settings::SinkKind::File,
            format: crate::config::settings::FileFormat::Avro,
            compression: Compression::Zstd,
            rotate_size: 1 << 30,
            rotate_age: Duration::from_secs(3600),
            keep_size: u64::MAX,
            keep_age: Duration::from_secs(3600),
            enabled: true,
        }
    }

    fn start(journal: SampleJournal) -> Stage {
        let marks = Arc::new(JournalMarks::new(journal.position, journal.records));
        let (sender, receiver) = feed(&marks, 2);
        let stats = Arc::new(SinkStats::default());
        let stop = Arc::new(StopDeadline::default());
        let thread = spawn(SinkPlan {
            settings: settings(),
            shard: 0,
            data_dir: journal.data_dir.clone(),
            feed: receiver,
            stats: Arc::clone(&stats),
            lag: Arc::default(),
            stop: Arc::clone(&stop),
        })
        .expect("start the thread");
        Stage {
            journal,
            marks,
            sender,
            stats,
            stop,
            thread,
        }
    }

    impl Stage {
        /// Ends the feed and waits for the thread, which has a minute.
        fn end(self) -> Result<(), SinkError> {
            self.marks.close();
            drop(self.sender);
            let deadline = Instant::now() + Duration::from_secs(60);
            join_until(self.thread, deadline)
                .expect("the thread ends")
                .expect("and does not panic")
        }
    }

    fn entry(number: u64) -> SampleEntry {
        SampleEntry::protobuf(number, vec![numbered(number)])
    }

    fn expected(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
        let numbers = numbers.into_iter();
        numbers.map(|number| format!("record {number}")).collect()
    }

    fn sealed_bodies(data_dir: &Path) -> Vec<String> {
        let folder = std::fs::read_dir(data_dir.join("records")).expect("the output folder");
        let mut paths: Vec<_> = folder
            .map(|entry| entry.expect("an entry").path())
            .collect();
        paths.sort();
        let mut bodies = Vec::new();
        for path in paths {
            assert_eq!(path.extension().and_then(|e| e.to_str()), Some("avro"));
            let file = std::fs::File::open(path).expect("open");
            let mut reader = ContainerReader::open(file).expect("a container");
            while let Next::Records(records) = reader.read_next().expect("a good block") {
                bodies.extend(records.iter().map(|record| record.body.to_owned()));
            }
        }
        bodies
    }

    #[test]
    fn from_memory_from_disk_and_over_gaps_every_record_is_stored_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = SampleJournal::new(folder.path());
        // There before the sink starts: only on disk.
        for number in 0..5 {
            journal.append(&[entry(number)]);
        }
        let mut stage = start(journal);
        let blocks = pool(4);
        for number in 5..60 {
            if number % 20 == 0 {
                stage.journal.next_segment();
            }
            let (bytes, header) = stage.journal.append(&[entry(number)]);
            stage
                .marks
                .advance(stage.journal.position, stage.journal.records);
            // Every third block is never offered, and where the feed is full none is.
            if number % 3 != 0
                && let Some(mut open) = blocks.acquire()
            {
                open.bytes_mut()[..bytes.len()].copy_from_slice(&bytes);
                stage.sender.offer(open.share(header));
            }
        }
        let (marks, mark) = (Arc::clone(&stage.marks), Arc::clone(&stage.sender.mark));
        let stats = Arc::clone(&stage.stats);
        stage.end().expect("sealed");
        assert_eq!(sealed_bodies(folder.path()), expected(0..60));
        assert_eq!(mark.committed(), marks.durable());
        assert_eq!(mark.committed_records(), 60);
        assert_eq!(stats.records.load(Ordering::Relaxed), 60);
        assert_eq!(stats.records_skipped.load(Ordering::Relaxed), 0);
        assert_eq!(stats.files_sealed.load(Ordering::Relaxed), 1);
        let errors = ErrorReason::ALL.iter().map(|&reason| stats.errors(reason));
        assert_eq!(errors.sum::<u64>(), 0);
        assert_eq!(blocks.free(), 4, "every lease came back");
    }

    #[test]
    fn a_sink_that_is_not_enabled_keeps_the_journal_from_its_cursor_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = SampleJournal::new(folder.path());
        let held = |journal: &SampleJournal| {
            let marks = Arc::new(JournalMarks::new(journal.position, journal.records));
            let (sender, receiver) = feed(&marks, 2);
            hold(&SinkPlan {
                settings: settings(),
                shard: 0,
                data_dir: journal.data_dir.clone(),
                feed: receiver,
                stats: Arc::default(),
                lag: Arc::default(),
                stop: Arc::default(),
            })
            .expect("held");
            sender.mark.committed_records()
        };
        journal.append(&[entry(0), entry(1)]);
        assert_eq!(held(&journal), 0, "it never ran");
        let stage = start(journal);
        let (marks, data_dir) = (Arc::clone(&stage.marks), folder.path());
        stage.end().expect("sealed");
        assert_eq!(sealed_bodies(data_dir), expected(0..2));
        let mut journal = SampleJournal::new(data_dir);
        (journal.position, journal.records) = (marks.durable(), marks.durable_records());
        assert_eq!(held(&journal), 2, "it has delivered two");
    }

    #[test]
    fn nothing_beyond_the_durable_mark_is_delivered() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = SampleJournal::new(folder.path());
        journal.append(&[entry(0)]);
        let (bytes, header) = journal.sealed(&[entry(1)]);
        journal.write_at(header.position, &bytes);
        start(journal).end().expect("sealed");
        assert_eq!(sealed_bodies(folder.path()), expected(0..1));
    }

    #[test]
    fn damage_and_missing_segments_are_counted_and_stepped_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = SampleJournal::new(folder.path());
        for number in 0..9 {
            if number == 3 || number == 6 {
                journal.next_segment();
            }
            journal.append(&[entry(number)]);
        }
        // A block of the third segment, and the whole second one.
        journal.write_at(7 * 4096, &[0; 64]);
        std::fs::remove_file(journal.path(2)).expect("remove");
        let stage = start(journal);
        let stats = Arc::clone(&stage.stats);
        stage.end().expect("sealed");
        assert_eq!(sealed_bodies(folder.path()), expected([0, 1, 2, 6, 8]));
        assert_eq!(stats.records.load(Ordering::Relaxed), 5);
        assert_eq!(stats.records_skipped.load(Ordering::Relaxed), 4);
        assert_eq!(stats.errors(ErrorReason::JournalMissing), 1);
        assert_eq!(stats.errors(ErrorReason::Damaged), 1);
    }

    #[test]
    fn an_output_that_fails_is_tried_again_and_given_up_at_the_deadline() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = SampleJournal::new(folder.path());
        journal.append(&[entry(0), entry(1)]);
        // A file where the output folder should be.
        let in_the_way = folder.path().join("records");
        std::fs::write(&in_the_way, "").expect("write");
        let stage = start(journal);
        let stats = Arc::clone(&stage.stats);
        while stats.errors(ErrorReason::Output) < 2 {
            std::thread::sleep(Duration::from_millis(10));
        }
        stage.stop.set(Instant::now());
        let SampleJournal {
            data_dir,
            folder: shard_folder,
            ..
        } = &stage.journal;
        let (data_dir, shard_folder) = (data_dir.clone(), shard_folder.clone());
        let (position, records) = (stage.journal.position, stage.journal.records);
        let error = stage.end().expect_err("not everything is delivered");
        assert_eq!(error.reason(), ErrorReason::Output, "{error}");
        // The next life finds everything where it was.
        std::fs::remove_file(&in_the_way).expect("remove");
        let marks = Arc::new(JournalMarks::new(position, records));
        let (sender, receiver) = feed(&marks, 2);
        drop(sender);
        assert!(shard_folder.exists());
        let thread = spawn(SinkPlan {
            settings: settings(),
            shard: 0,
            data_dir,
            feed: receiver,
            stats,
            lag: Arc::default(),
            stop: Arc::default(),
        })
        .expect("start the thread");
        thread.join().expect("no panic").expect("sealed");
        assert_eq!(sealed_bodies(folder.path()), expected(0..2));
    }

    #[test]
    fn a_cursor_beyond_the_journal_goes_on_from_its_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = SampleJournal::new(folder.path());
        for number in 0..3 {
            journal.append(&[entry(number)]);
        }
        start(journal).end().expect("sealed");
        // Another journal in the same place.
        std::fs::remove_dir_all(folder.path().join("journal")).expect("remove");
        let mut stage = start(SampleJournal::new(folder.path()));
        let stats = Arc::clone(&stage.stats);
        while stats.errors(ErrorReason::JournalMissing) == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        let (bytes, header) = stage.journal.append(&[entry(7)]);
        stage
            .marks
            .advance(stage.journal.position, stage.journal.records);
        stage.sender.offer(shared(&pool(1), &bytes, header));
        stage.end().expect("sealed");
        assert_eq!(sealed_bodies(folder.path()), expected([0, 1, 2, 7]));
    }
}
