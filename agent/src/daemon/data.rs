//! The data folder: made, locked, and each shard's journal recovered.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::exit::{Exit, Failure};
use crate::journal::format::shard_folder_name;
use crate::journal::reader::oldest;
use crate::journal::recovery::windows::{self, Memory};
use crate::journal::recovery::{self, Recovered};
use crate::journal::writer::JournalStart;

/// The data folder, locked for as long as this lives.
pub struct DataFolder {
    path: PathBuf,
    _lock: File,
}

impl DataFolder {
    /// Makes what is missing and takes the lock. Another agent in the folder is `Exit::InUse`.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        make_folder(path)?;
        let lock_path = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(&lock_path)
            .map_err(|error| Failure::io(format!("open {}", lock_path.display()), &error))?;
        // SAFETY: no pointers; the descriptor is open. The lock goes with the process, however it
        // ends (flock(2)).
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let mut holder = String::new();
            let _ = lock.read_to_string(&mut holder);
            return Err(Failure::new(
                Exit::InUse,
                format!(
                    "the data folder {} is in use by another agent (process {})",
                    path.display(),
                    holder.trim(),
                ),
            ));
        }
        let named = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        named.map_err(|error| Failure::io(format!("write {}", lock_path.display()), &error))?;
        make_folder(&path.join("journal"))?;
        sync_folder(path)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn shard_folder(&self, shard: u16) -> PathBuf {
        self.path.join("journal").join(shard_folder_name(shard))
    }

    /// Where a shard's oldest segment begins, and the records before it.
    pub fn oldest(&self, shard: u16) -> Result<Option<(u64, u64)>, Failure> {
        oldest(&self.shard_folder(shard))
            .map_err(|error| Failure::new(Exit::Io, format!("read the journal: {error}")))
    }

    /// Recovers a shard's journal and says what was found.
    pub fn recover(&self, shard: u16) -> Result<Recovered, Failure> {
        let folder = self.shard_folder(shard);
        make_folder(&folder)?;
        // A shard's folder that the power takes away takes with it what was acknowledged in it.
        sync_folder(&self.path.join("journal"))?;
        let recovered = recovery::recover(&folder)
            .map_err(|error| Failure::io("recover the journal", &error.source).with(&error))?;
        let report = &recovered.report;
        for damage in &report.damaged {
            tracing::error!(
                shard,
                start = damage.start,
                end = damage.end,
                "DAMAGED JOURNAL: acknowledged bytes are gone; what stands on both sides is kept",
            );
        }
        if let Some(position) = report.cut_at {
            tracing::warn!(
                shard,
                position,
                "a torn tail was cut: it was never acknowledged"
            );
        }
        if report.segments > 0 {
            tracing::info!(
                shard,
                segments = report.segments,
                records = report.records,
                "journal recovered"
            );
        }
        Ok(recovered)
    }

    /// Reads what a recovered journal remembers of its producers, and the segment from which on it
    /// holds that.
    pub fn remember(&self, shard: u16, start: &JournalStart) -> Result<(Memory, u64), Failure> {
        windows::remember(&self.shard_folder(shard), start)
            .map_err(|error| Failure::io("recover the journal", &error.source).with(&error))
    }

    /// Shards of an earlier life with more of them, whose journals may hold undelivered records.
    pub fn shards_beyond(&self, count: u16) -> Result<Vec<u16>, Failure> {
        let journal = self.path.join("journal");
        let entries = fs::read_dir(&journal)
            .map_err(|error| Failure::io(format!("read {}", journal.display()), &error))?;
        let mut shards: Vec<u16> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| name.strip_prefix("shard-")?.parse().ok())
            .filter(|shard| *shard >= count)
            .collect();
        shards.sort_unstable();
        Ok(shards)
    }
}

fn sync_folder(path: &Path) -> Result<(), Failure> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| Failure::io(format!("sync the folder {}", path.display()), &error))
}

/// Makes a folder and those above it, where they are missing, durably: a synced file in a folder
/// whose own name is not durable goes with the folder. What an earlier life made may not have been
/// synced by it, so the folder above is synced in any case.
fn make_folder(path: &Path) -> Result<(), Failure> {
    let missing = path.ancestors().take_while(|folder| !folder.exists());
    let made = missing.count().max(1);
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(path)
        .map_err(|error| Failure::io(format!("create the folder {}", path.display()), &error))?;
    for above in path.ancestors().skip(1).take(made) {
        sync_names(above)
            .map_err(|error| Failure::io(format!("sync the folder {}", above.display()), &error))?;
    }
    Ok(())
}

fn sync_names(path: &Path) -> io::Result<()> {
    // The folder above a relative path of one part is the working folder.
    let path = match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    };
    match File::open(path).and_then(|folder| folder.sync_all()) {
        // Who may not read the folder above the data folder, or finds it on a file system that is
        // never written to (EINVAL: it cannot sync), has been given the latter by somebody who has
        // seen to it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        synced => synced,
    }
}

/// Bytes that are free to this process on the file system of `path`, and the file system's size.
pub fn disk_space(path: &Path) -> std::io::Result<(u64, u64)> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all zeroes is a valid statvfs; the kernel overwrites it.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a NUL-terminated path and a struct of the call's own type, both alive for the call.
    if unsafe { libc::statvfs(path.as_ptr(), &mut stat) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok((stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize))
}
