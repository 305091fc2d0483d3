//! The end of a connection at which the client's own state machine stands: what its exchange demands
//! is done with a simulated connection, and the book learns of each frame and each answer.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use penstock_client::{Demand, Exchange};
use penstock_proto::wire::{ACK_LEN, Ack, AckStatus};

use super::frame::Frame;
use super::network::{Conn, ConnId};
use super::producer::{Touch, Wires};
use super::rng::Rng;

/// How hostile the way to the agent is, in a thousand turns or attempts.
#[derive(Clone, Copy, Debug, Default)]
pub struct WireFaults {
    /// The connection is cut, by nobody's will.
    pub cut: u32,
    /// No connection can be opened.
    pub refused: u32,
}

/// One client's end.
pub struct Wire {
    /// Its number among those who connect.
    index: usize,
    listener: u16,
    faults: WireFaults,
    rng: Rng,
    conn: Option<ConnId>,
    connections: u32,
    /// Answers that have come and the exchange has not seen.
    inbox: Vec<u8>,
    /// The beginning of an answer that the exchange has seen.
    heard: Vec<u8>,
    /// The agent has closed, or is gone.
    closed: bool,
    /// The highest sequence that was begun.
    highest: u64,
    /// An answer said of these that an agent has them.
    acknowledged: BTreeSet<u64>,
    /// What an agent that has not stored anything would say: each frame is answered as it is sent.
    lies: bool,
}

impl Wire {
    pub fn new(index: usize, listener: u16, faults: WireFaults, rng: Rng) -> Self {
        Self {
            index,
            listener,
            faults,
            rng,
            conn: None,
            connections: 0,
            inbox: Vec::new(),
            heard: Vec::new(),
            closed: false,
            highest: 0,
            acknowledged: BTreeSet::new(),
            lies: false,
        }
    }

    /// Every frame is answered before anybody has stored it.
    pub fn lie(&mut self) {
        self.lies = true;
    }

    /// Something has come that the exchange should see.
    pub fn has_news(&self) -> bool {
        !self.inbox.is_empty() || self.closed
    }

    pub fn highest(&self) -> u64 {
        self.highest
    }

    pub fn acknowledged(&self) -> &BTreeSet<u64> {
        &self.acknowledged
    }

    /// Whoever held it is gone.
    pub fn hang_up(&mut self, wires: &mut Wires<'_>) {
        if let Some(id) = self.conn.take() {
            wires.conns[id].reset = true;
            wires.touched.push(Touch::Conn(id));
        }
        self.inbox.clear();
        self.heard.clear();
        self.closed = false;
    }

    /// Does what the exchange demanded, as `Transport` does, but for waiting. An error is one of the
    /// connection.
    pub fn turn(
        &mut self,
        exchange: &mut Exchange,
        demand: Demand,
        now: Instant,
        wires: &mut Wires<'_>,
    ) -> Option<io::ErrorKind> {
        match demand {
            Demand::Idle { .. } => {
                self.hang_up(wires);
                None
            }
            Demand::Done => {
                if let Some(id) = self.conn.take() {
                    wires.conns[id].fin = true;
                    wires.touched.push(Touch::Conn(id));
                }
                None
            }
            Demand::Connect { .. } if wires.faults && self.rng.chance(self.faults.refused) => {
                exchange.on_connect_failed(now);
                wires.struck.connects_refused += 1;
                Some(io::ErrorKind::ConnectionRefused)
            }
            Demand::Connect { .. } => {
                self.hang_up(wires);
                self.connect(wires);
                exchange.on_connected(now);
                None
            }
            Demand::Exchange { write, .. } => {
                self.receive(exchange, now);
                if wires.faults && self.rng.chance(self.faults.cut) {
                    wires.struck.client_cuts += 1;
                    self.closed = true;
                }
                if self.closed {
                    self.hang_up(wires);
                    exchange.on_disconnected(now);
                    return Some(io::ErrorKind::ConnectionReset);
                }
                if write && exchange.is_connected() {
                    self.transmit(exchange, now, wires);
                }
                None
            }
        }
    }

    fn connect(&mut self, wires: &mut Wires<'_>) {
        self.connections += 1;
        let port = 20_000 + (self.connections % 40_000) as u16;
        let address = SocketAddr::from((Ipv4Addr::new(10, 0, 1, self.index as u8), port));
        self.conn = Some(wires.conns.len());
        let conn = Conn::new(self.index, 0, self.listener, address);
        wires.conns.push(conn);
        wires.touched.push(Touch::Connected(wires.conns.len() - 1));
    }

    fn receive(&mut self, exchange: &mut Exchange, now: Instant) {
        let bytes = std::mem::take(&mut self.inbox);
        exchange.on_received(&bytes, now);
        self.heard.extend_from_slice(&bytes);
        let mut answers = self.heard.chunks_exact(ACK_LEN);
        for bytes in &mut answers {
            let ack = Ack::read(bytes.first_chunk().expect("a whole one"));
            let ack = ack.expect("the checker has read it before");
            if matches!(ack.status, AckStatus::Durable | AckStatus::Duplicate) {
                let first = ack.sequence + 1 - u64::from(ack.count);
                self.acknowledged.extend(first..=ack.sequence);
            }
        }
        self.heard = answers.remainder().to_vec();
        if !exchange.is_connected() {
            // It could not make sense of an answer, or was told that framing is lost.
            self.closed = true;
        }
    }

    /// As many bytes as the socket takes, wherever in a frame that ends.
    fn transmit(&mut self, exchange: &mut Exchange, now: Instant, wires: &mut Wires<'_>) {
        let id = self.conn.expect("the exchange is connected");
        let mut room = self.rng.size(1..=16 << 10);
        while room > 0 && wires.conns[id].queued() < SOCKET_BYTES_MAX {
            let bytes = exchange.outbound(now);
            if bytes.is_empty() {
                break;
            }
            let conn = &mut wires.conns[id];
            // A frame that is begun is announced as a whole: its end may come later, or never.
            if conn.frames.back().map_or(0, |&(end, _)| end) <= conn.sent.len() {
                let frame = Frame::of_bytes(bytes);
                let (end, sequence) = (conn.sent.len() + bytes.len(), frame.key.1);
                let producer = frame.key.0;
                self.highest = self.highest.max(sequence);
                let number = wires.book.enter_again(frame, self.listener);
                wires.book.line_mut(number).sent += 1;
                conn.frames.push_back((end, number));
                if self.lies {
                    self.inbox.extend_from_slice(&durable(producer, sequence));
                }
            }
            let len = bytes.len().min(room);
            conn.sent.extend_from_slice(&bytes[..len]);
            exchange.on_sent(len);
            room -= len;
        }
        wires.touched.push(Touch::Conn(id));
    }

    /// Takes the answers that have come.
    pub fn on_answers(&mut self, id: ConnId, conn: &mut Conn) {
        let bytes = &conn.answers[conn.answers_read..conn.answers_taken];
        if self.conn == Some(id) {
            self.inbox.extend_from_slice(bytes);
        }
        conn.answers_read = conn.answers_taken;
    }

    pub fn on_closed(&mut self, id: ConnId) {
        if self.conn == Some(id) {
            self.closed = true;
        }
    }
}

/// Bytes that a client leaves in a socket before it waits.
const SOCKET_BYTES_MAX: usize = 64 << 10;

fn durable(producer: u64, sequence: u64) -> [u8; ACK_LEN] {
    let ack = Ack {
        status: AckStatus::Durable,
        reason: 0,
        producer,
        sequence,
        retry_after_ms: 0,
        count: 1,
    };
    ack.write()
}
