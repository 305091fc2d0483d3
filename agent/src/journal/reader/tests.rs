use super::*;
use crate::sink::sample::{SampleEntry, SampleJournal, numbered};

fn entry(number: u64, body_len: usize) -> SampleEntry {
    let mut record = numbered(number);
    record.body = "x".repeat(body_len);
    SampleEntry::protobuf(number, vec![record])
}

/// What a reader gives until it has no more: positions, or what was wrong.
fn walk(reader: &mut JournalReader, durable: u64) -> Vec<Result<u64, String>> {
    let mut seen = Vec::new();
    loop {
        match reader.next_block(durable) {
            Ok(None) => return seen,
            Ok(Some(block)) => {
                assert!(block.entries().all(|entry| entry.is_ok()));
                assert_eq!(block.listeners, crate::sink::sample::LISTENERS);
                seen.push(Ok(block.header.position));
            }
            Err(ReadError::Missing {
                file,
                next: Some(next),
                ..
            }) => {
                let name = file.file_name().expect("a name").to_string_lossy();
                seen.push(Err(format!("missing {name}")));
                reader.seek(next);
            }
            Err(ReadError::Damaged { from, to, .. }) => {
                seen.push(Err(format!("damaged {from}..{to}")));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn blocks_of_every_length_come_back_in_order_across_segments_up_to_the_mark() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = SampleJournal::new(folder.path());
    let mut reader = JournalReader::open(&journal.folder, 0).expect("open");
    assert!(reader.next_block(0).expect("nothing durable").is_none());
    let longest = JOURNAL_BLOCK_LEN - 4096 - 512;
    let mut blocks = Vec::new();
    for (at, body_len) in [10, 5_000, longest, 1, 700_000, 600_000, 10, longest, 3]
        .into_iter()
        .enumerate()
    {
        if at == 4 || at == 7 {
            journal.next_segment();
        }
        let (bytes, header) = journal.append(&[entry(at as u64, body_len)]);
        blocks.push((bytes, header));
    }
    // Durable up to the fifth block's end: the sixth is written, but not to be seen.
    let durable = blocks[4].1.end_position();
    for (bytes, header) in &blocks[..5] {
        let block = reader.next_block(durable).expect("read").expect("a block");
        assert_eq!(block.header, *header);
        assert_eq!(block.bytes, &bytes[..header.len as usize]);
    }
    assert!(reader.next_block(durable).expect("the end").is_none());
    let positions: Vec<_> = blocks[5..].iter().map(|b| Ok(b.1.position)).collect();
    assert_eq!(walk(&mut reader, journal.position), positions);
    let mut middle = JournalReader::open(&journal.folder, blocks[6].1.position).expect("open");
    assert_eq!(walk(&mut middle, journal.position), positions[1..]);
}

#[test]
fn a_segment_ends_where_its_successor_begins() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = SampleJournal::new(folder.path());
    journal.append(&[entry(0, 10)]);
    // A block whose sync failed: whole in the file, never acknowledged, and the journal went on
    // in another segment at its position.
    let (bytes, header) = journal.sealed(&[entry(99, 10)]);
    journal.write_at(header.position, &bytes);
    let mut reader = JournalReader::open(&journal.folder, 0).expect("open");
    assert_eq!(walk(&mut reader, 4096), [Ok(0)]);
    journal.next_segment();
    // One more that failed before its first block.
    let (bytes, header) = journal.sealed(&[entry(98, 10)]);
    journal.write_at(header.position, &bytes);
    journal.next_segment();
    let (bytes, _) = journal.append(&[entry(1, 10)]);
    let block = reader.next_block(journal.position).expect("read");
    let block = block.expect("the block of the third segment");
    assert_eq!(block.header.segment, 3);
    assert_eq!(block.bytes, &bytes[..block.header.len as usize]);
}

#[test]
fn damage_in_the_middle_is_reported_and_both_sides_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = SampleJournal::new(folder.path());
    for number in 0..3 {
        journal.append(&[entry(number, 6_000)]);
    }
    let last_of_first = journal.position;
    journal.append(&[entry(3, 10)]);
    // The second block's header, and the whole of the segment's last one.
    journal.write_at(8192, &[0xff; 16]);
    journal.write_at(last_of_first, &[0; 4096]);
    journal.next_segment();
    journal.append(&[entry(4, 10)]);
    let mut reader = JournalReader::open(&journal.folder, 0).expect("open");
    assert_eq!(
        walk(&mut reader, journal.position),
        [
            Ok(0),
            Err("damaged 8192..16384".to_owned()),
            Ok(16384),
            Err("damaged 24576..28672".to_owned()),
            Ok(28672),
        ]
    );
}

#[test]
fn a_damaged_entry_leaves_its_neighbours() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = SampleJournal::new(folder.path());
    let entries = [entry(0, 64), entry(1, 64), entry(2, 64)];
    let (mut bytes, _) = journal.append(&entries);
    let middle = bytes
        .windows(64)
        .enumerate()
        .filter(|(_, w)| *w == [b'x'; 64]);
    let (at, _) = middle.into_iter().nth(1).expect("the second body");
    bytes[at] ^= 1;
    journal.write_at(0, &bytes);
    let mut reader = JournalReader::open(&journal.folder, 0).expect("open");
    let block = reader.next_block(journal.position).expect("read");
    let seen: Vec<_> = block
        .expect("a block")
        .entries()
        .map(|entry| entry.map(|entry| entry.envelope.observed_time_unix_nano))
        .collect();
    assert_eq!(seen, [Ok(0), Err(FormatFault::Checksum), Ok(2)]);
}

#[test]
fn a_missing_segment_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = SampleJournal::new(folder.path());
    for number in 0..4 {
        journal.append(&[entry(number, 10)]);
        journal.next_segment();
    }
    let first = journal.path(1);
    let third = journal.path(3);
    std::fs::remove_file(&first).expect("remove");
    std::fs::remove_file(&third).expect("remove");
    let mut reader = JournalReader::open(&journal.folder, 0).expect("open");
    assert_eq!(
        walk(&mut reader, journal.position),
        [
            Err("missing 0000000000000001.segment".to_owned()),
            Ok(4096),
            Err("missing 0000000000000003.segment".to_owned()),
            Ok(12288),
        ]
    );
    assert_eq!(oldest(&journal.folder).expect("list"), Some((4096, 1)));
}

#[test]
fn without_a_mark_a_block_that_is_not_whole_is_the_end_until_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = SampleJournal::new(folder.path());
    journal.append(&[entry(0, 10)]);
    let mut reader = JournalReader::open(&journal.folder, 0).expect("open");
    assert!(reader.next_written(true).expect("read").is_some());
    assert!(reader.next_written(true).expect("read").is_none());
    assert_eq!(
        reader.torn_tail(),
        None,
        "preallocated zeros are no torn block"
    );
    // The first page of a longer block has arrived, the rest has not.
    let (bytes, header) = journal.sealed(&[entry(1, 9_000)]);
    journal.write_at(header.position, &bytes[..4096]);
    assert!(reader.next_written(true).expect("read").is_none());
    assert_eq!(
        reader.torn_tail(),
        Some((header.position, FormatFault::Checksum))
    );
    journal.append(&[entry(1, 9_000)]);
    let block = reader.next_written(true).expect("read").expect("whole now");
    assert_eq!(block.bytes, &bytes[..header.len as usize]);
    journal.next_segment();
    let (_, header) = journal.append(&[entry(2, 10)]);
    let block = reader.next_written(false).expect("read").expect("a block");
    assert_eq!(block.header, header);
}

#[test]
fn without_a_mark_damage_that_a_later_block_knew_durable_is_damage() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = SampleJournal::new(folder.path());
    for number in 0..3 {
        journal.append(&[entry(number, 10)]);
    }
    journal.write_at(4096, &[0; 64]);
    let mut reader = JournalReader::open(&journal.folder, 0).expect("open");
    assert!(reader.next_written(true).expect("read").is_some());
    let error = reader.next_written(true).expect_err("damage");
    assert!(
        matches!(
            error,
            ReadError::Damaged {
                from: 4096,
                to: 8192,
                ..
            }
        ),
        "{error}"
    );
    let block = reader.next_written(true).expect("read").expect("a block");
    assert_eq!(block.header.position, 8192);
}

#[test]
fn what_is_no_segment_is_listed_with_its_fault_and_the_others_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = SampleJournal::new(folder.path());
    journal.append(&[entry(0, 10)]);
    let path = |number| journal.folder.join(segment_file_name(number));
    // A creation that was cut short, a page that nobody wrote, and another segment's file.
    std::fs::write(path(4), [0; 100]).expect("write");
    std::fs::write(path(5), [0; 8192]).expect("write");
    std::fs::copy(path(1), path(6)).expect("copy");
    let listing = list_segments(&journal.folder, &Listing::default()).expect("list");
    let numbers: Vec<u64> = listing.segments.iter().map(|s| s.header.number).collect();
    assert_eq!(numbers, [1]);
    assert_eq!(
        listing.unreadable,
        [
            (path(4), FormatFault::Short),
            (path(5), FormatFault::Magic),
            (path(6), FormatFault::Stale),
        ]
    );
    let mut reader = JournalReader::open(&journal.folder, 0).expect("open");
    assert_eq!(walk(&mut reader, journal.position), [Ok(0)]);
}

#[test]
fn a_call_that_fails_is_named_with_its_path() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("shard-07");
    let error = list_segments(&missing, &Listing::default()).expect_err("no folder");
    let expected = format!("read folder {}: ", missing.display());
    assert!(error.to_string().starts_with(&expected), "{error}");
    // Reading a directory as a file fails with EISDIR (read(2)), and that is no fault of a format.
    let number = folder.path().join(segment_file_name(1));
    std::fs::create_dir(&number).expect("a folder");
    let error = list_segments(folder.path(), &Listing::default()).expect_err("a directory");
    let expected = format!("read {}: ", number.display());
    assert!(error.to_string().starts_with(&expected), "{error}");
}

#[test]
fn a_segment_that_ends_before_its_block_is_damaged_from_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = SampleJournal::new(folder.path());
    journal.append(&[entry(0, 10)]);
    journal.append(&[entry(1, 5_000)]);
    let durable = journal.position;
    // The file ends within the second block, though all of it was durable.
    let file = std::fs::File::options()
        .write(true)
        .open(journal.path(1))
        .expect("open");
    file.set_len(4096 + 4096 + 1000).expect("cut");
    let mut reader = JournalReader::open(&journal.folder, 0).expect("open");
    assert_eq!(
        walk(&mut reader, durable),
        [Ok(0), Err(format!("damaged 4096..{durable}"))]
    );
}
