//! What all shards of a run share: time, chance, the network, the accounts; and each shard's port,
//! where its kernel and the world meet. A world outlives the agents in it.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use penstock::journal::feed::SinkMark;
use penstock::shard::buffer::BlockPool;
use penstock::shard::op::{Completion, Now, Op, PeerId, Socket};

use super::super::book::{Book, Tally};
use super::super::check::DurableIndex;
use super::super::clock::Agenda;
use super::super::disk::{Disk, WriteId};
use super::super::network::{Backlog, Conn, ConnId, Datagrams, Packet, Pool};
use super::super::producer::{Peer, Sender, Touch};
use super::super::rng::Rng;
use super::event::{Due, Event};
use super::fault::{Faults, Lie, Mishap, Pace, Sizes, Struck};
use super::mirror::Mirror;

/// Events and ops that are remembered for a failure's report.
const TRACE_MAX: usize = 1200;

/// The last events of a run; shared, so that it outlives a run that fails.
pub type Trace = Rc<RefCell<VecDeque<String>>>;

/// What has come for a worker that has not reaped it.
pub(super) struct Arrived {
    pub completion: Completion,
    /// The bytes that its buffer holds.
    pub bytes: Vec<u8>,
}

/// Where one shard's kernel and the world meet.
pub struct Port {
    pub agent: usize,
    pub shard: u16,
    /// Which life of the shard this is: what an earlier one has left under way does not happen.
    pub(super) life: u32,
    pub disk: Disk,
    pub index: DurableIndex,
    pub mirror: Option<Mirror>,
    pub(super) blocks: Arc<BlockPool>,
    pub(super) tallies: BTreeMap<u16, Tally>,
    backlogs: BTreeMap<u16, Backlog>,
    datagrams: BTreeMap<u16, Datagrams>,
    pub(super) tcp: Pool,
    pub(super) udp: Pool,
    /// Packets in buffers that the worker has not reaped.
    pub(super) unread: BTreeMap<u16, Packet>,
    /// Writes in flight, by block: it must not be acquired anew.
    pub(super) writing: BTreeMap<u16, WriteId>,
    pub(super) syncing: BTreeMap<u64, u32>,
    /// How far each sink has committed: segments before the least may go.
    pub sinks: Vec<Arc<SinkMark>>,
    pub(super) pushed: VecDeque<Op>,
    pub(super) arrived: VecDeque<Arrived>,
    /// When the worker wants to be woken though nothing has come.
    pub(super) wake_ns: u64,
    pub(super) empty_turns: u32,
}

impl Port {
    pub(super) fn backlog_mut(&mut self, listener: u16) -> &mut Backlog {
        self.backlogs.get_mut(&listener).expect("a TCP listener")
    }

    pub(super) fn datagrams_mut(&mut self, listener: u16) -> &mut Datagrams {
        self.datagrams.get_mut(&listener).expect("a UDP listener")
    }

    pub(super) fn backlogs(&self) -> &BTreeMap<u16, Backlog> {
        &self.backlogs
    }

    pub(super) fn datagrams(&self) -> &BTreeMap<u16, Datagrams> {
        &self.datagrams
    }

    /// A listening TCP socket.
    pub fn listen(&mut self, listener: u16) -> Socket {
        self.backlogs.insert(listener, Backlog::default());
        self.tallies.insert(listener, Tally::default());
        Socket(100 + i32::from(listener))
    }

    /// A bound UDP socket.
    pub fn bind(&mut self, listener: u16) -> Socket {
        let socket = 100 + i32::from(listener);
        let datagrams = Datagrams {
            socket,
            ..Datagrams::default()
        };
        self.datagrams.insert(listener, datagrams);
        self.tallies.insert(listener, Tally::default());
        Socket(socket)
    }

    /// Positions below which every sink has committed: segments may go.
    pub fn committed(&self) -> u64 {
        let marks = self.sinks.iter().map(|mark| mark.committed());
        marks.min().unwrap_or(0)
    }

    /// Whether the worker has something to do now.
    pub fn is_ready(&self, now_ns: u64) -> bool {
        !self.arrived.is_empty() || !self.pushed.is_empty() || self.wake_ns <= now_ns
    }

    /// When the worker wants to be woken though nothing has come.
    pub fn wake_ns(&self) -> u64 {
        self.wake_ns
    }

    /// Another thread has left something for the worker.
    pub fn wake(&mut self) {
        self.arrived.push_back(Arrived {
            completion: Completion::Woken,
            bytes: Vec::new(),
        });
    }
}

/// Everything that is not an agent.
pub struct World {
    pub(super) agenda: Agenda<Due>,
    pub(super) rng: Rng,
    pub faults: Faults,
    /// When the life began that faults count their time from.
    pub(super) faults_since_ns: u64,
    pub mishaps: Vec<Mishap>,
    pub lie: Option<Lie>,
    pub pace: Pace,
    pub(super) sizes: Sizes,
    /// Whether the gate is the worker's.
    pub stand_in: bool,

    pub book: Book,
    pub producers: Vec<Box<dyn Peer>>,
    pub senders: Vec<Sender>,
    pub(super) conns: Vec<Conn>,
    /// Open sockets of accepted connections.
    pub(super) sockets: BTreeMap<i32, ConnId>,
    pub(super) touched: Vec<Touch>,
    pub ports: Vec<Port>,
    /// There is one worker and nobody else: it may drive the clock itself.
    pub alone: bool,

    pub(super) writes: u64,
    pub(super) syncs: u64,
    pub(super) allocations: u64,
    pub(super) multishots: u64,
    /// Times the worker wanted to wait for ever while nothing was under way.
    pub stalls: u64,
    /// Datagrams that did not fit the socket's queue: the kernel's to count, nobody's to receive.
    pub kernel_drops: u64,
    /// What has gone wrong so far.
    pub struck: Struck,
    /// Exact answers and events, kept where a run is replayed.
    trace: Option<Trace>,
    digest: u64,
}

impl World {
    pub fn new(rng: Rng, sizes: Sizes) -> Self {
        Self {
            agenda: Agenda::default(),
            rng,
            faults: Faults::default(),
            faults_since_ns: 0,
            mishaps: Vec::new(),
            lie: None,
            pace: Pace::default(),
            sizes,
            stand_in: false,
            book: Book::default(),
            producers: Vec::new(),
            senders: Vec::new(),
            conns: Vec::new(),
            sockets: BTreeMap::new(),
            touched: Vec::new(),
            ports: Vec::new(),
            alone: false,
            writes: 0,
            syncs: 0,
            allocations: 0,
            multishots: 0,
            stalls: 0,
            kernel_drops: 0,
            struck: Struck::default(),
            trace: None,
            digest: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// A port for one shard of an agent; its number.
    pub fn add_port(&mut self, agent: usize, shard: u16, blocks: &Arc<BlockPool>) -> usize {
        self.ports.push(Port {
            agent,
            shard,
            life: 0,
            disk: Disk::default(),
            index: DurableIndex::default(),
            mirror: None,
            blocks: Arc::clone(blocks),
            tallies: BTreeMap::new(),
            backlogs: BTreeMap::new(),
            datagrams: BTreeMap::new(),
            tcp: Pool::new("tcp", self.sizes.tcp_buffers, self.sizes.tcp_buffer_len),
            udp: Pool::new("udp", self.sizes.udp_buffers, self.sizes.udp_buffer_len),
            unread: BTreeMap::new(),
            writing: BTreeMap::new(),
            syncing: BTreeMap::new(),
            sinks: Vec::new(),
            pushed: VecDeque::new(),
            arrived: VecDeque::new(),
            wake_ns: 0,
            empty_turns: 0,
        });
        self.ports.len() - 1
    }

    /// Ends whatever a port's last life has left, and begins the next on `disk`.
    pub fn renew_port(&mut self, at: usize, disk: Disk, blocks: &Arc<BlockPool>) {
        let fresh = self.add_port(self.ports[at].agent, self.ports[at].shard, blocks);
        let mut port = self.ports.swap_remove(fresh);
        port.life = self.ports[at].life + 1;
        port.disk = disk;
        port.index = std::mem::take(&mut self.ports[at].index);
        self.ports[at] = port;
    }

    /// The process that a set of ports belongs to is gone, and with it every connection.
    pub fn hang_up(&mut self, agent: usize) {
        for id in 0..self.conns.len() {
            if self.conns[id].agent != agent || self.conns[id].dead {
                continue;
            }
            // What the socket had taken may still reach the producer, or not.
            if self.rng.chance(500) {
                self.read_answers(id);
            }
            let conn = &mut self.conns[id];
            conn.dead = true;
            conn.closed = true;
            conn.armed = None;
            conn.peeking = false;
            conn.send = None;
            if let Some(socket) = conn.socket.take() {
                self.sockets.remove(&socket.0);
            }
            let producer = conn.producer;
            self.producers[producer].on_closed(id);
        }
    }

    /// From now on faults count their time.
    pub fn begin_faults(&mut self) {
        self.faults_since_ns = self.now_ns();
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

    /// The two clocks that a worker reads.
    pub fn now(&self) -> Now {
        self.agenda.now()
    }

    pub fn next_ns(&self) -> Option<u64> {
        self.agenda.next_ns()
    }

    pub fn advance_to(&mut self, at_ns: u64) {
        self.agenda.advance_to(at_ns);
    }

    pub fn fork_rng(&mut self) -> Rng {
        self.rng.fork()
    }

    pub fn add_producer(&mut self, producer: Box<dyn Peer>) {
        let start_ns = self.rng.between(0..=500_000);
        self.after(start_ns, Event::Producer(self.producers.len()));
        self.producers.push(producer);
    }

    pub fn add_sender(&mut self, sender: Sender) {
        let start_ns = self.rng.between(0..=500_000);
        self.after(start_ns, Event::Sender(self.senders.len()));
        self.senders.push(sender);
    }

    /// Whether every producer's frames are settled and every datagram is read.
    pub fn world_is_done(&self) -> bool {
        let mut sockets = self.ports.iter().flat_map(|port| port.datagrams.values());
        self.producers.iter().all(|producer| producer.is_done())
            && self.senders.iter().all(Sender::is_done)
            && sockets.all(|d| d.queue.is_empty())
    }

    /// Whether all bytes that producers have put on live connections were reaped.
    pub fn streams_are_read(&self) -> bool {
        self.conns
            .iter()
            .all(|c| c.closed || c.reset || c.leaving || c.framing_lost || c.reaped == c.sent.len())
    }

    pub fn conn(&self, id: ConnId) -> &Conn {
        &self.conns[id]
    }

    pub fn conns(&self) -> &[Conn] {
        &self.conns
    }

    /// How often a frame is stored where a recovery finds it, in all journals of an agent.
    pub fn stored(&self, frame: usize) -> u32 {
        self.ports.iter().map(|port| port.index.stored(frame)).sum()
    }

    /// Whether misfortunes still happen.
    pub(super) fn faulty(&self) -> bool {
        self.now_ns() < self.faults_since_ns + self.faults.until_ns
    }

    pub(super) fn chance(&mut self, per_mille: u32) -> bool {
        self.faulty() && self.rng.chance(per_mille)
    }

    /// Whether a misfortune happens now.
    pub fn strike(&mut self, per_mille: u32) -> bool {
        self.chance(per_mille)
    }

    /// A number of the seed's choosing.
    pub fn draw(&mut self, range: std::ops::RangeInclusive<usize>) -> usize {
        self.rng.size(range)
    }

    /// Remembers what happened, for the digest and the trace.
    pub fn note(&mut self, what: &str, numbers: &[u64]) {
        for byte in what.bytes().map(u64::from).chain(numbers.iter().copied()) {
            self.digest = (self.digest ^ byte).wrapping_mul(0x0100_0000_01b3);
        }
        self.digest = (self.digest ^ self.agenda.now_ns()).wrapping_mul(0x0100_0000_01b3);
        if self.trace.is_some() {
            self.tell(&format!("{what} {numbers:?}"));
        }
    }

    pub(super) fn is_traced(&self) -> bool {
        self.trace.is_some()
    }

    /// A line of the trace that is no part of the digest.
    pub fn tell(&mut self, text: &str) {
        let Some(trace) = &self.trace else { return };
        let mut trace = trace.borrow_mut();
        if trace.len() == TRACE_MAX {
            trace.pop_front();
        }
        let at_us = self.agenda.now_ns() as f64 / 1e3;
        trace.push_back(format!("{at_us:12.3} us  {text}"));
    }

    pub(super) fn after(&mut self, delay_ns: u64, event: Event) {
        self.agenda.after(delay_ns, Due { port: None, event });
    }

    pub(super) fn after_at(&mut self, at: usize, delay_ns: u64, event: Event) {
        let port = Some((at, self.ports[at].life));
        self.agenda.after(delay_ns, Due { port, event });
    }

    pub(super) fn network_delay(&mut self) -> u64 {
        let (from, to) = self.pace.network;
        self.rng.between(from..=to)
    }

    /// How long the disk takes over something, as long as it does not stall.
    pub(super) fn disk_delay(&mut self) -> u64 {
        let now_ns = self.now_ns() - self.faults_since_ns;
        if let Some((from, to)) = self.faults.stall_ns
            && (from..to).contains(&now_ns)
        {
            self.struck.stalls += 1;
            return to - now_ns + self.rng.between(1_000..=1_000_000);
        }
        if self.chance(self.faults.disk_late) {
            return self.rng.between(10_000_000..=300_000_000);
        }
        let (from, to) = self.pace.disk;
        self.rng.between(from..=to)
    }

    /// Until when a call into the disk hangs.
    pub fn stalled_until(&mut self) -> Option<u64> {
        let now_ns = self.now_ns() - self.faults_since_ns;
        let (from, to) = self.faults.stall_ns?;
        let stalled = (from..to).contains(&now_ns);
        self.struck.stalls += u64::from(stalled);
        stalled.then_some(self.faults_since_ns + to)
    }

    pub fn note_end(&mut self, power_lost: bool) {
        if power_lost {
            self.struck.power_losses += 1;
        } else {
            self.struck.kills += 1;
        }
        self.note("the agent ends", &[u64::from(power_lost)]);
    }

    /// Whether the disk has no room.
    pub fn disk_is_full(&self) -> bool {
        let now_ns = self.now_ns() - self.faults_since_ns;
        let window = self.faults.full_ns;
        window.is_some_and(|(from, to)| (from..to).contains(&now_ns))
    }

    /// Whether an agent that looks at the disk now finds too little room: a while before it is full.
    pub fn disk_is_low(&self) -> bool {
        let now_ns = self.now_ns() - self.faults_since_ns;
        let window = self.faults.full_ns;
        window.is_some_and(|(from, to)| (from - from / 4..to).contains(&now_ns))
    }

    /// Takes the mishap that `matches`, if there is one.
    pub fn mishap(&mut self, matches: impl Fn(&Mishap) -> bool) -> Option<Mishap> {
        let at = self.mishaps.iter().position(matches)?;
        Some(self.mishaps.swap_remove(at))
    }

    pub(super) fn next_multishot(&mut self) -> u64 {
        self.multishots += 1;
        self.multishots
    }

    pub(super) fn complete(&mut self, at: usize, completion: Completion) {
        self.complete_with(at, completion, Vec::new());
    }

    pub(super) fn complete_with(&mut self, at: usize, completion: Completion, bytes: Vec<u8>) {
        if let Completion::Received { peer, .. }
        | Completion::PeerPeeked { peer, .. }
        | Completion::AckSent { peer, .. } = &completion
            && let Some(id) = self.conn_of_peer(at, *peer)
        {
            self.conns[id].unreaped += 1;
        }
        self.ports[at]
            .arrived
            .push_back(Arrived { completion, bytes });
    }

    /// The connection of an open socket; the worker must name it by one peer alone.
    pub(super) fn conn_of(&self, at: usize, peer: PeerId, socket: Socket) -> ConnId {
        let &id = self
            .sockets
            .get(&socket.0)
            .unwrap_or_else(|| panic!("an op for socket {}, which is not open", socket.0));
        assert_eq!(
            (self.conns[id].port, self.conns[id].peer),
            (Some(at), Some(peer)),
            "socket {} belongs to another peer",
            socket.0
        );
        id
    }

    pub(super) fn conn_of_peer(&self, at: usize, peer: PeerId) -> Option<ConnId> {
        let mut ids = self.sockets.values();
        ids.find(|&&id| self.conns[id].port == Some(at) && self.conns[id].peer == Some(peer))
            .copied()
    }
}
