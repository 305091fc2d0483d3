//! The shards' threads: each makes its own ring, says whether it could, and turns until told to
//! stop.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::daemon::pulse::Pulse;
use crate::exit::{Exit, Failure};
use crate::journal::writer::JournalPlan;
use crate::limits;
use crate::metric::ShardPublisher;
use crate::schema::table::Schemas;
use crate::shard::buffer::BlockPool;
use crate::shard::counters::ShardCounters;
use crate::shard::handover::Handover;
use crate::shard::op::ListenerId;
use crate::shard::orders::Orders;
use crate::shard::worker::{ListenerPlan, Observe, Plan, Worker};
use crate::uring::{Ring, RingPlan, Waker, waker};

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
    pub folder: PathBuf,
    pub journal: JournalPlan,
    /// `None` where there is one shard.
    pub handover: Option<Handover>,
    pub schemas: Schemas,
    pub listeners: Vec<ListenerPlan>,
    /// The control thread has them too.
    pub orders: Arc<Orders>,
    pub observer: ShardPublisher,
    /// Its sockets outlive the process.
    pub sockets_kept: bool,
    pub stop_timeout: Duration,
}

impl Shard {
    /// Starts the thread and waits until its ring stands.
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
        let thread_stop = Arc::clone(&stop);
        let pulse = Pulse::default();
        let observer = pulse.taken_from(plan.observer);
        let shard = plan.shard;
        let thread = thread::Builder::new()
            .name(format!("shard-{shard:02}"))
            .spawn(move || {
                pin(shard, plan.shards);
                let blocks = BlockPool::new(limits::JOURNAL_BLOCKS, limits::JOURNAL_BLOCK_LEN);
                let ring = Ring::new(RingPlan {
                    folder: plan.folder,
                    blocks: Arc::clone(&blocks),
                    tcp_buffers: limits::TCP_BUFFERS,
                    udp_buffers: limits::UDP_BUFFERS,
                    send_buffers: limits::SEND_BUFFERS,
                    wake,
                });
                let ring = match ring {
                    Ok(ring) => ring,
                    Err(error) => {
                        let _ = report.send(Err(error));
                        return Ok(());
                    }
                };
                let _ = report.send(Ok(()));
                let worker_plan = Plan {
                    shard,
                    listeners: plan.listeners,
                    journal: plan.journal,
                    schemas: plan.schemas,
                    handover: plan.handover,
                    connections_max: limits::CONNECTIONS_MAX,
                    carry_bytes_max: limits::CARRY_BYTES_MAX,
                    tcp_buffers: limits::TCP_BUFFERS,
                    udp_buffers: limits::UDP_BUFFERS,
                    stop: thread_stop,
                    orders: plan.orders,
                    observer,
                };
                Worker::new(ring, blocks, worker_plan)
                    .with_stop_timeout(plan.stop_timeout)
                    .with_sockets_kept(plan.sockets_kept)
                    .run()
                    .map_err(io::Error::from)
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
                format!(
                    "shard {shard}: {error}. Penstock needs io_uring (Linux 6.1 or later; not \
                     forbidden by seccomp or kernel.io_uring_disabled) and memory to lock"
                ),
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
