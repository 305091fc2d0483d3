//! A stretch of a file in memory, so that small blocks do not cost a read each.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::limits;

#[derive(Default)]
pub struct Window {
    bytes: Vec<u8>,
    start: u64,
}

/// Four of the longest blocks: 4 MiB, freed when recovery ends.
pub const WINDOW_LEN: usize = 4 * limits::JOURNAL_BLOCK_LEN;

impl Window {
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Up to `len` bytes at `offset`; fewer at the file's end.
    pub fn read(&mut self, file: &File, offset: u64, len: usize) -> io::Result<&[u8]> {
        let end = self.start + self.bytes.len() as u64;
        let holds = self.start <= offset && offset + len as u64 <= end;
        let at_file_end = self.start <= offset && offset < end && self.bytes.len() < WINDOW_LEN;
        if !holds && !at_file_end {
            self.bytes.resize(WINDOW_LEN, 0);
            let mut filled = 0;
            while filled < WINDOW_LEN {
                match file.read_at(&mut self.bytes[filled..], offset + filled as u64)? {
                    0 => break,
                    read => filled += read,
                }
            }
            self.bytes.truncate(filled);
            self.start = offset;
        }
        let from = (offset - self.start) as usize;
        let to = (from + len).min(self.bytes.len());
        Ok(&self.bytes[from.min(to)..to])
    }
}
