//! Reads every segment of a folder, and says what is sound; decides nothing, changes nothing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::table::Bytes;
use super::window::{WINDOW_LEN, Window};
use super::{RecoveryError, failed};
use crate::journal::format::{
    BLOCK_ALIGN, BlockHeader, Entries, FormatFault, SEGMENT_HEADER_LEN, SegmentHeader, SegmentKey,
    segment_number,
};
use crate::limits;

const PAGE: u64 = BLOCK_ALIGN as u64;

/// A segment as it lies on disk. What is kept of it in memory grows with its damage, not with its
/// blocks.
pub struct Found {
    pub number: u64,
    pub path: PathBuf,
    pub file: File,
    /// What its blocks are known by. Without a sound header page, what its first block says.
    pub key: SegmentKey,
    pub base: u64,
    pub records_before: u64,
    pub has_header: bool,
    /// 0 without a header page.
    pub created_unix_nano: u64,
    pub bytes: u64,
    /// Sound blocks without a gap between them, in order.
    pub runs: Vec<Run>,
    /// Blocks with a sound header that are not sound, in order.
    pub unsound: Vec<BlockHeader>,
    /// What stands where no sound block does, zeroes left out; in order.
    pub left: Vec<Left>,
    /// The highest durable mark of its blocks.
    pub durable: u64,
    /// Something stands behind its valid end.
    pub superseded: bool,
    /// First and last time of its sound entries.
    pub observed_unix_nano: Option<(u64, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub start: u64,
    pub end: u64,
    pub blocks: u64,
    pub records: u64,
    /// Records in the journal before its end.
    pub records_end: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    pub start: u64,
    pub end: u64,
    pub bytes: Bytes,
}

/// Files that hold nothing: their numbers and paths.
pub type Unborn = Vec<(u64, PathBuf)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    ReadWrite,
}

/// Reads every segment, by number; those that hold nothing come back apart.
pub fn find(folder: &Path, access: Access) -> Result<(Vec<Found>, Unborn), RecoveryError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed("read the folder", folder))? {
        let entry = entry.map_err(failed("read the folder", folder))?;
        if let Some(number) = entry.file_name().to_str().and_then(segment_number) {
            numbers.push((number, entry.path()));
        }
    }
    numbers.sort_unstable();
    let mut found = Vec::new();
    let mut unborn = Vec::new();
    let mut window = Window::default();
    for (number, path) in numbers {
        match open(number, &path, access, &mut window) {
            Ok(Some(segment)) => found.push(segment),
            Ok(None) => unborn.push((number, path)),
            // Retention of a running agent removed it just now; nobody else does.
            Err(error)
                if access == Access::Read && error.source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    for index in 0..found.len() {
        let limit = valid_end(&found, index);
        let segment = &mut found[index];
        scan(segment, limit, &mut window).map_err(failed("read", &segment.path))?;
    }
    Ok((found, unborn))
}

/// Where a segment's valid part ends at the latest: at the lowest base of those that came after
/// it. That is its successor's, unless the successor was poisoned along with it.
pub fn valid_end(found: &[Found], index: usize) -> Option<u64> {
    found[index + 1..].iter().map(|later| later.base).min()
}

/// Opens a file and reads its header page; `None` where it holds nothing.
fn open(
    number: u64,
    path: &Path,
    access: Access,
    window: &mut Window,
) -> Result<Option<Found>, RecoveryError> {
    let mut options = OpenOptions::new();
    options.read(true).write(access == Access::ReadWrite);
    let file = options.open(path).map_err(failed("open", path))?;
    let bytes = file.metadata().map_err(failed("stat", path))?.len();
    let mut page = [0; SEGMENT_HEADER_LEN];
    let header = match file.read_exact_at(&mut page, 0) {
        Ok(()) => match SegmentHeader::read(&page) {
            // Not ours to judge, least of all to remove.
            Err(fault @ FormatFault::Version) => {
                let error = io::Error::new(io::ErrorKind::InvalidData, fault);
                return Err(failed("read", path)(error));
            }
            header => header.ok(),
        },
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
        Err(error) => return Err(failed("read", path)(error)),
    };
    let header = header.filter(|header| header.number == number);
    let start = match &header {
        Some(header) => Some((header.base, header.records_before, header.key())),
        None => start_by_blocks(&file, number, bytes, window).map_err(failed("read", path))?,
    };
    Ok(start.map(|(base, records_before, key)| Found {
        number,
        path: path.to_owned(),
        file,
        key,
        base,
        records_before,
        has_header: header.is_some(),
        created_unix_nano: header.map_or(0, |header| header.created_unix_nano),
        bytes,
        runs: Vec::new(),
        unsound: Vec::new(),
        left: Vec::new(),
        durable: 0,
        superseded: false,
        observed_unix_nano: None,
    }))
}

/// Base, records before it and key of a segment without a sound header page, if a block of it knew
/// that something of it was durable: then the header page was too, and has been damaged since.
/// Blocks are written from the front, so a file with none within the first window has none.
///
/// The salt is believed of the first block found. A sender who guessed number and position could
/// have planted that one only if the segment's true first blocks were damaged along with its header
/// page; and even so nothing of such a segment is delivered: the report would be wrong, not a record.
fn start_by_blocks(
    file: &File,
    number: u64,
    bytes: u64,
    window: &mut Window,
) -> io::Result<Option<(u64, u64, SegmentKey)>> {
    window.clear();
    let mut first: Option<BlockHeader> = None;
    let mut base = 0;
    let mut offset = SEGMENT_HEADER_LEN as u64;
    while offset < bytes && (first.is_some() || offset < WINDOW_LEN as u64) {
        let page = window.read(file, offset, BLOCK_ALIGN)?;
        let before = offset - SEGMENT_HEADER_LEN as u64;
        if is_zero(page) {
            offset = next_data(file, offset)?.unwrap_or(bytes).max(offset + PAGE);
            continue;
        }
        offset += PAGE;
        let Ok(header) = BlockHeader::parse(page) else {
            continue;
        };
        if header.segment != number || header.position < before || !is_possible(&header) {
            continue;
        }
        let first = *first.get_or_insert_with(|| {
            base = header.position - before;
            header
        });
        let same = header.salt == first.salt && header.position - before == base;
        if same && header.durable > base {
            return Ok(Some((base, first.records_before, first.key())));
        }
    }
    Ok(None)
}

/// Fills in what stands before `limit`.
///
/// The preallocated rest is not read: where a page is zero, the file system is asked where data goes
/// on (SEEK_DATA). A hole, or an extent that was allocated and never written, reads as zeroes by
/// lseek(2)'s own definition, and zeroes are no block: so what is stepped over could not have
/// been anything, wherever the power went. A file system that keeps no such record says that all is
/// data, and all is read.
fn scan(segment: &mut Found, limit: Option<u64>, window: &mut Window) -> io::Result<()> {
    let base = segment.base;
    let file_end = base + segment.bytes.saturating_sub(SEGMENT_HEADER_LEN as u64);
    let end = limit.unwrap_or(file_end).clamp(base, file_end);
    let offset_of = |position: u64| SEGMENT_HEADER_LEN as u64 + (position - base);
    let mut position = base;
    // A stale block's pages are its own, not something torn.
    let mut stale_until = 0;
    window.clear();
    while position < end {
        let offset = offset_of(position);
        let bytes = window.read(&segment.file, offset, limits::JOURNAL_BLOCK_LEN)?;
        let read = BlockHeader::read(bytes, segment.key, position).and_then(|header| {
            match header.end_position() <= end && is_possible(&header) {
                true => Ok(header),
                false => Err(FormatFault::Length),
            }
        });
        let header = match read {
            Ok(header) => header,
            // Not a block: the next one, if there is one, begins at some later page.
            Err(fault) => {
                let page = &bytes[..bytes.len().min(BLOCK_ALIGN)];
                if is_zero(page) {
                    let data = next_data(&segment.file, offset)?;
                    let next = data.map_or(end, |at| {
                        base + (at.max(SEGMENT_HEADER_LEN as u64) - SEGMENT_HEADER_LEN as u64)
                            / PAGE
                            * PAGE
                    });
                    position = next.max(position + PAGE);
                    continue;
                }
                if fault == FormatFault::Stale
                    && let Ok(stale) = BlockHeader::parse(page)
                {
                    let len = u64::from(stale.len).min(limits::JOURNAL_BLOCK_LEN as u64);
                    stale_until = position + len;
                }
                let kind = match position < stale_until {
                    true => Bytes::Stale,
                    false => Bytes::Torn,
                };
                segment.leave(position, position + PAGE, kind);
                position += PAGE;
                continue;
            }
        };
        segment.durable = segment.durable.max(header.durable);
        let observed = match segment.has_header {
            true => observed_if_sound(bytes, &header),
            false => None,
        };
        match observed {
            Some(observed) => segment.add(&header, observed),
            None => {
                segment.leave(position, header.end_position(), Bytes::Torn);
                segment.unsound.push(header);
            }
        }
        position = header.end_position();
    }
    if end < file_end {
        let page = window.read(&segment.file, offset_of(end), BLOCK_ALIGN)?;
        segment.superseded = !is_zero(page);
    }
    Ok(())
}

impl Found {
    fn add(&mut self, header: &BlockHeader, observed: Observed) {
        if let Some((first, last)) = observed {
            let (min, max) = self.observed_unix_nano.unwrap_or((first, last));
            self.observed_unix_nano = Some((min.min(first), max.max(last)));
        }
        let records = u64::from(header.records);
        let records_end = header.records_before + records;
        match self.runs.last_mut() {
            Some(run) if run.end == header.position => {
                run.end = header.end_position();
                run.blocks += 1;
                run.records += records;
                run.records_end = records_end;
            }
            _ => self.runs.push(Run {
                start: header.position,
                end: header.end_position(),
                blocks: 1,
                records,
                records_end,
            }),
        }
    }

    fn leave(&mut self, start: u64, end: u64, bytes: Bytes) {
        match self.left.last_mut() {
            Some(last) if last.end == start && last.bytes == bytes => last.end = end,
            _ => self.left.push(Left { start, end, bytes }),
        }
    }
}

/// Nobody can have known that more was durable than there was.
fn is_possible(header: &BlockHeader) -> bool {
    header.durable <= header.position
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// First and last time of a block's entries; `None` where it has none.
type Observed = Option<(u64, u64)>;

/// `None` unless every checksum of a block's entries is right, and none is missing.
fn observed_if_sound(bytes: &[u8], header: &BlockHeader) -> Option<Observed> {
    let block = bytes.get(..header.len as usize)?;
    let mut records = 0;
    let mut observed: Observed = None;
    for entry in Entries::new(block, header, true) {
        let entry = entry.ok()?;
        records += u64::from(entry.header.records);
        let time = entry.envelope.observed_time_unix_nano;
        let (first, last) = observed.unwrap_or((time, time));
        observed = Some((first.min(time), last.max(time)));
    }
    (records == u64::from(header.records)).then_some(observed)
}

/// Where data goes on at or behind `offset`; `None` where nothing but a hole follows.
fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    // SAFETY: no pointers; the descriptor is open. All reads of it name their offset, so that moving
    // the file's own matters to nobody.
    let at = unsafe { libc::lseek(file.as_raw_fd(), offset as libc::off_t, libc::SEEK_DATA) };
    if at >= 0 {
        return Ok(Some(at as u64));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENXIO) => Ok(None),
        // Not asked for often enough to be worth remembering: it is data for all that is known.
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS) => Ok(Some(offset)),
        _ => Err(error),
    }
}
