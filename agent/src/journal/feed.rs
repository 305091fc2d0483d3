//! From the writer to the sinks: durable blocks while they are still in memory, and marks that say
//! how far the journal is durable and how far each sink has committed.
//!
//! The writer offers each durable block to every sink without waiting. A sink that is behind gets
//! no blocks; it sees the gap, or that the durable mark has moved, and reads segments from disk
//! until it has caught up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::shard::buffer::SharedBlock;
use crate::shard::counters::Refusal;

/// Marks of one shard's journal, shared by its writer, its sinks and the control thread.
#[derive(Debug, Default)]
pub struct JournalMarks {
    /// Position up to which everything is durable: sinks see nothing beyond it.
    durable: AtomicU64,
    /// Records before `durable`, since the journal's first segment.
    durable_records: AtomicU64,
    /// Frames are taken: the writer has a place for them on disk.
    writable: AtomicBool,
    /// Why nothing is taken: 1 + the index of a `Refusal`; 0 where it is.
    refusal: AtomicU8,
    /// Everything before it was given up to make room (`journal.on_full = "drop_oldest"`), whether
    /// sinks had it or not.
    dropped_until: AtomicU64,
    /// The writer is gone: `durable` will not move again.
    closed: AtomicBool,
}

impl JournalMarks {
    pub fn new(durable: u64, durable_records: u64) -> Self {
        Self {
            durable: AtomicU64::new(durable),
            durable_records: AtomicU64::new(durable_records),
            writable: AtomicBool::new(false),
            refusal: AtomicU8::new(0),
            dropped_until: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub fn durable_records(&self) -> u64 {
        self.durable_records.load(Ordering::Acquire)
    }

    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    pub fn set_writable(&self, writable: bool) {
        self.writable.store(writable, Ordering::Relaxed);
    }

    /// Why nothing is taken now; `None` where it is, or will be in a moment.
    pub fn refusal(&self) -> Option<Refusal> {
        let stored = usize::from(self.refusal.load(Ordering::Relaxed));
        Refusal::ALL.get(stored.checked_sub(1)?).copied()
    }

    pub fn set_refusal(&self, refusal: Option<Refusal>) {
        let stored = refusal.map_or(0, |refusal| 1 + refusal as u8);
        self.refusal.store(stored, Ordering::Relaxed);
    }

    /// Set before the segment is removed: a sink that finds it missing knows why.
    pub fn drop_until(&self, position: u64) {
        self.dropped_until.fetch_max(position, Ordering::Release);
    }

    pub fn dropped_until(&self) -> u64 {
        self.dropped_until.load(Ordering::Acquire)
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub fn advance(&self, durable: u64, durable_records: u64) {
        // Records first: whoever sees the position sees at least the records before it.
        self.durable_records
            .store(durable_records, Ordering::Release);
        self.durable.store(durable, Ordering::Release);
    }

    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}

/// How far one sink has committed one shard's journal.
#[derive(Debug, Default)]
pub struct SinkMark {
    committed: AtomicU64,
    committed_records: AtomicU64,
}

impl SinkMark {
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Records before `committed`, since the journal's first segment.
    pub fn committed_records(&self) -> u64 {
        self.committed_records.load(Ordering::Acquire)
    }

    pub fn commit(&self, position: u64, records: u64) {
        self.committed_records.store(records, Ordering::Release);
        self.committed.store(position, Ordering::Release);
    }
}

/// The writer's end for one sink.
pub struct FeedSender {
    blocks: SyncSender<SharedBlock>,
    pub mark: Arc<SinkMark>,
}

/// The sink's end.
pub struct FeedReceiver {
    blocks: Receiver<SharedBlock>,
    pub marks: Arc<JournalMarks>,
    pub mark: Arc<SinkMark>,
}

/// What a sink finds when it asks for work.
pub enum Fed {
    /// A durable block from memory. It may lie beyond what the sink needs next (then the gap is on
    /// disk) or before it (then it is to be dropped).
    Block(SharedBlock),
    /// Nothing came within the wait; the durable mark may have moved all the same.
    Nothing,
    /// The writer is gone and no block is left.
    Closed,
}

/// A feed for one sink of one shard, holding at most `blocks_max` blocks.
pub fn feed(marks: &Arc<JournalMarks>, blocks_max: usize) -> (FeedSender, FeedReceiver) {
    let (sender, receiver) = sync_channel(blocks_max);
    let mark = Arc::new(SinkMark::default());
    (
        FeedSender {
            blocks: sender,
            mark: Arc::clone(&mark),
        },
        FeedReceiver {
            blocks: receiver,
            marks: Arc::clone(marks),
            mark,
        },
    )
}

impl FeedSender {
    /// Offers a block; `false` where the sink has enough, or is gone.
    pub fn offer(&self, block: SharedBlock) -> bool {
        match self.blocks.try_send(block) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

impl FeedReceiver {
    pub fn wait(&self, timeout: Duration) -> Fed {
        match self.blocks.recv_timeout(timeout) {
            Ok(block) => Fed::Block(block),
            Err(RecvTimeoutError::Timeout) => Fed::Nothing,
            Err(RecvTimeoutError::Disconnected) => Fed::Closed,
        }
    }
}
