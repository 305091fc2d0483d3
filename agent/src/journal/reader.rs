//! Reads a shard's segments from disk, block by block, for whoever does not find them in memory:
//! a sink that lags behind, `penstock cat`.
//!
//! One buffer of `limits::JOURNAL_BLOCK_LEN` is reused for all reads. Files are read with O_DIRECT
//! where the file system takes it: catching up on gigabytes then pushes nobody else's pages out,
//! and the writer's direct writes never meet cached pages of the same file, which the kernel would
//! have to invalidate at each write's completion (in a workqueue, away from the ring). Where
//! O_DIRECT is refused, plain reads do.
//!
//! What may be read ends at the durable mark, and within a segment at its successor's `base`:
//! bytes beyond that may look like blocks, but nobody was ever told that they are stored.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::journal::format::{
    BLOCK_ALIGN, BLOCK_HEADER_LEN, BlockHeader, Entries, FormatFault, SEGMENT_HEADER_LEN,
    SegmentHeader, segment_file_name, segment_number,
};
use crate::limits::JOURNAL_BLOCK_LEN;
use crate::shard::buffer::{BlockPool, OpenBlock};

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

/// A segment that exists, with its header.
#[derive(Clone, Debug)]
pub struct Segment {
    pub path: PathBuf,
    pub header: SegmentHeader,
}

/// What a shard's folder holds, in order of number. A file whose header page cannot be read is no
/// segment yet (its creation was not finished) or no longer.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    pub segments: Vec<Segment>,
    pub unreadable: Vec<(PathBuf, FormatFault)>,
}

/// Lists a shard's folder. Headers that `known` holds are not read again: they never change.
pub fn list_segments(folder: &Path, known: &Listing) -> Result<Listing, ReadError> {
    let io_error = |call: &'static str| {
        let path = folder.to_owned();
        move |source| ReadError::Io { call, path, source }
    };
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io_error("read folder"))? {
        let name = entry.map_err(io_error("read folder"))?.file_name();
        numbers.extend(name.to_str().and_then(segment_number));
    }
    numbers.sort_unstable();
    let mut listing = Listing::default();
    for number in numbers {
        let path = folder.join(segment_file_name(number));
        let found = known
            .segments
            .binary_search_by_key(&number, |segment| segment.header.number);
        if let Ok(index) = found {
            listing.segments.push(known.segments[index].clone());
            continue;
        }
        match read_segment_header(&path) {
            Ok(header) if header.number == number => {
                listing.segments.push(Segment { path, header });
            }
            Ok(_) => listing.unreadable.push((path, FormatFault::Stale)),
            Err(ReadError::Header { path, fault }) => listing.unreadable.push((path, fault)),
            // Retention may remove a file between the listing and the look into it.
            Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(listing)
}

/// Reads one segment's header page.
pub fn read_segment_header(path: &Path) -> Result<SegmentHeader, ReadError> {
    let file = File::open(path).map_err(|source| ReadError::Io {
        call: "open",
        path: path.to_owned(),
        source,
    })?;
    let mut page = [0; SEGMENT_HEADER_LEN];
    match file.read_exact_at(&mut page, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(ReadError::Header {
                path: path.to_owned(),
                fault: FormatFault::Short,
            });
        }
        Err(source) => {
            return Err(ReadError::Io {
                call: "read",
                path: path.to_owned(),
                source,
            });
        }
    }
    SegmentHeader::read(&page).map_err(|fault| ReadError::Header {
        path: path.to_owned(),
        fault,
    })
}

/// Where a journal's oldest segment begins: position and records before it. `None`: no segment.
pub fn oldest(folder: &Path) -> Result<Option<(u64, u64)>, ReadError> {
    let listing = list_segments(folder, &Listing::default())?;
    Ok(listing
        .segments
        .first()
        .map(|segment| (segment.header.base, segment.header.records_before)))
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

struct OpenFile {
    /// Index into the listing.
    index: usize,
    number: u64,
    base: u64,
    file: File,
    direct: bool,
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
        let end = self.enter_segment(self.listed_until)?;
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
                .binary_search_by_key(&open.number, |segment| segment.header.number)
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
        if self.open.as_ref().is_none_or(|open| open.number != number) {
            let (file, direct) = open_segment(&segment.path)?;
            self.open = Some(OpenFile {
                index,
                number,
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

    /// Reads the block at `position` into the buffer, whole.
    fn read_block(&mut self, position: u64, end: u64) -> Result<BlockHeader, Unread> {
        let number = self.open.as_ref().expect("a segment is open").number;
        let bytes = self.fill(position, BLOCK_HEADER_LEN, end)?;
        let header = BlockHeader::read(bytes, number, position).map_err(Unread::Fault)?;
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
    fn fill(&mut self, position: u64, need: usize, end: u64) -> Result<&[u8], Unread> {
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

    /// Moves past bytes that are no block; `Ok` is the error to report.
    fn step_over(&mut self, end: u64, fault: FormatFault) -> Result<ReadError, ReadError> {
        let open = self.open.as_ref().expect("a segment is open");
        let (index, from) = (open.index, self.position);
        if let Some(next) = self.listing.segments.get(index + 1)
            && next.header.predecessor > open.number
        {
            // A segment between this one and the next listed one: this one's end is not known.
            return Ok(ReadError::Missing {
                file: self.folder.join(segment_file_name(next.header.predecessor)),
                position: from,
                next: Some(next.header.base),
            });
        }
        let to = self.find_block(from + PAGE, end, |_| true)?.unwrap_or(end);
        self.position = to;
        Ok(ReadError::Damaged {
            path: self.listing.segments[index].path.clone(),
            from,
            to,
            fault,
        })
    }

    /// Whether a block at or after `from` knew that everything up to `from` was durable.
    fn known_durable(&mut self, from: u64, end: u64, scan: bool) -> Result<bool, ReadError> {
        let window_end = self.window_start + self.window_len as u64;
        let end = if scan { end } else { end.min(window_end) };
        let found = self.find_block(from, end, |header| header.durable >= from)?;
        Ok(found.is_some())
    }

    /// The position of the first page from `from` on that begins a wanted block of this segment.
    fn find_block(
        &mut self,
        from: u64,
        end: u64,
        wanted: impl Fn(&BlockHeader) -> bool,
    ) -> Result<Option<u64>, ReadError> {
        let number = self.open.as_ref().expect("a segment is open").number;
        let mut at = from;
        while at < end {
            let bytes = match self.fill(at, BLOCK_HEADER_LEN, end) {
                Ok(bytes) => bytes,
                Err(unread) => return Err(unread.into_error(self)),
            };
            if bytes.is_empty() {
                break;
            }
            match BlockHeader::read(bytes, number, at) {
                Ok(header) if header.end_position() <= end && wanted(&header) => {
                    return Ok(Some(at));
                }
                _ => at += PAGE,
            }
        }
        Ok(None)
    }

    fn first_fault(&self, header: &BlockHeader) -> Option<FormatFault> {
        let start = (header.position - self.window_start) as usize;
        Entries::new(&self.buffer.bytes()[start..], header, true).find_map(Result::err)
    }
}

/// Bytes that are no block, or no bytes at all.
enum Unread {
    Fault(FormatFault),
    Failed(ReadError),
}

impl Unread {
    fn into_error(self, reader: &JournalReader) -> ReadError {
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

fn open_segment(path: &Path) -> Result<(File, bool), ReadError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::sample::{SampleEntry, SampleJournal, numbered};

    fn entry(number: u64, body_len: usize) -> SampleEntry {
        let mut record = numbered(number);
        record.body = "x".repeat(body_len);
        SampleEntry::protobuf(number, vec![record])
    }

    /// What a reader gives until it has no more: positions, or what was wrong.
    fn walk(reader: &mut JournalReader, durable: u64) -> Vec<Result<u64, String>> {
        let mut seen = Vec::new();
        loop {
            match reader.next_block(durable) {
                Ok(None) => return seen,
                Ok(Some(block)) => {
                    assert!(block.entries().all(|entry| entry.is_ok()));
                    assert_eq!(block.listeners, crate::sink::sample::LISTENERS);
                    seen.push(Ok(block.header.position));
                }
                Err(ReadError::Missing {
                    file,
                    next: Some(next),
                    ..
                }) => {
                    let name = file.file_name().expect("a name").to_string_lossy();
                    seen.push(Err(format!("missing {name}")));
                    reader.seek(next);
                }
                Err(ReadError::Damaged { from, to, .. }) => {
                    seen.push(Err(format!("damaged {from}..{to}")));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn blocks_of_every_length_come_back_in_order_across_segments_up_to_the_mark() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = SampleJournal::new(folder.path());
        let mut reader = JournalReader::open(&journal.folder, 0).expect("open");
        assert!(reader.next_block(0).expect("nothing durable").is_none());
        let longest = JOURNAL_BLOCK_LEN - 4096 - 512;
        let mut blocks = Vec::new();
        for (at, body_len) in [10, 5_000, longest, 1, 700_000, 600_000, 10, longest, 3]
            .into_iter()
            .enumerate()
        {
            if at == 4 || at == 7 {
                journal.next_segment();
            }
            let (bytes, header) = journal.append(&[entry(at as u64, body_len)]);
            blocks.push((bytes, header));
        }
        // Durable up to the fifth block's end: the sixth is written, but not to be seen.
        let durable = blocks[4].1.end_position();
        for (bytes, header) in &blocks[..5] {
            let block = reader.next_block(durable).expect("read").expect("a block");
            assert_eq!(block.header, *header);
            assert_eq!(block.bytes, &bytes[..header.len as usize]);
        }
        assert!(reader.next_block(durable).expect("the end").is_none());
        let positions: Vec<_> = blocks[5..].iter().map(|b| Ok(b.1.position)).collect();
        assert_eq!(walk(&mut reader, journal.position), positions);
        let mut middle = JournalReader::open(&journal.folder, blocks[6].1.position).expect("open");
        assert_eq!(walk(&mut middle, journal.position), positions[1..]);
    }

    #[test]
    fn a_segment_ends_where_its_successor_begins() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = SampleJournal::new(folder.path());
        journal.append(&[entry(0, 10)]);
        // A block whose sync failed: whole in the file, never acknowledged, and the journal went on
        // in another segment at its position.
        let (bytes, header) = journal.sealed(&[entry(99, 10)]);
        journal.write_at(header.position, &bytes);
        let mut reader = JournalReader::open(&journal.folder, 0).expect("open");
        assert_eq!(walk(&mut reader, 4096), [Ok(0)]);
        journal.next_segment();
        // One more that failed before its first block.
        let (bytes, header) = journal.sealed(&[entry(98, 10)]);
        journal.write_at(header.position, &bytes);
        journal.next_segment();
        let (bytes, _) = journal.append(&[entry(1, 10)]);
        let block = reader.next_block(journal.position).expect("read");
        let block = block.expect("the block of the third segment");
        assert_eq!(block.header.segment, 3);
        assert_eq!(block.bytes, &bytes[..block.header.len as usize]);
    }

    #[test]
    fn damage_in_the_middle_is_reported_and_both_sides_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = SampleJournal::new(folder.path());
        for number in 0..3 {
            journal.append(&[entry(number, 6_000)]);
        }
        let last_of_first = journal.position;
        journal.append(&[entry(3, 10)]);
        // The second block's header, and the whole of the segment's last one.
        journal.write_at(8192, &[0xff; 16]);
        journal.write_at(last_of_first, &[0; 4096]);
        journal.next_segment();
        journal.append(&[entry(4, 10)]);
        let mut reader = JournalReader::open(&journal.folder, 0).expect("open");
        assert_eq!(
            walk(&mut reader, journal.position),
            [
                Ok(0),
                Err("damaged 8192..16384".to_owned()),
                Ok(16384),
                Err("damaged 24576..28672".to_owned()),
                Ok(28672),
            ]
        );
    }

    #[test]
    fn a_damaged_entry_leaves_its_neighbours() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = SampleJournal::new(folder.path());
        let entries = [entry(0, 64), entry(1, 64), entry(2, 64)];
        let (mut bytes, _) = journal.append(&entries);
        let middle = bytes
            .windows(64)
            .enumerate()
            .filter(|(_, w)| *w == [b'x'; 64]);
        let (at, _) = middle.into_iter().nth(1).expect("the second body");
        bytes[at] ^= 1;
        journal.write_at(0, &bytes);
        let mut reader = JournalReader::open(&journal.folder, 0).expect("open");
        let block = reader.next_block(journal.position).expect("read");
        let seen: Vec<_> = block
            .expect("a block")
            .entries()
            .map(|entry| entry.map(|entry| entry.envelope.observed_time_unix_nano))
            .collect();
        assert_eq!(seen, [Ok(0), Err(FormatFault::Checksum), Ok(2)]);
    }

    #[test]
    fn a_missing_segment_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = SampleJournal::new(folder.path());
        for number in 0..4 {
            journal.append(&[entry(number, 10)]);
            journal.next_segment();
        }
        let first = journal.path(1);
        let third = journal.path(3);
        std::fs::remove_file(&first).expect("remove");
        std::fs::remove_file(&third).expect("remove");
        let mut reader = JournalReader::open(&journal.folder, 0).expect("open");
        assert_eq!(
            walk(&mut reader, journal.position),
            [
                Err("missing 0000000000000001.segment".to_owned()),
                Ok(4096),
                Err("missing 0000000000000003.segment".to_owned()),
                Ok(12288),
            ]
        );
        assert_eq!(oldest(&journal.folder).expect("list"), Some((4096, 1)));
    }

    #[test]
    fn without_a_mark_a_block_that_is_not_whole_is_the_end_until_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = SampleJournal::new(folder.path());
        journal.append(&[entry(0, 10)]);
        let mut reader = JournalReader::open(&journal.folder, 0).expect("open");
        assert!(reader.next_written(true).expect("read").is_some());
        assert!(reader.next_written(true).expect("read").is_none());
        assert_eq!(
            reader.torn_tail(),
            None,
            "preallocated zeros are no torn block"
        );
        // The first page of a longer block has arrived, the rest has not.
        let (bytes, header) = journal.sealed(&[entry(1, 9_000)]);
        journal.write_at(header.position, &bytes[..4096]);
        assert!(reader.next_written(true).expect("read").is_none());
        assert_eq!(
            reader.torn_tail(),
            Some((header.position, FormatFault::Checksum))
        );
        journal.append(&[entry(1, 9_000)]);
        let block = reader.next_written(true).expect("read").expect("whole now");
        assert_eq!(block.bytes, &bytes[..header.len as usize]);
        journal.next_segment();
        let (_, header) = journal.append(&[entry(2, 10)]);
        let block = reader.next_written(false).expect("read").expect("a block");
        assert_eq!(block.header, header);
    }

    #[test]
    fn without_a_mark_damage_that_a_later_block_knew_durable_is_damage() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = SampleJournal::new(folder.path());
        for number in 0..3 {
            journal.append(&[entry(number, 10)]);
        }
        journal.write_at(4096, &[0; 64]);
        let mut reader = JournalReader::open(&journal.folder, 0).expect("open");
        assert!(reader.next_written(true).expect("read").is_some());
        let error = reader.next_written(true).expect_err("damage");
        assert!(
            matches!(
                error,
                ReadError::Damaged {
                    from: 4096,
                    to: 8192,
                    ..
                }
            ),
            "{error}"
        );
        let block = reader.next_written(true).expect("read").expect("a block");
        assert_eq!(block.header.position, 8192);
    }
}
