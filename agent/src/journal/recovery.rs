//! What a shard's folder holds after whatever ended the last life, and what of it is kept.
//!
//! All segments are read once, every checksum with them. The highest durable mark that any sound
//! block carries, D, draws the line: what lies before it was acknowledged, what lies at or beyond
//! it may be torn, as several blocks are in flight when the power goes.
//!
//! | sound blocks are followed by | and the place is | case | what is done |
//! |---|---|---|---|
//! | the successor's base, or nothing but zeroes | | clean | kept |
//! | damage, or another use's block | at or beyond D | torn tail | cut there; all that follows goes |
//! | damage | before D | damaged middle | reported; the good blocks on both sides stay |
//! | what a poisoned segment wrote behind its successor's base | | poisoned | never looked at |
//! | a file without a sound header page | last | unborn | removed |
//!
//! What is kept is synced before anyone is told of it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::journal::format::{
    BLOCK_ALIGN, BlockHeader, Entries, SEGMENT_HEADER_LEN, SegmentHeader, segment_number,
};
use crate::journal::writer::{ExistingSegment, JournalStart};
use crate::limits;

/// A range of positions that should hold blocks and does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    pub start: u64,
    pub end: u64,
}

/// How the last life ended, as far as the disk tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub segments: usize,
    pub blocks: u64,
    pub records: u64,
    /// Damaged middles: acknowledged bytes that are gone. Never the result of a crash alone.
    pub damaged: Vec<Damage>,
    /// Where a torn tail was cut.
    pub cut_at: Option<u64>,
    /// Segments that were removed: behind the cut, or without a sound header.
    pub removed: Vec<u64>,
}

/// Recovery's outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    pub start: JournalStart,
    pub report: Report,
}

/// An environment failure: the call and the file.
#[derive(Debug, thiserror::Error)]
#[error("{call} {}: {source}", path.display())]
pub struct RecoveryError {
    call: &'static str,
    path: PathBuf,
    pub source: io::Error,
}

fn failed<'a>(call: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RecoveryError + 'a {
    move |source| RecoveryError {
        call,
        path: path.to_owned(),
        source,
    }
}

/// A segment as it lies on disk.
struct Found {
    number: u64,
    path: PathBuf,
    file: File,
    header: SegmentHeader,
    bytes: u64,
    /// Sound blocks, in order.
    blocks: Vec<BlockHeader>,
    /// The first place before the valid end where bytes stand that are no sound block.
    unsound: Option<u64>,
}

/// Looks at a shard's folder, which must exist, and decides; nothing is changed.
pub fn inspect(folder: &Path) -> Result<Recovered, RecoveryError> {
    let (found, unborn) = find(folder)?;
    Ok(decide(&found, &unborn))
}

/// Decides, and makes it so: cuts, removes and syncs.
pub fn recover(folder: &Path) -> Result<Recovered, RecoveryError> {
    let (found, unborn) = find(folder)?;
    let recovered = decide(&found, &unborn);
    let end = recovered.start.position;
    for segment in &found {
        let path = &segment.path;
        if recovered.report.removed.contains(&segment.number) {
            fs::remove_file(path).map_err(failed("unlink", path))?;
            continue;
        }
        let is_last = recovered
            .start
            .existing
            .last()
            .is_some_and(|s| s.number == segment.number);
        if is_last {
            let valid = SEGMENT_HEADER_LEN as u64 + end.saturating_sub(segment.header.base);
            if valid < segment.bytes {
                segment
                    .file
                    .set_len(valid)
                    .map_err(failed("ftruncate", path))?;
            }
        }
        segment.file.sync_all().map_err(failed("fsync", path))?;
    }
    for (_, path) in &unborn {
        fs::remove_file(path).map_err(failed("unlink", path))?;
    }
    let directory = File::open(folder).map_err(failed("open", folder))?;
    directory.sync_all().map_err(failed("fsync", folder))?;
    Ok(recovered)
}

/// A segment's file without a sound header page: its number and its path.
type Unborn = (u64, PathBuf);

/// Reads every segment; those without a sound header page come back apart.
fn find(folder: &Path) -> Result<(Vec<Found>, Vec<Unborn>), RecoveryError> {
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
    for (number, path) in numbers {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed("open", &path))?;
        let bytes = file.metadata().map_err(failed("stat", &path))?.len();
        let mut page = [0; SEGMENT_HEADER_LEN];
        let header = match file.read_exact_at(&mut page, 0) {
            Ok(()) => SegmentHeader::read(&page)
                .ok()
                .filter(|header| header.number == number),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(failed("read", &path)(error)),
        };
        match header {
            Some(header) => {
                let (blocks, unsound) = (Vec::new(), None);
                found.push(Found {
                    number,
                    path,
                    file,
                    header,
                    bytes,
                    blocks,
                    unsound,
                });
            }
            None => unborn.push((number, path)),
        }
    }
    let mut window = Window::default();
    for index in 0..found.len() {
        let limit = valid_end(&found, index);
        let segment = &mut found[index];
        let scanned = scan(segment, limit, &mut window).map_err(failed("read", &segment.path))?;
        (segment.blocks, segment.unsound) = scanned;
    }
    Ok((found, unborn))
}

/// Where a segment's valid part ends at the latest: at the lowest base of those that came after
/// it. That is its successor's, unless the successor was poisoned along with it.
fn valid_end(found: &[Found], index: usize) -> Option<u64> {
    found[index + 1..]
        .iter()
        .map(|later| later.header.base)
        .min()
}

/// The sound blocks of a segment before `limit`, and the first place with bytes that are none.
fn scan(
    segment: &Found,
    limit: Option<u64>,
    window: &mut Window,
) -> io::Result<(Vec<BlockHeader>, Option<u64>)> {
    let base = segment.header.base;
    let file_end = base + segment.bytes.saturating_sub(SEGMENT_HEADER_LEN as u64);
    let end = limit.unwrap_or(file_end).min(file_end);
    let mut blocks = Vec::new();
    let mut unsound = None;
    let mut position = base;
    window.clear();
    while position < end {
        let offset = SEGMENT_HEADER_LEN as u64 + (position - base);
        let bytes = window.read(&segment.file, offset, limits::JOURNAL_BLOCK_LEN)?;
        match sound_block(bytes, segment.number, position) {
            Some(header) if header.end_position() <= end => {
                position = header.end_position();
                blocks.push(header);
            }
            // Not a block: the next one, if there is one, begins at some later page.
            _ => {
                let page = &bytes[..bytes.len().min(BLOCK_ALIGN)];
                if unsound.is_none() && page.iter().any(|byte| *byte != 0) {
                    unsound = Some(position);
                }
                position += BLOCK_ALIGN as u64;
            }
        }
    }
    Ok((blocks, unsound))
}

/// The header of a block whose every checksum is right.
fn sound_block(bytes: &[u8], segment: u64, position: u64) -> Option<BlockHeader> {
    let header = BlockHeader::read(bytes, segment, position).ok()?;
    let block = bytes.get(..header.len as usize)?;
    let mut records = 0;
    for entry in Entries::new(block, &header, true) {
        records += u64::from(entry.ok()?.header.records);
    }
    (records == u64::from(header.records)).then_some(header)
}

/// The table above.
fn decide(found: &[Found], unborn: &[Unborn]) -> Recovered {
    let blocks = || found.iter().flat_map(|segment| &segment.blocks);
    let durable = blocks().map(|block| block.durable).max().unwrap_or(0);
    let base = found.first().map_or(0, |segment| segment.header.base);
    let mut report = Report {
        segments: found.len(),
        ..Report::default()
    };
    let mut end = base;
    let mut records = found
        .first()
        .map_or(0, |segment| segment.header.records_before);
    for block in blocks() {
        if block.position > end {
            let gap = Damage {
                start: end,
                end: block.position,
            };
            if gap.start >= durable {
                report.cut_at = Some(gap.start);
                break;
            }
            report.damaged.push(gap);
        }
        end = block.end_position();
        records = block.records_before + u64::from(block.records);
        report.blocks += 1;
        report.records += u64::from(block.records);
    }
    let torn = found
        .last()
        .and_then(|last| last.unsound)
        .is_some_and(|place| place >= end);
    if report.cut_at.is_none() && torn && end >= durable {
        report.cut_at = Some(end);
    }
    if end < durable {
        // The last blocks were acknowledged and are not there: their positions are not given out
        // again, as sinks may have passed them.
        report.damaged.push(Damage {
            start: end,
            end: durable,
        });
        end = durable;
    }
    let mut existing = Vec::new();
    for (index, segment) in found.iter().enumerate() {
        // A segment that begins behind the cut holds nothing that was acknowledged; nor does one
        // that begins at the end and has no blocks.
        if segment.header.base >= end && index > 0 || segment.blocks.is_empty() {
            report.removed.push(segment.number);
            continue;
        }
        existing.push(ExistingSegment {
            number: segment.number,
            end: valid_end(found, index).unwrap_or(end).min(end),
            bytes: segment.bytes,
        });
    }
    report
        .removed
        .extend(unborn.iter().map(|(number, _)| *number));
    let numbers = found.iter().map(|segment| segment.number);
    let highest = numbers
        .chain(unborn.iter().map(|(number, _)| *number))
        .max()
        .unwrap_or(0);
    Recovered {
        start: JournalStart {
            segment: highest + 1,
            position: end,
            records,
            existing,
        },
        report,
    }
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
