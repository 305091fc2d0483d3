//! One shard's io_uring: ops become submissions, completions become `Completion`s.
//!
//! The ring is made on the worker's own thread (SINGLE_ISSUER, Linux 6.0), and completions are
//! posted only when that thread waits (DEFER_TASKRUN, 6.1): no interrupt of the loop, no lock.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_common::frame::FRAME_HEADER_LEN;
use io_uring::types::{Fd, FsyncFlags, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::journal::format::segment_file_name;
use crate::limits;
use crate::shard::buffer::{BlockId, BlockPool};
use crate::shard::op::{
    Accepted, Bundle, Completion, Errno, Group, Kernel, Lease, Now, Op, Peeked, PeerId,
    ReceiveQueue, Received, SegmentFile, SendLease, Socket,
};
use crate::shard::region::Region;
use crate::uring::message::{gro_segment_len, socket_address};
use crate::uring::receive::{ReceivePool, group_number};
use crate::uring::token::Token;

/// Submissions queued between two waits; beyond it the queue is submitted early.
const SUBMISSIONS: u32 = 1024;
/// Completions that fit before the kernel keeps them aside (it loses none: FEAT_NODROP, 5.5).
const COMPLETIONS: u32 = 8192;

/// What a ring needs to know.
pub struct RingPlan {
    /// The shard's journal folder; it exists.
    pub folder: PathBuf,
    pub blocks: Arc<BlockPool>,
    pub tcp_buffers: usize,
    pub udp_buffers: usize,
    pub send_buffers: usize,
    /// Read end of the shard's waker.
    pub wake: OwnedFd,
}

/// A ring that cannot be had, with the call that failed.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {source}")]
pub struct RingError {
    pub call: &'static str,
    pub source: io::Error,
}

fn failed(call: &'static str) -> impl FnOnce(io::Error) -> RingError {
    move |source| RingError { call, source }
}

/// Wakes a worker from another thread.
#[derive(Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    pub fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes are read from a local array; the descriptor is open as long as self.
        let written = unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        // Only a counter near 2^64 could refuse, and then the worker is awake anyway.
        debug_assert_eq!(written, 8);
    }
}

/// A waker and the end that the ring watches.
pub fn waker() -> io::Result<(Waker, OwnedFd)> {
    // SAFETY: no pointers; a valid descriptor or -1 comes back.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: eventfd just returned it, so nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let watched = fd.try_clone()?;
    Ok((Waker(Arc::new(fd)), watched))
}

/// The real kernel of a worker. Field order matters: the ring goes before the memory that it was
/// given.
pub struct Ring {
    ring: IoUring,
    tcp: ReceivePool,
    udp: ReceivePool,
    send: Region,
    send_free: Vec<u16>,
    /// Whose each send buffer in flight is.
    sends: Vec<Option<(PeerId, SendLease)>>,
    blocks: Arc<BlockPool>,
    /// Blocks are registered with the kernel, which then need not pin their pages at each write.
    blocks_registered: bool,
    folder: File,
    folder_path: PathBuf,
    /// The file system takes O_DIRECT.
    direct: bool,
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
    pub fn new(plan: RingPlan) -> Result<Self, RingError> {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)
            .map_err(failed("io_uring_setup"))?;
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
        let folder = File::open(&plan.folder).map_err(failed("open (journal folder)"))?;
        let direct = takes_direct(&plan.folder).map_err(failed("open (journal folder)"))?;
        if !direct {
            tracing::warn!(
                folder = %plan.folder.display(),
                "the file system refuses O_DIRECT: the journal is written through the page cache, \
                 several times slower",
            );
        }
        // SAFETY: all zeroes is a valid msghdr: no name, no buffers, no control.
        let mut message: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        message.msg_namelen = limits::UDP_NAME_LEN as u32;
        message.msg_controllen = limits::UDP_CONTROL_LEN;
        let mut this = Self {
            ring,
            tcp,
            udp,
            send: Region::new(plan.send_buffers * limits::SEND_BUFFER_LEN),
            send_free: (0..plan.send_buffers as u16).rev().collect(),
            sends: (0..plan.send_buffers).map(|_| None).collect(),
            blocks: plan.blocks,
            blocks_registered,
            folder,
            folder_path: plan.folder,
            direct,
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
        let name = CString::new(segment_file_name(number)).expect("digits and a dot");
        // Boxed bytes do not move when the map grows.
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
    /// kernel. SO_RCVLOWAT holds for poll since Linux 2.6.28 (socket(7)). A receive with MSG_WAITALL would not do: io_uring goes on behind what a first look has
    /// found, which MSG_PEEK then finds again.
    fn peek(&mut self, peer: PeerId, socket: Socket) {
        set_receive_mark(socket, FRAME_HEADER_LEN as libc::c_int);
        self.peeks.insert(peer, socket);
        let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
        let poll = opcode::PollAdd::new(Fd(socket.0), events);
        self.submit(poll.build(), Token::Peek(peer));
    }

    fn send_acks(&mut self, peer: PeerId, socket: Socket, lease: SendLease) {
        let id = usize::from(lease.id());
        let offset = id * limits::SEND_BUFFER_LEN + lease.sent as usize;
        let len = lease.filled - lease.sent;
        let address = self.send.at(offset, len as usize).cast_const();
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
                self.drain_wake();
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
                // Where a file system cannot preallocate, writes allocate as they go.
                let result = match done {
                    Err(Errno(libc::EOPNOTSUPP)) => Ok(()),
                    other => other,
                };
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

    fn drain_wake(&self) {
        let mut count = [0; 8];
        // SAFETY: eight bytes are written to a local array; the descriptor is ours.
        // An error says that nothing was there, which is as good.
        let _ = unsafe { libc::read(self.wake.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
    }

    /// The journal folder, for messages.
    pub fn folder(&self) -> &Path {
        &self.folder_path
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
                let direct = if self.direct { libc::O_DIRECT } else { 0 };
                let open = opcode::OpenAt::new(Fd(self.folder.as_raw_fd()), path)
                    .flags(libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_CLOEXEC | direct)
                    .mode(0o640);
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
                let remove = opcode::UnlinkAt::new(Fd(self.folder.as_raw_fd()), path);
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
        Now {
            monotonic_ns: clock(libc::CLOCK_MONOTONIC),
            unix_ns: clock(libc::CLOCK_REALTIME),
        }
    }

    fn receive_queue(&self, socket: Socket) -> ReceiveQueue {
        crate::uring::queue::receive_queue(socket.0)
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
        self.send_free.pop().map(SendLease::from_fence)
    }

    fn send_bytes_mut(&mut self, lease: &mut SendLease) -> &mut [u8] {
        let len = limits::SEND_BUFFER_LEN;
        let start = self.send.at(usize::from(lease.id()) * len, len);
        // SAFETY: the lease is unique and borrowed mutably; the kernel reads a send buffer only
        // between `AckSend`, which takes the lease, and its completion, which brings it back.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    fn give_back_send(&mut self, lease: SendLease) {
        self.send_free.push(lease.id());
    }
}

impl Ring {
    fn sync_folder(&mut self, token: Token) {
        let sync = opcode::Fsync::new(Fd(self.folder.as_raw_fd()));
        self.submit(sync.build(), token);
    }

    fn cancel(&mut self, token: Token) {
        self.submit(
            opcode::AsyncCancel::new(token.pack()).build(),
            Token::Cancel,
        );
    }
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

/// Whether files in `folder` can be opened with O_DIRECT; tried with one, as no call tells.
fn takes_direct(folder: &Path) -> io::Result<bool> {
    let probe = folder.join(".direct-probe");
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o640);
    let direct = options.clone().custom_flags(libc::O_DIRECT).open(&probe);
    let outcome = match direct {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            options.open(&probe).map(|_| false)
        }
        Err(error) => Err(error),
    };
    // A probe left behind harms nobody: the data folder is locked, and the name is ours alone.
    let _ = std::fs::remove_file(&probe);
    outcome
}

/// The new socket and who is at its other end.
fn accepted(fd: RawFd) -> Accepted {
    let on: libc::c_int = 1;
    // SAFETY: an int's address and size; the descriptor came with this completion. Acknowledgements
    // are small and must not wait for each other; if it fails they are only slower.
    unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        );
    }
    let mut address = [0u8; size_of::<libc::sockaddr_storage>()];
    let mut len = address.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes of a buffer of that length.
    let named = unsafe { libc::getpeername(fd, address.as_mut_ptr().cast(), &mut len) };
    let address: Option<SocketAddr> = match named {
        0 => socket_address(&address[..len as usize]),
        _ => None,
    };
    Accepted {
        socket: Socket(fd),
        address,
    }
}

/// The first bytes of a stream, which stay in the socket.
fn peek_now(socket: Socket) -> Result<Peeked, Errno> {
    let mut head = [0; FRAME_HEADER_LEN];
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: at most the array's length is written to it; the socket is its peer's, which is not
    // closed while a peek is under way.
    let len = unsafe { libc::recv(socket.0, head.as_mut_ptr().cast(), head.len(), flags) };
    match usize::try_from(len) {
        Ok(len) => Ok(Peeked { head, len }),
        Err(_) => Err(Errno(
            io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO),
        )),
    }
}

/// How many bytes make a socket ready to be read (SO_RCVLOWAT); the end and an error always do.
fn set_receive_mark(socket: Socket, bytes: libc::c_int) {
    // SAFETY: an int's address and size; the socket is open. It cannot fail for a TCP socket and a
    // positive number.
    let set = unsafe {
        libc::setsockopt(
            socket.0,
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast(),
            size_of_val(&bytes) as libc::socklen_t,
        )
    };
    debug_assert_eq!(set, 0, "SO_RCVLOWAT");
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec; both clocks exist on every Linux.
    unsafe { libc::clock_gettime(id, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
/// At once, and not through the ring: a worker thread of the kernel's would do it, which looks the
/// descriptor up when it gets to it (io_wq_submit_work, Linux 6.18). The close that follows may have
/// overtaken it by then, and the number be another connection's.
fn shutdown(socket: Socket, how: libc::c_int) {
    // SAFETY: no pointers. The worker closes the socket later, by `PeerClose`, so the descriptor is
    // open and its own. The call does not block; its failure means that the peer was quicker.
    unsafe { libc::shutdown(socket.0, how) };
}
