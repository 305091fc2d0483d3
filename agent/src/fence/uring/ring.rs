//! One shard's io_uring: ops become submissions, completions become `Completion`s.
//!
//! The ring is made on the worker's own thread (SINGLE_ISSUER, Linux 6.0), and completions are
//! posted only when that thread waits (DEFER_TASKRUN, 6.1): no interrupt of the loop, no lock.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use agent_common::frame::FRAME_HEADER_LEN;
use io_uring::types::{Fd, FsyncFlags, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::fence::buffers::SendBuffers;
use crate::fence::folder::{JournalFolder, SEGMENT_MODE, allocated, segment_name};
use crate::fence::message::{gro_segment_len, socket_address};
use crate::fence::socket::{accepted, peek_now, set_receive_mark, shutdown};
use crate::fence::uring::receive::{ReceivePool, group_number};
use crate::fence::uring::token::Token;
use crate::fence::{FenceError, FencePlan, clock, failed, wake};
use crate::limits;
use crate::shard::buffer::{BlockId, BlockPool};
use crate::shard::op::{
    Bundle, Completion, Errno, Group, Kernel, Lease, Now, Op, PeerId, ReceiveQueue, Received,
    SegmentFile, SendLease, Socket,
};

/// Submissions queued between two waits; beyond it the queue is submitted early.
const SUBMISSIONS: u32 = 1024;
/// Completions that fit before the kernel keeps them aside (it loses none: FEAT_NODROP, 5.5).
const COMPLETIONS: u32 = 8192;

/// One of the two real kernels of a worker. Field order matters: the ring goes before the memory that it was
/// given.
pub struct Ring {
    ring: IoUring,
    tcp: ReceivePool,
    udp: ReceivePool,
    send: SendBuffers,
    /// Whose each send buffer in flight is.
    sends: Vec<Option<(PeerId, SendLease)>>,
    blocks: Arc<BlockPool>,
    /// Blocks are registered with the kernel, which then need not pin their pages at each write.
    blocks_registered: bool,
    folder: JournalFolder,
    /// The sockets of peers whose first frame is waited for.
    peeks: HashMap<PeerId, Socket>,
    /// Path names that the kernel still reads, by token.
    paths: HashMap<u64, CString>,
    /// What each multishot recvmsg was armed with: only the two lengths matter (io_uring_prep_recvmsg_multishot(3)).
    message: Box<libc::msghdr>,
    wake: OwnedFd,
}

impl Ring {
    /// Must be called on the thread that will use it.
    pub fn new(plan: FencePlan) -> Result<Self, FenceError> {
        let ring = build().map_err(failed("io_uring_setup"))?;
        let submitter = ring.submitter();
        let tcp = ReceivePool::register(
            &submitter,
            Group::Tcp,
            plan.tcp_buffers,
            limits::TCP_BUFFER_LEN,
        )
        .map_err(failed("io_uring_register (TCP receive buffers)"))?;
        let udp = ReceivePool::register(
            &submitter,
            Group::Udp,
            plan.udp_buffers,
            limits::UDP_BUFFER_LEN,
        )
        .map_err(failed("io_uring_register (UDP receive buffers)"))?;
        let blocks_registered = register_blocks(&submitter, &plan.blocks);
        let folder = JournalFolder::open(&plan.folder)?;
        // SAFETY: all zeroes is a valid msghdr: no name, no buffers, no control.
        let mut message: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        message.msg_namelen = limits::UDP_NAME_LEN as u32;
        message.msg_controllen = limits::UDP_CONTROL_LEN;
        let mut this = Self {
            ring,
            tcp,
            udp,
            send: SendBuffers::new(plan.send_buffers),
            sends: (0..plan.send_buffers).map(|_| None).collect(),
            blocks: plan.blocks,
            blocks_registered,
            folder,
            peeks: HashMap::with_capacity(2 * limits::CONNECTIONS_MAX),
            paths: HashMap::new(),
            message,
            wake: plan.wake,
        };
        this.watch_wake();
        Ok(this)
    }

    fn watch_wake(&mut self) {
        let poll = opcode::PollAdd::new(Fd(self.wake.as_raw_fd()), libc::POLLIN as u32).multi(true);
        self.submit(poll.build(), Token::Wake);
    }

    fn submit(&mut self, entry: squeue::Entry, token: Token) {
        let entry = entry.user_data(token.pack());
        // SAFETY: whatever the entry points at outlives the operation: buffers and blocks by their
        // leases, which come back only with the completion; paths in `paths`; `message` in self.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            // The queue is full: hand over what is in it. Failure here is the wait's to report.
            let _ = self.ring.submit();
        }
    }

    fn path(&mut self, token: Token, number: u64) -> *const libc::c_char {
        // Boxed bytes do not move when the map grows.
        let name = segment_name(number);
        self.paths.entry(token.pack()).or_insert(name).as_ptr()
    }

    fn write(&mut self, file: SegmentFile, block: BlockId, offset: u64, len: u32) {
        let address = self.blocks.block_ptr(block).cast_const();
        assert!(
            len as usize <= self.blocks.block_len(),
            "{len} bytes of a block"
        );
        let entry = match self.blocks_registered {
            true => opcode::WriteFixed::new(Fd(file.0), address, len, block.0)
                .offset(offset)
                .build(),
            false => opcode::Write::new(Fd(file.0), address, len)
                .offset(offset)
                .build(),
        };
        self.submit(entry, Token::Write(block));
    }

    /// Waits until a header is there as a whole: a poll that looks only once has no buffer in the
    /// kernel. A receive with MSG_WAITALL would not do: io_uring goes on behind what a first look has
    /// found, which MSG_PEEK then finds again.
    fn peek(&mut self, peer: PeerId, socket: Socket) {
        set_receive_mark(socket, FRAME_HEADER_LEN);
        self.peeks.insert(peer, socket);
        let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
        let poll = opcode::PollAdd::new(Fd(socket.0), events);
        self.submit(poll.build(), Token::Peek(peer));
    }

    fn send_acks(&mut self, peer: PeerId, socket: Socket, lease: SendLease) {
        let id = usize::from(lease.id());
        let (address, len) = self.send.unsent(&lease);
        // The flag: a peer that is gone is an error to us, not a signal to the process.
        let send = opcode::Send::new(Fd(socket.0), address, len).flags(libc::MSG_NOSIGNAL);
        self.submit(send.build(), Token::Send(lease.id()));
        self.sends[id] = Some((peer, lease));
    }

    /// Turns one kernel completion into ours; `None` for those that say nothing.
    fn translate(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let more = cqueue::more(entry.flags());
        let outcome = match entry.result() {
            value @ 0.. => Ok(value as u32),
            errno => Err(Errno(-errno)),
        };
        let done = outcome.map(drop);
        let token = Token::unpack(entry.user_data());
        Some(match token {
            Token::Cancel => return None,
            Token::Wake => {
                wake::drain(&self.wake);
                if !more {
                    self.watch_wake();
                }
                Completion::Woken
            }
            Token::Accept(listener) => {
                let result = outcome.map(|fd| accepted(fd as RawFd));
                Completion::Accepted {
                    listener,
                    result,
                    more,
                }
            }
            Token::Peek(peer) => {
                let socket = self.peeks.remove(&peer).expect("a peek has its socket");
                // From here on each byte makes the socket ready.
                set_receive_mark(socket, 1);
                let result = outcome.and_then(|_| peek_now(socket));
                Completion::PeerPeeked { peer, result }
            }
            Token::Receive(peer) => {
                let result = outcome.map(|len| self.received(entry, len));
                Completion::Received { peer, result, more }
            }
            Token::ReceiveFrom(listener) => {
                let result = outcome.and_then(|len| self.received_from(entry, len));
                Completion::ReceivedFrom {
                    listener,
                    result,
                    more,
                }
            }
            Token::Send(buffer) => {
                let (peer, lease) = self.sends[usize::from(buffer)]
                    .take()
                    .expect("a send has its lease");
                Completion::AckSent {
                    peer,
                    lease,
                    result: outcome,
                }
            }
            Token::Close(peer) => Completion::PeerClosed { peer },
            Token::SegmentOpen(number) => {
                self.paths.remove(&token.pack());
                let result = outcome.map(|fd| SegmentFile(fd as i32));
                Completion::SegmentOpened { number, result }
            }
            Token::SegmentAllocate(number) => {
                let result = allocated(done);
                Completion::SegmentAllocated { number, result }
            }
            Token::FolderSync(number) => Completion::FolderSynced {
                number,
                result: done,
            },
            Token::Write(block) => Completion::JournalWritten {
                block,
                result: outcome,
            },
            Token::Sync(segment) => Completion::JournalSynced {
                segment,
                result: done,
            },
            Token::SegmentClose(number) => Completion::SegmentClosed {
                number,
                result: done,
            },
            Token::SegmentRemove(number) => {
                self.paths.remove(&token.pack());
                // Only then is it gone for good, and the next may follow: a power cut must not bring
                // an earlier segment back beside the gap that a later one has left.
                if done.is_ok() {
                    self.sync_folder(Token::RemovalSync(number));
                    return None;
                }
                Completion::SegmentRemoved {
                    number,
                    result: done,
                }
            }
            Token::RemovalSync(number) => Completion::SegmentRemoved {
                number,
                result: done,
            },
        })
    }

    fn received(&mut self, entry: &cqueue::Entry, len: u32) -> Received {
        match cqueue::buffer_select(entry.flags()) {
            Some(id) => {
                let lease = self.tcp.lease(id, len);
                if len > 0 {
                    return Received::Data(lease);
                }
                self.tcp.give_back(lease);
                Received::End
            }
            None => Received::End,
        }
    }

    fn received_from(&mut self, entry: &cqueue::Entry, len: u32) -> Result<Bundle, Errno> {
        let id = cqueue::buffer_select(entry.flags()).ok_or(Errno(libc::ENOBUFS))?;
        let lease = self.udp.lease(id, len);
        let bytes = self.udp.bytes(&lease);
        let Ok(message) = RecvMsgOut::parse(bytes, &self.message) else {
            self.udp.give_back(lease);
            return Err(Errno(libc::EBADMSG));
        };
        let start = limits::UDP_BUFFER_PREFIX_LEN as u32;
        let end = start + message.payload_data().len() as u32;
        let from = socket_address(message.name_data());
        let segment_len = gro_segment_len(message.control_data());
        let truncated = message.is_payload_truncated();
        Ok(Bundle {
            payload: start..end,
            from,
            segment_len,
            truncated,
            lease,
        })
    }
}

impl Kernel for Ring {
    fn push(&mut self, op: Op) {
        match op {
            Op::Accept { listener, socket } => {
                let accept = opcode::AcceptMulti::new(Fd(socket.0)).flags(libc::SOCK_CLOEXEC);
                self.submit(accept.build(), Token::Accept(listener));
            }
            Op::Receive { peer, socket } => {
                let receive = opcode::RecvMulti::new(Fd(socket.0), group_number(Group::Tcp));
                self.submit(receive.build(), Token::Receive(peer));
            }
            Op::PeerPeek { peer, socket } => self.peek(peer, socket),
            Op::PeekCancel { peer } => self.cancel(Token::Peek(peer)),
            Op::ReceiveFrom { listener, socket } => {
                let group = group_number(Group::Udp);
                let message: *const libc::msghdr = &raw const *self.message;
                // MSG_TRUNC: the header then tells a datagram that was longer than its buffer.
                let receive = opcode::RecvMsgMulti::new(Fd(socket.0), message, group)
                    .flags(libc::MSG_TRUNC as u32);
                self.submit(receive.build(), Token::ReceiveFrom(listener));
            }
            Op::AcceptCancel { listener } => self.cancel(Token::Accept(listener)),
            Op::ReceiveCancel { peer } => self.cancel(Token::Receive(peer)),
            Op::ReceiveFromCancel { listener } => self.cancel(Token::ReceiveFrom(listener)),
            Op::AckSend {
                peer,
                socket,
                lease,
            } => self.send_acks(peer, socket, lease),
            Op::PeerShutdown { socket, .. } => shutdown(socket, libc::SHUT_RDWR),
            Op::PeerEnd { socket, .. } => shutdown(socket, libc::SHUT_WR),
            Op::PeerClose { peer, socket } => {
                self.submit(opcode::Close::new(Fd(socket.0)).build(), Token::Close(peer));
            }
            Op::SegmentOpen { number } => {
                let token = Token::SegmentOpen(number);
                let path = self.path(token, number);
                let open = opcode::OpenAt::new(Fd(self.folder.fd()), path)
                    .flags(self.folder.segment_flags())
                    .mode(SEGMENT_MODE);
                self.submit(open.build(), token);
            }
            Op::SegmentAllocate { number, file, len } => {
                let allocate = opcode::Fallocate::new(Fd(file.0), len);
                self.submit(allocate.build(), Token::SegmentAllocate(number));
            }
            Op::FolderSync { number } => self.sync_folder(Token::FolderSync(number)),
            Op::JournalWrite {
                file,
                block,
                offset,
                len,
            } => self.write(file, block, offset, len),
            Op::JournalSync { file, segment } => {
                let sync = opcode::Fsync::new(Fd(file.0)).flags(FsyncFlags::DATASYNC);
                self.submit(sync.build(), Token::Sync(segment));
            }
            Op::SegmentClose { number, file } => {
                self.submit(
                    opcode::Close::new(Fd(file.0)).build(),
                    Token::SegmentClose(number),
                );
            }
            Op::SegmentRemove { number } => {
                let token = Token::SegmentRemove(number);
                let path = self.path(token, number);
                let remove = opcode::UnlinkAt::new(Fd(self.folder.fd()), path);
                self.submit(remove.build(), token);
            }
        }
    }

    fn wait(&mut self, timeout: Option<Duration>) -> Result<(), Errno> {
        let waited = match timeout {
            Some(timeout) => {
                let timespec = Timespec::from(timeout);
                let arguments = SubmitArgs::new().timespec(&timespec);
                self.ring.submitter().submit_with_args(1, &arguments)
            }
            None => self.ring.submit_and_wait(1),
        };
        match waited {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error().unwrap_or(libc::EIO) {
                // The time is up, a signal came, or completions must be taken first: all ordinary.
                libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN => Ok(()),
                errno => Err(Errno(errno)),
            },
        }
    }

    fn reap(&mut self) -> Option<Completion> {
        loop {
            let entry = self.ring.completion().next()?;
            if let Some(completion) = self.translate(&entry) {
                return Some(completion);
            }
        }
    }

    fn now(&self) -> Now {
        clock::now()
    }

    fn receive_queue(&self, socket: Socket) -> ReceiveQueue {
        crate::fence::receive_queue(socket.0)
    }

    fn bytes(&self, lease: &Lease) -> &[u8] {
        match lease.group {
            Group::Tcp => self.tcp.bytes(lease),
            Group::Udp => self.udp.bytes(lease),
        }
    }

    fn give_back(&mut self, lease: Lease) {
        match lease.group {
            Group::Tcp => self.tcp.give_back(lease),
            Group::Udp => self.udp.give_back(lease),
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

impl Ring {
    fn sync_folder(&mut self, token: Token) {
        let sync = opcode::Fsync::new(Fd(self.folder.fd()));
        self.submit(sync.build(), token);
    }

    fn cancel(&mut self, token: Token) {
        self.submit(
            opcode::AsyncCancel::new(token.pack()).build(),
            Token::Cancel,
        );
    }
}

/// The ring alone, without buffers.
pub(super) fn build() -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_cqsize(COMPLETIONS)
        .build(SUBMISSIONS)
}

/// Registers each block, by its id. Without CAP_IPC_LOCK the kernel may refuse (RLIMIT_MEMLOCK):
/// then writes pin their pages one by one, which costs a little.
fn register_blocks(submitter: &io_uring::Submitter<'_>, blocks: &BlockPool) -> bool {
    let vectors: Vec<libc::iovec> = (0..blocks.count())
        .map(|id| libc::iovec {
            iov_base: blocks.block_ptr(BlockId(id as u16)).cast(),
            iov_len: blocks.block_len(),
        })
        .collect();
    // SAFETY: the blocks' memory lives as long as the pool, which the ring's owner keeps in
    // `Ring::blocks` until after the ring itself is gone (field order).
    match unsafe { submitter.register_buffers(&vectors) } {
        Ok(()) => true,
        Err(error) => {
            tracing::info!("journal blocks are not registered with the ring: {error}");
            false
        }
    }
}
