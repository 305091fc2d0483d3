//! The simulated kernel: answers each op at a time of the seed's choosing, in any order but the
//! few that a real one keeps (the bytes of a stream, the completions of one multishot op), and
//! holds the worker to its side of the bargain with assertions.
//!
//! Rules kept from io_uring: a multishot receive ends with ENOBUFS when there is something to
//! receive and no buffer; an op that ends says `more` false exactly once; a cancelled op completes
//! itself; a sync covers the writes that were done when it was pushed; closing a socket does not
//! wait for what is in flight.
//!
//! ```text
//! mod        one shard's kernel: what is pushed is checked, what is reaped has its bytes put in place
//!   world    what all shards share, and each shard's port to it
//!   submit   ops are put on their way
//!   event    what is under way happens: stream, datagram, storage
//!   arrive   what the worker is told counts as arrived
//!   rest     what must hold after a stop
//!   fault    what can go wrong
//!   mirror   the journal's files as its readers see them
//! ```

mod arrive;
mod datagram;
mod event;
mod fault;
mod mirror;
mod rest;
mod storage;
mod stream;
mod submit;
mod world;

use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use std::time::Duration;

use penstock::limits::SEND_BUFFER_LEN;
use penstock::shard::op::{
    Completion, Errno, Group, Kernel, Lease, Now, Op, PeerId, ReceiveQueue, SendLease, Socket,
};

use penstock_proto::reason::Reason;
use penstock_proto::wire::{ACK_LEN, Ack, AckStatus};

use super::check::check_answers;
use super::network::{Buffers, Pool};
pub use fault::{Faults, Lie, Mishap, Pace, Sizes, Struck};
pub use mirror::Mirror;
pub use world::{Port, Trace, World};

/// What a turn of the worker costs.
const TURN_NS: u64 = 2_000;
/// While the worker wakes up, more completions arrive.
const LINGER_NS: u64 = 20_000;

/// One shard's kernel. The buffers' bytes are here, all else is in the world.
pub struct SimKernel {
    world: Rc<RefCell<World>>,
    at: usize,
    tcp: Buffers,
    udp: Buffers,
    send: Pool,
    send_bytes: Buffers,
}

impl SimKernel {
    /// The kernel of the worker at port `at`.
    pub fn new(world: &Rc<RefCell<World>>, at: usize) -> Self {
        let sizes = world.borrow().sizes.clone();
        Self {
            world: Rc::clone(world),
            at,
            tcp: Buffers::new(sizes.tcp_buffers, sizes.tcp_buffer_len),
            udp: Buffers::new(sizes.udp_buffers, sizes.udp_buffer_len),
            send: Pool::new("send", sizes.send_buffers, SEND_BUFFER_LEN),
            send_bytes: Buffers::new(sizes.send_buffers, SEND_BUFFER_LEN),
        }
    }

    /// After a clean stop: nothing is on loan, in flight or open.
    pub fn check_at_rest(&self) {
        assert_eq!(
            self.send.free(),
            self.send.count(),
            "send buffers that were never given back"
        );
        self.world.borrow().check_at_rest(self.at);
    }

    fn world(&self) -> RefMut<'_, World> {
        self.world.borrow_mut()
    }

    /// The moment an acknowledgement leaves the worker: it must be true now.
    fn on_push_send(&mut self, peer: PeerId, socket: Socket, lease: &SendLease) {
        let world = Rc::clone(&self.world);
        let world = &mut *world.borrow_mut();
        let id = world.conn_of(self.at, peer, socket);
        let range = lease.sent as usize..lease.filled as usize;
        assert!(
            range.start < range.end && range.end <= SEND_BUFFER_LEN,
            "a send of {range:?}"
        );
        self.send.must_be_lent(lease.id(), "sent");
        if matches!(world.lie, Some(Lie::AckOfAnother)) && lease.sent == 0 {
            // The sequence's lowest byte.
            self.send_bytes.bytes_mut(lease.id())[16] ^= 1;
        }
        if matches!(world.lie, Some(Lie::TooOldIsDuplicate)) && lease.sent == 0 {
            let bytes = &mut self.send_bytes.bytes_mut(lease.id())[range.clone()];
            bytes.chunks_exact_mut(ACK_LEN).for_each(call_duplicate);
        }
        let bytes = self.send_bytes.bytes(lease.id())[range].to_vec();
        let conn = &mut world.conns[id];
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
        if world.lie == Some(Lie::AckTwice) {
            conn.answers.extend_from_slice(&fresh);
        }
        let ports = &world.ports;
        let stored = |frame| ports.iter().map(|port| port.index.stored(frame)).sum();
        check_answers(conn, &mut world.book, &stored, &mut world.struck);
    }
}

/// Turns the refusal of a too old sequence into "duplicate".
fn call_duplicate(bytes: &mut [u8]) {
    let ack = bytes.first_chunk::<ACK_LEN>().and_then(Ack::read);
    let Some(ack) = ack.filter(|ack| ack.reason == Reason::SequenceTooOld as u8) else {
        return;
    };
    let lie = Ack {
        status: AckStatus::Duplicate,
        reason: 0,
        ..ack
    };
    bytes.copy_from_slice(&lie.write());
}

impl World {
    /// The op is one that the worker may ask for now.
    fn check_push(&mut self, at: usize, op: &Op) {
        match op {
            Op::Accept { listener, .. } => {
                let backlog = self.ports[at].backlog_mut(listener.0);
                assert!(!backlog.multishot, "{listener:?} accepts already");
                backlog.multishot = true;
            }
            Op::ReceiveFrom { listener, .. } => {
                let socket = self.ports[at].datagrams_mut(listener.0);
                assert!(!socket.multishot, "{listener:?} receives already");
                socket.multishot = true;
            }
            Op::Receive { peer, socket } | Op::PeerPeek { peer, socket } => {
                let &id = self
                    .sockets
                    .get(&socket.0)
                    .unwrap_or_else(|| panic!("a receive on socket {}, closed", socket.0));
                if self.conns[id].port != Some(at) {
                    self.hand_over(at, id);
                }
                let other = self.conn_of_peer(at, *peer);
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
                // It had only paused.
                conn.leaving = false;
            }
            Op::ReceiveCancel { peer } | Op::PeekCancel { peer } => {
                if let Some(id) = self.conn_of_peer(at, *peer) {
                    self.conns[id].leaving = true;
                }
            }
            Op::PeerClose { peer, socket } => {
                let &id = self
                    .sockets
                    .get(&socket.0)
                    .unwrap_or_else(|| panic!("socket {} is closed twice", socket.0));
                if self.conns[id].port != Some(at) {
                    self.hand_over(at, id);
                }
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
    }

    /// Lets time pass until something has come for the worker, or its time is up. Where others wait
    /// to run as well, it only says when its time is up: the driver lets it turn then.
    fn wait(&mut self, at: usize, timeout: Option<Duration>, alone: bool) {
        self.submit(at);
        let now = self.now_ns();
        let deadline = timeout.map(|timeout| now + timeout.as_nanos() as u64);
        self.ports[at].wake_ns = now;
        if self.chance(self.faults.wake_for_nothing) {
            if self.rng.chance(500) {
                self.complete(at, Completion::Woken);
            }
            self.advance_to(now + TURN_NS);
            return;
        }
        while self.ports[at].arrived.is_empty() {
            let until = if alone {
                deadline.unwrap_or(u64::MAX)
            } else {
                now
            };
            if self.happen(until) {
                continue;
            }
            match deadline {
                Some(deadline) if alone => {
                    self.advance_to(deadline);
                    break;
                }
                None if alone => {
                    self.stalls += 1;
                    self.complete(at, Completion::Woken);
                }
                _ => {
                    self.ports[at].wake_ns = deadline.unwrap_or(u64::MAX).max(now + TURN_NS);
                    return;
                }
            }
        }
        let awake = self.now_ns() + self.rng.between(TURN_NS..=LINGER_NS);
        while self.happen(awake) {}
        self.advance_to(now + TURN_NS);
        let port = &mut self.ports[at];
        if port.arrived.is_empty() && self.agenda.now_ns() <= now + LINGER_NS {
            port.empty_turns += 1;
            assert!(
                port.empty_turns < 20_000,
                "the worker turns and nothing happens"
            );
        } else {
            port.empty_turns = 0;
        }
    }
}

impl Kernel for SimKernel {
    fn push(&mut self, op: Op) {
        if let Op::AckSend {
            peer,
            socket,
            lease,
        } = &op
        {
            self.on_push_send(*peer, *socket, lease);
        }
        let mut world = self.world.borrow_mut();
        world.check_push(self.at, &op);
        if world.is_traced() {
            world.tell(&format!("push {} {op:?}", self.at));
        }
        world.ports[self.at].pushed.push_back(op);
    }

    fn wait(&mut self, timeout: Option<Duration>) -> Result<(), Errno> {
        let mut world = self.world();
        let alone = world.alone;
        world.wait(self.at, timeout, alone);
        Ok(())
    }

    fn reap(&mut self) -> Option<Completion> {
        let mut world = self.world.borrow_mut();
        let arrived = world.ports[self.at].arrived.pop_front()?;
        let mut completion = arrived.completion;
        world.on_reap(self.at, &completion);
        match &mut completion {
            Completion::Received {
                result: Ok(penstock::shard::op::Received::Data(lease)),
                ..
            } => self.tcp.fill(lease.id(), &arrived.bytes),
            Completion::ReceivedFrom {
                result: Ok(bundle), ..
            } => {
                self.udp.fill(bundle.lease.id(), &arrived.bytes);
                if world.lie == Some(Lie::FrameDropped) {
                    bundle.payload.end = bundle.payload.start;
                }
            }
            _ => {}
        }
        if world.is_traced() {
            world.tell(&format!("reap {} {completion:?}", self.at));
        }
        Some(completion)
    }

    fn now(&self) -> Now {
        self.world.borrow().now()
    }

    fn receive_queue(&self, socket: Socket) -> ReceiveQueue {
        let world = self.world.borrow();
        let mut sockets = world.ports[self.at].datagrams().values();
        let queue = sockets.find(|each| each.socket == socket.0);
        ReceiveQueue {
            used: queue.map_or(0, |queue| queue.queue.len() as u64),
            limit: world.sizes.udp_queue_max as u64,
        }
    }

    fn bytes(&self, lease: &Lease) -> &[u8] {
        let (pool, buffers) = (lease.group, lease.id());
        let world = self.world.borrow();
        let port = &world.ports[self.at];
        let bytes = match pool {
            Group::Tcp => {
                port.tcp.must_be_lent(buffers, "read");
                self.tcp.bytes(buffers)
            }
            Group::Udp => {
                port.udp.must_be_lent(buffers, "read");
                self.udp.bytes(buffers)
            }
        };
        &bytes[..lease.len as usize]
    }

    fn give_back(&mut self, lease: Lease) {
        let mut world = self.world.borrow_mut();
        if world.lie == Some(Lie::LeaseKept) && world.rng.chance(20) {
            return;
        }
        let port = &mut world.ports[self.at];
        match lease.group {
            Group::Tcp => {
                port.tcp.give_back(lease.id());
                self.tcp.poison(lease.id());
            }
            Group::Udp => {
                port.udp.give_back(lease.id());
                self.udp.poison(lease.id());
            }
        }
    }

    fn take_send_buffer(&mut self) -> Option<SendLease> {
        let mut world = self.world.borrow_mut();
        let refused = world.faults.send_buffer_refused;
        if world.chance(refused) {
            return None;
        }
        self.send.take(&mut world.rng).map(SendLease::from_fence)
    }

    fn send_bytes_mut(&mut self, lease: &mut SendLease) -> &mut [u8] {
        self.send.must_be_lent(lease.id(), "written");
        self.send_bytes.bytes_mut(lease.id())
    }

    fn give_back_send(&mut self, lease: SendLease) {
        self.send.give_back(lease.id());
        self.send_bytes.poison(lease.id());
    }
}
