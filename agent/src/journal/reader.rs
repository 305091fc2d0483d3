//! Reads a shard's segments from disk, block by block, for whoever does not find them in memory:
//! a sink that lags behind, `penstock cat`.
//!
//! What may be read ends at the durable mark, and within a segment at its successor's `base`:
//! bytes beyond that may look like blocks, but nobody was ever told that they are stored.

mod damage;
mod listing;
#[cfg(test)]
mod tests;
mod window;

use std::io;
use std::path::{Path, PathBuf};

use crate::journal::format::{
    BLOCK_ALIGN, BLOCK_HEADER_LEN, BlockHeader, Entries, FormatFault, SEGMENT_HEADER_LEN,
    segment_file_name,
};
use crate::limits::JOURNAL_BLOCK_LEN;
use crate::shard::buffer::{BlockPool, OpenBlock};
pub use listing::{Listing, Segment, list_segments, oldest, read_segment_header};
use window::{OpenFile, Unread, open_segment};

const PAGE: u64 = BLOCK_ALIGN as u64;

/// Why a block could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{call} {}: {source}", path.display())]
    Io {
        call: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{}: the segment's header page: {fault}", path.display())]
    Header { path: PathBuf, fault: FormatFault },
    /// The file that holds the position is not there (or its header page is damaged). The reader
    /// stays where it is; `next` is the first later position that can be read, for `seek`.
    #[error(
        "{}: this segment is missing: it holds position {position}; {}",
        file.display(),
        match next { Some(next) => format!("the journal goes on at {next}"), None => "no later one exists".to_owned() }
    )]
    Missing {
        file: PathBuf,
        position: u64,
        next: Option<u64>,
    },
    /// No block can be read at `from`. The reader has moved on to `to`, where the next good block
    /// begins, or the segment's valid part ends.
    #[error("{}: damaged between positions {from} and {to}: {fault}", path.display())]
    Damaged {
        path: PathBuf,
        from: u64,
        to: u64,
        fault: FormatFault,
    },
}

/// A durable block, from memory or from disk, with the names its entries refer to.
#[derive(Clone, Copy, Debug)]
pub struct BlockView<'a> {
    pub header: BlockHeader,
    /// The block's header and its entries.
    pub bytes: &'a [u8],
    /// The segment's listener names, by the index that entries carry.
    pub listeners: &'a [String],
    /// Whether payload checksums are to be looked at: what comes from disk was out of our hands.
    pub verify_payload: bool,
}

impl<'a> BlockView<'a> {
    pub fn entries(&self) -> Entries<'a> {
        Entries::new(self.bytes, &self.header, self.verify_payload)
    }

    pub fn end_position(&self) -> u64 {
        self.header.end_position()
    }

    /// Records in the journal up to this block's end.
    pub fn end_records(&self) -> u64 {
        self.header.records_before + u64::from(self.header.records)
    }
}

/// Walks the blocks of one shard's journal, across its segments.
pub struct JournalReader {
    folder: PathBuf,
    listing: Listing,
    /// The listing was made when the journal was durable up to here: a segment that begins before
    /// it is listed. (A segment's name is synced before its first block can be durable.)
    listed_until: u64,
    open: Option<OpenFile>,
    /// Where the next block begins.
    position: u64,
    buffer: OpenBlock,
    /// The buffer holds `window_len` bytes of the open file, from position `window_start` on.
    window_start: u64,
    window_len: usize,
    /// The block found last: its header and where it begins in the buffer.
    found: Option<(BlockHeader, usize)>,
    torn_tail: Option<(u64, FormatFault)>,
}

impl JournalReader {
    /// `from_position` is where a block begins: a segment's base, or a block's end.
    pub fn open(folder: &Path, from_position: u64) -> Result<Self, ReadError> {
        let buffer = BlockPool::new(1, JOURNAL_BLOCK_LEN)
            .acquire()
            .expect("a new pool's only block is free");
        Ok(Self {
            folder: folder.to_owned(),
            listing: list_segments(folder, &Listing::default())?,
            listed_until: 0,
            open: None,
            position: from_position,
            buffer,
            window_start: 0,
            window_len: 0,
            found: None,
            torn_tail: None,
        })
    }

    /// Where the next block begins.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Go on at another block's beginning.
    pub fn seek(&mut self, position: u64) {
        self.position = position;
        self.found = None;
    }

    /// What the folder held when it was last looked at.
    pub fn listing(&self) -> &Listing {
        &self.listing
    }

    /// The next block that ends at or before `durable`; `None` where there is none yet.
    pub fn next_block(&mut self, durable: u64) -> Result<Option<BlockView<'_>>, ReadError> {
        self.found = None;
        if self.position >= durable {
            return Ok(None);
        }
        if self.position >= self.listed_until {
            self.list()?;
            self.listed_until = durable;
        }
        let end = match self.enter_segment(self.listed_until) {
            // Dropped since the folder was read, to make room.
            Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.list()?;
                self.enter_segment(self.listed_until)?
            }
            entered => entered?,
        };
        match self.read_block(self.position, end) {
            Ok(header) => {
                self.take(header);
                Ok(self.current())
            }
            Err(Unread::Failed(error)) => Err(error),
            Err(Unread::Fault(fault)) => Err(self.step_over(end, fault)?),
        }
    }

    /// The next block that stands whole in its file, durable or not, for a reader in another
    /// process that does not know the durable mark. `None` at the end of what is written.
    ///
    /// A block that is not whole is damage if a later block knew it to be durable, and otherwise a
    /// torn tail or a block being written just now: then it is the end. `scan` looks for that later
    /// block through the rest of the file; without it only the bytes in the buffer are looked at.
    pub fn next_written(&mut self, scan: bool) -> Result<Option<BlockView<'_>>, ReadError> {
        self.found = None;
        self.torn_tail = None;
        let mut fresh = false;
        loop {
            if self.listing.segments.is_empty() {
                self.list()?;
                if self.listing.segments.is_empty() {
                    return Ok(None);
                }
            }
            self.listed_until = u64::MAX;
            let end = self.enter_segment(u64::MAX)?;
            let fault = match self.read_block(self.position, end) {
                Ok(header) => match self.first_fault(&header) {
                    None => {
                        self.take(header);
                        return Ok(self.current());
                    }
                    Some(fault) => {
                        if self.known_durable(header.end_position(), end, scan)? {
                            // Its good entries are worth having; the caller meets the bad one.
                            self.read_block(self.position, end)
                                .map_err(|unread| unread.into_error(self))?;
                            self.take(header);
                            return Ok(self.current());
                        }
                        fault
                    }
                },
                Err(Unread::Failed(error)) => return Err(error),
                Err(Unread::Fault(fault)) => fault,
            };
            // The buffer may hold bytes from before the block was written.
            if !std::mem::replace(&mut fresh, true) {
                self.window_len = 0;
                continue;
            }
            let in_last = self
                .open
                .as_ref()
                .is_some_and(|open| open.index + 1 == self.listing.segments.len());
            if !in_last {
                return Err(self.step_over(end, fault)?);
            }
            let segments_before = self.listing.segments.len();
            self.list()?;
            if self.listing.segments.len() > segments_before {
                // The writer may have finished this segment before it began the next.
                fresh = false;
                continue;
            }
            if self.known_durable(self.position + PAGE, end, scan)? {
                return Err(self.step_over(end, fault)?);
            }
            let position = self.position;
            let left = match self.fill(position, BLOCK_HEADER_LEN, end) {
                Ok(bytes) => bytes.first_chunk::<BLOCK_HEADER_LEN>(),
                Err(unread) => return Err(unread.into_error(self)),
            };
            // Zeros are what was preallocated and not yet written.
            if left.is_some_and(|bytes| bytes != &[0; BLOCK_HEADER_LEN]) {
                self.torn_tail = Some((position, fault));
            }
            return Ok(None);
        }
    }

    /// What `next_written` found at its end, where that was neither nothing nor a whole block.
    pub fn torn_tail(&self) -> Option<(u64, FormatFault)> {
        self.torn_tail
    }

    /// The block that was returned last.
    pub fn current(&self) -> Option<BlockView<'_>> {
        let (header, start) = self.found?;
        let open = self.open.as_ref()?;
        Some(BlockView {
            header,
            bytes: &self.buffer.bytes()[start..start + header.len as usize],
            listeners: &self.listing.segments[open.index].header.listeners,
            verify_payload: true,
        })
    }

    fn take(&mut self, header: BlockHeader) {
        let start = (header.position - self.window_start) as usize;
        self.found = Some((header, start));
        self.position = header.end_position();
    }

    fn list(&mut self) -> Result<(), ReadError> {
        self.listing = list_segments(&self.folder, &self.listing)?;
        // Indices may have moved.
        if let Some(open) = &mut self.open {
            match self
                .listing
                .segments
                .binary_search_by_key(&open.key.number, |segment| segment.header.number)
            {
                Ok(index) => open.index = index,
                Err(_) => self.open = None,
            }
        }
        Ok(())
    }

    /// Opens the segment that holds the position; returns where it may be read up to.
    fn enter_segment(&mut self, limit: u64) -> Result<u64, ReadError> {
        let segments = &self.listing.segments;
        // The latest that begins at or before the position holds it: bases do not only rise, as two
        // segments that were poisoned together are followed by one that begins before the second.
        let holds = |segment: &Segment| segment.header.base <= self.position;
        let Some(index) = segments.iter().rposition(holds) else {
            let first = segments.first();
            let number = first.map_or(1, |segment| segment.header.predecessor.max(1));
            return Err(ReadError::Missing {
                file: self.folder.join(segment_file_name(number)),
                position: self.position,
                next: first.map(|segment| segment.header.base),
            });
        };
        let segment = &segments[index];
        let number = segment.header.number;
        if self
            .open
            .as_ref()
            .is_none_or(|open| open.key.number != number)
        {
            let (file, direct) = open_segment(&segment.path)?;
            self.open = Some(OpenFile {
                index,
                key: segment.header.key(),
                base: segment.header.base,
                file,
                direct,
            });
            self.window_len = 0;
        }
        let later = segments[index + 1..].iter();
        let valid_end = later.map(|later| later.header.base).min();
        let end = valid_end.unwrap_or(u64::MAX).min(limit);
        if end < u64::MAX {
            return Ok(end);
        }
        // Neither a successor nor a durable mark: as far as there are whole pages.
        let open = self.open.as_ref().expect("opened above");
        let len = open
            .file
            .metadata()
            .map_err(|source| ReadError::Io {
                call: "stat",
                path: segment.path.clone(),
                source,
            })?
            .len();
        let pages = len.saturating_sub(SEGMENT_HEADER_LEN as u64) / PAGE;
        Ok((open.base + pages * PAGE).max(self.position))
    }
}
