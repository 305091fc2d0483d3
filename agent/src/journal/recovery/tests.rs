//! The table, row by row, on files made with `journal::format` alone.

use std::fs;
use std::os::unix::fs::FileExt;

use super::table::{PlaceCase, SegmentCase};
use super::*;
use crate::journal::format::{BlockHeader, Entries, SegmentKey, segment_file_name};
use crate::journal::reader::JournalReader;
use crate::journal::writer::ExistingSegment;
use crate::sink::sample::{SampleEntry, SampleJournal, numbered};

const PREALLOCATED: u64 = 16 << 20;

/// A block of two pages, one record.
fn entry(number: u64) -> SampleEntry {
    let mut record = numbered(number);
    record.body = "x".repeat(5_000);
    SampleEntry::protobuf(number, vec![record])
}

struct Case {
    _folder: tempfile::TempDir,
    journal: SampleJournal,
}

impl Case {
    /// Segment 1 with `blocks` blocks of 8192 bytes each; each knows that those before it are
    /// durable.
    fn new(blocks: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = SampleJournal::new(folder.path());
        for number in 0..blocks {
            journal.append(&[entry(number)]);
        }
        Self {
            _folder: folder,
            journal,
        }
    }

    /// Goes on at `position`, as the writer does after a poison.
    fn turn_at(&mut self, position: u64, records: u64) {
        self.journal.position = position;
        self.journal.records = records;
        self.journal.durable = self.journal.durable.min(position);
        self.journal.next_segment();
    }

    /// Recovers, and again: where it begins is the same. Returns the first outcome.
    fn recover(&self) -> Recovered {
        let inspected = inspect(&self.journal.folder).expect("inspect");
        let first = recover(&self.journal.folder).expect("recover");
        assert_eq!(inspected.recovered, first);
        let again = recover(&self.journal.folder).expect("recover again");
        assert_eq!(
            (
                first.start.position,
                first.start.records,
                &first.start.existing
            ),
            (
                again.start.position,
                again.start.records,
                &again.start.existing
            ),
        );
        assert_eq!(
            first.report.damaged.last().map(|d| d.end),
            again.report.damaged.last().map(|d| d.end)
        );
        for segment in &first.start.existing {
            assert_eq!(self.len(segment.number), segment.bytes, "{segment:?}");
        }
        first
    }

    fn len(&self, number: u64) -> u64 {
        fs::metadata(self.journal.path(number)).expect("stat").len()
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.journal.folder).expect("read the folder");
        let name = |entry: io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<_> = entries
            .map(name)
            .map(|n| n.into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    }

    /// The numbers of the entries that a sink gets.
    fn delivered(&self, durable: u64) -> Vec<u64> {
        let mut reader = JournalReader::open(&self.journal.folder, 0).expect("open");
        let mut numbers = Vec::new();
        loop {
            match reader.next_block(durable) {
                Ok(None) => return numbers,
                Ok(Some(block)) => numbers.extend(
                    block
                        .entries()
                        .flatten()
                        .map(|entry| entry.envelope.observed_time_unix_nano),
                ),
                Err(crate::journal::reader::ReadError::Damaged { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn finding(case: PlaceCase, start: u64, end: u64) -> Finding {
    Finding { case, start, end }
}

/// The rows that were met, in order.
fn rows(recovered: &Recovered) -> Vec<PlaceCase> {
    let findings = recovered.report.findings.iter();
    findings.map(|finding| finding.case).collect()
}

fn file_rows(recovered: &Recovered) -> Vec<SegmentCase> {
    let files = recovered.report.files.iter();
    files.map(|(_, case)| *case).collect()
}

fn existing(number: u64, end: u64, bytes: u64) -> ExistingSegment {
    ExistingSegment { number, end, bytes }
}

/// What `SampleJournal` gives its segments.
fn key(number: u64) -> SegmentKey {
    let salt = crate::sink::sample::SALT + number;
    SegmentKey { number, salt }
}

fn names(numbers: &[u64]) -> Vec<String> {
    numbers
        .iter()
        .map(|number| segment_file_name(*number))
        .collect()
}

#[test]
fn an_empty_folder_begins_at_0_with_segment_1() {
    let folder = tempfile::tempdir().expect("a folder");
    let recovered = recover(folder.path()).expect("recover");
    let start = JournalStart {
        segment: 1,
        ..JournalStart::default()
    };
    assert_eq!(
        recovered,
        Recovered {
            start,
            report: Report {
                findings: vec![finding(PlaceCase::Clean, 0, 0)],
                ..Report::default()
            },
        }
    );
}

#[test]
fn a_missing_folder_is_an_error_that_names_the_call() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("shard-00");
    let error = recover(&path).expect_err("no folder");
    assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
    assert!(
        error.to_string().starts_with("read the folder /"),
        "{error}"
    );
}

#[test]
fn clean_is_kept_and_the_room_behind_it_let_go() {
    let mut case = Case::new(2);
    case.journal.next_segment();
    case.journal.append(&[entry(2)]);
    let recovered = case.recover();
    assert_eq!(
        recovered,
        Recovered {
            start: JournalStart {
                segment: 3,
                position: 24576,
                records: 3,
                existing: vec![
                    existing(1, 16384, PREALLOCATED),
                    existing(2, 24576, 4096 + 8192),
                ],
            },
            report: Report {
                segments: 2,
                blocks: 3,
                records: 3,
                findings: vec![finding(PlaceCase::Clean, 24576, 24576)],
                files: vec![(1, SegmentCase::Kept), (2, SegmentCase::Kept)],
                ..Report::default()
            },
        }
    );
    assert_eq!(case.delivered(24576), [0, 1, 2]);
}

#[test]
fn a_torn_tail_is_cut_with_all_that_follows() {
    let mut case = Case::new(1);
    // Three blocks in flight when the power went: the second is torn, the third whole and in
    // another segment.
    let durable = case.journal.durable;
    for number in 1..3 {
        case.journal.append(&[entry(number)]);
        case.journal.durable = durable;
    }
    case.journal.write_at(16384 + 4096, &[0; 4096]);
    case.journal.next_segment();
    case.journal.append(&[entry(3)]);
    let recovered = case.recover();
    assert_eq!(recovered.report.cut_at, Some(16384));
    assert_eq!(recovered.report.damaged, []);
    assert_eq!(recovered.report.removed, [2]);
    assert_eq!(rows(&recovered), [PlaceCase::TornTail]);
    assert_eq!(
        file_rows(&recovered),
        [SegmentCase::Kept, SegmentCase::Empty]
    );
    assert_eq!(
        (recovered.start.position, recovered.start.records),
        (16384, 2)
    );
    assert_eq!(recovered.start.existing, [existing(1, 16384, 4096 + 16384)]);
    assert_eq!(recovered.start.segment, 3);
    assert_eq!(case.delivered(16384), [0, 1]);
}

#[test]
fn a_torn_first_block_of_the_last_segment_is_reported_and_its_header_stays() {
    let mut case = Case::new(1);
    case.journal.next_segment();
    case.journal.append(&[entry(1)]);
    case.journal.write_at(8192, &[0xff; 512]);
    let recovered = case.recover();
    assert_eq!(recovered.report.cut_at, Some(8192));
    assert!(recovered.report.removed.is_empty(), "{recovered:?}");
    assert_eq!(
        file_rows(&recovered),
        [SegmentCase::Kept, SegmentCase::Boundary]
    );
    assert_eq!(
        recovered.start.existing,
        [existing(1, 8192, PREALLOCATED), existing(2, 8192, 4096)]
    );
}

#[test]
fn a_damaged_middle_is_reported_and_both_sides_stay() {
    let case = Case::new(4);
    case.journal.write_at(8192, &[0xff; 64]);
    let recovered = case.recover();
    let damage = Damage {
        start: 8192,
        end: 16384,
    };
    assert_eq!(recovered.report.damaged, [damage]);
    assert_eq!(
        rows(&recovered),
        [PlaceCase::DamagedMiddle, PlaceCase::Clean]
    );
    assert_eq!(recovered.report.cut_at, None);
    assert_eq!(
        (recovered.start.position, recovered.start.records),
        (32768, 4)
    );
    assert_eq!(case.delivered(32768), [0, 2, 3]);
}

#[test]
fn a_segment_with_nothing_but_damaged_blocks_stays_with_its_good_entries() {
    let mut case = Case::new(1);
    case.journal.next_segment();
    let (mut bytes, _) = case.journal.append(&[entry(1), entry(2)]);
    // The first entry's payload.
    bytes[400] ^= 1;
    case.journal.write_at(8192, &bytes);
    case.journal.next_segment();
    case.journal.append(&[entry(3)]);
    let recovered = case.recover();
    assert_eq!(recovered.report.damaged.len(), 1);
    assert!(recovered.report.removed.is_empty(), "{recovered:?}");
    assert_eq!(case.files(), names(&[1, 2, 3]));
    assert_eq!(case.delivered(recovered.start.position), [0, 2, 3]);
}

#[test]
fn a_block_of_another_use_of_the_file_is_a_torn_tail() {
    let mut case = Case::new(2);
    // A whole block at its place, but of segment 7.
    let number = std::mem::replace(&mut case.journal.number, 7);
    let (bytes, _) = case.journal.sealed(&[entry(9)]);
    case.journal.number = number;
    case.journal.write_at(16384, &bytes);
    let recovered = case.recover();
    assert_eq!(rows(&recovered), [PlaceCase::StaleBlock]);
    assert_eq!(recovered.report.cut_at, Some(16384));
    assert_eq!(
        (recovered.start.position, recovered.start.records),
        (16384, 2)
    );
    assert_eq!(case.delivered(16384), [0, 1]);
}

#[test]
fn what_a_poisoned_segment_wrote_behind_its_successors_base_never_comes_back() {
    let mut case = Case::new(3);
    // The second and third block were written and their sync failed.
    case.turn_at(8192, 1);
    case.journal.append(&[entry(10)]);
    let recovered = case.recover();
    assert_eq!(
        rows(&recovered),
        [PlaceCase::PoisonedPredecessor, PlaceCase::Clean]
    );
    assert_eq!(recovered.report.damaged, []);
    assert_eq!(recovered.report.cut_at, None);
    assert_eq!(
        (recovered.start.position, recovered.start.records),
        (16384, 2)
    );
    assert_eq!(case.delivered(16384), [0, 10]);
}

#[test]
fn nor_does_it_where_the_successor_was_poisoned_before_its_first_block() {
    let mut case = Case::new(3);
    case.turn_at(8192, 1);
    let recovered = case.recover();
    assert_eq!(
        (recovered.start.position, recovered.start.records),
        (8192, 1)
    );
    assert_eq!(case.files(), names(&[1, 2]));
    assert_eq!(case.delivered(8192), [0]);
}

#[test]
fn of_two_segments_poisoned_at_once_neither_comes_back() {
    let mut case = Case::new(3);
    case.journal.next_segment();
    case.journal.append(&[entry(3)]);
    // A write of segment 1 failed when only its first block was durable.
    case.turn_at(8192, 1);
    case.journal.append(&[entry(10)]);
    let recovered = case.recover();
    assert_eq!(recovered.report.damaged, []);
    assert_eq!(recovered.report.removed, [2]);
    assert_eq!(
        (recovered.start.position, recovered.start.records),
        (16384, 2)
    );
    assert_eq!(recovered.start.segment, 4);
    assert_eq!(
        recovered.start.existing,
        [
            existing(1, 8192, PREALLOCATED),
            existing(3, 16384, 4096 + 8192)
        ]
    );
    assert_eq!(case.delivered(16384), [0, 10]);
}

#[test]
fn an_unborn_file_is_removed_wherever_it_stands() {
    let mut case = Case::new(1);
    // Given up, and its removal not synced; then the next one, made ahead and never used; and one
    // whose first block reached the disk and whose header did not.
    for number in [2, 4, 5] {
        let file = fs::File::create(case.journal.path(number)).expect("create");
        file.set_len(if number == 2 { 100 } else { PREALLOCATED })
            .expect("its length");
    }
    case.journal.number = 2;
    case.journal.next_segment();
    case.journal.append(&[entry(1)]);
    case.journal.number = 5;
    let (bytes, _) = case.journal.sealed(&[entry(2)]);
    let file = fs::File::options()
        .write(true)
        .open(case.journal.path(5))
        .expect("open");
    file.write_all_at(&bytes, 4096).expect("write");
    let recovered = case.recover();
    assert_eq!(recovered.report.removed, [2, 4, 5]);
    let unborn = SegmentCase::Unborn;
    assert_eq!(
        file_rows(&recovered),
        [SegmentCase::Kept, unborn, SegmentCase::Kept, unborn, unborn]
    );
    assert_eq!(recovered.report.damaged, []);
    assert_eq!(
        (recovered.start.position, recovered.start.segment),
        (16384, 6)
    );
    assert_eq!(case.files(), names(&[1, 3]));
}

#[test]
fn a_damaged_header_page_loses_no_file() {
    let mut case = Case::new(1);
    case.journal.next_segment();
    for number in 1..3 {
        case.journal.append(&[entry(number)]);
    }
    let header_of_2 = fs::File::options()
        .write(true)
        .open(case.journal.path(2))
        .expect("open");
    header_of_2.write_all_at(&[0xff; 16], 32).expect("damage");
    // As the last one: its last block knew that the one before it was durable.
    let recovered = case.recover();
    assert_eq!(
        recovered.report.damaged,
        [Damage {
            start: 8192,
            end: 16384
        }]
    );
    assert!(recovered.report.removed.is_empty(), "{recovered:?}");
    assert_eq!(
        file_rows(&recovered),
        [SegmentCase::Kept, SegmentCase::DamagedHeader]
    );
    assert_eq!(
        (recovered.start.position, recovered.start.records),
        (16384 + 4096, 2)
    );
    // In the middle.
    case.turn_at(recovered.start.position, recovered.start.records);
    case.journal.append(&[entry(3)]);
    let recovered = case.recover();
    assert_eq!(
        recovered.report.damaged,
        [Damage {
            start: 8192,
            end: 20480
        }]
    );
    assert!(recovered.report.removed.is_empty(), "{recovered:?}");
    assert_eq!(case.files(), names(&[1, 2, 3]));
}

#[test]
fn positions_of_acknowledged_blocks_that_are_missing_are_not_given_out_again() {
    let case = Case::new(3);
    // The second block is damaged; the third, which knew that it was durable, is torn.
    case.journal.write_at(8192, &[0xff; 64]);
    case.journal.write_at(16384 + 4096, &[0; 4096]);
    let recovered = case.recover();
    let damage = Damage {
        start: 8192,
        end: 16384,
    };
    assert_eq!(recovered.report.damaged, [damage]);
    assert_eq!(rows(&recovered), [PlaceCase::DamagedEnd]);
    // A block without entries says so from now on.
    assert_eq!(
        (recovered.start.position, recovered.start.records),
        (20480, 2)
    );
    assert_eq!(recovered.start.existing, [existing(1, 20480, 4096 + 20480)]);
    let bytes = fs::read(case.journal.path(1)).expect("read");
    let marker = BlockHeader::read(&bytes[4096 + 16384..], key(1), 16384).expect("the marker");
    assert_eq!(
        (marker.durable, marker.records_before, marker.entries),
        (16384, 2, 0)
    );
    assert_eq!(
        Entries::new(&bytes[4096 + 16384..], &marker, true).count(),
        0
    );
    assert_eq!(case.delivered(20480), [0]);
}

#[test]
fn a_durable_mark_beyond_its_own_block_is_believed_by_nobody() {
    let mut case = Case::new(2);
    case.journal.durable = u64::MAX;
    case.journal.append(&[entry(2)]);
    let recovered = case.recover();
    assert_eq!(recovered.report.cut_at, Some(16384));
    assert_eq!(recovered.start.position, 16384);
}

#[test]
fn the_only_segment_stays_where_it_alone_knows_the_position() {
    let mut case = Case::new(2);
    case.journal.next_segment();
    fs::remove_file(case.journal.path(1)).expect("retention");
    let recovered = case.recover();
    assert_eq!(
        (recovered.start.position, recovered.start.records),
        (16384, 2)
    );
    assert_eq!(recovered.start.existing, [existing(2, 16384, 4096)]);
    assert_eq!(recovered.start.segment, 3);
}

#[test]
fn a_write_that_never_arrived_before_one_that_did_is_an_ordinary_crash() {
    let mut case = Case::new(1);
    // Two blocks in flight: of the first nothing reached the disk, the second is whole.
    let durable = case.journal.durable;
    case.journal.append(&[entry(1)]);
    case.journal.durable = durable;
    case.journal.append(&[entry(2)]);
    case.journal.write_at(8192, &[0; 8192]);
    let recovered = case.recover();
    assert_eq!(rows(&recovered), [PlaceCase::LostWrite]);
    assert_eq!(recovered.report.cut_at, Some(8192));
    assert_eq!(case.delivered(8192), [0]);
}

#[test]
fn a_block_planted_in_a_payload_is_not_believed_after_damage() {
    // A sender puts a block of its own making into a payload, at a page's beginning: right number,
    // right position, every checksum right. Only the salt it cannot know.
    let mut case = Case::new(1);
    let mut planted = case.journal.sealed(&[entry(666)]);
    let position = 8192 + 4096;
    for salt in [0, crate::sink::sample::SALT + 2] {
        let header = BlockHeader {
            position,
            durable: position,
            salt,
            ..planted.1
        };
        planted = crate::sink::sample::block_bytes(header, &[entry(666)]);
        let mut carrier = entry(1);
        // Behind header, envelope, frame header and the record's own beginning.
        let mut record = numbered(1);
        record.attributes.clear();
        record.body.clear();
        carrier.payload = vec![0x2e; 3 * 4096];
        let (mut bytes, header) = case.journal.sealed(std::slice::from_ref(&carrier));
        bytes[4096..4096 + planted.0.len()].copy_from_slice(&planted.0);
        // The carrier's own header is damaged, and a sound block follows it.
        bytes[..64].fill(0xee);
        case.journal.write_at(8192, &bytes);
        case.journal.position = header.end_position();
        case.journal.records = 2;
        case.journal.durable = header.end_position();
        case.journal.append(&[entry(2)]);

        let inspected = inspect(&case.journal.folder).expect("inspect").recovered;
        let damage = Damage {
            start: 8192,
            end: header.end_position(),
        };
        assert_eq!(inspected.report.damaged, [damage], "salt {salt:x}");
        let end = inspected.start.position;
        assert_eq!(case.delivered(end), [0, 2], "salt {salt:x}");
        // The same with the right salt is a block: the test would notice.
        if salt != 0 {
            let right = BlockHeader {
                salt: key(1).salt,
                ..planted.1
            };
            let (right, _) = crate::sink::sample::block_bytes(right, &[entry(666)]);
            case.journal.position = 8192;
            case.journal.write_at(position, &right);
            assert_eq!(case.delivered(end), [0, 666, 2]);
        }
        case.journal.position = 8192;
        case.journal.records = 1;
        case.journal.durable = 8192;
    }
}

#[test]
fn a_segment_of_another_version_stops_the_start_and_loses_nothing() {
    let case = Case::new(2);
    let file = fs::File::options()
        .write(true)
        .open(case.journal.path(1))
        .expect("open");
    file.write_all_at(b"1", 7).expect("the version");
    let before = fs::read(case.journal.path(1)).expect("read");
    let error = recover(&case.journal.folder).expect_err("not ours to judge");
    assert!(error.to_string().contains("another version"), "{error}");
    assert!(inspect(&case.journal.folder).is_err());
    assert_eq!(fs::read(case.journal.path(1)).expect("read"), before);
}

#[test]
fn inspect_opens_nothing_for_writing_and_says_what_each_segment_holds() {
    let mut case = Case::new(2);
    case.journal.next_segment();
    case.journal.append(&[entry(7), entry(5)]);
    for number in [1, 2] {
        let mut permissions = fs::metadata(case.journal.path(number))
            .expect("stat")
            .permissions();
        permissions.set_readonly(true);
        fs::set_permissions(case.journal.path(number), permissions).expect("chmod");
    }
    let inspected = inspect(&case.journal.folder).expect("inspect");
    let seen: Vec<_> = inspected
        .segments
        .iter()
        .map(|s| {
            (
                s.number,
                s.base,
                s.end,
                s.blocks,
                s.records,
                s.observed_unix_nano,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (1, 0, 16384, 2, 2, Some((0, 1))),
            (2, 16384, 28672, 1, 2, Some((5, 7))),
        ]
    );
    assert_eq!(inspected.durable, 16384);
    assert_eq!(case.len(2), PREALLOCATED, "nothing was cut");
}
