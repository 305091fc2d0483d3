//! The simulated kernel: answers each op at a time of the seed's choosing, in any order but the
//! few that a real one keeps (the bytes of a stream, the completions of one multishot op), and
//! holds the worker to its side of the bargain with assertions.
//!
//! Rules kept from io_uring: a multishot receive ends with ENOBUFS when there is something to
//! receive and no buffer; an op that ends says `more` false exactly once; a cancelled op completes
//! itself; a sync covers the writes that were done when it was pushed; closing a socket does not
//! wait for what is in flight.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use agent_common::classify::check_datagram;
use agent_common::frame::{FRAME_HEADER_LEN, FrameHeader};
use penstock::limits::SEND_BUFFER_LEN;
use penstock::shard::buffer::{BlockId, BlockPool};
use penstock::shard::op::{
    Accepted, Bundle, Completion, Errno, Group, Kernel, Lease, ListenerId, Now, Op, Peeked, PeerId,
    Received, SegmentFile, SendLease, Socket,
};
use penstock_proto::reason::Reason;
use penstock_proto::wire::seal;

use super::book::{Book, Tally};
use super::check::{DurableIndex, check_answers};
use super::clock::Agenda;
use super::disk::{Disk, FolderTicket, SyncTicket, WriteEnd, WriteId};
use super::frame::{Fate, PAYLOAD_LEN_MAX};
use super::network::{Backlog, Conn, ConnId, Datagrams, Packet, Pool};
use super::producer::{Producer, Sender, Touch, Wires};
use super::rng::Rng;

/// What a turn of the worker costs.
const TURN_NS: u64 = 2_000;
/// While the worker wakes up, more completions arrive.
const LINGER_NS: u64 = 20_000;
/// Bytes before the payload in a buffer of a multishot recvmsg: result, name and control data.
const BUNDLE_PREFIX_LEN: usize = 16 + 32 + 64;
/// Events and ops that are remembered for a failure's report.
const TRACE_MAX: usize = 600;

/// Misfortunes, in a thousand of their occasions, and sizes that make them likely.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub write_error: u32,
    pub write_short: u32,
    pub sync_error: u32,
    pub open_error: u32,
    pub allocate_error: u32,
    pub folder_error: u32,
    /// Journal ops that take 10 to 300 ms.
    pub disk_late: u32,
    pub accept_error: u32,
    /// A multishot op that ends after a good completion.
    pub multishot_ends: u32,
    pub send_partial: u32,
    pub send_error: u32,
    /// A wake-up without a completion, or with one that says only "woken".
    pub wake_for_nothing: u32,
    /// No send buffer although one is free.
    pub send_buffer_refused: u32,
    /// None of these, and nothing that producers do, happens later than this.
    pub until_ns: u64,
}

/// One exact misfortune, for scenarios that leave nothing to chance. Each is used up once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The nth write of a block (from 0; header pages do not count) fails.
    WriteFails {
        nth: u64,
        errno: i32,
    },
    WriteShort {
        nth: u64,
        len: usize,
    },
    /// The nth sync fails.
    SyncFails {
        nth: u64,
        errno: i32,
    },
    AllocateFails {
        nth: u64,
        errno: i32,
    },
}

/// What a kernel (or, seen from the disk, a broken agent) does wrong on purpose, to prove that the
/// checks can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Syncs that say they are done and did nothing: an agent that acknowledges before the sync.
    SyncDoesNothing,
    /// Syncs that cover nothing that was written since the last: one that syncs too early.
    SyncTooEarly,
    /// An error of a sync that nobody looks at.
    SyncErrorUnseen,
    /// Short writes that nobody looks at.
    ShortWriteUnseen,
    /// A folder that is never synced.
    FolderSyncDoesNothing,
    /// An acknowledgement of the wrong frame.
    AckOfAnother,
    /// The same acknowledgement twice.
    AckTwice,
    /// A block whose bytes change while it is written.
    BlockChanges,
    /// A buffer that is never given back.
    LeaseKept,
    /// A frame's bytes altered between socket and journal, checksums mended.
    FrameForged,
    /// A frame that is received and dropped in silence.
    FrameDropped,
}

/// Sizes of the pools.
#[derive(Clone, Debug)]
pub struct Sizes {
    pub tcp_buffers: usize,
    pub tcp_buffer_len: usize,
    pub udp_buffers: usize,
    pub udp_buffer_len: usize,
    pub send_buffers: usize,
    /// Bytes of answers that a socket takes before its peer reads.
    pub socket_send_len: usize,
    /// Packets that a UDP socket queues.
    pub udp_queue_max: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            tcp_buffers: 8,
            tcp_buffer_len: 4096,
            udp_buffers: 8,
            udp_buffer_len: 20 << 10,
            send_buffers: 8,
            socket_send_len: 4096,
            udp_queue_max: 64,
        }
    }
}

/// How long things take when nothing is wrong, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Pace {
    pub network: (u64, u64),
    pub disk: (u64, u64),
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            network: (2_000, 200_000),
            disk: (30_000, 900_000),
        }
    }
}

/// What is under way.
enum Event {
    Accept(u16),
    AcceptCancel(u16, u64),
    Receive(ConnId),
    ReceiveCancel(ConnId, u64),
    PeekCancel(ConnId),
    ReceiveFrom(u16),
    ReceiveFromCancel(u16, u64),
    Send(ConnId),
    /// The producer reads what has come.
    Answers(ConnId),
    PeerClose(ConnId, PeerId),
    /// The producer learns that the agent has closed.
    PeerGone(ConnId),
    Producer(usize),
    Sender(usize),
    SegmentOpen(u64),
    SegmentAllocate(u64, SegmentFile, u64),
    FolderSync(u64, FolderTicket),
    JournalWrite {
        file: SegmentFile,
        block: BlockId,
        offset: u64,
        write: WriteId,
        len: usize,
    },
    JournalSync(u64, SegmentFile, SyncTicket),
    SegmentClose(u64, SegmentFile),
    SegmentRemove(u64),
}

/// The last events of a run; shared, so that it outlives a run that fails.
pub type Trace = Rc<RefCell<VecDeque<String>>>;

/// The kernel and the world around it.
pub struct SimKernel {
    agenda: Agenda<Event>,
    rng: Rng,
    pub faults: Faults,
    pub mishaps: Vec<Mishap>,
    pub lie: Option<Lie>,
    pub pace: Pace,
    sizes: Sizes,
    blocks: Arc<BlockPool>,

    pub disk: Disk,
    pub book: Book,
    pub index: DurableIndex,
    tallies: BTreeMap<u16, Tally>,
    /// Whether the gate is the worker's.
    pub stand_in: bool,
    pub producers: Vec<Producer>,
    pub senders: Vec<Sender>,

    conns: Vec<Conn>,
    /// Open sockets of accepted connections.
    sockets: BTreeMap<i32, ConnId>,
    sockets_made: i32,
    backlogs: BTreeMap<u16, Backlog>,
    datagrams: BTreeMap<u16, Datagrams>,
    tcp: Pool,
    udp: Pool,
    send: Pool,
    /// Packets in buffers that the worker has not reaped.
    unread: BTreeMap<u16, Packet>,
    writes: u64,
    syncs: u64,
    allocations: u64,
    multishots: u64,
    /// Journal ops and others in flight, by block: it must not be acquired anew.
    writing: BTreeMap<u16, WriteId>,
    syncing: BTreeMap<u64, u32>,
    /// Positions below which every sink has committed: segments may go.
    pub committed: u64,

    pushed: VecDeque<Op>,
    arrived: VecDeque<Completion>,
    touched: Vec<Touch>,
    empty_turns: u32,
    /// Times the worker wanted to wait for ever while nothing was under way.
    pub stalls: u64,
    /// Datagrams that did not fit the socket's queue: the kernel's to count, nobody's to receive.
    pub kernel_drops: u64,
    /// Exact answers and events, kept where a run is replayed.
    trace: Option<Trace>,
    digest: u64,
}

const ECANCELED: Errno = Errno(libc::ECANCELED);
const ENOBUFS: Errno = Errno(libc::ENOBUFS);
const EIO: Errno = Errno(libc::EIO);
const ENOSPC: Errno = Errno(libc::ENOSPC);

impl SimKernel {
    pub fn new(rng: Rng, sizes: Sizes, blocks: Arc<BlockPool>, disk: Disk) -> Self {
        Self {
            agenda: Agenda::default(),
            rng,
            faults: Faults::default(),
            mishaps: Vec::new(),
            lie: None,
            pace: Pace::default(),
            tcp: Pool::new("tcp", sizes.tcp_buffers, sizes.tcp_buffer_len),
            udp: Pool::new("udp", sizes.udp_buffers, sizes.udp_buffer_len),
            send: Pool::new("send", sizes.send_buffers, SEND_BUFFER_LEN),
            sizes,
            blocks,
            disk,
            book: Book::default(),
            index: DurableIndex::default(),
            tallies: BTreeMap::new(),
            stand_in: false,
            producers: Vec::new(),
            senders: Vec::new(),
            conns: Vec::new(),
            sockets: BTreeMap::new(),
            sockets_made: 0,
            backlogs: BTreeMap::new(),
            datagrams: BTreeMap::new(),
            unread: BTreeMap::new(),
            writes: 0,
            syncs: 0,
            allocations: 0,
            multishots: 0,
            writing: BTreeMap::new(),
            syncing: BTreeMap::new(),
            committed: 0,
            pushed: VecDeque::new(),
            arrived: VecDeque::new(),
            touched: Vec::new(),
            empty_turns: 0,
            stalls: 0,
            kernel_drops: 0,
            trace: None,
            digest: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// Takes over what outlives the agent: the book, and the index's view of the disk.
    pub fn continue_book(&mut self, book: Book, earlier: &DurableIndex, position: u64) {
        self.book = book;
        self.index = DurableIndex::default();
        self.index.inherit(earlier, position);
        self.index.advance(&self.disk, &self.book);
    }

    /// Remembers the last events for a failure's report.
    pub fn keep_trace(&mut self, trace: Trace) {
        self.trace = Some(trace);
    }

    /// A number that two runs share only if they did the same.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn now_ns(&self) -> u64 {
        self.agenda.now_ns()
    }

    /// A listening TCP socket.
    pub fn listen(&mut self, listener: u16) -> Socket {
        self.backlogs.insert(listener, Backlog::default());
        self.tallies.insert(listener, Tally::default());
        Socket(100 + i32::from(listener))
    }

    /// A bound UDP socket.
    pub fn bind(&mut self, listener: u16) -> Socket {
        self.datagrams.insert(listener, Datagrams::default());
        self.tallies.insert(listener, Tally::default());
        Socket(100 + i32::from(listener))
    }

    pub fn add_producer(&mut self, producer: Producer) {
        let start_ns = self.rng.between(0..=500_000);
        self.agenda
            .after(start_ns, Event::Producer(self.producers.len()));
        self.producers.push(producer);
    }

    pub fn add_sender(&mut self, sender: Sender) {
        let start_ns = self.rng.between(0..=500_000);
        self.agenda
            .after(start_ns, Event::Sender(self.senders.len()));
        self.senders.push(sender);
    }

    /// Puts a packet on a UDP socket's queue, for scenarios that say exactly what arrives.
    pub fn arrive(&mut self, listener: u16, packet: Packet) {
        let socket = self.datagrams.get_mut(&listener).expect("a bound socket");
        socket.queue.push_back(packet);
        self.touched.push(Touch::Datagrams(listener));
        self.look_at_touched();
    }

    /// Whether every producer's frames are settled and every datagram is read.
    pub fn world_is_done(&self) -> bool {
        self.producers.iter().all(Producer::is_done)
            && self.senders.iter().all(Sender::is_done)
            && self.datagrams.values().all(|d| d.queue.is_empty())
    }

    /// Whether all bytes that producers have put on live connections were reaped.
    pub fn streams_are_read(&self) -> bool {
        self.conns
            .iter()
            .all(|c| c.closed || c.reset || c.leaving || c.framing_lost || c.reaped == c.sent.len())
    }

    /// Journal writes in flight.
    pub fn writes_in_flight(&self) -> usize {
        self.writing.len()
    }

    pub fn syncs_in_flight(&self) -> usize {
        self.syncing.len()
    }

    /// Syncs that came to an end, good or bad.
    pub fn syncs_done(&self) -> u64 {
        self.syncs
    }

    /// Blocks written as a whole or not, so far (header pages do not count).
    pub fn writes_begun(&self) -> u64 {
        self.writes
    }

    pub fn conn(&self, id: ConnId) -> &Conn {
        &self.conns[id]
    }

    pub fn conns(&self) -> &[Conn] {
        &self.conns
    }

    /// Cuts a connection from the producer's side, now.
    pub fn cut(&mut self, id: ConnId) {
        self.conns[id].reset = true;
        let producer = self.conns[id].producer;
        self.producers[producer].on_closed(id);
        self.touched.push(Touch::Conn(id));
        self.look_at_touched();
    }

    /// After a clean stop: nothing is on loan, in flight or open.
    pub fn check_at_rest(&self) {
        for (pool, name) in [(&self.tcp, "tcp"), (&self.udp, "udp"), (&self.send, "send")] {
            assert_eq!(
                pool.free(),
                pool.count(),
                "{name} buffers that were never given back"
            );
        }
        // Closing and removing what was given up may be left to the exit; nothing else.
        let tidying = |op: &Op| matches!(op, Op::SegmentClose { .. } | Op::SegmentRemove { .. });
        assert!(
            self.pushed.iter().all(tidying),
            "never submitted: {:?}",
            self.pushed
        );
        assert!(self.writing.is_empty(), "a stop with a write in flight");
        assert!(self.syncing.is_empty(), "a stop with a sync in flight");
        assert!(
            self.sockets.is_empty(),
            "a stop with open connections: {:?}",
            self.sockets
                .values()
                .map(|&id| (id, self.conns[id].peer))
                .collect::<Vec<_>>()
        );
        for (listener, backlog) in &self.backlogs {
            assert!(
                !backlog.multishot,
                "a stop with listener {listener} accepting"
            );
        }
        for (listener, socket) in &self.datagrams {
            assert!(
                !socket.multishot,
                "a stop with listener {listener} receiving"
            );
        }
    }

    /// What each listener must have counted, once the worker has stopped.
    pub fn tallies(&self) -> BTreeMap<u16, Tally> {
        let mut tallies = self.tallies.clone();
        for conn in &self.conns {
            let tally = tallies.get_mut(&conn.listener).expect("a listener");
            let unsure = conn.send_failed || self.producers[conn.producer].plan.deaf;
            let arrivals = if unsure {
                &mut tally.perhaps
            } else {
                &mut tally.certain
            };
            arrivals.add(&conn.arrivals);
            tally.perhaps.add(&conn.arrivals_late);
        }
        tallies
    }

    /// After a clean stop: whoever could be answered was.
    pub fn check_answered(&self) {
        for conn in &self.conns {
            if conn.reset || conn.send_failed || self.producers[conn.producer].plan.deaf {
                continue;
            }
            for (key, numbers) in &conn.waiting {
                assert!(
                    numbers.iter().all(|&(_, owed)| !owed),
                    "frame {key:?} was never answered, though its connection could be"
                );
            }
        }
    }

    fn faulty(&self) -> bool {
        self.agenda.now_ns() < self.faults.until_ns
    }

    fn chance(&mut self, per_mille: u32) -> bool {
        self.faulty() && self.rng.chance(per_mille)
    }

    fn note(&mut self, what: &str, numbers: &[u64]) {
        for byte in what.bytes().map(u64::from).chain(numbers.iter().copied()) {
            self.digest = (self.digest ^ byte).wrapping_mul(0x0100_0000_01b3);
        }
        self.digest = (self.digest ^ self.agenda.now_ns()).wrapping_mul(0x0100_0000_01b3);
        if let Some(trace) = &self.trace {
            let mut trace = trace.borrow_mut();
            if trace.len() == TRACE_MAX {
                trace.pop_front();
            }
            let at_us = self.agenda.now_ns() as f64 / 1e3;
            trace.push_back(format!("{at_us:12.3} us  {what} {numbers:?}"));
        }
    }

    fn network_delay(&mut self) -> u64 {
        let (from, to) = self.pace.network;
        self.rng.between(from..=to)
    }

    fn disk_delay(&mut self) -> u64 {
        if self.chance(self.faults.disk_late) {
            return self.rng.between(10_000_000..=300_000_000);
        }
        let (from, to) = self.pace.disk;
        self.rng.between(from..=to)
    }

    /// Takes the mishap that `matches`, if there is one.
    fn mishap(&mut self, matches: impl Fn(&Mishap) -> bool) -> Option<Mishap> {
        let at = self.mishaps.iter().position(matches)?;
        Some(self.mishaps.swap_remove(at))
    }

    // Submission: each op is checked and put on its way.

    fn submit(&mut self) {
        while let Some(op) = self.pushed.pop_front() {
            self.submit_op(op);
        }
    }

    fn submit_op(&mut self, op: Op) {
        match op {
            Op::Accept { listener, .. } => {
                let serial = self.next_multishot();
                let backlog = self.backlogs.get_mut(&listener.0).expect("a TCP listener");
                backlog.armed = Some(serial);
                self.touched.push(Touch::Backlog(listener.0));
            }
            Op::AcceptCancel { listener } => {
                if let Some(serial) = self.backlogs[&listener.0].armed {
                    let delay = self.network_delay();
                    self.agenda
                        .after(delay, Event::AcceptCancel(listener.0, serial));
                }
            }
            Op::Receive { peer, socket } => {
                let id = self.conn_of(peer, socket);
                let serial = self.next_multishot();
                self.conns[id].armed = Some(serial);
                self.touched.push(Touch::Conn(id));
            }
            Op::ReceiveCancel { peer } => {
                if let Some(id) = self.conn_of_peer(peer)
                    && let Some(serial) = self.conns[id].armed
                {
                    let delay = self.network_delay();
                    self.agenda.after(delay, Event::ReceiveCancel(id, serial));
                }
            }
            Op::PeerPeek { peer, socket } => {
                let id = self.conn_of(peer, socket);
                self.conns[id].peeking = true;
                self.touched.push(Touch::Conn(id));
            }
            Op::PeekCancel { peer } => {
                if let Some(id) = self.conn_of_peer(peer)
                    && self.conns[id].peeking
                {
                    let delay = self.network_delay();
                    self.agenda.after(delay, Event::PeekCancel(id));
                }
            }
            Op::ReceiveFrom { listener, .. } => {
                let serial = self.next_multishot();
                let socket = self.datagrams.get_mut(&listener.0).expect("a UDP listener");
                socket.armed = Some(serial);
                self.touched.push(Touch::Datagrams(listener.0));
            }
            Op::ReceiveFromCancel { listener } => {
                if let Some(serial) = self.datagrams[&listener.0].armed {
                    let delay = self.network_delay();
                    self.agenda
                        .after(delay, Event::ReceiveFromCancel(listener.0, serial));
                }
            }
            Op::AckSend {
                peer,
                socket,
                lease,
            } => {
                let id = self.conn_of(peer, socket);
                self.conns[id].send = Some(lease);
                let delay = self.network_delay();
                self.agenda.after(delay, Event::Send(id));
            }
            Op::PeerShutdown { peer, socket } => {
                let id = self.conn_of(peer, socket);
                self.conns[id].shut = true;
                self.touched.push(Touch::Conn(id));
            }
            Op::PeerClose { peer, socket } => {
                let id = self.conn_of(peer, socket);
                self.sockets.remove(&socket.0);
                let delay = self.network_delay();
                self.agenda.after(delay, Event::PeerClose(id, peer));
            }
            Op::SegmentOpen { number } => {
                let delay = self.disk_delay();
                self.agenda.after(delay, Event::SegmentOpen(number));
            }
            Op::SegmentAllocate { number, file, len } => {
                let delay = self.disk_delay();
                self.agenda
                    .after(delay, Event::SegmentAllocate(number, file, len));
            }
            Op::FolderSync { number } => {
                let ticket = self.disk.begin_folder_sync();
                let delay = self.disk_delay();
                self.agenda.after(delay, Event::FolderSync(number, ticket));
            }
            Op::JournalWrite {
                file,
                block,
                offset,
                len,
            } => self.submit_write(file, block, offset, len as usize),
            Op::JournalSync { file, segment } => {
                let ticket = self.disk.begin_sync(file);
                *self.syncing.entry(segment).or_default() += 1;
                let mut delay = self.disk_delay();
                if self.lie == Some(Lie::SyncDoesNothing) {
                    delay = 1;
                }
                self.agenda
                    .after(delay, Event::JournalSync(segment, file, ticket));
            }
            Op::SegmentClose { number, file } => {
                let delay = self.disk_delay();
                self.agenda.after(delay, Event::SegmentClose(number, file));
            }
            Op::SegmentRemove { number } => {
                let delay = self.disk_delay();
                self.agenda.after(delay, Event::SegmentRemove(number));
            }
        }
        self.look_at_touched();
    }

    fn submit_write(&mut self, file: SegmentFile, block: BlockId, offset: u64, len: usize) {
        let data = self.block_bytes(block, len).to_vec();
        let write = self.disk.begin_write(file, offset, data);
        let former = self.writing.insert(block.0, write);
        assert_eq!(former, None, "block {} is written twice at once", block.0);
        let delay = self.disk_delay();
        if self.lie == Some(Lie::BlockChanges) {
            // SAFETY: the block is on loan to the worker, which does not look at it while it is
            // written; the simulator is single-threaded and holds no other reference to it here.
            unsafe { *self.blocks.block_ptr(block).add(len - 1) ^= 1 };
        }
        let event = Event::JournalWrite {
            file,
            block,
            offset,
            write,
            len,
        };
        self.agenda.after(delay, event);
    }

    fn block_bytes(&self, block: BlockId, len: usize) -> &[u8] {
        assert!(
            len <= self.blocks.block_len(),
            "a write of {len} bytes of a block of {}",
            self.blocks.block_len()
        );
        // SAFETY: the worker has shared the block for the write it pushed, so nobody writes it
        // before the completion (that is what the comparison at the completion checks); the length
        // is within the block, by the assertion above; everything runs on one thread.
        unsafe { std::slice::from_raw_parts(self.blocks.block_ptr(block), len) }
    }

    fn next_multishot(&mut self) -> u64 {
        self.multishots += 1;
        self.multishots
    }

    /// The connection of an open socket; the worker must name it by one peer alone.
    fn conn_of(&self, peer: PeerId, socket: Socket) -> ConnId {
        let &id = self
            .sockets
            .get(&socket.0)
            .unwrap_or_else(|| panic!("an op for socket {}, which is not open", socket.0));
        assert_eq!(
            self.conns[id].peer,
            Some(peer),
            "socket {} belongs to another peer",
            socket.0
        );
        id
    }

    fn conn_of_peer(&self, peer: PeerId) -> Option<ConnId> {
        let mut ids = self.sockets.values();
        ids.find(|&&id| self.conns[id].peer == Some(peer)).copied()
    }

    // Looking at what producers or ops have touched: is there something to deliver?

    fn look_at_touched(&mut self) {
        while let Some(touch) = self.touched.pop() {
            match touch {
                Touch::Backlog(listener) => self.poke_backlog(listener),
                Touch::Connected(id) => {
                    let listener = self.conns[id].listener;
                    let backlog = self.backlogs.get_mut(&listener).expect("a TCP listener");
                    backlog.queue.push_back(id);
                    self.poke_backlog(listener);
                }
                Touch::Conn(id) => {
                    if self.conns[id].socket.is_none() && !self.conns[id].closed {
                        // Not accepted yet.
                        continue;
                    }
                    self.poke_conn(id);
                }
                Touch::Datagrams(listener) => self.poke_datagrams(listener),
            }
        }
    }

    fn poke_backlog(&mut self, listener: u16) {
        let delay = self.network_delay();
        let backlog = self.backlogs.get_mut(&listener).expect("a TCP listener");
        if backlog.armed.is_some() && !backlog.due && !backlog.queue.is_empty() {
            backlog.due = true;
            self.agenda.after(delay, Event::Accept(listener));
        }
    }

    fn poke_conn(&mut self, id: ConnId) {
        let delay = self.network_delay();
        let conn = &mut self.conns[id];
        let readable = match conn.peeking {
            true => conn.queued() >= FRAME_HEADER_LEN || conn.fin || conn.reset || conn.shut,
            false => conn.armed.is_some() && conn.is_readable(),
        };
        if readable && !conn.due {
            conn.due = true;
            self.agenda.after(delay, Event::Receive(id));
        }
        let delay = self.network_delay();
        let conn = &mut self.conns[id];
        if conn.send.is_some() && (conn.reset || conn.shut) {
            // A blocked send ends when the peer is gone.
            self.agenda.after(delay, Event::Send(id));
        }
    }

    fn poke_datagrams(&mut self, listener: u16) {
        let delay = self.network_delay();
        let socket = self.datagrams.get_mut(&listener).expect("a UDP listener");
        if socket.armed.is_some() && !socket.due && !socket.queue.is_empty() {
            socket.due = true;
            self.agenda.after(delay, Event::ReceiveFrom(listener));
        }
    }

    // Events.

    fn complete(&mut self, completion: Completion) {
        if let Completion::Received { peer, .. }
        | Completion::PeerPeeked { peer, .. }
        | Completion::AckSent { peer, .. } = &completion
            && let Some(id) = self.conn_of_peer(*peer)
        {
            self.conns[id].unreaped += 1;
        }
        self.arrived.push_back(completion);
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Accept(listener) => self.on_accept(listener),
            Event::AcceptCancel(listener, serial) => {
                let backlog = self.backlogs.get_mut(&listener).expect("a TCP listener");
                if backlog.armed == Some(serial) {
                    backlog.armed = None;
                    self.note("accept cancelled", &[u64::from(listener)]);
                    self.complete(Completion::Accepted {
                        listener: ListenerId(listener),
                        result: Err(ECANCELED),
                        more: false,
                    });
                }
            }
            Event::Receive(id) => self.on_receive(id),
            Event::PeekCancel(id) => {
                if std::mem::replace(&mut self.conns[id].peeking, false) {
                    self.note("peek cancelled", &[id as u64]);
                    self.end_peek(id, Err(ECANCELED));
                }
            }
            Event::ReceiveCancel(id, serial) => {
                if self.conns[id].armed == Some(serial) {
                    self.note("receive cancelled", &[id as u64]);
                    self.end_receive(id, ECANCELED);
                }
            }
            Event::ReceiveFrom(listener) => self.on_receive_from(listener),
            Event::ReceiveFromCancel(listener, serial) => {
                let socket = self.datagrams.get_mut(&listener).expect("a UDP listener");
                if socket.armed == Some(serial) {
                    socket.armed = None;
                    self.note("receive from cancelled", &[u64::from(listener)]);
                    self.complete(Completion::ReceivedFrom {
                        listener: ListenerId(listener),
                        result: Err(ECANCELED),
                        more: false,
                    });
                }
            }
            Event::Send(id) => self.on_send(id),
            Event::Answers(id) => self.on_answers(id),
            Event::PeerClose(id, peer) => {
                self.note("closed", &[id as u64]);
                let conn = &mut self.conns[id];
                conn.closed = true;
                conn.socket = None;
                self.complete(Completion::PeerClosed { peer });
                let delay = self.network_delay();
                self.agenda.after(delay, Event::PeerGone(id));
            }
            Event::PeerGone(id) => {
                // Answers on the way arrive first, unless a reset overtakes them: that is sent
                // where the agent had not read everything.
                if self.conns[id].queued() == 0 || self.rng.chance(500) {
                    self.read_answers(id);
                }
                let producer = self.conns[id].producer;
                self.producers[producer].on_closed(id);
            }
            Event::Producer(index) => self.on_producer(index),
            Event::Sender(index) => self.on_sender(index),
            Event::SegmentOpen(number) => {
                let result = if self.chance(self.faults.open_error) {
                    Err(self.rng.pick(&[EIO, ENOSPC, Errno(libc::EMFILE)]))
                } else {
                    self.disk.create(number)
                };
                self.note("segment opened", &[number, u64::from(result.is_ok())]);
                self.complete(Completion::SegmentOpened { number, result });
            }
            Event::SegmentAllocate(number, file, len) => {
                let nth = self.allocations;
                self.allocations += 1;
                let mishap =
                    self.mishap(|m| matches!(m, Mishap::AllocateFails { nth: n, .. } if *n == nth));
                let result = match mishap {
                    Some(Mishap::AllocateFails { errno, .. }) => Err(Errno(errno)),
                    _ if self.chance(self.faults.allocate_error) => Err(ENOSPC),
                    _ => {
                        self.disk.allocate(number, file, len);
                        Ok(())
                    }
                };
                self.note("segment allocated", &[number, u64::from(result.is_ok())]);
                self.complete(Completion::SegmentAllocated { number, result });
            }
            Event::FolderSync(number, ticket) => {
                let result = if self.chance(self.faults.folder_error) {
                    Err(EIO)
                } else {
                    if self.lie != Some(Lie::FolderSyncDoesNothing) {
                        self.disk.finish_folder_sync(ticket);
                        self.index.advance(&self.disk, &self.book);
                    }
                    Ok(())
                };
                self.note("folder synced", &[number, u64::from(result.is_ok())]);
                self.complete(Completion::FolderSynced { number, result });
            }
            Event::JournalWrite {
                file,
                block,
                offset,
                write,
                len,
            } => self.on_write(file, block, offset, write, len),
            Event::JournalSync(segment, file, ticket) => self.on_sync(segment, file, ticket),
            Event::SegmentClose(number, file) => {
                assert!(
                    !self.syncing.contains_key(&number),
                    "segment {number} is closed while it is synced"
                );
                self.disk.close(number, file);
                self.note("segment closed", &[number]);
                self.complete(Completion::SegmentClosed {
                    number,
                    result: Ok(()),
                });
            }
            Event::SegmentRemove(number) => {
                self.index.remove(number, self.committed, &self.book);
                let result = self.disk.remove(number);
                self.note("segment removed", &[number, u64::from(result.is_ok())]);
                self.complete(Completion::SegmentRemoved { number, result });
            }
        }
        self.look_at_touched();
    }

    fn on_accept(&mut self, listener: u16) {
        let backlog = self.backlogs.get_mut(&listener).expect("a TCP listener");
        backlog.due = false;
        if backlog.armed.is_none() {
            return;
        }
        if self.chance(self.faults.accept_error) {
            let errno = self
                .rng
                .pick(&[libc::ECONNABORTED, libc::EMFILE, libc::ENOBUFS]);
            let backlog = self.backlogs.get_mut(&listener).expect("a TCP listener");
            // Any error ends a multishot accept.
            backlog.armed = None;
            self.note("accept failed", &[u64::from(listener), errno as u64]);
            self.complete(Completion::Accepted {
                listener: ListenerId(listener),
                result: Err(Errno(errno)),
                more: false,
            });
            return;
        }
        let ends = self.chance(self.faults.multishot_ends);
        let backlog = self.backlogs.get_mut(&listener).expect("a TCP listener");
        let Some(id) = backlog.queue.pop_front() else {
            return;
        };
        if ends {
            backlog.armed = None;
        }
        self.sockets_made += 1;
        // Numbers come again, as descriptors do.
        let socket = (200..)
            .find(|number| !self.sockets.contains_key(number))
            .map(Socket)
            .expect("numbers do not run out");
        let conn = &mut self.conns[id];
        conn.socket = Some(socket);
        self.sockets.insert(socket.0, id);
        let address = (!conn.reset).then_some(conn.address);
        self.note("accepted", &[id as u64, socket.0 as u64]);
        self.complete(Completion::Accepted {
            listener: ListenerId(listener),
            result: Ok(Accepted { socket, address }),
            more: !ends,
        });
        self.touched.push(Touch::Backlog(listener));
    }

    fn end_receive(&mut self, id: ConnId, errno: Errno) {
        self.conns[id].armed = None;
        let peer = self.conns[id].peer.expect("a receive names its peer");
        self.complete(Completion::Received {
            peer,
            result: Err(errno),
            more: false,
        });
    }

    fn end_peek(&mut self, id: ConnId, result: Result<Peeked, Errno>) {
        let peer = self.conns[id].peer.expect("a peek names its peer");
        self.complete(Completion::PeerPeeked { peer, result });
    }

    /// The first bytes, which stay where they are.
    fn on_peek(&mut self, id: ConnId) {
        let conn = &mut self.conns[id];
        conn.peeking = false;
        let result = match conn.reset {
            true => Err(Errno(libc::ECONNRESET)),
            false => {
                let mut head = [0; FRAME_HEADER_LEN];
                let len = conn.queued().min(FRAME_HEADER_LEN);
                head[..len].copy_from_slice(&conn.sent[conn.taken..][..len]);
                Ok(Peeked { head, len })
            }
        };
        self.note("peeked", &[id as u64]);
        self.end_peek(id, result);
    }

    fn on_receive(&mut self, id: ConnId) {
        let conn = &mut self.conns[id];
        conn.due = false;
        if conn.peeking {
            return self.on_peek(id);
        }
        if conn.armed.is_none() {
            return;
        }
        let peer = conn.peer.expect("a receive names its peer");
        // What was sent before a reset may still be read, or not.
        let discard = conn.reset && self.rng.chance(300);
        let conn = &mut self.conns[id];
        let queued = if discard { 0 } else { conn.queued() };
        if queued == 0 {
            if conn.reset {
                self.note("reset", &[id as u64]);
                self.end_receive(id, Errno(libc::ECONNRESET));
            } else if conn.fin || conn.shut {
                conn.armed = None;
                self.note("end", &[id as u64]);
                self.complete(Completion::Received {
                    peer,
                    result: Ok(Received::End),
                    more: false,
                });
            }
            return;
        }
        let Some(buffer) = self.tcp.take(&mut self.rng) else {
            self.note("no tcp buffer", &[id as u64]);
            self.end_receive(id, ENOBUFS);
            return;
        };
        let most = queued.min(self.tcp.buffer_len());
        let conn = &mut self.conns[id];
        let len = match conn.pieces.pop_front() {
            Some(len) => len.min(most),
            None => match self.rng.between(0..=9) {
                0 => self.rng.size(1..=most.min(64)),
                1..=4 => self.rng.size(1..=most),
                _ => most,
            },
        };
        let conn = &mut self.conns[id];
        let piece = &conn.sent[conn.taken..][..len];
        let bytes = self.tcp.bytes_mut(buffer);
        bytes[..len].copy_from_slice(piece);
        if self.lie == Some(Lie::FrameForged) {
            forge(&mut bytes[..len]);
        }
        conn.taken += len;
        if self.chance(self.faults.multishot_ends) {
            self.conns[id].armed = None;
        }
        let more = self.conns[id].armed.is_some();
        self.note("received", &[id as u64, len as u64, u64::from(more)]);
        self.complete(Completion::Received {
            peer,
            result: Ok(Received::Data(Lease::from_fence(
                Group::Tcp,
                buffer,
                len as u32,
            ))),
            more,
        });
        self.touched.push(Touch::Conn(id));
    }

    fn on_receive_from(&mut self, listener: u16) {
        let socket = self.datagrams.get_mut(&listener).expect("a UDP listener");
        socket.due = false;
        if socket.armed.is_none() || socket.queue.is_empty() {
            return;
        }
        let Some(buffer) = self.udp.take(&mut self.rng) else {
            socket.armed = None;
            self.note("no udp buffer", &[u64::from(listener)]);
            self.complete(Completion::ReceivedFrom {
                listener: ListenerId(listener),
                result: Err(ENOBUFS),
                more: false,
            });
            return;
        };
        let ends = self.chance(self.faults.multishot_ends);
        let socket = self.datagrams.get_mut(&listener).expect("a UDP listener");
        let packet = socket.queue.pop_front().expect("the queue is not empty");
        if ends {
            socket.armed = None;
        }
        let len = packet.bytes.len() - packet.cut;
        let end = BUNDLE_PREFIX_LEN + len;
        let bytes = self.udp.bytes_mut(buffer);
        bytes[BUNDLE_PREFIX_LEN..end].copy_from_slice(&packet.bytes[..len]);
        self.note("received from", &[u64::from(listener), len as u64]);
        self.complete(Completion::ReceivedFrom {
            listener: ListenerId(listener),
            result: Ok(Bundle {
                lease: Lease::from_fence(Group::Udp, buffer, end as u32),
                from: Some(packet.from),
                payload: BUNDLE_PREFIX_LEN as u32..end as u32,
                segment_len: packet.segment_len,
                truncated: packet.cut > 0,
            }),
            more: !ends,
        });
        self.unread.insert(buffer, packet);
        self.touched.push(Touch::Datagrams(listener));
    }

    fn on_send(&mut self, id: ConnId) {
        let Some(lease) = self.conns[id].send.take() else {
            return;
        };
        let peer = self.conns[id].peer.expect("a send names its peer");
        let gone = self.conns[id].reset || self.conns[id].shut;
        let failed = gone || self.chance(self.faults.send_error);
        if failed {
            // A peer whose connection failed has no use for it any more.
            self.conns[id].reset = true;
            self.conns[id].send_failed = true;
            let producer = self.conns[id].producer;
            self.producers[producer].on_closed(id);
            let errno = self.rng.pick(&[libc::EPIPE, libc::ECONNRESET]);
            self.note("send failed", &[id as u64, errno as u64]);
            self.touched.push(Touch::Conn(id));
            self.complete(Completion::AckSent {
                peer,
                lease,
                result: Err(Errno(errno)),
            });
            return;
        }
        let conn = &self.conns[id];
        let room = self.sizes.socket_send_len - (conn.answers_taken - conn.answers_read);
        let wanted = (lease.filled - lease.sent) as usize;
        if room == 0 {
            // Blocked until the producer reads.
            self.conns[id].send = Some(lease);
            return;
        }
        let mut len = wanted.min(room);
        if self.chance(self.faults.send_partial) {
            len = self.rng.size(1..=len);
        }
        self.conns[id].answers_taken += len;
        self.note("sent", &[id as u64, len as u64, wanted as u64]);
        self.complete(Completion::AckSent {
            peer,
            lease,
            result: Ok(len as u32),
        });
        let deaf = self.producers[self.conns[id].producer].plan.deaf;
        if !deaf && !self.conns[id].answers_due {
            self.conns[id].answers_due = true;
            let delay = self.network_delay();
            self.agenda.after(delay, Event::Answers(id));
        }
    }

    fn on_answers(&mut self, id: ConnId) {
        self.conns[id].answers_due = false;
        if !self.conns[id].reset {
            self.read_answers(id);
        }
        if self.conns[id].send.is_some() {
            let delay = self.network_delay();
            self.agenda.after(delay, Event::Send(id));
        }
    }

    fn read_answers(&mut self, id: ConnId) {
        let now_ns = self.agenda.now_ns();
        let conn = &mut self.conns[id];
        let producer = &mut self.producers[conn.producer];
        producer.on_answers(id, conn, &self.book, now_ns);
    }

    fn on_producer(&mut self, index: usize) {
        let faults = self.faulty();
        let mut wires = Wires {
            conns: &mut self.conns,
            book: &mut self.book,
            touched: &mut self.touched,
            now_ns: self.agenda.now_ns(),
            faults,
        };
        if let Some(pause) = self.producers[index].wake(&mut wires) {
            self.agenda.after(pause, Event::Producer(index));
        }
    }

    fn on_sender(&mut self, index: usize) {
        if self.senders[index].is_done() {
            return;
        }
        let faults = self.faulty();
        let sender = &mut self.senders[index];
        let packet = sender.packet(&mut self.book, faults);
        let listener = sender.listener();
        let pause = sender.pause_ns();
        self.agenda.after(pause, Event::Sender(index));
        let socket = self.datagrams.get_mut(&listener).expect("a UDP listener");
        if socket.queue.len() >= self.sizes.udp_queue_max {
            self.kernel_drops += packet.frames.len() as u64;
            return;
        }
        for &number in &packet.frames {
            self.book.line_mut(number).sent += 1;
        }
        socket.queue.push_back(packet);
        self.touched.push(Touch::Datagrams(listener));
    }

    fn on_write(
        &mut self,
        file: SegmentFile,
        block: BlockId,
        offset: u64,
        write: WriteId,
        len: usize,
    ) {
        let nth = self.writes;
        let is_block = offset > 0;
        self.writes += u64::from(is_block);
        let mishap = self.mishap(|mishap| match mishap {
            Mishap::WriteFails { nth: n, .. } | Mishap::WriteShort { nth: n, .. } => {
                is_block && *n == nth
            }
            _ => false,
        });
        let (end, result) = match mishap {
            Some(Mishap::WriteFails { errno, .. }) => (WriteEnd::Failed, Err(Errno(errno))),
            Some(Mishap::WriteShort { len, .. }) => (WriteEnd::Short(len), Ok(len as u32)),
            _ if self.chance(self.faults.write_error) => {
                (WriteEnd::Failed, Err(self.rng.pick(&[EIO, ENOSPC])))
            }
            _ if self.chance(self.faults.write_short) => {
                let sectors = self.rng.size(0..=len / 512 - 1);
                (WriteEnd::Short(sectors * 512), Ok(sectors as u32 * 512))
            }
            _ => (WriteEnd::Whole, Ok(len as u32)),
        };
        let taken = self.disk.finish_write(file, write, end);
        self.writing.remove(&block.0);
        assert!(
            self.block_bytes(block, len) == &taken[..],
            "block {} was changed while it was written",
            block.0
        );
        let result = match (self.lie, result) {
            (Some(Lie::ShortWriteUnseen), Ok(_)) => Ok(len as u32),
            (_, result) => result,
        };
        let told = result.map_or(0, u64::from);
        self.note("written", &[u64::from(block.0), offset, len as u64, told]);
        self.complete(Completion::JournalWritten { block, result });
    }

    fn on_sync(&mut self, segment: u64, file: SegmentFile, ticket: SyncTicket) {
        let nth = self.syncs;
        self.syncs += 1;
        let mishap = self.mishap(|m| matches!(m, Mishap::SyncFails { nth: n, .. } if *n == nth));
        let mut result = match mishap {
            Some(Mishap::SyncFails { errno, .. }) => Err(Errno(errno)),
            _ if self.chance(self.faults.sync_error) => Err(EIO),
            _ => Ok(()),
        };
        let ticket = match self.lie {
            Some(Lie::SyncTooEarly) => ticket.without_last(),
            _ => ticket,
        };
        if self.lie != Some(Lie::SyncDoesNothing) {
            self.disk.finish_sync(ticket, result.is_ok(), &mut self.rng);
            self.index.advance(&self.disk, &self.book);
        }
        if self.lie == Some(Lie::SyncErrorUnseen) {
            result = Ok(());
        }
        assert!(
            self.disk.is_open(file),
            "segment {segment} was closed while it was synced"
        );
        let left = self.syncing.get_mut(&segment).expect("a sync in flight");
        *left -= 1;
        if *left == 0 {
            self.syncing.remove(&segment);
        }
        self.note("synced", &[segment, u64::from(result.is_ok())]);
        self.complete(Completion::JournalSynced { segment, result });
    }

    // Reaping: what the worker is told from here on counts as arrived.

    fn on_reap(&mut self, completion: &Completion) {
        match completion {
            Completion::Received { peer, result, more } => {
                let Some(id) = self.conn_of_peer(*peer) else {
                    panic!("a completion for {peer:?}, whose socket was closed before it");
                };
                self.conns[id].unreaped -= 1;
                self.conns[id].multishot = *more;
                match result {
                    Ok(Received::Data(lease)) => self.arrive_bytes(id, lease.len as usize),
                    Ok(Received::End) => self.arrive_end(id),
                    Err(errno) if *errno == ENOBUFS || *errno == ECANCELED => {}
                    Err(_) => self.arrive_end(id),
                }
            }
            Completion::PeerPeeked { peer, .. } => {
                let id = self.conn_of_peer(*peer).expect("a peek on an open socket");
                self.conns[id].unreaped -= 1;
                self.conns[id].multishot = false;
            }
            Completion::AckSent { peer, .. } => {
                let id = self.conn_of_peer(*peer).expect("a send on an open socket");
                self.conns[id].unreaped -= 1;
            }
            Completion::Accepted { listener, more, .. } => {
                let backlog = self.backlogs.get_mut(&listener.0).expect("a TCP listener");
                backlog.multishot = *more;
            }
            Completion::ReceivedFrom {
                listener,
                result,
                more,
            } => {
                let socket = self.datagrams.get_mut(&listener.0).expect("a UDP listener");
                socket.multishot = *more;
                if let Ok(bundle) = result {
                    let packet = self.unread.remove(&bundle.lease.id());
                    self.arrive_datagrams(listener.0, &packet.expect("it was put there"));
                }
            }
            _ => {}
        }
    }

    fn arrive_bytes(&mut self, id: ConnId, len: usize) {
        let conn = &mut self.conns[id];
        conn.reaped += len;
        while let Some(&(end, number)) = conn.frames.front() {
            let line = self.book.line_mut(number);
            let start = end - line.frame.bytes.len();
            if conn.framing_lost || conn.reaped < start + line.frame.decided_at {
                break;
            }
            if !std::mem::replace(&mut conn.decided, true) {
                line.arrived += 1;
                if conn.leaving {
                    conn.arrivals_late.count(line.frame.fate);
                } else {
                    conn.arrivals.count(line.frame.fate);
                }
                let lost = matches!(line.frame.fate, Fate::FramingLost(_));
                let owed = line.frame.wants_ack && !lost && !conn.leaving;
                let waiting = conn.waiting.entry(line.frame.key).or_default();
                waiting.push((number, owed));
                conn.framing_lost |= lost;
            }
            if conn.reaped < end {
                break;
            }
            conn.frames.pop_front();
            conn.decided = false;
        }
    }

    /// A stream's end or error was reaped: a frame that it cuts counts as one truncated.
    fn arrive_end(&mut self, id: ConnId) {
        let conn = &mut self.conns[id];
        let Some(&(end, number)) = conn.frames.front() else {
            return;
        };
        let start = end - self.book.line(number).frame.bytes.len();
        if conn.framing_lost || conn.decided || conn.reaped <= start {
            return;
        }
        let truncated = Fate::Refused(Reason::Truncated);
        if conn.leaving {
            conn.arrivals_late.count(truncated);
        } else {
            conn.arrivals.count(truncated);
        }
    }

    /// A bundle was reaped.
    fn arrive_datagrams(&mut self, listener: u16, packet: &Packet) {
        let tally = self.tallies.get_mut(&listener).expect("a listener");
        let count = packet.frames.len() as u64;
        let last = packet.frames.len() - 1;
        let is_frame = |at: usize, bytes: &[u8]| {
            let cut = if at == last { packet.cut } else { 0 };
            let left = &bytes[..bytes.len() - cut];
            left.first_chunk().is_some_and(|header| {
                check_datagram(header, left.len() as u32, PAYLOAD_LEN_MAX).is_ok()
            })
        };
        let mut frames = packet.frames.iter().enumerate();
        if self.stand_in
            && !frames.any(|(at, &number)| is_frame(at, &self.book.line(number).frame.bytes))
        {
            tally.gate_malformed += count;
            return;
        }
        tally.datagrams += count;
        for (at, &number) in packet.frames.iter().enumerate() {
            let line = self.book.line_mut(number);
            if at == last && packet.cut > 0 {
                tally.certain.count(Fate::Refused(Reason::Truncated));
            } else {
                line.arrived += 1;
                tally.certain.count(line.frame.fate);
            }
        }
    }
}

impl Kernel for SimKernel {
    fn push(&mut self, op: Op) {
        match &op {
            Op::Accept { listener, .. } => {
                let backlog = self.backlogs.get_mut(&listener.0).expect("a TCP listener");
                assert!(!backlog.multishot, "{listener:?} accepts already");
                backlog.multishot = true;
            }
            Op::ReceiveFrom { listener, .. } => {
                let socket = self.datagrams.get_mut(&listener.0).expect("a UDP listener");
                assert!(!socket.multishot, "{listener:?} receives already");
                socket.multishot = true;
            }
            Op::Receive { peer, socket } | Op::PeerPeek { peer, socket } => {
                let &id = self
                    .sockets
                    .get(&socket.0)
                    .unwrap_or_else(|| panic!("a receive on socket {}, closed", socket.0));
                let other = self.conn_of_peer(*peer);
                assert!(
                    other.is_none() || other == Some(id),
                    "{peer:?} is two peers"
                );
                let conn = &mut self.conns[id];
                assert!(
                    conn.peer.is_none_or(|known| known == *peer),
                    "a peer renamed"
                );
                conn.peer = Some(*peer);
                assert!(!conn.multishot, "{peer:?} receives already");
                conn.multishot = true;
            }
            Op::ReceiveCancel { peer } | Op::PeekCancel { peer } => {
                if let Some(id) = self.conn_of_peer(*peer) {
                    self.conns[id].leaving = true;
                }
            }
            Op::AckSend {
                peer,
                socket,
                lease,
            } => self.on_push_send(*peer, *socket, lease),
            Op::PeerClose { peer, socket } => {
                let &id = self
                    .sockets
                    .get(&socket.0)
                    .unwrap_or_else(|| panic!("socket {} is closed twice", socket.0));
                let conn = &mut self.conns[id];
                assert!(
                    !conn.multishot && conn.send.is_none() && conn.unreaped == 0,
                    "{peer:?} is closed with something in flight"
                );
                conn.leaving = true;
                conn.peer = Some(*peer);
            }
            _ => {}
        }
        if self.trace.is_some() {
            let text = format!("push {op:?}");
            self.note(&text, &[]);
        }
        self.pushed.push_back(op);
    }

    fn wait(&mut self, timeout: Option<Duration>) -> Result<(), Errno> {
        self.submit();
        let now = self.agenda.now_ns();
        let deadline = timeout.map(|timeout| now + timeout.as_nanos() as u64);
        if self.chance(self.faults.wake_for_nothing) {
            if self.rng.chance(500) {
                self.complete(Completion::Woken);
            }
            self.agenda.advance_to(now + TURN_NS);
            return Ok(());
        }
        while self.arrived.is_empty() {
            match self.agenda.pop(deadline.unwrap_or(u64::MAX)) {
                Some(event) => self.on_event(event),
                None if deadline.is_some() => {
                    self.agenda.advance_to(deadline.unwrap_or_default());
                    break;
                }
                None => {
                    self.stalls += 1;
                    self.complete(Completion::Woken);
                }
            }
        }
        let awake = self.agenda.now_ns() + self.rng.between(TURN_NS..=LINGER_NS);
        while let Some(event) = self.agenda.pop(awake) {
            self.on_event(event);
        }
        self.agenda.advance_to(now + TURN_NS);
        if self.arrived.is_empty() && self.agenda.now_ns() <= now + LINGER_NS {
            self.empty_turns += 1;
            assert!(
                self.empty_turns < 20_000,
                "the worker turns and nothing happens"
            );
        } else {
            self.empty_turns = 0;
        }
        Ok(())
    }

    fn reap(&mut self) -> Option<Completion> {
        let mut completion = self.arrived.pop_front()?;
        self.on_reap(&completion);
        if let (
            Some(Lie::FrameDropped),
            Completion::ReceivedFrom {
                result: Ok(bundle), ..
            },
        ) = (self.lie, &mut completion)
        {
            bundle.payload.end = bundle.payload.start;
        }
        if self.trace.is_some() {
            let text = format!("reap {completion:?}");
            self.note(&text, &[]);
        }
        Some(completion)
    }

    fn now(&self) -> Now {
        self.agenda.now()
    }

    fn bytes(&self, lease: &Lease) -> &[u8] {
        let pool = match lease.group {
            Group::Tcp => &self.tcp,
            Group::Udp => &self.udp,
        };
        &pool.bytes(lease.id())[..lease.len as usize]
    }

    fn give_back(&mut self, lease: Lease) {
        if self.lie == Some(Lie::LeaseKept) && self.rng.chance(20) {
            return;
        }
        match lease.group {
            Group::Tcp => self.tcp.give_back(lease.id()),
            Group::Udp => self.udp.give_back(lease.id()),
        }
    }

    fn take_send_buffer(&mut self) -> Option<SendLease> {
        if self.chance(self.faults.send_buffer_refused) {
            return None;
        }
        self.send.take(&mut self.rng).map(SendLease::from_fence)
    }

    fn send_bytes_mut(&mut self, lease: &mut SendLease) -> &mut [u8] {
        self.send.bytes_mut(lease.id())
    }

    fn give_back_send(&mut self, lease: SendLease) {
        self.send.give_back(lease.id());
    }
}

/// Changes the first body in a buffer that begins with a whole frame, and mends its checksums.
fn forge(bytes: &mut [u8]) {
    let Some(header) = bytes.first_chunk::<FRAME_HEADER_LEN>() else {
        return;
    };
    let header = FrameHeader::read(header);
    let Some(payload) = bytes.get_mut(FRAME_HEADER_LEN..header.frame_len()) else {
        return;
    };
    let Some(at) = payload.windows(3).position(|three| three == b"xxx") else {
        return;
    };
    payload[at] = b'y';
    let payload_crc = crc32c::crc32c(payload);
    let sealed = seal(&FrameHeader {
        payload_crc,
        ..header
    });
    bytes[..FRAME_HEADER_LEN].copy_from_slice(&sealed);
}

impl SimKernel {
    /// The moment an acknowledgement leaves the worker: it must be true now.
    fn on_push_send(&mut self, peer: PeerId, socket: Socket, lease: &SendLease) {
        let id = self.conn_of(peer, socket);
        let range = lease.sent as usize..lease.filled as usize;
        assert!(
            range.start < range.end && range.end <= SEND_BUFFER_LEN,
            "a send of {range:?}"
        );
        if matches!(self.lie, Some(Lie::AckOfAnother)) && lease.sent == 0 {
            // The sequence's lowest byte.
            self.send.bytes_mut(lease.id())[16] ^= 1;
        }
        let bytes = self.send.bytes(lease.id())[range].to_vec();
        let conn = &mut self.conns[id];
        assert!(
            conn.send.is_none(),
            "two sends at once on one stream may change places"
        );
        // What the socket did not take last time comes again, unchanged; the rest is new.
        let again = &conn.answers[conn.answers_taken..];
        assert!(
            bytes.starts_with(again),
            "the rest of a partial send is not sent as it was"
        );
        let fresh = bytes[again.len()..].to_vec();
        conn.answers.extend_from_slice(&fresh);
        if self.lie == Some(Lie::AckTwice) {
            conn.answers.extend_from_slice(&fresh);
        }
        check_answers(conn, &mut self.book, &self.index);
    }
}
