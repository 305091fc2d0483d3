//! Adding to a per-CPU counter without losing one.

use aya_ebpf::maps::PerCpuArray;

/// Adds `amount` at `index`; an index beyond the map, which the loader sizes, adds nothing.
///
/// Atomic although the memory is this CPU's own: a program may be interrupted by itself on the
/// same CPU (a softirq during a system call), and a plain load, add and store would then lose one.
#[inline(always)]
pub fn add(map: &PerCpuArray<u64>, index: u32, amount: u64) {
    if let Some(counter) = map.get_ptr_mut(index) {
        // SAFETY: the pointer is to a live, 8-aligned value of the map.
        unsafe { add_at(counter, amount) };
    }
}

/// Adds atomically.
///
/// # Safety
/// `word` is 8-aligned memory of a map that the kernel has returned to this run of the program.
#[inline(always)]
pub unsafe fn add_at(word: *mut u64, amount: u64) {
    // `core::sync::atomic` has no read-modify-write on this target, which lacks a
    // compare-and-swap in its oldest version.
    //
    // SAFETY: the caller's word; the verifier has checked the bounds of this very instruction.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({word} + 0) += {amount}",
            word = in(reg) word,
            amount = in(reg) amount,
            options(nostack),
        );
    }
}

/// Adds 1 at `index` and says whether this CPU's counter was 0 before: the occasion to log.
///
/// Two nested calls may both see 0; a second line in the log is no harm.
#[inline(always)]
pub fn add_first(map: &PerCpuArray<u64>, index: u32, amount: u64) -> bool {
    let first = map.get(index).is_some_and(|&count| count == 0);
    add(map, index, amount);
    first
}
