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
const DELIVERY_WAIT_NS: u64 = 1_000_000_000;
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

    /// Whether a frame may be taken now; its place in the rate is then used up.
    #[inline]
    pub fn admit(
        &mut self,
        slot: TenantSlot,
        frame_len: usize,
        load: &Load,
        now_ns: u64,
    ) -> Result<(), Wait> {
        self.pass_delivered(load.delivered);
        let at = usize::from(slot.0);
        let is_named = at > 0 && at < self.plan.rules().len();
        let slot = &mut self.slots[at];
        let rule = &self.plan.rules()[usize::from(slot.rule)];
        slot.last_ns = now_ns;
        slot.epochs.settle(load.delivered);
        if !slot.active {
            slot.active = true;
            self.weights += rule.weight;
        }
        let ask = Ask {
            rule,
            slot,
            is_named,
            len: frame_len as u64,
            weights: self.weights,
        };
        let (limit, until) = match ask.judge(load, now_ns) {
            Ok(()) => return Ok(()),
            Err(wait) => wait,
        };
        let ns = match until {
            Until::Refilled(ns) => ns,
            Until::Synced => {
                (2 * self.last_sync_ns).clamp(*SYNC_WAIT_NS.start(), *SYNC_WAIT_NS.end())
            }
            Until::Delivered => DELIVERY_WAIT_NS,
        };
        self.limited[usize::from(slot.rule)][limit as usize] += 1;
        Err(Wait { limit, ns })
    }

    /// A frame was taken: it is in flight, and in the journal.
    #[inline]
    pub fn on_taken(&mut self, slot: TenantSlot, ticket: Ticket, frame_len: usize) {
        let bytes = frame_len as u64;
        self.move_in_flight(slot.0, |in_flight| in_flight + bytes, bytes, true);
        let epochs = &mut self.slots[usize::from(slot.0)].epochs;
        epochs.add(ticket.0, self.epoch_len, bytes);
        if let Some(last) = self.unsettled.back_mut()
            && (last.ticket, last.slot) == (ticket, slot.0)
        {
            last.bytes += frame_len as u32;
            return;
        }
        self.unsettled.push_back(Unsettled {
            ticket,
            slot: slot.0,
            bytes: frame_len as u32,
        });
    }

    /// Whether one more frame's place can be kept in mind.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.unsettled.len() < WAITING_MAX
    }

    /// Tickets before `mark` may be acknowledged.
    pub fn on_settled(&mut self, mark: u64) {
        while let Some(front) = self.unsettled.front().filter(|front| front.ticket.0 < mark) {
            let (slot, bytes) = (front.slot, u64::from(front.bytes));
            self.unsettled.pop_front();
            self.move_in_flight(slot, |in_flight| in_flight - bytes, bytes, false);
        }
    }

    /// Nothing that is in flight will ever be in the journal.
    pub fn on_lost(&mut self) {
        while let Some(lost) = self.unsettled.pop_front() {
            let bytes = u64::from(lost.bytes);
            self.move_in_flight(lost.slot, |in_flight| in_flight - bytes, bytes, false);
            let epochs = &mut self.slots[usize::from(lost.slot)].epochs;
            epochs.remove(lost.ticket.0, self.epoch_len, bytes);
        }
    }

    /// A sync took this long.
    pub fn on_synced(&mut self, ns: u64) {
        self.last_sync_ns = ns;
    }

    /// Takes those out of the sum of weights that have nothing here and send nothing. About once a
    /// second.
    pub fn sweep(&mut self, delivered: u64, now_ns: u64) {
        self.pass_delivered(delivered);
        for slot in self.slots.iter_mut().filter(|slot| slot.active) {
            slot.epochs.settle(delivered);
            let is_idle = now_ns.saturating_sub(slot.last_ns) >= IDLE_NS;
            if is_idle && slot.in_flight == 0 && slot.epochs.sum() == 0 {
                slot.active = false;
                self.weights -= self.plan.rules()[usize::from(slot.rule)].weight;
            }
        }
    }

    /// By rule, which is by the metrics' `tenant`: frames that were told to wait, by limit.
    pub fn limited(&self) -> &[[u64; Limit::COUNT]] {
        &self.limited
    }

    /// Producers that found no place of their own.
    pub fn crowded(&self) -> u64 {
        self.crowded
    }

    /// The parts of the journal that are wholly delivered are nobody's.
    #[inline]
    fn pass_delivered(&mut self, delivered: u64) {
        let delivered = delivered.max(self.delivered);
        let (from, to) = (self.delivered / self.epoch_len, delivered / self.epoch_len);
        self.delivered = delivered;
        // Round the ring once is all there is.
        for epoch in from.max(to.saturating_sub(2 * EPOCHS as u64))..to {
            for slot in &mut self.slots {
                slot.epochs.pass(epoch);
            }
        }
    }

    fn move_in_flight(&mut self, at: u16, moved: impl Fn(u64) -> u64, bytes: u64, is_more: bool) {
        let slot = &mut self.slots[usize::from(at)];
        slot.in_flight = moved(slot.in_flight);
        let rule = &self.plan.rules()[usize::from(slot.rule)];
        // Relaxed: a number that limits, and guards nothing.
        match is_more {
            true => rule.in_flight.fetch_add(bytes, Ordering::Relaxed),
            false => rule.in_flight.fetch_sub(bytes, Ordering::Relaxed),
        };
    }
}

impl Slot {
    /// A producer that came back would find what a new one finds.
    fn is_blank(&self, now_ns: u64) -> bool {
        self.in_flight == 0 && self.epochs.sum() == 0 && self.bucket.is_full(now_ns)
    }
}

/// Until when a tenant waits.
enum Until {
    Refilled(u64),
    Synced,
    Delivered,
}

/// One frame's question.
struct Ask<'a> {
    rule: &'a Rule,
    slot: &'a Slot,
    is_named: bool,
    len: u64,
    weights: u64,
}

impl Ask<'_> {
    /// The rate last: a frame that waits for another reason does not use it up. Who has nothing in
    /// flight, or in the journal, may have one frame there, however long it is.
    #[inline]
    fn judge(&self, load: &Load, now_ns: u64) -> Result<(), (Limit, Until)> {
        let (rule, slot) = (self.rule, self.slot);
        let exceeds = |has: u64, may: u64| has > 0 && has + self.len > may;
        if let Some(may) = rule.in_flight_max {
            let has = match self.is_named {
                true => rule.in_flight.load(Ordering::Relaxed),
                false => slot.in_flight,
            };
            if exceeds(has, may) {
                return Err((Limit::BytesInFlight, Until::Synced));
            }
        }
        let stored = slot.epochs.sum();
        if let Some(percent) = rule.journal_percent
            && exceeds(stored, load.room_bytes * percent / 100)
        {
            return Err((Limit::JournalShare, Until::Delivered));
        }
        if share::journal_is_short(load.undelivered_bytes, load.room_bytes)
            && exceeds(
                stored,
                share::of_journal(load.room_bytes, rule.weight, self.weights),
            )
        {
            return Err((Limit::Weight, Until::Delivered));
        }
        if share::memory_is_short(load.unsynced_bytes, load.memory_bytes)
            && exceeds(
                slot.in_flight,
                share::of_memory(load.memory_bytes, rule.weight, self.weights),
            )
        {
            return Err((Limit::Weight, Until::Synced));
        }
        if let Some(pace) = rule.pace {
            let bucket = match self.is_named {
                true => &rule.bucket,
                false => &slot.bucket,
            };
            bucket
                .take(pace, now_ns)
                .map_err(|ns| (Limit::Rate, Until::Refilled(ns)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
