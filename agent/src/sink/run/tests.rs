//! One sink's thread against a journal on disk.

use std::path::Path;

use super::*;
use crate::config::settings::Compression;
use crate::journal::feed::{FeedSender, JournalMarks, feed};
use crate::schema::table::Schemas;
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
        to: Vec::new(),
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
        schemas: Schemas::default(),
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
    assert_eq!(stats.skipped(SkipReason::Unreadable), 0);
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
            schemas: Schemas::default(),
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
    assert_eq!(stats.skipped(SkipReason::Unreadable), 4);
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
        schemas: Schemas::default(),
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
