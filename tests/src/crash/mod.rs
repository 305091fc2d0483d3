//! Proofs on the real binary: it is killed, its disk loses power, fills up and fails, under load
//! from producers that live on and retry; then what was stored is compared record for record.
//!
//! [`disk`] is a disk that forgets what was not synced. [`producer`] keeps sending and knows what
//! was acknowledged. [`ledger`] compares. [`campaign`] is one data folder and the agent's lives in
//! it. [`tally`] adds up and prints.

pub mod campaign;
pub mod disk;
pub mod ledger;
pub mod producer;
pub mod tally;

use std::io;
use std::thread;

use tempfile::TempDir;

use crate::netns::skip;
use disk::Disk;

/// Runs `body` with a mounted disk, in a mount namespace of its own: whatever happens to this
/// process, the mount goes with its last thread. Where the host does not let us, the test is skipped
/// and says so; in CI that is a failure.
pub fn mounted_or_skip<T: Send + 'static>(
    test: &str,
    body: impl FnOnce(&Disk) -> T + Send + 'static,
) -> Option<T> {
    let name = thread::current().name().unwrap_or("crash").to_owned();
    let thread = thread::Builder::new().name(name).spawn(move || {
        own_mounts()?;
        let folder = TempDir::with_prefix("penstock-disk-")?;
        let disk = Disk::mount(folder.path())?;
        let outcome = body(&disk);
        drop(disk);
        Ok(outcome)
    });
    let outcome: io::Result<T> = match thread.expect("start a thread").join() {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    match outcome {
        Ok(outcome) => Some(outcome),
        Err(error) => {
            skip(
                test,
                &format!("it needs root and /dev/fuse, to mount a disk: {error}"),
            );
            None
        }
    }
}

/// A mount namespace for this thread and those it starts, from which nothing leads back.
fn own_mounts() -> io::Result<()> {
    // SAFETY: takes flags only, and changes this thread alone.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let none = std::ptr::null();
    // SAFETY: the target is a NUL-terminated path; the other pointers may be null where the flags
    // only change how mounts are shared (mount(2)).
    let status = unsafe {
        libc::mount(
            none,
            c"/".as_ptr(),
            none,
            libc::MS_REC | libc::MS_PRIVATE,
            none.cast(),
        )
    };
    match status {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
