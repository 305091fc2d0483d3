//! A run: from one seed a world, one or several lives of an agent in it, each ended by a stop, a
//! `kill -9` or a power cut, and after each the question what is on the disk.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use penstock::config::settings::{Protocol, SyncMode};
use penstock::journal::dedup::Recalled;
use penstock::journal::feed::{Fed, FeedReceiver, JournalMarks, feed};
use penstock::journal::recovery;
use penstock::journal::recovery::windows::remember;
use penstock::journal::writer::{JournalPlan, JournalStart};
use penstock::schema::table::Schemas;
use penstock::shard::buffer::BlockPool;
use penstock::shard::handover::Handover;
use penstock::shard::worker::{ListenerPlan, Plan, Turn, Worker};
use penstock_proto::reason::Reason;

use super::book::Book;
use super::check::DurableIndex;
use super::disk::{Disk, DiskImage};
use super::frame::PAYLOAD_LEN_MAX;
use super::kernel::{Faults, Lie, Mishap, Pace, SimKernel, Sizes, Trace};
use super::producer::{Producer, ProducerPlan, Sender, SenderPlan};
use super::rng::Rng;

/// The listeners of every simulated agent.
pub const TCP: u16 = 0;
pub const UDP: u16 = 1;

/// Virtual time within which a life must come to its end once nothing goes wrong any more.
const PATIENCE_NS: u64 = 120_000_000_000;
/// More producers than any run has; and longer than any run.
const PRODUCERS_MAX: usize = 16;
const PRODUCER_EXPIRY: Duration = Duration::from_secs(3_600);
/// Turns within which it must.
const TURNS_MAX: u64 = 400_000;

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All is sent and settled, then a stop.
    Settled,
    /// A stop under load, after so many turns.
    StopAfter(u64),
    /// The process is gone, the kernel goes on.
    KillAfter(u64),
    /// The power is gone.
    PowerLossAfter(u64),
}

/// All that makes a run.
#[derive(Clone, Debug)]
pub struct Setup {
    pub seed: u64,
    pub sizes: Sizes,
    pub pace: Pace,
    pub faults: Faults,
    pub mishaps: Vec<Mishap>,
    pub lie: Option<Lie>,
    pub blocks: usize,
    pub block_len: usize,
    pub segment_len: u64,
    pub size_max: u64,
    pub commit_interval: Duration,
    pub commit_size: usize,
    pub connections_max: usize,
    /// The worker looks at each connection's first header, as where there are several shards.
    pub peek: bool,
    /// The gate is the worker's.
    pub stand_in: bool,
    /// A sink follows and lets segments go.
    pub sink: bool,
    pub producers: Vec<ProducerPlan>,
    pub senders: Vec<SenderPlan>,
    pub lives: Vec<End>,
}

impl Setup {
    /// A calm world with room for everything and nobody in it.
    pub fn calm(seed: u64) -> Self {
        Self {
            seed,
            sizes: Sizes::default(),
            pace: Pace::default(),
            faults: Faults::default(),
            mishaps: Vec::new(),
            lie: None,
            blocks: 8,
            block_len: 32 << 10,
            segment_len: 512 << 10,
            size_max: 1 << 30,
            commit_interval: Duration::from_millis(1),
            commit_size: 32 << 10,
            connections_max: 16,
            peek: false,
            stand_in: false,
            sink: false,
            producers: Vec::new(),
            senders: Vec::new(),
            lives: vec![End::Settled],
        }
    }

    /// Everything from the seed.
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut setup = Self::calm(seed);
        setup.blocks = rng.size(4..=10);
        setup.block_len = rng.pick(&[16 << 10, 20 << 10, 32 << 10]);
        setup.segment_len = (setup.block_len * rng.size(4..=12)) as u64;
        setup.sink = rng.chance(600);
        if setup.sink && rng.chance(400) {
            setup.size_max = setup.segment_len * rng.between(3..=5);
        }
        setup.commit_interval = Duration::from_micros(rng.between(0..=5_000));
        setup.stand_in = rng.chance(500);
        setup.peek = rng.chance(500);
        setup.commit_size = rng.pick(&[1, 4 << 10, 32 << 10]);
        setup.connections_max = rng.size(2..=12);
        setup.sizes = Sizes {
            tcp_buffers: rng.pick(&[1, 2, 4, 16]),
            tcp_buffer_len: rng.pick(&[512, 2048, 8192]),
            udp_buffers: rng.pick(&[1, 2, 8]),
            udp_buffer_len: 20 << 10,
            send_buffers: rng.pick(&[1, 2, 8]),
            socket_send_len: rng.pick(&[48, 320, 8192]),
            udp_queue_max: rng.pick(&[4, 64]),
        };
        setup.faults = random_faults(&mut rng);
        if rng.chance(300) {
            // Each commit waits for the disk: blocks run out while bytes go on arriving.
            setup.pace.disk = (2_000_000, 9_000_000);
        }
        let troubled = setup.faults.until_ns > 0;
        for index in 0..rng.between(1..=4) {
            setup
                .producers
                .push(random_producer(&mut rng, index, troubled));
        }
        for index in 0..rng.between(0..=2) {
            setup.senders.push(SenderPlan {
                listener: UDP,
                id: 0xd000 + index,
                frames: rng.between(10..=80) as u32,
                bundle_max: rng.pick(&[1, 4, 10]),
                bad_per_mille: rng.pick(&[0, 200, 900]),
                cut_per_mille: 50,
                payload_len_max: rng.pick(&[100, 1432]),
                pause_ns_max: rng.pick(&[100_000, 2_000_000]),
            });
        }
        for _ in 0..rng.between(0..=2) {
            let turns = rng.between(1..=400);
            let end = rng.pick(&[
                End::KillAfter(turns),
                End::PowerLossAfter(turns),
                End::PowerLossAfter(turns),
                End::StopAfter(turns),
            ]);
            setup.lives.insert(0, end);
        }
        setup
    }
}

fn random_faults(rng: &mut Rng) -> Faults {
    let network = rng.chance(600);
    let disk = rng.chance(600);
    let per_mille = |rng: &mut Rng, on: bool, most: u64| {
        if on { rng.between(0..=most) as u32 } else { 0 }
    };
    Faults {
        write_error: per_mille(rng, disk, 20),
        write_short: per_mille(rng, disk, 20),
        sync_error: per_mille(rng, disk, 30),
        open_error: per_mille(rng, disk, 100),
        allocate_error: per_mille(rng, disk, 200),
        folder_error: per_mille(rng, disk, 100),
        disk_late: per_mille(rng, disk, 50),
        accept_error: per_mille(rng, network, 100),
        multishot_ends: per_mille(rng, network, 100),
        send_partial: per_mille(rng, network, 500),
        send_error: per_mille(rng, network, 20),
        wake_for_nothing: per_mille(rng, network || disk, 100),
        send_buffer_refused: per_mille(rng, network, 200),
        until_ns: if network || disk {
            rng.between(10_000_000..=3_000_000_000)
        } else {
            0
        },
    }
}

fn random_producer(rng: &mut Rng, index: u64, troubled: bool) -> ProducerPlan {
    let anonymous = rng.chance(100);
    let clumsy = troubled && rng.chance(500);
    ProducerPlan {
        listener: TCP,
        id: if anonymous { 0 } else { 0xa000 + index },
        frames: rng.between(1..=100) as u32,
        window: rng.pick(&[4, 32, 1024]),
        records_max: rng.pick(&[1, 5, 20]),
        body_len_max: rng.pick(&[0, 40, 300]),
        json_per_mille: rng.pick(&[0, 500, 1000]),
        bad_per_mille: rng.pick(&[0, 50, 300]),
        reset_per_mille: if clumsy { rng.pick(&[0, 10, 50]) } else { 0 },
        half_close_per_mille: if clumsy { rng.pick(&[0, 10, 50]) } else { 0 },
        deaf: false,
        burst_max: rng.pick(&[1, 8, 40]),
        pause_ns_max: rng.pick(&[50_000, 1_000_000, 10_000_000]),
        script: Vec::new(),
        pieces: Vec::new(),
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Equal only for runs that did the same in the same order.
    pub digest: u64,
    pub lives: usize,
    pub turns: u64,
    pub frames: usize,
    pub acknowledged: usize,
    pub stored: usize,
    pub lost_records: u64,
}

/// One life of an agent: a worker under the simulator.
pub struct Life {
    pub worker: Worker<SimKernel>,
    pub marks: Arc<JournalMarks>,
    blocks: Arc<BlockPool>,
    sink: Option<FeedReceiver>,
    rng: Rng,
    /// Records stored when this life began.
    records_before: u64,
    pub turns: u64,
}

/// What outlives an agent.
struct Remains {
    disk: DiskImage,
    book: Book,
    index: DurableIndex,
    producers: Vec<Producer>,
    senders: Vec<Sender>,
    committed: u64,
}

impl Life {
    /// The first life, on an empty disk.
    pub fn first(setup: &Setup, trace: Option<Trace>) -> Self {
        let mut rng = Rng::new(setup.seed ^ 0x5eed);
        let remains = Remains {
            disk: DiskImage::new(),
            book: Book::default(),
            index: DurableIndex::default(),
            producers: setup
                .producers
                .iter()
                .enumerate()
                .map(|(index, plan)| Producer::new(index, plan.clone(), rng.fork()))
                .collect(),
            senders: setup
                .senders
                .iter()
                .map(|plan| Sender::new(plan.clone(), rng.fork()))
                .collect(),
            committed: 0,
        };
        Self::begin(setup, &mut rng, remains, trace)
    }

    /// An agent starts on what is there.
    fn begin(setup: &Setup, rng: &mut Rng, remains: Remains, trace: Option<Trace>) -> Self {
        let (image, start, recalled) = recover(&remains.disk, &remains.book);
        let position = start.position;
        assert!(
            position >= remains.committed,
            "the journal goes on at {position}, and a sink has committed {}: it would never see \
             what is stored before that",
            remains.committed
        );
        let blocks = BlockPool::new(setup.blocks, setup.block_len);
        let disk = Disk::from_image(&image);
        let mut kernel = SimKernel::new(rng.fork(), setup.sizes.clone(), Arc::clone(&blocks), disk);
        kernel.faults = setup.faults.clone();
        kernel.mishaps = setup.mishaps.clone();
        kernel.lie = setup.lie;
        kernel.pace = setup.pace.clone();
        kernel.stand_in = setup.stand_in;
        kernel.committed = remains.committed;
        kernel.continue_book(remains.book, &remains.index, position);
        kernel.index.check_book(&kernel.book);
        let records_before = kernel.index.stored_records(&kernel.book);
        if let Some(trace) = trace {
            kernel.keep_trace(trace);
        }
        let listeners = vec![
            ListenerPlan {
                name: "tcp".to_owned(),
                protocol: Protocol::Tcp,
                socket: kernel.listen(TCP),
                payload_len_max: PAYLOAD_LEN_MAX,
                stand_in: false,
            },
            ListenerPlan {
                name: "udp".to_owned(),
                protocol: Protocol::Udp,
                socket: kernel.bind(UDP),
                payload_len_max: PAYLOAD_LEN_MAX,
                stand_in: setup.stand_in,
            },
        ];
        for mut producer in remains.producers {
            producer.disconnect();
            kernel.add_producer(producer);
        }
        for sender in remains.senders {
            kernel.add_sender(sender);
        }
        let marks = Arc::new(JournalMarks::new(position, start.records));
        let mut feeds = Vec::new();
        let mut sink = None;
        if setup.sink {
            let (sender, receiver) = feed(&marks, 4);
            sender.mark.commit(remains.committed, 0);
            feeds.push(sender);
            sink = Some(receiver);
        }
        let plan = Plan {
            shard: 0,
            listeners,
            schemas: Schemas::default(),
            journal: JournalPlan {
                commit_interval: setup.commit_interval,
                commit_size: setup.commit_size,
                sync: SyncMode::Always,
                sync_interval: Duration::from_secs(1),
                recalled,
                segment_len: setup.segment_len,
                size_max: setup.size_max,
                start,
                feeds,
                marks: Arc::clone(&marks),
                disk_low: Arc::new(AtomicBool::new(false)),
            },
            handover: setup.peek.then(|| Handover::for_shards(1).remove(0)),
            connections_max: setup.connections_max,
            tcp_buffers: setup.sizes.tcp_buffers,
            udp_buffers: setup.sizes.udp_buffers,
            stop: Arc::new(AtomicBool::new(false)),
            observer: Box::new(()),
        };
        Self {
            worker: Worker::new(kernel, Arc::clone(&blocks), plan),
            marks,
            blocks,
            sink,
            rng: rng.fork(),
            records_before,
            turns: 0,
        }
    }

    pub fn kernel(&mut self) -> &mut SimKernel {
        self.worker.kernel_mut()
    }

    /// One turn of the worker and a look at its promises.
    pub fn turn(&mut self) -> Turn {
        let turn = self.worker.turn().expect("the simulated ring never breaks");
        self.turns += 1;
        self.worker.invariants();
        let durable = self.marks.durable();
        let index = &self.worker.kernel_mut().index;
        let on_disk = index.durable_position();
        assert!(
            durable <= on_disk,
            "sinks are told that {durable} is durable, and the disk has {on_disk}"
        );
        self.turn_sink();
        turn
    }

    /// The sink takes what it is offered, and commits now and then.
    fn turn_sink(&mut self) {
        let Some(sink) = &self.sink else { return };
        if !self.rng.chance(300) {
            return;
        }
        while let Fed::Block(block) = sink.wait(Duration::ZERO) {
            let header = *block.header();
            let index = &self.worker.kernel_mut().index;
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
            let (durable, records) = (self.marks.durable(), self.marks.durable_records());
            sink.mark.commit(durable, records);
            self.worker.kernel_mut().committed = durable;
        }
    }

    /// Turns until `done`; fails where that takes for ever.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let patience_ns = self.kernel().faults.until_ns + PATIENCE_NS;
        while !done(self) {
            assert_eq!(self.turn(), Turn::Running, "stopped on its own");
            let now_ns = self.kernel().now_ns();
            assert!(
                now_ns < patience_ns && self.turns < TURNS_MAX,
                "{what}: not after {} turns and {} ms",
                self.turns,
                now_ns / 1_000_000
            );
        }
    }

    /// All that producers have to send is settled and read.
    pub fn until_settled(&mut self) {
        self.until("all frames are settled", |life| {
            let kernel = life.kernel();
            kernel.world_is_done() && kernel.streams_are_read()
        });
    }

    /// A stop in good order; then the sums must agree.
    pub fn stop(&mut self) {
        self.worker.begin_stop();
        let begun_ns = self.kernel().now_ns();
        while self.turn() == Turn::Running {
            let now_ns = self.kernel().now_ns();
            assert!(
                now_ns < begun_ns + PATIENCE_NS && self.turns < TURNS_MAX,
                "a stop takes for ever"
            );
        }
        self.check_stopped();
    }

    fn check_stopped(&mut self) {
        let sink = self.sink.take();
        drop(sink);
        let counters = self.worker.counters().clone();
        let kernel = self.worker.kernel_mut();
        kernel.check_at_rest();
        kernel.check_answered();
        for (listener, tally) in kernel.tallies() {
            let counts = &counters.listeners[usize::from(listener)];
            let accepted: u64 = counts.accepted_frames.iter().sum();
            let refused: u64 = counts.refused_frames.iter().sum();
            assert_eq!(
                counts.received_frames,
                accepted + refused,
                "received = accepted + refused at listener {listener}"
            );
            assert_eq!(
                counts.received_datagrams, tally.datagrams,
                "datagrams of listener {listener}"
            );
            let malformed = agent_common::verdict::Verdict::Malformed as usize;
            assert_eq!(
                counts.gate_datagrams[malformed], tally.gate_malformed,
                "datagrams that the gate of listener {listener} drops"
            );
            assert_eq!(counts.connections, 0, "connections of listener {listener}");
            // For want of room, for a failed journal or at a stop a good frame may be refused, and
            // as it was taken before.
            let nobodys_fault = [
                Reason::Duplicate,
                Reason::Backpressure,
                Reason::JournalFailed,
                Reason::Stopping,
            ];
            let turned_away: u64 = nobodys_fault
                .iter()
                .map(|reason| counts.refused_frames[reason.index()])
                .sum();
            let good = tally.certain.good..=tally.certain.good + tally.perhaps.good;
            assert!(
                good.contains(&(accepted + turned_away)),
                "listener {listener} took {accepted} frames and turned {turned_away} away; good \
                 ones that arrived: {good:?}"
            );
            for &reason in Reason::ALL {
                if nobodys_fault.contains(&reason) {
                    continue;
                }
                let certain = tally.certain.refused(reason);
                let most = certain + tally.perhaps.refused(reason);
                let counted = counts.refused_frames[reason.index()];
                assert!(
                    (certain..=most).contains(&counted),
                    "listener {listener} refused {counted} frames as {}; such that arrived: \
                     {certain}..={most}",
                    reason.label()
                );
            }
        }
        let accepted: u64 = counters
            .listeners
            .iter()
            .flat_map(|listener| listener.accepted_records)
            .sum();
        let lost: u64 = counters.journal_lost_records.iter().sum();
        assert_eq!(
            accepted,
            counters.journal_appended_records + lost,
            "accepted records = appended + lost"
        );
        let stored = kernel.index.stored_records(&kernel.book) - self.records_before;
        // What a failed write or sync left on the disk may be whole all the same; where no segment
        // came after it, nothing says yet that it is not valid.
        let appended = counters.journal_appended_records;
        assert!(
            (appended..=appended + lost).contains(&stored),
            "{appended} records appended, {lost} lost and {stored} on the disk"
        );
    }

    /// The agent is gone; `image` is what the disk shows then.
    fn end(mut self, image: impl FnOnce(&Disk, &mut Rng) -> DiskImage) -> (Remains, Rng, u64) {
        let mut rng = self.rng.fork();
        let kernel = self.worker.kernel_mut();
        let remains = Remains {
            disk: image(&kernel.disk, &mut rng),
            book: std::mem::take(&mut kernel.book),
            index: std::mem::take(&mut kernel.index),
            producers: std::mem::take(&mut kernel.producers),
            senders: std::mem::take(&mut kernel.senders),
            committed: kernel.committed,
        };
        let digest = kernel.digest();
        drop(self.sink.take());
        drop(self.worker);
        assert_eq!(
            self.blocks.free(),
            self.blocks.count(),
            "journal blocks that somebody still holds"
        );
        (remains, rng, digest)
    }
}

/// Lets the real recovery look at an image, in a folder of real files; returns what it left and
/// where the journal goes on. Nothing acknowledged may be missing then.
fn recover(image: &DiskImage, book: &Book) -> (DiskImage, JournalStart, Recalled) {
    let mut recalled = Recalled::nobody(PRODUCERS_MAX, PRODUCER_EXPIRY);
    if image.is_empty() {
        let start = JournalStart {
            segment: 1,
            ..JournalStart::default()
        };
        return (DiskImage::new(), start, recalled);
    }
    // In memory where that can be had: recovery syncs, and nothing here needs a disk.
    let memory = Path::new("/dev/shm");
    let root = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    let folder = tempfile::tempdir_in(root).expect("a folder for temporary files");
    for (name, bytes) in image {
        std::fs::write(folder.path().join(name), bytes).expect("a temporary file");
    }
    let recovered = recovery::recover(folder.path()).expect("recovery of sound files");
    assert_eq!(
        recovered.report.damaged,
        [],
        "recovery reports damage, and there was none: {recovered:?}"
    );
    let left = read_folder(folder.path());
    let index = DurableIndex::of_image(&left, book);
    let stored = index.stored_records(book);
    assert_eq!(
        recovered.report.records, stored,
        "records that recovery says it keeps, and records that are there: {recovered:?}"
    );
    let (memory, held_in) =
        remember(folder.path(), &recovered.start).expect("memory of sound files");
    // The simulation's clock begins anew with each life: nobody is ever old.
    recalled.windows.restore(memory, 0);
    recalled.held_in = held_in;
    (left, recovered.start, recalled)
}

fn read_folder(folder: &Path) -> DiskImage {
    let entries = std::fs::read_dir(folder).expect("the folder just made");
    let paths = entries.map(|entry| entry.expect("its entry").path());
    let read = |path: PathBuf| {
        let name = path.file_name().expect("a file").to_string_lossy();
        (name.into_owned(), std::fs::read(&path).expect("its bytes"))
    };
    paths.map(read).collect()
}

/// Runs a setup to its end; panics where a promise is broken.
pub fn run(setup: &Setup, trace: Option<Trace>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut life = Life::first(setup, trace.clone());
    let mut ends = setup.lives.iter().peekable();
    loop {
        let end = *ends
            .next()
            .expect("a run has a life, and ends with its last");
        let remains = match end {
            End::Settled => {
                life.until_settled();
                life.stop();
                outcome.add(&life);
                life.end(Disk::after_power_loss)
            }
            End::StopAfter(turns) => {
                life.live(turns);
                life.stop();
                outcome.add(&life);
                life.end(Disk::after_power_loss)
            }
            End::KillAfter(turns) => {
                life.live(turns);
                outcome.add(&life);
                life.end(Disk::after_exit)
            }
            End::PowerLossAfter(turns) => {
                life.live(turns);
                outcome.add(&life);
                life.end(Disk::after_power_loss)
            }
        };
        let (mut remains, mut rng, digest) = remains;
        outcome.digest = outcome.digest.rotate_left(7) ^ digest;
        if ends.peek().is_none() {
            // A last look, as a restart would have it.
            let (image, start, _) = recover(&remains.disk, &remains.book);
            let mut index = DurableIndex::of_image(&image, &remains.book);
            index.inherit(&remains.index, start.position);
            assert!(
                start.position >= remains.committed,
                "positions go back at the last restart"
            );
            index.check_book(&remains.book);
            outcome.close(&remains.book, &index);
            return outcome;
        }
        for producer in &mut remains.producers {
            producer.disconnect();
        }
        life = Life::begin(setup, &mut rng, remains, trace.clone());
    }
}

impl Life {
    fn live(&mut self, turns: u64) {
        for _ in 0..turns {
            self.turn();
        }
    }
}

impl Outcome {
    fn add(&mut self, life: &Life) {
        self.lives += 1;
        self.turns += life.turns;
        self.lost_records += life
            .worker
            .counters()
            .journal_lost_records
            .iter()
            .sum::<u64>();
    }

    fn close(&mut self, book: &Book, index: &DurableIndex) {
        self.frames = book.lines().len();
        self.acknowledged = book.lines().iter().filter(|line| line.acknowledged).count();
        self.stored = (0..book.lines().len())
            .filter(|&number| index.stored(number) > 0)
            .count();
    }
}

/// A run that broke a promise.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    /// The last events before it.
    pub trace: Vec<String>,
}

/// Runs a setup and catches what it breaks.
pub fn try_run(setup: &Setup) -> Result<Outcome, Failure> {
    let trace: Trace = Rc::new(RefCell::new(VecDeque::new()));
    let keep = Rc::clone(&trace);
    let attempt = std::panic::AssertUnwindSafe(|| run(setup, Some(keep)));
    std::panic::catch_unwind(attempt).map_err(|panic| Failure {
        message: panic_message(panic.as_ref()),
        trace: trace.borrow().iter().cloned().collect(),
    })
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
