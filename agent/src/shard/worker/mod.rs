//! The loop of one shard: the fields, the turn, and which handler a completion goes to. The handlers
//! stand beside it, in the order in which a log line meets them:
//!
//! ```text
//! turn:  submit and wait ─▶ one handler per completion ─▶ tick ─▶ re-arm, acknowledge, publish
//!
//! handover     a connection goes to the shard that owns its producer
//! receive      a connection arrives, bytes arrive, frames are taken or wait for the journal
//! pause        the journal takes nothing: connections are read once in a while
//! throttle     a tenant has what it may have: its connections are read when it may have more
//! regulate     what is in use says what is kept of each priority
//! acknowledge  the journal made them durable, whoever waits is told
//! close        a connection goes
//! orders       listeners and sinks come and go at a reload
//! stop         the shard itself goes
//! ```

mod acknowledge;
mod close;
mod handover;
mod orders;
mod pause;
mod plan;
mod receive;
mod regulate;
mod stop;
mod throttle;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::decode::Decoder;
use crate::gate::source_connections::SourceConnections;
use crate::journal::writer::Writer;
use crate::shard::buffer::BlockPool;
use crate::shard::counters::{ListenerCounters, ShardCounters, TenantCounters};
use crate::shard::handover::Handover;
use crate::shard::intake::Intake;
use crate::shard::op::{Completion, Errno, Group, Kernel, ListenerId, Now, PeerId};
use crate::shard::orders::{Done, Orders};
use crate::shard::peer::PeerTable;
use crate::shard::settle::WaitingList;
use crate::shard::tenant::Tenants;
use crate::source::udp::SequenceGaps;
use orders::Serving;
pub use plan::{ListenerPlan, Observe, Plan};
use receive::Held;
use regulate::Regulate;
use stop::Life;
use throttle::Throttled;

/// The longest sleep: marks that other threads move (a sink's commit, free disk) are looked at this
/// often. Two wake-ups a second cost nothing measurable.
const SLEEP_MAX: Duration = Duration::from_millis(500);

/// Where `with_stop_timeout` is not called.
const STOP_TIMEOUT_DEFAULT: Duration = Duration::from_secs(40);

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Running,
    Stopped,
}

/// One UDP or TCP socket of this shard.
struct Listener {
    plan: ListenerPlan,
    serving: Serving,
    /// The multishot accept or receive is in the kernel.
    armed: bool,
    cancelling: bool,
    /// After an error of the socket it is not armed before this time.
    rests_until_ns: u64,
    last_bundle_ns: u64,
}

impl Listener {
    fn new(plan: ListenerPlan) -> Self {
        Self {
            plan,
            serving: Serving::Yes,
            armed: false,
            cancelling: false,
            rests_until_ns: 0,
            last_bundle_ns: 0,
        }
    }
}

/// One thread's state. Shared with no one.
pub struct Worker<K> {
    kernel: K,
    plan_shard: u16,
    stop: Arc<AtomicBool>,
    observer: Box<dyn Observe + Send>,
    now: Now,
    life: Life,
    stop_ns: u64,
    /// Another process goes on with the sockets: at a stop, what comes late is that one's.
    sockets_kept: bool,

    listeners: Vec<Listener>,
    peers: PeerTable,
    gaps: SequenceGaps,
    intake: Intake,
    waiting: WaitingList,
    handover: Option<Handover>,
    orders: Arc<Orders>,
    /// Listeners whose names the journal does not know yet.
    naming: Vec<(ListenerId, Done)>,
    /// To be said once no segment is being removed.
    feeds_changed: Vec<Done>,
    source_connections: Arc<SourceConnections>,

    /// Receives that wait for the journal, in the order in which they came.
    held: VecDeque<Held>,
    /// Connections whose multishot receive ended for lack of buffers.
    starved: Vec<PeerId>,
    /// Connections that are not read while the journal takes nothing, in the order in which their
    /// pauses end.
    paused: VecDeque<PeerId>,
    /// Connections that are not read as their tenant has what it may have.
    throttled: Throttled,
    regulate: Regulate,
    /// Connections with something to send or to close, each once (`Connection::touched`).
    touched: Vec<PeerId>,
    touched_spare: Vec<PeerId>,

    tcp_buffers: usize,
    udp_buffers: usize,
    tcp_out: usize,
    udp_out: usize,
    carry_bytes: usize,
    carry_bytes_max: usize,
    last_bundle_ns: u64,
    next_sweep_ns: u64,
}

impl<K: Kernel> Worker<K> {
    pub fn new(kernel: K, blocks: Arc<BlockPool>, plan: Plan) -> Self {
        let names = plan
            .listeners
            .iter()
            .map(|listener| listener.name.clone())
            .collect();
        let counters = ShardCounters {
            listeners: vec![ListenerCounters::default(); plan.listeners.len()],
            tenants: TenantCounters::new(plan.regulation.tenants.as_deref()),
            ..ShardCounters::default()
        };
        let now = kernel.now();
        let size_max = plan.journal.size_max;
        let mut journal = Writer::new(plan.shard, names, blocks, plan.journal);
        // The first segment is asked for before the first sleep, not after it.
        journal.tick(now);
        let listeners = plan.listeners.into_iter();
        let tenants = plan.regulation.tenants.as_ref().map(|tenants| {
            let tenants = Tenants::new(Arc::clone(tenants), size_max, journal.durable());
            Box::new(tenants)
        });
        Self {
            plan_shard: plan.shard,
            stop: plan.stop,
            observer: plan.observer,
            now,
            life: Life::Running,
            stop_ns: stop::stop_ns(STOP_TIMEOUT_DEFAULT),
            listeners: listeners.map(Listener::new).collect(),
            sockets_kept: false,
            peers: PeerTable::new(plan.connections_max),
            gaps: SequenceGaps::default(),
            intake: Intake {
                decoder: Decoder::new(&plan.schemas),
                journal,
                counters,
                tenants,
            },
            waiting: WaitingList::default(),
            handover: plan.handover,
            orders: plan.orders,
            naming: Vec::new(),
            feeds_changed: Vec::new(),
            source_connections: plan.source_connections,
            held: VecDeque::with_capacity(plan.tcp_buffers + plan.udp_buffers),
            starved: Vec::with_capacity(plan.connections_max),
            paused: VecDeque::with_capacity(plan.connections_max),
            throttled: Throttled::new(plan.connections_max),
            regulate: Regulate::new(plan.regulation, now.monotonic_ns),
            touched: Vec::with_capacity(plan.connections_max),
            touched_spare: Vec::with_capacity(plan.connections_max),
            tcp_buffers: plan.tcp_buffers,
            udp_buffers: plan.udp_buffers,
            tcp_out: 0,
            udp_out: 0,
            carry_bytes: 0,
            carry_bytes_max: plan.carry_bytes_max,
            last_bundle_ns: 0,
            next_sweep_ns: 0,
            kernel,
        }
    }

    /// The whole agent's time for a stop; the shards' part is in it.
    pub fn with_stop_timeout(self, stop_timeout: Duration) -> Self {
        Self {
            stop_ns: stop::stop_ns(stop_timeout),
            ..self
        }
    }

    /// Whether the listeners' sockets outlive this process.
    pub fn with_sockets_kept(self, sockets_kept: bool) -> Self {
        Self {
            sockets_kept,
            ..self
        }
    }

    pub fn counters(&self) -> &ShardCounters {
        &self.intake.counters
    }

    pub fn kernel(&self) -> &K {
        &self.kernel
    }

    pub fn kernel_mut(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// Turns until the worker is told to stop and has stopped.
    pub fn run(&mut self) -> Result<(), Errno> {
        while self.turn()? == Turn::Running {}
        Ok(())
    }

    /// One wake-up.
    pub fn turn(&mut self) -> Result<Turn, Errno> {
        self.before_wait();
        self.kernel.wait(Some(self.sleep()))?;
        self.now = self.kernel.now();
        let woken_ns = self.now.monotonic_ns;
        while let Some(completion) = self.kernel.reap() {
            self.handle(completion);
            self.push_journal_ops();
        }
        self.take_mail();
        self.take_orders();
        self.intake.journal.tick(self.now);
        self.push_journal_ops();
        self.take_held();
        self.end_pauses();
        self.end_throttles();
        self.regulate();
        self.sweep();
        self.tend_touched();
        self.advance_life();
        self.publish(woken_ns);
        if cfg!(debug_assertions) {
            self.invariants();
        }
        Ok(if self.life == Life::Stopped {
            Turn::Stopped
        } else {
            Turn::Running
        })
    }

    /// One handler for each completion, in the order in which a log line meets them.
    fn handle(&mut self, completion: Completion) {
        match completion {
            Completion::Accepted {
                listener,
                result,
                more,
            } => {
                self.on_accepted(listener, result, more);
            }
            Completion::PeerPeeked { peer, result } => self.on_peer_peeked(peer, result),
            Completion::Received { peer, result, more } => self.on_received(peer, result, more),
            Completion::ReceivedFrom {
                listener,
                result,
                more,
            } => {
                self.on_received_from(listener, result, more);
            }
            Completion::JournalWritten { block, result } => {
                let settled = self.intake.journal.on_written(block, result, self.now);
                self.on_settled(settled);
            }
            Completion::JournalSynced { segment, result } => {
                let settled = self.intake.journal.on_synced(segment, result, self.now);
                self.on_settled(settled);
            }
            Completion::AckSent {
                peer,
                lease,
                result,
            } => {
                self.on_ack_sent(peer, lease, result);
            }
            Completion::PeerClosed { peer } => self.on_peer_closed(peer),
            Completion::SegmentOpened { number, result } => {
                self.intake
                    .journal
                    .on_segment_opened(number, result, self.now);
            }
            Completion::SegmentAllocated { number, result } => {
                self.intake
                    .journal
                    .on_segment_allocated(number, result, self.now);
            }
            Completion::FolderSynced { number, result } => {
                self.intake
                    .journal
                    .on_folder_synced(number, result, self.now);
            }
            Completion::SegmentClosed { number, result } => {
                self.on_segment_closed(number, result);
            }
            Completion::SegmentRemoved { number, result } => {
                let journal = &mut self.intake.journal;
                journal.on_segment_removed(number, result, self.now);
            }
            Completion::Woken => {}
        }
    }

    fn on_segment_closed(&mut self, number: u64, result: Result<(), Errno>) {
        if let Err(errno) = result {
            let error = std::io::Error::from(errno);
            tracing::warn!(
                shard = self.plan_shard,
                segment = number,
                "cannot close: {error}"
            );
        }
    }

    /// What must be in the kernel before the worker sleeps.
    fn before_wait(&mut self) {
        if self.stop.load(Ordering::Acquire) {
            self.begin_stop();
        }
        self.rearm();
        self.push_journal_ops();
    }

    fn push_journal_ops(&mut self) {
        for op in self.intake.journal.outbox() {
            self.kernel.push(op);
        }
    }

    fn sleep(&self) -> Duration {
        let now = self.kernel.now().monotonic_ns;
        let until = self
            .intake
            .journal
            .deadline_ns()
            .map_or(SLEEP_MAX, |deadline| {
                Duration::from_nanos(deadline.saturating_sub(now)).min(SLEEP_MAX)
            });
        let throttled = self.throttled.next_ns();
        let until = throttled.map_or(until, |next| {
            until.min(Duration::from_nanos(next.saturating_sub(now)))
        });
        let until = match self.regulate.is_restless() {
            true => until.min(Duration::from_nanos(regulate::RELEASE_STEP_NS)),
            false => until,
        };
        match self.life {
            Life::Running if !self.is_leaving_any() => until,
            _ => until.min(Duration::from_nanos(stop::DRAIN_QUIET_NS)),
        }
    }

    fn publish(&mut self, woken_ns: u64) {
        let counters = &mut self.intake.counters;
        counters.journal_bytes = self.intake.journal.bytes();
        counters.journal_segment_errors = self.intake.journal.call_errors();
        if let Some(tenants) = &self.intake.tenants {
            counters.tenants.limited.copy_from_slice(tenants.limited());
            counters.tenants.crowded = tenants.crowded();
        }
        counters.busy_ns += self.kernel.now().monotonic_ns.saturating_sub(woken_ns);
        self.observer.publish(counters);
    }

    /// The sentences on the structs, checked; after each turn in debug builds.
    pub fn invariants(&self) {
        self.intake.journal.invariants();
        assert!(
            self.tcp_out <= self.tcp_buffers && self.udp_out <= self.udp_buffers,
            "{} TCP and {} UDP buffers are out of {} and {}",
            self.tcp_out,
            self.udp_out,
            self.tcp_buffers,
            self.udp_buffers,
        );
        let held = |group| {
            let leases = self.held.iter().filter_map(|held| match held {
                Held::Stream { lease, .. } => Some(lease.group),
                Held::Bundle { bundle, .. } => Some(bundle.lease.group),
                Held::StreamEnd { .. } => None,
            });
            leases.filter(|each| *each == group).count()
        };
        assert_eq!(
            self.tcp_out,
            held(Group::Tcp),
            "between turns only held receives keep buffers"
        );
        assert_eq!(
            self.udp_out,
            held(Group::Udp),
            "between turns only held receives keep buffers"
        );
        for (index, counts) in self.intake.counters.listeners.iter().enumerate() {
            let accepted: u64 = counts.accepted_frames.iter().sum();
            let refused: u64 = counts.refused_frames.iter().sum();
            assert_eq!(
                counts.received_frames,
                accepted + refused,
                "listener {index}"
            );
        }
    }
}
