//! One 64-bit word that several CPUs or threads change: memory of a map in the kernel, an
//! `AtomicU64` in user space.

#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::{AtomicU64, Ordering};

/// Only what the kernel's instruction set has too. No order between two words is promised: each
/// says all by itself.
pub trait Word {
    fn load(&self) -> u64;
    /// Writes `new` if the word is `expected`; returns what it was.
    fn compare_exchange(&self, expected: u64, new: u64) -> u64;
    /// Adds, and wraps: adding the negative gives back.
    fn add(&self, amount: u64);
}

// The target `bpf` has no read-modify-write in `core::sync::atomic`; `agent-ebpf` has its own word.
#[cfg(not(target_arch = "bpf"))]
impl Word for &AtomicU64 {
    #[inline]
    fn load(&self) -> u64 {
        AtomicU64::load(self, Ordering::Relaxed)
    }

    #[inline]
    fn compare_exchange(&self, expected: u64, new: u64) -> u64 {
        match AtomicU64::compare_exchange(self, expected, new, Ordering::Relaxed, Ordering::Relaxed)
        {
            Ok(found) | Err(found) => found,
        }
    }

    #[inline]
    fn add(&self, amount: u64) {
        self.fetch_add(amount, Ordering::Relaxed);
    }
}
