//! The epoll set: which descriptors are watched for what, and the wait.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::source::Source;
use crate::fence::socket::last_errno;
use crate::limits::EPOLL_EVENTS_MAX;
use crate::shard::op::Errno;

/// `EPOLLIN` and its like, as `epoll_ctl` takes them.
pub type Events = u32;
pub const READABLE: Events = libc::EPOLLIN as Events;
pub const WRITABLE: Events = libc::EPOLLOUT as Events;
/// Told whether asked for or not: the next call on the socket says what it is.
pub const BROKEN: Events = (libc::EPOLLERR | libc::EPOLLHUP) as Events;

pub struct Interest {
    epoll: OwnedFd,
    ready: Box<[libc::epoll_event; EPOLL_EVENTS_MAX]>,
    /// epoll_pwait2 (Linux 5.11) takes nanoseconds; a seccomp filter may be older than it.
    fine: bool,
}

impl Interest {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; a valid descriptor or -1 comes back.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: epoll_create1 just returned it, so nobody else owns it.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        let none = libc::epoll_event { events: 0, u64: 0 };
        Ok(Self {
            epoll,
            ready: Box::new([none; EPOLL_EVENTS_MAX]),
            fine: true,
        })
    }

    /// Begins to watch `fd`. It may be refused: ENOMEM, or ENOSPC at fs.epoll.max_user_watches.
    pub fn add(&self, fd: RawFd, source: Source, events: Events) -> Result<(), Errno> {
        self.control(libc::EPOLL_CTL_ADD, fd, source, events)
    }

    /// Changes what `fd` is watched for, from what it was; to 0 ends it.
    pub fn alter(&self, fd: RawFd, source: Source, from: Events, to: Events) {
        let call = match to {
            _ if from == to => return,
            0 => libc::EPOLL_CTL_DEL,
            _ => libc::EPOLL_CTL_MOD,
        };
        let altered = self.control(call, fd, source, to);
        // Neither takes memory: only a descriptor that is not watched could fail.
        assert_eq!(
            altered,
            Ok(()),
            "{source:?}, descriptor {fd}: {from} to {to}"
        );
    }

    fn control(
        &self,
        call: libc::c_int,
        fd: RawFd,
        source: Source,
        events: Events,
    ) -> Result<(), Errno> {
        let mut event = libc::epoll_event {
            events,
            u64: source.pack(),
        };
        // SAFETY: the kernel reads one event, which outlives the call.
        match unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), call, fd, &mut event) } {
            0 => Ok(()),
            _ => Err(last_errno()),
        }
    }

    /// Waits until something is ready, at most `timeout`; how many things are.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<usize, Errno> {
        if self.fine {
            match self.wait_fine(timeout) {
                Err(Errno(libc::ENOSYS | libc::EPERM)) => self.fine = false,
                other => return other,
            }
        }
        let milliseconds = timeout.map_or(-1, whole_milliseconds);
        let room = self.ready.len() as libc::c_int;
        // SAFETY: the kernel writes at most `room` events to an array of as many.
        let count = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                self.ready.as_mut_ptr(),
                room,
                milliseconds,
            )
        };
        counted(i64::from(count))
    }

    fn wait_fine(&mut self, timeout: Option<Duration>) -> Result<usize, Errno> {
        let timeout = timeout.map(|timeout| libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let timeout = timeout
            .as_ref()
            .map_or(std::ptr::null(), |timeout| &raw const *timeout);
        // SAFETY: the kernel writes at most as many events as the array has, and reads one timespec
        // or none. Not glibc's wrapper, which came with 2.35.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.as_raw_fd(),
                self.ready.as_mut_ptr(),
                self.ready.len() as libc::c_int,
                timeout,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        counted(count)
    }

    /// The thing at `index` below what `wait` returned, and how it is ready.
    pub fn ready(&self, index: usize) -> (Source, Events) {
        let libc::epoll_event { events, u64: bits } = self.ready[index];
        (Source::unpack(bits), events)
    }
}

fn counted(count: i64) -> Result<usize, Errno> {
    match usize::try_from(count) {
        Ok(count) => Ok(count),
        Err(_) => match last_errno() {
            // A signal came: as good as a timeout.
            Errno(libc::EINTR) => Ok(0),
            errno => Err(errno),
        },
    }
}

/// Upwards: a wait that ends too early would be begun again, and again.
fn whole_milliseconds(timeout: Duration) -> libc::c_int {
    timeout
        .as_nanos()
        .div_ceil(1_000_000)
        .try_into()
        .unwrap_or(libc::c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_rounded_upwards() {
        for (ns, milliseconds) in [(0, 0), (1, 1), (1_000_000, 1), (1_000_001, 2)] {
            let timeout = Duration::from_nanos(ns);
            assert_eq!(whole_milliseconds(timeout), milliseconds, "{ns} ns");
        }
        assert_eq!(whole_milliseconds(Duration::MAX), libc::c_int::MAX);
    }

    /// Where epoll_pwait2 is refused, the older call waits as long, and finds the same.
    #[test]
    fn both_calls_wait() {
        use std::time::Instant;
        for fine in [true, false] {
            let (waker, watched) = crate::fence::waker().unwrap();
            let mut interest = Interest::new().unwrap();
            interest.fine = fine;
            interest
                .add(watched.as_raw_fd(), Source::Wake, READABLE)
                .unwrap();
            let begin = Instant::now();
            let pause = Duration::from_micros(2_500);
            assert_eq!(interest.wait(Some(pause)), Ok(0));
            assert!(begin.elapsed() >= pause, "{:?}", begin.elapsed());
            waker.wake();
            assert_eq!(interest.wait(None), Ok(1));
            assert_eq!(interest.ready(0), (Source::Wake, READABLE));
            assert_eq!(interest.fine, fine);
        }
    }
}
