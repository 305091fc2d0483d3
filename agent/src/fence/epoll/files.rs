//! The journal's files, on threads of their own: each call may wait for the disk.
//!
//! Four of them take jobs in the order in which those were pushed, and may finish them in another.
//! So one is always left for writes: at any time there is at most one sync, one segment in the
//! making and, as a rule, one removal. A write is begun only when the one before it was taken by
//! a thread; which of several has completed, `Completion::JournalWritten` says of each. A sync is
//! pushed when the writes that it is to make durable have completed; here as with io_uring it
//! waits for no other.

use std::collections::VecDeque;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::fence::folder::{JournalFolder, SEGMENT_MODE, allocated, segment_name};
use crate::fence::socket::last_errno;
use crate::fence::{FenceError, Waker, failed, wake, waker};
use crate::limits::{FILE_THREAD_STACK_LEN, FILE_THREADS};
use crate::privilege;
use crate::shard::buffer::{BlockId, BlockPool};
use crate::shard::op::{Completion, Errno, SegmentFile};

/// The file ops of `Op`.
pub enum Job {
    Open {
        number: u64,
    },
    Allocate {
        number: u64,
        file: SegmentFile,
        len: u64,
    },
    FolderSync {
        number: u64,
    },
    Write {
        file: SegmentFile,
        block: BlockId,
        offset: u64,
        len: u32,
    },
    Sync {
        file: SegmentFile,
        segment: u64,
    },
    Close {
        number: u64,
        file: SegmentFile,
    },
    Remove {
        number: u64,
    },
}

/// One shard's file threads.
pub struct Files {
    common: Arc<Common>,
    threads: Vec<JoinHandle<()>>,
    /// Readable where something is done.
    bell: OwnedFd,
    /// Jobs whose completion has not been taken.
    in_flight: usize,
}

struct Common {
    jobs: Mutex<Jobs>,
    pushed: Condvar,
    done: Mutex<Done>,
    bell: Waker,
    folder: JournalFolder,
    blocks: Arc<BlockPool>,
}

/// No longer than what the writer asks for at a time: a write for each block, a sync, a segment
/// that is made, those that go.
#[derive(Default)]
struct Jobs {
    queue: VecDeque<Job>,
    closed: bool,
}

#[derive(Default)]
struct Done {
    completions: VecDeque<Completion>,
    /// A thread has panicked: a completion will never come.
    broken: bool,
}

impl Files {
    pub fn start(folder: JournalFolder, blocks: Arc<BlockPool>) -> Result<Self, FenceError> {
        let (ringer, bell) = waker().map_err(failed("eventfd"))?;
        let room = 2 * blocks.count();
        let common = Arc::new(Common {
            jobs: Mutex::new(Jobs {
                queue: VecDeque::with_capacity(room),
                closed: false,
            }),
            pushed: Condvar::new(),
            done: Mutex::new(Done {
                completions: VecDeque::with_capacity(room),
                broken: false,
            }),
            bell: ringer,
            folder,
            blocks,
        });
        let mut this = Self {
            common,
            threads: Vec::new(),
            bell,
            in_flight: 0,
        };
        let shard = thread::current().name().unwrap_or("shard").to_owned();
        for index in 0..FILE_THREADS {
            let common = Arc::clone(&this.common);
            let thread = thread::Builder::new()
                .name(format!("{shard}-file{index}"))
                .stack_size(FILE_THREAD_STACK_LEN)
                .spawn(move || {
                    // It is made before its shard has given them up.
                    privilege::give_up();
                    common.work();
                })
                .map_err(failed("start a file thread"))?;
            this.threads.push(thread);
        }
        Ok(this)
    }

    /// What the epoll set watches.
    pub fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    pub fn push(&mut self, job: Job) {
        self.in_flight += 1;
        lock(&self.common.jobs).queue.push_back(job);
        self.common.pushed.notify_one();
    }

    /// Hands what is done to `take`.
    pub fn take_done(&mut self, mut take: impl FnMut(Completion)) {
        // Before the look: what is done after it rings again.
        wake::drain(&self.bell);
        let mut done = lock(&self.common.done);
        assert!(!done.broken, "a file thread has panicked; see above");
        for completion in done.completions.drain(..) {
            self.in_flight -= 1;
            take(completion);
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        lock(&self.common.jobs).closed = true;
        self.common.pushed.notify_all();
        // A shard whose disk hangs ends without its threads, as it would without its ring; they
        // own what they use, and end when the disk answers, or with the process.
        if self.in_flight == 0 {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}

impl Common {
    fn work(&self) {
        block_signals();
        let _alarm = Alarm(self);
        while let Some(job) = self.next() {
            let completion = self.perform(job);
            let mut done = lock(&self.done);
            let is_first = done.completions.is_empty();
            done.completions.push_back(completion);
            drop(done);
            if is_first {
                self.bell.wake();
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut jobs = lock(&self.jobs);
        loop {
            if let Some(job) = jobs.queue.pop_front() {
                return Some(job);
            }
            if jobs.closed {
                return None;
            }
            jobs = self
                .pushed
                .wait(jobs)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn perform(&self, job: Job) -> Completion {
        match job {
            Job::Open { number } => Completion::SegmentOpened {
                number,
                result: self.open(number),
            },
            Job::Allocate { number, file, len } => Completion::SegmentAllocated {
                number,
                result: allocate(file, len),
            },
            Job::FolderSync { number } => Completion::FolderSynced {
                number,
                result: sync(self.folder.fd()),
            },
            Job::Write {
                file,
                block,
                offset,
                len,
            } => Completion::JournalWritten {
                block,
                result: self.write(file, block, offset, len),
            },
            Job::Sync { file, segment } => Completion::JournalSynced {
                segment,
                result: data_sync(file),
            },
            Job::Close { number, file } => Completion::SegmentClosed {
                number,
                result: close(file.0),
            },
            Job::Remove { number } => Completion::SegmentRemoved {
                number,
                // Only synced is it gone for good: a power cut must not bring an earlier segment
                // back beside the gap that a later one has left.
                result: self.remove(number).and_then(|()| sync(self.folder.fd())),
            },
        }
    }

    fn open(&self, number: u64) -> Result<SegmentFile, Errno> {
        let (name, flags) = (segment_name(number), self.folder.segment_flags());
        // SAFETY: a string that ends in 0 and outlives the call.
        let fd = unsafe { libc::openat(self.folder.fd(), name.as_ptr(), flags, SEGMENT_MODE) };
        match fd {
            0.. => Ok(SegmentFile(fd)),
            _ => Err(last_errno()),
        }
    }

    fn remove(&self, number: u64) -> Result<(), Errno> {
        let name = segment_name(number);
        // SAFETY: a string that ends in 0 and outlives the call.
        outcome(unsafe { libc::unlinkat(self.folder.fd(), name.as_ptr(), 0) })
    }

    fn write(
        &self,
        file: SegmentFile,
        block: BlockId,
        offset: u64,
        len: u32,
    ) -> Result<u32, Errno> {
        let address = self.blocks.block_ptr(block).cast_const();
        assert!(
            len as usize <= self.blocks.block_len(),
            "{len} bytes of a block"
        );
        let offset = offset as libc::off_t;
        // SAFETY: the writer keeps a `SharedBlock` until `JournalWritten` comes: nobody writes to
        // the block, and its memory lives as long as the pool, of which this thread holds a share.
        let written = unsafe { libc::pwrite(file.0, address.cast(), len as usize, offset) };
        u32::try_from(written).map_err(|_| last_errno())
    }
}

/// Signals are for the control thread; here they would only cut calls short.
fn block_signals() {
    // SAFETY: the set is filled before it is read, and changes this thread's mask alone; neither
    // call can fail with these arguments.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
    }
}

fn allocate(file: SegmentFile, len: u64) -> Result<(), Errno> {
    // SAFETY: no pointers; the writer closes the file only when nothing of it is in flight.
    let done = unsafe { libc::fallocate(file.0, 0, 0, len as libc::off_t) };
    allocated(outcome(done))
}

fn data_sync(file: SegmentFile) -> Result<(), Errno> {
    // SAFETY: no pointers; as above.
    outcome(unsafe { libc::fdatasync(file.0) })
}

fn sync(fd: RawFd) -> Result<(), Errno> {
    // SAFETY: no pointers; the folder is open as long as its threads.
    outcome(unsafe { libc::fsync(fd) })
}

/// Also for sockets: whatever it answers, the descriptor is free (close(2)).
pub fn close(fd: RawFd) -> Result<(), Errno> {
    // SAFETY: no pointers; the op that asks for it is the descriptor's last.
    outcome(unsafe { libc::close(fd) })
}

fn outcome(returned: libc::c_int) -> Result<(), Errno> {
    match returned {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// A panic leaves these whole: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells the loop, which would wait for ever, that a thread has died of a panic.
struct Alarm<'a>(&'a Common);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            lock(&self.0.done).broken = true;
            self.0.bell.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::format::segment_file_name;

    fn files(folder: &tempfile::TempDir) -> Files {
        let folder = JournalFolder::open(folder.path()).unwrap();
        Files::start(folder, BlockPool::new(2, 4096)).unwrap()
    }

    /// Waits for the bell, and takes what is done.
    fn done(files: &mut Files) -> Vec<Completion> {
        let mut poll = libc::pollfd {
            fd: std::os::fd::AsRawFd::as_raw_fd(files.bell()),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd, which outlives the call.
        assert_eq!(unsafe { libc::poll(&mut poll, 1, 10_000) }, 1, "the bell");
        let mut done = Vec::new();
        files.take_done(|completion| done.push(completion));
        done
    }

    /// More jobs than threads, while nobody looks: each is done once, and the bell is not lost.
    #[test]
    fn every_job_comes_back_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = files(&folder);
        for number in 0..100 {
            files.push(Job::Open { number });
        }
        let mut opened = Vec::new();
        while opened.len() < 100 {
            for completion in done(&mut files) {
                match completion {
                    Completion::SegmentOpened {
                        number,
                        result: Ok(file),
                    } => {
                        opened.push(number);
                        assert_eq!(close(file.0), Ok(()));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        opened.sort_unstable();
        assert_eq!(opened, (0..100).collect::<Vec<_>>());
        assert_eq!(files.in_flight, 0);
        assert!(folder.path().join(segment_file_name(99)).exists());
    }

    #[test]
    #[should_panic(expected = "a file thread has panicked")]
    fn a_thread_that_dies_does_not_leave_the_loop_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = files(&folder);
        files.push(Job::Write {
            file: SegmentFile(-1),
            block: BlockId(2),
            offset: 0,
            len: 4096,
        });
        done(&mut files);
    }

    /// What is pushed is done, though the shard ends.
    #[test]
    fn jobs_in_flight_outlive_their_shard() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = files(&folder);
        for number in 0..20 {
            files.push(Job::Open { number });
        }
        let common = Arc::downgrade(&files.common);
        drop(files);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while common.strong_count() > 0 {
            assert!(std::time::Instant::now() < deadline, "threads that stay");
            thread::yield_now();
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 20);
    }
}
