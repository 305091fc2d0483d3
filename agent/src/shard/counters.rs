//! What a shard counts: plain numbers that only its thread touches, published per wake-up.

use agent_common::connection::ConnectionVerdict;
use agent_common::verdict::Verdict;
use penstock_proto::encoding::Encoding;
use penstock_proto::reason::Reason;
use penstock_proto::wire::AckStatus;

use crate::shard::tenant::{Limit, TenantPlan};

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer closed its side, at a frame's end.
    End,
    /// The peer closed in the middle of a frame.
    EndInFrame,
    /// The kernel reported an error (reset, timed out).
    PeerError,
    /// Bytes that are no frame: the next frame's start is unknown.
    FramingLost,
    /// The peer does not read its acknowledgements.
    AcksNotRead,
    /// No memory left for frames cut in two by a buffer's end.
    CarryExhausted,
    /// No connection slot was free.
    TooManyConnections,
    /// The agent is stopping.
    Stopping,
    /// The shard that owns its producer had no place for it.
    HandoverFull,
    /// Its address is denied (only where the gate is not in the kernel, which lets none come so far).
    Denied,
    /// Its source opens connections too fast (as above).
    RateLimited,
    /// Its source has as many connections as it may have.
    TooManyFromSource,
    /// A reload took its listener away.
    ListenerRemoved,
}

impl CloseReason {
    pub const ALL: [Self; 13] = [
        Self::End,
        Self::EndInFrame,
        Self::PeerError,
        Self::FramingLost,
        Self::AcksNotRead,
        Self::CarryExhausted,
        Self::TooManyConnections,
        Self::Stopping,
        Self::HandoverFull,
        Self::Denied,
        Self::RateLimited,
        Self::TooManyFromSource,
        Self::ListenerRemoved,
    ];
    pub const COUNT: usize = Self::ALL.len();

    pub const fn label(self) -> &'static str {
        match self {
            Self::End => "end",
            Self::EndInFrame => "end_in_frame",
            Self::PeerError => "peer_error",
            Self::FramingLost => "framing_lost",
            Self::AcksNotRead => "acks_not_read",
            Self::CarryExhausted => "carry_exhausted",
            Self::TooManyConnections => "too_many_connections",
            Self::Stopping => "stopping",
            Self::HandoverFull => "handover_full",
            Self::Denied => "denied",
            Self::RateLimited => "rate_limited",
            Self::TooManyFromSource => "too_many_from_source",
            Self::ListenerRemoved => "listener_removed",
        }
    }
}

/// Why records that were accepted never became durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostReason {
    WriteFailed,
    SyncFailed,
}

impl LostReason {
    pub const ALL: [Self; 2] = [Self::WriteFailed, Self::SyncFailed];
    pub const COUNT: usize = Self::ALL.len();

    pub const fn label(self) -> &'static str {
        match self {
            Self::WriteFailed => "write_failed",
            Self::SyncFailed => "sync_failed",
        }
    }
}

/// Why a journal takes nothing now: the label of `penstock_journal_refusing_shards{cause}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its segments take `journal.max_size`, and a sink has not got what the oldest holds.
    MaxSize,
    /// The disk has less than `journal.min_free` left.
    MinFree,
    /// The disk said that it is full (ENOSPC, EDQUOT), or that a file may not get that long (EFBIG).
    DiskFull,
    /// A segment cannot be made for another reason: a read-only file system, a missing folder.
    Failed,
}

impl Refusal {
    pub const ALL: [Self; 4] = [Self::MaxSize, Self::MinFree, Self::DiskFull, Self::Failed];
    pub const COUNT: usize = Self::ALL.len();

    pub const fn label(self) -> &'static str {
        match self {
            Self::MaxSize => "max_size",
            Self::MinFree => "min_free",
            Self::DiskFull => "disk_full",
            Self::Failed => "failed",
        }
    }

    /// What a failed call on a segment comes to.
    pub const fn of(errno: i32) -> Self {
        match errno {
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => Self::DiskFull,
            _ => Self::Failed,
        }
    }
}

/// A call on a segment that can fail: the label of `penstock_journal_segment_errors_total{call}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentCall {
    Create,
    Allocate,
    SyncName,
    Remove,
}

impl SegmentCall {
    pub const ALL: [Self; 4] = [Self::Create, Self::Allocate, Self::SyncName, Self::Remove];
    pub const COUNT: usize = Self::ALL.len();

    pub const fn label(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Allocate => "allocate",
            Self::SyncName => "sync_name",
            Self::Remove => "remove",
        }
    }

    /// For the log, before "a segment".
    pub const fn words(self) -> &'static str {
        match self {
            Self::SyncName => "sync the name of",
            _ => self.label(),
        }
    }
}

/// Counts of one listener on one shard. All rise only, but for `connections`.
#[derive(Clone, Debug)]
pub struct ListenerCounters {
    /// Verdicts of the user-space stand-in; all 0 where the gate is in the kernel.
    pub gate_datagrams: [u64; Verdict::COUNT],
    /// Bundles that the stand-in charged late (`GateCounts::contended_bundles`).
    pub gate_contended_bundles: u64,
    pub received_datagrams: u64,
    pub received_bytes: u64,
    pub received_frames: u64,
    pub accepted_frames: [u64; Encoding::COUNT],
    pub accepted_records: [u64; Encoding::COUNT],
    pub refused_frames: [u64; Reason::COUNT],
    pub sequence_gap_frames: u64,
    /// Fields of accepted records that have no place in a record and are not stored.
    pub unmapped_fields: u64,
    /// What the user-space stand-in said of new connections; all 0 where the gate is in the kernel.
    pub gate_connections: [u64; ConnectionVerdict::COUNT],
    /// Open now.
    pub connections: u64,
    pub connections_closed: [u64; CloseReason::COUNT],
}

impl Default for ListenerCounters {
    fn default() -> Self {
        // Arrays have a `Default` of their own only up to 32 elements.
        Self {
            gate_datagrams: [0; Verdict::COUNT],
            gate_contended_bundles: 0,
            received_datagrams: 0,
            received_bytes: 0,
            received_frames: 0,
            accepted_frames: [0; Encoding::COUNT],
            accepted_records: [0; Encoding::COUNT],
            refused_frames: [0; Reason::COUNT],
            sequence_gap_frames: 0,
            unmapped_fields: 0,
            gate_connections: [0; ConnectionVerdict::COUNT],
            connections: 0,
            connections_closed: [0; CloseReason::COUNT],
        }
    }
}

/// Counts of one shard.
#[derive(Clone, Debug, Default)]
pub struct ShardCounters {
    /// By `ListenerId`.
    pub listeners: Vec<ListenerCounters>,
    /// Times a receive ended because all buffers of its pool were out.
    pub receive_pool_exhausted: u64,
    /// Nanoseconds not spent waiting.
    pub busy_ns: u64,
    /// Records in blocks that became durable.
    pub journal_appended_records: u64,
    pub journal_lost_records: [u64; LostReason::COUNT],
    pub journal_segment_errors: [u64; SegmentCall::COUNT],
    /// Preallocated bytes of the segments that exist now.
    pub journal_bytes: u64,
    pub acks: [u64; AckStatus::COUNT],
    pub tenants: TenantCounters,
}

/// What the tenants of one shard were told; empty where there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantCounters {
    /// By tenant, the default one first: new frames that were told to come later, by limit.
    pub limited: Vec<[u64; Limit::COUNT]>,
    /// Producers that found no place of their own among those that are told apart.
    pub crowded: u64,
}

impl TenantCounters {
    pub fn new(plan: Option<&TenantPlan>) -> Self {
        let tenants = plan.map_or(0, |plan| plan.rules().len());
        Self {
            limited: vec![[0; Limit::COUNT]; tenants],
            crowded: 0,
        }
    }
}
