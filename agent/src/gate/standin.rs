//! The gate in user space, for hosts without eBPF: the same judge as in the socket filter, over plain
//! memory, applied to a bundle that has already been received.
//!
//! Limits are the host's, not a shard's: all shards share what is remembered of sources, as words
//! that they change without a lock. Of the rules each shard holds a reference, and looks with one
//! load whether they are still the ones in force.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use agent_common::bucket::TICKS_PER_NS;
use agent_common::bundle::{BundleShape, Packet};
use agent_common::judge::{self, Outcome};
use agent_common::keep::{Keep, PRIORITIES};
use agent_common::layout::{LISTENERS_MAX, ListEntry, Policy, PrefixKey, SocketSlot, tick_index};
use agent_common::limit::{Limit, SourceState, Sources, StateWords};
use agent_common::source::Source;
use agent_common::verdict::Verdict;

use super::keep::KeepHandle;
use super::prefix_table::PrefixTable;
use super::rules::Rules;
use super::source_table::{SourceTable, Words};
use super::standin_observe::Observer;

/// One shard's way to the rules that all share.
pub struct StandIn {
    shared: Arc<Shared>,
    /// In force when `generation` was read.
    tables: Arc<Tables>,
    generation: u64,
}

struct Shared {
    /// Counts what `tables` was set to.
    generation: AtomicU64,
    tables: Mutex<Arc<Tables>>,
    /// Made with the first limit.
    sources: OnceLock<SourceTable>,
    newcomers: Words,
    keep: KeepHandle,
    ticks: Vec<AtomicU64>,
    observer: Observer,
}

struct Tables {
    policy: Policy,
    lists: PrefixTable<ListEntry>,
    limits: PrefixTable<Limit>,
}

impl StandIn {
    /// Without lists and limits, until `apply`.
    pub fn new() -> Self {
        let tables = Arc::new(Tables::EMPTY);
        let ticks = LISTENERS_MAX as usize * PRIORITIES;
        Self {
            shared: Arc::new(Shared {
                generation: AtomicU64::new(0),
                tables: Mutex::new(Arc::clone(&tables)),
                sources: OnceLock::new(),
                newcomers: Words::default(),
                keep: KeepHandle::own(),
                ticks: (0..ticks).map(|_| AtomicU64::new(0)).collect(),
                observer: Observer::default(),
            }),
            tables,
            generation: 0,
        }
    }

    /// Puts rules in force, for all shards from their next bundle on.
    pub fn apply(&self, rules: &Rules) {
        let shared = &*self.shared;
        if !rules.limits.is_empty() {
            // Made only now: most agents never limit a source.
            shared.sources.get_or_init(SourceTable::default);
        }
        let tables = Arc::new(Tables {
            policy: rules.policy,
            lists: PrefixTable::new(&rules.lists),
            limits: PrefixTable::new(&rules.limits),
        });
        shared.keep.set_ceiling(rules.ceiling);
        *shared.tables() = tables;
        shared.generation.fetch_add(1, Ordering::Release);
    }

    pub fn keep(&self) -> &KeepHandle {
        &self.shared.keep
    }

    /// What people ask of what the shards judged.
    pub fn observer(&self) -> &Observer {
        &self.shared.observer
    }

    /// Judges a bundle and charges its sender.
    ///
    /// `segment_len` is the length of each datagram but the last; `None`: a single datagram. A
    /// bundle that was cut (MSG_TRUNC) is judged as what is left of it. `now_ns`: CLOCK_MONOTONIC.
    pub fn judge(
        &mut self,
        slot: &SocketSlot,
        from: Option<SocketAddr>,
        bundle: &[u8],
        segment_len: Option<u16>,
        now_ns: u64,
    ) -> Outcome {
        let source = source(from);
        let shape = BundleShape {
            payload_len: u32::try_from(bundle.len()).expect("a bundle is at most 64 KiB"),
            segment_len: segment_len.map_or(0, u32::from),
        };
        let packet = Bytes {
            bytes: bundle,
            ticks: &self.shared.ticks,
        };
        // Borrows fields apart.
        Self::refresh(&self.shared, &mut self.tables, &mut self.generation);
        let outcome = judge::judge(&self.view(now_ns), slot, &source, shape, &packet);
        let holder = self.tables.policy.holder(&source);
        let observer = &self.shared.observer;
        observer.observe(
            slot,
            (&source, &holder),
            shape,
            outcome.verdict,
            bundle,
            now_ns,
        );
        outcome
    }

    /// Judges a new connection: `Denied`, `RateLimited` or `Passed`.
    pub fn judge_connection(&mut self, from: SocketAddr, now_ns: u64) -> Verdict {
        Self::refresh(&self.shared, &mut self.tables, &mut self.generation);
        judge::judge_connection(&self.view(now_ns), &source(Some(from)))
    }

    fn refresh(shared: &Shared, tables: &mut Arc<Tables>, generation: &mut u64) {
        let current = shared.generation.load(Ordering::Acquire);
        if current != *generation {
            // At least as new as `current`; a newer one is taken again at the next bundle.
            *tables = Arc::clone(&shared.tables());
            *generation = current;
        }
    }

    fn view(&self, now_ns: u64) -> View<'_> {
        View {
            shared: &self.shared,
            tables: &self.tables,
            now_ticks: now_ns * TICKS_PER_NS,
        }
    }
}

impl Default for StandIn {
    fn default() -> Self {
        Self::new()
    }
}

/// The same rules, for another shard or another listener of it.
impl Clone for StandIn {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            tables: Arc::clone(&self.tables),
            generation: self.generation,
        }
    }
}

impl Shared {
    /// Held for a few instructions only, and by a shard only when the rules have changed.
    fn tables(&self) -> MutexGuard<'_, Arc<Tables>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    const EMPTY: Self = Self {
        policy: Policy::EMPTY,
        lists: PrefixTable::EMPTY,
        limits: PrefixTable::EMPTY,
    };
}

/// Counts a bundle's datagrams as the filter does.
pub fn count(outcome: &Outcome, verdicts: &mut [u64; Verdict::COUNT]) {
    verdicts[outcome.verdict as usize] += u64::from(outcome.datagrams);
    verdicts[Verdict::Malformed as usize] += u64::from(outcome.malformed);
}

/// An IPv6 socket reports IPv4 senders as mapped; `Source` makes them IPv4 again.
fn source(from: Option<SocketAddr>) -> Source {
    from.map_or(Source::UNKNOWN, |address| Source::from(address.ip()))
}

/// What the judge asks, at one moment.
struct View<'a> {
    shared: &'a Shared,
    tables: &'a Tables,
    now_ticks: u64,
}

impl judge::Rules for View<'_> {
    fn policy(&self) -> Option<&Policy> {
        Some(&self.tables.policy)
    }

    fn list(&self, key: &PrefixKey) -> Option<ListEntry> {
        self.tables.lists.get(key).copied()
    }

    fn limit(&self, key: &PrefixKey) -> Option<&Limit> {
        self.tables.limits.get(key)
    }

    fn keep(&self) -> Keep {
        self.shared.keep.in_force()
    }
}

impl<'a> Sources for View<'a> {
    type Word = &'a AtomicU64;

    fn source(&self, source: &Source) -> Option<StateWords<&'a AtomicU64>> {
        let words = self.shared.sources.get()?.get(source, self.now_ticks)?;
        Some(words.state())
    }

    fn admit(&self, source: &Source, state: SourceState) {
        if let Some(sources) = self.shared.sources.get() {
            sources.admit(source, state, self.now_ticks);
        }
    }

    fn newcomers(&self) -> Option<StateWords<&'a AtomicU64>> {
        Some(self.shared.newcomers.state())
    }

    fn now_ticks(&self) -> u64 {
        self.now_ticks
    }
}

/// A bundle in one piece.
struct Bytes<'a> {
    bytes: &'a [u8],
    ticks: &'a [AtomicU64],
}

impl Packet for Bytes<'_> {
    #[inline]
    fn look<const N: usize, R>(&self, offset: u32, look: impl FnOnce(&[u8; N]) -> R) -> Option<R> {
        self.bytes.get(offset as usize..)?.first_chunk().map(look)
    }

    fn tick(&self, listener: u32, priority: u8) -> u64 {
        self.ticks[tick_index(listener, priority) as usize].fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
