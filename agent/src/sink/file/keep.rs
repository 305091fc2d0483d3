//! Which sealed files are to go: `keep = { size, age }`.

use std::time::{Duration, SystemTime};

use crate::sink::file::disk::Listed;
use crate::sink::file::name::Owner;

/// The bounds of one sink's sealed files, all its shards together.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    pub size: u64,
    pub age: Duration,
}

impl Keep {
    /// The files to remove, oldest first: those beyond the age, and then as many as it takes to get
    /// down to the size. Never a file that is being written, nor one that is not this sink's.
    pub fn excess<'a>(&self, files: &'a [Listed], sink: &str, now: SystemTime) -> Vec<&'a str> {
        let mut sealed: Vec<&Listed> = files
            .iter()
            .filter(|file| {
                Owner::of(&file.name).is_some_and(|owner| owner.sink == sink && !owner.open)
            })
            .collect();
        // Names begin with the time.
        sealed.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut total: u64 = sealed.iter().map(|file| file.len).sum();
        let mut excess = Vec::new();
        for file in sealed {
            // A file from the future is not old.
            let age = now.duration_since(file.modified).unwrap_or_default();
            if age > self.age || total > self.size {
                total -= file.len;
                excess.push(file.name.as_str());
            }
        }
        excess
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str, len: u64, age_s: u64, now: SystemTime) -> Listed {
        Listed {
            name: name.to_owned(),
            len,
            modified: now - Duration::from_secs(age_s),
        }
    }

    const OLD: &str = "20261118T000000.000000000Z-files-s01.avro";
    const MIDDLE: &str = "20261119T000000.000000000Z-files-s00.avro";
    const NEW: &str = "20261120T000000.000000000Z-files-s01.avro";
    const OPEN: &str = "20261101T000000.000000000Z-files-s00.avro.open";
    const OTHER: &str = "20261101T000000.000000000Z-audit-s00.avro";
    const FOREIGN: &str = "notes.txt";

    fn folder(now: SystemTime) -> Vec<Listed> {
        vec![
            listed(NEW, 100, 10, now),
            listed(OPEN, 1000, 900, now),
            listed(OLD, 100, 30, now),
            listed(OTHER, 1000, 900, now),
            listed(MIDDLE, 100, 20, now),
            listed(FOREIGN, 1000, 900, now),
        ]
    }

    #[test]
    fn size_removes_the_oldest_and_only_this_sinks_sealed_files() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let files = folder(now);
        let age = Duration::from_secs(100);
        let excess = |size| Keep { size, age }.excess(&files, "files", now);
        assert_eq!(excess(300), Vec::<&str>::new());
        assert_eq!(excess(299), [OLD]);
        assert_eq!(excess(200), [OLD]);
        assert_eq!(excess(100), [OLD, MIDDLE]);
        assert_eq!(excess(0), [OLD, MIDDLE, NEW]);
    }

    #[test]
    fn age_removes_what_was_last_written_before_it() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let files = folder(now);
        let excess = |age_s| {
            let keep = Keep {
                size: u64::MAX,
                age: Duration::from_secs(age_s),
            };
            keep.excess(&files, "files", now)
        };
        assert_eq!(excess(30), Vec::<&str>::new());
        assert_eq!(excess(29), [OLD]);
        assert_eq!(excess(15), [OLD, MIDDLE]);
        assert_eq!(excess(0), [OLD, MIDDLE, NEW]);
    }
}
