//! Calls on sockets that never wait, the same for both fences.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use agent_common::frame::FRAME_HEADER_LEN;

use crate::fence::message::socket_address;
use crate::shard::op::{Accepted, Errno, Peeked, Socket};

/// What the last call of this thread failed with.
pub fn last_errno() -> Errno {
    Errno(
        io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    )
}

/// The new socket and who is at its other end.
pub fn accepted(fd: RawFd) -> Accepted {
    let on: libc::c_int = 1;
    // SAFETY: an int's address and size; the descriptor is a connection's that was just accepted.
    // Acknowledgements are small and must not wait for each other; if it fails they are only slower.
    unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        );
    }
    // The gate's filter of new connections is inherited from the listener's socket, and would run on
    // each segment; it looks at those that open a connection only, and this one is open. Where there
    // is none the kernel says ENOENT. Needs no capability.
    //
    // SAFETY: as above.
    unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_DETACH_FILTER,
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
pub fn peek_now(socket: Socket) -> Result<Peeked, Errno> {
    let mut head = [0; FRAME_HEADER_LEN];
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: at most the array's length is written to it; the socket is its peer's, which is not
    // closed while a peek is under way.
    let len = unsafe { libc::recv(socket.0, head.as_mut_ptr().cast(), head.len(), flags) };
    match usize::try_from(len) {
        Ok(len) => Ok(Peeked { head, len }),
        Err(_) => Err(last_errno()),
    }
}

/// How many bytes make a socket ready to be read (SO_RCVLOWAT, which holds for poll and epoll since
/// Linux 2.6.28, socket(7)); the end and an error always do.
pub fn set_receive_mark(socket: Socket, bytes: usize) {
    let bytes = bytes as libc::c_int;
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

/// So that an accept does not wait. The flag belongs to the socket, and stays with it where a later
/// life inherits it; io_uring takes no notice of it when it accepts.
pub fn set_nonblocking(socket: Socket) {
    // SAFETY: no pointers; the socket is open.
    let flags = unsafe { libc::fcntl(socket.0, libc::F_GETFL) };
    // SAFETY: as above.
    let set = unsafe { libc::fcntl(socket.0, libc::F_SETFL, flags | libc::O_NONBLOCK) };
    debug_assert_eq!(set, 0, "O_NONBLOCK");
}

/// At once, and not through a ring: a worker thread of the kernel's would do it, which looks the
/// descriptor up when it gets to it (io_wq_submit_work, Linux 6.18). The close that follows may have
/// overtaken it by then, and the number be another connection's.
pub fn shutdown(socket: Socket, how: libc::c_int) {
    // SAFETY: no pointers. The worker closes the socket later, by `PeerClose`, so the descriptor is
    // open and its own. The call does not block; its failure means that the peer was quicker.
    unsafe { libc::shutdown(socket.0, how) };
}
