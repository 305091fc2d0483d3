//! A fence by itself, without a worker: ops go in, completions come out; the sockets and the files
//! are real.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock::fence::{FenceError, FencePlan, Waker, waker};
use penstock::shard::buffer::BlockPool;
use penstock::shard::op::{Completion, Kernel, ListenerId, Op, PeerId, Received, Socket};
use tempfile::TempDir;

/// How one of the fences is made.
pub type Make<K> = fn(FencePlan) -> Result<K, FenceError>;

/// No wait of a test is longer.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// How long nothing must come where nothing should.
const QUIET: Duration = Duration::from_millis(30);
const STEP: Duration = Duration::from_millis(5);

pub const BLOCK_LEN: usize = 8192;
pub const LISTENER: ListenerId = ListenerId(3);
pub const PEER: PeerId = PeerId {
    slot: 7,
    generation: 0x4321,
};

/// One test for each fence: `subject(make)` is run as `subject::io_uring` and `subject::epoll`. On a
/// host without io_uring the first is skipped and says so.
#[macro_export]
macro_rules! over_both_fences {
    ($($subject:ident),* $(,)?) => {$(
        mod $subject {
            #[test]
            fn io_uring() {
                match penstock::fence::uring::probe(1) {
                    Ok(()) => super::$subject(penstock::fence::uring::Ring::new),
                    Err(error) => penstock_tests::netns::skip(
                        concat!(stringify!($subject), "::io_uring"),
                        &error.to_string(),
                    ),
                }
            }

            #[test]
            fn epoll() {
                super::$subject(penstock::fence::epoll::Poll::new);
            }
        }
    )*};
}

pub struct Rig<K> {
    pub kernel: K,
    pub folder: TempDir,
    pub blocks: Arc<BlockPool>,
    pub waker: Waker,
}

impl<K: Kernel> Rig<K> {
    pub fn new(make: Make<K>) -> Self {
        Self::with_buffers(make, 8, 8)
    }

    pub fn with_buffers(make: Make<K>, tcp_buffers: usize, udp_buffers: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let blocks = BlockPool::new(4, BLOCK_LEN);
        let (waker, wake) = waker().expect("an eventfd");
        let kernel = make(FencePlan {
            folder: folder.path().to_owned(),
            blocks: Arc::clone(&blocks),
            tcp_buffers,
            udp_buffers,
            send_buffers: 4,
            wake,
        });
        Self {
            kernel: kernel.unwrap_or_else(|error| panic!("{error}")),
            folder,
            blocks,
            waker,
        }
    }

    /// What comes within `limit`.
    fn within(&mut self, limit: Duration) -> Option<Completion> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(completion) = self.kernel.reap() {
                return Some(completion);
            }
            if Instant::now() >= deadline {
                return None;
            }
            self.kernel.wait(Some(STEP)).expect("a wait");
        }
    }

    /// The next completion, which must come.
    pub fn take(&mut self) -> Completion {
        self.within(WAIT_MAX).expect("a completion")
    }

    /// The next completion, if one comes soon.
    pub fn soon(&mut self) -> Option<Completion> {
        self.within(4 * QUIET)
    }

    /// Nothing comes, though the fence is waited for.
    pub fn is_quiet(&mut self) {
        if let Some(completion) = self.within(QUIET) {
            panic!("nothing should come: {completion:?}");
        }
    }

    /// Begins what was pushed.
    pub fn begin(&mut self) {
        self.kernel.wait(Some(Duration::ZERO)).expect("a wait");
    }

    /// Pushes, and returns what came of it.
    pub fn answer(&mut self, op: Op) -> Completion {
        self.kernel.push(op);
        self.take()
    }

    /// The bytes of a stream until its receive ends, and how it ended; every buffer goes back.
    pub fn read(&mut self) -> (Vec<u8>, Result<(), i32>) {
        let mut bytes = Vec::new();
        loop {
            match self.take() {
                Completion::Received {
                    result: Ok(Received::Data(lease)),
                    more,
                    ..
                } => {
                    bytes.extend_from_slice(self.kernel.bytes(&lease));
                    self.kernel.give_back(lease);
                    assert!(more, "data is no end");
                }
                Completion::Received {
                    result: Ok(Received::End),
                    more: false,
                    ..
                } => return (bytes, Ok(())),
                Completion::Received {
                    result: Err(errno),
                    more: false,
                    ..
                } => return (bytes, Err(errno.0)),
                other => panic!("no receive: {other:?}"),
            }
        }
    }
}

/// A connection: the fence's end, and the peer's.
pub fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let peer = TcpStream::connect(listener.local_addr().expect("an address")).expect("connect");
    peer.set_read_timeout(Some(WAIT_MAX)).expect("a time limit");
    peer.set_write_timeout(Some(WAIT_MAX))
        .expect("a time limit");
    let (own, _) = listener.accept().expect("accept");
    (own, peer)
}

/// A UDP socket that takes bundles, as a listener's does.
pub fn bundles() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let on: libc::c_int = 1;
    // SAFETY: an int's address and its size, alive for the call; the descriptor is open.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_GRO,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    assert_eq!(set, 0, "UDP_GRO");
    socket
}

pub fn socket(of: &impl AsRawFd) -> Socket {
    Socket(of.as_raw_fd())
}
