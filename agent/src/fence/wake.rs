//! How another thread wakes a worker: an eventfd that its fence watches.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// Wakes a worker from another thread.
#[derive(Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    pub fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes are read from a local array; the descriptor is open as long as self.
        let written = unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        // Only a counter near 2^64 could refuse, and then the worker is awake anyway.
        debug_assert_eq!(written, 8);
    }
}

/// A waker and the end that the fence watches.
pub fn waker() -> io::Result<(Waker, OwnedFd)> {
    // SAFETY: no pointers; a valid descriptor or -1 comes back.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: eventfd just returned it, so nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let watched = fd.try_clone()?;
    Ok((Waker(Arc::new(fd)), watched))
}

/// Makes a watched end quiet until the next wake.
pub(super) fn drain(watched: &OwnedFd) {
    let mut count = [0; 8];
    // SAFETY: eight bytes are written to a local array; the descriptor is open.
    // An error says that nothing was there, which is as good.
    let _ = unsafe { libc::read(watched.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
}
