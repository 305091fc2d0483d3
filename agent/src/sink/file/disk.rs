//! What the file sink asks of a file system: a short list of calls, so that a test can stand in for
//! the disk and lose everything that was not synced.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use crate::sink::clock::Clock;

/// Output files and cursors hold log lines and their positions: the owner's and the group's only.
const FILE_MODE: u32 = 0o640;
const FOLDER_MODE: u32 = 0o750;

/// A file of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub len: u64,
    /// The last write.
    pub modified: SystemTime,
}

/// The calls. Nothing is durable before `sync`; no name is before `sync_folder`.
pub trait Disk {
    type File;

    /// Creates a folder and those above it, where they are missing.
    fn create_folder(&mut self, folder: &Path) -> io::Result<()>;
    /// Creates a file that must not be there yet.
    fn create(&mut self, path: &Path) -> io::Result<Self::File>;
    /// Opens a file to go on writing at `len`, and cuts what lies beyond.
    fn open_cut(&mut self, path: &Path, len: u64) -> io::Result<Self::File>;
    /// At most `len_max` bytes from the file's beginning.
    fn read(&mut self, path: &Path, len_max: u64) -> io::Result<Vec<u8>>;
    fn write(&mut self, file: &mut Self::File, bytes: &[u8]) -> io::Result<()>;
    /// Makes the file's bytes and length durable.
    fn sync(&mut self, file: &mut Self::File) -> io::Result<()>;
    /// Makes creations, renames and removals in the folder durable.
    fn sync_folder(&mut self, folder: &Path) -> io::Result<()>;
    /// Renames within a folder, over what has the new name.
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&mut self, path: &Path) -> io::Result<()>;
    /// The folder's files, in no order.
    fn list(&mut self, folder: &Path) -> io::Result<Vec<Listed>>;

    /// The clock that goes with it: a disk that is simulated has simulated time.
    fn clock(&self) -> Clock {
        Clock::host()
    }
}

/// The kernel's file system.
#[derive(Clone, Copy, Debug)]
pub struct RealDisk;

impl Disk for RealDisk {
    type File = File;

    fn create_folder(&mut self, folder: &Path) -> io::Result<()> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(folder)
    }

    fn create(&mut self, path: &Path) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(path)
    }

    fn open_cut(&mut self, path: &Path, len: u64) -> io::Result<File> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.set_len(len)?;
        file.seek(SeekFrom::Start(len))?;
        Ok(file)
    }

    fn read(&mut self, path: &Path, len_max: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(len_max).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&mut self, file: &mut File) -> io::Result<()> {
        // fdatasync: also syncs the length, as it is needed to read the bytes back.
        file.sync_data()
    }

    fn sync_folder(&mut self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn list(&mut self, folder: &Path) -> io::Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Another shard's thread removed or renamed it just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if let (Ok(name), true) = (entry.file_name().into_string(), metadata.is_file()) {
                listed.push(Listed {
                    name,
                    len: metadata.len(),
                    modified: metadata.modified()?,
                });
            }
        }
        Ok(listed)
    }
}
