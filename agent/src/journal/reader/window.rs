//! From a segment's file into the one buffer: a window of whole pages that moves along.
//!
//! One buffer of `limits::JOURNAL_BLOCK_LEN` is reused for all reads. Files are read with O_DIRECT
//! where the file system takes it: catching up on gigabytes then pushes nobody else's pages out,
//! and the writer's direct writes never meet cached pages of the same file, which the kernel would
//! have to invalidate at each write's completion (in a workqueue, away from the ring). Where
//! O_DIRECT is refused, plain reads do.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::{JournalReader, ReadError};
use crate::journal::format::{
    BLOCK_ALIGN, BLOCK_HEADER_LEN, BlockHeader, FormatFault, SEGMENT_HEADER_LEN, SegmentKey,
};

pub(super) struct OpenFile {
    /// Index into the listing.
    pub(super) index: usize,
    pub(super) key: SegmentKey,
    pub(super) base: u64,
    pub(super) file: File,
    pub(super) direct: bool,
}

pub(super) fn open_segment(path: &Path) -> Result<(File, bool), ReadError> {
    let direct = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path);
    let opened = match direct {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            File::open(path).map(|file| (file, false))
        }
        direct => direct.map(|file| (file, true)),
    };
    opened.map_err(|source| ReadError::Io {
        call: "open",
        path: path.to_owned(),
        source,
    })
}

/// Bytes that are no block, or no bytes at all.
pub(super) enum Unread {
    Fault(FormatFault),
    Failed(ReadError),
}

impl Unread {
    pub(super) fn into_error(self, reader: &JournalReader) -> ReadError {
        match self {
            Self::Failed(error) => error,
            Self::Fault(fault) => ReadError::Damaged {
                path: reader.folder.clone(),
                from: reader.position,
                to: reader.position,
                fault,
            },
        }
    }
}

impl JournalReader {
    /// Reads the block at `position` into the buffer, whole.
    pub(super) fn read_block(&mut self, position: u64, end: u64) -> Result<BlockHeader, Unread> {
        let key = self.open.as_ref().expect("a segment is open").key;
        let bytes = self.fill(position, BLOCK_HEADER_LEN, end)?;
        let header = BlockHeader::read(bytes, key, position).map_err(Unread::Fault)?;
        if header.end_position() > end {
            return Err(Unread::Fault(FormatFault::Length));
        }
        let bytes = self.fill(position, header.len as usize, end)?;
        if bytes.len() < header.len as usize {
            return Err(Unread::Fault(FormatFault::Short));
        }
        Ok(header)
    }

    /// The bytes from `position` on: at least `need`, where the file has them before `end`.
    pub(super) fn fill(&mut self, position: u64, need: usize, end: u64) -> Result<&[u8], Unread> {
        let room = usize::try_from(end - position).unwrap_or(usize::MAX);
        let need = need.min(room);
        let window_end = self.window_start + self.window_len as u64;
        let inside = (self.window_start..window_end).contains(&position);
        if !(inside && position + need as u64 <= window_end) {
            // What is already here of the position's bytes moves to the front: whole pages.
            let shift = if inside {
                (position - self.window_start) as usize
            } else {
                self.window_len
            };
            let buffer = self.buffer.bytes_mut();
            buffer.copy_within(shift..self.window_len, 0);
            self.window_len -= shift;
            self.window_start = position;
            let target = room.next_multiple_of(BLOCK_ALIGN).min(buffer.len());
            while self.window_len < target {
                let read = self.read_at(target)?;
                self.window_len += read;
                // The file's end; a direct read could not go on from within a page anyway.
                if !read.is_multiple_of(BLOCK_ALIGN) || read == 0 {
                    break;
                }
            }
        }
        let start = (position - self.window_start) as usize;
        let stop = self.window_len.min(start.saturating_add(room));
        Ok(&self.buffer.bytes()[start..stop])
    }

    /// One pread to the window's end, at most up to `target` in the buffer.
    fn read_at(&mut self, target: usize) -> Result<usize, Unread> {
        let open = self.open.as_mut().expect("a segment is open");
        let offset =
            SEGMENT_HEADER_LEN as u64 + (self.window_start - open.base) + self.window_len as u64;
        loop {
            let room = &mut self.buffer.bytes_mut()[self.window_len..target];
            let path = || self.listing.segments[open.index].path.clone();
            match open.file.read_at(room, offset) {
                Ok(read) => return Ok(read),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Some file systems take the flag at open and refuse it here.
                Err(error) if open.direct && error.raw_os_error() == Some(libc::EINVAL) => {
                    open.direct = false;
                    open.file = File::open(path()).map_err(|source| {
                        Unread::Failed(ReadError::Io {
                            call: "open",
                            path: path(),
                            source,
                        })
                    })?;
                }
                Err(source) => {
                    return Err(Unread::Failed(ReadError::Io {
                        call: "read",
                        path: path(),
                        source,
                    }));
                }
            }
        }
    }
}
