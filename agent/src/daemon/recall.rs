//! All journals are recovered before any shard starts: what they remember of their producers is put
//! together and dealt out anew, as there may have been more shards before, or fewer.

use std::sync::Arc;
use std::time::Duration;

use crate::config::settings::{SinkKind, SinkSettings};
use crate::daemon::data::DataFolder;
use crate::exit::Failure;
use crate::journal::dedup::{Recalled, StartBarrier, Windows, owner};
use crate::journal::recovery::windows::{Memory, merge};
use crate::journal::writer::JournalStart;
use crate::sink::file::CURSORS_FOLDER;
use crate::sink::file::cursor::CursorFile;
use crate::sink::file::disk::RealDisk;
use crate::sink::forward::cursor::SavedForward;

/// What the journals leave to this life.
pub struct Inheritance {
    /// Of each shard that there is now.
    pub shards: Vec<(JournalStart, Recalled)>,
    /// The journals of shards that are gone.
    pub left_behind: Vec<(u16, JournalStart)>,
    /// Where windows have moved between shards: nothing old may go before it is passed.
    pub barrier: Option<Arc<StartBarrier>>,
}

/// Recovers all journals, for `shards` shards that remember at most `producers_max` producers each,
/// none of them longer than `expiry` after `now_unix_ns`; `sinks` deliver them.
pub fn recall(
    data: &DataFolder,
    sinks: &[SinkSettings],
    shards: u16,
    producers_max: usize,
    expiry: Duration,
    now_unix_ns: u64,
) -> Result<Inheritance, Failure> {
    let mut memories = Vec::new();
    let mut starts = Vec::new();
    let mut is_moved = false;
    for shard in 0..shards {
        let mut start = data.recover(shard)?.start;
        let (memory, held_in) = data.remember(shard, &start)?;
        go_on_behind_cursors(data, sinks, shard, &mut start);
        is_moved |= memory.keys().any(|id| owner(*id, shards) != shard);
        memories.push(memory);
        starts.push((start, held_in));
    }
    let mut left_behind = Vec::new();
    for shard in data.shards_beyond(shards)? {
        let start = data.recover(shard)?.start;
        let (memory, _) = data.remember(shard, &start)?;
        is_moved |= !memory.is_empty();
        memories.push(memory);
        left_behind.push((shard, start));
    }
    let barrier = is_moved.then(|| Arc::new(StartBarrier::new(usize::from(shards))));
    let parts = match is_moved {
        true => {
            let mut parts = deal(&memories, shards);
            for (part, own) in parts.iter_mut().zip(memories) {
                keep_own(part, own, producers_max);
            }
            parts
        }
        false => {
            memories.truncate(usize::from(shards));
            memories
        }
    };
    let shards = (0..).zip(starts).zip(parts).map(|((shard, (start, held_in)), memory)| {
        let mut windows = Windows::new(producers_max, expiry);
        let forgotten = windows.restore(memory, now_unix_ns);
        if forgotten > 0 {
            tracing::warn!(
                shard,
                forgotten,
                producers_max,
                "more producers than fit were remembered: a retry of the longest idle may be stored twice",
            );
        }
        let barrier = barrier.clone();
        (start, Recalled { windows, held_in, barrier })
    });
    Ok(Inheritance {
        shards: shards.collect(),
        left_behind,
        barrier,
    })
}

/// A sink may have delivered what a power loss then took from the journal, where `journal.sync` is
/// "never". Were its positions given out again, the sink would step over what is new.
fn go_on_behind_cursors(
    data: &DataFolder,
    sinks: &[SinkSettings],
    shard: u16,
    start: &mut JournalStart,
) {
    for sink in sinks {
        let folder = data.path().join(CURSORS_FOLDER);
        // A cursor that cannot be read is the sink's to report.
        let file = CursorFile::new(folder, &sink.name, shard);
        let cursor = match sink.kind {
            SinkKind::File => file.load(&mut RealDisk).map(|saved| Some(saved?.cursor)),
            SinkKind::Penstock => file
                .load_as(&mut RealDisk, SavedForward::from_text)
                .map(|saved| Some(saved?.cursor)),
        };
        let Ok(Some(cursor)) = cursor else {
            continue;
        };
        if cursor.position > start.position {
            tracing::error!(
                shard,
                sink = %sink.name,
                journal_ends = start.position,
                delivered_until = cursor.position,
                "the journal has lost what this sink has delivered; it goes on behind that",
            );
            start.position = cursor.position;
            start.records = start.records.max(cursor.records);
        }
    }
}

/// A shard goes on remembering those of its producers that another one owns now, as far as there is
/// room: the newest snapshot of each journal is all that the next start reads of it, and this shard's
/// may be durable before the new owner's. (Nobody is judged by such a window; it expires.)
fn keep_own(part: &mut Memory, own: Memory, producers_max: usize) {
    for (producer, remembered) in own {
        if part.len() < producers_max || part.contains_key(&producer) {
            part.entry(producer).or_insert(remembered);
        }
    }
}

/// All memories as one, by owner.
fn deal(memories: &[Memory], shards: u16) -> Vec<Memory> {
    let mut parts: Vec<Memory> = (0..shards).map(|_| Memory::new()).collect();
    for memory in memories {
        let mut dealt: Vec<Memory> = (0..shards).map(|_| Memory::new()).collect();
        for (producer, remembered) in memory {
            dealt[usize::from(owner(*producer, shards))].insert(*producer, remembered.clone());
        }
        for (part, dealt) in parts.iter_mut().zip(dealt) {
            merge(part, dealt);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::journal::dedup::Remembered;
    use crate::sink::Cursor;
    use crate::sink::file::cursor::SavedCursor;

    /// What `sync = "never"` and a power loss leave: a sink that has more than the journal.
    #[test]
    fn a_journal_goes_on_behind_what_a_sink_has_delivered() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = DataFolder::open(folder.path()).expect("a data folder");
        let sinks = config::builtin().sinks;
        let cursors = folder.path().join(CURSORS_FOLDER);
        std::fs::create_dir(&cursors).expect("the cursors' folder");
        let cursor = Cursor {
            position: 40_960,
            records: 7,
        };
        let saved = SavedCursor {
            cursor,
            output: None,
        };
        CursorFile::new(cursors, &sinks[0].name, 0)
            .store(&mut RealDisk, &saved)
            .expect("a cursor");
        let inherited = recall(&data, &sinks, 2, 8, Duration::MAX, 0).expect("nothing is wrong");
        let starts = inherited.shards.iter();
        let starts: Vec<_> = starts.map(|(s, _)| (s.position, s.records)).collect();
        assert_eq!(starts, [(40_960, 7), (0, 0)]);
    }

    #[test]
    fn what_moved_away_stays_as_far_as_there_is_room_and_what_is_ones_own_goes_first() {
        let seen = |seen_unix_ns| Remembered {
            seen_unix_ns,
            ..Remembered::default()
        };
        let mut part = Memory::from([(1, seen(10)), (2, seen(20))]);
        let own = Memory::from([(1, seen(9)), (3, seen(30)), (4, seen(40))]);
        keep_own(&mut part, own, 3);
        // Dealt out, a window has been merged from all journals: it is not replaced by one of them.
        assert_eq!((&part[&1], &part[&2]), (&seen(10), &seen(20)));
        assert_eq!(part.len(), 3);
        assert!(part.contains_key(&3) || part.contains_key(&4));
    }
}
