//! Frames delivered: the protocol's client side as a state machine. Bytes in, bytes out, the time
//! passed in, no I/O.
//!
//! ```text
//!  Disconnected ──frames──▶ Connecting ──connected──▶ Streaming ──no more frames──▶ Draining
//!       ▲                        │                        │                            │
//!       └────── time passed ── BackingOff ◀── failed, cut, silent, not understood ──────┘
//! ```
//!
//! Frames wait in a queue without a number. One is numbered when it is begun, so that what was
//! never begun can be dropped without a hole in the sequence; from then on it keeps its number, its
//! bytes and its place in the window until an answer settles it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use agent_common::frame::{FLAG_ACKNOWLEDGE, FRAME_HEADER_LEN, FrameHeader};
use penstock_proto::wire::{self, ACK_LEN, Ack, AckStatus};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::backoff::Backoff;
use crate::options::Options;
use crate::report::{Report, Tally};
use crate::targets::Targets;
use crate::window::{OUTSTANDING_FRAMES_MAX, Outgoing, Passed, Window};

/// "Try later" without a time is not "try at once".
const RETRY_AFTER_MIN: Duration = Duration::from_millis(10);

/// What the driver is to do now. A connection is kept only while the answer is `Exchange`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Nothing, until frames come or `wake`.
    Idle { wake: Option<Instant> },
    /// Open a new connection to this target (its place in the list) and say
    /// [`Exchange::on_connected`] or [`Exchange::on_connect_failed`].
    Connect { target: usize },
    /// Read what comes; where `write`, send [`Exchange::outbound`]; call `poll` again at `wake`.
    Exchange { write: bool, wake: Option<Instant> },
    /// No more frames come and everything is settled.
    Done,
}

/// What is true of a connection that is open.
#[derive(Debug)]
struct Link {
    /// The frame that is being sent, and how much of it has been.
    sending: Option<(Outgoing, usize)>,
    /// The beginning of an acknowledgement.
    ack: [u8; ACK_LEN],
    ack_len: usize,
    /// When the agent last answered, or began to owe an answer.
    heard: Instant,
}

#[derive(Debug)]
enum State {
    Disconnected,
    Connecting,
    Streaming(Link),
    BackingOff {
        until: Instant,
    },
    /// No more frames come: what is held is sent, and waited for.
    Draining(Link),
}

/// A frame, or without bytes a number that is not used.
#[derive(Debug)]
struct Queued {
    bytes: Vec<u8>,
    records: u32,
}

/// The frames of one producer id on their way to one of its targets.
#[derive(Debug)]
pub struct Exchange {
    options: Options,
    id: u64,
    state: State,
    targets: Targets,
    /// Frames that were never begun.
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    queue_records: u64,
    window: Window,
    /// Frames numbered from here on must not be begun yet.
    begin_limit: u64,
    finishing: bool,
    backoff: Backoff,
    /// Since when there are frames, and when one was settled last.
    frames_since: Option<Instant>,
    settled_at: Option<Instant>,
    /// No new frame is begun, so that the target can be left when all fates are known.
    returning: bool,
    report: Report,
    random: StdRng,
}

impl Exchange {
    /// `first_sequence` is 1, but for an id that outlived a restart.
    pub fn new(options: Options, id: u64, first_sequence: u64, targets: usize) -> Self {
        assert!(id != 0, "producer 0 is nobody");
        Self {
            id,
            state: State::Disconnected,
            targets: Targets::new(targets),
            queue: VecDeque::new(),
            queue_bytes: 0,
            queue_records: 0,
            window: Window::starting_at(first_sequence),
            begin_limit: u64::MAX,
            finishing: false,
            backoff: Backoff::new(options.backoff_base, options.backoff_max),
            frames_since: None,
            settled_at: None,
            returning: false,
            report: Report::default(),
            random: match options.jitter_seed {
                Some(seed) => StdRng::seed_from_u64(seed),
                None => StdRng::from_rng(&mut rand::rng()),
            },
            options,
        }
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The target that is sent to, or would be.
    pub fn target(&self) -> usize {
        self.targets.current()
    }

    /// Whether another frame may be queued, by number.
    pub fn has_room(&self) -> bool {
        self.window.len() + self.queue.len() < OUTSTANDING_FRAMES_MAX
    }

    /// Bytes of all frames held.
    pub fn bytes(&self) -> usize {
        self.window.bytes() + self.queue_bytes
    }

    /// Frames that are not settled, begun or not.
    pub fn unsettled(&self) -> Tally {
        let begun = self.window.unsettled();
        Tally {
            frames: begun.frames + self.queue.len() as u64,
            records: begun.records + self.queue_records,
        }
    }

    /// Everything below this sequence is settled.
    pub fn base(&self) -> u64 {
        self.window.base()
    }

    /// The sequence of the next frame to be begun.
    pub fn next_sequence(&self) -> u64 {
        self.window.next_sequence()
    }

    /// Frames from this sequence on are not begun before a higher limit is set.
    pub fn set_begin_limit(&mut self, sequence: u64) {
        self.begin_limit = sequence;
    }

    /// When a frame was settled last.
    pub fn settled_at(&self) -> Option<Instant> {
        self.settled_at
    }

    /// Takes a whole frame. Producer, sequence and the flag that asks for an acknowledgement are
    /// set when it is begun; the rest of its header stands as it is, payload checksum included.
    pub fn enqueue(&mut self, frame: Vec<u8>, records: u32, now: Instant) {
        assert!(!self.finishing, "no more frames were to come");
        assert!(self.has_room(), "{} frames are queued", self.queue.len());
        assert!(frame.len() >= FRAME_HEADER_LEN, "{} bytes", frame.len());
        if self.unsettled().frames == 0 {
            self.frames_since = Some(now);
        }
        self.queue_bytes += frame.len();
        self.queue_records += u64::from(records);
        self.queue.push_back(Queued {
            bytes: frame,
            records,
        });
    }

    /// The number that the next frame would get is not used: for callers that number by what they
    /// read, where that cannot be read any more.
    pub fn enqueue_gap(&mut self) {
        assert!(self.has_room(), "{} frames are queued", self.queue.len());
        self.queue.push_back(Queued {
            bytes: Vec::new(),
            records: 0,
        });
        self.pass_gaps();
    }

    fn pass_gaps(&mut self) {
        while self.queue.front().is_some_and(|each| each.bytes.is_empty())
            && self.window.has_room()
            && self.window.next_sequence() < self.begin_limit
        {
            self.queue.pop_front();
            self.window.pass_over();
        }
    }

    /// What became of the frames below [`Exchange::base`].
    pub fn passed(&self) -> Passed {
        self.window.passed()
    }

    /// No more frames come.
    pub fn finish(&mut self) {
        self.finishing = true;
    }

    /// Drops the oldest frame that was never begun; `None` where there is none.
    pub fn drop_oldest(&mut self) -> Option<Tally> {
        let dropped = self.dequeue()?;
        let mut tally = Tally::default();
        tally.add(dropped.records);
        self.report.dropped_oldest.add_all(tally);
        Some(tally)
    }

    /// Gives up whatever has a lower sequence, begun or not; the queue must hold the frames that
    /// follow the window's, and whoever numbers them counts those it holds itself.
    pub fn give_up_below(&mut self, sequence: u64) {
        let mut given_up = Tally::default();
        while self.next_sequence() < sequence
            && let Some(queued) = self.dequeue()
        {
            // It takes its number with it: the window passes over.
            given_up.add(queued.records);
            given_up.add_all(self.window.give_up_below(self.next_sequence() + 1));
        }
        given_up.add_all(self.window.give_up_below(sequence));
        self.report.dropped_oldest.add_all(given_up);
    }

    fn dequeue(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.queue_bytes -= queued.bytes.len();
        self.queue_records -= u64::from(queued.records);
        Some(queued)
    }

    pub(crate) fn report_mut(&mut self) -> &mut Report {
        &mut self.report
    }

    /// The books as they stand; `unsettled` is for the caller to fill in.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// What is to be done now.
    pub fn poll(&mut self, now: Instant) -> Demand {
        self.change_state(now);
        let settled = self.window.unsettled().frames == 0 && self.queue.is_empty();
        if self.finishing && settled {
            return Demand::Done;
        }
        let deferred = self.window.deferred_until();
        match &self.state {
            State::Disconnected if self.has_pending() => {
                self.state = State::Connecting;
                Demand::Connect {
                    target: self.targets.current(),
                }
            }
            // The driver did not say yet how it went.
            State::Connecting => Demand::Connect {
                target: self.targets.current(),
            },
            State::Disconnected => Demand::Idle { wake: deferred },
            State::BackingOff { until } => Demand::Idle { wake: Some(*until) },
            State::Streaming(link) | State::Draining(link) => {
                let silence_end =
                    (self.window.in_flight() > 0).then(|| link.heard + self.options.ack_timeout);
                let return_at = self.targets.return_at().filter(|_| !self.returning);
                Demand::Exchange {
                    write: link.sending.is_some() || self.has_pending(),
                    wake: earliest([deferred, silence_end, self.patience_end(), return_at]),
                }
            }
        }
    }

    /// The changes of state that time alone brings.
    fn change_state(&mut self, now: Instant) {
        self.pass_gaps();
        self.window.wake_deferred(now);
        if self.targets.return_at().is_some_and(|at| at <= now) {
            self.returning = true;
        }
        let may_return = self.returning && self.window.exposed() == 0;
        self.state = match std::mem::replace(&mut self.state, State::Disconnected) {
            State::BackingOff { until } if now >= until && may_return => self.return_to_first(),
            State::BackingOff { until } if now >= until => State::Disconnected,
            State::Streaming(link) | State::Draining(link)
                if self.window.in_flight() > 0 && now >= link.heard + self.options.ack_timeout =>
            {
                self.lose_link(now)
            }
            State::Streaming(_) | State::Draining(_)
                if self.patience_end().is_some_and(|end| now >= end) && self.fail_over(now) =>
            {
                self.lose_link(now)
            }
            State::Streaming(link) | State::Draining(link)
                if may_return && link.sending.is_none() =>
            {
                self.return_to_first()
            }
            State::Disconnected if may_return => self.return_to_first(),
            State::Streaming(link) if self.finishing => State::Draining(link),
            state => state,
        };
    }

    /// Every frame's fate is known, so that none can come to be stored at two agents.
    fn return_to_first(&mut self) -> State {
        self.returning = false;
        self.window.wake_all();
        self.targets.try_first();
        State::Disconnected
    }

    /// When the present target has settled nothing for too long; `None` where it is the only one,
    /// or nothing waits.
    fn patience_end(&self) -> Option<Instant> {
        if !self.targets.are_several() || self.unsettled().frames == 0 {
            return None;
        }
        let since = [self.frames_since, self.settled_at, self.targets.since()];
        let since = since.into_iter().flatten().max()?;
        Some(since + self.options.failover_after)
    }

    /// Turns to another target; `false` where there is none to turn to.
    fn fail_over(&mut self, now: Instant) -> bool {
        let rest_until = self.window.deferred_last();
        let left = self
            .targets
            .leave(now, rest_until, self.options.return_after);
        if left {
            self.report.failovers += 1;
            self.window.wake_all();
            self.returning = false;
        }
        left
    }

    /// A connection is open.
    pub fn on_connected(&mut self, now: Instant) {
        self.report.connections += 1;
        self.targets.on_connected(now);
        self.state = State::Streaming(Link {
            sending: None,
            ack: [0; ACK_LEN],
            ack_len: 0,
            heard: now,
        });
    }

    /// No connection could be opened.
    pub fn on_connect_failed(&mut self, now: Instant) {
        self.report.connects_failed += 1;
        if self
            .targets
            .on_connect_failed(now, self.options.return_after)
        {
            // A look at the first in passing: back to the one that works, at once.
            self.state = State::Disconnected;
            return;
        }
        let impatient = self.patience_end().is_some_and(|end| now >= end);
        if self.targets.are_several() && (impatient || self.window.exposed() == 0) {
            self.fail_over(now);
        }
        let pause = match self.targets.round_is_over() {
            true => self.backoff.next(&mut self.random),
            false => self.backoff.again(&mut self.random),
        };
        self.state = State::BackingOff { until: now + pause };
    }

    /// The connection ended, in whichever way.
    pub fn on_disconnected(&mut self, now: Instant) {
        if self.is_connected() {
            self.state = self.lose_link(now);
        }
    }

    pub fn is_connected(&self) -> bool {
        matches!(self.state, State::Streaming(_) | State::Draining(_))
    }

    pub fn is_draining(&self) -> bool {
        matches!(self.state, State::Draining(_))
    }

    /// Everything in flight is to be sent again; the state that follows.
    fn lose_link(&mut self, now: Instant) -> State {
        self.report.connections_lost += 1;
        self.window.on_disconnected();
        State::BackingOff {
            until: now + self.backoff.next(&mut self.random),
        }
    }

    /// Whether frames wait to go out: the time to exchange with the agent.
    pub fn has_pending(&self) -> bool {
        self.window.has_pending() || self.may_begin_new()
    }

    fn may_begin_new(&self) -> bool {
        !self.queue.is_empty()
            && !self.returning
            && self.window.has_room()
            && self.window.next_sequence() < self.begin_limit
    }

    /// The bytes to send next; empty where there are none. Say with [`Exchange::on_sent`] how many
    /// went out.
    pub fn outbound(&mut self, now: Instant) -> &[u8] {
        let is_free = match &self.state {
            State::Streaming(link) | State::Draining(link) => link.sending.is_none(),
            _ => return &[],
        };
        if is_free && let Some(outgoing) = self.begin() {
            let silent = self.window.in_flight() == 1;
            let tally = match outgoing.again {
                false => &mut self.report.sent,
                true => &mut self.report.resent,
            };
            tally.add(outgoing.records);
            if let State::Streaming(link) | State::Draining(link) = &mut self.state {
                link.sending = Some((outgoing, 0));
                if silent {
                    link.heard = now;
                }
            }
        }
        match &self.state {
            State::Streaming(Link {
                sending: Some((outgoing, sent)),
                ..
            })
            | State::Draining(Link {
                sending: Some((outgoing, sent)),
                ..
            }) => &outgoing.bytes[*sent..],
            _ => &[],
        }
    }

    /// The next frame to put on the connection: what was begun before comes first.
    fn begin(&mut self) -> Option<Outgoing> {
        if let Some(again) = self.window.begin_again() {
            return Some(again);
        }
        self.pass_gaps();
        if !self.may_begin_new() {
            return None;
        }
        let Queued { mut bytes, records } = self.dequeue()?;
        number(&mut bytes, self.id, self.window.next_sequence());
        Some(self.window.begin_new(bytes, records))
    }

    /// `len` bytes of [`Exchange::outbound`] went out.
    pub fn on_sent(&mut self, len: usize) {
        let (State::Streaming(link) | State::Draining(link)) = &mut self.state else {
            return;
        };
        let Some((outgoing, sent)) = &mut link.sending else {
            assert_eq!(len, 0, "more was sent than there was");
            return;
        };
        *sent += len;
        let frame_len = outgoing.bytes.len();
        assert!(*sent <= frame_len, "sent {sent} bytes of {frame_len}");
        self.report.bytes_sent += len as u64;
        if *sent == frame_len {
            link.sending = None;
        }
    }

    /// The agent's bytes. Where they cannot be understood the connection is given up.
    pub fn on_received(&mut self, mut bytes: &[u8], now: Instant) {
        while let State::Streaming(link) | State::Draining(link) = &mut self.state {
            let taken = bytes.len().min(ACK_LEN - link.ack_len);
            if taken == 0 {
                return;
            }
            link.ack[link.ack_len..][..taken].copy_from_slice(&bytes[..taken]);
            link.ack_len += taken;
            bytes = &bytes[taken..];
            if link.ack_len < ACK_LEN {
                return;
            }
            link.ack_len = 0;
            link.heard = now;
            match Ack::read(&link.ack) {
                Some(ack) => self.on_ack(&ack, now),
                None => self.state = self.lose_link(now),
            }
        }
    }

    fn on_ack(&mut self, ack: &Ack, now: Instant) {
        if ack.producer == 0 && ack.sequence == 0 && ack.status == AckStatus::Refused {
            self.report.framing_lost += 1;
            self.state = self.lose_link(now);
            return;
        }
        if ack.producer != self.id {
            self.report.stray_acks += 1;
            return;
        }
        let retry_at = now + self.retry_after(ack);
        let mut answered = 0;
        for sequence in self.window.clamp(ack.sequence, ack.count) {
            let known = match ack.status {
                AckStatus::TryLater => self.window.defer(sequence, retry_at),
                _ => self.settle(sequence, ack, now),
            };
            answered += u32::from(known);
        }
        if ack.status == AckStatus::TryLater {
            self.report.tried_later_frames += u64::from(answered);
        }
        // An answer to a frame that is not waiting for one settles nothing.
        if answered < ack.count || ack.count == 0 {
            self.report.stray_acks += 1;
        }
    }

    /// `false` where the frame waits for no answer.
    fn settle(&mut self, sequence: u64, ack: &Ack, now: Instant) -> bool {
        let taken = ack.status != AckStatus::Refused;
        let Some(records) = self.window.settle(sequence, taken) else {
            return false;
        };
        match ack.status {
            AckStatus::Durable => self.report.durable.add(records),
            AckStatus::Duplicate => self.report.duplicate.add(records),
            AckStatus::Written => self.report.written.add(records),
            AckStatus::Refused => self.report.refused.add(ack.reason, records),
            AckStatus::TryLater => unreachable!("`on_ack` defers these"),
        }
        self.backoff.reset();
        self.settled_at = Some(now);
        true
    }

    /// What the agent asked for, within bounds, and up to half of it more, so that those who were
    /// told the same do not come back at the same moment.
    fn retry_after(&mut self, ack: &Ack) -> Duration {
        let asked = Duration::from_millis(ack.retry_after_ms.into()).clamp(
            RETRY_AFTER_MIN,
            self.options.retry_after_max.max(RETRY_AFTER_MIN),
        );
        asked + self.random.random_range(Duration::ZERO..=asked / 2)
    }
}

/// Makes a frame the `sequence`-th of `producer`, and asks for its acknowledgement.
pub(crate) fn number(frame: &mut [u8], producer: u64, sequence: u64) {
    let head = frame
        .first_chunk_mut::<FRAME_HEADER_LEN>()
        .expect("a frame begins with its header");
    let header = FrameHeader::read(head);
    *head = wire::seal(&FrameHeader {
        flags: header.flags | FLAG_ACKNOWLEDGE,
        producer,
        sequence,
        ..header
    });
}

pub(crate) fn earliest<const N: usize>(times: [Option<Instant>; N]) -> Option<Instant> {
    times.into_iter().flatten().min()
}
