//! A network namespace of one's own: its `lo`, its ports, its counters, and nobody else's traffic.

use std::io::{self, Write};
use std::thread;

/// Runs `body` on a new thread in a new network namespace whose `lo` is up. Threads that `body`
/// starts live there too. The namespace goes with its last thread and socket.
///
/// A panic of `body` goes on in the caller.
pub fn run<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let thread = thread::Builder::new()
        .name(thread::current().name().unwrap_or("netns").to_owned())
        .spawn(|| {
            enter()?;
            Ok(body())
        })?;
    match thread.join() {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Whether this process may make network namespaces, and so load eBPF programs: CAP_SYS_ADMIN is
/// both. In CI (`CI=true`) the lack of it is a failure, elsewhere it is said and the test skipped.
pub fn privileged_or_skip(test: &str) -> bool {
    match run(|| ()) {
        Ok(()) => true,
        Err(error) => {
            skip(
                test,
                &format!("it needs root (a network namespace: {error})"),
            );
            false
        }
    }
}

/// Says that a test is skipped, which in CI is a failure.
pub fn skip(test: &str, why: &str) {
    assert!(
        !in_ci(),
        "{test} cannot run, and in CI that is a failure: {why}"
    );
    // Not `eprintln!`: the test harness keeps that to itself when a test passes.
    let _ = writeln!(io::stderr(), "SKIPPED: {test}: {why}");
}

/// Whether skipping is a failure here.
fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

fn enter() -> io::Result<()> {
    // SAFETY: takes flags only, and changes this thread alone.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    lo_up()
}

/// Sets IFF_UP on `lo`; the kernel then gives it 127.0.0.1 and ::1.
fn lo_up() -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: `ifreq` is integers, arrays and unions of them: all zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, which outlives the call.
    let status = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
