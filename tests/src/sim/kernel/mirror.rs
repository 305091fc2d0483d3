//! A journal's folder as the agent's own readers see it: real files with all that was written,
//! synced or not, in memory. What of it survives a crash, `disk.rs` alone decides.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use penstock::journal::format::segment_file_name;

pub struct Mirror {
    folder: PathBuf,
    open: BTreeMap<u64, File>,
}

impl Mirror {
    /// The folder holds what the agent finds at its start.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            open: BTreeMap::new(),
        }
    }

    pub fn create(&mut self, number: u64) {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(self.folder.join(segment_file_name(number)));
        self.open.insert(number, file.expect("a temporary file"));
    }

    pub fn allocate(&mut self, number: u64, len: u64) {
        self.open[&number].set_len(len).expect("a longer file");
    }

    pub fn write(&mut self, number: u64, offset: u64, bytes: &[u8]) {
        let written = self.open[&number].write_all_at(bytes, offset);
        written.expect("a write to a temporary file");
    }

    pub fn close(&mut self, number: u64) {
        self.open.remove(&number);
    }

    pub fn remove(&mut self, number: u64) {
        std::fs::remove_file(self.folder.join(segment_file_name(number)))
            .expect("a temporary file that is there");
    }
}
