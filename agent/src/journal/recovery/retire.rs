//! A journal that gets no more, and that every sink has: all of it goes but a header page.
//!
//! The page says which positions were given out. Sinks keep their cursors in positions; were the
//! shard there again one day and its journal to begin anew, they would step over what is new.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{RecoveryError, failed};
use crate::journal::format::{SEGMENT_HEADER_LEN, SegmentHeader, segment_file_name};
use crate::journal::writer::JournalStart;

/// Replaces what `recover` found by a segment that begins where it ends and holds nothing. A crash
/// in between leaves a journal that recovers to the same end.
pub fn retire(folder: &Path, shard: u16, start: &JournalStart) -> Result<(), RecoveryError> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let header = SegmentHeader {
        shard,
        number: start.segment,
        base: start.position,
        records_before: start.records,
        created_unix_nano: since.map_or(0, |since| since.as_nanos() as u64),
        predecessor: start.existing.last().map_or(0, |segment| segment.number),
        // There is no block for it to vouch for, and none will be added.
        salt: 0,
        listeners: Vec::new(),
    };
    let mut page = [0; SEGMENT_HEADER_LEN];
    header.write(&mut page);
    let path = folder.join(segment_file_name(start.segment));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o640);
    let mut file = options.open(&path).map_err(failed("create", &path))?;
    file.write_all(&page).map_err(failed("write", &path))?;
    file.sync_all().map_err(failed("fsync", &path))?;
    let directory = File::open(folder).map_err(failed("open", folder))?;
    directory.sync_all().map_err(failed("fsync", folder))?;
    for segment in &start.existing {
        let path = folder.join(segment_file_name(segment.number));
        fs::remove_file(&path).map_err(failed("unlink", &path))?;
    }
    directory.sync_all().map_err(failed("fsync", folder))
}
