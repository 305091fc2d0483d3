//! Provided buffers: memory that the kernel picks from when bytes arrive.
//!
//! The ring of buffer entries is shared with the kernel: it takes from the head, `give_back` adds
//! at the tail (io_uring_register_buf_ring, Linux 5.19). A buffer is the kernel's from `give_back`
//! until a completion names it, and the lease's from then on.

use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::fence::buffers::ReceiveBuffers;
use crate::shard::op::{Group, Lease};
use crate::shard::region::Region;

/// One group's buffers.
pub struct ReceivePool {
    buffers: ReceiveBuffers,
    entries: Region,
    /// How many entries were ever added; the kernel sees it modulo 2^16.
    tail: u16,
}

impl ReceivePool {
    /// Registers `count` buffers (a power of two) under the group's number.
    pub fn register(
        submitter: &Submitter<'_>,
        group: Group,
        count: usize,
        buffer_len: usize,
    ) -> std::io::Result<Self> {
        assert!(count.is_power_of_two(), "{count} buffers");
        let mut pool = Self {
            buffers: ReceiveBuffers::new(group, count, buffer_len),
            entries: Region::new(count * size_of::<BufRingEntry>()),
            tail: 0,
        };
        let address = pool.entries.at(0, 0) as u64;
        // SAFETY: the entries' region is page-aligned, holds `count` entries, and lives as long as
        // the ring: `Ring` drops its io_uring before its pools (field order).
        unsafe {
            let count = pool.buffers.count();
            submitter.register_buf_ring_with_flags(address, count, group_number(group), 0)
        }?;
        for id in 0..pool.buffers.count() {
            pool.add(id);
        }
        Ok(pool)
    }

    /// A lease of the buffer that a completion named.
    pub fn lease(&self, id: u16, len: u32) -> Lease {
        self.buffers.lease(id, len)
    }

    pub fn bytes(&self, lease: &Lease) -> &[u8] {
        self.buffers.bytes(lease)
    }

    pub fn give_back(&mut self, lease: Lease) {
        self.add(lease.id());
    }

    fn add(&mut self, id: u16) {
        let slot = usize::from(self.tail & (self.buffers.count() - 1));
        let entry_at = self
            .entries
            .at(slot * size_of::<BufRingEntry>(), size_of::<BufRingEntry>())
            .cast::<BufRingEntry>();
        let buffer = self.buffers.address(id);
        // SAFETY: the slot lies behind the tail, where the kernel does not look: there are never
        // more entries than buffers, as a buffer is added only when its lease comes back.
        let entry = unsafe { &mut *entry_at };
        entry.set_addr(buffer as u64);
        entry.set_len(self.buffers.len() as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        let base = self.entries.at(0, 0).cast::<BufRingEntry>().cast_const();
        // SAFETY: `base` is the address of the first entry, whose last two bytes are the tail
        // (struct io_uring_buf_ring); it is aligned, and shared with the kernel as an atomic.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
        // Release: the kernel sees the entry before it sees the tail.
        tail.store(self.tail, Ordering::Release);
    }
}

/// The number under which the kernel knows the group.
pub fn group_number(group: Group) -> u16 {
    match group {
        Group::Tcp => 0,
        Group::Udp => 1,
    }
}
