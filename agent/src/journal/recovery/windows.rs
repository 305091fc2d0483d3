//! What the journal remembers of its producers: the newest whole snapshot, and every frame behind it.
//!
//! Runs after `recover`, so all that is read here is kept, and synced: what is called a duplicate
//! of it is on disk. A snapshot without its last part is not believed, as the crash that tore it
//! came before any frame behind it; then the one before holds, with all that follows it.

use std::collections::HashMap;
use std::path::Path;

use super::RecoveryError;
use crate::journal::dedup::snapshot::Part;
use crate::journal::dedup::{Remembered, Window};
use crate::journal::format::{Entry, Item};
use crate::journal::reader::{BlockView, JournalReader, ReadError};
use crate::journal::writer::JournalStart;

/// What is remembered, by producer. Recovery holds it for all shards' journals, until each has its
/// part; it is as large as the snapshots and the frames behind them say, 4 KiB a producer.
pub type Memory = HashMap<u64, Remembered>;

/// Reads it from a shard's folder, which `recover` has been through. The number is the segment from
/// which on the journal holds it.
pub fn remember(folder: &Path, start: &JournalStart) -> Result<(Memory, u64), RecoveryError> {
    let mut reader = JournalReader::open(folder, 0).map_err(|error| unreadable(folder, error))?;
    let segments: Vec<(u64, u64)> = reader
        .listing()
        .segments
        .iter()
        .map(|segment| (segment.header.number, segment.header.base))
        .filter(|(number, _)| start.existing.iter().any(|kept| kept.number == *number))
        .collect();
    let Some(oldest) = segments.first().copied() else {
        return Ok((Memory::new(), start.segment));
    };
    let mut memory = Memory::new();
    let (mut held_in, mut from) = oldest;
    for (number, base) in segments.iter().rev().copied() {
        if let Some((snapshot, end)) = read_snapshot(&mut reader, number, base, start, folder)? {
            (memory, held_in, from) = (snapshot, number, end);
            break;
        }
    }
    reader.seek(from);
    while let Some(block) = next(&mut reader, start.position, folder)? {
        let mut entries = block.entries();
        entries.trust();
        for entry in entries.flatten() {
            add(&mut memory, &entry);
        }
    }
    if memory.is_empty() {
        held_in = start.segment;
    }
    Ok((memory, held_in))
}

/// Adds what another shard's journal remembers.
pub fn merge(memory: &mut Memory, other: Memory) {
    for (producer, found) in other {
        match memory.entry(producer) {
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(found);
            }
            std::collections::hash_map::Entry::Occupied(mut place) => {
                let known = place.get_mut();
                known.window.merge(&found.window);
                known.seen_unix_ns = known.seen_unix_ns.max(found.seen_unix_ns);
            }
        }
    }
}

/// The snapshot at a segment's head and the position behind it, where it is whole. A segment that
/// begins with a frame says that nobody was remembered: what came before it is not read, which of a
/// journal of UDP frames alone would be all of it.
fn read_snapshot(
    reader: &mut JournalReader,
    segment: u64,
    base: u64,
    start: &JournalStart,
    folder: &Path,
) -> Result<Option<(Memory, u64)>, RecoveryError> {
    let mut memory = Memory::new();
    let mut number = 0;
    reader.seek(base);
    loop {
        let before = reader.position();
        let Some(block) = next(reader, start.position, folder)? else {
            return Ok(None);
        };
        if block.header.segment != segment || block.header.position != before {
            return Ok(None);
        }
        let bytes = match block.entries().next_item() {
            Ok(Some(Item::Windows(bytes))) => bytes,
            // Nobody was remembered when it was begun (or by a version that remembers nobody).
            Ok(Some(Item::Frame(_))) if number == 0 => return Ok(Some((memory, base))),
            _ => return Ok(None),
        };
        let Ok(part) = Part::read(bytes) else {
            return Ok(None);
        };
        if part.number != number {
            return Ok(None);
        }
        number += 1;
        for producer in part.producers() {
            let Ok((producer, remembered)) = producer else {
                return Ok(None);
            };
            memory.insert(producer, remembered);
        }
        if part.is_last {
            return Ok(Some((memory, block.end_position())));
        }
    }
}

fn add(memory: &mut Memory, entry: &Entry<'_>) {
    if !entry.envelope.deduplicated || entry.header.producer == 0 {
        return;
    }
    let remembered = memory
        .entry(entry.header.producer)
        .or_insert_with(|| Remembered {
            window: Box::new(Window::default()),
            seen_unix_ns: 0,
        });
    let header = &entry.header;
    remembered.window.take(header.sequence, header.payload_crc);
    let seen = entry.envelope.observed_time_unix_nano;
    remembered.seen_unix_ns = remembered.seen_unix_ns.max(seen);
}

/// The next block that can be read. What cannot has been reported by `recover` as damaged.
fn next<'a>(
    reader: &'a mut JournalReader,
    end: u64,
    folder: &Path,
) -> Result<Option<BlockView<'a>>, RecoveryError> {
    loop {
        let position = reader.position();
        match reader.next_block(end) {
            // Looked up again: a borrow that is returned in one arm holds for the others.
            Ok(Some(_)) => return Ok(reader.current()),
            Ok(None) => return Ok(None),
            Err(ReadError::Damaged { .. }) => {}
            Err(ReadError::Missing {
                next: Some(next), ..
            }) if next > position => reader.seek(next),
            Err(ReadError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(unreadable(folder, error)),
        }
    }
}

fn unreadable(folder: &Path, error: ReadError) -> RecoveryError {
    let (path, source) = match error {
        ReadError::Io { path, source, .. } => (path, source),
        other => (folder.to_owned(), std::io::Error::other(other.to_string())),
    };
    RecoveryError {
        call: "read the journal's windows",
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agent_common::frame::FrameHeader;
    use penstock_proto::wire::write_frame;

    use super::*;
    use crate::journal::dedup::snapshot::{PART_HEADER_LEN, PRODUCER_LEN_MAX, write_part};
    use crate::journal::dedup::{Known, Windows};
    use crate::journal::format::{
        BLOCK_ALIGN, BLOCK_HEADER_LEN, BlockHeader, ENTRY_HEADER_LEN, Envelope, SegmentHeader,
        segment_file_name, write_windows_header,
    };
    use crate::journal::writer::ExistingSegment;

    /// A shard's folder, written byte by byte, every block known to be durable.
    struct Shard {
        folder: tempfile::TempDir,
        start: JournalStart,
        segment: Vec<u8>,
    }

    impl Shard {
        fn new() -> Self {
            Self {
                folder: tempfile::tempdir().expect("a folder"),
                start: JournalStart::default(),
                segment: Vec::new(),
            }
        }

        fn begin_segment(&mut self) {
            self.start.segment += 1;
            let header = SegmentHeader {
                shard: 0,
                number: self.start.segment,
                base: self.start.position,
                records_before: 0,
                created_unix_nano: 0,
                predecessor: self.start.segment - 1,
                salt: 0x5a17,
                listeners: vec!["tcp".to_owned()],
            };
            let mut page = [0; BLOCK_ALIGN];
            header.write(&mut page);
            self.segment = page.to_vec();
        }

        fn end_segment(&mut self) {
            let number = self.start.segment;
            let path = self.folder.path().join(segment_file_name(number));
            std::fs::write(path, &self.segment).expect("a segment");
            self.start.existing.push(ExistingSegment {
                number,
                end: self.start.position,
                bytes: self.segment.len() as u64,
            });
        }

        /// A block of one entry.
        fn block(&mut self, head: [u8; ENTRY_HEADER_LEN], body: &[u8], records: u32) {
            let len = BLOCK_HEADER_LEN + ENTRY_HEADER_LEN + body.len();
            let header = BlockHeader {
                len: len as u32,
                position: self.start.position,
                durable: self.start.position,
                segment: self.start.segment,
                records_before: 0,
                entries: 1,
                records,
                salt: 0x5a17,
            };
            let mut bytes = [0; BLOCK_HEADER_LEN];
            header.write(&mut bytes);
            self.segment.extend_from_slice(&bytes);
            self.segment.extend_from_slice(&head);
            self.segment.extend_from_slice(body);
            let end = self.segment.len().next_multiple_of(BLOCK_ALIGN);
            self.segment.resize(end, 0);
            self.start.position = header.end_position();
        }

        fn frame(&mut self, producer: u64, sequence: u64, deduplicated: bool) {
            let mut frame = Vec::new();
            let header = FrameHeader {
                encoding: 1,
                flags: 0,
                priority: 2,
                payload_len: 0,
                records: 1,
                producer,
                sequence,
                payload_crc: 0,
            };
            write_frame(&mut frame, header, b"payload");
            let envelope = Envelope {
                observed_time_unix_nano: 100 + sequence,
                listener: 0,
                keep_sixteenths: 16,
                peer: None,
                deduplicated,
            };
            let mut head = [0; ENTRY_HEADER_LEN];
            envelope.write(frame.len(), &mut head);
            self.block(head, &frame, 1);
        }

        /// A snapshot of these producers, each with sequence 7, one a block; the last `torn` of
        /// its parts are left out.
        fn snapshot(&mut self, producers: std::ops::RangeInclusive<u64>, torn: usize) {
            let mut windows = Windows::new(64, Duration::MAX);
            for producer in producers {
                windows.take(&mut Known::default(), producer, 7, 77, 1, 50);
            }
            let mut parts = Vec::new();
            let mut slot = Some(0);
            while let Some(from) = slot {
                let mut part = vec![0; PART_HEADER_LEN + PRODUCER_LEN_MAX];
                // Windows of one sequence take 164 bytes each: leave room for one.
                part.truncate(PART_HEADER_LEN + 164);
                let (len, next) = write_part(&windows, from, parts.len() as u32, &mut part);
                part.truncate(len);
                parts.push(part);
                slot = next;
            }
            parts.truncate(parts.len() - torn);
            for part in parts {
                let mut head = [0; ENTRY_HEADER_LEN];
                write_windows_header(50, &part, &mut head);
                self.block(head, &part, 0);
            }
        }

        /// Producers and their sequences, in order; and from which segment on.
        fn remember(&self) -> (Vec<(u64, Vec<u64>)>, u64) {
            let (memory, held_in) = remember(self.folder.path(), &self.start).expect("readable");
            let mut found: Vec<(u64, Vec<u64>)> = memory
                .iter()
                .map(|(producer, remembered)| {
                    let taken = remembered.window.iter().map(|(sequence, _)| sequence);
                    let mut taken: Vec<u64> = taken.collect();
                    taken.sort_unstable();
                    (*producer, taken)
                })
                .collect();
            found.sort_unstable();
            (found, held_in)
        }
    }

    #[test]
    fn the_newest_whole_snapshot_and_the_frames_behind_it() {
        let mut shard = Shard::new();
        shard.begin_segment();
        shard.frame(9, 1, true);
        shard.end_segment();
        shard.begin_segment();
        shard.snapshot(1..=3, 0);
        shard.frame(2, 8, true);
        shard.frame(4, 1, true);
        // Over UDP, or of nobody.
        shard.frame(5, 1, false);
        shard.frame(0, 0, true);
        shard.end_segment();
        // Producer 9 is not in the snapshot: it had expired.
        let expected = [(1, vec![7]), (2, vec![7, 8]), (3, vec![7]), (4, vec![1])];
        assert_eq!(shard.remember(), (expected.to_vec(), 2));
        let (memory, _) = remember(shard.folder.path(), &shard.start).expect("readable");
        assert_eq!(memory[&2].seen_unix_ns, 108, "its last frame's");
        assert_eq!(memory[&1].seen_unix_ns, 50, "the snapshot's");
    }

    #[test]
    fn a_snapshot_without_its_last_part_is_not_believed() {
        let mut shard = Shard::new();
        shard.begin_segment();
        shard.snapshot(1..=2, 0);
        shard.frame(1, 8, true);
        shard.end_segment();
        shard.begin_segment();
        shard.snapshot(1..=3, 1);
        shard.end_segment();
        let expected = vec![(1, vec![7, 8]), (2, vec![7])];
        assert_eq!(shard.remember(), (expected, 1));
    }

    #[test]
    fn a_damaged_snapshot_gives_way_to_the_one_before_and_all_behind_it() {
        let mut shard = Shard::new();
        shard.begin_segment();
        shard.snapshot(1..=2, 0);
        shard.frame(1, 8, true);
        shard.end_segment();
        shard.begin_segment();
        shard.snapshot(1..=3, 0);
        shard.frame(3, 8, true);
        // The second part's body.
        shard.segment[2 * BLOCK_ALIGN + BLOCK_HEADER_LEN + ENTRY_HEADER_LEN + 20] ^= 1;
        shard.end_segment();
        let expected = vec![(1, vec![7, 8]), (2, vec![7]), (3, vec![8])];
        assert_eq!(shard.remember(), (expected, 1));
    }

    #[test]
    fn a_segment_that_begins_with_a_frame_says_that_nobody_was_remembered() {
        let mut shard = Shard::new();
        shard.begin_segment();
        shard.snapshot(1..=2, 0);
        shard.end_segment();
        shard.begin_segment();
        shard.frame(0, 0, false);
        shard.frame(3, 1, true);
        shard.end_segment();
        // And one without a block says nothing.
        shard.begin_segment();
        shard.end_segment();
        assert_eq!(shard.remember(), (vec![(3, vec![1])], 2));
    }

    #[test]
    fn nothing_is_remembered_of_nothing() {
        let mut shard = Shard::new();
        shard.start.segment = 1;
        assert_eq!(shard.remember(), (vec![], 1));
        shard.start.segment = 0;
        shard.begin_segment();
        shard.frame(5, 1, false);
        shard.end_segment();
        shard.start.segment = 2;
        assert_eq!(shard.remember(), (vec![], 2), "no segment is needed");
    }
}
