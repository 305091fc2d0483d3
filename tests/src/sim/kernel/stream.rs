//! Connections: who knocks is accepted, bytes come in pieces, answers go out as far as they fit.

use penstock::shard::op::{
    Accepted, Completion, Errno, Group, Lease, ListenerId, Peeked, PeerId, Received, Socket,
};

use agent_common::frame::{FRAME_HEADER_LEN, FrameHeader};
use penstock_proto::wire::seal;

use super::super::network::ConnId;
use super::super::producer::{Touch, Wires};
use super::event::Event;
use super::fault::Lie;
use super::world::World;

const ENOBUFS: Errno = Errno(libc::ENOBUFS);

impl World {
    /// Looks at what producers or ops have touched: is there something to deliver?
    pub(super) fn look_at_touched(&mut self) {
        while let Some(touch) = self.touched.pop() {
            match touch {
                Touch::Backlog(at, listener) => self.poke_backlog(at, listener),
                Touch::Connected(id) => self.on_connected(id),
                Touch::Conn(id) => {
                    // A connection that nobody has accepted yet waits for that.
                    if self.conns[id].socket.is_some() || self.conns[id].closed {
                        self.poke_conn(id);
                    }
                }
                Touch::Datagrams(at, listener) => self.poke_datagrams(at, listener),
            }
        }
    }

    /// The kernel picks one of the sockets that listen at the same address.
    fn on_connected(&mut self, id: ConnId) {
        let (agent, listener) = (self.conns[id].agent, self.conns[id].listener);
        let ports: Vec<usize> = (0..self.ports.len())
            .filter(|&at| self.ports[at].agent == agent)
            .filter(|&at| self.ports[at].backlogs().contains_key(&listener))
            .collect();
        let at = match ports[..] {
            [at] => at,
            _ => self.rng.pick(&ports),
        };
        self.conns[id].port = Some(at);
        self.ports[at].backlog_mut(listener).queue.push_back(id);
        self.poke_backlog(at, listener);
    }

    fn poke_backlog(&mut self, at: usize, listener: u16) {
        let delay = self.network_delay();
        let backlog = self.ports[at].backlog_mut(listener);
        if backlog.armed.is_some() && !backlog.due && !backlog.queue.is_empty() {
            backlog.due = true;
            self.after_at(at, delay, Event::Accept(listener));
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
            self.after(delay, Event::Receive(id));
        }
        let delay = self.network_delay();
        let conn = &mut self.conns[id];
        if conn.send.is_some() && (conn.reset || conn.shut) {
            // A blocked send ends when the peer is gone.
            self.after(delay, Event::Send(id));
        }
    }

    /// Cuts a connection from the producer's side, now.
    pub fn cut(&mut self, id: ConnId) {
        self.conns[id].reset = true;
        let producer = self.conns[id].producer;
        self.producers[producer].on_closed(id);
        self.touched.push(Touch::Conn(id));
        self.look_at_touched();
    }

    pub(super) fn on_accept(&mut self, at: usize, listener: u16) {
        let backlog = self.ports[at].backlog_mut(listener);
        backlog.due = false;
        if backlog.armed.is_none() {
            return;
        }
        if self.chance(self.faults.accept_error) {
            let errno = self
                .rng
                .pick(&[libc::ECONNABORTED, libc::EMFILE, libc::ENOBUFS]);
            // Any error ends a multishot accept.
            self.ports[at].backlog_mut(listener).armed = None;
            self.note(
                "accept failed",
                &[at as u64, u64::from(listener), errno as u64],
            );
            self.complete(
                at,
                Completion::Accepted {
                    listener: ListenerId(listener),
                    result: Err(Errno(errno)),
                    more: false,
                },
            );
            return;
        }
        let ends = self.chance(self.faults.multishot_ends);
        let backlog = self.ports[at].backlog_mut(listener);
        let Some(id) = backlog.queue.pop_front() else {
            return;
        };
        if ends {
            backlog.armed = None;
        }
        // Numbers come again, as descriptors do.
        let socket = (200..)
            .find(|number| !self.sockets.contains_key(number))
            .map(Socket)
            .expect("numbers do not run out");
        let conn = &mut self.conns[id];
        conn.socket = Some(socket);
        self.sockets.insert(socket.0, id);
        let address = (!conn.reset).then_some(conn.address);
        self.note("accepted", &[at as u64, id as u64, socket.0 as u64]);
        self.complete(
            at,
            Completion::Accepted {
                listener: ListenerId(listener),
                result: Ok(Accepted { socket, address }),
                more: !ends,
            },
        );
        self.touched.push(Touch::Backlog(at, listener));
    }

    /// The port that works on a connection, and the worker's name for it.
    pub(super) fn owner(&self, id: ConnId) -> (usize, PeerId) {
        let conn = &self.conns[id];
        let port = conn.port.expect("a connection belongs to a port");
        (port, conn.peer.expect("an op names its peer"))
    }

    pub(super) fn end_receive(&mut self, id: ConnId, errno: Errno) {
        self.conns[id].armed = None;
        let (at, peer) = self.owner(id);
        self.complete(
            at,
            Completion::Received {
                peer,
                result: Err(errno),
                more: false,
            },
        );
    }

    pub(super) fn end_peek(&mut self, id: ConnId, result: Result<Peeked, Errno>) {
        let (at, peer) = self.owner(id);
        self.complete(at, Completion::PeerPeeked { peer, result });
    }

    /// The first bytes, which stay where they are.
    fn on_peek(&mut self, id: ConnId) {
        let conn = &mut self.conns[id];
        conn.peeking = false;
        // After a reset what had come before it is still there, as a receive would find it, or not.
        conn.discarded = conn.reset && (conn.queued() == 0 || self.rng.chance(300));
        let result = match conn.discarded {
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

    /// The socket is another worker's now: nothing of it may be in the kernel, and nothing of it
    /// was taken.
    pub(super) fn hand_over(&mut self, at: usize, id: ConnId) {
        let conn = &mut self.conns[id];
        assert!(
            !conn.multishot && !conn.peeking && conn.armed.is_none() && conn.send.is_none(),
            "connection {id} moves with something in flight"
        );
        assert_eq!(
            (conn.unreaped, conn.taken),
            (0, 0),
            "connection {id} moves, and some of it stays behind"
        );
        let from = conn.port.replace(at).expect("somebody has accepted it");
        conn.peer = None;
        assert_eq!(
            self.ports[from].agent, self.ports[at].agent,
            "connection {id} moves to another agent"
        );
        self.struck.handed_over += 1;
        self.note("handed over", &[id as u64, from as u64, at as u64]);
    }

    pub(super) fn on_receive(&mut self, id: ConnId) {
        let conn = &mut self.conns[id];
        conn.due = false;
        if conn.peeking {
            return self.on_peek(id);
        }
        if conn.armed.is_none() {
            return;
        }
        let (at, peer) = self.owner(id);
        let conn = &self.conns[id];
        // What was sent before a reset may still be read, or not.
        let discard = conn.discarded || conn.reset && self.rng.chance(300);
        let conn = &mut self.conns[id];
        let queued = if discard { 0 } else { conn.queued() };
        if queued == 0 {
            if conn.reset {
                self.note("reset", &[id as u64]);
                self.struck.resets += 1;
                self.end_receive(id, Errno(libc::ECONNRESET));
            } else if conn.fin || conn.shut {
                conn.armed = None;
                self.note("end", &[id as u64]);
                self.complete(
                    at,
                    Completion::Received {
                        peer,
                        result: Ok(Received::End),
                        more: false,
                    },
                );
            }
            return;
        }
        let Some(buffer) = self.ports[at].tcp.take(&mut self.rng) else {
            self.note("no tcp buffer", &[id as u64]);
            self.struck.pool_exhausted += 1;
            self.end_receive(id, ENOBUFS);
            return;
        };
        let most = queued.min(self.ports[at].tcp.buffer_len());
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
        let mut bytes = conn.sent[conn.taken..][..len].to_vec();
        if self.lie == Some(Lie::FrameForged) {
            forge(&mut bytes);
        }
        conn.taken += len;
        if self.chance(self.faults.multishot_ends) {
            self.conns[id].armed = None;
        }
        let more = self.conns[id].armed.is_some();
        self.note("received", &[id as u64, len as u64, u64::from(more)]);
        let lease = Lease::from_fence(Group::Tcp, buffer, len as u32);
        self.complete_with(
            at,
            Completion::Received {
                peer,
                result: Ok(Received::Data(lease)),
                more,
            },
            bytes,
        );
        self.touched.push(Touch::Conn(id));
    }

    pub(super) fn on_send(&mut self, id: ConnId) {
        let Some(lease) = self.conns[id].send.take() else {
            return;
        };
        let (at, peer) = self.owner(id);
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
            self.complete(
                at,
                Completion::AckSent {
                    peer,
                    lease,
                    result: Err(Errno(errno)),
                },
            );
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
        self.complete(
            at,
            Completion::AckSent {
                peer,
                lease,
                result: Ok(len as u32),
            },
        );
        let deaf = self.producers[self.conns[id].producer].is_deaf();
        if !deaf && !self.conns[id].answers_due {
            self.conns[id].answers_due = true;
            let delay = self.network_delay();
            self.after(delay, Event::Answers(id));
        }
    }

    pub(super) fn on_answers(&mut self, id: ConnId) {
        self.conns[id].answers_due = false;
        if self.conns[id].dead {
            return;
        }
        if !self.conns[id].reset {
            self.read_answers(id);
        }
        if self.conns[id].send.is_some() {
            let delay = self.network_delay();
            self.after(delay, Event::Send(id));
        }
    }

    pub(super) fn read_answers(&mut self, id: ConnId) {
        let now_ns = self.now_ns();
        let conn = &mut self.conns[id];
        let producer = &mut self.producers[conn.producer];
        producer.on_answers(id, conn, &self.book, now_ns);
    }

    pub(super) fn on_peer_close(&mut self, id: ConnId, peer: PeerId) {
        if self.conns[id].dead {
            return;
        }
        self.note("closed", &[id as u64]);
        let conn = &mut self.conns[id];
        conn.closed = true;
        conn.socket = None;
        let at = conn.port.expect("a connection belongs to a port");
        self.complete(at, Completion::PeerClosed { peer });
        let delay = self.network_delay();
        self.after(delay, Event::PeerGone(id));
    }

    pub(super) fn on_peer_gone(&mut self, id: ConnId) {
        if self.conns[id].dead {
            return;
        }
        // Answers on the way arrive first, unless a reset overtakes them: that is sent where the
        // agent had not read everything.
        if self.conns[id].queued() == 0 || self.rng.chance(500) {
            self.read_answers(id);
        }
        let producer = self.conns[id].producer;
        self.producers[producer].on_closed(id);
    }

    pub(super) fn on_producer(&mut self, index: usize) {
        let mut wires = Wires {
            faults: self.now_ns() < self.faults_since_ns + self.faults.until_ns,
            now_ns: self.agenda.now_ns(),
            conns: &mut self.conns,
            book: &mut self.book,
            touched: &mut self.touched,
            struck: &mut self.struck,
        };
        if let Some(pause) = self.producers[index].wake(&mut wires) {
            self.after(pause, Event::Producer(index));
        }
    }

    /// Lets somebody from outside act on the connections.
    pub fn with_wires<R>(&mut self, act: impl FnOnce(&mut Wires<'_>) -> R) -> R {
        let mut wires = Wires {
            faults: self.now_ns() < self.faults_since_ns + self.faults.until_ns,
            now_ns: self.agenda.now_ns(),
            conns: &mut self.conns,
            book: &mut self.book,
            touched: &mut self.touched,
            struck: &mut self.struck,
        };
        let outcome = act(&mut wires);
        self.look_at_touched();
        outcome
    }
}

/// Changes the first body in bytes that begin with a whole frame, and mends its checksums.
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
