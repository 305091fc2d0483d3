//! A life of an agent in a world: its shards and its sinks, each turned when it has something to do,
//! one at a time, in an order of the seed's choosing.

use std::cell::{RefCell, RefMut};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use penstock::config::settings::{OnFull, Protocol, SyncMode};
use penstock::gate::StandIn;
use penstock::journal::dedup::Recalled;
use penstock::journal::feed::{FeedReceiver, FeedSender, JournalMarks, feed};
use penstock::journal::format::shard_folder_name;
use penstock::journal::writer::{JournalPlan, JournalStart};
use penstock::schema::table::Schemas;
use penstock::shard::buffer::BlockPool;
use penstock::shard::counters::ShardCounters;
use penstock::shard::handover::Handover;
use penstock::shard::regulation::Regulation;
use penstock::shard::tenant::TenantPlan;
use penstock::shard::worker::{ListenerPlan, Plan, Turn, Worker};
use penstock::sink::StopDeadline;
use tempfile::TempDir;

use super::check::{self, DurableIndex};
use super::client::Client;
use super::disk::{Disk, DiskImage};
use super::files::Files;
use super::frame::PAYLOAD_LEN_MAX;
use super::hop::Onward;
use super::kernel::{Mirror, SimKernel, Trace, World};
use super::producer::{Producer, Sender};
use super::reload::{Reloads, SharedOrders};
use super::restart::{self, Found};
use super::rng::Rng;
use super::setup::{Setup, TCP, UDP};
use super::sinks::{ModelSink, SinkActor, SinkPost, forward_cursor};

/// Virtual time within which a life must come to its end once nothing goes wrong any more.
const PATIENCE_NS: u64 = 120_000_000_000;
/// Turns within which it must.
const TURNS_MAX: u64 = 600_000;
/// Blocks that a sink is offered at once.
const FEED_BLOCKS: usize = 4;

/// Where temporary files are made: in memory where that can be had, as nothing here needs a disk.
pub fn memory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    }
}

/// One shard.
pub struct Shard {
    /// `None` once it has stopped and its sinks must learn of it.
    worker: Option<Worker<SimKernel>>,
    /// Its last counts.
    counters: ShardCounters,
    pub marks: Arc<JournalMarks>,
    blocks: Arc<BlockPool>,
    /// Its port, which has the same number.
    at: usize,
    stopped: bool,
    /// Another shard has left a connection in its mailbox.
    pub(super) woken: Arc<AtomicBool>,
    pub(super) orders: SharedOrders,
    /// Records stored when this life began.
    records_before: u64,
}

/// An agent under the simulator, and the world around it.
pub struct Life {
    world: Rc<RefCell<World>>,
    setup: Setup,
    pub shards: Vec<Shard>,
    models: Vec<ModelSink>,
    sinks: Vec<Rc<RefCell<SinkActor>>>,
    /// The way to the agent that a forwarding sink hands over to.
    onward: Option<Rc<Onward>>,
    pub files: Files,
    /// The journals' folders, as the agent's own readers and its recovery see them.
    data_dir: TempDir,
    disk_low: Arc<AtomicBool>,
    /// How connections get to the shard that owns their producer.
    handovers: Vec<Handover>,
    /// What all shards of this life share of what regulates them.
    regulation: Regulation,
    deadline: Arc<StopDeadline>,
    pub reloads: Option<Reloads>,
    rng: Rng,
    pub turns: u64,
    /// How many lives came before.
    pub number: usize,
}

impl Life {
    /// The first life, on an empty disk.
    pub fn first(setup: &Setup, trace: Option<Trace>) -> Self {
        Self::forwarding(setup, trace, None)
    }

    /// The same with a way to another agent.
    pub fn forwarding(setup: &Setup, trace: Option<Trace>, onward: Option<Rc<Onward>>) -> Self {
        let mut rng = Rng::new(setup.seed ^ 0x5eed);
        let mut world = World::new(rng.fork(), setup.sizes.clone());
        world.faults = setup.faults.clone();
        world.mishaps = setup.mishaps.clone();
        world.lie = setup.lie;
        world.pace = setup.pace.clone();
        world.stand_in = setup.stand_in;
        if let Some(trace) = trace {
            world.keep_trace(trace);
        }
        for (index, plan) in setup.producers.iter().enumerate() {
            let producer = Producer::new(index, plan.clone(), rng.fork());
            world.add_producer(Box::new(producer));
        }
        for plan in &setup.clients {
            let client = Client::new(world.producers.len(), plan.clone(), rng.fork());
            world.add_producer(Box::new(client));
        }
        for plan in &setup.senders {
            world.add_sender(Sender::new(plan.clone(), rng.fork()));
        }
        let world = Rc::new(RefCell::new(world));
        let mut life = Self {
            files: Files::new(&world),
            world,
            setup: setup.clone(),
            shards: Vec::new(),
            models: Vec::new(),
            sinks: Vec::new(),
            onward,
            data_dir: tempfile::tempdir_in(memory()).expect("a folder for temporary files"),
            disk_low: Arc::default(),
            handovers: Vec::new(),
            regulation: Regulation::alone(1),
            deadline: Arc::default(),
            reloads: None,
            rng,
            turns: 0,
            number: 0,
        };
        life.begin(&[]);
        life
    }

    /// An agent starts on what is there, with a port for each journal.
    fn begin(&mut self, images: &[DiskImage]) {
        self.disk_low = Arc::default();
        self.deadline = Arc::default();
        // Its generator is its own: a run without reloads draws as if there were none.
        let seed = self.setup.seed ^ 0x7e10ad ^ self.number as u64;
        self.reloads = self.setup.reloads.then(|| Reloads::new(Rng::new(seed)));
        let count = self.setup.shards_of(self.number);
        let reshards = self.number > 0 && count != self.setup.shards_of(self.number - 1);
        self.world().struck.reshards += u64::from(reshards);
        let found = restart::recover(self.data_dir.path(), images, count, &mut self.world());
        self.regulation = Regulation {
            tenants: TenantPlan::new(&self.setup.tenants).map(Arc::new),
            ..Regulation::alone(count)
        };
        self.handovers = match count {
            1 if !self.setup.peek => Vec::new(),
            count => Handover::for_shards(count),
        };
        for (shard, found) in found.into_iter().enumerate() {
            self.begin_shard(shard, found);
        }
        let world = Rc::clone(&self.world);
        let mut world = world.borrow_mut();
        check::check_book(&world.ports, &world.book);
        for shard in &mut self.shards {
            shard.records_before = world.ports[shard.at].index.stored_records(&world.book);
        }
        world.alone = self.shards.len() == 1 && self.sinks.is_empty();
        world.begin_faults();
    }

    /// A shard of this life; or, without anything recalled, the journal of one that is gone, which
    /// sinks still deliver.
    fn begin_shard(&mut self, shard: usize, found: Found) {
        let setup = self.setup.clone();
        let blocks = BlockPool::new(setup.blocks, setup.block_len);
        let start = found.start;
        let position = start.position;
        let mut committed = 0;
        {
            let mut world = self.world.borrow_mut();
            if shard == world.ports.len() {
                world.add_port(0, shard as u16, &blocks);
            } else {
                committed = world.ports[shard].committed();
            }
            assert!(
                position >= committed,
                "the journal goes on at {position}, and a sink has committed {committed}: it would \
                 never see what is stored before that"
            );
            world.renew_port(shard, Disk::from_image(&found.image), &blocks);
            let world = &mut *world;
            let port = &mut world.ports[shard];
            let earlier = std::mem::take(&mut port.index);
            port.index.inherit(&earlier, position);
            port.index.advance(&port.disk, &world.book);
        }
        let marks = Arc::new(JournalMarks::new(position, start.records));
        let mut feeds = Vec::new();
        if setup.model_sink {
            let (sender, receiver) = feed(&marks, FEED_BLOCKS);
            sender.mark.commit(committed, 0);
            self.models
                .push(ModelSink::new(shard, receiver, self.rng.fork()));
            feeds.push(sender);
        }
        for index in 0..setup.file_sinks {
            let (sender, receiver) = feed(&marks, FEED_BLOCKS);
            let sink = SinkActor::file(&setup, index, self.post(shard, receiver));
            self.sinks.push(Rc::new(RefCell::new(sink)));
            feeds.push(sender);
        }
        if let Some(onward) = self.onward.clone().filter(|_| setup.forward) {
            let (sender, receiver) = feed(&marks, FEED_BLOCKS);
            let pipe = onward.pipe(&self.world, &self.files, forward_cursor(shard));
            let sink = SinkActor::forward(pipe, self.post(shard, receiver));
            self.sinks.push(Rc::new(RefCell::new(sink)));
            feeds.push(sender);
        }
        let mut world = self.world.borrow_mut();
        let port = &mut world.ports[shard];
        port.sinks = feeds.iter().map(|feed| Arc::clone(&feed.mark)).collect();
        drop(world);
        let Some(recalled) = found.recalled else {
            marks.close();
            return;
        };
        let woken = Arc::new(AtomicBool::new(false));
        if let Some(handover) = self.handovers.get(shard) {
            let woken = Arc::clone(&woken);
            let wake = move || woken.store(true, Ordering::Relaxed);
            handover.own().set_wake(Box::new(wake));
        }
        let plan = self.plan(shard, start, recalled, feeds, &marks);
        let orders = Arc::clone(&plan.orders);
        let kernel = SimKernel::new(&self.world, shard);
        self.shards.push(Shard {
            worker: Some(Worker::new(kernel, Arc::clone(&blocks), plan)),
            counters: ShardCounters::default(),
            marks,
            blocks,
            at: shard,
            stopped: false,
            woken,
            orders,
            records_before: 0,
        });
    }

    fn post(&mut self, shard: usize, feed: FeedReceiver) -> SinkPost {
        SinkPost {
            shard,
            folder: self.journal_folder(shard),
            files: self.files.clone(),
            feed,
            stop: Arc::clone(&self.deadline),
            rng: self.rng.fork(),
        }
    }

    fn plan(
        &mut self,
        shard: usize,
        start: JournalStart,
        recalled: Recalled,
        feeds: Vec<FeedSender>,
        marks: &Arc<JournalMarks>,
    ) -> Plan {
        let folder = self.journal_folder(shard);
        let setup = &self.setup;
        let mut world = self.world.borrow_mut();
        let port = &mut world.ports[shard];
        if setup.file_sinks > 0 || setup.forward {
            port.mirror = Some(Mirror::new(&folder));
        }
        let listeners = vec![
            ListenerPlan {
                name: "tcp".to_owned(),
                protocol: Protocol::Tcp,
                socket: port.listen(TCP),
                payload_len_max: PAYLOAD_LEN_MAX,
                stand_in: None,
            },
            ListenerPlan {
                name: "udp".to_owned(),
                protocol: Protocol::Udp,
                socket: port.bind(UDP),
                payload_len_max: PAYLOAD_LEN_MAX,
                stand_in: setup.stand_in.then(StandIn::new),
            },
        ];
        Plan {
            shard: shard as u16,
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
                marks: Arc::clone(marks),
                disk_low: Arc::clone(&self.disk_low),
                on_full: OnFull::Backpressure,
                salt_seed: setup.seed ^ ((self.number as u64) << 32 | shard as u64),
            },
            handover: self.handovers.get(shard).cloned(),
            regulation: self.regulation.clone(),
            connections_max: setup.connections_max,
            source_connections: Arc::default(),
            carry_bytes_max: setup.carry_bytes_max,
            tcp_buffers: setup.sizes.tcp_buffers,
            udp_buffers: setup.sizes.udp_buffers,
            stop: Arc::new(AtomicBool::new(false)),
            orders: Arc::default(),
            observer: Box::new(()),
        }
    }

    fn journal_folder(&self, shard: usize) -> PathBuf {
        self.data_dir
            .path()
            .join("journal")
            .join(shard_folder_name(shard as u16))
    }

    pub fn world(&self) -> RefMut<'_, World> {
        self.world.borrow_mut()
    }

    /// What the first shard has counted: the only one of most scenarios.
    pub fn counters(&self) -> ShardCounters {
        self.shards[0].counters()
    }

    pub fn all_counters(&self) -> Vec<ShardCounters> {
        self.shards.iter().map(Shard::counters).collect()
    }

    pub fn marks(&self) -> &JournalMarks {
        &self.shards[0].marks
    }

    /// One turn of whoever has something to do, and a look at its promises. False once every worker
    /// has stopped.
    pub fn turn(&mut self) -> bool {
        match self.turn_until(u64::MAX) {
            Turned::On => true,
            Turned::Sink(sink) => {
                sink.borrow_mut().step();
                true
            }
            Turned::Stopped => false,
        }
    }

    /// The same, and not beyond a time. A sink that may wait for another agent is left to the caller.
    pub fn turn_until(&mut self, until_ns: u64) -> Turned {
        self.turns += 1;
        self.disk_low
            .store(self.world().disk_is_low(), Ordering::Relaxed);
        let running = self.shards.iter().any(|shard| !shard.stopped);
        if !running {
            return Turned::Stopped;
        }
        self.advance_reload();
        match self.next_actor(until_ns) {
            Some(Actor::Shard(shard)) => self.turn_shard(shard),
            Some(Actor::Sink(sink)) if self.is_stalled(sink) => {}
            Some(Actor::Sink(sink)) => {
                let sink = Rc::clone(&self.sinks[sink]);
                if sink.borrow().waits {
                    return Turned::Sink(sink);
                }
                sink.borrow_mut().step();
            }
            None => {}
        }
        Turned::On
    }

    /// Lets time pass until somebody has something to do, and picks one of them; `None`: nobody until
    /// then.
    fn next_actor(&mut self, until_ns: u64) -> Option<Actor> {
        if self.world().alone {
            return Some(Actor::Shard(0));
        }
        loop {
            let mut world = self.world.borrow_mut();
            let now_ns = world.now_ns();
            let mut ready = Vec::new();
            let mut wake_ns = until_ns;
            for (index, shard) in self.shards.iter().enumerate() {
                if shard.woken.swap(false, Ordering::Relaxed) {
                    world.ports[shard.at].wake();
                }
                let port = &world.ports[shard.at];
                if shard.stopped {
                    continue;
                }
                if port.is_ready(now_ns) {
                    ready.push(Actor::Shard(index));
                }
                wake_ns = wake_ns.min(port.wake_ns());
            }
            for (index, sink) in self.sinks.iter().enumerate() {
                // Who waits within its turn takes no other.
                let Ok(sink) = sink.try_borrow() else {
                    continue;
                };
                if !sink.ended && sink.wake_ns <= now_ns {
                    ready.push(Actor::Sink(index));
                }
                wake_ns = wake_ns.min(sink.wake_ns);
            }
            if !ready.is_empty() {
                return Some(self.rng.pick(&ready));
            }
            if now_ns >= until_ns {
                return None;
            }
            if !world.happen(wake_ns) {
                assert_ne!(wake_ns, u64::MAX, "everybody sleeps for ever");
                world.advance_to(wake_ns);
            }
        }
    }

    fn turn_shard(&mut self, index: usize) {
        let shard = &mut self.shards[index];
        let worker = shard.worker.as_mut().expect("it has not stopped");
        let turn = worker.turn().expect("the simulated ring never breaks");
        shard.stopped = turn == Turn::Stopped;
        worker.invariants();
        let durable = shard.marks.durable();
        let world = self.world.borrow();
        let index = &world.ports[shard.at].index;
        let on_disk = index.durable_position();
        assert!(
            durable <= on_disk,
            "sinks are told that {durable} is durable, and the disk has {on_disk}"
        );
        let at = shard.at;
        for model in self.models.iter_mut().filter(|model| model.shard == at) {
            model.step(index);
        }
    }

    fn step_sink(&mut self, index: usize) {
        if !self.is_stalled(index) {
            self.sinks[index].borrow_mut().step();
        }
    }

    /// A call into the disk hangs: so does the sink.
    fn is_stalled(&mut self, index: usize) -> bool {
        let stalled_until = self.world().stalled_until();
        if let Some(until_ns) = stalled_until {
            self.sinks[index].borrow_mut().wake_ns = until_ns;
        }
        stalled_until.is_some()
    }

    /// Turns until `done`; fails where that takes for ever.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let patience_ns = self.world().now_ns() + self.setup.faults.until_ns + PATIENCE_NS;
        let turns = self.turns;
        while !done(self) {
            assert!(self.turn(), "stopped on its own");
            let now_ns = self.world().now_ns();
            assert!(
                now_ns < patience_ns && self.turns < turns + TURNS_MAX,
                "{what}: not after {} turns and {} ms",
                self.turns,
                now_ns / 1_000_000
            );
        }
    }

    /// All that producers have to send is settled and read.
    pub fn until_settled(&mut self) {
        self.until("all frames are settled", |life| {
            let world = life.world();
            world.world_is_done() && world.streams_are_read()
        });
    }

    /// A stop in good order; then the sums must agree, and sinks deliver what is left.
    pub fn stop(&mut self) {
        self.end_reloads();
        let last = self.number + 1 == self.setup.lives.len();
        self.stop_workers();
        restart::check_stopped(self);
        self.models.clear();
        if let Some(drain) = self.setup.drain.filter(|_| !last) {
            self.files.tell_time();
            self.deadline.set(self.files.time().instant() + drain);
        }
        self.stop_sinks();
    }

    fn stop_workers(&mut self) {
        for shard in &mut self.shards {
            let worker = shard.worker.as_mut().expect("it has not stopped");
            worker.begin_stop();
            self.world.borrow_mut().ports[shard.at].wake();
        }
        let begun_ns = self.world().now_ns();
        while self.turn() {
            let now_ns = self.world().now_ns();
            assert!(
                now_ns < begun_ns + PATIENCE_NS && self.turns < 2 * TURNS_MAX,
                "a stop takes for ever"
            );
        }
    }

    /// The workers are gone, and with them their ends of the feeds.
    fn stop_sinks(&mut self) {
        if self.sinks.is_empty() {
            return;
        }
        for shard in &mut self.shards {
            shard.counters = shard.counters();
            shard.worker = None;
        }
        let begun_ns = self.world().now_ns();
        while let Some(next) = (0..self.sinks.len())
            .filter(|&index| !self.sinks[index].borrow().ended)
            .min_by_key(|&index| self.sinks[index].borrow().wake_ns)
        {
            let wake_ns = self.sinks[next].borrow().wake_ns;
            self.world().advance_to(wake_ns);
            self.step_sink(next);
            let now_ns = self.world().now_ns();
            assert!(
                now_ns < begun_ns + 2 * PATIENCE_NS,
                "sinks take for ever to deliver what is left"
            );
        }
        let world = self.world.borrow();
        for shard in &self.shards {
            let (committed, durable) = (world.ports[shard.at].committed(), shard.marks.durable());
            assert!(
                committed == durable || self.deadline.get().is_some(),
                "sinks have ended at {committed} of {durable}"
            );
        }
    }

    /// So many turns.
    pub fn live(&mut self, turns: u64) {
        for _ in 0..turns {
            self.turn();
        }
    }

    /// The process is gone, and the power with it where `power_lost`; what the disks show then.
    pub fn end(&mut self, power_lost: bool) -> Vec<DiskImage> {
        let mut world = self.world.borrow_mut();
        let world = &mut *world;
        world.note_end(power_lost);
        let mut images = Vec::new();
        for port in &world.ports {
            let struck = &mut world.struck;
            images.push(if power_lost {
                port.disk.after_power_loss(&mut self.rng, struck)
            } else {
                port.disk.after_exit(&mut self.rng, struck)
            });
        }
        if power_lost {
            self.files.lose_power(&mut self.rng, &mut world.struck);
        }
        world.hang_up(0);
        images
    }

    /// Nothing of the old agent is left; the next one begins on `images`.
    pub fn restart(&mut self, images: &[DiskImage]) {
        self.drop_agent();
        self.number += 1;
        self.turns = 0;
        self.begin(images);
    }

    /// Lets go of the workers and sinks; no journal block may be held then.
    pub fn drop_agent(&mut self) {
        self.models.clear();
        self.sinks.clear();
        for shard in self.shards.drain(..) {
            drop(shard.worker);
            assert_eq!(
                shard.blocks.free(),
                shard.blocks.count(),
                "journal blocks that somebody still holds"
            );
        }
    }

    /// What a restart would find in the journals: for a last look.
    pub fn last_look(&mut self, images: &[DiskImage]) -> Vec<DurableIndex> {
        let count = self.setup.shards_of(self.number);
        let mut world = self.world.borrow_mut();
        let found = restart::recover(self.data_dir.path(), images, count, &mut world);
        let mut indices = Vec::new();
        for (found, port) in found.into_iter().zip(&world.ports) {
            let mut index = DurableIndex::of_image(&found.image, &world.book);
            assert!(
                found.start.position >= port.committed(),
                "positions go back at the last restart"
            );
            index.inherit(&port.index, found.start.position);
            indices.push(index);
        }
        indices
    }

    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    pub fn shard_records(&self, shard: &Shard) -> u64 {
        let world = self.world.borrow();
        world.ports[shard.at].index.stored_records(&world.book) - shard.records_before
    }
}

/// What became of a turn.
pub enum Turned {
    On,
    /// This sink's step is due.
    Sink(Rc<RefCell<SinkActor>>),
    Stopped,
}

/// Who may be turned.
#[derive(Clone, Copy, Debug)]
enum Actor {
    Shard(usize),
    Sink(usize),
}

impl Shard {
    pub fn counters(&self) -> ShardCounters {
        let worker = self.worker.as_ref();
        worker.map_or_else(|| self.counters.clone(), |worker| worker.counters().clone())
    }

    /// After a stop in good order nothing is on loan, in flight or open.
    pub fn check_at_rest(&self) {
        let worker = self
            .worker
            .as_ref()
            .expect("it is there until it is checked");
        worker.kernel().check_at_rest();
    }

    pub fn at(&self) -> usize {
        self.at
    }
}
