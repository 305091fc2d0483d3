//! The sinks of a simulated agent: the real loop and the real file sink on a fake disk, or one that
//! only looks at what it is offered. And the last word: what stands in the files.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use penstock::config::settings::{Compression, FileFormat, SinkKind, SinkSettings};
use penstock::journal::feed::{Fed, FeedReceiver};
use penstock::schema::table::Schemas;
use penstock::sink::file::container::{ContainerReader, Next};
use penstock::sink::file::cursor::CursorFile;
use penstock::sink::file::{CURSORS_FOLDER, FileSink};
use penstock::sink::forward::{ForwardPlan, ForwardSink};
use penstock::sink::run::{Loop, SinkPlan, Step};
use penstock::sink::{ErrorReason, Sink, SinkError, SinkStats, StopDeadline};

use super::book::{Book, FrameNo};
use super::check::DurableIndex;
use super::files::{Files, is_output};
use super::hop::SimPipe;
use super::rng::Rng;
use super::setup::Setup;

/// Where the sinks of an agent believe that they write.
const DATA_DIR: &str = "/data";

/// The sink that hands over to another agent.
const FORWARD: &str = "onward";

/// Where that sink's cursor of one shard is.
pub fn forward_cursor(shard: usize) -> PathBuf {
    let folder = Path::new(DATA_DIR).join(CURSORS_FOLDER);
    let file = CursorFile::new(folder, FORWARD, shard as u16);
    file.path().to_owned()
}

pub fn sink_name(index: usize) -> String {
    format!("files{index}")
}

/// Where a sink stands.
pub struct SinkPost {
    pub shard: usize,
    /// The journal's files.
    pub folder: PathBuf,
    pub files: Files,
    pub feed: FeedReceiver,
    pub stop: Arc<StopDeadline>,
    pub rng: Rng,
}

/// One sink of one shard.
pub struct SinkActor {
    shard: usize,
    cycle: Box<dyn FnMut() -> Step>,
    stats: Arc<SinkStats>,
    files: Files,
    rng: Rng,
    /// It may wait for another agent, and lets the others have their turns then.
    pub waits: bool,
    /// When it wants its next step.
    pub wake_ns: u64,
    pub ended: bool,
}

impl SinkActor {
    /// The file sink `index` of the setup.
    pub fn file(setup: &Setup, index: usize, post: SinkPost) -> Self {
        let settings = SinkSettings {
            name: sink_name(index),
            kind: SinkKind::File,
            to: Vec::new(),
            format: FileFormat::Avro,
            compression: Compression::None,
            rotate_size: setup.rotate_size,
            rotate_age: setup.rotate_age,
            keep_size: u64::MAX,
            keep_age: Duration::MAX,
            enabled: true,
        };
        post.files.tell_time();
        let stats = Arc::new(SinkStats::default());
        let sink = FileSink::new(
            post.files.clone(),
            &settings,
            post.shard as u16,
            Path::new(DATA_DIR),
            &Schemas::default(),
            Arc::clone(&stats),
        );
        Self::new(sink.expect("an encoder"), settings, stats, post)
    }

    /// The sink that hands over to another agent.
    pub fn forward(pipe: SimPipe, mut post: SinkPost) -> Self {
        let settings = SinkSettings {
            name: FORWARD.to_owned(),
            kind: SinkKind::Penstock,
            to: vec!["receiver".to_owned()],
            format: FileFormat::Avro,
            compression: Compression::None,
            rotate_size: 0,
            rotate_age: Duration::MAX,
            keep_size: u64::MAX,
            keep_age: Duration::MAX,
            enabled: true,
        };
        post.files.tell_time();
        let stats = Arc::new(SinkStats::default());
        let forward = ForwardPlan {
            name: settings.name.clone(),
            shard: post.shard as u16,
            data_dir: PathBuf::from(DATA_DIR),
            targets: settings.to.len(),
            stats: Arc::clone(&stats),
            stop: Arc::clone(&post.stop),
            marks: Arc::clone(&post.feed.marks),
            mark: Arc::clone(&post.feed.mark),
            seed: Some(post.rng.between(1..=u64::MAX)),
        };
        let sink = ForwardSink::new(forward, post.files.clone(), pipe);
        Self {
            waits: true,
            ..Self::new(sink, settings, stats, post)
        }
    }

    fn new<S: Sink + 'static>(
        sink: S,
        settings: SinkSettings,
        stats: Arc<SinkStats>,
        post: SinkPost,
    ) -> Self {
        let plan = SinkPlan {
            settings,
            shard: post.shard as u16,
            data_dir: PathBuf::from(DATA_DIR),
            feed: post.feed,
            schemas: Schemas::default(),
            stats: Arc::clone(&stats),
            lag: Arc::default(),
            stop: post.stop,
        };
        let mut cycle = Loop::new(sink, post.folder, plan);
        Self {
            shard: post.shard,
            cycle: Box::new(move || cycle.step(Duration::ZERO)),
            stats,
            files: post.files,
            rng: post.rng,
            waits: false,
            wake_ns: 0,
            ended: false,
        }
    }

    /// One step of the loop, and when it wants the next.
    pub fn step(&mut self) {
        self.files.tell_time();
        let step = (self.cycle)();
        let rng = &mut self.rng;
        let pause = match step {
            Step::GoOn => Duration::from_micros(if rng.chance(100) {
                rng.between(1_000..=100_000)
            } else {
                rng.between(10..=2_000)
            }),
            Step::Failed { pause, error } => {
                self.files.tell(&format!("sink fails: {error}"));
                pause
            }
            Step::End(Ok(())) => {
                self.ended = true;
                Duration::MAX
            }
            Step::End(Err(SinkError::Deadline { .. })) => {
                self.ended = true;
                Duration::MAX
            }
            Step::End(Err(error)) => panic!("sink of shard {} ends with: {error}", self.shard),
        };
        self.wake_ns = self
            .files
            .now_ns()
            .saturating_add(pause.as_nanos().min(u128::from(u64::MAX)) as u64);
        self.check();
    }

    /// The journal that a simulated agent keeps has nothing that a sink could not deliver.
    fn check(&self) {
        for reason in [
            ErrorReason::CursorDamaged,
            ErrorReason::Journal,
            ErrorReason::JournalMissing,
            ErrorReason::Damaged,
            ErrorReason::Undecodable,
        ] {
            assert_eq!(
                self.stats.errors(reason),
                0,
                "the sink of shard {} reports {}",
                self.shard,
                reason.label()
            );
        }
    }
}

/// A sink that looks at what it is offered, and says now and then that it has it.
pub struct ModelSink {
    pub shard: usize,
    feed: FeedReceiver,
    rng: Rng,
}

impl ModelSink {
    pub fn new(shard: usize, feed: FeedReceiver, rng: Rng) -> Self {
        Self { shard, feed, rng }
    }

    pub fn step(&mut self, index: &DurableIndex) {
        if !self.rng.chance(300) {
            return;
        }
        while let Fed::Block(block) = self.feed.wait(Duration::ZERO) {
            let header = *block.header();
            let end = index.segment_end(header.segment);
            // Segments that are gone were delivered before.
            assert!(
                end.is_none_or(|end| header.end_position() <= end),
                "a sink is offered a block of segment {} that ends at {} and the disk has {end:?}",
                header.segment,
                header.end_position()
            );
        }
        if self.rng.chance(300) {
            let marks = &self.feed.marks;
            let (durable, records) = (marks.durable(), marks.durable_records());
            self.feed.mark.commit(durable, records);
        }
    }
}

/// How often each record of each frame stands in the files of one sink, and nothing else does.
pub fn delivered(files: &Files, sink: usize, book: &Book) -> BTreeMap<FrameNo, Vec<u32>> {
    let mut delivered: BTreeMap<FrameNo, Vec<u32>> = BTreeMap::new();
    let owner = format!("-{}-s", sink_name(sink));
    for (path, bytes) in files.contents() {
        let name = path
            .file_name()
            .expect("a file has a name")
            .to_string_lossy();
        if !is_output(&path) || !name.contains(&owner) {
            continue;
        }
        assert!(
            name.ends_with(".avro"),
            "{name} is left behind after a stop in good order"
        );
        for body in bodies(&bytes) {
            let (number, record) = frame_of(&body, book)
                .unwrap_or_else(|| panic!("{name} holds {body:?}, which nobody sent"));
            let line = book.line(number);
            let counts = delivered
                .entry(number)
                .or_insert_with(|| vec![0; line.frame.records as usize]);
            counts[record] += 1;
        }
    }
    delivered
}

/// The bodies of a container's records.
fn bodies(bytes: &[u8]) -> Vec<String> {
    let mut file = tempfile::tempfile_in(super::life::memory()).expect("a temporary file");
    file.write_all(bytes).expect("a temporary file takes bytes");
    let mut reader = ContainerReader::open(file).expect("a container file");
    let mut bodies = Vec::new();
    while let Next::Records(records) = reader.read_next().expect("a whole block") {
        bodies.extend(records.iter().map(|record| record.body.to_owned()));
    }
    bodies
}

/// The frame that a body names, and which of its records it is.
fn frame_of(body: &str, book: &Book) -> Option<(FrameNo, usize)> {
    if let Some(found) = book.record(body) {
        return Some(found);
    }
    let mut parts = body.splitn(3, '/');
    let producer = u64::from_str_radix(parts.next()?, 16).ok()?;
    let sequence = parts.next()?.parse().ok()?;
    let record = parts.next()?.split(' ').next()?.parse().unwrap_or(0);
    Some((book.good((producer, sequence))?, record))
}

/// At the end of a run: each sink's files hold each record as often as the journals did.
pub fn check_delivered(files: &Files, sinks: usize, book: &Book, stored: impl Fn(FrameNo) -> u32) {
    for sink in 0..sinks {
        let delivered = delivered(files, sink, book);
        for (number, line) in book.lines().iter().enumerate() {
            let journalled = stored(number);
            let counts = delivered.get(&number);
            let expected = vec![journalled; line.frame.records as usize];
            let found = counts.map_or_else(|| vec![0; expected.len()], Clone::clone);
            let never = journalled == 0 && counts.is_none();
            assert!(
                never || found == expected,
                "frame {:?} is {journalled} times in the journals, and its records are {found:?} \
                 times in the files of sink {sink}",
                line.frame.key
            );
        }
    }
    let aside = |path: &Path| {
        let end = path
            .extension()
            .map(|end| end.to_string_lossy().into_owned());
        matches!(end.as_deref(), Some("damaged" | "orphan"))
    };
    for (path, _) in files.contents() {
        assert!(!aside(&path), "{} was set aside", path.display());
    }
}
