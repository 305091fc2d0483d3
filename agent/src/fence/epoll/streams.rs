//! The connections that something is waited for: what of each, and what of it has come.

use agent_common::frame::FRAME_HEADER_LEN;

use super::interest::{BROKEN, Events, Interest, READABLE, WRITABLE};
use super::source::Source;
use crate::fence::buffers::{ReceiveBuffers, SendBuffers};
use crate::fence::socket::{last_errno, peek_now, set_receive_mark};
use crate::shard::op::{Completion, Errno, Peeked, PeerId, Received, SendLease, Socket};

/// One connection with an op in flight. One without has no entry: it may be on its way to another
/// shard.
struct Stream {
    peer: PeerId,
    socket: Socket,
    receiving: bool,
    peeking: bool,
    /// What the socket had no room for.
    sending: Option<SendLease>,
    /// What the epoll set watches it for.
    watched: Events,
}

impl Stream {
    fn wanted(&self) -> Events {
        // A peer that has ended makes its socket readable too.
        let readable = match self.receiving || self.peeking {
            true => READABLE,
            false => 0,
        };
        match self.sending {
            Some(_) => readable | WRITABLE,
            None => readable,
        }
    }
}

/// By slot: there is at most one peer in each.
#[derive(Default)]
pub struct Streams {
    slots: Vec<Option<Stream>>,
}

impl Streams {
    fn get(&mut self, peer: PeerId) -> Option<&mut Stream> {
        let stream = self.slots.get_mut(usize::from(peer.slot))?.as_mut()?;
        (stream.peer == peer).then_some(stream)
    }

    fn entry(&mut self, peer: PeerId, socket: Socket) -> &mut Stream {
        let slot = usize::from(peer.slot);
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        let stream = self.slots[slot].get_or_insert(Stream {
            peer,
            socket,
            receiving: false,
            peeking: false,
            sending: None,
            watched: 0,
        });
        assert_eq!(stream.peer, peer, "a peer that is gone has an op in flight");
        stream
    }

    /// Watches it for an op that was added. Where that cannot be (ENOMEM, or ENOSPC: too low a
    /// fs.epoll.max_user_watches) the op is its only one, and comes back.
    fn arm(&mut self, peer: PeerId, interest: &Interest) -> Result<(), (Errno, Stream)> {
        let stream = self.get(peer).expect("it was just added");
        let (fd, source) = (stream.socket.0, Source::Stream(peer));
        let wanted = stream.wanted();
        let from = std::mem::replace(&mut stream.watched, wanted);
        if from != 0 {
            interest.alter(fd, source, from, stream.watched);
            return Ok(());
        }
        interest.add(fd, source, stream.watched).map_err(|errno| {
            let stream = self.slots[usize::from(peer.slot)].take();
            (errno, stream.expect("it was just added"))
        })
    }

    /// Watches it for one op less. With none left it is forgotten.
    fn disarm(&mut self, peer: PeerId, interest: &Interest) {
        let stream = self.get(peer).expect("an op of it has just ended");
        let wanted = stream.wanted();
        let from = std::mem::replace(&mut stream.watched, wanted);
        interest.alter(stream.socket.0, Source::Stream(peer), from, stream.watched);
        if stream.watched == 0 {
            self.slots[usize::from(peer.slot)] = None;
        }
    }

    /// Whether nothing of it is in flight, as must be where it is closed.
    pub fn is_idle(&mut self, peer: PeerId) -> bool {
        self.get(peer).is_none()
    }

    /// Begins to receive; what comes back is the end of it, where it cannot be.
    pub fn receive(
        &mut self,
        peer: PeerId,
        socket: Socket,
        interest: &Interest,
    ) -> Option<Completion> {
        self.entry(peer, socket).receiving = true;
        let (errno, _) = self.arm(peer, interest).err()?;
        Some(received_last(peer, Err(errno)))
    }

    /// Waits for a whole header: the socket is not ready for less, but for the end.
    pub fn peek(
        &mut self,
        peer: PeerId,
        socket: Socket,
        interest: &Interest,
    ) -> Option<Completion> {
        set_receive_mark(socket, FRAME_HEADER_LEN);
        self.entry(peer, socket).peeking = true;
        let (errno, _) = self.arm(peer, interest).err()?;
        let result = Err(errno);
        Some(Completion::PeerPeeked { peer, result })
    }

    /// Ends a receive, where there is one.
    pub fn cancel_receive(&mut self, peer: PeerId, interest: &Interest) -> Option<Completion> {
        let receives = self.get(peer).is_some_and(|stream| stream.receiving);
        receives.then(|| self.end_receive(peer, Err(Errno(libc::ECANCELED)), interest))
    }

    pub fn cancel_peek(&mut self, peer: PeerId, interest: &Interest) -> Option<Completion> {
        let peeks = self.get(peer).is_some_and(|stream| stream.peeking);
        peeks.then(|| self.end_peek(peer, |_| Err(Errno(libc::ECANCELED)), interest))
    }

    fn end_receive(
        &mut self,
        peer: PeerId,
        result: Result<Received, Errno>,
        interest: &Interest,
    ) -> Completion {
        self.get(peer).expect("it receives").receiving = false;
        self.disarm(peer, interest);
        received_last(peer, result)
    }

    fn end_peek(
        &mut self,
        peer: PeerId,
        look: impl FnOnce(Socket) -> Result<Peeked, Errno>,
        interest: &Interest,
    ) -> Completion {
        let stream = self.get(peer).expect("it peeks");
        stream.peeking = false;
        let socket = stream.socket;
        self.disarm(peer, interest);
        // From here on each byte makes the socket ready.
        set_receive_mark(socket, 1);
        let result = look(socket);
        Completion::PeerPeeked { peer, result }
    }

    /// Sends what the socket has room for; `None` where it has none, and all of it waits.
    pub fn send(
        &mut self,
        peer: PeerId,
        socket: Socket,
        lease: SendLease,
        buffers: &SendBuffers,
        interest: &Interest,
    ) -> Option<Completion> {
        let result = send_now(socket, &lease, buffers);
        if result != Err(Errno(libc::EAGAIN)) {
            return Some(Completion::AckSent {
                peer,
                lease,
                result,
            });
        }
        self.entry(peer, socket).sending = Some(lease);
        let (errno, stream) = self.arm(peer, interest).err()?;
        Some(Completion::AckSent {
            peer,
            lease: stream.sending.expect("its only op"),
            result: Err(errno),
        })
    }

    /// The socket is ready: what waited for that is done, at most one op of each kind.
    pub fn on_ready(
        &mut self,
        peer: PeerId,
        events: Events,
        buffers: (&mut Receiver, &SendBuffers),
        interest: &Interest,
        mut done: impl FnMut(Completion),
    ) {
        let (receiver, send_buffers) = buffers;
        if events & (WRITABLE | BROKEN) != 0
            && let Some(stream) = self.get(peer)
            && let Some(lease) = stream.sending.take()
        {
            match send_now(stream.socket, &lease, send_buffers) {
                Err(Errno(libc::EAGAIN)) => stream.sending = Some(lease),
                result => {
                    self.disarm(peer, interest);
                    done(Completion::AckSent {
                        peer,
                        lease,
                        result,
                    });
                }
            }
        }
        if events & (READABLE | BROKEN) == 0 {
            return;
        }
        let Some(stream) = self.get(peer) else {
            return;
        };
        if stream.peeking {
            done(self.end_peek(peer, peek_now, interest));
        } else if stream.receiving {
            match receiver.receive(stream.socket) {
                Ok(None) => {}
                Ok(Some(Received::Data(lease))) => done(Completion::Received {
                    peer,
                    result: Ok(Received::Data(lease)),
                    more: true,
                }),
                Ok(Some(Received::End)) => {
                    done(self.end_receive(peer, Ok(Received::End), interest))
                }
                Err(errno) => done(self.end_receive(peer, Err(errno), interest)),
            }
        }
    }
}

/// A receive's last word.
fn received_last(peer: PeerId, result: Result<Received, Errno>) -> Completion {
    Completion::Received {
        peer,
        result,
        more: false,
    }
}

/// The receive buffers of all connections.
pub struct Receiver {
    pub buffers: ReceiveBuffers,
    pub free: FreeBuffers,
}

/// Buffers that nobody has. They come back between two waits only.
pub struct FreeBuffers {
    pub ids: Vec<u16>,
    /// None was free when this wait began: those above the fence hold all.
    pub exhausted: bool,
}

impl FreeBuffers {
    pub fn all(count: u16) -> Self {
        Self {
            ids: (0..count).rev().collect(),
            exhausted: false,
        }
    }

    pub fn begin_wait(&mut self) {
        self.exhausted = self.ids.is_empty();
    }
}

impl Receiver {
    /// One buffer's worth; `None` where nothing is there, or where this wait has used all buffers:
    /// the socket is ready again in the next.
    fn receive(&mut self, socket: Socket) -> Result<Option<Received>, Errno> {
        let Some(&id) = self.free.ids.last() else {
            return match self.free.exhausted {
                true => Err(Errno(libc::ENOBUFS)),
                false => Ok(None),
            };
        };
        let address = self.buffers.address(id);
        let room = self.buffers.len();
        // SAFETY: the buffer is free, so nobody looks at it, and has `room` bytes.
        let len = unsafe { libc::recv(socket.0, address.cast(), room, libc::MSG_DONTWAIT) };
        match u32::try_from(len) {
            Ok(0) => Ok(Some(Received::End)),
            Ok(len) => {
                self.free.ids.pop();
                Ok(Some(Received::Data(self.buffers.lease(id, len))))
            }
            Err(_) => match last_errno() {
                Errno(libc::EAGAIN | libc::EINTR) => Ok(None),
                errno => Err(errno),
            },
        }
    }
}

fn send_now(socket: Socket, lease: &SendLease, buffers: &SendBuffers) -> Result<u32, Errno> {
    let (address, len) = buffers.unsent(lease);
    // A peer that is gone is an error to us, not a signal to the process.
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `len` bytes of a send buffer, which is this lease's alone.
    let sent = unsafe { libc::send(socket.0, address.cast(), len as usize, flags) };
    u32::try_from(sent).map_err(|_| last_errno())
}
