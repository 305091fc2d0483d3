//! The shards' threads: each makes its own fence, says whether it could, and turns until told to
//! stop.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::config::settings::IoMode;
use crate::daemon::pulse::Pulse;
use crate::exit::{Exit, Failure};
use crate::fence::choice::{self, Io};
use crate::fence::epoll::Poll;
use crate::fence::uring::Ring;
use crate::fence::{FenceError, FencePlan, Waker, waker};
use crate::gate::source_connections::SourceConnections;
use crate::journal::writer::JournalPlan;
use crate::limits;
use crate::metric::ShardPublisher;
use crate::privilege;
use crate::schema::table::Schemas;
use crate::shard::buffer::BlockPool;
use crate::shard::counters::ShardCounters;
use crate::shard::handover::Handover;
use crate::shard::op::{Kernel, ListenerId};
use crate::shard::orders::Orders;
use crate::shard::regulation::Regulation;
use crate::shard::worker::{ListenerPlan, Observe, Plan, Worker};

/// Cores that this process may run on, in order.
fn allowed_cores() -> Vec<usize> {
    // SAFETY: all zeroes is an empty set; the kernel fills it.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: a set of the call's own type and its size; 0 is the calling thread.
    if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) } != 0 {
        return vec![0];
    }
    // SAFETY: the set was filled above, and each index is below its size.
    (0..libc::CPU_SETSIZE as usize)
        .filter(|&core| unsafe { libc::CPU_ISSET(core, &set) })
        .collect()
}

impl Observe for ShardPublisher {
    fn publish(&mut self, counters: &ShardCounters) {
        ShardPublisher::publish(self, counters);
    }

    fn listen(&mut self, listener: ListenerId, plan: &ListenerPlan) {
        ShardPublisher::listen(self, usize::from(listener.0), &plan.name, plan.protocol);
    }

    fn sync(&mut self, ns: u64) {
        self.observe_sync(ns);
    }

    fn ingest(&mut self, ns: u64) {
        self.observe_ingest(ns);
    }
}

/// A running shard.
pub struct Shard {
    thread: JoinHandle<io::Result<()>>,
    waker: Waker,
    stop: Arc<AtomicBool>,
    pulse: Pulse,
}

/// What a shard is made of; everything in it goes to its thread.
pub struct ShardPlan {
    pub shard: u16,
    pub shards: u16,
    pub io: Io,
    pub folder: PathBuf,
    pub journal: JournalPlan,
    /// `None` where there is one shard.
    pub handover: Option<Handover>,
    pub source_connections: Arc<SourceConnections>,
    pub schemas: Schemas,
    pub listeners: Vec<ListenerPlan>,
    /// The control thread has them too.
    pub orders: Arc<Orders>,
    pub regulation: Regulation,
    pub observer: ShardPublisher,
    /// Its sockets outlive the process.
    pub sockets_kept: bool,
    pub stop_timeout: Duration,
}

impl Shard {
    /// Starts the thread and waits until its fence stands.
    pub fn start(plan: ShardPlan) -> Result<Self, Failure> {
        let (waker, wake) = waker().map_err(|error| Failure::io("eventfd", &error))?;
        if let Some(handover) = &plan.handover {
            let waker = waker.clone();
            handover.own().set_wake(Box::new(move || waker.wake()));
        }
        let orders_waker = waker.clone();
        plan.orders.set_wake(Box::new(move || orders_waker.wake()));
        let stop = Arc::new(AtomicBool::new(false));
        let (report, reported) = mpsc::sync_channel(1);
        let (shard, io) = (plan.shard, plan.io);
        let pulse = Pulse::default();
        let start = Start {
            plan,
            wake,
            stop: Arc::clone(&stop),
            pulse: pulse.clone(),
            report,
        };
        let thread = thread::Builder::new()
            .name(format!("shard-{shard:02}"))
            .spawn(move || match io {
                Io::Uring => start.run(Ring::new),
                Io::Epoll => start.run(Poll::new),
            })
            .map_err(|error| Failure::io("start a shard's thread", &error))?;
        match reported.recv() {
            Ok(Ok(())) => Ok(Self {
                thread,
                waker,
                stop,
                pulse,
            }),
            Ok(Err(error)) => Err(Failure::new(
                Exit::Unavailable,
                match io {
                    Io::Uring => format!("shard {shard}: {}", without_uring(&error)),
                    Io::Epoll => format!("shard {shard}: {error}"),
                },
            )),
            Err(_) => Err(Failure::new(
                Exit::Software,
                format!("shard {shard} died at its start"),
            )),
        }
    }

    /// Tells the shard to stop; it drains, syncs and acknowledges first.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Its turns so far.
    pub fn turns(&self) -> u64 {
        self.pulse.turns()
    }

    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// The shard's own outcome; a panic in it is passed on.
    pub fn join(self) -> io::Result<()> {
        match self.thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// A shard's way to its thread.
struct Start {
    plan: ShardPlan,
    wake: OwnedFd,
    stop: Arc<AtomicBool>,
    pulse: Pulse,
    report: mpsc::SyncSender<Result<(), FenceError>>,
}

impl Start {
    /// On the shard's own thread, which a ring does not leave: compiled once for each fence.
    fn run<K: Kernel>(
        self,
        fence: impl FnOnce(FencePlan) -> Result<K, FenceError>,
    ) -> io::Result<()> {
        let plan = self.plan;
        pin(plan.shard, plan.shards);
        let blocks = BlockPool::new(limits::JOURNAL_BLOCKS, limits::JOURNAL_BLOCK_LEN);
        let fence = fence(FencePlan {
            folder: plan.folder,
            blocks: Arc::clone(&blocks),
            tcp_buffers: limits::TCP_BUFFERS,
            udp_buffers: limits::UDP_BUFFERS,
            send_buffers: limits::SEND_BUFFERS,
            wake: self.wake,
        });
        // Registering the journal's blocks was the last thing that may need one.
        privilege::give_up();
        let (outcome, fence) = match fence {
            Ok(fence) => (Ok(()), Some(fence)),
            Err(error) => (Err(error), None),
        };
        let _ = self.report.send(outcome);
        let Some(fence) = fence else {
            return Ok(());
        };
        let worker_plan = Plan {
            shard: plan.shard,
            listeners: plan.listeners,
            journal: plan.journal,
            schemas: plan.schemas,
            handover: plan.handover,
            source_connections: plan.source_connections,
            regulation: plan.regulation,
            connections_max: limits::CONNECTIONS_MAX,
            carry_bytes_max: limits::CARRY_BYTES_MAX,
            tcp_buffers: limits::TCP_BUFFERS,
            udp_buffers: limits::UDP_BUFFERS,
            stop: self.stop,
            orders: plan.orders,
            observer: self.pulse.taken_from(plan.observer),
        };
        Worker::new(fence, blocks, worker_plan)
            .with_stop_timeout(plan.stop_timeout)
            .with_sockets_kept(plan.sockets_kept)
            .run()
            .map_err(io::Error::from)
    }
}

/// Which fence the shards get; an answer once, before the first of them starts.
pub fn choose_io(mode: IoMode, shards: u16) -> Result<Io, Failure> {
    choice::choose(mode, shards)
        .map_err(|error| Failure::new(Exit::Unavailable, without_uring(&error)))
}

fn without_uring(error: &FenceError) -> String {
    let advice = choice::advice(error);
    format!("io_uring: {error}. {advice}; or set io = \"epoll\"")
}

/// One core per shard, where there are as many: a thread that does not move keeps its caches. With
/// fewer shards than cores the scheduler knows better.
fn pin(shard: u16, shards: u16) {
    let cores = allowed_cores();
    if cores.len() != usize::from(shards) {
        return;
    }
    // SAFETY: all zeroes is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the core came from the process's own set, so it is below the set's size.
    unsafe { libc::CPU_SET(cores[usize::from(shard)], &mut set) };
    // SAFETY: a set of the call's own type and its size; 0 is the calling thread. A refusal only
    // means that the thread may move.
    unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
}
