//! A shard's journal folder: how its segment files are named, created and synced.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::fence::{FenceError, failed};
use crate::journal::format::segment_file_name;
use crate::shard::op::Errno;

/// Owner and group read it; the owner writes.
pub const SEGMENT_MODE: libc::mode_t = 0o640;

pub struct JournalFolder {
    file: File,
    /// The file system takes O_DIRECT.
    direct: bool,
}

impl JournalFolder {
    pub fn open(path: &Path) -> Result<Self, FenceError> {
        let file = File::open(path).map_err(failed("open (journal folder)"))?;
        let direct = takes_direct(path).map_err(failed("open (journal folder)"))?;
        if !direct {
            tracing::warn!(
                folder = %path.display(),
                "the file system refuses O_DIRECT: the journal is written through the page cache, \
                 several times slower",
            );
        }
        Ok(Self { file, direct })
    }

    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// With what a segment's file is created: nobody else's is taken over.
    pub fn segment_flags(&self) -> libc::c_int {
        let direct = if self.direct { libc::O_DIRECT } else { 0 };
        libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_CLOEXEC | direct
    }
}

/// A segment's name within its folder.
pub fn segment_name(number: u64) -> CString {
    CString::new(segment_file_name(number)).expect("digits and a dot")
}

/// Where a file system cannot preallocate, writes allocate as they go.
pub fn allocated(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno(libc::EOPNOTSUPP)) => Ok(()),
        other => other,
    }
}

/// Whether files in `folder` can be opened with O_DIRECT; tried with one, as no call tells.
fn takes_direct(folder: &Path) -> io::Result<bool> {
    let probe = folder.join(".direct-probe");
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o640);
    let direct = options.clone().custom_flags(libc::O_DIRECT).open(&probe);
    let outcome = match direct {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            options.open(&probe).map(|_| false)
        }
        Err(error) => Err(error),
    };
    // A probe left behind harms nobody: the data folder is locked, and the name is ours alone.
    let _ = std::fs::remove_file(&probe);
    outcome
}
