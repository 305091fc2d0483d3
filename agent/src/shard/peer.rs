//! Connections: what is true of each now, and the acknowledgements that wait to be sent.

use std::collections::VecDeque;
use std::net::SocketAddr;

use penstock_proto::wire::{ACK_LEN, Ack};

use crate::gate::source_connections::SourcePlace;
use crate::journal::dedup::Known;
use crate::limits;
use crate::shard::counters::CloseReason;
use crate::shard::op::{ListenerId, PeerId, Socket};
use crate::shard::tenant::TenantSlot;
use crate::source::tcp::Reader;

/// Where a connection's life stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Frames come in, acknowledgements go out.
    Streaming,
    /// Nothing more is read; what is in the journal is still acknowledged.
    Finishing { reason: CloseReason, since_ns: u64 },
    /// Everything was said and the sending side is shut; what the peer still sends is read and
    /// thrown away until it closes. A close with unread bytes would reset the connection, and a
    /// reset takes acknowledgements with it that the peer has not read yet.
    Lingering { reason: CloseReason, since_ns: u64 },
    /// Nothing more is sent either; waits until nothing of it is in the kernel.
    Closing,
    /// The close itself is in the kernel.
    Closed,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    pub socket: Socket,
    pub listener: ListenerId,
    pub address: Option<SocketAddr>,
    /// Its place among its source's; `None` where the address is not known.
    pub place: Option<SourcePlace>,
    pub phase: Phase,
    pub reader: Reader,
    /// Set by the first frame: a stream's frames are all of one producer.
    pub producer: Option<u64>,
    /// Where that producer stands among those that the shard remembers.
    pub known: Known,
    pub acks: AckQueue,
    /// Frames in the journal that are still to be acknowledged.
    pub waiting: u64,
    /// A multishot receive is in the kernel; or a look at the first frame's header.
    pub receiving: bool,
    /// It is the latter.
    pub peeking: bool,
    /// A send is in the kernel.
    pub sending: bool,
    /// The journal takes nothing: not read before this time; 0 where it is read.
    pub paused_until_ns: u64,
    /// Its tenant has what it may have: not read before this time; 0 where it is read.
    pub throttled_until_ns: u64,
    /// Where its producer is accounted for; set by the first frame, where there are tenants.
    pub tenant: Option<TenantSlot>,
    /// Already on the worker's list of connections with something to send or to close.
    pub touched: bool,
}

impl Connection {
    pub fn new(socket: Socket, listener: ListenerId, address: Option<SocketAddr>) -> Self {
        Self {
            socket,
            listener,
            address,
            place: None,
            phase: Phase::Streaming,
            reader: Reader::default(),
            producer: None,
            known: Known::default(),
            acks: AckQueue::default(),
            waiting: 0,
            receiving: false,
            peeking: false,
            sending: false,
            paused_until_ns: 0,
            throttled_until_ns: 0,
            tenant: None,
            touched: false,
        }
    }

    /// Whether everything that will be acknowledged has been.
    pub fn is_settled(&self) -> bool {
        self.waiting == 0 && self.acks.is_empty() && !self.sending
    }
}

/// Acknowledgements that wait for their connection, neighbours merged.
#[derive(Debug, Default)]
pub struct AckQueue {
    acks: VecDeque<Ack>,
}

impl AckQueue {
    /// Adds an acknowledgement; `false` where too many wait, as the peer reads none.
    #[must_use]
    pub fn push(&mut self, ack: Ack) -> bool {
        if let Some(last) = self.acks.back_mut()
            && (last.status, last.reason, last.producer) == (ack.status, ack.reason, ack.producer)
            && last.sequence.wrapping_add(u64::from(ack.count)) == ack.sequence
            && ack.producer != 0
        {
            last.sequence = ack.sequence;
            last.count += ack.count;
            return true;
        }
        if self.acks.len() >= limits::ACKS_WAITING_MAX {
            return false;
        }
        self.acks.push_back(ack);
        true
    }

    pub fn is_empty(&self) -> bool {
        self.acks.is_empty()
    }

    pub fn clear(&mut self) {
        self.acks.clear();
    }

    /// Writes as many as fit and returns the bytes written; `each` sees every one of them.
    pub fn write(&mut self, out: &mut [u8], mut each: impl FnMut(&Ack)) -> usize {
        let count = (out.len() / ACK_LEN).min(self.acks.len());
        for (ack, place) in self.acks.drain(..count).zip(out.chunks_exact_mut(ACK_LEN)) {
            place.copy_from_slice(&ack.write());
            each(&ack);
        }
        count * ACK_LEN
    }
}

/// All connections of a shard, by slot; a slot's generation rises with each use.
#[derive(Debug)]
pub struct PeerTable {
    slots: Vec<Slot>,
    free: Vec<u16>,
}

#[derive(Debug)]
struct Slot {
    generation: u16,
    connection: Option<Box<Connection>>,
}

impl PeerTable {
    pub fn new(connections_max: usize) -> Self {
        assert!(
            connections_max <= usize::from(u16::MAX),
            "slots are numbered by u16"
        );
        let slots = (0..connections_max).map(|_| Slot {
            generation: 0,
            connection: None,
        });
        Self {
            slots: slots.collect(),
            free: (0..connections_max as u16).rev().collect(),
        }
    }

    /// A new connection's id, or the connection back where the table is full.
    pub fn insert(&mut self, connection: Box<Connection>) -> Result<PeerId, Box<Connection>> {
        let Some(slot) = self.free.pop() else {
            return Err(connection);
        };
        let entry = &mut self.slots[usize::from(slot)];
        entry.connection = Some(connection);
        Ok(PeerId {
            slot,
            generation: entry.generation,
        })
    }

    /// The connection, unless it is gone.
    #[inline]
    pub fn get_mut(&mut self, peer: PeerId) -> Option<&mut Connection> {
        let slot = &mut self.slots[usize::from(peer.slot)];
        if slot.generation != peer.generation {
            return None;
        }
        slot.connection.as_deref_mut()
    }

    /// Which listener a connection came in by, unless it is gone.
    pub fn listener_of(&self, peer: PeerId) -> Option<ListenerId> {
        let slot = &self.slots[usize::from(peer.slot)];
        let is_it = slot.generation == peer.generation;
        let connection = slot.connection.as_deref().filter(|_| is_it)?;
        Some(connection.listener)
    }

    pub fn remove(&mut self, peer: PeerId) -> Connection {
        let slot = &mut self.slots[usize::from(peer.slot)];
        assert_eq!(slot.generation, peer.generation, "a peer is removed once");
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(peer.slot);
        *slot.connection.take().expect("a peer is removed once")
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Slots, used or not.
    pub fn slots(&self) -> u16 {
        self.slots.len() as u16
    }

    /// The connection in a slot.
    pub fn at(&self, slot: u16) -> Option<PeerId> {
        let entry = &self.slots[usize::from(slot)];
        entry.connection.as_ref()?;
        Some(PeerId {
            slot,
            generation: entry.generation,
        })
    }

    pub fn ids(&self) -> impl Iterator<Item = PeerId> + '_ {
        (0..self.slots()).filter_map(|slot| self.at(slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_proto::wire::AckStatus;

    fn ack(status: AckStatus, sequence: u64, count: u32) -> Ack {
        Ack {
            status,
            reason: 0,
            producer: 9,
            sequence,
            retry_after_ms: 0,
            count,
        }
    }

    #[test]
    fn neighbours_are_merged_and_nothing_else() {
        let mut queue = AckQueue::default();
        for one in [
            ack(AckStatus::Durable, 2, 2),
            ack(AckStatus::Durable, 3, 1),
            ack(AckStatus::Durable, 5, 1),
            ack(AckStatus::Refused, 6, 1),
            ack(AckStatus::Durable, 7, 1),
        ] {
            assert!(queue.push(one));
        }
        let mut seen = Vec::new();
        let mut out = [0; 3 * ACK_LEN + 5];
        assert_eq!(
            queue.write(&mut out, |ack| seen.push((ack.sequence, ack.count))),
            96
        );
        assert_eq!(
            queue.write(&mut out, |ack| seen.push((ack.sequence, ack.count))),
            32
        );
        assert_eq!(seen, [(3, 3), (5, 1), (6, 1), (7, 1)]);
    }

    #[test]
    fn a_peer_that_reads_nothing_is_told_apart() {
        let mut queue = AckQueue::default();
        let taken = (0..)
            .take_while(|n| queue.push(ack(AckStatus::Durable, 2 * n, 1)))
            .count();
        assert_eq!(taken, limits::ACKS_WAITING_MAX);
    }

    #[test]
    fn a_slot_used_again_is_another_peer() {
        let mut table = PeerTable::new(1);
        let new = || Box::new(Connection::new(Socket(3), ListenerId(0), None));
        let first = table.insert(new()).unwrap();
        assert!(table.insert(new()).is_err(), "full");
        table.remove(first);
        let second = table.insert(new()).unwrap();
        assert_eq!(first.slot, second.slot);
        assert!(table.get_mut(first).is_none());
        assert!(table.get_mut(second).is_some());
    }
}
