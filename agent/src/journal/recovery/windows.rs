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

/// The snapshot at a segment's head and the position behind it, where it is whole.
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
        let Ok(Some(Item::Windows(bytes))) = block.entries().next_item() else {
            return Ok(None);
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
