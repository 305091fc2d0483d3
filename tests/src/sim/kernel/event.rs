//! What is under way in a world, and which handler it goes to.

use penstock::shard::buffer::BlockId;
use penstock::shard::op::{Completion, Errno, ListenerId, PeerId, SegmentFile};

use super::super::disk::{FolderTicket, SyncTicket, WriteId};
use super::super::network::ConnId;
use super::world::World;

pub(super) const ECANCELED: Errno = Errno(libc::ECANCELED);

/// Something that will happen. What belongs to one life of a port comes to nothing once that life
/// is over.
pub(super) struct Due {
    /// The port, and which of its lives.
    pub port: Option<(usize, u32)>,
    pub event: Event,
}

pub(super) enum Event {
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
    JournalWrite(JournalWrite),
    JournalSync(u64, SegmentFile, SyncTicket),
    SegmentClose(u64, SegmentFile),
    SegmentRemove(u64),
}

/// A block on its way to the disk.
pub(super) struct JournalWrite {
    pub file: SegmentFile,
    pub block: BlockId,
    pub offset: u64,
    pub write: WriteId,
    pub len: usize,
}

impl World {
    /// Lets the next event happen, if one is due at `until_ns` or before.
    pub fn happen(&mut self, until_ns: u64) -> bool {
        let Some(due) = self.agenda.pop(until_ns) else {
            return false;
        };
        match due.port {
            None => self.on_event(due.event),
            Some((at, life)) if self.ports[at].life == life => self.on_port_event(at, due.event),
            Some(_) => {}
        }
        self.look_at_touched();
        true
    }

    /// Of connections, producers and senders.
    fn on_event(&mut self, event: Event) {
        match event {
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
            Event::Send(id) => self.on_send(id),
            Event::Answers(id) => self.on_answers(id),
            Event::PeerClose(id, peer) => self.on_peer_close(id, peer),
            Event::PeerGone(id) => self.on_peer_gone(id),
            Event::Producer(index) => self.on_producer(index),
            Event::Sender(index) => self.on_sender(index),
            _ => unreachable!("an event of a port without one"),
        }
    }

    /// Of one port's listeners and its disk.
    fn on_port_event(&mut self, at: usize, event: Event) {
        match event {
            Event::Accept(listener) => self.on_accept(at, listener),
            Event::AcceptCancel(listener, serial) => {
                let backlog = self.ports[at].backlog_mut(listener);
                if backlog.armed == Some(serial) {
                    backlog.armed = None;
                    self.note("accept cancelled", &[at as u64, u64::from(listener)]);
                    self.complete(
                        at,
                        Completion::Accepted {
                            listener: ListenerId(listener),
                            result: Err(ECANCELED),
                            more: false,
                        },
                    );
                }
            }
            Event::ReceiveFrom(listener) => self.on_receive_from(at, listener),
            Event::ReceiveFromCancel(listener, serial) => {
                let socket = self.ports[at].datagrams_mut(listener);
                if socket.armed == Some(serial) {
                    socket.armed = None;
                    self.note("receive from cancelled", &[at as u64, u64::from(listener)]);
                    self.complete(
                        at,
                        Completion::ReceivedFrom {
                            listener: ListenerId(listener),
                            result: Err(ECANCELED),
                            more: false,
                        },
                    );
                }
            }
            Event::SegmentOpen(number) => self.on_segment_open(at, number),
            Event::SegmentAllocate(number, file, len) => {
                self.on_segment_allocate(at, number, file, len);
            }
            Event::FolderSync(number, ticket) => self.on_folder_sync(at, number, ticket),
            Event::JournalWrite(write) => self.on_write(at, write),
            Event::JournalSync(segment, file, ticket) => self.on_sync(at, segment, file, ticket),
            Event::SegmentClose(number, file) => self.on_segment_close(at, number, file),
            Event::SegmentRemove(number) => self.on_segment_remove(at, number),
            _ => unreachable!("an event of no port, with one"),
        }
    }
}
