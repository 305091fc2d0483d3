//! Reads every segment of a folder, and says what is sound; decides nothing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{RecoveryError, failed};
use crate::journal::format::{
    BLOCK_ALIGN, BlockHeader, Entries, SEGMENT_HEADER_LEN, SegmentHeader, segment_number,
};
use crate::limits;

/// A segment as it lies on disk.
pub struct Found {
    pub number: u64,
    pub path: PathBuf,
    pub file: File,
    pub base: u64,
    pub records_before: u64,
    /// Its header page is sound. Without one its base is what its blocks say.
    pub has_header: bool,
    pub bytes: u64,
    /// Blocks with a sound header, in order.
    pub blocks: Vec<FoundBlock>,
    /// The last place before the valid end where bytes stand that are no sound block.
    pub unsound: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub struct FoundBlock {
    pub header: BlockHeader,
    /// So are its entries, and their segment's header page that names their listeners.
    pub sound: bool,
}

/// Files that hold nothing: their numbers and paths.
pub type Unborn = Vec<(u64, PathBuf)>;

/// Reads every segment, by number; those that hold nothing come back apart.
pub fn find(folder: &Path) -> Result<(Vec<Found>, Unborn), RecoveryError> {
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
        match open(number, &path, &mut window)? {
            Some(segment) => found.push(segment),
            None => unborn.push((number, path)),
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
fn open(number: u64, path: &Path, window: &mut Window) -> Result<Option<Found>, RecoveryError> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).open(path);
    let file = file.map_err(failed("open", path))?;
    let bytes = file.metadata().map_err(failed("stat", path))?.len();
    let mut page = [0; SEGMENT_HEADER_LEN];
    let header = match file.read_exact_at(&mut page, 0) {
        Ok(()) => SegmentHeader::read(&page).ok(),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
        Err(error) => return Err(failed("read", path)(error)),
    };
    let header = header.filter(|header| header.number == number);
    let start = match &header {
        Some(header) => Some((header.base, header.records_before)),
        None => start_by_blocks(&file, number, bytes, window).map_err(failed("read", path))?,
    };
    Ok(start.map(|(base, records_before)| Found {
        number,
        path: path.to_owned(),
        file,
        base,
        records_before,
        has_header: header.is_some(),
        bytes,
        blocks: Vec::new(),
        unsound: None,
    }))
}

/// Base and records before it of a segment without a sound header page, if a block of it knew that
/// something of it was durable: then the header page was too, and has been damaged since. Blocks
/// are written from the front, so a file with none within the first window has none.
fn start_by_blocks(
    file: &File,
    number: u64,
    bytes: u64,
    window: &mut Window,
) -> io::Result<Option<(u64, u64)>> {
    window.clear();
    let mut first: Option<BlockHeader> = None;
    let mut base = 0;
    let mut offset = SEGMENT_HEADER_LEN as u64;
    while offset < bytes && (first.is_some() || offset < WINDOW_LEN as u64) {
        let page = window.read(file, offset, BLOCK_ALIGN)?;
        let before = offset - SEGMENT_HEADER_LEN as u64;
        offset += BLOCK_ALIGN as u64;
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
        if header.position - before == base && header.durable > base {
            return Ok(Some((base, first.records_before)));
        }
    }
    Ok(None)
}

/// Fills in the blocks of a segment before `limit`, and the last place with bytes that are none.
fn scan(segment: &mut Found, limit: Option<u64>, window: &mut Window) -> io::Result<()> {
    let base = segment.base;
    let file_end = base + segment.bytes.saturating_sub(SEGMENT_HEADER_LEN as u64);
    let end = limit.unwrap_or(file_end).min(file_end);
    let mut position = base;
    window.clear();
    while position < end {
        let offset = SEGMENT_HEADER_LEN as u64 + (position - base);
        let bytes = window.read(&segment.file, offset, limits::JOURNAL_BLOCK_LEN)?;
        let header = BlockHeader::read(bytes, segment.number, position).ok();
        let header = header.filter(|header| header.end_position() <= end && is_possible(header));
        let Some(header) = header else {
            // Not a block: the next one, if there is one, begins at some later page.
            let page = &bytes[..bytes.len().min(BLOCK_ALIGN)];
            if page.iter().any(|byte| *byte != 0) {
                segment.unsound = Some(position);
            }
            position += BLOCK_ALIGN as u64;
            continue;
        };
        let sound = segment.has_header && are_entries_sound(bytes, &header);
        if !sound {
            segment.unsound = Some(position);
        }
        segment.blocks.push(FoundBlock { header, sound });
        position = header.end_position();
    }
    Ok(())
}

/// Nobody can have known that more was durable than there was.
fn is_possible(header: &BlockHeader) -> bool {
    header.durable <= header.position
}

/// Whether every checksum of a block's entries is right, and none is missing.
fn are_entries_sound(bytes: &[u8], header: &BlockHeader) -> bool {
    let Some(block) = bytes.get(..header.len as usize) else {
        return false;
    };
    let mut records = 0;
    for entry in Entries::new(block, header, true) {
        match entry {
            Ok(entry) => records += u64::from(entry.header.records),
            Err(_) => return false,
        }
    }
    records == u64::from(header.records)
}

/// A stretch of a file in memory, so that small blocks do not cost a read each.
#[derive(Default)]
struct Window {
    bytes: Vec<u8>,
    start: u64,
}

/// Four of the longest blocks: 4 MiB, freed when recovery ends.
const WINDOW_LEN: usize = 4 * limits::JOURNAL_BLOCK_LEN;

impl Window {
    fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Up to `len` bytes at `offset`; fewer at the file's end.
    fn read(&mut self, file: &File, offset: u64, len: usize) -> io::Result<&[u8]> {
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
