//! One shard's epoll: ops are begun in `wait`, what is ready becomes `Completion`s.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use super::datagrams::Batch;
use super::files::{Files, Job, close};
use super::interest::{Events, Interest, READABLE};
use super::source::Source;
use super::streams::{FreeBuffers, Receiver, Streams};
use crate::fence::buffers::{ReceiveBuffers, SendBuffers};
use crate::fence::folder::JournalFolder;
use crate::fence::socket::{accepted, last_errno, set_nonblocking, shutdown};
use crate::fence::{FenceError, FencePlan, clock, failed, wake};
use crate::limits;
use crate::shard::op::{
    Completion, Errno, Group, Kernel, Lease, ListenerId, Now, Op, ReceiveQueue, SendLease, Socket,
};

/// The other real kernel of a worker.
pub struct Poll {
    interest: Interest,
    /// Pushed, and not begun.
    pushed: Vec<Op>,
    /// For `reap`: no more than there are buffers, ops in flight, and accepts of one wait.
    ready: VecDeque<Completion>,
    /// Listeners that accept, and those that receive, by id.
    accepting: Vec<Option<Socket>>,
    receiving: Vec<Option<Socket>>,
    streams: Streams,
    tcp: Receiver,
    udp: Receiver,
    batch: Batch,
    send: SendBuffers,
    files: Files,
    wake: OwnedFd,
    /// Waits so far: each begins with another of the ready sources.
    turn: usize,
}

impl Poll {
    pub fn new(plan: FencePlan) -> Result<Self, FenceError> {
        let interest = Interest::new().map_err(failed("epoll_create1"))?;
        let folder = JournalFolder::open(&plan.folder)?;
        let files = Files::start(folder, plan.blocks)?;
        for (watched, source) in [(&plan.wake, Source::Wake), (files.bell(), Source::Files)] {
            interest
                .add(watched.as_raw_fd(), source, READABLE)
                .map_err(|errno| failed("epoll_ctl")(errno.into()))?;
        }
        let receiver = |group, count, len| {
            let buffers = ReceiveBuffers::new(group, count, len);
            let free = FreeBuffers::all(buffers.count());
            Receiver { buffers, free }
        };
        Ok(Self {
            interest,
            pushed: Vec::new(),
            ready: VecDeque::with_capacity(plan.tcp_buffers + plan.udp_buffers),
            accepting: Vec::new(),
            receiving: Vec::new(),
            streams: Streams::default(),
            tcp: receiver(Group::Tcp, plan.tcp_buffers, limits::TCP_BUFFER_LEN),
            udp: receiver(Group::Udp, plan.udp_buffers, limits::UDP_BUFFER_LEN),
            batch: Batch::new(),
            send: SendBuffers::new(plan.send_buffers),
            files,
            wake: plan.wake,
            turn: 0,
        })
    }

    fn begin(&mut self, op: Op) {
        let Self {
            interest, streams, ..
        } = self;
        let completion = match op {
            Op::Accept { listener, socket } => self.start_accept(listener, socket),
            Op::AcceptCancel { listener } => self.end_accept(listener, Errno(libc::ECANCELED)),
            Op::ReceiveFrom { listener, socket } => self.start_receive_from(listener, socket),
            Op::ReceiveFromCancel { listener } => {
                self.end_receive_from(listener, Errno(libc::ECANCELED))
            }
            Op::Receive { peer, socket } => streams.receive(peer, socket, interest),
            Op::ReceiveCancel { peer } => streams.cancel_receive(peer, interest),
            Op::PeerPeek { peer, socket } => streams.peek(peer, socket, interest),
            Op::PeekCancel { peer } => streams.cancel_peek(peer, interest),
            Op::AckSend {
                peer,
                socket,
                lease,
            } => streams.send(peer, socket, lease, &self.send, interest),
            Op::PeerShutdown { .. } | Op::PeerEnd { .. } => {
                unreachable!("done when it was pushed")
            }
            Op::PeerClose { peer, socket } => {
                assert!(streams.is_idle(peer), "{peer:?} has an op in flight");
                // What close says of a socket nobody can act on.
                let _ = close(socket.0);
                Some(Completion::PeerClosed { peer })
            }
            Op::SegmentOpen { number } => self.file(Job::Open { number }),
            Op::SegmentAllocate { number, file, len } => {
                self.file(Job::Allocate { number, file, len })
            }
            Op::FolderSync { number } => self.file(Job::FolderSync { number }),
            Op::JournalWrite {
                file,
                block,
                offset,
                len,
            } => self.file(Job::Write {
                file,
                block,
                offset,
                len,
            }),
            Op::JournalSync { file, segment } => self.file(Job::Sync { file, segment }),
            Op::SegmentClose { number, file } => self.file(Job::Close { number, file }),
            Op::SegmentRemove { number } => self.file(Job::Remove { number }),
        };
        self.ready.extend(completion);
    }

    fn file(&mut self, job: Job) -> Option<Completion> {
        self.files.push(job);
        None
    }

    fn start_accept(&mut self, listener: ListenerId, socket: Socket) -> Option<Completion> {
        // A connection that made the socket ready may be gone before it is accepted.
        set_nonblocking(socket);
        let source = Source::Listening(listener);
        let armed = &mut self.accepting;
        let errno = start(armed, &self.interest, (listener, socket), source).err()?;
        Some(accept_ended(listener, errno))
    }

    fn end_accept(&mut self, listener: ListenerId, errno: Errno) -> Option<Completion> {
        let source = Source::Listening(listener);
        let armed = &mut self.accepting;
        let ended = end(armed, &self.interest, listener, source);
        ended.then(|| accept_ended(listener, errno))
    }

    fn start_receive_from(&mut self, listener: ListenerId, socket: Socket) -> Option<Completion> {
        let source = Source::Datagrams(listener);
        let armed = &mut self.receiving;
        let errno = start(armed, &self.interest, (listener, socket), source).err()?;
        Some(receive_from_ended(listener, errno))
    }

    fn end_receive_from(&mut self, listener: ListenerId, errno: Errno) -> Option<Completion> {
        let source = Source::Datagrams(listener);
        let armed = &mut self.receiving;
        let ended = end(armed, &self.interest, listener, source);
        ended.then(|| receive_from_ended(listener, errno))
    }

    fn on_ready(&mut self, source: Source, events: Events) {
        let ready = &mut self.ready;
        let done = |completion| ready.push_back(completion);
        match source {
            Source::Wake => {
                wake::drain(&self.wake);
                ready.push_back(Completion::Woken);
            }
            Source::Files => self.files.take_done(done),
            Source::Listening(listener) => self.accept(listener),
            Source::Datagrams(listener) => self.receive_from(listener),
            Source::Stream(peer) => {
                let buffers = (&mut self.tcp, &self.send);
                self.streams
                    .on_ready(peer, events, buffers, &self.interest, done);
            }
        }
    }

    fn accept(&mut self, listener: ListenerId) {
        let Some(Some(socket)) = self.accepting.get(usize::from(listener.0)).copied() else {
            return;
        };
        for _ in 0..limits::ACCEPT_BATCH {
            let (no_address, no_len) = (std::ptr::null_mut(), std::ptr::null_mut());
            // SAFETY: no address is asked for; the listener's socket is open while it accepts.
            let fd = unsafe { libc::accept4(socket.0, no_address, no_len, libc::SOCK_CLOEXEC) };
            if fd >= 0 {
                self.ready.push_back(Completion::Accepted {
                    listener,
                    result: Ok(accepted(fd)),
                    more: true,
                });
                continue;
            }
            match last_errno() {
                Errno(libc::EINTR) => {}
                Errno(libc::EAGAIN) => return,
                errno => {
                    let ended = self.end_accept(listener, errno);
                    return self.ready.extend(ended);
                }
            }
        }
    }

    fn receive_from(&mut self, listener: ListenerId) {
        let Some(Some(socket)) = self.receiving.get(usize::from(listener.0)).copied() else {
            return;
        };
        let Receiver { buffers, free } = &mut self.udp;
        if free.ids.is_empty() && !free.exhausted {
            // Another listener has used them up in this wait: it is ready again in the next.
            return;
        }
        let ready = &mut self.ready;
        let take = |bundle| {
            ready.push_back(Completion::ReceivedFrom {
                listener,
                result: Ok(bundle),
                more: true,
            });
        };
        let received = match free.ids.is_empty() {
            true => Err(Errno(libc::ENOBUFS)),
            false => self.batch.receive(socket, buffers, &mut free.ids, take),
        };
        match received {
            Ok(()) | Err(Errno(libc::EAGAIN | libc::EINTR)) => {}
            Err(errno) => {
                let ended = self.end_receive_from(listener, errno);
                self.ready.extend(ended);
            }
        }
    }
}

impl Kernel for Poll {
    fn push(&mut self, op: Op) {
        match op {
            Op::PeerShutdown { socket, .. } => shutdown(socket, libc::SHUT_RDWR),
            Op::PeerEnd { socket, .. } => shutdown(socket, libc::SHUT_WR),
            op => self.pushed.push(op),
        }
    }

    fn wait(&mut self, timeout: Option<Duration>) -> Result<(), Errno> {
        let mut pushed = std::mem::take(&mut self.pushed);
        for op in pushed.drain(..) {
            self.begin(op);
        }
        self.pushed = pushed;
        // With something to reap it only looks.
        let timeout = match self.ready.is_empty() {
            true => timeout,
            false => Some(Duration::ZERO),
        };
        self.tcp.free.begin_wait();
        self.udp.free.begin_wait();
        let count = self.interest.wait(timeout)?;
        // The kernel keeps their order: without this the first ones would always get the buffers.
        self.turn = self.turn.wrapping_add(1);
        for index in 0..count {
            let (source, events) = self.interest.ready((index + self.turn) % count);
            self.on_ready(source, events);
        }
        Ok(())
    }

    fn reap(&mut self) -> Option<Completion> {
        self.ready.pop_front()
    }

    fn now(&self) -> Now {
        clock::now()
    }

    fn receive_queue(&self, socket: Socket) -> ReceiveQueue {
        crate::fence::receive_queue(socket.0)
    }

    fn bytes(&self, lease: &Lease) -> &[u8] {
        match lease.group {
            Group::Tcp => self.tcp.buffers.bytes(lease),
            Group::Udp => self.udp.buffers.bytes(lease),
        }
    }

    fn give_back(&mut self, lease: Lease) {
        match lease.group {
            Group::Tcp => self.tcp.free.ids.push(lease.id()),
            Group::Udp => self.udp.free.ids.push(lease.id()),
        }
    }

    fn take_send_buffer(&mut self) -> Option<SendLease> {
        self.send.take()
    }

    fn send_bytes_mut(&mut self, lease: &mut SendLease) -> &mut [u8] {
        self.send.bytes_mut(lease)
    }

    fn give_back_send(&mut self, lease: SendLease) {
        self.send.give_back(lease);
    }
}

/// An accept's last word.
fn accept_ended(listener: ListenerId, errno: Errno) -> Completion {
    Completion::Accepted {
        listener,
        result: Err(errno),
        more: false,
    }
}

/// The last word of a receive from a UDP socket.
fn receive_from_ended(listener: ListenerId, errno: Errno) -> Completion {
    Completion::ReceivedFrom {
        listener,
        result: Err(errno),
        more: false,
    }
}

/// By listener: made longer where need be, up to `LISTENERS_MAX`.
fn start(
    armed: &mut Vec<Option<Socket>>,
    interest: &Interest,
    (id, socket): (ListenerId, Socket),
    source: Source,
) -> Result<(), Errno> {
    let index = usize::from(id.0);
    if armed.len() <= index {
        armed.resize(index + 1, None);
    }
    assert_eq!(armed[index], None, "{id:?} is armed twice");
    interest.add(socket.0, source, READABLE)?;
    armed[index] = Some(socket);
    Ok(())
}

/// Whether there was something to end.
fn end(armed: &mut [Option<Socket>], interest: &Interest, id: ListenerId, source: Source) -> bool {
    let socket = armed.get_mut(usize::from(id.0)).and_then(Option::take);
    if let Some(socket) = socket {
        interest.alter(socket.0, source, READABLE, 0);
    }
    socket.is_some()
}
