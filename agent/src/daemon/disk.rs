//! Room on the disk: looked at a few times a second, for `journal.min_free`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::data::disk_space;
use crate::config::settings::MinFree;

/// What was found last; read by the metrics.
#[derive(Debug, Default)]
pub struct DiskSpace {
    pub free: AtomicU64,
    pub min_free: AtomicU64,
}

/// Says whether the disk is below `min_free`.
///
/// At 1 GB/s a quarter of a second between two looks is a quarter of a gigabyte, and nothing is lost
/// by it: what is acknowledged goes into segments whose room was allocated when they were made,
/// and a full disk fails the making of one (`disk_full`), which is asked for half a segment ahead
/// and answered by "try later". So `min_free` may be passed by what is made between two looks: one
/// segment for each shard, as a shard makes one at a time and only when the last is half full.
pub struct DiskWatch {
    min_free: MinFree,
    /// How much above `min_free` is enough again: what the shards' next segments take. With less, the
    /// first of them would bring the disk below it once more.
    margin: u64,
    low: Arc<AtomicBool>,
    space: Arc<DiskSpace>,
    failed: AtomicBool,
}

impl DiskWatch {
    pub fn new(min_free: MinFree, margin: u64) -> Self {
        Self {
            min_free,
            margin,
            low: Arc::default(),
            space: Arc::default(),
            failed: AtomicBool::new(false),
        }
    }

    /// Holds from the next look on.
    pub fn set_min_free(&mut self, min_free: MinFree) {
        self.min_free = min_free;
    }

    /// Set while the disk is below `min_free`.
    pub fn low(&self) -> &Arc<AtomicBool> {
        &self.low
    }

    pub fn space(&self) -> Arc<DiskSpace> {
        Arc::clone(&self.space)
    }

    pub fn look(&self, path: &Path) {
        match disk_space(path) {
            Ok((free, total)) => {
                self.failed.store(false, Ordering::Relaxed);
                self.note(free, total);
            }
            // What was known last holds. Where the folder is gone, making a segment fails too.
            Err(error) => {
                if !self.failed.swap(true, Ordering::Relaxed) {
                    let path = path.display();
                    tracing::error!(%path, "cannot look at the disk's free space: {error}");
                }
            }
        }
    }

    fn note(&self, free: u64, total: u64) {
        let wanted = match self.min_free {
            MinFree::Bytes(bytes) => bytes,
            MinFree::Percent(percent) => (total as f64 * percent / 100.0) as u64,
        };
        self.space.free.store(free, Ordering::Relaxed);
        self.space.min_free.store(wanted, Ordering::Relaxed);
        let was_low = self.low.load(Ordering::Relaxed);
        let low = match was_low {
            false => free < wanted,
            // Where the disk is not larger than both, all of it must do.
            true => free < wanted.saturating_add(self.margin).min(total),
        };
        self.low.store(low, Ordering::Relaxed);
        match (was_low, low) {
            (false, true) => tracing::error!(
                free,
                wanted,
                "below journal.min_free: once the journal's segments are full, senders are told to \
                 try later until there is room",
            ),
            (true, false) => tracing::info!(free, wanted, "above journal.min_free again"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_low_below_min_free_until_there_is_room_for_the_next_segments() {
        let watch = DiskWatch::new(MinFree::Percent(10.0), 50);
        let mut low = Vec::new();
        for free in [101, 100, 99, 100, 149, 150, 149, 100, 99] {
            watch.note(free, 1000);
            low.push(watch.low().load(Ordering::Relaxed));
        }
        assert_eq!(
            low,
            [false, false, true, true, true, false, false, false, true]
        );
        assert_eq!(watch.space().free.load(Ordering::Relaxed), 99);
        assert_eq!(watch.space().min_free.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn a_disk_smaller_than_the_margin_is_not_low_for_ever() {
        let watch = DiskWatch::new(MinFree::Bytes(900), 500);
        watch.note(100, 1000);
        assert!(watch.low().load(Ordering::Relaxed));
        watch.note(1000, 1000);
        assert!(!watch.low().load(Ordering::Relaxed));
    }

    #[test]
    fn what_cannot_be_looked_at_changes_nothing() {
        let watch = DiskWatch::new(MinFree::Bytes(10), 0);
        watch.note(5, 100);
        watch.look(Path::new("/nonexistent/folder"));
        assert!(watch.low().load(Ordering::Relaxed));
    }
}
