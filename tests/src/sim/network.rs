//! Sockets without a network: streams with two ends, a datagram socket, and the pools of buffers
//! that the kernel fills. Time is the kernel's business (`kernel/`); here stands what is where.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use penstock::shard::op::{PeerId, SendLease, Socket};

use super::book::{Arrivals, FrameNo};
use super::rng::Rng;

/// A stream's number; never used twice in a run.
pub type ConnId = usize;

/// What a buffer holds while nobody may look: a use after giving back shows.
const POISON: u8 = 0xdd;

/// Buffers that are lent one by one.
pub struct Pool {
    what: &'static str,
    count: usize,
    buffer_len: usize,
    free: Vec<u16>,
}

impl Pool {
    pub fn new(what: &'static str, count: usize, len: usize) -> Self {
        Self {
            what,
            count,
            buffer_len: len,
            free: (0..count as u16).collect(),
        }
    }

    pub fn buffer_len(&self) -> usize {
        self.buffer_len
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn free(&self) -> usize {
        self.free.len()
    }

    pub fn take(&mut self, rng: &mut Rng) -> Option<u16> {
        if self.free.is_empty() {
            return None;
        }
        let at = rng.size(0..=self.free.len() - 1);
        Some(self.free.swap_remove(at))
    }

    pub fn give_back(&mut self, id: u16) {
        self.must_be_lent(id, "given back");
        self.free.push(id);
    }

    pub fn must_be_lent(&self, id: u16, what: &str) {
        assert!(
            usize::from(id) < self.count && !self.free.contains(&id),
            "{} buffer {id} is {what} and not on loan",
            self.what
        );
    }
}

/// The bytes of a pool's buffers.
pub struct Buffers(Vec<Box<[u8]>>);

impl Buffers {
    pub fn new(count: usize, len: usize) -> Self {
        Self((0..count).map(|_| vec![POISON; len].into()).collect())
    }

    pub fn bytes(&self, id: u16) -> &[u8] {
        &self.0[usize::from(id)]
    }

    pub fn bytes_mut(&mut self, id: u16) -> &mut [u8] {
        &mut self.0[usize::from(id)]
    }

    pub fn fill(&mut self, id: u16, bytes: &[u8]) {
        self.0[usize::from(id)][..bytes.len()].copy_from_slice(bytes);
    }

    pub fn poison(&mut self, id: u16) {
        self.0[usize::from(id)].fill(POISON);
    }
}

/// One TCP connection, both directions.
pub struct Conn {
    pub producer: usize,
    /// Which agent it was made to, and which port works on it: the one that accepts it, unless it
    /// moves.
    pub agent: usize,
    pub port: Option<usize>,
    /// The agent's process is gone.
    pub dead: bool,
    pub listener: u16,
    pub address: SocketAddr,
    /// Set when the agent has accepted it, cleared when the agent has closed it.
    pub socket: Option<Socket>,
    pub peer: Option<PeerId>,

    /// All that the producer has sent, and where each frame of it ends.
    pub sent: Vec<u8>,
    pub frames: VecDeque<(usize, FrameNo)>,
    /// How much of `sent` was put into buffers, and how much of that the worker has reaped.
    pub taken: usize,
    pub reaped: usize,
    /// Lengths of the next pieces, where a scenario says them.
    pub pieces: VecDeque<usize>,
    /// The producer sends nothing more.
    pub fin: bool,
    /// The producer is gone: nothing it did not read reaches it any more.
    pub reset: bool,

    /// The worker waits for the first frame's header.
    pub peeking: bool,
    /// A look has found that what was queued before a reset is gone.
    pub discarded: bool,
    /// The multishot receive that the kernel works on.
    pub armed: Option<u64>,
    /// Whether the worker has a multishot receive whose end it has not reaped.
    pub multishot: bool,
    /// Whether a piece is on its way already.
    pub due: bool,
    pub send: Option<SendLease>,
    /// Completions that name this peer and were not reaped.
    pub unreaped: usize,
    /// The worker has cancelled the receive or closed: it may drop what comes after.
    pub leaving: bool,
    /// A frame arrived after which nothing can be made sense of.
    pub framing_lost: bool,
    pub closed: bool,
    /// The agent has shut it down, both ways.
    pub shut: bool,
    /// The agent has said that it sends nothing more; what it reads from then on it throws away.
    pub ended: bool,

    /// All bytes that the worker has wanted to send, how many of them the socket has taken and
    /// how many the producer has read.
    pub answers: Vec<u8>,
    pub answers_taken: usize,
    pub answers_read: usize,
    /// Whether the producer will be told about answers already.
    pub answers_due: bool,
    /// Answers that the checker has looked at, in bytes.
    pub answers_checked: usize,
    /// Frames that arrived on this connection and were not answered; `true`: an answer is owed.
    pub waiting: BTreeMap<(u64, u64), Vec<(FrameNo, bool)>>,

    /// What arrived while the worker read, and after it had stopped reading.
    pub arrivals: Arrivals,
    pub arrivals_late: Arrivals,
    /// The frame at the front of `frames` is counted already.
    pub decided: bool,
    /// A send failed: the worker may have dropped what it had received and kept back.
    pub send_failed: bool,
}

impl Conn {
    pub fn new(producer: usize, agent: usize, listener: u16, address: SocketAddr) -> Self {
        Self {
            producer,
            agent,
            port: None,
            dead: false,
            listener,
            address,
            socket: None,
            peer: None,
            sent: Vec::new(),
            frames: VecDeque::new(),
            taken: 0,
            reaped: 0,
            pieces: VecDeque::new(),
            fin: false,
            reset: false,
            peeking: false,
            discarded: false,
            armed: None,
            multishot: false,
            due: false,
            send: None,
            unreaped: 0,
            leaving: false,
            framing_lost: false,
            closed: false,
            shut: false,
            ended: false,
            answers: Vec::new(),
            answers_taken: 0,
            answers_read: 0,
            answers_due: false,
            answers_checked: 0,
            waiting: BTreeMap::new(),
            arrivals: Arrivals::default(),
            arrivals_late: Arrivals::default(),
            decided: false,
            send_failed: false,
        }
    }

    /// Bytes in the socket's receive queue.
    pub fn queued(&self) -> usize {
        self.sent.len() - self.taken
    }

    /// Whether a receive would find anything: bytes, the end, an error.
    pub fn is_readable(&self) -> bool {
        self.queued() > 0 || self.fin || self.reset || self.shut
    }
}

/// Datagrams of one sender that arrive as one.
pub struct Packet {
    pub from: SocketAddr,
    pub frames: Vec<FrameNo>,
    pub bytes: Vec<u8>,
    /// Length of each datagram but the last; `None` where there is one.
    pub segment_len: Option<u16>,
    /// How many bytes of the last datagram do not fit the buffer.
    pub cut: usize,
}

/// A UDP socket's receive queue.
#[derive(Default)]
pub struct Datagrams {
    pub socket: i32,
    pub queue: VecDeque<Packet>,
    pub armed: Option<u64>,
    pub multishot: bool,
    pub due: bool,
}

/// A TCP socket's queue of connections that nobody has accepted.
#[derive(Default)]
pub struct Backlog {
    pub queue: VecDeque<ConnId>,
    pub armed: Option<u64>,
    pub multishot: bool,
    pub due: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_lends_each_buffer_once() {
        let mut rng = Rng::new(1);
        let mut pool = Pool::new("tcp", 3, 8);
        let mut ids: Vec<u16> = (0..3).map(|_| pool.take(&mut rng).unwrap()).collect();
        assert_eq!(pool.take(&mut rng), None);
        ids.sort_unstable();
        assert_eq!(ids, [0, 1, 2]);
        pool.give_back(1);
        assert_eq!(pool.take(&mut rng), Some(1));
    }

    #[test]
    #[should_panic(expected = "tcp buffer 0 is given back and not on loan")]
    fn a_buffer_given_back_twice_is_our_bug() {
        let mut rng = Rng::new(1);
        let mut pool = Pool::new("tcp", 1, 8);
        let id = pool.take(&mut rng).unwrap();
        pool.give_back(id);
        pool.give_back(id);
    }
}
