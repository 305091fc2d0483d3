//! A forwarding sink's cursor: how far it has come in one shard's journal, and under which number.
//!
//! `DATA/cursors/upstream-s00.cursor`:
//! ```text
//! penstock-forward 1
//! producer 1234605616436508552
//! position 1052672
//! records 48231
//! entries 17
//! sequence 481
//! crc32c 1f0e44a2
//! ```
//! The first `entries` entries of the block at `position` are settled, and whatever is before it.
//! The entry behind them has this `sequence` of this `producer`, and each one after it the next.

use std::fmt::Write;

use crate::sink::Cursor;
use crate::sink::file::cursor::{with_checksum, without_checksum};

const VERSION_LINE: &str = "penstock-forward 1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedForward {
    pub producer: u64,
    /// A block's beginning.
    pub cursor: Cursor,
    /// Entries of that block that are settled.
    pub entries: u32,
    /// Of the first entry that is not.
    pub sequence: u64,
}

impl SavedForward {
    pub fn to_text(&self) -> String {
        let mut text = format!("{VERSION_LINE}\n");
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "producer {}\nposition {}\nrecords {}\nentries {}\nsequence {}\n",
            self.producer, self.cursor.position, self.cursor.records, self.entries, self.sequence
        );
        with_checksum(text)
    }

    pub fn from_text(text: &[u8]) -> Result<Self, &'static str> {
        let mut lines = without_checksum(text)?.lines();
        if lines.next() != Some(VERSION_LINE) {
            return Err("of another kind of sink, or another version");
        }
        let mut number = |name: &str| {
            let line = lines.next()?;
            line.strip_prefix(name)?
                .strip_prefix(' ')?
                .parse::<u64>()
                .ok()
        };
        let saved = Self {
            producer: number("producer").ok_or("no producer")?,
            cursor: Cursor {
                position: number("position").ok_or("no position")?,
                records: number("records").ok_or("no records")?,
            },
            entries: number("entries")
                .and_then(|entries| u32::try_from(entries).ok())
                .ok_or("no entries")?,
            sequence: number("sequence").ok_or("no sequence")?,
        };
        match saved.producer == 0 || saved.sequence == 0 {
            true => Err("nobody's"),
            false => Ok(saved),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_the_documented_one_and_no_changed_byte_is_believed() {
        let saved = SavedForward {
            producer: 0x1122_3344_5566_7788,
            cursor: Cursor {
                position: 1_052_672,
                records: 48_231,
            },
            entries: 17,
            sequence: 481,
        };
        let text = saved.to_text();
        let expected = "penstock-forward 1\nproducer 1234605616436508552\nposition 1052672\n\
            records 48231\nentries 17\nsequence 481\ncrc32c ";
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(SavedForward::from_text(text.as_bytes()), Ok(saved));
        for at in 0..text.len() - 10 {
            assert!(SavedForward::from_text(&text.as_bytes()[..at]).is_err());
            let mut damaged = text.clone().into_bytes();
            damaged[at] ^= 1;
            assert!(SavedForward::from_text(&damaged).is_err(), "byte {at}");
        }
    }
}
