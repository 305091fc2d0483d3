//! Page-aligned memory that is allocated once and touched lazily: what buffers and blocks are cut
//! from, and what the kernel is given addresses of.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// The page size of every platform this runs on, and what O_DIRECT asks for.
const ALIGN: usize = 4096;

/// A region of zeroed memory. It hands out raw addresses: who may read or write where is for the
/// pool on top of it to say.
pub struct Region {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain memory without thread affinity; `Region` itself never reads or writes it.
unsafe impl Send for Region {}
// SAFETY: as above: shared access yields addresses only.
unsafe impl Sync for Region {}

impl Region {
    /// `len` must not be 0.
    pub fn new(len: usize) -> Self {
        assert!(len > 0, "an empty region");
        let layout = Layout::from_size_align(len, ALIGN).expect("a pool's size is a small number");
        // SAFETY: the layout's size is not 0, by the assertion above.
        let base = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(base).unwrap_or_else(|| handle_alloc_error(layout));
        Self { base, layout }
    }

    /// The address of `len` bytes at `offset`, which must lie within the region.
    pub fn at(&self, offset: usize, len: usize) -> *mut u8 {
        let end = offset
            .checked_add(len)
            .expect("offsets are far below the address space's end");
        assert!(
            end <= self.layout.size(),
            "{offset} + {len} of {}",
            self.layout.size()
        );
        // SAFETY: the offset lies within the allocation, by the assertion above.
        unsafe { self.base.as_ptr().add(offset) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed only here.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}
