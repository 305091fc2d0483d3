//! The time, read once per wake-up.

use crate::shard::op::Now;

pub fn now() -> Now {
    Now {
        monotonic_ns: clock(libc::CLOCK_MONOTONIC),
        unix_ns: clock(libc::CLOCK_REALTIME),
    }
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec; both clocks exist on every Linux.
    unsafe { libc::clock_gettime(id, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
