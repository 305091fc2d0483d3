//! What a shard's folder holds after whatever ended the last life, and what of it is kept.
//!
//! All segments are read once, every checksum with them (`scan`). The highest durable mark that any
//! block's header carries, D, draws the line (`decide`): what lies before it was acknowledged, what
//! lies at or beyond it may be torn, as several blocks are in flight when the power goes.
//!
//! | what is found | and the place is | case | what is done |
//! |---|---|---|---|
//! | sound blocks up to the successor's base, or to zeroes | | clean | kept |
//! | behind sound blocks damage, or another use's block | at or beyond D | torn tail | cut there; all that follows goes |
//! | damage | before D | damaged middle | reported; the good blocks on both sides stay |
//! | no sound block up to D | before D | damaged end | reported; a block without entries is written at D, so that no position before it is given out again |
//! | what a poisoned segment wrote behind the lowest base of those after it | | poisoned | never looked at |
//! | a file without a sound header page, whose blocks know of nothing durable in it | | unborn | removed |
//! | the same, but its blocks knew that some of it was durable | before D | damaged header | kept and reported like a damaged middle: which listeners its entries name is lost |
//! | segments that hold no position before the end | at or beyond the end | empty | removed; but the newest that begins exactly there stays, cut to its header, as it says where the valid part ends |
//!
//! What is kept is synced before anyone is told of it.

mod decide;
mod scan;
pub mod windows;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use self::decide::{Decision, decide};
use self::scan::{Found, find};
use crate::journal::format::{BLOCK_ALIGN, BLOCK_HEADER_LEN, BlockHeader, SEGMENT_HEADER_LEN};
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

/// Looks at a shard's folder, which must exist, and decides; nothing is changed.
pub fn inspect(folder: &Path) -> Result<Recovered, RecoveryError> {
    let (found, unborn) = find(folder)?;
    Ok(decide(&found, &unborn).recovered)
}

/// Decides, and makes it so: cuts, syncs and removes, in this order, so that a crash in between
/// leaves what leads to the same decision.
pub fn recover(folder: &Path) -> Result<Recovered, RecoveryError> {
    let (found, unborn) = find(folder)?;
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

/// Cuts a segment that stays, where it is the last one, and makes all of it durable.
fn keep(segment: &Found, decision: &Decision, is_last: bool) -> Result<(), RecoveryError> {
    let (file, path) = (&segment.file, &segment.path);
    let offset = |position: u64| SEGMENT_HEADER_LEN as u64 + (position - segment.base);
    // After a sync that failed, the kernel calls the pages clean that it could not write: they are
    // still read, and a sync says nothing about them. What nobody knew to be durable is therefore
    // written once more: at most what was in flight, a few blocks.
    let mut copy = Vec::new();
    for block in segment.blocks.iter().filter(|block| block.sound) {
        let header = &block.header;
        if (decision.durable..decision.recovered.start.position).contains(&header.position) {
            copy.resize(header.len as usize, 0);
            let at = offset(header.position);
            file.read_exact_at(&mut copy, at)
                .map_err(failed("read", path))?;
            file.write_all_at(&copy, at)
                .map_err(failed("write", path))?;
        }
    }
    if is_last {
        if let Some(marker) = &decision.marker {
            let header = BlockHeader {
                segment: segment.number,
                ..*marker
            };
            let mut page = [0; BLOCK_ALIGN];
            let head = page.first_chunk_mut::<BLOCK_HEADER_LEN>();
            header.write(head.expect("a page holds a header"));
            file.write_all_at(&page, offset(marker.position))
                .map_err(failed("write", path))?;
        }
        let len = offset(decision.recovered.start.position);
        if len < segment.bytes {
            file.set_len(len).map_err(failed("ftruncate", path))?;
        }
    }
    file.sync_all().map_err(failed("fsync", path))
}

#[cfg(test)]
mod tests;
