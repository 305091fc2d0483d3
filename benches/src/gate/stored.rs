//! What is in the journal, frame by frame.

use std::path::Path;

use anyhow::Context;
use penstock::journal::reader::JournalReader;

/// Frames by priority, 0 (critical) to 3 (background).
pub fn by_priority(data: &Path) -> anyhow::Result<[u64; 4]> {
    let folder = data.join("journal").join("shard-00");
    let mut reader = JournalReader::open(&folder, 0).context("open the journal")?;
    let mut frames = [0; 4];
    while let Some(block) = reader.next_written(true).context("read the journal")? {
        for entry in block.entries() {
            let entry = entry.context("an entry of the journal")?;
            frames[usize::from(entry.header.priority)] += 1;
        }
    }
    Ok(frames)
}
