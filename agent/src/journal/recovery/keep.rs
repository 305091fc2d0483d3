//! Makes a segment that stays what the decision says, and durable.

use std::os::unix::fs::FileExt;

use super::decide::Decision;
use super::scan::Found;
use super::{RecoveryError, failed};
use crate::journal::format::{BLOCK_ALIGN, BLOCK_HEADER_LEN, BlockHeader, SEGMENT_HEADER_LEN};
use crate::limits::JOURNAL_BLOCK_LEN;

/// Cuts a segment that stays, where it is the last one, and makes all of it durable.
pub fn keep(segment: &Found, decision: &Decision, is_last: bool) -> Result<(), RecoveryError> {
    let path = &segment.path;
    let file = &segment.file;
    let end = decision.recovered.start.position;
    let offset = |position: u64| SEGMENT_HEADER_LEN as u64 + (position - segment.base);
    rewrite(segment, decision.durable, end)?;
    if is_last {
        if let Some(marker) = &decision.marker {
            let header = BlockHeader {
                segment: segment.key.number,
                salt: segment.key.salt,
                ..*marker
            };
            let mut page = [0; BLOCK_ALIGN];
            let head = page.first_chunk_mut::<BLOCK_HEADER_LEN>();
            header.write(head.expect("a page holds a header"));
            file.write_all_at(&page, offset(marker.position))
                .map_err(failed("write", path))?;
        }
        let len = offset(end);
        if len < segment.bytes {
            file.set_len(len).map_err(failed("ftruncate", path))?;
        }
    }
    file.sync_all().map_err(failed("fsync", path))
}

/// After a sync that failed, the kernel calls the pages clean that it could not write: they are
/// still read, and a sync says nothing about them. What nobody knew to be durable is therefore
/// written once more: at most what was in flight, a few blocks.
fn rewrite(segment: &Found, durable: u64, end: u64) -> Result<(), RecoveryError> {
    let (file, path) = (&segment.file, &segment.path);
    let mut copy = Vec::new();
    for run in &segment.runs {
        let (mut at, to) = (run.start.max(durable), run.end.min(end));
        while at < to {
            let len = (to - at).min(JOURNAL_BLOCK_LEN as u64);
            let offset = SEGMENT_HEADER_LEN as u64 + (at - segment.base);
            copy.resize(len as usize, 0);
            file.read_exact_at(&mut copy, offset)
                .map_err(failed("read", path))?;
            file.write_all_at(&copy, offset)
                .map_err(failed("write", path))?;
            at += len;
        }
    }
    Ok(())
}
