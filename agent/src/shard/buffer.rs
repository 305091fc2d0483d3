//! Journal blocks: aligned memory that has one writer, and then any number of readers.
//!
//! A block goes round: free → [`OpenBlock`] (one owner, who writes) → [`SharedBlock`] (nobody
//! writes; the writer keeps one while the kernel reads it, each sink keeps one while it encodes)
//! → free, when the last lease is dropped, on whichever thread that is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use crate::journal::format::{BLOCK_ALIGN, BlockHeader};
use crate::shard::region::Region;

/// A block's index in its shard's pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockId(pub u16);

/// A fixed number of blocks in one region of memory, page-aligned for O_DIRECT and for
/// registration with the ring.
pub struct BlockPool {
    region: Region,
    block_len: usize,
    /// Leases per block: 0 is free. An open block has one, and that one is unique. Who may write a
    /// block is decided here: the only step from 0 is `acquire`'s compare-and-swap.
    leases: Box<[AtomicU32]>,
}

impl BlockPool {
    /// `block_len` must be a multiple of `BLOCK_ALIGN`.
    pub fn new(count: usize, block_len: usize) -> Arc<Self> {
        assert!(
            block_len.is_multiple_of(BLOCK_ALIGN) && block_len > 0,
            "block_len {block_len}"
        );
        assert!(
            (1..=usize::from(u16::MAX)).contains(&count),
            "count {count}"
        );
        let leases = (0..count).map(|_| AtomicU32::new(0)).collect();
        Arc::new(Self {
            region: Region::new(count * block_len),
            block_len,
            leases,
        })
    }

    pub fn block_len(&self) -> usize {
        self.block_len
    }

    pub fn count(&self) -> usize {
        self.leases.len()
    }

    /// The whole region, for registering it with a ring and for reading a block that is in flight.
    pub fn block_ptr(&self, id: BlockId) -> *mut u8 {
        assert!(
            usize::from(id.0) < self.count(),
            "block {} of {}",
            id.0,
            self.count()
        );
        self.region
            .at(usize::from(id.0) * self.block_len, self.block_len)
    }

    /// A free block, or `None` where every block is leased.
    pub fn acquire(self: &Arc<Self>) -> Option<OpenBlock> {
        for (index, leases) in self.leases.iter().enumerate() {
            // Acquire pairs with the Release of the last lease's drop: its reads are over.
            if leases
                .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
            {
                return Some(OpenBlock {
                    pool: Arc::clone(self),
                    id: BlockId(index as u16),
                });
            }
        }
        None
    }

    /// Blocks that nobody holds.
    pub fn free(&self) -> usize {
        self.leases
            .iter()
            .filter(|l| l.load(Ordering::Relaxed) == 0)
            .count()
    }

    fn release(&self, id: BlockId) {
        if self.leases[usize::from(id.0)].fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
        }
    }
}

/// A block that is being filled; the only lease there is of it.
pub struct OpenBlock {
    pool: Arc<BlockPool>,
    id: BlockId,
}

impl OpenBlock {
    pub fn id(&self) -> BlockId {
        self.id
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: this lease is unique (`BlockPool::acquire`), so no one writes but through
        // `bytes_mut`, which borrows it mutably.
        unsafe { std::slice::from_raw_parts(self.pool.block_ptr(self.id), self.pool.block_len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: this lease is unique and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pool.block_ptr(self.id), self.pool.block_len) }
    }

    /// From here on nobody writes it. `header` is what stands in its first bytes.
    pub fn share(self, header: BlockHeader) -> SharedBlock {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: `this` is never used again and never dropped: the Arc moves out exactly once.
        let pool = unsafe { std::ptr::read(&this.pool) };
        SharedBlock {
            pool,
            id: this.id,
            header,
        }
    }
}

impl Drop for OpenBlock {
    fn drop(&mut self) {
        self.pool.release(self.id);
    }
}

/// A sealed block: readable by whoever holds a lease, on any thread.
pub struct SharedBlock {
    pool: Arc<BlockPool>,
    id: BlockId,
    header: BlockHeader,
}

impl SharedBlock {
    pub fn id(&self) -> BlockId {
        self.id
    }

    pub fn header(&self) -> &BlockHeader {
        &self.header
    }

    /// The block as it was sealed: its header and its entries, without padding.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `share` took the only writable lease, and the block is acquired anew only when
        // all leases, this one included, are gone; `header.len` is within the block.
        unsafe {
            std::slice::from_raw_parts(self.pool.block_ptr(self.id), self.header.len as usize)
        }
    }
}

impl Clone for SharedBlock {
    fn clone(&self) -> Self {
        self.pool.leases[usize::from(self.id.0)].fetch_add(1, Ordering::Relaxed);
        Self {
            pool: Arc::clone(&self.pool),
            id: self.id,
            header: self.header,
        }
    }
}

impl Drop for SharedBlock {
    fn drop(&mut self) {
        self.pool.release(self.id);
    }
}
