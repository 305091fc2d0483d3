//! Load over TCP: one thread, nonblocking sockets, writes that gather headers and templates.
//!
//! The payloads are not copied here: `writev` names them where they lie, and the kernel's copy is
//! the only one. (Tried beside it: copying frames into a 1 MiB buffer first; see `BURST_BYTES`.)

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use agent_common::frame::FRAME_HEADER_LEN;
use penstock_proto::reason::Reason;
use penstock_proto::wire::{ACK_LEN, Ack, AckStatus};

use super::DRAIN_TIME_MAX;
use super::frames::{Drawn, Frames};
use super::hostile::LAST_OF_STREAM;
use super::kernel::{Waiting, wait};
use super::pacing::Pace;
use super::plan::Plan;
use super::report::{Books, count};
use super::window::{Sent, Window};
use crate::exit::{Exit, Failure};

/// A write carries about this much: enough that the call's cost vanishes, and less than a second
/// cache, so that what the kernel copies is still near.
const BURST_BYTES: usize = 512 << 10;
/// `writev` takes 1,024 pieces; a frame is two.
const BURST_FRAMES: usize = 512;
/// Writes of one connection before the others get their turn.
const BURSTS_PER_TURN: usize = 4;
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Hostile frames that need a connection each are at least this far apart.
const LAST_OF_STREAM_GAP_NS: u64 = 10_000_000;
/// How long such a connection waits for the agent's answer and close.
const LAST_OF_STREAM_TIME_MAX_NS: u64 = 2_000_000_000;
/// "Try later" is believed up to this.
const RETRY_AFTER_MAX_MS: u32 = 10_000;

/// Runs the load; the books and the nanoseconds that it took.
pub fn run(plan: &Plan, frames: &mut Frames) -> Result<(Books, u64), Failure> {
    let mut lanes = Vec::with_capacity(plan.lanes);
    for _ in 0..plan.lanes {
        lanes.push(Lane::connect(plan)?);
    }
    let mut run = Run {
        frames,
        books: Books::default(),
        pace: Pace::start(plan.records_per_second, plan.records, plan.time),
        acknowledge: plan.acknowledge,
        address: plan.address,
        alone: None,
        alone_next_ns: 0,
    };
    let mut waiting = Vec::with_capacity(lanes.len() + 1);
    let mut sent_all_ns = None;
    let mut turn = 0;
    loop {
        let now_ns = run.pace.now_ns();
        let open = lanes.iter().filter(|lane| lane.stream.is_some()).count();
        if sent_all_ns.is_none() && (run.pace.is_over(now_ns) || open == 0) {
            sent_all_ns = Some(now_ns);
        }
        // The lanes take turns at being first: what is due goes to who has room.
        turn += 1;
        for index in 0..lanes.len() {
            let index = (index + turn) % lanes.len();
            lanes[index].pump(&mut run, sent_all_ns.is_none(), now_ns);
        }
        run.tend_alone(now_ns);
        if let Some(since_ns) = sent_all_ns {
            let settled = lanes.iter().all(Lane::is_done) && run.alone.is_none();
            if settled || now_ns - since_ns > DRAIN_TIME_MAX.as_nanos() as u64 {
                break;
            }
        }
        waiting.clear();
        for lane in &lanes {
            // A lane that is closed stands as a descriptor that poll passes over.
            let descriptor = lane.stream.as_ref().map_or(-1, AsRawFd::as_raw_fd);
            waiting.push(Waiting::new(descriptor, !lane.queue.is_empty()));
        }
        if let Some(alone) = &run.alone {
            waiting.push(Waiting::new(alone.stream.as_raw_fd(), alone.has_more()));
        }
        let at_most = match sent_all_ns {
            None => run.wait_max(&lanes, now_ns),
            Some(_) => Duration::from_millis(20),
        };
        wait(&mut waiting, at_most).map_err(|error| Failure::io("poll", &error))?;
        let now_ns = run.pace.now_ns();
        for (lane, waiting) in lanes.iter_mut().zip(&waiting) {
            if waiting.is_readable() {
                lane.receive(&mut run, now_ns);
            }
        }
    }
    let taken_ns = run.pace.now_ns();
    for lane in &lanes {
        for sent in lane.window.unsettled() {
            if sent.hostile.is_none() {
                run.books.frames_unsettled += 1;
                run.books.records_unsettled += run.frames.records(sent.template as usize);
            }
        }
    }
    Ok((run.books, taken_ns))
}

/// What the lanes share.
struct Run<'a> {
    frames: &'a mut Frames,
    books: Books,
    pace: Pace,
    acknowledge: bool,
    address: SocketAddr,
    /// The connection that carries a hostile frame after which none can follow.
    alone: Option<Alone>,
    alone_next_ns: u64,
}

impl Run<'_> {
    /// How long nothing will be due on any lane.
    fn wait_max(&self, lanes: &[Lane], now_ns: u64) -> Duration {
        let long = Duration::from_millis(100);
        let deferred_ns = lanes.iter().filter_map(|lane| lane.deferred.front());
        let deferred = deferred_ns
            .map(|(due_ns, _)| Duration::from_nanos(due_ns.saturating_sub(now_ns)))
            .min();
        // Where something is due now and was not sent, an event on a socket must come first.
        let due = self.pace.wait(now_ns);
        let has_way = |lane: &Lane| lane.can_take(self.acknowledge) && lane.queue.is_empty();
        let at_once = due.is_none() && lanes.iter().any(has_way);
        let due = if at_once { Some(Duration::ZERO) } else { due };
        [deferred, due]
            .into_iter()
            .flatten()
            .fold(long, Duration::min)
    }

    /// Sends a frame on a connection of its own, unless the last one was a moment ago.
    fn send_alone(&mut self, drawn: &Drawn, now_ns: u64) -> bool {
        if self.alone.is_some() || now_ns < self.alone_next_ns {
            return false;
        }
        self.alone_next_ns = now_ns + LAST_OF_STREAM_GAP_NS;
        let Ok(stream) = open(self.address) else {
            return false;
        };
        let mut bytes = self
            .frames
            .header(drawn, penstock_client::random_producer_id(), 1)
            .to_vec();
        bytes.extend_from_slice(self.frames.payload(drawn.template));
        self.alone = Some(Alone {
            stream,
            bytes,
            sent: 0,
            inbox: Vec::with_capacity(2 * ACK_LEN),
            until_ns: now_ns + LAST_OF_STREAM_TIME_MAX_NS,
        });
        let reason = drawn.hostile.expect("only hostile frames go alone");
        count(&mut self.books.hostile_sent, reason as u8, 1);
        true
    }

    fn tend_alone(&mut self, now_ns: u64) {
        let Some(alone) = &mut self.alone else {
            return;
        };
        let ended = alone.exchange(&mut self.books.bytes_sent);
        let answer = alone.inbox.first_chunk().and_then(Ack::read);
        if answer.is_some() || ended || now_ns > alone.until_ns {
            match answer {
                Some(ack) if ack.status == AckStatus::Refused => {
                    count(&mut self.books.hostile_refused, ack.reason, 1);
                }
                Some(_) => self.books.hostile_accepted += 1,
                None => {}
            }
            self.alone = None;
        }
    }
}

/// One hostile frame on a connection of its own.
struct Alone {
    stream: TcpStream,
    bytes: Vec<u8>,
    sent: usize,
    inbox: Vec<u8>,
    until_ns: u64,
}

impl Alone {
    fn has_more(&self) -> bool {
        self.sent < self.bytes.len()
    }

    /// `true` where the connection is over. The agent may close before it has read all.
    fn exchange(&mut self, bytes_sent: &mut u64) -> bool {
        if self.has_more() {
            match self.stream.write(&self.bytes[self.sent..]) {
                Ok(len) => {
                    self.sent += len;
                    *bytes_sent += len as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.sent = self.bytes.len(),
            }
        }
        let mut bytes = [0; ACK_LEN];
        match self.stream.read(&mut bytes) {
            Ok(0) => true,
            Ok(len) => {
                self.inbox.extend_from_slice(&bytes[..len]);
                false
            }
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// A frame that waits to be written.
struct Queued {
    header: [u8; FRAME_HEADER_LEN],
    template: usize,
    hostile: Option<Reason>,
    /// It was written before, and the agent asked for it again.
    again: bool,
}

/// One connection and its producer.
struct Lane {
    /// `None` once the connection is lost.
    stream: Option<TcpStream>,
    window: Window,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    /// Bytes of the queue's first frame that are written.
    first_written: usize,
    /// Frames to be sent again, and when: (due, sequence).
    deferred: VecDeque<(u64, u64)>,
    /// Hostile frames outside of the producer's numbers that are not answered yet.
    unnumbered: u64,
    inbox: Box<[u8]>,
    inbox_len: usize,
    /// Our side is shut: only the agent's close is awaited.
    shut: bool,
}

impl Lane {
    fn connect(plan: &Plan) -> Result<Self, Failure> {
        let stream = open(plan.address).map_err(|error| {
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

    fn can_take(&self, acknowledge: bool) -> bool {
        self.stream.is_some() && (!acknowledge || self.window.has_room())
    }

    /// Nothing is left to write or to wait for.
    fn is_done(&self) -> bool {
        self.stream.is_none()
            || (self.queue.is_empty()
                && self.window.is_settled()
                && self.unnumbered == 0
                && !self.shut)
    }

    /// Queues what is due and writes until the socket takes no more.
    fn pump(&mut self, run: &mut Run<'_>, sending: bool, now_ns: u64) {
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
    fn receive(&mut self, run: &mut Run<'_>, now_ns: u64) {
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

fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let until = Instant::now() + CONNECT_TIME_MAX;
    loop {
        match TcpStream::connect_timeout(&address, CONNECT_TIME_MAX) {
            Ok(stream) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            // A signal, not an answer.
            Err(error) if error.kind() == ErrorKind::Interrupted && Instant::now() < until => {}
            Err(error) => return Err(error),
        }
    }
}
