//! A connection arrives, bytes arrive: frames are cut and taken, in the order in which they came.

use std::net::SocketAddr;

use agent_common::connection::ConnectionVerdict;
use agent_common::frame::FrameHeader;
use penstock_proto::reason::Reason;
use penstock_proto::wire::{Ack, AckStatus};

use super::Worker;
use super::acknowledge::{
    RETRY_AFTER_BACKPRESSURE_MS, RETRY_AFTER_CROWDED_MS, RETRY_AFTER_FAILURE_MS,
};
use super::stop::Life;
use crate::config::settings::Protocol;
use crate::frame::parse_datagram;
use crate::gate::source_connections::SourcePlace;
use crate::gate::{frame_slot, standin};
use crate::journal::writer::Room;
use crate::shard::counters::CloseReason;
use crate::shard::intake::{Origin, Taken, Terms};
use crate::shard::op::{
    Accepted, Bundle, Errno, Group, Kernel, Lease, ListenerId, Op, PeerId, Received, Socket,
};
use crate::shard::peer::{Connection, Phase};
use crate::shard::settle::Waiting;
use crate::shard::tenant::Wait;
use crate::source::tcp::Step;
use crate::source::udp::Datagrams;

/// How long a listener rests after an error of its socket: what it is short of (file descriptors,
/// as a rule) does not come back at once, and trying without a pause would burn the core.
const LISTENER_REST_NS: u64 = 100_000_000;

/// A receive that waits for room in the journal, with how far it was taken.
pub(super) enum Held {
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
pub(super) enum Progress {
    Done,
    /// The journal has no room: the rest waits, from here on.
    Waits(usize),
}

impl<K: Kernel> Worker<K> {
    pub(super) fn on_accepted(
        &mut self,
        id: ListenerId,
        result: Result<Accepted, Errno>,
        more: bool,
    ) {
        let listener = &mut self.listeners[usize::from(id.0)];
        listener.armed = more;
        let accepted = match result {
            Ok(accepted) => accepted,
            Err(errno) if errno.0 == libc::ECANCELED => return,
            Err(errno) => {
                let error = std::io::Error::from(errno);
                tracing::warn!(listener = %listener.plan.name, "cannot accept: {error}");
                listener.rests_until_ns = self.now.monotonic_ns + LISTENER_REST_NS;
                return;
            }
        };
        let place = match self.judge_connection(id, accepted.address) {
            Ok(place) => place,
            Err(reason) => return self.turn_away(accepted.socket, id, reason),
        };
        let connection = Connection {
            place,
            ..Connection::new(accepted.socket, id, accepted.address)
        };
        if let Some(peer) = self.admit(connection) {
            match self.handover {
                Some(_) => self.peek(peer),
                None => self.receive(peer),
            }
        }
    }

    /// May this source have another connection? Where the gate is in the kernel, lists and rates were
    /// asked when the connection was asked for.
    fn judge_connection(
        &mut self,
        id: ListenerId,
        from: Option<SocketAddr>,
    ) -> Result<Option<SourcePlace>, CloseReason> {
        // A peer that has gone before it could be asked sends nothing.
        let Some(from) = from else {
            return Ok(None);
        };
        let counts = &mut self.intake.counters.listeners[usize::from(id.0)];
        let plan = &mut self.listeners[usize::from(id.0)].plan;
        if let Some(stand_in) = &mut plan.stand_in {
            let verdict = stand_in
                .judge_connection(from, self.now.monotonic_ns)
                .into();
            counts.gate_connections[verdict as usize] += 1;
            match verdict {
                ConnectionVerdict::Denied => return Err(CloseReason::Denied),
                ConnectionVerdict::RateLimited => return Err(CloseReason::RateLimited),
                ConnectionVerdict::Passed | ConnectionVerdict::Closing => {}
            }
        }
        let place = self.source_connections.open(from);
        place.map(Some).ok_or(CloseReason::TooManyFromSource)
    }

    /// Gives a connection its slot; one that cannot have one, or comes at a stop, is closed.
    pub(super) fn admit(&mut self, connection: Connection) -> Option<PeerId> {
        let listener = connection.listener;
        let counts = &mut self.intake.counters.listeners[usize::from(listener.0)];
        match self.peers.insert(Box::new(connection)) {
            Ok(peer) => {
                counts.connections += 1;
                let is_served = self.listeners[usize::from(listener.0)].serving.admits();
                match self.life {
                    Life::Running if is_served => return Some(peer),
                    Life::Running => self.close(peer, CloseReason::ListenerRemoved),
                    _ => self.close(peer, CloseReason::Stopping),
                }
            }
            Err(connection) => {
                self.turn_away(connection.socket, listener, CloseReason::TooManyConnections);
            }
        }
        None
    }

    /// Closes a socket that has no slot.
    pub(super) fn turn_away(&mut self, socket: Socket, listener: ListenerId, reason: CloseReason) {
        let counts = &mut self.intake.counters.listeners[usize::from(listener.0)];
        counts.connections_closed[reason as usize] += 1;
        // No slot, so no id: the close is told apart by a slot that cannot be.
        let peer = PeerId {
            slot: u16::MAX,
            generation: 0,
        };
        self.kernel.push(Op::PeerClose { peer, socket });
    }

    pub(super) fn on_received(
        &mut self,
        peer: PeerId,
        result: Result<Received, Errno>,
        more: bool,
    ) {
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
                // The pause may have ended before the cancellation did.
                self.receive(peer);
                return;
            }
            Err(_) => Held::StreamEnd {
                peer,
                reason: CloseReason::PeerError,
            },
        };
        self.take_or_hold(held);
    }

    pub(super) fn on_received_from(
        &mut self,
        id: ListenerId,
        result: Result<Bundle, Errno>,
        more: bool,
    ) {
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
                listener.rests_until_ns = self.now.monotonic_ns + LISTENER_REST_NS;
                return;
            }
        };
        self.udp_out += 1;
        self.last_bundle_ns = self.now.monotonic_ns;
        listener.last_bundle_ns = self.now.monotonic_ns;
        let counts = &mut self.intake.counters.listeners[usize::from(id.0)];
        let payload = &self.kernel.bytes(&bundle.lease)[range(&bundle)];
        if let Some(stand_in) = &mut listener.plan.stand_in {
            let slot = frame_slot(id, listener.plan.payload_len_max);
            let now_ns = self.now.monotonic_ns;
            let outcome = stand_in.judge(&slot, bundle.from, payload, bundle.segment_len, now_ns);
            standin::count(&outcome, &mut counts.gate_datagrams);
            counts.gate_contended_bundles += u64::from(outcome.contended);
            if !outcome.passes() {
                return self.give_back(bundle.lease);
            }
        }
        counts.received_datagrams += Datagrams::new(payload, bundle.segment_len).count() as u64;
        counts.received_bytes += payload.len() as u64;
        let bytes = payload.len();
        self.note_datagrams(bytes);
        self.take_or_hold(Held::Bundle {
            listener: id,
            bundle,
            next: 0,
        });
    }

    /// Takes a receive now, unless older ones wait: order is kept.
    pub(super) fn take_or_hold(&mut self, held: Held) {
        if self.held.is_empty() {
            if let Some(rest) = self.take(held) {
                self.held.push_back(rest);
            }
        } else {
            self.held.push_back(held);
        }
    }

    /// Takes what waited, as far as the journal has room.
    pub(super) fn take_held(&mut self) {
        while let Some(held) = self.held.pop_front() {
            if let Some(rest) = self.take(held) {
                self.held.push_front(rest);
                break;
            }
        }
        self.rearm();
    }

    /// Takes a receive and gives its buffer back; returns the rest where the journal has no room.
    pub(super) fn take(&mut self, held: Held) -> Option<Held> {
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
    pub(super) fn take_stream(&mut self, peer: PeerId, lease: &Lease, mut at: usize) -> Progress {
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
        let mut refused = false;
        let mut throttled_ns = 0;
        let progress = loop {
            let tenants = self.intake.tenants.as_mut();
            if !self.waiting.has_room() || tenants.is_some_and(|each| !each.has_room()) {
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
                    if connection.producer.is_none()
                        && let Some(tenants) = &mut self.intake.tenants
                    {
                        let (address, now_ns) = (connection.address, now.monotonic_ns);
                        let slot = tenants.attach(header.producer, address, now_ns);
                        connection.tenant = Some(slot);
                    }
                    let producer = *connection.producer.get_or_insert(header.producer);
                    if producer != header.producer {
                        self.intake.refuse(origin.listener, Reason::ForeignProducer);
                        (header, Reason::ForeignProducer)
                    } else {
                        let terms = Terms::Stream {
                            known: &mut connection.known,
                            tenant: connection.tenant,
                        };
                        let taken = self.intake.take(origin, &frame, room, terms, now);
                        let journal = &self.intake.journal;
                        let (ticket, duplicate) = match taken {
                            Taken::Accepted(ticket) => (ticket, false),
                            // Not before the original: it may still be lost.
                            Taken::Duplicate { behind } if behind > journal.acknowledgeable() => {
                                (journal.last_ticket(), true)
                            }
                            Taken::Duplicate { behind } => {
                                let synced = behind <= journal.synced();
                                let ack = duplicate(&header, synced);
                                if header.wants_ack() && !connection.acks.push(ack) {
                                    close = Some(CloseReason::AcksNotRead);
                                    break Progress::Done;
                                }
                                continue;
                            }
                            Taken::Refused(reason) => {
                                refused |= room == Room::Refused(reason);
                                let ack = refusal(&header, reason);
                                if header.wants_ack() && !connection.acks.push(ack) {
                                    close = Some(CloseReason::AcksNotRead);
                                    break Progress::Done;
                                }
                                continue;
                            }
                            Taken::Limited(wait) => {
                                throttled_ns = throttled_ns.max(wait.ns);
                                let ack = later(&header, &wait);
                                if header.wants_ack() && !connection.acks.push(ack) {
                                    close = Some(CloseReason::AcksNotRead);
                                    break Progress::Done;
                                }
                                continue;
                            }
                        };
                        if header.wants_ack() {
                            connection.waiting += 1;
                            self.waiting.push(Waiting {
                                ticket,
                                peer,
                                producer: header.producer,
                                sequence: header.sequence,
                                count: 1,
                                duplicate,
                            });
                        }
                        continue;
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
        if self.carry_bytes > self.carry_bytes_max && connection.reader.carry_capacity() > 0 {
            close = close.or(Some(CloseReason::CarryExhausted));
        }
        if !connection.acks.is_empty() {
            self.touch(peer);
        }
        match close {
            Some(reason @ CloseReason::FramingLost) => self.finish(peer, reason),
            Some(reason) => self.close(peer, reason),
            None if refused => self.pause(peer),
            None if throttled_ns > 0 => self.throttle(peer, throttled_ns),
            None => {}
        }
        self.push_journal_ops();
        progress
    }

    /// Takes each datagram of a bundle from `next` on.
    pub(super) fn take_bundle(&mut self, id: ListenerId, bundle: &Bundle, next: usize) -> Progress {
        let listener = &self.listeners[usize::from(id.0)];
        let payload_len_max = listener.plan.payload_len_max;
        let origin = Origin {
            listener: id,
            peer: bundle.from,
        };
        let bytes = &self.kernel.bytes(&bundle.lease)[range(bundle)];
        let datagrams = Datagrams::new(bytes, bundle.segment_len);
        let count = datagrams.count();
        let in_force = self.regulate.regulation.board.in_force();
        let keep = match listener.plan.stand_in {
            // Nothing was shed so far.
            Some(_) => in_force,
            None => self.regulate.keep_of_waiting(),
        };
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
                    let terms = Terms::Datagram { keep, in_force };
                    let _ = self.intake.take(origin, &frame, room, terms, self.now);
                }
                Err(reason) => self.intake.refuse(id, reason),
            }
        }
        self.push_journal_ops();
        Progress::Done
    }

    /// The peer sends no more: what is in the journal is still acknowledged.
    pub(super) fn end_stream(&mut self, peer: PeerId, reason: CloseReason) {
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

    /// Arms what is not armed: at the start, and where a multishot ended for lack of buffers.
    pub(super) fn rearm(&mut self) {
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
            let rests = self.now.monotonic_ns < listener.rests_until_ns;
            let receives = listener.serving.receives(listener.plan.protocol);
            if listener.armed || rests || !wanted || !receives || listener.cancelling {
                continue;
            }
            listener.armed = true;
            if listener.plan.protocol == Protocol::Udp {
                // Nothing has come because nothing was received: a drain begins its quiet time anew.
                self.last_bundle_ns = self.now.monotonic_ns;
                listener.last_bundle_ns = self.now.monotonic_ns;
            }
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

    pub(super) fn receive(&mut self, peer: PeerId) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        let paused = connection.paused_until_ns > 0 || connection.throttled_until_ns > 0;
        if connection.phase == Phase::Streaming && !connection.receiving && !paused {
            connection.receiving = true;
            let socket = connection.socket;
            self.kernel.push(Op::Receive { peer, socket });
        }
    }

    /// The one place where a receive buffer goes back.
    pub(super) fn give_back(&mut self, lease: Lease) {
        match lease.group {
            Group::Tcp => self.tcp_out -= 1,
            Group::Udp => self.udp_out -= 1,
        }
        self.kernel.give_back(lease);
    }
}

fn range(bundle: &Bundle) -> std::ops::Range<usize> {
    bundle.payload.start as usize..bundle.payload.end as usize
}

/// The answer to a frame that was not taken: for good, or for now.
fn refusal(header: &FrameHeader, reason: Reason) -> Ack {
    answer(header.producer, header.sequence, reason)
}

/// The answer to a frame that was taken before.
fn duplicate(header: &FrameHeader, synced: bool) -> Ack {
    Ack {
        status: match synced {
            true => AckStatus::Duplicate,
            false => AckStatus::Written,
        },
        reason: 0,
        producer: header.producer,
        sequence: header.sequence,
        retry_after_ms: 0,
        count: 1,
    }
}

/// The answer to a frame that its tenant may send again: not sooner than it says, in whole
/// milliseconds.
fn later(header: &FrameHeader, wait: &Wait) -> Ack {
    Ack {
        status: AckStatus::TryLater,
        reason: wait.limit.reason() as u8,
        producer: header.producer,
        sequence: header.sequence,
        retry_after_ms: wait.ns.div_ceil(1_000_000) as u32,
        count: u32::from(header.producer != 0),
    }
}

fn answer(producer: u64, sequence: u64, reason: Reason) -> Ack {
    let (status, retry_after_ms) = match reason {
        Reason::Backpressure | Reason::Stopping => {
            (AckStatus::TryLater, RETRY_AFTER_BACKPRESSURE_MS)
        }
        Reason::TooManyProducers => (AckStatus::TryLater, RETRY_AFTER_CROWDED_MS),
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
