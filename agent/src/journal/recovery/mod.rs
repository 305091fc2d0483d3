//! What a shard's folder holds after whatever ended the last life, and what of it is kept.
//!
//! All segments are read once, every checksum with them (`scan`). The highest durable mark that any
//! block's header carries, D, draws the line: what lies before it was acknowledged, what lies at or
//! beyond it may be torn, as several blocks are in flight when the power goes. What stands where no
//! sound block does, and what becomes of each file, is decided by two tables (`table`, `decide`):
//!
//! | what is found | and the place is | case | what is done |
//! |---|---|---|---|
//! | sound blocks, then zeroes | at or beyond D | clean | kept |
//! | sound blocks, then damage | at or beyond D | torn tail | cut there; all that follows goes |
//! | the same, but the damage is a whole block of another segment, position or salt | at or beyond D | stale block | cut there |
//! | zeroes, and sound blocks behind them | at or beyond D | lost write | cut there |
//! | damage or zeroes, and sound blocks behind | before D | damaged middle | reported; the good blocks on both sides stay |
//! | no sound block up to D | before D | damaged end | reported; a block without entries is written at D, so that no position before it is given out again |
//! | whatever stands behind the lowest base of the later segments | | poisoned predecessor | never looked at |
//!
//! | file | case | what is done |
//! |---|---|---|
//! | holds positions before the end | kept | the last one is cut to the end |
//! | the same without a sound header page | damaged header | kept and reported like a damaged middle: which listeners its entries name is lost |
//! | the newest that begins exactly at the end | boundary | kept, cut to its header: it says where the valid part ends |
//! | begins at or behind the end | empty | removed |
//! | without a sound header page, and no block of it knew that anything in it was durable | unborn | removed |
//!
//! What is kept is synced before anyone is told of it.

mod decide;
mod keep;
pub mod retire;
mod scan;
pub mod table;
mod window;
pub mod windows;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use self::decide::decide;
use self::keep::keep;
use self::scan::{Access, find, valid_end};
use self::table::{PlaceCase, SegmentCase};
use crate::journal::writer::JournalStart;

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
    /// Damaged middles and ends: acknowledged bytes that are gone. Never the result of a crash
    /// alone.
    pub damaged: Vec<Damage>,
    /// Where a torn tail was cut.
    pub cut_at: Option<u64>,
    /// Segments that were removed: behind the cut, or without a sound header.
    pub removed: Vec<u64>,
    /// Each place at which no sound block stands, by its row of the table, in order; the last one is
    /// where the journal ends.
    pub findings: Vec<Finding>,
    /// What becomes of each file, by its number.
    pub files: Vec<(u64, SegmentCase)>,
}

/// A place and its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    pub case: PlaceCase,
    pub start: u64,
    pub end: u64,
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

/// A segment as `inspect` found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    pub number: u64,
    pub path: PathBuf,
    pub case: SegmentCase,
    /// The file's size now.
    pub bytes: u64,
    pub base: u64,
    /// Where its valid part ends.
    pub end: u64,
    pub has_header: bool,
    pub created_unix_nano: u64,
    /// Sound blocks before the journal's end and the records in them.
    pub blocks: u64,
    pub records: u64,
    /// First and last time of its sound entries.
    pub observed_unix_nano: Option<(u64, u64)>,
}

/// What a start would do, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    pub recovered: Recovered,
    /// In order of number; those that hold nothing at all are only in the report's `files`.
    pub segments: Vec<SegmentReport>,
    /// Everything before it is known to be durable.
    pub durable: u64,
}

/// Looks at a shard's folder, which must exist, and decides; nothing is changed, nothing is opened
/// for writing. Beside a running agent the last blocks may be on their way: they are found torn, or
/// not at all.
pub fn inspect(folder: &Path) -> Result<Inspected, RecoveryError> {
    let (found, unborn) = find(folder, Access::Read)?;
    let decision = decide(&found, &unborn);
    let end = decision.recovered.start.position;
    let segments = found.iter().enumerate().map(|(index, segment)| {
        let limit = valid_end(&found, index).map_or(end, |limit| limit.min(end));
        let files = &decision.recovered.report.files;
        let case = files.iter().find(|(number, _)| *number == segment.number);
        let runs = segment.runs.iter().filter(|run| run.end <= limit);
        SegmentReport {
            number: segment.number,
            path: segment.path.clone(),
            case: case.expect("each file has its case").1,
            bytes: segment.bytes,
            base: segment.base,
            end: limit.max(segment.base),
            has_header: segment.has_header,
            created_unix_nano: segment.created_unix_nano,
            blocks: runs.clone().map(|run| run.blocks).sum(),
            records: runs.map(|run| run.records).sum(),
            observed_unix_nano: segment.observed_unix_nano,
        }
    });
    Ok(Inspected {
        segments: segments.collect(),
        durable: decision.durable,
        recovered: decision.recovered,
    })
}

/// Decides, and makes it so: cuts, syncs and removes, in this order, so that a crash in between
/// leaves what leads to the same decision.
pub fn recover(folder: &Path) -> Result<Recovered, RecoveryError> {
    let (found, unborn) = find(folder, Access::ReadWrite)?;
    let decision = decide(&found, &unborn);
    let removed = &decision.recovered.report.removed;
    let existing = &decision.recovered.start.existing;
    for segment in &found {
        if !removed.contains(&segment.number) {
            let is_last = existing.last().is_some_and(|s| s.number == segment.number);
            keep(segment, &decision, is_last)?;
        }
    }
    let gone = found.iter().map(|segment| (segment.number, &segment.path));
    let gone = gone.chain(unborn.iter().map(|(number, path)| (*number, path)));
    for (_, path) in gone.filter(|(number, _)| removed.contains(number)) {
        fs::remove_file(path).map_err(failed("unlink", path))?;
    }
    let directory = File::open(folder).map_err(failed("open", folder))?;
    directory.sync_all().map_err(failed("fsync", folder))?;
    Ok(decision.recovered)
}

#[cfg(test)]
mod tests;
