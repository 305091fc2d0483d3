use std::fs;
use std::path::Path;

use super::survey::{StartAction, Survey};
use super::*;
use crate::sink::Cursor;
use crate::sink::file::cursor::{CursorFile, SavedCursor};
use crate::sink::file::disk::RealDisk;
use crate::sink::sample::{SampleEntry, SampleJournal, numbered};

const TIME: u64 = 1_795_178_701_000_000_000;

/// Two segments: two blocks, and one; each of two pages and one record.
fn journal(data: &Path) -> SampleJournal {
    let mut journal = SampleJournal::new(data);
    for number in 0..2 {
        journal.append(&[entry(number)]);
    }
    journal.next_segment();
    journal.append(&[entry(2)]);
    journal
}

fn entry(number: u64) -> SampleEntry {
    let mut record = numbered(number);
    record.body = "x".repeat(5_000);
    SampleEntry::protobuf(TIME + number * 1_000_000_000, vec![record])
}

fn store_cursor(data: &Path, sink: &str, position: u64, records: u64) {
    let folder = data.join("cursors");
    fs::create_dir_all(&folder).expect("a folder");
    let saved = SavedCursor {
        cursor: Cursor { position, records },
        output: None,
    };
    let file = CursorFile::new(folder, sink, 0);
    file.store(&mut RealDisk, &saved).expect("a cursor");
}

/// How the command would end.
fn looked(dir: &Path) -> Option<Failure> {
    look(dir, Format::Text).map_or_else(Some, |(_, failure)| failure)
}

fn survey(dir: &Path) -> Survey {
    Survey::of(dir).unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn a_clean_journal_is_described_and_ends_with_0() {
    let data = tempfile::tempdir().expect("a folder");
    let journal = journal(data.path());
    store_cursor(data.path(), "files", 8192, 1);
    let survey = survey(data.path());
    assert_eq!(survey.problems, [] as [&str; 0]);
    let text = text::show(&survey);
    let folder = journal.folder.display();
    let expected = format!(
        "{folder}\n\
        \x20 segment 1: kept, positions 0 to 16384, 16MiB, 2 blocks, 2 records, observed \
        2026-11-20T12:45:01.000000000Z to 2026-11-20T12:45:02.000000000Z\n\
        \x20 segment 2: kept, positions 16384 to 24576, 16MiB, 1 blocks, 1 records, observed \
        2026-11-20T12:45:03.000000000Z to 2026-11-20T12:45:03.000000000Z; a start cuts it to 12288 \
        bytes\n\
        \x20 clean: at position 24576\n\
        \x20 goes on at position 24576, behind 3 records; known to be durable: 16384\n\
        \x20 sink files: at position 8192, 2 records behind\n\
        nothing that was acknowledged is missing\n"
    );
    assert_eq!(text, expected);
    assert!(looked(data.path()).is_none());
}

#[test]
fn the_journals_and_the_shards_folder_say_the_same() {
    let data = tempfile::tempdir().expect("a folder");
    let journal = journal(data.path());
    store_cursor(data.path(), "files", 8192, 1);
    for dir in [data.path().join("journal"), journal.folder.clone()] {
        let survey = survey(&dir);
        assert_eq!(survey.shards.len(), 1, "{}", dir.display());
        assert_eq!(survey.shards[0].end_records, 3);
        assert_eq!(survey.shards[0].sinks[0].lag_records, 2);
    }
}

#[test]
fn damage_ends_with_65_and_a_torn_tail_does_not() {
    let data = tempfile::tempdir().expect("a folder");
    let journal = journal(data.path());
    journal.write_at(16384 + 4096, &[0; 4096]);
    let torn = survey(data.path());
    assert_eq!(torn.problems, [] as [&str; 0]);
    assert_eq!(torn.shards[0].end_position, 16384);
    assert_eq!(torn.shards[0].segments[1].start, StartAction::CutTo(4096));

    let damaged = fs::OpenOptions::new().write(true).open(journal.path(1));
    use std::os::unix::fs::FileExt;
    let file = damaged.expect("open");
    file.write_all_at(&[0xff; 64], 4096).expect("damage");
    let before = fs::read(journal.path(1)).expect("read");
    let failure = looked(data.path()).expect("damage");
    assert_eq!(failure.exit, Exit::Data);
    let survey = survey(data.path());
    let expected = format!(
        "{}: damaged middle: acknowledged bytes between positions 0 and 8192 are gone",
        journal.folder.display()
    );
    assert_eq!(survey.problems, [expected]);
    assert_eq!(fs::read(journal.path(1)).expect("read"), before);

    let json: serde_json::Value = serde_json::from_str(&survey.to_json()).expect("JSON");
    let place = &json["shards"][0]["places"][0];
    assert_eq!(place["case"], "damaged_middle");
    assert_eq!(
        (&place["start_position"], &place["end_position"]),
        (&0.into(), &8192.into())
    );
    let segment = &json["shards"][0]["segments"][1];
    assert_eq!(
        (&segment["case"], &segment["start"]["cut_to"]),
        (&"boundary".into(), &4096.into())
    );
    assert_eq!(segment["created_unix_nano"], "1795178701000000000");
}

#[test]
fn cursors_that_cannot_be_right_are_problems() {
    let data = tempfile::tempdir().expect("a folder");
    let journal = journal(data.path());
    store_cursor(data.path(), "ahead", 28672, 9);
    store_cursor(data.path(), "behind", 8192, 1);
    fs::write(
        data.path().join("cursors/odd-s00.cursor"),
        "penstock-cursor 1\n",
    )
    .expect("write");
    // Another shard's is not this one's business, and a temporary file is no cursor.
    fs::write(data.path().join("cursors/odd-s01.cursor"), "x").expect("write");
    fs::write(data.path().join("cursors/odd-s00.cursor.tmp"), "x").expect("write");
    fs::remove_file(journal.path(1)).expect("remove");
    let survey = survey(data.path());
    assert_eq!(survey.problems.len(), 3, "{:?}", survey.problems);
    for (problem, what) in survey.problems.iter().zip([
        "beyond the journal's end",
        "before the oldest segment",
        "damaged (no checksum)",
    ]) {
        assert!(problem.contains(what), "{problem}");
    }
}

#[test]
fn what_is_no_journal_ends_with_66() {
    let folder = tempfile::tempdir().expect("a folder");
    for dir in [folder.path().to_owned(), folder.path().join("missing")] {
        let failure = looked(&dir).expect("nothing is there");
        assert_eq!(failure.exit, Exit::NoInput, "{failure}");
    }
}

#[test]
fn a_data_folder_that_was_never_used_is_clean() {
    let data = tempfile::tempdir().expect("a folder");
    fs::create_dir(data.path().join("journal")).expect("a folder");
    assert_eq!(
        text::show(&survey(data.path())),
        "no shard has a journal yet\nnothing that was acknowledged is missing\n"
    );
}
