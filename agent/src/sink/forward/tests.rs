//! A forwarding sink's thread between a journal on disk and a receiver that remembers as much as the
//! protocol says, and no more.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::thread::JoinHandle;

use agent_common::frame::{FRAME_HEADER_LEN, FrameHeader};
use penstock_proto::reason::Reason;
use penstock_proto::v1::LogBatch;
use penstock_proto::wire::{Ack, AckStatus, header_crc_matches};
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::config::settings::{Compression, FileFormat, SinkKind, SinkSettings};
use crate::journal::feed::{FeedSender, feed};
use crate::journal::format::{BLOCK_HEADER_LEN, ENTRY_HEADER_LEN, SEGMENT_HEADER_LEN};
use crate::schema::table::Schemas;
use crate::sink::run::{SinkPlan, join_until, spawn};
use crate::sink::sample::{SampleEntry, SampleJournal, numbered};
use crate::sink::{SinkLag, SkipReason};

/// What the receiver does with connections and frames.
#[derive(Clone, Copy, Default)]
struct Mood {
    /// A connection is cut in the middle of things, with this chance for each frame.
    cut: f64,
    try_later: f64,
    /// Frames that hold the record of this number are refused.
    refuse: Option<u64>,
}

#[derive(Default)]
struct Stored {
    /// By producer: what was taken of its last 1,024 numbers.
    windows: BTreeMap<u64, BTreeMap<u64, u32>>,
    bodies: Vec<String>,
    duplicates: u64,
}

impl Stored {
    fn take(&mut self, header: &FrameHeader, bodies: Vec<String>) -> AckStatus {
        let window = self.windows.entry(header.producer).or_default();
        let highest = window.last_key_value().map_or(0, |(key, _)| *key);
        assert!(
            header.sequence + 1024 > highest,
            "{} is too old: {highest} was taken",
            header.sequence
        );
        if let Some(crc) = window.get(&header.sequence) {
            assert_eq!(
                *crc, header.payload_crc,
                "a conflict at {}",
                header.sequence
            );
            self.duplicates += 1;
            return AckStatus::Duplicate;
        }
        window.insert(header.sequence, header.payload_crc);
        self.bodies.extend(bodies);
        AckStatus::Durable
    }
}

struct Receiver {
    address: SocketAddr,
    stored: Arc<Mutex<Stored>>,
    mood: Arc<Mutex<Mood>>,
}

impl Receiver {
    fn start(seed: u64, mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let receiver = Self {
            address: listener.local_addr().expect("bound"),
            stored: Arc::default(),
            mood: Arc::new(Mutex::new(mood)),
        };
        let (stored, mood) = (Arc::clone(&receiver.stored), Arc::clone(&receiver.mood));
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let random = StdRng::seed_from_u64(seed * 1000 + number as u64);
                // One producer has one connection at a time, but its successor may be quicker than
                // the news of its end.
                let (stored, mood) = (Arc::clone(&stored), Arc::clone(&mood));
                let stream = stream.expect("a connection");
                std::thread::spawn(move || serve(stream, random, &stored, &mood));
            }
        });
        receiver
    }

    fn bodies(&self) -> Vec<String> {
        self.stored.lock().expect("whole").bodies.clone()
    }
}

/// Until the peer closes or is cut.
fn serve(mut stream: TcpStream, mut random: StdRng, stored: &Mutex<Stored>, mood: &Mutex<Mood>) {
    loop {
        let mut head = [0; FRAME_HEADER_LEN];
        if stream.read_exact(&mut head).is_err() {
            return;
        }
        assert!(header_crc_matches(&head));
        let header = FrameHeader::read(&head);
        assert!(header.wants_ack());
        let mut payload = vec![0; header.payload_len as usize];
        if stream.read_exact(&mut payload).is_err() {
            return;
        }
        let batch = LogBatch::decode(payload.as_slice()).expect("as it was put in the journal");
        assert_eq!(batch.records.len(), header.records as usize);
        let mood = *mood.lock().expect("whole");
        let mut ack = Ack {
            status: AckStatus::Refused,
            reason: 0,
            producer: header.producer,
            sequence: header.sequence,
            retry_after_ms: 1,
            count: 1,
        };
        let bodies: Vec<String> = batch.records.into_iter().map(|each| each.body).collect();
        let refused = mood.refuse.map(|number| format!("record {number}"));
        if refused.is_some_and(|body| bodies.contains(&body)) {
            ack.reason = Reason::InvalidUtf8 as u8;
        } else if random.random_bool(mood.try_later) {
            ack.status = AckStatus::TryLater;
        } else {
            ack.status = stored.lock().expect("whole").take(&header, bodies);
        }
        if random.random_bool(mood.cut) || stream.write_all(&ack.write()).is_err() {
            return;
        }
    }
}

/// The journal's marks and one life of the sink.
struct Life {
    marks: Arc<JournalMarks>,
    sender: FeedSender,
    stats: Arc<SinkStats>,
    stop: Arc<StopDeadline>,
    thread: JoinHandle<Result<(), SinkError>>,
}

fn start(journal: &SampleJournal, to: &[SocketAddr]) -> Life {
    let marks = Arc::new(JournalMarks::new(journal.position, journal.records));
    let (sender, receiver) = feed(&marks, 2);
    let stats = Arc::new(SinkStats::default());
    let stop = Arc::new(StopDeadline::default());
    let thread = spawn(SinkPlan {
        settings: settings(to),
        shard: 0,
        data_dir: journal.data_dir.clone(),
        feed: receiver,
        schemas: Schemas::default(),
        stats: Arc::clone(&stats),
        lag: Arc::<SinkLag>::default(),
        stop: Arc::clone(&stop),
    })
    .expect("start the thread");
    Life {
        marks,
        sender,
        stats,
        stop,
        thread,
    }
}

fn settings(to: &[SocketAddr]) -> SinkSettings {
    SinkSettings {
        name: "upstream".to_owned(),
        kind: SinkKind::Penstock,
        to: to.iter().map(SocketAddr::to_string).collect(),
        format: FileFormat::Avro,
        compression: Compression::Zstd,
        rotate_size: 1 << 30,
        rotate_age: Duration::from_secs(3600),
        keep_size: u64::MAX,
        keep_age: Duration::from_secs(3600),
        enabled: true,
    }
}

impl Life {
    /// Ends the feed; the sink has a minute for the rest.
    fn end(self) -> (Result<(), SinkError>, Arc<SinkStats>) {
        self.marks.close();
        drop(self.sender);
        let deadline = Instant::now() + Duration::from_secs(60);
        let outcome = join_until(self.thread, deadline).expect("the thread ends");
        (outcome.expect("and does not panic"), self.stats)
    }
}

fn entry(number: u64) -> SampleEntry {
    SampleEntry::protobuf(number, vec![numbered(number)])
}

fn expected(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    let numbers = numbers.into_iter();
    numbers.map(|number| format!("record {number}")).collect()
}

/// Dropped, unreadable, refused.
fn skipped(stats: &SinkStats) -> [u64; 3] {
    SkipReason::ALL.map(|reason| stats.skipped(reason))
}

fn count(value: &std::sync::atomic::AtomicU64) -> u64 {
    value.load(Ordering::Relaxed)
}

#[test]
fn lives_that_end_anywhere_and_connections_that_are_cut_deliver_each_record_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = SampleJournal::new(folder.path());
    let mut random = StdRng::seed_from_u64(4);
    let receiver = Receiver::start(
        4,
        Mood {
            cut: 0.002,
            try_later: 0.02,
            refuse: None,
        },
    );
    let mut next = 0;
    for life in 0..8 {
        // Blocks of one entry and blocks of more entries than may be outstanding.
        for _ in 0..6 {
            let entries = random.random_range(1..900);
            let entries: Vec<SampleEntry> = (next..next + entries).map(entry).collect();
            next += entries.len() as u64;
            journal.append(&entries);
        }
        let running = start(&journal, &[receiver.address]);
        if life < 7 {
            // What a stop's deadline cuts short is what a crash would: nothing is saved by it.
            std::thread::sleep(Duration::from_millis(random.random_range(1..60)));
            running.stop.set(Instant::now());
            let (outcome, _) = running.end();
            let cut_short = matches!(outcome, Ok(()) | Err(SinkError::Deadline { .. }));
            assert!(cut_short, "{outcome:?}");
        } else {
            let mark = Arc::clone(&running.sender.mark);
            let (outcome, stats) = running.end();
            outcome.expect("all delivered");
            assert_eq!(mark.committed(), journal.position);
            assert_eq!(skipped(&stats), [0, 0, 0]);
        }
    }
    let mut bodies = receiver.bodies();
    assert_eq!(bodies.len() as u64, next);
    bodies.sort_by_key(|body| body["record ".len()..].parse::<u64>().expect("a number"));
    assert_eq!(bodies, expected(0..next));
    let stored = receiver.stored.lock().expect("whole");
    assert_eq!(stored.windows.len(), 1, "one producer through all lives");
    assert!(stored.duplicates > 0, "something was sent twice");
}

#[test]
fn refusals_are_final_counted_and_told_from_what_was_delivered() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = SampleJournal::new(folder.path());
    let pair = |number| SampleEntry::protobuf(1, vec![numbered(number), numbered(number + 1)]);
    journal.append(&[pair(0), pair(2), pair(4)]);
    let receiver = Receiver::start(
        1,
        Mood {
            refuse: Some(3),
            ..Mood::default()
        },
    );
    let (outcome, stats) = start(&journal, &[receiver.address]).end();
    outcome.expect("settled, if not delivered");
    assert_eq!(receiver.bodies(), expected([0, 1, 4, 5]));
    assert_eq!(count(&stats.records), 4);
    assert_eq!(skipped(&stats), [0, 0, 2]);
    assert_eq!(stats.errors(ErrorReason::Refused), 1);
}

#[test]
fn a_damaged_entry_is_counted_and_keeps_its_number() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = SampleJournal::new(folder.path());
    journal.append(&[entry(0), entry(1), entry(2), entry(3)]);
    // A byte of the second entry's payload: entries of one record are alike in length.
    let frame_len = FRAME_HEADER_LEN + entry(1).payload.len();
    let entry_len = (ENTRY_HEADER_LEN + frame_len).next_multiple_of(8);
    let at = SEGMENT_HEADER_LEN + BLOCK_HEADER_LEN + entry_len + ENTRY_HEADER_LEN + frame_len - 1;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(journal.path(journal.number))
        .expect("the segment");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).expect("read");
    assert_eq!(byte, *b"1", "the last byte of record 1");
    file.write_all_at(b"X", at as u64).expect("damage it");

    let receiver = Receiver::start(2, Mood::default());
    let (outcome, stats) = start(&journal, &[receiver.address]).end();
    outcome.expect("the others are delivered");
    assert_eq!(receiver.bodies(), expected([0, 2, 3]));
    let stored = receiver.stored.lock().expect("whole");
    let window = stored.windows.values().next().expect("a producer");
    assert_eq!(window.keys().copied().collect::<Vec<_>>(), [1, 3, 4]);
    assert_eq!((count(&stats.records), skipped(&stats)), (3, [0, 1, 0]));
    assert_eq!(stats.errors(ErrorReason::Damaged), 1);
}

#[test]
fn a_missing_segment_makes_the_numbers_jump_and_loses_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = SampleJournal::new(folder.path());
    journal.append(&[entry(0), entry(1)]);
    journal.next_segment();
    let missing = journal.path(journal.number);
    journal.append(&[entry(2), entry(3), entry(4)]);
    journal.next_segment();
    journal.append(&[entry(5)]);
    std::fs::remove_file(missing).expect("gone");
    let receiver = Receiver::start(3, Mood::default());
    let (outcome, stats) = start(&journal, &[receiver.address]).end();
    outcome.expect("the others are delivered");
    assert_eq!(receiver.bodies(), expected([0, 1, 5]));
    let stored = receiver.stored.lock().expect("whole");
    let window = stored.windows.values().next().expect("a producer");
    assert_eq!(window.keys().copied().collect::<Vec<_>>(), [1, 2, 3 + JUMP]);
    assert_eq!((count(&stats.records), skipped(&stats)), (3, [0, 3, 0]));
}

#[test]
fn nobody_there_is_lag_and_no_failure_until_the_stop() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = SampleJournal::new(folder.path());
    journal.append(&[entry(0), entry(1)]);
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound")
    };
    let life = start(&journal, &[nobody]);
    let stats = Arc::clone(&life.stats);
    let deadline = Instant::now() + Duration::from_secs(20);
    while stats.errors(ErrorReason::Connection) < 3 {
        assert!(Instant::now() < deadline, "three attempts");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!life.thread.is_finished());
    life.stop.set(Instant::now());
    let (outcome, stats) = life.end();
    let Err(SinkError::Deadline { undelivered }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!((undelivered, count(&stats.records)), (2, 0));
    // A receiver that comes later gets them, beside one that is still not there.
    let receiver = Receiver::start(5, Mood::default());
    let (outcome, _) = start(&journal, &[nobody, receiver.address]).end();
    outcome.expect("delivered");
    assert_eq!(receiver.bodies(), expected([0, 1]));
}
