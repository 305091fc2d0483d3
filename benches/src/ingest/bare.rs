//! The bare receiver: a thread with a ring set up as the agent's is (`agent/src/uring`), which
//! counts what it is handed and gives the buffer back. It shares no code with the agent's ring, so
//! that a mistake there does not hide here; the sizes are the agent's.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, anyhow};
use io_uring::types::{BufRingEntry, Fd, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use penstock::limits;
use penstock::shard::region::Region;

use super::case::Case;
use crate::rig::{RECEIVER_CORE, core_set};

/// The agent's own (`agent/src/uring/ring.rs`).
const SUBMISSIONS: u32 = 1024;
const COMPLETIONS: u32 = 8192;
/// What a UDP listener of the agent has where nothing is configured.
const RECEIVE_BUFFER: libc::c_int = 16 << 20;
const GROUP: u16 = 0;
/// How often the thread looks whether it is over.
const LOOK: Duration = Duration::from_millis(50);
/// A queue that brought nothing for so long is dry.
const QUIET_TURNS: u32 = 3;

/// What a receiver came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    pub bytes: u64,
    /// Frames of UDP; over TCP nobody looks for them.
    pub datagrams: u64,
    pub cpu_seconds: f64,
    pub wake_ups: u64,
    pub completions: u64,
}

pub struct Bare {
    pub address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Counted>>,
}

impl Bare {
    pub fn start(case: Case) -> anyhow::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = mpsc::channel();
        let seen = Arc::clone(&over);
        let thread = thread::Builder::new()
            .name("bare".to_owned())
            .spawn(move || {
                core_set::confine(RECEIVER_CORE)?;
                let mut receiver = Receiver::new(case)?;
                let _ = ready.send(receiver.address);
                receiver.run(&seen)
            })
            .context("start the bare receiver's thread")?;
        match is_ready.recv() {
            Ok(address) => Ok(Self {
                address,
                over,
                thread,
            }),
            Err(_) => match join(thread) {
                Ok(_) => Err(anyhow!("the bare receiver ended at once")),
                Err(error) => Err(error),
            },
        }
    }

    /// Waits until nothing more comes.
    pub fn finish(self) -> anyhow::Result<Counted> {
        self.over.store(true, Ordering::Release);
        join(self.thread)
    }
}

fn join(thread: JoinHandle<io::Result<Counted>>) -> anyhow::Result<Counted> {
    let joined = thread.join();
    let outcome = joined.map_err(|_| anyhow!("the bare receiver panicked"))?;
    outcome.context("the bare receiver")
}

enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Socket {
    fn fd(&self) -> RawFd {
        match self {
            Self::Tcp(listener) => listener.as_raw_fd(),
            Self::Udp(socket) => socket.as_raw_fd(),
        }
    }
}

/// Field order matters: the ring goes before the memory that the kernel has from it.
struct Receiver {
    ring: IoUring,
    buffers: Buffers,
    /// Only its two lengths matter to a multishot recvmsg.
    message: Box<libc::msghdr>,
    socket: Socket,
    address: SocketAddr,
    counted: Counted,
}

/// Tokens: the socket's own operation, or a connection's by its descriptor.
const LISTENER: u64 = u64::MAX;

impl Receiver {
    fn new(case: Case) -> io::Result<Self> {
        let socket = if case.is_udp() {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            set_int(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, 1)?;
            // Past net.core.rmem_max where that is allowed, as the agent does.
            let (level, fd) = (libc::SOL_SOCKET, socket.as_raw_fd());
            set_int(fd, level, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)
                .or_else(|_| set_int(fd, level, libc::SO_RCVBUF, RECEIVE_BUFFER))?;
            Socket::Udp(socket)
        } else {
            Socket::Tcp(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)
        };
        let address = match &socket {
            Socket::Tcp(listener) => listener.local_addr()?,
            Socket::Udp(socket) => socket.local_addr()?,
        };
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let buffers = match socket {
            Socket::Tcp(_) => Buffers::register(&ring, limits::TCP_BUFFERS, limits::TCP_BUFFER_LEN),
            Socket::Udp(_) => Buffers::register(&ring, limits::UDP_BUFFERS, limits::UDP_BUFFER_LEN),
        }?;
        // SAFETY: all zeroes is a valid msghdr: no name, no buffers, no control.
        let mut message: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        message.msg_namelen = limits::UDP_NAME_LEN as u32;
        message.msg_controllen = limits::UDP_CONTROL_LEN;
        let mut this = Self {
            ring,
            buffers,
            message,
            socket,
            address,
            counted: Counted::default(),
        };
        this.arm(LISTENER)?;
        Ok(this)
    }

    fn run(&mut self, over: &AtomicBool) -> io::Result<Counted> {
        let cpu_before = core_set::thread_cpu_seconds();
        let mut quiet_turns = 0;
        while quiet_turns < QUIET_TURNS {
            let before = self.counted.completions;
            self.wait()?;
            self.counted.wake_ups += 1;
            while let Some(entry) = { self.ring.completion().next() } {
                self.counted.completions += 1;
                self.on_completion(&entry)?;
            }
            let is_quiet = self.counted.completions == before && over.load(Ordering::Acquire);
            quiet_turns = if is_quiet { quiet_turns + 1 } else { 0 };
        }
        self.counted.cpu_seconds = core_set::thread_cpu_seconds() - cpu_before;
        Ok(self.counted)
    }

    fn wait(&mut self) -> io::Result<()> {
        let timespec = Timespec::from(LOOK);
        let arguments = SubmitArgs::new().timespec(&timespec);
        match self.ring.submitter().submit_with_args(1, &arguments) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn on_completion(&mut self, entry: &cqueue::Entry) -> io::Result<()> {
        let token = entry.user_data();
        let more = cqueue::more(entry.flags());
        let result = entry.result();
        let accepts = token == LISTENER && matches!(self.socket, Socket::Tcp(_));
        if result < 0 && result != -libc::ENOBUFS {
            return Err(io::Error::from_raw_os_error(-result));
        }
        if accepts {
            self.arm(result as u64)?;
        } else if let Some(id) = cqueue::buffer_select(entry.flags()) {
            self.count(id, result as usize);
            self.buffers.give_back(id);
        }
        if result == 0 && matches!(self.socket, Socket::Tcp(_)) {
            // SAFETY: the connection's end: no operation of it is left, and its descriptor, which
            // came from the accept, is closed only here.
            unsafe { libc::close(token as RawFd) };
            return Ok(());
        }
        if more { Ok(()) } else { self.arm(token) }
    }

    fn count(&mut self, id: u16, len: usize) {
        if matches!(self.socket, Socket::Tcp(_)) {
            self.counted.bytes += len as u64;
            return;
        }
        let bytes = self.buffers.bytes(id, len);
        let message = RecvMsgOut::parse(bytes, &self.message);
        let message = message.expect("a buffer has room for what stands before a datagram");
        let payload_len = message.payload_data().len() as u64;
        // UDP_GRO's message comes alone: a header of 16 bytes, then an int (udp_cmsg_recv).
        let segment = message.control_data().get(16..20);
        let segment_len = segment
            .and_then(|int| int.try_into().ok())
            .map_or(payload_len, |int| i32::from_ne_bytes(int) as u64);
        self.counted.bytes += payload_len;
        self.counted.datagrams += payload_len.div_ceil(segment_len.max(1));
    }

    /// Arms the multishot operation of a token.
    fn arm(&mut self, token: u64) -> io::Result<()> {
        let fd = Fd(self.socket.fd());
        let entry = match &self.socket {
            Socket::Udp(_) => opcode::RecvMsgMulti::new(fd, &raw const *self.message, GROUP)
                .flags(libc::MSG_TRUNC as u32)
                .build(),
            Socket::Tcp(_) if token == LISTENER => opcode::AcceptMulti::new(fd)
                .flags(libc::SOCK_CLOEXEC)
                .build(),
            Socket::Tcp(_) => opcode::RecvMulti::new(Fd(token as RawFd), GROUP).build(),
        };
        self.submit(entry.user_data(token))
    }

    fn submit(&mut self, entry: squeue::Entry) -> io::Result<()> {
        // SAFETY: the message lives in a box in self, and the buffers in `buffers`: both outlive
        // the ring (field order).
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.ring.submit()?;
        }
        Ok(())
    }
}

/// A ring of provided buffers: each is the kernel's, until a completion names it and until it is
/// given back.
struct Buffers {
    memory: Region,
    entries: Region,
    len: usize,
    count: u16,
    tail: u16,
}

impl Buffers {
    fn register(ring: &IoUring, count: usize, len: usize) -> io::Result<Self> {
        let mut this = Self {
            memory: Region::new(count * len),
            entries: Region::new(count * size_of::<BufRingEntry>()),
            len,
            count: count as u16,
            tail: 0,
        };
        let address = this.entries.at(0, 0) as u64;
        let submitter = ring.submitter();
        // SAFETY: page-aligned, with room for `count` entries, and freed after the ring (field
        // order of `Receiver`; where `new` fails first, the ring goes with it, unused).
        unsafe { submitter.register_buf_ring_with_flags(address, this.count, GROUP, 0) }?;
        for id in 0..this.count {
            this.give_back(id);
        }
        Ok(this)
    }

    /// What a completion brought: until `give_back` the buffer is not the kernel's.
    fn bytes(&self, id: u16, len: usize) -> &[u8] {
        assert!(len <= self.len, "{len} bytes of {}", self.len);
        let start = self.memory.at(usize::from(id) * self.len, len);
        // SAFETY: `at` checked the range; the caller has the buffer from a completion and gives it
        // back, with &mut self, only when this borrow is over.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    fn give_back(&mut self, id: u16) {
        let size = size_of::<BufRingEntry>();
        let slot = usize::from(self.tail & (self.count - 1));
        let buffer = self.memory.at(usize::from(id) * self.len, self.len);
        // SAFETY: `at` checked the range; the slot is not the kernel's, as there are never more
        // entries in the ring than buffers.
        let entry = unsafe { &mut *self.entries.at(slot * size, size).cast::<BufRingEntry>() };
        entry.set_addr(buffer as u64);
        entry.set_len(self.len as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        let base = self.entries.at(0, size).cast::<BufRingEntry>().cast_const();
        // SAFETY: the tail stands in the last two bytes of the first entry, aligned, and the
        // kernel reads it as an atomic.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
        // Release: the kernel sees the entry before the tail.
        tail.store(self.tail, Ordering::Release);
    }
}

fn set_int(fd: RawFd, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: an int's address and its size, alive for the call.
    let set = unsafe {
        libc::setsockopt(
            fd,
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
