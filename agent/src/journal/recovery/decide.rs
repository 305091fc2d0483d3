//! What is kept, by the tables in `table`, over what `scan` found: touches no file.

use super::scan::{Found, Run, Unborn, valid_end};
use super::table::{Bytes, Place, PlaceAction, SegmentFacts};
use super::{Damage, Finding, Recovered, Report};
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
    let durable = found.iter().map(|segment| segment.durable).max();
    let durable = durable.unwrap_or(0);
    let mut report = Report {
        segments: found.len(),
        ..Report::default()
    };
    for (index, segment) in found.iter().enumerate() {
        if segment.superseded {
            let start = valid_end(found, index).unwrap_or(segment.base);
            let place = Place {
                bytes: Bytes::Torn,
                acknowledged: start < durable,
                followed: false,
                superseded: true,
            };
            report.note(&place, start, start);
        }
    }
    let walked = walk(found, durable, &mut report);
    let (mut end, mut records) = (walked.end, walked.records);
    let mut marker = None;
    if walked.action == PlaceAction::Mark {
        // The last blocks were acknowledged and are not there: sinks may have passed their
        // positions. The block that says so stands behind them.
        let known = found.iter().flat_map(|segment| &segment.unsound);
        records = records.max(records_at(known, durable));
        end = durable + BLOCK_ALIGN as u64;
        marker = Some(BlockHeader {
            len: BLOCK_HEADER_LEN as u32,
            position: durable,
            durable,
            records_before: records,
            entries: 0,
            records: 0,
            // Known where it is written.
            segment: 0,
            salt: 0,
        });
    }
    let existing = existing(found, end, marker.is_some(), &mut report);
    for (number, _) in unborn {
        let facts = SegmentFacts {
            header: false,
            knew_durable: false,
            holds: false,
            boundary: false,
        };
        report.files.push((*number, facts.case()));
    }
    report.files.sort_unstable_by_key(|(number, _)| *number);
    let removed = report.files.iter().filter(|(_, case)| !case.is_kept());
    report.removed = removed.map(|(number, _)| *number).collect();
    let last = report.files.last().map_or(0, |(number, _)| *number);
    let start = JournalStart {
        segment: last + 1,
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

struct Walked {
    end: u64,
    records: u64,
    action: PlaceAction,
}

/// From the first segment's base over all sound runs, and each gap between them by its row, up to
/// the place where the journal ends.
fn walk(found: &[Found], durable: u64, report: &mut Report) -> Walked {
    let first = found.first();
    let mut end = first.map_or(0, |segment| segment.base);
    let mut records = first.map_or(0, |segment| segment.records_before);
    let runs = found.iter().flat_map(|segment| &segment.runs);
    for run in runs.map(Some).chain([None]) {
        if run.is_none_or(|run: &Run| run.start > end) {
            let next = run.map(|run| run.start);
            let place = Place {
                bytes: bytes_between(found, end, next.unwrap_or(u64::MAX)),
                acknowledged: end < durable,
                followed: run.is_some(),
                superseded: false,
            };
            let action = place.row().action;
            let damaged_to = match action {
                PlaceAction::Mark => durable,
                _ => next.unwrap_or(end),
            };
            report.note(&place, end, damaged_to);
            if action != PlaceAction::StepOver {
                return Walked {
                    end,
                    records,
                    action,
                };
            }
        }
        if let Some(run) = run {
            end = run.end;
            records = run.records_end;
            report.blocks += run.blocks;
            report.records += run.records;
        }
    }
    unreachable!("behind the last run the journal ends");
}

/// The worst of what stands between two positions.
fn bytes_between(found: &[Found], start: u64, end: u64) -> Bytes {
    let left = found.iter().flat_map(|segment| &segment.left);
    left.filter(|left| left.start < end && start < left.end)
        .map(|left| left.bytes)
        .max()
        .unwrap_or(Bytes::Nothing)
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

/// The segments that stay, by their rows.
fn existing(found: &[Found], end: u64, marked: bool, report: &mut Report) -> Vec<ExistingSegment> {
    let end_of = |index: usize| valid_end(found, index).map_or(end, |limit| limit.min(end));
    let holds = |index: usize| found[index].base < end_of(index);
    let newest = (0..found.len()).rfind(|index| holds(*index));
    // Where a marker is written, it says the same, and needs the file that it lies in to be last.
    let boundary = (0..found.len()).rfind(|index| {
        let segment = &found[*index];
        let begins_there = segment.base == end && end > 0 && segment.has_header;
        begins_there && newest.is_none_or(|newest| newest < *index) && !marked
    });
    let mut existing = Vec::new();
    for (index, segment) in found.iter().enumerate() {
        let facts = SegmentFacts {
            header: segment.has_header,
            // Without that it would be no segment but unborn.
            knew_durable: !segment.has_header || segment.durable > segment.base,
            holds: holds(index),
            boundary: boundary == Some(index),
        };
        let case = facts.case();
        report.files.push((segment.number, case));
        if case.is_kept() {
            existing.push(ExistingSegment {
                number: segment.number,
                end: end_of(index),
                bytes: segment.bytes,
            });
        }
    }
    // The last one is cut.
    if let Some(last) = existing.last_mut()
        && let Some(segment) = found.iter().find(|segment| segment.number == last.number)
    {
        last.bytes = SEGMENT_HEADER_LEN as u64 + end - segment.base;
    }
    existing
}

impl Report {
    fn note(&mut self, place: &Place, start: u64, end: u64) {
        let row = place.row();
        self.findings.push(Finding {
            case: row.case,
            start,
            end,
        });
        match row.action {
            PlaceAction::Cut => self.cut_at = Some(start),
            PlaceAction::StepOver | PlaceAction::Mark => self.damaged.push(Damage { start, end }),
            PlaceAction::End | PlaceAction::Ignore => {}
        }
    }
}
