//! What the worker hands the writer, and what it is told.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use penstock_proto::reason::Reason;

use crate::config::settings::OnFull;
use crate::config::settings::SyncMode;
use crate::journal::dedup::Recalled;
use crate::journal::feed::{FeedSender, JournalMarks};
use crate::shard::counters::LostReason;

/// Where a journal begins after recovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalStart {
    /// The number of the first segment to be created.
    pub segment: u64,
    /// Its base: where the valid part of what is there already ends.
    pub position: u64,
    pub records: u64,
    /// What is there already, oldest first.
    pub existing: Vec<ExistingSegment>,
}

/// A segment that an earlier life has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExistingSegment {
    pub number: u64,
    /// The position behind its last valid block.
    pub end: u64,
    /// The file's size.
    pub bytes: u64,
}

/// What a writer needs to know.
pub struct JournalPlan {
    pub commit_interval: Duration,
    /// A block that holds this many bytes is sealed at once; one that is full always is.
    pub commit_size: usize,
    pub sync: SyncMode,
    /// The longest time between a write and its sync, where `sync` is `Interval`.
    pub sync_interval: Duration,
    /// Bytes of blocks in a segment; a multiple of 4096, at least one block.
    pub segment_len: u64,
    /// Bytes that the shard's segments may take together.
    pub size_max: u64,
    pub start: JournalStart,
    /// A random number of this life, from which the salts of its segments come.
    pub salt_seed: u64,
    pub recalled: Recalled,
    /// One per sink.
    pub feeds: Vec<FeedSender>,
    pub marks: Arc<JournalMarks>,
    /// The file system is below `min_free`: no segment is created while this is set.
    pub disk_low: Arc<AtomicBool>,
    pub on_full: OnFull,
}

/// A ticket for one appended frame: it is durable once the durable mark lies beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Whether a frame can be appended now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Yes,
    /// Not before a write completes or the next segment is ready: keep what has arrived.
    Wait,
    /// Not before a sink, the limit or the disk gives way: refuse what has arrived.
    Refused(Reason),
}

/// What a completion settled, for the worker to act on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The durable mark moved: every ticket before it is durable.
    pub durable: bool,
    /// The written mark moved, which is what is acknowledged where `sync` is not `Always`.
    pub written: bool,
    /// Age of the oldest block that became durable, counted from its first entry.
    pub oldest_ns: Option<u64>,
    /// How long the sync took.
    pub sync_ns: Option<u64>,
    /// The segment was poisoned: every ticket that is not durable is lost, with its records.
    pub lost: Option<(LostReason, u64)>,
}
