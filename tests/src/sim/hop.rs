//! Two agents, the first of which hands everything over to the second: the real forwarding sink on
//! one side, the real listener on the other, either end killed at any moment.
//!
//! Each agent has a world of its own, and whoever's clock is behind takes the next turn. A forwarding
//! sink blocks where it waits for the other agent; its pipe then lets everybody else have their turns,
//! the shards of its own agent among them, until something has come or its time is up.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use penstock::limits::OUTSTANDING_FRAMES_MAX;
use penstock::sink::forward::Pipe;
use penstock::sink::forward::cursor::SavedForward;
use penstock_client::{Demand, Exchange};

use super::book::{Book, FrameNo};
use super::files::Files;
use super::kernel::{Trace, World};
use super::life::{Life, Turned};
use super::network::{Conn, ConnId};
use super::producer::{Peer, ProducerPlan, Wires};
use super::rng::Rng;
use super::scenario::Outcome;
use super::setup::{End, Setup, TCP};
use super::sinks::check_delivered;
use super::wire::{Wire, WireFaults};

/// Bytes that can be written at once are written so long after the last: a turn is never free.
const WRITE_PAUSE: Duration = Duration::from_micros(20);

/// What makes a run of two agents.
#[derive(Clone, Debug)]
pub struct HopSetup {
    pub sender: Setup,
    pub receiver: Setup,
    pub faults: WireFaults,
    /// The way answers each frame as it is sent: a forward whose cursor passes what nobody has.
    pub answers_itself: bool,
}

impl HopSetup {
    /// Two calm agents; the first has a forwarding sink, the second a file sink.
    pub fn calm(seed: u64) -> Self {
        let mut sender = Setup::calm(seed);
        sender.forward = true;
        let mut receiver = Setup::calm(seed ^ 0x4ec0);
        receiver.file_sinks = 1;
        Self {
            sender,
            receiver,
            faults: WireFaults::default(),
            answers_itself: false,
        }
    }

    /// Everything from the seed.
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x40b);
        let mut sender = Setup::random(seed);
        sender.forward = true;
        sender.model_sink = false;
        sender.file_sinks = sender.file_sinks.min(1);
        let mut receiver = Setup::random(seed ^ 0x4ec0_0000);
        receiver.model_sink = false;
        receiver.file_sinks = 1;
        receiver.producers.clear();
        receiver.senders.clear();
        receiver.clients.clear();
        if rng.chance(150) {
            // More frames than may be outstanding, of a record each.
            sender.producers.push(ProducerPlan {
                records_max: 1,
                burst_max: 200,
                pause_ns_max: 100_000,
                ..ProducerPlan::plain(TCP, 0xb000, 2_500)
            });
        }
        // As many connections as the sender has shards, at the least, and those that are going.
        receiver.connections_max += 4;
        Self {
            sender,
            receiver,
            faults: WireFaults {
                cut: rng.pick(&[0, 5, 30]),
                refused: rng.pick(&[0, 300]),
            },
            answers_itself: false,
        }
    }
}

/// The agent that is forwarded to, and the world around it.
struct Receiver {
    life: Life,
    outcome: Outcome,
}

impl Receiver {
    fn now_ns(&self) -> u64 {
        self.life.world().now_ns()
    }

    /// One turn, or the end of a life whose time has come, and the beginning of the next.
    fn turn(&mut self) {
        let end = self.life.setup().lives[self.life.number];
        let (End::StopAfter(turns) | End::KillAfter(turns) | End::PowerLossAfter(turns)) = end
        else {
            assert!(self.life.turn(), "the receiver has stopped on its own");
            return;
        };
        if self.life.turns < turns {
            self.life.turn();
            return;
        }
        if matches!(end, End::StopAfter(_)) {
            self.life.stop();
        }
        self.outcome.add_life(&self.life);
        let images = self.life.end(!matches!(end, End::KillAfter(_)));
        self.life.restart(&images);
    }
}

/// What a forwarding sink's pipe needs to know of both agents.
pub struct Onward {
    setup: HopSetup,
    receiver: RefCell<Receiver>,
    sender: RefCell<Weak<RefCell<Life>>>,
    /// Turns after which the sender's present life is over.
    turns_max: Cell<u64>,
    ended_in_wait: Cell<u64>,
    rng: RefCell<Rng>,
}

impl Onward {
    fn on_wires<R>(&self, act: impl FnOnce(&mut Wires<'_>) -> R) -> R {
        self.receiver.borrow().life.world().with_wires(act)
    }

    /// A way to the receiver for one sink of one life.
    pub fn pipe(
        self: &Rc<Self>,
        world: &Rc<RefCell<World>>,
        files: &Files,
        cursor: PathBuf,
    ) -> SimPipe {
        let receiver = self.receiver.borrow();
        let mut to = receiver.life.world();
        let rng = self.rng.borrow_mut().fork();
        let mut wire = Wire::new(to.producers.len(), TCP, self.setup.faults, rng);
        if self.setup.answers_itself {
            wire.lie();
        }
        let wire = Rc::new(RefCell::new(wire));
        to.add_producer(Box::new(Rc::clone(&wire)));
        SimPipe {
            onward: Rc::clone(self),
            world: Rc::clone(world),
            files: files.clone(),
            wire,
            cursor,
            passed: 0,
            error: None,
        }
    }

    /// The sender's process is gone, whatever its sinks are at.
    fn is_over(&self) -> bool {
        let sender = self.sender.borrow().upgrade();
        sender.is_some_and(|sender| match sender.try_borrow() {
            Ok(life) => life.turns >= self.turns_max.get(),
            // It is stopping, in good order.
            Err(_) => false,
        })
    }

    /// Somebody's turn, but for the sink that waits.
    fn pass(&self, world: &Rc<RefCell<World>>, until_ns: u64) {
        let now_ns = world.borrow().now_ns();
        let receiver_ns = self.receiver.borrow().now_ns();
        if receiver_ns <= now_ns {
            return self.receiver.borrow_mut().turn();
        }
        let sender = self.sender.borrow().upgrade();
        let turned = sender.and_then(|sender| {
            let mut life = sender.try_borrow_mut().ok()?;
            Some(life.turn_until(until_ns))
        });
        match turned {
            Some(Turned::Sink(sink)) => sink.borrow_mut().step(),
            Some(Turned::On) => {}
            // Its workers have stopped: only time passes.
            Some(Turned::Stopped) | None => {
                world.borrow_mut().advance_to(receiver_ns.min(until_ns));
            }
        }
    }
}

/// The way from a forwarding sink to the other agent.
pub struct SimPipe {
    onward: Rc<Onward>,
    world: Rc<RefCell<World>>,
    files: Files,
    wire: Rc<RefCell<Wire>>,
    /// The sink's cursor, and the sequence up to which it was found to speak the truth.
    cursor: PathBuf,
    passed: u64,
    error: Option<io::ErrorKind>,
}

impl SimPipe {
    /// The durable cursor has passed only what the receiver has stored, and no frame lies as far
    /// above it as the receiver remembers.
    fn check_cursor(&mut self) {
        let highest = self.wire.borrow().highest();
        if highest == 0 {
            return;
        }
        let text = self.files.durable(&self.cursor);
        let saved = text.map(|text| SavedForward::from_text(&text));
        let Some(Ok(saved)) = saved else {
            panic!("frames are forwarded without a durable cursor: {saved:?}");
        };
        assert!(
            highest < saved.sequence + OUTSTANDING_FRAMES_MAX as u64,
            "frame {highest} is begun, and the durable cursor stands at {}",
            saved.sequence
        );
        let receiver = self.onward.receiver.borrow();
        let world = receiver.life.world();
        for sequence in self.passed.max(1)..saved.sequence {
            let number = world.book.good((saved.producer, sequence));
            assert!(
                number.is_some_and(|number| world.book.line(number).acknowledged),
                "the cursor has passed frame {sequence}, and the receiver never acknowledged it"
            );
        }
        self.passed = saved.sequence;
    }
}

impl Pipe for SimPipe {
    fn turn(&mut self, exchange: &mut Exchange, wait: Duration) -> io::Result<()> {
        let now = self.now();
        let demand = exchange.poll(now);
        let error = self
            .onward
            .on_wires(|wires| self.wire.borrow_mut().turn(exchange, demand, now, wires));
        self.error = error.or(self.error);
        self.check_cursor();
        let wake = match demand {
            Demand::Idle { wake } | Demand::Exchange { write: false, wake } => wake,
            _ => Some(now + WRITE_PAUSE),
        };
        let wait = wake.map_or(wait, |wake| wait.min(wake.saturating_duration_since(now)));
        let until_ns = self.world.borrow().now_ns() + wait.as_nanos() as u64;
        loop {
            if self.onward.is_over() {
                let ended = &self.onward.ended_in_wait;
                ended.set(ended.get() + 1);
                return Err(io::Error::other("the process is gone"));
            }
            if self.wire.borrow().has_news() || self.world.borrow().now_ns() >= until_ns {
                return Ok(());
            }
            self.onward.pass(&self.world, until_ns);
        }
    }

    fn now(&self) -> Instant {
        self.files.tell_time();
        self.files.time().instant()
    }

    fn take_error(&mut self) -> Option<io::Error> {
        self.error.take().map(io::Error::from)
    }
}

impl Drop for SimPipe {
    /// A process that ends closes its connections.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.onward
                .on_wires(|wires| self.wire.borrow_mut().hang_up(wires));
        }
    }
}

impl Peer for Rc<RefCell<Wire>> {
    /// Its sink turns it.
    fn wake(&mut self, _: &mut Wires<'_>) -> Option<u64> {
        None
    }

    fn on_answers(&mut self, id: ConnId, conn: &mut Conn, _: &Book, _: u64) {
        self.borrow_mut().on_answers(id, conn);
    }

    fn on_closed(&mut self, id: ConnId) {
        self.borrow_mut().on_closed(id);
    }

    fn is_done(&self) -> bool {
        true
    }
}

/// The sender's side of a run.
struct Hop {
    sender: Rc<RefCell<Life>>,
    onward: Rc<Onward>,
}

/// Turns and time within which all that was sent must be settled. Small journals let a hop go on once a
/// second, and whoever waits takes turns.
const TURNS_MAX: u64 = 6_000_000;
const PATIENCE_NS: u64 = 120_000_000_000;

impl Hop {
    fn new(setup: &HopSetup, trace: Option<Trace>) -> Self {
        let mut rng = Rng::new(setup.sender.seed ^ 0x0a0d);
        let receiver = Receiver {
            life: Life::first(&setup.receiver, trace.clone()),
            outcome: Outcome::default(),
        };
        let onward = Rc::new(Onward {
            setup: setup.clone(),
            receiver: RefCell::new(receiver),
            sender: RefCell::default(),
            turns_max: Cell::new(u64::MAX),
            ended_in_wait: Cell::new(0),
            rng: RefCell::new(rng.fork()),
        });
        let life = Life::forwarding(&setup.sender, trace, Some(Rc::clone(&onward)));
        let sender = Rc::new(RefCell::new(life));
        *onward.sender.borrow_mut() = Rc::downgrade(&sender);
        Self { sender, onward }
    }

    /// One turn of whoever's clock is behind.
    fn turn(&self) {
        let now_ns = self.sender.borrow().world().now_ns();
        if self.onward.receiver.borrow().now_ns() < now_ns {
            return self.onward.receiver.borrow_mut().turn();
        }
        let turned = self.sender.borrow_mut().turn_until(u64::MAX);
        match turned {
            Turned::On => {}
            Turned::Sink(sink) => sink.borrow_mut().step(),
            Turned::Stopped => panic!("the sender has stopped on its own"),
        }
    }

    fn live(&self, turns: u64) {
        self.onward.turns_max.set(turns);
        while !self.onward.is_over() {
            self.turn();
        }
        self.onward.turns_max.set(u64::MAX);
    }

    fn until_settled(&self) {
        let patience_ns = {
            let life = self.sender.borrow();
            let now_ns = life.world().now_ns();
            now_ns + life.setup().faults.until_ns + PATIENCE_NS
        };
        loop {
            {
                let life = self.sender.borrow();
                let world = life.world();
                if world.world_is_done() && world.streams_are_read() {
                    return;
                }
                assert!(
                    world.now_ns() < patience_ns && life.turns < TURNS_MAX,
                    "the sender's frames are not settled after {} turns",
                    life.turns
                );
            }
            self.turn();
        }
    }
}

/// What a run of two agents came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HopOutcome {
    pub sender: Outcome,
    /// Nobody but the sender sends to it.
    pub receiver: Outcome,
    /// Lives of the sender that ended while one of its sinks waited for the receiver.
    pub ended_in_wait: u64,
}

impl HopOutcome {
    pub fn add(&mut self, other: &Self) {
        self.sender.add(&other.sender);
        self.receiver.add(&other.receiver);
        self.ended_in_wait += other.ended_in_wait;
    }
}

/// Runs two agents to their end; panics where a promise is broken.
pub fn run(setup: &HopSetup, trace: Option<Trace>) -> HopOutcome {
    let hop = Hop::new(setup, trace);
    let mut outcome = Outcome::default();
    for (number, end) in setup.sender.lives.iter().enumerate() {
        match *end {
            End::Settled => hop.until_settled(),
            End::StopAfter(turns) | End::KillAfter(turns) | End::PowerLossAfter(turns) => {
                hop.live(turns);
            }
        }
        let mut life = hop.sender.borrow_mut();
        if matches!(end, End::Settled | End::StopAfter(_)) {
            life.stop();
        }
        outcome.add_life(&life);
        if number + 1 < setup.sender.lives.len() {
            let images = life.end(!matches!(end, End::KillAfter(_)));
            life.restart(&images);
        }
    }
    let mut sender = hop.sender.borrow_mut();
    let handed_over = outcome.close(&mut sender);
    let mut receiver = hop.onward.receiver.borrow_mut();
    let receiver = &mut *receiver;
    while receiver.life.number + 1 < setup.receiver.lives.len() {
        receiver.turn();
    }
    receiver.life.until_settled();
    receiver.life.stop();
    receiver.outcome.add_life(&receiver.life);
    receiver.outcome.close(&mut receiver.life);
    // What stood in the sender's journals, each record once, is what stands in the receiver's files.
    let sinks = setup.receiver.file_sinks;
    let delivered = |number: FrameNo| handed_over[number];
    check_delivered(&receiver.life.files, sinks, &sender.world().book, delivered);
    HopOutcome {
        sender: outcome,
        receiver: receiver.outcome.clone(),
        ended_in_wait: hop.onward.ended_in_wait.get(),
    }
}
