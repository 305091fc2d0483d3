//! recvmmsg: many bundles with one call, each into a buffer of its own.

use crate::fence::buffers::ReceiveBuffers;
use crate::fence::message::{gro_segment_len, socket_address};
use crate::fence::socket::last_errno;
use crate::limits::{UDP_BATCH, UDP_CONTROL_LEN, UDP_NAME_LEN};
use crate::shard::op::{Bundle, Errno, Socket};

/// What the kernel writes beside a message's bytes. Aligned for the control messages, which begin
/// with a long.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Aside {
    name: [u8; UDP_NAME_LEN],
    control: [u8; UDP_CONTROL_LEN],
}

/// The room for the results of one call but for the bytes; filled anew each time, allocated once.
pub struct Batch {
    asides: Box<[Aside; UDP_BATCH]>,
    vectors: Box<[libc::iovec; UDP_BATCH]>,
    messages: Box<[libc::mmsghdr; UDP_BATCH]>,
}

impl Batch {
    pub fn new() -> Self {
        let aside = Aside {
            name: [0; UDP_NAME_LEN],
            control: [0; UDP_CONTROL_LEN],
        };
        let vector = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        // SAFETY: all zeroes is a valid mmsghdr: no name, no buffers, no control.
        let message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Self {
            asides: Box::new([aside; UDP_BATCH]),
            vectors: Box::new([vector; UDP_BATCH]),
            messages: Box::new([message; UDP_BATCH]),
        }
    }

    /// Receives what has come, as far as buffers are free and a batch goes, and hands each bundle
    /// to `take`. `EAGAIN`: there was nothing.
    pub fn receive(
        &mut self,
        socket: Socket,
        buffers: &ReceiveBuffers,
        free: &mut Vec<u16>,
        mut take: impl FnMut(Bundle),
    ) -> Result<(), Errno> {
        let room = free.len().min(UDP_BATCH);
        // The last to come back is the first to be filled: its bytes are in the cache.
        for (index, &id) in free.iter().rev().take(room).enumerate() {
            let aside = &mut self.asides[index];
            let vector = &mut self.vectors[index];
            vector.iov_base = buffers.address(id).cast();
            vector.iov_len = buffers.len();
            let header = &mut self.messages[index].msg_hdr;
            header.msg_name = aside.name.as_mut_ptr().cast();
            header.msg_namelen = UDP_NAME_LEN as libc::socklen_t;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_control = aside.control.as_mut_ptr().cast();
            header.msg_controllen = UDP_CONTROL_LEN;
        }
        // SAFETY: the first `room` messages were pointed at memory of this struct and at free
        // buffers just now, each with its length; nothing else touches any of it during the call.
        let count = unsafe {
            libc::recvmmsg(
                socket.0,
                self.messages.as_mut_ptr(),
                room as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let Ok(count) = usize::try_from(count) else {
            return Err(last_errno());
        };
        for index in 0..count {
            let id = free.pop().expect("no more come than there is room for");
            take(self.bundle(index, buffers, id));
        }
        Ok(())
    }

    fn bundle(&self, index: usize, buffers: &ReceiveBuffers, id: u16) -> Bundle {
        let libc::mmsghdr { msg_hdr, msg_len } = &self.messages[index];
        let aside = &self.asides[index];
        // The kernel says how long an address is, not how much of it had room.
        let name = &aside.name[..(msg_hdr.msg_namelen as usize).min(UDP_NAME_LEN)];
        let control = &aside.control[..msg_hdr.msg_controllen.min(UDP_CONTROL_LEN)];
        Bundle {
            lease: buffers.lease(id, *msg_len),
            from: socket_address(name),
            payload: 0..*msg_len,
            segment_len: gro_segment_len(control),
            truncated: msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        }
    }
}
