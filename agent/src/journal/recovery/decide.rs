//! The table in `recovery`, over what `scan` found: touches no file.

use super::scan::{Found, Unborn, valid_end};
use super::{Damage, Recovered, Report};
use crate::journal::format::{BLOCK_ALIGN, BLOCK_HEADER_LEN, BlockHeader, SEGMENT_HEADER_LEN};
use crate::journal::writer::{ExistingSegment, JournalStart};

pub struct Decision {
    pub recovered: Recovered,
    /// D: everything before it was acknowledged.
    pub durable: u64,
    /// The block without entries to be written at the end of the last segment.
    pub marker: Option<BlockHeader>,
}

pub fn decide(found: &[Found], unborn: &Unborn) -> Decision {
    let blocks = || found.iter().flat_map(|segment| &segment.blocks);
    let marks = blocks().map(|block| block.header.durable);
    let durable = marks.max().unwrap_or(0);
    let mut report = Report {
        segments: found.len(),
        ..Report::default()
    };
    let first = found.first();
    let mut end = first.map_or(0, |segment| segment.base);
    let mut records = first.map_or(0, |segment| segment.records_before);
    for block in blocks().filter(|block| block.sound) {
        let header = &block.header;
        if header.position > end {
            if end >= durable {
                report.cut_at = Some(end);
                break;
            }
            report.damaged.push(Damage {
                start: end,
                end: header.position,
            });
        }
        end = header.end_position();
        records = header.records_before + u64::from(header.records);
        report.blocks += 1;
        report.records += u64::from(header.records);
    }
    let mut marker = None;
    if end < durable {
        // The last blocks were acknowledged and are not there: their positions are not given out
        // again, as sinks may have passed them. The block that says so stands behind them.
        report.damaged.push(Damage {
            start: end,
            end: durable,
        });
        records = records.max(records_at(blocks().map(|block| &block.header), durable));
        end = durable + BLOCK_ALIGN as u64;
        marker = Some(BlockHeader {
            len: BLOCK_HEADER_LEN as u32,
            position: durable,
            durable,
            // Known where it is written.
            segment: 0,
            records_before: records,
            entries: 0,
            records: 0,
        });
    }
    let mut unsound = found.iter().filter_map(|segment| segment.unsound);
    if report.cut_at.is_none() && unsound.any(|place| place >= end) {
        report.cut_at = Some(end);
    }
    let existing = existing(found, end, marker.is_some());
    let is_kept = |number: u64| existing.iter().any(|segment| segment.number == number);
    let numbers = || {
        let unborn = unborn.iter().map(|(number, _)| *number);
        found.iter().map(|segment| segment.number).chain(unborn)
    };
    report.removed = numbers().filter(|number| !is_kept(*number)).collect();
    let start = JournalStart {
        segment: numbers().max().unwrap_or(0) + 1,
        position: end,
        records,
        existing,
    };
    Decision {
        recovered: Recovered { start, report },
        durable,
        marker,
    }
}

/// The most records before `position` that any header speaks of.
fn records_at<'a>(headers: impl Iterator<Item = &'a BlockHeader>, position: u64) -> u64 {
    let known = headers.filter_map(|header| {
        if header.end_position() <= position {
            Some(header.records_before + u64::from(header.records))
        } else {
            (header.position <= position).then_some(header.records_before)
        }
    });
    known.max().unwrap_or(0)
}

/// The segments that stay: those that hold positions before the end. Of those that hold none, the
/// newest that begins at the end: its base is where its predecessor's valid part ends, and where
/// it is the only one, all that tells which positions were given out.
fn existing(found: &[Found], end: u64, marked: bool) -> Vec<ExistingSegment> {
    let mut existing = Vec::new();
    for (index, segment) in found.iter().enumerate() {
        let segment_end = valid_end(found, index).map_or(end, |limit| limit.min(end));
        if segment.base < segment_end {
            existing.push(ExistingSegment {
                number: segment.number,
                end: segment_end,
                bytes: segment.bytes,
            });
        }
    }
    let newest = existing.last().map_or(0, |segment| segment.number);
    let at_end = |segment: &&Found| {
        segment.number > newest && segment.base == end && segment.has_header && end > 0
    };
    // Where a marker is written, it says the same, and needs the file that it lies in to be last.
    if let Some(segment) = found.iter().rfind(at_end)
        && !marked
    {
        existing.push(ExistingSegment {
            number: segment.number,
            end,
            bytes: segment.bytes,
        });
    }
    // The last one is cut.
    if let Some(last) = existing.last_mut()
        && let Some(segment) = found.iter().find(|segment| segment.number == last.number)
    {
        last.bytes = SEGMENT_HEADER_LEN as u64 + end - segment.base;
    }
    existing
}
