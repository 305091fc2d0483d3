//! What comes over TCP, limited by whose it is: frames a second, bytes in flight, a share of the
//! journal; and, where the journal is short of room, fair by weights.
//!
//! A frame beyond a limit is answered "try later", with how long, and its connection is not read for
//! as long: its producer is slowed down and not starved. A producer has one owner shard, so what is
//! kept of a producer is kept by one thread. A named tenant's producers may be on several shards: its
//! rate and its bytes in flight are two words that the shards share, touched for frames of limited
//! tenants only; its share and its weight hold on each shard by itself, as each has a journal of its
//! own.
//!
//! Nothing here allocates after the start.

mod bucket;
mod plan;
mod share;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use penstock_proto::reason::Reason;

use self::bucket::Bucket;
use self::share::{EPOCHS, Epochs};
use crate::journal::writer::{Load, Ticket};
use crate::limits::TENANT_SLOTS;
use crate::shard::settle::WAITING_MAX;

pub use self::bucket::RATE_MAX;
pub use self::plan::{DEFAULT, Rule, TenantPlan};

/// Which of its limits a tenant has reached: the label of
/// `penstock_tenant_limited_frames_total{tenant,limit}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Rate,
    BytesInFlight,
    JournalShare,
    /// More than its weight gives it, while the journal is short of room.
    Weight,
}

impl Limit {
    pub const ALL: [Self; 4] = [
        Self::Rate,
        Self::BytesInFlight,
        Self::JournalShare,
        Self::Weight,
    ];
    pub const COUNT: usize = Self::ALL.len();

    pub const fn label(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::BytesInFlight => "bytes_in_flight",
            Self::JournalShare => "journal_share",
            Self::Weight => "weight",
        }
    }

    pub const fn reason(self) -> Reason {
        match self {
            Self::Rate => Reason::RateLimited,
            Self::BytesInFlight | Self::JournalShare | Self::Weight => Reason::TenantShare,
        }
    }
}

/// A frame that is to come again later, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    pub limit: Limit,
    pub ns: u64,
}

/// Where a connection's producer is accounted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantSlot(u16);

/// What waits for a sink to deliver it comes back in seconds, not in milliseconds.
const SINK_WAIT_NS: u64 = 1_000_000_000;
/// What waits for a sync comes back when the next two are over, by what the last one took.
const SYNC_WAIT_NS: std::ops::RangeInclusive<u64> = 2_000_000..=1_000_000_000;
/// Who has nothing in the journal and has sent nothing for this long has no part in the sum of
/// weights.
const IDLE_NS: u64 = 10_000_000_000;

/// A producer of the default tenant, or what a named tenant has on this shard.
#[derive(Debug, Default)]
struct Slot {
    rule: u16,
    /// The journal's part that is its own: it counts in the sum of weights.
    active: bool,
    connections: u32,
    last_ns: u64,
    /// Of a producer of the default tenant; a named tenant's stands in its rule.
    bucket: Bucket,
    /// Taken on this shard and not yet acknowledged.
    in_flight: u64,
    /// Taken on this shard and not yet delivered.
    epochs: Epochs,
}

/// Frames of one slot in one block.
#[derive(Clone, Copy, Debug)]
struct Unsettled {
    ticket: Ticket,
    slot: u16,
    bytes: u32,
}

/// The tenants of one shard.
#[derive(Debug)]
pub struct Tenants {
    plan: Arc<TenantPlan>,
    /// One for each rule (that of the default tenant is for nobody's frames, and for producers that
    /// found no free one), then those of single producers.
    slots: Vec<Slot>,
    /// Whose a slot is, beside the slots, so that one is found by reading 64 KiB; 0 is free.
    producers: Vec<u64>,
    /// In the order of their tickets.
    unsettled: VecDeque<Unsettled>,
    /// The sum of the active slots' weights.
    weights: u64,
    epoch_len: u64,
    /// Everything before it is delivered.
    delivered: u64,
    last_sync_ns: u64,
    limited: Vec<[u64; Limit::COUNT]>,
    crowded: u64,
}

impl Tenants {
    /// For a shard whose journal may take `size_max` bytes and goes on at `position`.
    pub fn new(plan: Arc<TenantPlan>, size_max: u64, position: u64) -> Self {
        let rules = plan.rules().len();
        let slots = (0..rules + TENANT_SLOTS).map(|at| Slot {
            rule: if at < rules { at as u16 } else { 0 },
            ..Slot::default()
        });
        Self {
            slots: slots.collect(),
            producers: vec![0; TENANT_SLOTS],
            unsettled: VecDeque::with_capacity(WAITING_MAX),
            weights: 0,
            epoch_len: (size_max / EPOCHS as u64).max(1),
            delivered: position,
            last_sync_ns: 0,
            limited: vec![[0; Limit::COUNT]; rules],
            crowded: 0,
            plan,
        }
    }

    /// A connection's first frame says whose it is.
    pub fn attach(
        &mut self,
        producer: u64,
        address: Option<SocketAddr>,
        now_ns: u64,
    ) -> TenantSlot {
        let rule = self.plan.rule_of(producer, address);
        let at = match rule {
            0 if producer != 0 => self.own_slot(producer, now_ns),
            rule => usize::from(rule),
        };
        self.slots[at].connections += 1;
        TenantSlot(at as u16)
    }

    /// The connection is gone. What its producer has used up stays known until it is worth nothing.
    pub fn detach(&mut self, slot: TenantSlot) {
        self.slots[usize::from(slot.0)].connections -= 1;
    }

    /// The producer's own slot: the one it has, a free one, or one that nobody misses. Where there is
    /// none it shares that of all who found none, so that inventing ids buys nothing.
    fn own_slot(&mut self, producer: u64, now_ns: u64) -> usize {
        let rules = self.plan.rules().len();
        let known = self.producers.iter().position(|id| *id == producer);
        if let Some(at) = known {
            return rules + at;
        }
        let free = self.producers.iter().position(|id| *id == 0);
        let at = free.or_else(|| {
            let mut slots = self.slots[rules..].iter();
            slots.position(|slot| slot.connections == 0 && slot.is_blank(now_ns))
        });
        let Some(at) = at else {
            self.crowded += 1;
            return 0;
        };
        self.producers[at] = producer;
        let slot = &mut self.slots[rules + at];
        slot.bucket.reset();
        debug_assert_eq!((slot.in_flight, slot.epochs.sum()), (0, 0));
        rules + at
    }

    /// Whether a frame may be taken now. It is charged for.
    #[inline]
    pub fn admit(
        &mut self,
        slot: TenantSlot,
        frame_len: usize,
        load: &Load,
        now_ns: u64,
    ) -> Result<(), Wait> {
        let at = usize::from(slot.0);
        self.deliver(load.delivered);
        let rule_index = usize::from(self.slots[at].rule);
        let rule = &self.plan.rules()[rule_index];
        let slot = &mut self.slots[at];
        slot.last_ns = now_ns;
        if !slot.active {
            slot.active = true;
            self.weights += rule.weight;
        }
        let judged = judge(
            rule,
            slot,
            at < self.plan.rules().len() && at > 0,
            frame_len as u64,
            load,
            self.weights,
            now_ns,
        );
        judged.map_err(|limit| {
            self.limited[rule_index][limit.0 as usize] += 1;
            let ns = match limit {
                (Limit::Rate, ns) => ns,
                (_, SINK_WAIT_NS) => SINK_WAIT_NS,
                _ => (2 * self.last_sync_ns).clamp(*SYNC_WAIT_NS.start(), *SYNC_WAIT_NS.end()),
            };
            Wait { limit: limit.0, ns }
        })
    }
}
