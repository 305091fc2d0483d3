//! The protocol as a state machine: bytes in, bytes out, the time passed in, no I/O.
//!
//! ```text
//!  Disconnected ──records──▶ Connecting ──connected──▶ Streaming ──finish, all sealed──▶ Draining
//!       ▲                        │                         │                               │
//!       └────── time passed ── BackingOff ◀── failed, cut, silent, not understood ─────────┘
//! ```
//!
//! A driver asks [`Producer::poll`] what is to be done and does it: [`crate::Sender`] with a
//! blocking thread and a socket, the tests with a made-up agent.

use std::time::{Duration, Instant};

use agent_common::frame::{FLAG_ACKNOWLEDGE, FrameHeader};
use penstock_proto::v1::LogRecord;
use penstock_proto::wire::{ACK_LEN, Ack, AckStatus};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::backoff::Backoff;
use crate::batch::Batch;
use crate::options::Options;
use crate::report::{Report, Tally};
use crate::window::{Outgoing, Window};

/// "Try later" without a time is not "try at once".
const RETRY_AFTER_MIN: Duration = Duration::from_millis(10);

/// What the driver is to do now. A connection is kept only while the answer is `Exchange`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Nothing, until records come or `wake`.
    Idle { wake: Option<Instant> },
    /// Open a new connection and say [`Producer::on_connected`] or
    /// [`Producer::on_connect_failed`].
    Connect,
    /// Read what comes; where `write`, send [`Producer::outbound`]; call `poll` again at `wake`.
    Exchange { write: bool, wake: Option<Instant> },
    /// `finish` was called and everything is settled.
    Done,
}

/// Why a record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The window or the buffer is full: exchange with the agent, then push again.
    #[error("as many frames or bytes as allowed are not settled yet")]
    Full,
    #[error("the record takes {len} bytes, more than the {max} of a payload")]
    TooLong { len: usize, max: usize },
    #[error("the producer was told that no more records come")]
    Finished,
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
    /// Every record stands in a frame and no more will come: only answers are awaited.
    Draining(Link),
}

/// One producer in one life: its id, its frames, its books.
#[derive(Debug)]
pub struct Producer {
    options: Options,
    id: u64,
    state: State,
    /// The batch that is being filled, and since when.
    open: Batch,
    open_since: Option<Instant>,
    window: Window,
    finishing: bool,
    backoff: Backoff,
    /// Records wait and nothing was settled since.
    stalled_since: Option<Instant>,
    report: Report,
    random: StdRng,
}

impl Producer {
    pub fn new(options: Options) -> Self {
        let options = Options {
            batch_bytes_max: options.batch_bytes_max.min(options.payload_len_max),
            batch_records_max: options.batch_records_max.max(1),
            buffer_bytes_max: options.buffer_bytes_max.max(2 * options.payload_len_max),
            ..options
        };
        Self {
            id: crate::random_producer_id(),
            state: State::Disconnected,
            open: Batch::new(options.encoding, options.schema).with_zstd(options.zstd_level),
            open_since: None,
            window: Window::default(),
            finishing: false,
            backoff: Backoff::new(options.backoff_base, options.backoff_max),
            stalled_since: None,
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

    /// Takes a record into the batch that is being filled.
    pub fn push(&mut self, record: &LogRecord, now: Instant) -> Result<(), PushError> {
        if self.finishing {
            return Err(PushError::Finished);
        }
        let held = self.window.bytes() + self.open.payload().len();
        if held + self.options.payload_len_max > self.options.buffer_bytes_max {
            return Err(PushError::Full);
        }
        if self.open.records() >= self.options.batch_records_max && !self.seal() {
            return Err(PushError::Full);
        }
        if self
            .open
            .push(record, self.options.batch_bytes_max)
            .is_err()
        {
            if !self.open.is_empty() && !self.seal() {
                return Err(PushError::Full);
            }
            // Alone it may be longer than a batch should be.
            let max = self.options.payload_len_max;
            if let Err(no_room) = self.open.push(record, max) {
                self.report.records_too_long += 1;
                let len = no_room.record_len;
                return Err(PushError::TooLong { len, max });
            }
        }
        self.report.records_taken += 1;
        self.open_since.get_or_insert(now);
        self.stalled_since.get_or_insert(now);
        if self.open_is_full() {
            // Where the window is full, a later `push` or `poll` closes it.
            self.seal();
        }
        Ok(())
    }

    fn open_is_full(&self) -> bool {
        self.open.records() >= self.options.batch_records_max
            || self.open.payload().len() >= self.options.batch_bytes_max
    }

    /// No more records come: what is there is closed, sent and waited for.
    pub fn finish(&mut self) {
        self.finishing = true;
    }

    /// What is to be done now.
    pub fn poll(&mut self, now: Instant) -> Demand {
        let lingered = self
            .open_since
            .is_some_and(|since| now >= since + self.options.linger);
        if lingered || self.finishing || self.open_is_full() {
            self.seal();
        }
        self.window.wake_deferred(now);
        self.change_state(now);

        let settled = self.window.unsettled() == 0 && self.open.is_empty();
        if self.finishing && settled {
            return Demand::Done;
        }
        let linger_end = (self.window.has_room())
            .then_some(self.open_since)
            .flatten()
            .map(|since| since + self.options.linger);
        let deferred = self.window.deferred_until();
        match &self.state {
            State::Disconnected if self.window.has_pending() => {
                self.state = State::Connecting;
                Demand::Connect
            }
            // The driver did not say yet how it went.
            State::Connecting => Demand::Connect,
            State::Disconnected => Demand::Idle {
                wake: earliest([linger_end, deferred, None]),
            },
            State::BackingOff { until } => Demand::Idle { wake: Some(*until) },
            State::Streaming(link) | State::Draining(link) => {
                let silence_end =
                    (self.window.in_flight() > 0).then(|| link.heard + self.options.ack_timeout);
                Demand::Exchange {
                    write: link.sending.is_some() || self.window.has_pending(),
                    wake: earliest([linger_end, deferred, silence_end]),
                }
            }
        }
    }

    /// The changes of state that time alone brings.
    fn change_state(&mut self, now: Instant) {
        let drained = self.finishing && self.open.is_empty();
        self.state = match std::mem::replace(&mut self.state, State::Disconnected) {
            State::BackingOff { until } if now >= until => State::Disconnected,
            State::Streaming(link) | State::Draining(link)
                if self.window.in_flight() > 0 && now >= link.heard + self.options.ack_timeout =>
            {
                self.lose_link(now)
            }
            State::Streaming(link) if drained => State::Draining(link),
            state => state,
        };
    }

    /// A connection is open.
    pub fn on_connected(&mut self, now: Instant) {
        self.report.connections += 1;
        self.state = State::Streaming(Link {
            sending: None,
            ack: [0; ACK_LEN],
            ack_len: 0,
            heard: now,
        });
    }

    /// No connection could be opened.
    pub fn on_connect_failed(&mut self, now: Instant) {
        let until = now + self.backoff.next(&mut self.random);
        self.state = State::BackingOff { until };
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

    /// Everything in flight is to be sent again; the state that follows.
    fn lose_link(&mut self, now: Instant) -> State {
        self.report.connections_lost += 1;
        self.window.on_disconnected();
        State::BackingOff {
            until: now + self.backoff.next(&mut self.random),
        }
    }

    /// The bytes to send next; empty where there are none. Say with [`Producer::on_sent`] how many
    /// went out.
    pub fn outbound(&mut self, now: Instant) -> &[u8] {
        let (State::Streaming(link) | State::Draining(link)) = &mut self.state else {
            return &[];
        };
        if link.sending.is_none()
            && let Some(outgoing) = self.window.begin_next()
        {
            if self.window.in_flight() == 1 {
                link.heard = now;
            }
            let tally = match outgoing.again {
                false => &mut self.report.sent,
                true => &mut self.report.resent,
            };
            tally.add(outgoing.records);
            link.sending = Some((outgoing, 0));
        }
        match &link.sending {
            Some((outgoing, sent)) => &outgoing.bytes[*sent..],
            None => &[],
        }
    }

    /// `len` bytes of [`Producer::outbound`] went out.
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
        let Some(records) = self.window.settle(sequence) else {
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
        let waiting = self.window.unsettled() > 0 || !self.open.is_empty();
        self.stalled_since = waiting.then_some(now);
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

    /// Closes the open batch; `false` where the window has no room for it.
    fn seal(&mut self) -> bool {
        if self.open.is_empty() {
            return true;
        }
        if !self.window.has_room() {
            return false;
        }
        let records = self.open.records();
        let header = FrameHeader {
            encoding: 0,
            flags: FLAG_ACKNOWLEDGE,
            priority: self.options.priority,
            payload_len: 0,
            records: 0,
            producer: self.id,
            sequence: self.window.next_sequence(),
            payload_crc: 0,
        };
        let frame = self.open.seal(header);
        self.window.append(frame, records);
        self.open_since = None;
        true
    }

    /// Whether frames wait to go out: the time to exchange with the agent.
    pub fn has_pending(&self) -> bool {
        self.window.has_pending()
    }

    /// Since when records wait and nothing was settled; `None` where nothing waits.
    pub fn stalled_since(&self) -> Option<Instant> {
        self.stalled_since
    }

    /// The books as they stand.
    pub fn report(&self) -> Report {
        let open = &self.open;
        let report = Report {
            unsettled: Tally {
                frames: self.window.unsettled() as u64 + u64::from(!open.is_empty()),
                records: self.window.unsettled_records() + u64::from(open.records()),
            },
            ..self.report.clone()
        };
        let settled = report.acknowledged().records + report.refused.total().records;
        assert_eq!(
            report.records_taken,
            settled + report.unsettled.records,
            "a record is in none or two of the books"
        );
        report
    }
}

fn earliest(times: [Option<Instant>; 3]) -> Option<Instant> {
    times.into_iter().flatten().min()
}

#[cfg(test)]
mod tests;
