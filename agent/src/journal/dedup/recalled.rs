//! What a shard begins with, and when the journals that it came from may go.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::table::Windows;

/// What is recalled of a shard's producers at its start.
pub struct Recalled {
    pub windows: Windows,
    /// The shard's own segments from this number on hold it; earlier ones are not needed for it.
    pub held_in: u64,
    /// Where journals of several shards hold it, as there were more or fewer of them before: it is
    /// written down at once, and no segment goes before all have done so.
    pub barrier: Option<Arc<StartBarrier>>,
}

impl Recalled {
    /// Nobody is recalled.
    pub fn nobody(producers_max: usize, expiry: Duration) -> Self {
        Self {
            windows: Windows::new(producers_max, expiry),
            held_in: u64::MAX,
            barrier: None,
        }
    }
}

/// Counts the shards whose part is not durable in their own journal yet.
#[derive(Debug)]
pub struct StartBarrier {
    owing: AtomicUsize,
}

impl StartBarrier {
    pub fn new(shards: usize) -> Self {
        Self {
            owing: AtomicUsize::new(shards),
        }
    }

    /// A shard's part is durable; said once by each.
    pub fn arrive(&self) {
        let before = self.owing.fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "each shard arrives once");
    }

    pub fn is_passed(&self) -> bool {
        self.owing.load(Ordering::Acquire) == 0
    }
}
