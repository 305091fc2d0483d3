//! One connection: what is due is queued and written as far as the socket takes it, with writes that
//! gather headers and templates; the agent's answers settle it.
//!
//! The payloads are not copied here: `writev` names them where they lie, and the kernel's copy is
//! the only one. (Tried beside it: copying frames into a 1 MiB buffer first; see `BURST_BYTES`.)

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use agent_common::frame::FRAME_HEADER_LEN;
use penstock_proto::reason::Reason;
use penstock_proto::wire::{ACK_LEN, Ack, AckStatus};

use super::{Run, open};
use crate::command::load::frames::Drawn;
use crate::command::load::hostile::LAST_OF_STREAM;
use crate::command::load::plan::Plan;
use crate::command::load::report::count;
use crate::command::load::window::{Sent, Window};
use crate::exit::{Exit, Failure};

/// A write carries about this much: enough that the call's cost vanishes, and less than a second
/// cache, so that what the kernel copies is still near.
const BURST_BYTES: usize = 512 << 10;
/// `writev` takes 1,024 pieces; a frame is two.
const BURST_FRAMES: usize = 512;
/// Writes of one connection before the others get their turn.
const BURSTS_PER_TURN: usize = 4;
/// "Try later" is believed up to this.
const RETRY_AFTER_MAX_MS: u32 = 10_000;

/// A frame that waits to be written.
pub(super) struct Queued {
    header: [u8; FRAME_HEADER_LEN],
    template: usize,
    hostile: Option<Reason>,
    /// It was written before, and the agent asked for it again.
    again: bool,
}

/// One connection and its producer.
pub(super) struct Lane {
    /// `None` once the connection is lost.
    pub(super) stream: Option<TcpStream>,
    pub(super) window: Window,
    pub(super) queue: VecDeque<Queued>,
    queue_bytes: usize,
    /// Bytes of the queue's first frame that are written.
    first_written: usize,
    /// Frames to be sent again, and when: (due, sequence).
    pub(super) deferred: VecDeque<(u64, u64)>,
    /// Hostile frames outside of the producer's numbers that are not answered yet.
    unnumbered: u64,
    inbox: Box<[u8]>,
    inbox_len: usize,
    /// Our side is shut: only the agent's close is awaited.
    shut: bool,
}

impl Lane {
    pub(super) fn connect(plan: &Plan, from: Option<SocketAddr>) -> Result<Self, Failure> {
        let stream = open(plan.address, from).map_err(|error| {
            let message = format!("connect to {}: {error}", plan.target);
            Failure::new(Exit::Unavailable, message)
        })?;
        Ok(Self {
            stream: Some(stream),
            window: Window::new(),
            queue: VecDeque::with_capacity(BURST_FRAMES),
            queue_bytes: 0,
            first_written: 0,
            deferred: VecDeque::new(),
            unnumbered: 0,
            inbox: vec![0; 64 << 10].into_boxed_slice(),
            inbox_len: 0,
            shut: false,
        })
    }

    pub(super) fn can_take(&self, acknowledge: bool) -> bool {
        self.stream.is_some() && (!acknowledge || self.window.has_room())
    }

    /// Nothing is left to write or to wait for.
    pub(super) fn is_done(&self) -> bool {
        self.stream.is_none()
            || (self.queue.is_empty()
                && self.window.is_settled()
                && self.unnumbered == 0
                && !self.shut)
    }

    /// Queues what is due and writes until the socket takes no more.
    pub(super) fn pump(&mut self, run: &mut Run<'_>, sending: bool, now_ns: u64) {
        if self.shut {
            return;
        }
        for _ in 0..BURSTS_PER_TURN {
            self.queue_deferred(run, now_ns);
            if sending {
                self.fill(run, now_ns);
            }
            if self.queue.is_empty() {
                break;
            }
            match self.write(run) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.lose(run, &error),
            }
        }
        if !sending && !run.acknowledge && self.queue.is_empty() {
            self.shut_down();
        }
    }

    fn fill(&mut self, run: &mut Run<'_>, now_ns: u64) {
        while self.queue_bytes < BURST_BYTES
            && self.queue.len() < BURST_FRAMES
            && self.can_take(run.acknowledge)
        {
            let Some(drawn) = run.frames.draw(&mut run.pace, now_ns, None) else {
                return;
            };
            self.queue_drawn(run, drawn, now_ns);
        }
    }

    #[inline]
    fn queue_drawn(&mut self, run: &mut Run<'_>, mut drawn: Drawn, now_ns: u64) {
        if let Some(reason) = drawn.hostile
            && LAST_OF_STREAM.contains(&reason)
        {
            if run.send_alone(&drawn, now_ns) {
                return;
            }
            // Its turn comes again; the share holds with another kind.
            drawn.hostile = Some(Reason::PayloadChecksum);
        }
        let sequence = match drawn.hostile {
            // Not numbered by the producer: answered under another name, or number 0.
            Some(Reason::ForeignProducer | Reason::BadSequence) => {
                self.unnumbered += u64::from(run.acknowledge);
                1
            }
            hostile if run.acknowledge => self.window.begin(Sent {
                intended_ns: drawn.intended_ns,
                template: drawn.template as u32,
                hostile,
            }),
            _ => self.window.begin_unanswered(),
        };
        let header = run.frames.header(&drawn, self.window.producer, sequence);
        self.push(run, header, &drawn, false);
    }

    fn push(&mut self, run: &Run<'_>, header: [u8; FRAME_HEADER_LEN], drawn: &Drawn, again: bool) {
        self.queue_bytes += FRAME_HEADER_LEN + run.frames.payload(drawn.template).len();
        self.queue.push_back(Queued {
            header,
            template: drawn.template,
            hostile: drawn.hostile,
            again,
        });
    }

    /// What the agent asked to try later, and whose time has come.
    fn queue_deferred(&mut self, run: &Run<'_>, now_ns: u64) {
        while self.queue.len() < BURST_FRAMES
            && let Some(&(due_ns, sequence)) = self.deferred.front()
            && due_ns <= now_ns
        {
            self.deferred.pop_front();
            let Some(sent) = self.window.get(sequence) else {
                continue;
            };
            let drawn = Drawn {
                template: sent.template as usize,
                hostile: sent.hostile,
                intended_ns: sent.intended_ns,
            };
            let header = run.frames.header(&drawn, self.window.producer, sequence);
            self.push(run, header, &drawn, true);
        }
    }

    /// Writes once; `false` where the socket is full.
    fn write(&mut self, run: &mut Run<'_>) -> io::Result<bool> {
        let Some(stream) = &mut self.stream else {
            return Ok(false);
        };
        let mut slices = Vec::with_capacity(2 * self.queue.len());
        let mut skip = self.first_written;
        for queued in self.queue.iter().take(BURST_FRAMES) {
            slices.push(IoSlice::new(&queued.header[skip.min(FRAME_HEADER_LEN)..]));
            let payload = run.frames.payload(queued.template);
            slices.push(IoSlice::new(
                &payload[skip.saturating_sub(FRAME_HEADER_LEN)..],
            ));
            skip = 0;
        }
        let len = match stream.write_vectored(&slices) {
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        };
        run.books.bytes_sent += len as u64;
        self.first_written += len;
        while let Some(first) = self.queue.front() {
            let frame_len = FRAME_HEADER_LEN + run.frames.payload(first.template).len();
            if self.first_written < frame_len {
                break;
            }
            self.first_written -= frame_len;
            self.queue_bytes -= frame_len;
            match first.hostile {
                _ if first.again => {}
                Some(reason) => count(&mut run.books.hostile_sent, reason as u8, 1),
                None => {
                    run.books.frames_sent += 1;
                    run.books.records_sent += run.frames.records(first.template);
                }
            }
            self.queue.pop_front();
        }
        Ok(self.queue.is_empty())
    }

    /// Reads what the agent has said so far.
    pub(super) fn receive(&mut self, run: &mut Run<'_>, now_ns: u64) {
        while let Some(stream) = &mut self.stream {
            let room = &mut self.inbox[self.inbox_len..];
            let room_len = room.len();
            let len = match stream.read(room) {
                Ok(0) if self.shut => {
                    self.stream = None;
                    return;
                }
                Ok(0) => return self.lose(run, &ErrorKind::UnexpectedEof.into()),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return self.lose(run, &error),
            };
            self.inbox_len += len;
            let whole = self.inbox_len - self.inbox_len % ACK_LEN;
            for at in (0..whole).step_by(ACK_LEN) {
                let bytes = self.inbox[at..].first_chunk().expect("32 bytes");
                match Ack::read(bytes) {
                    Some(ack) => self.on_ack(run, &ack, now_ns),
                    None => {
                        let error = io::Error::other("an answer that is none");
                        return self.lose(run, &error);
                    }
                }
            }
            self.inbox.copy_within(whole..self.inbox_len, 0);
            self.inbox_len -= whole;
            if len < room_len {
                return;
            }
        }
    }

    fn on_ack(&mut self, run: &mut Run<'_>, ack: &Ack, now_ns: u64) {
        let ours = ack.producer == self.window.producer && ack.sequence > 0;
        if !ours {
            if ack.producer == 0 && ack.sequence == 0 {
                let error = io::Error::other("the agent lost the frames' boundaries");
                return self.lose(run, &error);
            }
            if self.unnumbered == 0 {
                run.books.stray_acks += 1;
                return;
            }
            self.unnumbered -= 1;
            match ack.status {
                AckStatus::Refused => count(&mut run.books.hostile_refused, ack.reason, 1),
                _ => run.books.hostile_accepted += 1,
            }
            return;
        }
        let mut answered = 0;
        for sequence in self.window.clamp(ack.sequence, ack.count) {
            if ack.status == AckStatus::TryLater {
                if self.window.get(sequence).is_some() {
                    answered += 1;
                    let wait_ms = ack.retry_after_ms.clamp(10, RETRY_AFTER_MAX_MS);
                    let due_ns = now_ns + u64::from(wait_ms) * 1_000_000;
                    self.deferred.push_back((due_ns, sequence));
                    run.books.frames_tried_later += 1;
                }
                continue;
            }
            if let Some(sent) = self.window.settle(sequence) {
                answered += 1;
                settle(run, ack, sent, now_ns);
            }
        }
        if answered < ack.count || ack.count == 0 {
            run.books.stray_acks += 1;
        }
    }

    fn shut_down(&mut self) {
        if let Some(stream) = &self.stream {
            // The agent closes when it has read everything: that is what is awaited. Where the
            // call fails the connection is gone, and the next read says so.
            let _ = stream.shutdown(Shutdown::Write);
            self.shut = true;
        }
    }

    fn lose(&mut self, run: &mut Run<'_>, error: &io::Error) {
        eprintln!(
            "penstock: a connection to {} was lost: {error}",
            run.address
        );
        run.books.connections_lost += 1;
        self.stream = None;
        self.queue.clear();
        self.queue_bytes = 0;
    }
}

#[inline]
fn settle(run: &mut Run<'_>, ack: &Ack, sent: Sent, now_ns: u64) {
    let books = &mut run.books;
    if sent.hostile.is_some() {
        match ack.status {
            AckStatus::Refused => count(&mut books.hostile_refused, ack.reason, 1),
            _ => books.hostile_accepted += 1,
        }
        return;
    }
    let records = run.frames.records(sent.template as usize);
    match ack.status {
        AckStatus::Durable | AckStatus::Written => {
            books.frames_acknowledged += 1;
            books.records_acknowledged += records;
            let latency_ns = now_ns.saturating_sub(sent.intended_ns);
            books.ack_latency.record(latency_ns);
        }
        AckStatus::Duplicate => books.records_duplicate += records,
        AckStatus::Refused => {
            count(&mut books.frames_refused, ack.reason, 1);
            count(&mut books.records_refused, ack.reason, records);
        }
        AckStatus::TryLater => unreachable!("`on_ack` defers these"),
    }
}
