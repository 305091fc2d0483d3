//! A file system of a test's own, in a mount namespace of its own: nobody else sees it, and it goes
//! with the thread.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::netns;

/// Runs `body` on a new thread in a new mount namespace; processes that it starts live there too.
/// Without the right to make one (CAP_SYS_ADMIN) the test is skipped, which in CI is a failure.
pub fn private_or_skip(test: &'static str, body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name(test.to_owned());
    let thread = thread.spawn(move || match enter() {
        Ok(()) => body(),
        Err(error) => netns::skip(test, &format!("it needs root (a mount namespace: {error})")),
    });
    if let Err(panic) = thread.expect("a thread").join() {
        std::panic::resume_unwind(panic);
    }
}

fn enter() -> io::Result<()> {
    // SAFETY: takes flags only, and changes this thread alone.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    // What is mounted here must not be mounted in the namespace that this one was copied from.
    // SAFETY: NUL-terminated text, alive for the call; the other pointers may be null.
    check(unsafe {
        libc::mount(
            std::ptr::null(),
            c"/".as_ptr(),
            std::ptr::null(),
            libc::MS_REC | libc::MS_PRIVATE,
            std::ptr::null(),
        )
    })
}

/// A tmpfs of a size; unmounted when it is dropped.
pub struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    /// Mounts it at a folder, which is made.
    pub fn mount(path: &Path, size: &str) -> Self {
        std::fs::create_dir_all(path).expect("make the mount point");
        let at = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
        let options = CString::new(format!("size={size},mode=0755")).expect("no NUL");
        // SAFETY: NUL-terminated texts, alive for the call.
        let mounted = check(unsafe {
            libc::mount(
                c"tmpfs".as_ptr(),
                at.as_ptr(),
                c"tmpfs".as_ptr(),
                0,
                options.as_ptr().cast(),
            )
        });
        mounted.expect("mount a tmpfs");
        Self {
            path: path.to_owned(),
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let at = CString::new(self.path.as_os_str().as_bytes()).expect("no NUL");
        // SAFETY: NUL-terminated text, alive for the call. A process that still has a file open
        // keeps the file system, not its place.
        unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) };
    }
}

fn check(status: libc::c_int) -> io::Result<()> {
    match status {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
