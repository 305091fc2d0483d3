//! The generator's own system calls, behind safe functions.

use std::io::{self, IoSlice};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// Space for one control message that carries a u16, aligned as the kernel wants it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_LEN]);

// SAFETY: CMSG_SPACE computes from its argument and touches no memory.
const CONTROL_LEN: usize = unsafe { libc::CMSG_SPACE(2) } as usize;

/// One datagram, or with `segment_len` several of that length, cut by the kernel (UDP_SEGMENT,
/// Linux 4.18 and later).
pub struct Message<'a> {
    pub slices: Vec<IoSlice<'a>>,
    pub segment_len: Option<u16>,
}

/// Sends the messages in order and returns how many went out; waits while the send buffer is full.
pub fn send_messages(socket: &UdpSocket, messages: &[Message<'_>]) -> io::Result<usize> {
    let mut controls = vec![Control([0; CONTROL_LEN]); messages.len()];
    let mut headers = Vec::with_capacity(messages.len());
    for (message, control) in messages.iter().zip(&mut controls) {
        // SAFETY: msghdr is plain data, for which zeros are a valid value.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        // IoSlice has the layout of iovec on Unix, by its documentation; sendmsg only reads them.
        header.msg_iov = message.slices.as_ptr() as *mut libc::iovec;
        header.msg_iovlen = message.slices.len() as _;
        if let Some(segment_len) = message.segment_len {
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_LEN as _;
            // SAFETY: the control buffer has CMSG_SPACE(2) bytes and is aligned for cmsghdr, so
            // the first header and its two bytes of data lie within it.
            unsafe {
                let first = libc::CMSG_FIRSTHDR(&header);
                (*first).cmsg_level = libc::SOL_UDP;
                (*first).cmsg_type = libc::UDP_SEGMENT;
                (*first).cmsg_len = libc::CMSG_LEN(2) as _;
                libc::CMSG_DATA(first)
                    .cast::<u16>()
                    .write_unaligned(segment_len);
            }
        }
        headers.push(libc::mmsghdr {
            msg_hdr: header,
            msg_len: 0,
        });
    }
    let len = headers.len() as u32;
    // SAFETY: `headers` has `len` entries whose pointers lead into `messages` and `controls`, which
    // both outlive the call.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), len, 0) };
    match sent {
        0.. => Ok(sent as usize),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A descriptor to wait for, and what it is ready for afterwards.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Waiting(libc::pollfd);

impl Waiting {
    pub fn new(descriptor: RawFd, for_writing: bool) -> Self {
        let events = match for_writing {
            true => libc::POLLIN | libc::POLLOUT,
            false => libc::POLLIN,
        };
        Self(libc::pollfd {
            fd: descriptor,
            events,
            revents: 0,
        })
    }

    /// There is something to read, an end and an error included.
    pub fn is_readable(&self) -> bool {
        self.0.revents & !libc::POLLOUT != 0
    }
}

/// Waits until one of them is ready, at most so long.
pub fn wait(waiting: &mut [Waiting], at_most: Duration) -> io::Result<()> {
    let timeout = libc::timespec {
        tv_sec: at_most.as_secs() as _,
        tv_nsec: at_most.subsec_nanos().into(),
    };
    // SAFETY: `Waiting` is transparent over pollfd and the slice outlives the call; a null mask
    // leaves the signals as they are.
    let ready = unsafe {
        libc::ppoll(
            waiting.as_mut_ptr().cast(),
            waiting.len() as _,
            &timeout,
            std::ptr::null(),
        )
    };
    match ready {
        0.. => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            error => Err(error),
        },
    }
}

/// Keeps this thread on one processor.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: cpu_set_t is a plain bit set, for which zeros are the empty set; `cpu` is below its
    // size; the set outlives the call, and 0 means the calling thread.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Processor time of this process so far, in user and kernel mode.
pub fn cpu_seconds() -> f64 {
    // SAFETY: rusage is plain data, for which zeros are valid, and outlives the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    [usage.ru_utime, usage.ru_stime]
        .iter()
        .map(|time| time.tv_sec as f64 + time.tv_usec as f64 / 1e6)
        .sum()
}
