//! The closed list of what a worker asks of the kernel, and what comes back: plain data.
//!
//! A handler pushes an [`Op`] that names buffers by id; the fence (`fence/`) does it, and what became
//! of it comes back as a [`Completion`] named after the op. A test can answer each op with any
//! completion it likes: the whole daemon above the fence runs without a kernel.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use agent_common::frame::FRAME_HEADER_LEN;

use crate::shard::buffer::BlockId;

/// A connection's slot in its shard, with the slot's generation: a completion for a peer that is
/// gone names a generation that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId {
    pub slot: u16,
    pub generation: u16,
}

/// A configured listener's index; the same on every shard, in the journal and in the gate's maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub u16);

/// A socket as the fence knows it (a file descriptor; any number in the simulator).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Socket(pub i32);

/// An open segment file as the fence knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentFile(pub i32);

/// An error number of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

/// Which pool a receive buffer is from: UDP and TCP never wait for each other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Tcp,
    Udp,
}

/// A receive buffer on loan from the kernel side: `len` bytes of it are filled. Given back exactly
/// once, by [`Kernel::give_back`]; it can be neither copied nor made by a handler.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a lease must be given back"]
pub struct Lease {
    pub group: Group,
    pub(crate) id: u16,
    pub len: u32,
}

impl Lease {
    /// Only a fence makes leases: one for each buffer that it takes off its ring.
    pub fn from_fence(group: Group, id: u16, len: u32) -> Self {
        Self { group, id, len }
    }

    pub fn id(&self) -> u16 {
        self.id
    }
}

/// A send buffer of `limits::SEND_BUFFER_LEN` bytes on loan; `sent..filled` is still to be sent.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a send buffer must be sent or given back"]
pub struct SendLease {
    pub(crate) id: u16,
    pub sent: u32,
    pub filled: u32,
}

impl SendLease {
    /// Only a fence makes leases.
    pub fn from_fence(id: u16) -> Self {
        Self {
            id,
            sent: 0,
            filled: 0,
        }
    }

    pub fn id(&self) -> u16 {
        self.id
    }
}

/// What a worker asks for.
#[derive(Debug)]
pub enum Op {
    /// Accept connections until cancelled.
    Accept {
        listener: ListenerId,
        socket: Socket,
    },
    /// Receive from a connection, buffer after buffer, until cancelled or out of buffers.
    Receive {
        peer: PeerId,
        socket: Socket,
    },
    /// Wait until a frame's header has come, or the end, and look at it; it stays in the socket.
    PeerPeek {
        peer: PeerId,
        socket: Socket,
    },
    PeekCancel {
        peer: PeerId,
    },
    /// Receive bundles from a UDP socket until cancelled or out of buffers.
    ReceiveFrom {
        listener: ListenerId,
        socket: Socket,
    },
    /// End a multishot op; its own completion then comes with `more` false.
    AcceptCancel {
        listener: ListenerId,
    },
    ReceiveCancel {
        peer: PeerId,
    },
    ReceiveFromCancel {
        listener: ListenerId,
    },
    /// Send `lease.sent..lease.filled`.
    AckSend {
        peer: PeerId,
        socket: Socket,
        lease: SendLease,
    },
    /// Shut a connection down, both ways, so that a send that waits for its peer ends. It has no
    /// completion of its own: the send's says what became of it.
    PeerShutdown {
        peer: PeerId,
        socket: Socket,
    },
    /// Send nothing more: the peer sees the stream's end behind the last acknowledgement. Receiving
    /// goes on. It has no completion.
    PeerEnd {
        peer: PeerId,
        socket: Socket,
    },
    /// Close a connection's socket; nothing of the peer may be in flight any more.
    PeerClose {
        peer: PeerId,
        socket: Socket,
    },
    /// Create the segment's file, exclusively, for direct writes where the file system allows.
    SegmentOpen {
        number: u64,
    },
    /// Preallocate `len` bytes.
    SegmentAllocate {
        number: u64,
        file: SegmentFile,
        len: u64,
    },
    /// Sync the journal's folder, so that the file's name is durable.
    FolderSync {
        number: u64,
    },
    /// Write the first `len` bytes of a block at `offset`; both are multiples of 4096.
    JournalWrite {
        file: SegmentFile,
        block: BlockId,
        offset: u64,
        len: u32,
    },
    /// fdatasync: makes durable the writes that had completed when this was pushed, no others.
    JournalSync {
        file: SegmentFile,
        segment: u64,
    },
    SegmentClose {
        number: u64,
        file: SegmentFile,
    },
    /// Unlink the segment's file, and sync the folder: the completion says that it will not come
    /// back.
    SegmentRemove {
        number: u64,
    },
}

/// What comes back. `more` says whether a multishot op goes on.
#[derive(Debug)]
pub enum Completion {
    Accepted {
        listener: ListenerId,
        result: Result<Accepted, Errno>,
        more: bool,
    },
    Received {
        peer: PeerId,
        result: Result<Received, Errno>,
        more: bool,
    },
    PeerPeeked {
        peer: PeerId,
        result: Result<Peeked, Errno>,
    },
    ReceivedFrom {
        listener: ListenerId,
        result: Result<Bundle, Errno>,
        more: bool,
    },
    AckSent {
        peer: PeerId,
        lease: SendLease,
        result: Result<u32, Errno>,
    },
    PeerClosed {
        peer: PeerId,
    },
    SegmentOpened {
        number: u64,
        result: Result<SegmentFile, Errno>,
    },
    SegmentAllocated {
        number: u64,
        result: Result<(), Errno>,
    },
    FolderSynced {
        number: u64,
        result: Result<(), Errno>,
    },
    JournalWritten {
        block: BlockId,
        result: Result<u32, Errno>,
    },
    JournalSynced {
        segment: u64,
        result: Result<(), Errno>,
    },
    SegmentClosed {
        number: u64,
        result: Result<(), Errno>,
    },
    SegmentRemoved {
        number: u64,
        result: Result<(), Errno>,
    },
    /// Another thread left a message for the worker.
    Woken,
}

/// A new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub socket: Socket,
    /// `None` where the peer was gone before it could be asked.
    pub address: Option<SocketAddr>,
}

/// What a stream gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    Data(Lease),
    /// The peer has sent all it will send.
    End,
}

/// The first bytes of a stream: a frame's header, or what there is before the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peeked {
    pub head: [u8; FRAME_HEADER_LEN],
    pub len: usize,
}

impl Peeked {
    pub fn bytes(&self) -> &[u8] {
        &self.head[..self.len]
    }
}

/// The datagrams of one sender that GRO handed over as one, or a single datagram.
#[derive(Debug, PartialEq, Eq)]
pub struct Bundle {
    pub lease: Lease,
    pub from: Option<SocketAddr>,
    /// Where the datagrams stand within the lease's bytes, back to back.
    pub payload: Range<u32>,
    /// Length of each datagram but the last, which may be shorter; `None`: a single datagram.
    pub segment_len: Option<u16>,
    /// The buffer was too short (MSG_TRUNC): the last datagram is cut.
    pub truncated: bool,
}

/// What waits in a UDP socket, with the kernel's overhead, and what may; zeroes where the kernel does
/// not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveQueue {
    pub used: u64,
    pub limit: u64,
}

/// The time, read once per wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// Nanoseconds of a clock that never goes back; for intervals only.
    pub monotonic_ns: u64,
    /// Nanoseconds since 1970-01-01T00:00:00Z.
    pub unix_ns: u64,
}

/// The fence: all a worker ever sees of a kernel. `fence::uring::Ring` and `fence::epoll::Poll` are
/// the real ones, the simulator in `tests/` the third.
pub trait Kernel {
    /// Queues an op; what has a completion is not begun before `wait`.
    fn push(&mut self, op: Op);
    /// Begins what was pushed and waits for a completion, at most `timeout` (`None`: for ever).
    /// An error means that the fence itself is broken.
    fn wait(&mut self, timeout: Option<Duration>) -> Result<(), Errno>;
    /// The next completion that has arrived.
    fn reap(&mut self) -> Option<Completion>;
    fn now(&self) -> Now;
    fn receive_queue(&self, socket: Socket) -> ReceiveQueue;
    /// The filled bytes of a receive buffer.
    fn bytes(&self, lease: &Lease) -> &[u8];
    /// Hands a receive buffer back to the kernel.
    fn give_back(&mut self, lease: Lease);
    /// A send buffer, or `None` where all are in flight.
    fn take_send_buffer(&mut self) -> Option<SendLease>;
    /// All `limits::SEND_BUFFER_LEN` bytes of a send buffer.
    fn send_bytes_mut(&mut self, lease: &mut SendLease) -> &mut [u8];
    /// Returns a send buffer that is done with.
    fn give_back_send(&mut self, lease: SendLease);
}
