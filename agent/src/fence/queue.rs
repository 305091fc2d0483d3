//! How full a socket's receive buffer is.

use std::os::fd::RawFd;

use crate::shard::op::ReceiveQueue;

/// Bytes that wait in a socket's receive buffer, with the kernel's overhead, and its limit
/// (SO_MEMINFO, Linux 4.12); zeroes where the kernel does not say.
pub fn receive_queue(socket: RawFd) -> ReceiveQueue {
    let mut values = [0u32; 9];
    let mut len = size_of_val(&values) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to an array of that size.
    let read = unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &mut len,
        )
    };
    // linux/sock_diag.h: SK_MEMINFO_RMEM_ALLOC is 0, SK_MEMINFO_RCVBUF is 1.
    match read {
        0 => ReceiveQueue {
            used: u64::from(values[0]),
            limit: u64::from(values[1]),
        },
        _ => ReceiveQueue::default(),
    }
}
