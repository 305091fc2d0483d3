//! Which core a thread or a process may run on.

use std::io;

/// Confines the calling thread, and what it starts, to one core.
pub fn confine(core: usize) -> io::Result<()> {
    // SAFETY: all zeroes is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    assert!(core < libc::CPU_SETSIZE as usize, "core {core}");
    // SAFETY: the core is below the set's size, by the assertion above.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: a set of the call's own type and its size; 0 is the calling thread. The call is
    // async-signal-safe in fact: glibc's is the system call and nothing else, so that it may stand
    // between fork and exec.
    match unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Time that the calling thread was on a core, both modes.
pub fn thread_cpu_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
