//! Fake producers: what stands at the other end of the agent's sockets. They keep the protocol's
//! promises (sequences, the window, resending what is unsettled) and break what a stranger may
//! break: frames of every bad kind, connections cut anywhere, acknowledgements never read.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use penstock_proto::encoding::Encoding;
use penstock_proto::wire::{ACK_LEN, Ack, AckStatus};

use super::book::{Book, FrameNo};
use super::frame::{self, Defect, Fate, Frame, Order};
use super::kernel::Struck;
use super::network::{Conn, ConnId, Packet};
use super::rng::Rng;

/// Bytes that a producer leaves in a socket before it waits.
const SOCKET_BYTES_MAX: usize = 256 << 10;

/// What one producer is to do.
#[derive(Clone, Debug)]
pub struct ProducerPlan {
    pub agent: usize,
    pub listener: u16,
    /// 0 is nobody: no answers, nothing resent.
    pub id: u64,
    pub frames: u32,
    /// Frames unsettled at once; the protocol allows 1,024.
    pub window: usize,
    pub records_max: u32,
    pub body_len_max: usize,
    pub json_per_mille: u32,
    pub bad_per_mille: u32,
    /// Of a thousand turns, in how many the connection is cut, and in how many the producer says
    /// that it will send no more and waits for the answers.
    pub reset_per_mille: u32,
    pub half_close_per_mille: u32,
    /// Never reads an answer.
    pub deaf: bool,
    /// Frames sent on one turn.
    pub burst_max: u32,
    /// Longest pause between turns.
    pub pause_ns_max: u64,
    /// Frames to send first, as they are.
    pub script: Vec<Frame>,
    /// Lengths of the pieces in which the agent is given the bytes of the first connection.
    pub pieces: Vec<usize>,
}

impl ProducerPlan {
    /// A plain producer of `frames` good frames.
    pub fn plain(listener: u16, id: u64, frames: u32) -> Self {
        Self {
            agent: 0,
            listener,
            id,
            frames,
            window: 1024,
            records_max: 4,
            body_len_max: 80,
            json_per_mille: 500,
            bad_per_mille: 0,
            reset_per_mille: 0,
            half_close_per_mille: 0,
            deaf: false,
            burst_max: 4,
            pause_ns_max: 1_000_000,
            script: Vec::new(),
            pieces: Vec::new(),
        }
    }
}

/// What a producer has touched, for the kernel to look at.
#[derive(Clone, Copy, Debug)]
pub enum Touch {
    Backlog(usize, u16),
    /// A new connection.
    Connected(ConnId),
    Conn(ConnId),
    Datagrams(usize, u16),
}

/// Whoever connects to an agent and sends frames.
pub trait Peer {
    /// Takes a turn; returns when it wants the next one.
    fn wake(&mut self, wires: &mut Wires<'_>) -> Option<u64>;
    /// Reads the answers that have come.
    fn on_answers(&mut self, id: ConnId, conn: &mut Conn, book: &Book, now_ns: u64);
    /// The agent has closed the connection, or it is cut.
    fn on_closed(&mut self, id: ConnId);
    /// Whether all that it had to send is settled.
    fn is_done(&self) -> bool;
    /// It never reads an answer.
    fn is_deaf(&self) -> bool {
        false
    }
    /// A last look, once it is done: what it says of its frames is true.
    fn check(&self, _book: &Book, _stored: &dyn Fn(FrameNo) -> u32) {}
}

/// What producers act on.
pub struct Wires<'a> {
    pub conns: &'a mut Vec<Conn>,
    pub book: &'a mut Book,
    pub touched: &'a mut Vec<Touch>,
    pub struck: &'a mut Struck,
    pub now_ns: u64,
    /// Whether misfortunes still happen.
    pub faults: bool,
}

pub struct Producer {
    pub plan: ProducerPlan,
    index: usize,
    rng: Rng,
    next_sequence: u64,
    made: u32,
    script: VecDeque<Frame>,
    /// By sequence: sent, or to be sent again, and not settled.
    unsettled: BTreeMap<u64, FrameNo>,
    /// To be sent before anything new.
    resend: VecDeque<FrameNo>,
    /// Told to try later: when, and what.
    later: Vec<(u64, FrameNo)>,
    conn: Option<ConnId>,
    connections: u32,
    /// Good frames that the agent has refused for good (a failed journal, a stop).
    pub given_up: u32,
}

impl Producer {
    pub fn new(index: usize, plan: ProducerPlan, rng: Rng) -> Self {
        Self {
            index,
            rng,
            // Nobody's frames are told apart by their sequences alone.
            next_sequence: if plan.id == 0 {
                (index as u64) << 32 | 1
            } else {
                1
            },
            made: 0,
            script: plan.script.iter().cloned().collect(),
            unsettled: BTreeMap::new(),
            resend: VecDeque::new(),
            later: Vec::new(),
            conn: None,
            connections: 0,
            given_up: 0,
            plan,
        }
    }

    fn is_settled(&self) -> bool {
        self.unsettled.is_empty() && self.later.is_empty()
    }

    pub fn connection(&self) -> Option<ConnId> {
        self.conn
    }

    /// The agent of an earlier life is gone, and with it every connection.
    pub fn disconnect(&mut self) {
        self.conn = None;
    }

    fn connect(&mut self, wires: &mut Wires<'_>) {
        self.connections += 1;
        let port = 20_000 + (self.index * 1000) as u16 + (self.connections % 1000) as u16;
        let address = if self.index.is_multiple_of(2) {
            SocketAddr::from((Ipv4Addr::new(10, 0, 0, self.index as u8), port))
        } else {
            SocketAddr::from((
                Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, self.index as u16),
                port,
            ))
        };
        let mut conn = Conn::new(self.index, self.plan.agent, self.plan.listener, address);
        conn.pieces = std::mem::take(&mut self.plan.pieces).into();
        self.conn = Some(wires.conns.len());
        wires.conns.push(conn);
        wires.touched.push(Touch::Connected(wires.conns.len() - 1));
        // All that is unsettled goes again, in order; bad frames are given up with the connection.
        self.later.clear();
        let book = &*wires.book;
        self.unsettled
            .retain(|_, &mut number| book.line(number).frame.fate == Fate::Accepted);
        self.resend = self.unsettled.values().copied().collect();
    }

    /// Sends what is due: again, later, or new. False where there is nothing or the window is full.
    fn send_one(&mut self, id: ConnId, wires: &mut Wires<'_>) -> bool {
        let number = if let Some(number) = self.resend.pop_front() {
            number
        } else if let Some(at) = self.later.iter().position(|(due, _)| *due <= wires.now_ns) {
            self.later.swap_remove(at).1
        } else if let Some(number) = self.make(id, wires) {
            number
        } else {
            return false;
        };
        let line = wires.book.line_mut(number);
        line.sent += 1;
        let conn = &mut wires.conns[id];
        conn.sent.extend_from_slice(&line.frame.bytes);
        conn.frames.push_back((conn.sent.len(), number));
        true
    }

    /// The next new frame, good or bad.
    fn make(&mut self, id: ConnId, wires: &mut Wires<'_>) -> Option<FrameNo> {
        let frame = if let Some(frame) = self.script.pop_front() {
            self.next_sequence = self.next_sequence.max(frame.key.1 + 1);
            frame
        } else {
            if self.made >= self.plan.frames || self.window_is_full() {
                return None;
            }
            self.made += 1;
            self.make_any(id, wires)
        };
        let (producer, sequence) = frame.key;
        let tracked = producer == self.plan.id && frame.wants_ack && sequence != 0;
        let settles = !matches!(frame.fate, Fate::FramingLost(_));
        let number = wires.book.enter(frame, self.plan.listener);
        if tracked && settles {
            self.unsettled.insert(sequence, number);
        }
        Some(number)
    }

    /// None is sent whose sequence is `window` or more above an unsettled one.
    fn window_is_full(&self) -> bool {
        let oldest = self
            .unsettled
            .first_key_value()
            .map(|(&sequence, _)| sequence);
        oldest.is_some_and(|oldest| self.next_sequence >= oldest + self.plan.window as u64)
    }

    fn make_any(&mut self, id: ConnId, wires: &Wires<'_>) -> Frame {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let order = Order {
            key: (self.plan.id, sequence),
            encoding: if self.rng.chance(self.plan.json_per_mille) {
                Encoding::Json
            } else {
                Encoding::Protobuf
            },
            records: self.rng.between(1..=u64::from(self.plan.records_max)) as u32,
            body_len_max: self.rng.size(0..=self.plan.body_len_max),
            acknowledge: self.plan.id != 0,
        };
        if !self.rng.chance(self.plan.bad_per_mille) {
            return frame::good(&mut self.rng, &order);
        }
        let defect = self.rng.pick(&Defect::ALL);
        let first = wires.conns[id].frames.front();
        let first_is_good =
            first.is_some_and(|&(_, n)| wires.book.line(n).frame.fate == Fate::Accepted);
        match defect {
            // Whose a connection is, its first frame says; nobody has neither sequence nor rival.
            Defect::Foreign if !first_is_good || self.plan.id == 0 => {
                frame::good(&mut self.rng, &order)
            }
            Defect::Sequence if self.plan.id == 0 => frame::good(&mut self.rng, &order),
            defect => frame::bad(&mut self.rng, &order, defect),
        }
    }

    fn on_answer(&mut self, ack: &Ack, book: &Book, now_ns: u64) {
        for sequence in (ack.sequence + 1).saturating_sub(u64::from(ack.count))..=ack.sequence {
            let Some(&number) = self.unsettled.get(&sequence) else {
                continue;
            };
            match ack.status {
                AckStatus::TryLater => {
                    let wait_ns = u64::from(ack.retry_after_ms.max(1)) * 1_000_000;
                    self.later.push((now_ns + wait_ns, number));
                    continue;
                }
                AckStatus::Refused if book.line(number).frame.fate == Fate::Accepted => {
                    self.given_up += 1;
                }
                _ => {}
            }
            self.unsettled.remove(&sequence);
        }
    }
}

impl Peer for Producer {
    fn wake(&mut self, wires: &mut Wires<'_>) -> Option<u64> {
        let pause = self.rng.between(1_000..=self.plan.pause_ns_max.max(1_001));
        let Some(id) = self.conn else {
            if self.is_done() {
                return None;
            }
            self.connect(wires);
            // Who is turned away, again and again, does not come back at once.
            let rests = self.connections > 3;
            return Some(if rests {
                self.rng.between(1_000_000..=20_000_000)
            } else {
                pause
            });
        };
        if wires.faults && self.rng.chance(self.plan.reset_per_mille) {
            wires.conns[id].reset = true;
            wires.touched.push(Touch::Conn(id));
            self.conn = None;
            return Some(pause);
        }
        if wires.conns[id].fin {
            return Some(pause);
        }
        let half_close = wires.faults && self.rng.chance(self.plan.half_close_per_mille);
        if self.is_done() || half_close {
            wires.conns[id].fin = true;
            wires.touched.push(Touch::Conn(id));
            return Some(pause);
        }
        for _ in 0..self.rng.between(1..=u64::from(self.plan.burst_max)) {
            if wires.conns[id].queued() > SOCKET_BYTES_MAX || !self.send_one(id, wires) {
                break;
            }
        }
        wires.touched.push(Touch::Conn(id));
        Some(pause)
    }

    fn on_answers(&mut self, id: ConnId, conn: &mut Conn, book: &Book, now_ns: u64) {
        while conn.answers_taken - conn.answers_read >= ACK_LEN {
            let bytes = conn.answers[conn.answers_read..].first_chunk::<ACK_LEN>();
            let ack = Ack::read(bytes.expect("a whole one is there"))
                .expect("the checker has read it before");
            conn.answers_read += ACK_LEN;
            if ack.producer == self.plan.id && self.conn == Some(id) {
                self.on_answer(&ack, book, now_ns);
            }
        }
    }

    fn on_closed(&mut self, id: ConnId) {
        if self.conn == Some(id) {
            self.conn = None;
        }
    }

    fn is_done(&self) -> bool {
        let sent = self.made >= self.plan.frames && self.script.is_empty();
        sent && self.resend.is_empty() && (self.plan.deaf || self.is_settled())
    }

    fn is_deaf(&self) -> bool {
        self.plan.deaf
    }
}

/// What one UDP sender is to do.
#[derive(Clone, Debug)]
pub struct SenderPlan {
    pub listener: u16,
    pub id: u64,
    pub frames: u32,
    /// Datagrams that GRO hands over as one, at most.
    pub bundle_max: usize,
    pub bad_per_mille: u32,
    /// Of a thousand bundles, how many do not fit their buffer.
    pub cut_per_mille: u32,
    pub payload_len_max: usize,
    pub pause_ns_max: u64,
}

pub struct Sender {
    plan: SenderPlan,
    rng: Rng,
    next_sequence: u64,
    made: u32,
}

/// Defects that keep a datagram's length, so that GRO would still join it with its neighbours.
const IN_BUNDLE: [Defect; 11] = [
    Defect::Magic,
    Defect::Version,
    Defect::Reserved,
    Defect::HeaderChecksum,
    Defect::Encoding,
    Defect::UnsupportedEncoding,
    Defect::Flag,
    Defect::Priority,
    Defect::NoRecords,
    Defect::PayloadChecksum,
    Defect::RecordCount,
];

impl Sender {
    pub fn new(plan: SenderPlan, rng: Rng) -> Self {
        Self {
            plan,
            rng,
            next_sequence: 1,
            made: 0,
        }
    }

    pub fn listener(&self) -> u16 {
        self.plan.listener
    }

    pub fn is_done(&self) -> bool {
        self.made >= self.plan.frames
    }

    pub fn pause_ns(&mut self) -> u64 {
        self.rng.between(1_000..=self.plan.pause_ns_max.max(1_001))
    }

    /// The next datagrams, as the kernel would hand them over.
    pub fn packet(&mut self, book: &mut Book, faults: bool) -> Packet {
        let count = self.rng.size(1..=self.plan.bundle_max);
        let payload_len = self.rng.size(60..=self.plan.payload_len_max);
        let mut frames = Vec::with_capacity(count);
        for at in 0..count {
            let last = at + 1 == count;
            frames.push(self.frame(payload_len, last, count == 1));
        }
        let mut bytes = Vec::new();
        for frame in &frames {
            bytes.extend_from_slice(&frame.bytes);
        }
        let last_len = frames.last().expect("at least one").bytes.len();
        let cut = if faults && last_len > 1 && self.rng.chance(self.plan.cut_per_mille) {
            self.rng.size(1..=last_len - 1)
        } else {
            0
        };
        self.made += count as u32;
        Packet {
            from: SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9000)),
            segment_len: (count > 1).then_some(frames[0].bytes.len() as u16),
            frames: frames
                .into_iter()
                .map(|frame| book.enter(frame, self.plan.listener))
                .collect(),
            bytes,
            cut,
        }
    }

    fn frame(&mut self, payload_len: usize, last: bool, single: bool) -> Frame {
        let key = (self.plan.id, self.next_sequence);
        self.next_sequence += 1;
        // The last of a bundle may be shorter than the others.
        let shorter = last && self.rng.chance(300);
        let len = if shorter {
            self.rng.size(60..=payload_len)
        } else {
            payload_len
        };
        let good = frame::good_of_len(key, false, len);
        if !self.rng.chance(self.plan.bad_per_mille) {
            return good;
        }
        if last && self.rng.chance(300) {
            // At least one byte where others stand before it: an empty one is no part of a bundle.
            let least = usize::from(!single);
            let len = self.rng.size(least..=good.bytes.len() - 1);
            return frame::cut(&good, len);
        }
        if single && self.rng.chance(400) {
            let order = Order {
                key,
                encoding: Encoding::Json,
                records: 1,
                body_len_max: 40,
                acknowledge: false,
            };
            let defect = self.rng.pick(&[
                Defect::TooLong,
                Defect::Malformed,
                Defect::TruncatedPayload,
                Defect::TooDeep,
                Defect::Utf8,
            ]);
            let mut bad = frame::bad(&mut self.rng, &order, defect);
            if defect == Defect::TooLong {
                // The header says so; a datagram need not carry it.
                bad.bytes = bad.bytes[..100].into();
            }
            return bad;
        }
        let defect = self.rng.pick(&IN_BUNDLE);
        frame::spoil(&mut self.rng, &good, defect)
    }
}
