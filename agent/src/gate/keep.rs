//! The ratios by which datagrams are shed, as memory: the kernel's map, mapped into this process, or
//! where there is none a word of our own. Whoever holds a handle reads and writes it without a call
//! and without a lock.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use agent_common::frame::PRIORITY_MAX;
use agent_common::keep::{KEEP_ALL, Keep};
use agent_common::layout::KeepWords;

/// The ratios in force are, of each priority, the lower of what is configured and what pressure
/// leaves. That is taken where they are read: here for the shards, in the filter for the kernel.
#[derive(Clone)]
pub struct KeepHandle(Arc<Memory>);

/// As `agent_common::layout::KeepWords` has them.
#[repr(C)]
struct Words {
    ceiling: AtomicU32,
    pressure: AtomicU32,
}

const _: () = assert!(size_of::<Words>() == size_of::<KeepWords>());

enum Memory {
    Own(Words),
    /// The first page of the map `KEEP`, which outlives the map's descriptor.
    Mapped {
        words: NonNull<Words>,
        len: usize,
    },
}

// SAFETY: the page is never unmapped while a handle is there (`Drop` of the last one does it), and
// all that is done with it is atomic.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl KeepHandle {
    /// Keeps everything, until it is told otherwise.
    pub fn own() -> Self {
        Self(Arc::new(Memory::Own(Words {
            ceiling: AtomicU32::new(Keep::ALL.0),
            pressure: AtomicU32::new(Keep::ALL.0),
        })))
    }

    /// Maps the map, and keeps everything until it is told otherwise. Needs no capability.
    pub fn of_map(map: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: takes a number and returns one.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let len = usize::try_from(page).map_err(|_| io::Error::last_os_error())?;
        // SAFETY: a new mapping of a length that the kernel checks against the map's.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words = NonNull::new(start.cast()).expect("a mapping is not at 0");
        let handle = Self(Arc::new(Memory::Mapped { words, len }));
        handle.set_ceiling(Keep::ALL);
        handle.set_pressure([KEEP_ALL; PRIORITY_MAX as usize + 1]);
        Ok(handle)
    }

    /// What pressure leaves, in sixteenths by priority; one store, from any thread. What is critical
    /// is never shed for pressure, whatever is written here.
    pub fn set_pressure(&self, sixteenths: [u8; PRIORITY_MAX as usize + 1]) {
        let [_, high, normal, background] = sixteenths;
        let keep = Keep::new([KEEP_ALL, high, normal, background]);
        self.words().pressure.store(keep.0, Ordering::Relaxed);
    }

    pub fn pressure(&self) -> Keep {
        Keep(self.words().pressure.load(Ordering::Relaxed))
    }

    pub fn ceiling(&self) -> Keep {
        Keep(self.words().ceiling.load(Ordering::Relaxed))
    }

    /// The ratios by which datagrams are shed now.
    pub fn in_force(&self) -> Keep {
        self.ceiling().min(self.pressure())
    }

    /// `Gate::apply`'s.
    pub(super) fn set_ceiling(&self, ceiling: Keep) {
        self.words().ceiling.store(ceiling.0, Ordering::Relaxed);
    }

    fn words(&self) -> &Words {
        match &*self.0 {
            Memory::Own(words) => words,
            // SAFETY: the mapping is as long as a page, aligned to one, and lives as long as `self`;
            // every bit pattern is a value.
            Memory::Mapped { words, .. } => unsafe { words.as_ref() },
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Self::Mapped { words, len } = self {
            // SAFETY: our own mapping, with its length; nobody has a handle any more.
            unsafe { libc::munmap(words.as_ptr().cast(), *len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_of_both_and_critical_whatever_pressure_says() {
        let keep = KeepHandle::own();
        assert_eq!(keep.in_force(), Keep::ALL);
        keep.set_ceiling(Keep::new([16, 16, 8, 4]));
        keep.set_pressure([0, 12, 12, 2]);
        assert_eq!(keep.in_force().sixteenths(), [16, 12, 8, 2]);
        keep.set_ceiling(Keep::new([8, 16, 16, 16]));
        assert_eq!(keep.clone().in_force().sixteenths(), [8, 12, 12, 2]);
        assert_eq!(keep.pressure().sixteenths(), [16, 12, 12, 2]);
    }
}
