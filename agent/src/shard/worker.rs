//! The loop of one shard. Read it from top to bottom: the fields, the turn, one handler for each
//! completion in the order in which a log line meets them, then the helpers.
//!
//! ```text
//! turn:  submit and wait ─▶ one handler per completion ─▶ tick ─▶ re-arm, acknowledge, publish
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent_common::frame::FrameHeader;
use penstock_proto::reason::Reason;
use penstock_proto::wire::{Ack, AckStatus};

use crate::config::settings::Protocol;
use crate::decode::Decoder;
use crate::frame::parse_datagram;
use crate::gate::standin::{self, BundleVerdict};
use crate::journal::writer::{JournalPlan, Room, Settled, Writer};
use crate::limits;
use crate::shard::buffer::BlockPool;
use crate::shard::counters::{CloseReason, ListenerCounters, ShardCounters};
use crate::shard::intake::{Intake, Origin};
use crate::shard::op::{
    Accepted, Bundle, Completion, Errno, Group, Kernel, Lease, ListenerId, Now, Op, PeerId,
    Received, SendLease, Socket,
};
use crate::shard::peer::{Connection, PeerTable, Phase};
use crate::shard::settle::{Waiting, WaitingList};
use crate::source::tcp::Step;
use crate::source::udp::{Datagrams, SequenceGaps};

/// The longest sleep: marks that other threads move (a sink's commit, free disk) are looked at this
/// often. Two wake-ups a second cost nothing measurable.
const SLEEP_MAX: Duration = Duration::from_millis(500);
/// At a stop, a UDP socket counts as drained when nothing has come for this long, with buffers
/// free: the kernel delivers what is queued within one wake-up.
const DRAIN_QUIET_NS: u64 = 20_000_000;
/// At a stop, the longest time given to UDP queues to run dry, to the disk and to peers that take
/// their acknowledgements; then the shard ends all the same and says so.
const STOP_NS: u64 = 10_000_000_000;
/// What a producer waits before it sends again what was not taken for lack of room.
const RETRY_AFTER_BACKPRESSURE_MS: u32 = 1_000;
/// What it waits where a segment failed: the next one is a moment away.
const RETRY_AFTER_FAILURE_MS: u32 = 200;

/// What one worker needs to know; plain data.
pub struct Plan {
    pub shard: u16,
    /// The index is the `ListenerId`.
    pub listeners: Vec<ListenerPlan>,
    pub journal: JournalPlan,
    pub connections_max: usize,
    /// Receive buffers of each pool: how many leases the fence can have out.
    pub tcp_buffers: usize,
    pub udp_buffers: usize,
    /// Set by another thread, which then wakes the worker.
    pub stop: Arc<AtomicBool>,
    pub observer: Box<dyn Observe + Send>,
}

/// One listener, as this shard sees it.
pub struct ListenerPlan {
    pub name: String,
    pub protocol: Protocol,
    /// Bound, and for TCP listening.
    pub socket: Socket,
    pub payload_len_max: u32,
    /// The gate is not in the kernel: the worker judges each bundle itself.
    pub stand_in: bool,
}

/// Who looks at a shard's counts. Called on the shard's thread, once per wake-up.
pub trait Observe {
    fn publish(&mut self, counters: &ShardCounters);
    /// A journal sync took this long.
    fn sync(&mut self, ns: u64);
    /// The oldest frame of a group commit became durable this long after its receipt.
    fn ingest(&mut self, ns: u64);
}

/// Nobody looks.
impl Observe for () {
    fn publish(&mut self, _: &ShardCounters) {}
    fn sync(&mut self, _: u64) {}
    fn ingest(&mut self, _: u64) {}
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Running,
    Stopped,
}

/// Where the worker's own life stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Running,
    /// Accepts nothing new; takes what the UDP queues still hold.
    Draining {
        since_ns: u64,
    },
    /// Everything taken goes to the disk and is acknowledged.
    Settling {
        since_ns: u64,
    },
    Stopped,
}

/// A receive that waits for room in the journal, with how far it was taken.
enum Held {
    Stream {
        peer: PeerId,
        lease: Lease,
        at: usize,
    },
    /// The stream's end or error, which must not overtake its bytes.
    StreamEnd { peer: PeerId, reason: CloseReason },
    Bundle {
        listener: ListenerId,
        bundle: Bundle,
        next: usize,
    },
}

/// How far a receive was taken.
enum Progress {
    Done,
    /// The journal has no room: the rest waits, from here on.
    Waits(usize),
}

/// One UDP or TCP socket of this shard.
struct Listener {
    plan: ListenerPlan,
    /// The multishot accept or receive is in the kernel.
    armed: bool,
    cancelling: bool,
}

/// One thread's state. Shared with no one.
pub struct Worker<K> {
    kernel: K,
    plan_shard: u16,
    stop: Arc<AtomicBool>,
    observer: Box<dyn Observe + Send>,
    now: Now,
    life: Life,

    listeners: Vec<Listener>,
    peers: PeerTable,
    gaps: SequenceGaps,
    intake: Intake,
    waiting: WaitingList,

    /// Receives that wait for the journal, in the order in which they came.
    held: VecDeque<Held>,
    /// Connections whose multishot receive ended for lack of buffers.
    starved: Vec<PeerId>,
    /// Connections with something to send or to close, each once (`Connection::touched`).
    touched: Vec<PeerId>,
    touched_spare: Vec<PeerId>,

    tcp_buffers: usize,
    udp_buffers: usize,
    tcp_out: usize,
    udp_out: usize,
    carry_bytes: usize,
    last_bundle_ns: u64,
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
            ..ShardCounters::default()
        };
        let journal = Writer::new(plan.shard, names, blocks, plan.journal);
        let now = kernel.now();
        let listeners = plan.listeners.into_iter();
        Self {
            plan_shard: plan.shard,
            stop: plan.stop,
            observer: plan.observer,
            now,
            life: Life::Running,
            listeners: listeners
                .map(|plan| Listener {
                    plan,
                    armed: false,
                    cancelling: false,
                })
                .collect(),
            peers: PeerTable::new(plan.connections_max),
            gaps: SequenceGaps::default(),
            intake: Intake {
                decoder: Decoder::new(),
                journal,
                counters,
            },
            waiting: WaitingList::default(),
            held: VecDeque::with_capacity(plan.tcp_buffers + plan.udp_buffers),
            starved: Vec::with_capacity(plan.connections_max),
            touched: Vec::with_capacity(plan.connections_max),
            touched_spare: Vec::with_capacity(plan.connections_max),
            tcp_buffers: plan.tcp_buffers,
            udp_buffers: plan.udp_buffers,
            tcp_out: 0,
            udp_out: 0,
            carry_bytes: 0,
            last_bundle_ns: 0,
            kernel,
        }
    }

    pub fn counters(&self) -> &ShardCounters {
        &self.intake.counters
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
            match completion {
                Completion::Accepted {
                    listener,
                    result,
                    more,
                } => {
                    self.on_accepted(listener, result, more);
                }
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
                    self.intake.journal.on_segment_removed(number, result);
                }
                Completion::Woken => {}
            }
            self.push_journal_ops();
        }
        self.intake.journal.tick(self.now);
        self.push_journal_ops();
        self.take_held();
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

    /// Stops accepting; `turn` says `Stopped` once everything taken is durable and acknowledged.
    pub fn begin_stop(&mut self) {
        if self.life == Life::Running {
            self.life = Life::Draining {
                since_ns: self.now.monotonic_ns,
            };
            self.last_bundle_ns = self.now.monotonic_ns;
        }
    }

    // ---- a connection arrives ----

    fn on_accepted(&mut self, id: ListenerId, result: Result<Accepted, Errno>, more: bool) {
        let listener = &mut self.listeners[usize::from(id.0)];
        listener.armed = more;
        let accepted = match result {
            Ok(accepted) => accepted,
            Err(errno) if errno.0 == libc::ECANCELED => return,
            Err(errno) => {
                let error = std::io::Error::from(errno);
                tracing::warn!(listener = %listener.plan.name, "cannot accept: {error}");
                return;
            }
        };
        let counts = &mut self.intake.counters.listeners[usize::from(id.0)];
        counts.connections += 1;
        let connection = Connection::new(accepted.socket, id, accepted.address);
        match self.peers.insert(connection) {
            Ok(peer) if self.life == Life::Running => self.receive(peer),
            Ok(peer) => self.close(peer, CloseReason::Stopping),
            Err(connection) => {
                counts.connections -= 1;
                counts.connections_closed[CloseReason::TooManyConnections as usize] += 1;
                // No slot, so no id: the close is told apart by a slot that cannot be.
                let peer = PeerId {
                    slot: u16::MAX,
                    generation: 0,
                };
                self.kernel.push(Op::PeerClose {
                    peer,
                    socket: connection.socket,
                });
            }
        }
    }

    // ---- bytes arrive ----

    fn on_received(&mut self, peer: PeerId, result: Result<Received, Errno>, more: bool) {
        if let Ok(Received::Data(_)) = &result {
            self.tcp_out += 1;
        }
        let connection = self
            .peers
            .get_mut(peer)
            .expect("a peer with a receive is not removed");
        connection.receiving = more;
        let streaming = connection.phase == Phase::Streaming;
        if !more && !streaming {
            // It waits for this to be closed, and a cancellation that came too late says nothing.
            self.touch(peer);
        }
        let connection = self
            .peers
            .get_mut(peer)
            .expect("a peer with a receive is not removed");
        let held = match result {
            Ok(Received::Data(lease)) => {
                let counts =
                    &mut self.intake.counters.listeners[usize::from(connection.listener.0)];
                counts.received_bytes += u64::from(lease.len);
                if !more && streaming {
                    self.starved.push(peer);
                }
                Held::Stream { peer, lease, at: 0 }
            }
            Ok(Received::End) => Held::StreamEnd {
                peer,
                reason: CloseReason::End,
            },
            Err(errno) if errno.0 == libc::ENOBUFS => {
                self.intake.counters.receive_pool_exhausted += 1;
                if streaming {
                    self.starved.push(peer);
                }
                return;
            }
            Err(errno) if errno.0 == libc::ECANCELED => {
                self.touch(peer);
                return;
            }
            Err(_) => Held::StreamEnd {
                peer,
                reason: CloseReason::PeerError,
            },
        };
        self.take_or_hold(held);
    }

    fn on_received_from(&mut self, id: ListenerId, result: Result<Bundle, Errno>, more: bool) {
        let listener = &mut self.listeners[usize::from(id.0)];
        listener.armed = more;
        let bundle = match result {
            Ok(bundle) => bundle,
            Err(errno) if errno.0 == libc::ENOBUFS => {
                self.intake.counters.receive_pool_exhausted += 1;
                return;
            }
            Err(errno) if errno.0 == libc::ECANCELED => return,
            Err(errno) => {
                // An ICMP error of an earlier send cannot reach a socket that never sends.
                let error = std::io::Error::from(errno);
                tracing::warn!(listener = %listener.plan.name, "cannot receive: {error}");
                return;
            }
        };
        self.udp_out += 1;
        self.last_bundle_ns = self.now.monotonic_ns;
        let counts = &mut self.intake.counters.listeners[usize::from(id.0)];
        let payload = &self.kernel.bytes(&bundle.lease)[range(&bundle)];
        if listener.plan.stand_in {
            let verdict = standin::judge_bundle(
                payload,
                bundle.segment_len,
                listener.plan.payload_len_max,
                &mut counts.gate_datagrams,
            );
            if verdict == BundleVerdict::Drop {
                return self.give_back(bundle.lease);
            }
        }
        counts.received_datagrams += Datagrams::new(payload, bundle.segment_len).count() as u64;
        counts.received_bytes += payload.len() as u64;
        self.take_or_hold(Held::Bundle {
            listener: id,
            bundle,
            next: 0,
        });
    }

    /// Takes a receive now, unless older ones wait: order is kept.
    fn take_or_hold(&mut self, held: Held) {
        if self.held.is_empty() {
            if let Some(rest) = self.take(held) {
                self.held.push_back(rest);
            }
        } else {
            self.held.push_back(held);
        }
    }

    /// Takes what waited, as far as the journal has room.
    fn take_held(&mut self) {
        while let Some(held) = self.held.pop_front() {
            if let Some(rest) = self.take(held) {
                self.held.push_front(rest);
                break;
            }
        }
        self.rearm();
    }

    /// Takes a receive and gives its buffer back; returns the rest where the journal has no room.
    fn take(&mut self, held: Held) -> Option<Held> {
        match held {
            Held::Stream { peer, lease, at } => match self.take_stream(peer, &lease, at) {
                Progress::Done => self.give_back(lease),
                Progress::Waits(at) => return Some(Held::Stream { peer, lease, at }),
            },
            Held::StreamEnd { peer, reason } => self.end_stream(peer, reason),
            Held::Bundle {
                listener,
                bundle,
                next,
            } => match self.take_bundle(listener, &bundle, next) {
                Progress::Done => self.give_back(bundle.lease),
                Progress::Waits(next) => {
                    return Some(Held::Bundle {
                        listener,
                        bundle,
                        next,
                    });
                }
            },
        }
        None
    }

    /// Cuts a stream's bytes into frames and takes each.
    fn take_stream(&mut self, peer: PeerId, lease: &Lease, mut at: usize) -> Progress {
        let now = self.now;
        let Some(connection) = self.peers.get_mut(peer) else {
            return Progress::Done;
        };
        if connection.phase != Phase::Streaming {
            return Progress::Done;
        }
        let bytes = self.kernel.bytes(lease);
        let origin = Origin {
            listener: connection.listener,
            peer: connection.address,
        };
        let payload_len_max = self.listeners[usize::from(origin.listener.0)]
            .plan
            .payload_len_max;
        let carry_before = connection.reader.carry_capacity();
        let mut close = None;
        let progress = loop {
            if !self.waiting.has_room() {
                break Progress::Waits(at);
            }
            let room = self.intake.journal.room();
            if room == Room::Wait {
                break Progress::Waits(at);
            }
            let (header, reason) = match connection.reader.step(bytes, &mut at, payload_len_max) {
                Step::Done => break Progress::Done,
                Step::Frame(frame) => {
                    let header = frame.header;
                    let producer = *connection.producer.get_or_insert(header.producer);
                    if producer != header.producer {
                        self.intake.refuse(origin.listener, Reason::ForeignProducer);
                        (header, Reason::ForeignProducer)
                    } else {
                        match self.intake.take(origin, &frame, room, now) {
                            Ok(ticket) => {
                                if header.wants_ack() {
                                    connection.waiting += 1;
                                    self.waiting.push(Waiting {
                                        ticket,
                                        peer,
                                        producer: header.producer,
                                        sequence: header.sequence,
                                        count: 1,
                                    });
                                }
                                continue;
                            }
                            Err(reason) => (header, reason),
                        }
                    }
                }
                Step::Refused { header, reason } => {
                    self.intake.refuse(origin.listener, reason);
                    (header, reason)
                }
                Step::Lost(reason) => {
                    self.intake.refuse(origin.listener, reason);
                    close = Some(CloseReason::FramingLost);
                    // Producer and sequence 0: nothing of the header is believed.
                    if !connection.acks.push(answer(0, 0, reason)) {
                        close = Some(CloseReason::AcksNotRead);
                    }
                    break Progress::Done;
                }
            };
            if header.wants_ack() && !connection.acks.push(refusal(&header, reason)) {
                close = Some(CloseReason::AcksNotRead);
                break Progress::Done;
            }
        };
        self.carry_bytes = self.carry_bytes + connection.reader.carry_capacity() - carry_before;
        if self.carry_bytes > limits::CARRY_BYTES_MAX && connection.reader.carry_capacity() > 0 {
            close = close.or(Some(CloseReason::CarryExhausted));
        }
        if !connection.acks.is_empty() {
            self.touch(peer);
        }
        match close {
            Some(reason @ CloseReason::FramingLost) => self.finish(peer, reason),
            Some(reason) => self.close(peer, reason),
            None => {}
        }
        self.push_journal_ops();
        progress
    }

    /// Takes each datagram of a bundle from `next` on.
    fn take_bundle(&mut self, id: ListenerId, bundle: &Bundle, next: usize) -> Progress {
        let listener = &self.listeners[usize::from(id.0)];
        let payload_len_max = listener.plan.payload_len_max;
        let origin = Origin {
            listener: id,
            peer: bundle.from,
        };
        let bytes = &self.kernel.bytes(&bundle.lease)[range(bundle)];
        let datagrams = Datagrams::new(bytes, bundle.segment_len);
        let count = datagrams.count();
        for index in next..count {
            let room = self.intake.journal.room();
            if room == Room::Wait {
                self.push_journal_ops();
                return Progress::Waits(index);
            }
            let cut = bundle.truncated && index + 1 == count;
            let parsed = match cut {
                true => Err(Reason::Truncated),
                false => parse_datagram(datagrams.get(index), payload_len_max),
            };
            match parsed {
                Ok(frame) => {
                    let gap = self.gaps.note(frame.header.producer, frame.header.sequence);
                    let counts = &mut self.intake.counters.listeners[usize::from(id.0)];
                    counts.sequence_gap_frames += gap;
                    // UDP has no acknowledgements: a refusal is counted, and that is all.
                    let _ = self.intake.take(origin, &frame, room, self.now);
                }
                Err(reason) => self.intake.refuse(id, reason),
            }
        }
        self.push_journal_ops();
        Progress::Done
    }

    /// The peer sends no more: what is in the journal is still acknowledged.
    fn end_stream(&mut self, peer: PeerId, reason: CloseReason) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        if connection.phase != Phase::Streaming {
            return self.touch(peer);
        }
        let listener = connection.listener;
        let mut reason = reason;
        if !connection.reader.is_between_frames() {
            if !connection.reader.is_skipping() {
                self.intake.refuse(listener, Reason::Truncated);
            }
            if reason == CloseReason::End {
                reason = CloseReason::EndInFrame;
            }
        }
        match reason {
            CloseReason::PeerError => self.close(peer, reason),
            _ => self.finish(peer, reason),
        }
    }

    // ---- the journal makes it durable ----

    fn on_settled(&mut self, settled: Settled) {
        if settled.durable {
            let durable = self.intake.journal.durable();
            while let Some(run) = self.waiting.pop_durable(durable) {
                self.acknowledge(run, AckStatus::Durable, 0, 0);
            }
            self.intake.counters.journal_appended_records = self.intake.journal.records_appended();
        }
        if let Some(ns) = settled.oldest_ns {
            self.observer.ingest(ns);
        }
        if let Some(ns) = settled.sync_ns {
            self.observer.sync(ns);
        }
        if let Some((reason, records)) = settled.lost {
            self.intake.counters.journal_lost_records[reason as usize] += records;
            while let Some(run) = self.waiting.pop() {
                let reason = Reason::JournalFailed as u8;
                self.acknowledge(run, AckStatus::TryLater, reason, RETRY_AFTER_FAILURE_MS);
            }
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

    // ---- and is acknowledged ----

    fn acknowledge(&mut self, run: Waiting, status: AckStatus, reason: u8, retry_after_ms: u32) {
        let Some(connection) = self.peers.get_mut(run.peer) else {
            return;
        };
        connection.waiting -= u64::from(run.count);
        let ack = Ack {
            status,
            reason,
            producer: run.producer,
            sequence: run.sequence,
            retry_after_ms,
            count: run.count,
        };
        if matches!(connection.phase, Phase::Closing | Phase::Closed) {
            return;
        }
        if connection.acks.push(ack) {
            self.touch(run.peer);
        } else {
            self.close(run.peer, CloseReason::AcksNotRead);
        }
    }

    fn on_ack_sent(&mut self, peer: PeerId, mut lease: SendLease, result: Result<u32, Errno>) {
        let connection = self
            .peers
            .get_mut(peer)
            .expect("a peer with a send is not removed");
        let socket = connection.socket;
        match result {
            Ok(sent) if lease.sent + sent < lease.filled && connection.phase != Phase::Closing => {
                lease.sent += sent;
                self.kernel.push(Op::AckSend {
                    peer,
                    socket,
                    lease,
                });
            }
            Ok(_) => {
                connection.sending = false;
                self.kernel.give_back_send(lease);
                self.touch(peer);
            }
            Err(_) => {
                connection.sending = false;
                self.kernel.give_back_send(lease);
                self.close(peer, CloseReason::PeerError);
                self.touch(peer);
            }
        }
    }

    // ---- a connection goes ----

    /// Reads nothing more; closes once what is in the journal is acknowledged.
    fn finish(&mut self, peer: PeerId, reason: CloseReason) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        if connection.phase != Phase::Streaming {
            return;
        }
        connection.phase = Phase::Finishing(reason);
        if connection.receiving {
            self.kernel.push(Op::ReceiveCancel { peer });
        }
        self.touch(peer);
    }

    /// Closes as soon as nothing of it is in the kernel.
    fn close(&mut self, peer: PeerId, reason: CloseReason) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        if matches!(connection.phase, Phase::Closing | Phase::Closed) {
            return;
        }
        if connection.receiving && connection.phase == Phase::Streaming {
            self.kernel.push(Op::ReceiveCancel { peer });
        }
        if connection.sending {
            // A peer that reads nothing would keep its send, and with it the slot, for ever.
            let socket = connection.socket;
            self.kernel.push(Op::PeerShutdown { peer, socket });
        }
        connection.phase = Phase::Closing;
        connection.acks.clear();
        let counts = &mut self.intake.counters.listeners[usize::from(connection.listener.0)];
        counts.connections_closed[reason as usize] += 1;
        self.touch(peer);
    }

    fn on_peer_closed(&mut self, peer: PeerId) {
        if usize::from(peer.slot) == usize::from(u16::MAX) {
            return;
        }
        let connection = self.peers.remove(peer);
        self.carry_bytes -= connection.reader.carry_capacity();
        self.intake.counters.listeners[usize::from(connection.listener.0)].connections -= 1;
    }

    /// Puts a connection on the list that `tend_touched` works through at the turn's end.
    fn touch(&mut self, peer: PeerId) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        if !std::mem::replace(&mut connection.touched, true) {
            self.touched.push(peer);
        }
    }

    /// Sends what waits and closes what is over.
    fn tend_touched(&mut self) {
        let mut touched =
            std::mem::replace(&mut self.touched, std::mem::take(&mut self.touched_spare));
        for peer in touched.drain(..) {
            let Some(connection) = self.peers.get_mut(peer) else {
                continue;
            };
            connection.touched = false;
            if !connection.sending && !connection.acks.is_empty() {
                self.send_acks(peer);
            }
            let Some(connection) = self.peers.get_mut(peer) else {
                continue;
            };
            if let Phase::Finishing(reason) = connection.phase
                && connection.is_settled()
            {
                self.close(peer, reason);
            }
            let Some(connection) = self.peers.get_mut(peer) else {
                continue;
            };
            if connection.phase == Phase::Closing && !connection.receiving && !connection.sending {
                connection.phase = Phase::Closed;
                let socket = connection.socket;
                self.kernel.push(Op::PeerClose { peer, socket });
            }
        }
        self.touched_spare = touched;
    }

    fn send_acks(&mut self, peer: PeerId) {
        let Some(mut lease) = self.kernel.take_send_buffer() else {
            // All are in flight: one of their completions brings the next turn.
            return self.touch(peer);
        };
        let connection = self.peers.get_mut(peer).expect("looked up by the caller");
        let acks = &mut self.intake.counters.acks;
        let out = self.kernel.send_bytes_mut(&mut lease);
        let filled = connection.acks.write(out, |ack| {
            acks[ack.status as usize] += u64::from(ack.count);
        });
        lease.filled = filled as u32;
        connection.sending = true;
        let socket = connection.socket;
        self.kernel.push(Op::AckSend {
            peer,
            socket,
            lease,
        });
    }

    // ---- helpers ----

    /// What must be in the kernel before the worker sleeps.
    fn before_wait(&mut self) {
        if self.stop.load(Ordering::Acquire) {
            self.begin_stop();
        }
        self.rearm();
        self.push_journal_ops();
    }

    /// Arms what is not armed: at the start, and where a multishot ended for lack of buffers.
    fn rearm(&mut self) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            let id = ListenerId(index as u16);
            let (socket, accepts) = (listener.plan.socket, self.life == Life::Running);
            let wanted = match listener.plan.protocol {
                Protocol::Tcp => accepts,
                Protocol::Udp => {
                    (accepts || matches!(self.life, Life::Draining { .. }))
                        && self.udp_out < self.udp_buffers
                }
            };
            if listener.armed || !wanted {
                continue;
            }
            listener.armed = true;
            self.kernel.push(match listener.plan.protocol {
                Protocol::Tcp => Op::Accept {
                    listener: id,
                    socket,
                },
                Protocol::Udp => Op::ReceiveFrom {
                    listener: id,
                    socket,
                },
            });
        }
        if self.tcp_out >= self.tcp_buffers {
            return;
        }
        while let Some(peer) = self.starved.pop() {
            self.receive(peer);
        }
    }

    fn receive(&mut self, peer: PeerId) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        if connection.phase == Phase::Streaming && !connection.receiving {
            connection.receiving = true;
            let socket = connection.socket;
            self.kernel.push(Op::Receive { peer, socket });
        }
    }

    /// The one place where a receive buffer goes back.
    fn give_back(&mut self, lease: Lease) {
        match lease.group {
            Group::Tcp => self.tcp_out -= 1,
            Group::Udp => self.udp_out -= 1,
        }
        self.kernel.give_back(lease);
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
        match self.life {
            Life::Running => until,
            _ => until.min(Duration::from_nanos(DRAIN_QUIET_NS)),
        }
    }

    /// One step of stopping, where the last one is over.
    fn advance_life(&mut self) {
        let now_ns = self.now.monotonic_ns;
        let late = |since_ns: u64| now_ns.saturating_sub(since_ns) >= STOP_NS;
        match self.life {
            Life::Running | Life::Stopped => {}
            Life::Draining { since_ns } => {
                self.cancel_listeners(Protocol::Tcp);
                let quiet = now_ns.saturating_sub(self.last_bundle_ns) >= DRAIN_QUIET_NS;
                let drained = quiet && self.held.is_empty();
                if !drained && !late(since_ns) {
                    return;
                }
                self.cancel_listeners(Protocol::Udp);
                let peers: Vec<PeerId> = self.peers.ids().collect();
                for peer in peers {
                    self.finish(peer, CloseReason::Stopping);
                }
                self.life = Life::Settling { since_ns: now_ns };
            }
            Life::Settling { since_ns } => {
                self.intake.journal.flush(self.now);
                let settled = self.intake.journal.is_settled()
                    && self.held.is_empty()
                    && self.peers.is_empty()
                    && self.listeners.iter().all(|listener| !listener.armed);
                if settled {
                    self.life = Life::Stopped;
                } else if late(since_ns) {
                    tracing::error!(
                        shard = self.plan_shard,
                        connections = self.peers.len(),
                        journal_settled = self.intake.journal.is_settled(),
                        "stopped before everything was settled: nothing of the rest was acknowledged",
                    );
                    self.life = Life::Stopped;
                }
            }
        }
    }

    fn cancel_listeners(&mut self, protocol: Protocol) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            if listener.plan.protocol != protocol || !listener.armed || listener.cancelling {
                continue;
            }
            listener.cancelling = true;
            let listener = ListenerId(index as u16);
            self.kernel.push(match protocol {
                Protocol::Tcp => Op::AcceptCancel { listener },
                Protocol::Udp => Op::ReceiveFromCancel { listener },
            });
        }
    }

    fn publish(&mut self, woken_ns: u64) {
        let counters = &mut self.intake.counters;
        counters.journal_bytes = self.intake.journal.bytes();
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

fn range(bundle: &Bundle) -> std::ops::Range<usize> {
    bundle.payload.start as usize..bundle.payload.end as usize
}

/// The answer to a frame that was not taken: for good, or for now.
fn refusal(header: &FrameHeader, reason: Reason) -> Ack {
    answer(header.producer, header.sequence, reason)
}

fn answer(producer: u64, sequence: u64, reason: Reason) -> Ack {
    let (status, retry_after_ms) = match reason {
        Reason::Backpressure | Reason::Stopping => {
            (AckStatus::TryLater, RETRY_AFTER_BACKPRESSURE_MS)
        }
        Reason::JournalFailed => (AckStatus::TryLater, RETRY_AFTER_FAILURE_MS),
        _ => (AckStatus::Refused, 0),
    };
    Ack {
        status,
        reason: reason as u8,
        producer,
        sequence,
        retry_after_ms,
        count: u32::from(producer != 0),
    }
}
