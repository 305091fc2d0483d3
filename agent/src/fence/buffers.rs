//! The memory behind leases. Which buffers the kernel may fill is for each fence to say; a buffer
//! that is leased is nobody else's.

use crate::limits;
use crate::shard::op::{Group, Lease, SendLease};
use crate::shard::region::Region;

/// One group's receive buffers.
pub struct ReceiveBuffers {
    group: Group,
    region: Region,
    len: usize,
    count: u16,
}

impl ReceiveBuffers {
    pub fn new(group: Group, count: usize, len: usize) -> Self {
        assert!((1..=1 << 15).contains(&count), "{count} buffers");
        Self {
            group,
            region: Region::new(count * len),
            len,
            count: count as u16,
        }
    }

    pub fn count(&self) -> u16 {
        self.count
    }

    /// Bytes of each.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where a whole buffer begins.
    pub fn address(&self, id: u16) -> *mut u8 {
        self.region.at(usize::from(id) * self.len, self.len)
    }

    /// A lease of a buffer that the kernel has filled.
    pub fn lease(&self, id: u16, len: u32) -> Lease {
        assert!(
            id < self.count && len as usize <= self.len,
            "buffer {id} with {len} bytes"
        );
        Lease::from_fence(self.group, id, len)
    }

    pub fn bytes(&self, lease: &Lease) -> &[u8] {
        let len = lease.len as usize;
        let start = self.region.at(usize::from(lease.id()) * self.len, len);
        // SAFETY: the lease's holder has the buffer until `give_back` consumes the lease; the
        // kernel is given only buffers that are not leased.
        unsafe { std::slice::from_raw_parts(start, len) }
    }
}

/// The buffers that acknowledgements are sent from.
pub struct SendBuffers {
    region: Region,
    free: Vec<u16>,
}

impl SendBuffers {
    pub fn new(count: usize) -> Self {
        Self {
            region: Region::new(count * limits::SEND_BUFFER_LEN),
            free: (0..count as u16).rev().collect(),
        }
    }

    pub fn take(&mut self) -> Option<SendLease> {
        self.free.pop().map(SendLease::from_fence)
    }

    pub fn give_back(&mut self, lease: SendLease) {
        self.free.push(lease.id());
    }

    pub fn bytes_mut(&mut self, lease: &mut SendLease) -> &mut [u8] {
        let len = limits::SEND_BUFFER_LEN;
        let start = self.region.at(usize::from(lease.id()) * len, len);
        // SAFETY: the lease is unique and borrowed mutably; the kernel reads a send buffer only
        // between `AckSend`, which takes the lease, and its completion, which brings it back.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// Where what is still to be sent begins, and how much it is.
    pub fn unsent(&self, lease: &SendLease) -> (*const u8, u32) {
        let offset = usize::from(lease.id()) * limits::SEND_BUFFER_LEN + lease.sent as usize;
        let len = lease.filled - lease.sent;
        (self.region.at(offset, len as usize).cast_const(), len)
    }
}
