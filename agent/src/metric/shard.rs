//! A shard's counters, published per wake-up: differences since the last call, as several shards
//! share a label set.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agent_common::connection::ConnectionVerdict;
use agent_common::verdict::Verdict;
use metrics::{Counter, Gauge};
use penstock_proto::encoding::Encoding;
use penstock_proto::reason::Reason;
use penstock_proto::wire::AckStatus;
use serde::Serialize;

use super::histogram::Observer;
use super::{Registry, add_difference, add_differences, family, move_gauge};
use crate::config::settings::{ListenerSettings, Protocol};
use crate::shard::counters::{
    CloseReason, ListenerCounters, LostReason, SegmentCall, ShardCounters, TenantCounters,
};
use crate::shard::tenant::{Limit, TenantPlan};

/// One shard's handles and what it published last. After `new` nothing is allocated, and no series
/// is looked up by name.
pub struct ShardPublisher {
    /// For listeners that come while the shard runs.
    registry: Arc<Registry>,
    listeners: Vec<ListenerHandles>,
    receive_pool_exhausted: Counter,
    busy_ns: Arc<AtomicU64>,
    journal_appended_records: Counter,
    journal_lost_records: [Counter; LostReason::COUNT],
    journal_segment_errors: [Counter; SegmentCall::COUNT],
    journal_bytes: Gauge,
    acks: [Counter; AckStatus::COUNT],
    /// By tenant; empty where there are none.
    tenant_limited: Vec<[Counter; Limit::COUNT]>,
    tenant_crowded: Counter,
    last: ShardCounters,
    journal_sync: Observer,
    ingest: Observer,
}

/// A listener's counts, all shards together, without the labels that metrics have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ListenerCounts {
    pub received_datagrams: u64,
    pub received_bytes: u64,
    pub received_frames: u64,
    pub accepted_frames: u64,
    pub accepted_records: u64,
    pub refused_frames: u64,
    pub connections: u64,
}

/// The same, added up by the shards.
#[derive(Default)]
pub struct ListenerTotals {
    received_datagrams: AtomicU64,
    received_bytes: AtomicU64,
    received_frames: AtomicU64,
    accepted_frames: AtomicU64,
    accepted_records: AtomicU64,
    refused_frames: AtomicU64,
    connections: AtomicU64,
}

impl ListenerTotals {
    pub fn read(&self) -> ListenerCounts {
        let read = |total: &AtomicU64| total.load(Ordering::Relaxed);
        ListenerCounts {
            received_datagrams: read(&self.received_datagrams),
            received_bytes: read(&self.received_bytes),
            received_frames: read(&self.received_frames),
            accepted_frames: read(&self.accepted_frames),
            accepted_records: read(&self.accepted_records),
            refused_frames: read(&self.refused_frames),
            connections: read(&self.connections),
        }
    }

    /// Wrapping, as a shard's connections fall too: the sum over the shards comes out right.
    fn move_by(&self, last: &ListenerCounts, now: &ListenerCounts) {
        let add = |total: &AtomicU64, last: u64, now: u64| {
            total.fetch_add(now.wrapping_sub(last), Ordering::Relaxed);
        };
        add(
            &self.received_datagrams,
            last.received_datagrams,
            now.received_datagrams,
        );
        add(
            &self.received_bytes,
            last.received_bytes,
            now.received_bytes,
        );
        add(
            &self.received_frames,
            last.received_frames,
            now.received_frames,
        );
        add(
            &self.accepted_frames,
            last.accepted_frames,
            now.accepted_frames,
        );
        add(
            &self.accepted_records,
            last.accepted_records,
            now.accepted_records,
        );
        add(
            &self.refused_frames,
            last.refused_frames,
            now.refused_frames,
        );
        add(&self.connections, last.connections, now.connections);
    }
}

impl From<&ListenerCounters> for ListenerCounts {
    fn from(counters: &ListenerCounters) -> Self {
        Self {
            received_datagrams: counters.received_datagrams,
            received_bytes: counters.received_bytes,
            received_frames: counters.received_frames,
            accepted_frames: counters.accepted_frames.iter().sum(),
            accepted_records: counters.accepted_records.iter().sum(),
            refused_frames: counters.refused_frames.iter().sum(),
            connections: counters.connections,
        }
    }
}

/// Handles of the series that a listener's protocol does not have do nothing.
struct ListenerHandles {
    gate_datagrams: [Counter; Verdict::COUNT],
    gate_connections: [Counter; ConnectionVerdict::COUNT],
    received_datagrams: Counter,
    received_bytes: Counter,
    received_frames: Counter,
    accepted_frames: [Counter; Encoding::COUNT],
    accepted_records: [Counter; Encoding::COUNT],
    refused_frames: [Counter; Reason::COUNT],
    sequence_gap_frames: Counter,
    unmapped_fields: Counter,
    connections: Gauge,
    connections_closed: [Counter; CloseReason::COUNT],
    totals: Arc<ListenerTotals>,
    totals_last: ListenerCounts,
}

impl ShardPublisher {
    /// Every series of this shard exists, at 0, when this returns. `listeners` is the settings'
    /// list: its indices are the counters'.
    pub fn new(registry: &Arc<Registry>, listeners: &[ListenerSettings], shard: u16) -> Self {
        let label = shard.to_string();
        let listener_count = listeners.len();
        Self {
            registry: Arc::clone(registry),
            listeners: listeners
                .iter()
                .map(|each| ListenerHandles::new(registry, &each.name, each.protocol))
                .collect(),
            receive_pool_exhausted: registry.counter(&family::RECEIVE_POOL_EXHAUSTED, &[&label]),
            busy_ns: registry.busy_counter(shard),
            journal_appended_records: registry.counter(&family::JOURNAL_APPENDED_RECORDS, &[]),
            journal_lost_records: LostReason::ALL
                .map(|reason| registry.counter(&family::JOURNAL_LOST_RECORDS, &[reason.label()])),
            journal_segment_errors: SegmentCall::ALL
                .map(|call| registry.counter(&family::JOURNAL_SEGMENT_ERRORS, &[call.label()])),
            journal_bytes: registry.gauge(&family::JOURNAL_BYTES, &[]),
            acks: AckStatus::ALL.map(|status| registry.counter(&family::ACKS, &[status.label()])),
            tenant_limited: Vec::new(),
            tenant_crowded: registry.counter(&family::TENANT_CROWDED_PRODUCERS, &[&label]),
            last: ShardCounters {
                listeners: vec![ListenerCounters::default(); listener_count],
                ..ShardCounters::default()
            },
            journal_sync: Observer::new(&registry.journal_sync),
            ingest: Observer::new(&registry.ingest),
        }
    }

    /// The next listener is served, or one whose protocol is another now: its series exist from here
    /// on. Those that it had stay, as counters do.
    pub fn listen(&mut self, index: usize, name: &str, protocol: Protocol) {
        let handles = ListenerHandles::new(&self.registry, name, protocol);
        match self.listeners.get_mut(index) {
            Some(known) => {
                let totals_last = known.totals_last;
                *known = ListenerHandles {
                    totals_last,
                    ..handles
                };
            }
            None => {
                assert_eq!(index, self.listeners.len(), "ids are given out in order");
                self.listeners.push(handles);
                self.last.listeners.push(ListenerCounters::default());
            }
        }
    }

    /// With the series of the tenants that are configured.
    pub fn with_tenants(mut self, registry: &Registry, plan: Option<&TenantPlan>) -> Self {
        self.last.tenants = TenantCounters::new(plan);
        let rules = plan.map_or(&[][..], TenantPlan::rules).iter();
        let family = &family::TENANT_LIMITED_FRAMES;
        let series = rules.map(|rule| {
            Limit::ALL.map(|limit| registry.counter(family, &[&rule.name, limit.label()]))
        });
        self.tenant_limited = series.collect();
        self
    }

    /// Adds what came since the last call. Called per wake-up.
    pub fn publish(&mut self, now: &ShardCounters) {
        let last = &mut self.last;
        assert_eq!(
            now.listeners.len(),
            self.listeners.len(),
            "listeners of the counters and of the publisher"
        );
        for ((handles, last), now) in self
            .listeners
            .iter_mut()
            .zip(&mut last.listeners)
            .zip(&now.listeners)
        {
            handles.publish(last, now);
        }
        add_difference(
            &self.receive_pool_exhausted,
            &mut last.receive_pool_exhausted,
            now.receive_pool_exhausted,
        );
        if now.busy_ns != last.busy_ns {
            // One writer: this shard's own series.
            self.busy_ns.store(now.busy_ns, Ordering::Relaxed);
            last.busy_ns = now.busy_ns;
        }
        add_difference(
            &self.journal_appended_records,
            &mut last.journal_appended_records,
            now.journal_appended_records,
        );
        add_differences(
            &self.journal_lost_records,
            &mut last.journal_lost_records,
            &now.journal_lost_records,
        );
        add_differences(
            &self.journal_segment_errors,
            &mut last.journal_segment_errors,
            &now.journal_segment_errors,
        );
        move_gauge(
            &self.journal_bytes,
            &mut last.journal_bytes,
            now.journal_bytes,
        );
        add_differences(&self.acks, &mut last.acks, &now.acks);
        for ((handles, last), now) in self
            .tenant_limited
            .iter()
            .zip(&mut last.tenants.limited)
            .zip(&now.tenants.limited)
        {
            add_differences(handles, last, now);
        }
        add_difference(
            &self.tenant_crowded,
            &mut last.tenants.crowded,
            now.tenants.crowded,
        );
        self.journal_sync.publish();
        self.ingest.publish();
    }

    /// An fdatasync of a segment took `ns` nanoseconds.
    #[inline]
    pub fn observe_sync(&mut self, ns: u64) {
        self.journal_sync.observe(ns);
    }

    /// A frame became durable `ns` nanoseconds after it was received.
    #[inline]
    pub fn observe_ingest(&mut self, ns: u64) {
        self.ingest.observe(ns);
    }
}

impl ListenerHandles {
    fn new(registry: &Registry, name: &str, protocol: Protocol) -> Self {
        let is_udp = protocol == Protocol::Udp;
        let is_tcp = protocol == Protocol::Tcp;
        Self {
            gate_datagrams: Verdict::ALL.map(|verdict| match is_udp {
                true => registry.counter(&family::GATE_DATAGRAMS, &[name, verdict.label()]),
                false => Counter::noop(),
            }),
            gate_connections: ConnectionVerdict::ALL.map(|verdict| match is_tcp {
                true => registry.counter(&family::GATE_CONNECTIONS, &[name, verdict.label()]),
                false => Counter::noop(),
            }),
            received_datagrams: match is_udp {
                true => registry.counter(&family::RECEIVED_DATAGRAMS, &[name]),
                false => Counter::noop(),
            },
            received_bytes: registry.counter(&family::RECEIVED_BYTES, &[name]),
            received_frames: registry.counter(&family::RECEIVED_FRAMES, &[name]),
            accepted_frames: Encoding::ALL.map(|encoding| {
                registry.counter(&family::ACCEPTED_FRAMES, &[name, encoding.label()])
            }),
            accepted_records: Encoding::ALL.map(|encoding| {
                registry.counter(&family::ACCEPTED_RECORDS, &[name, encoding.label()])
            }),
            refused_frames: std::array::from_fn(|index| {
                let reason = Reason::ALL[index];
                registry.counter(&family::REFUSED_FRAMES, &[name, reason.label()])
            }),
            sequence_gap_frames: registry.counter(&family::SEQUENCE_GAP_FRAMES, &[name]),
            unmapped_fields: registry.counter(&family::UNMAPPED_FIELDS, &[name]),
            connections: match is_tcp {
                true => registry.gauge(&family::CONNECTIONS, &[name]),
                false => Gauge::noop(),
            },
            connections_closed: CloseReason::ALL.map(|reason| match is_tcp {
                true => registry.counter(&family::CONNECTIONS_CLOSED, &[name, reason.label()]),
                false => Counter::noop(),
            }),
            totals: registry.totals(name),
            totals_last: ListenerCounts::default(),
        }
    }

    fn publish(&mut self, last: &mut ListenerCounters, now: &ListenerCounters) {
        let mut is_new = false;
        is_new |= add_differences(
            &self.gate_datagrams,
            &mut last.gate_datagrams,
            &now.gate_datagrams,
        );
        is_new |= add_differences(
            &self.gate_connections,
            &mut last.gate_connections,
            &now.gate_connections,
        );
        is_new |= add_difference(
            &self.received_datagrams,
            &mut last.received_datagrams,
            now.received_datagrams,
        );
        is_new |= add_difference(
            &self.received_bytes,
            &mut last.received_bytes,
            now.received_bytes,
        );
        is_new |= add_difference(
            &self.received_frames,
            &mut last.received_frames,
            now.received_frames,
        );
        is_new |= add_differences(
            &self.accepted_frames,
            &mut last.accepted_frames,
            &now.accepted_frames,
        );
        is_new |= add_differences(
            &self.accepted_records,
            &mut last.accepted_records,
            &now.accepted_records,
        );
        is_new |= add_differences(
            &self.refused_frames,
            &mut last.refused_frames,
            &now.refused_frames,
        );
        is_new |= add_difference(
            &self.sequence_gap_frames,
            &mut last.sequence_gap_frames,
            now.sequence_gap_frames,
        );
        is_new |= add_difference(
            &self.unmapped_fields,
            &mut last.unmapped_fields,
            now.unmapped_fields,
        );
        is_new |= move_gauge(&self.connections, &mut last.connections, now.connections);
        is_new |= add_differences(
            &self.connections_closed,
            &mut last.connections_closed,
            &now.connections_closed,
        );
        if is_new {
            let counts = ListenerCounts::from(now);
            self.totals.move_by(&self.totals_last, &counts);
            self.totals_last = counts;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(name: &str, protocol: Protocol) -> ListenerSettings {
        ListenerSettings {
            name: name.to_owned(),
            protocol,
            address: "127.0.0.1:0".parse().expect("an address"),
            receive_buffer: None,
        }
    }

    fn has(text: &str, line: &str) -> bool {
        text.lines().any(|l| l == line)
    }

    #[test]
    fn every_series_exists_at_0_before_anything_came() {
        let registry = Arc::new(Registry::new());
        let listeners = [listener("u", Protocol::Udp), listener("t", Protocol::Tcp)];
        let _publisher = ShardPublisher::new(&registry, &listeners, 3);
        let text = registry.render();
        for line in [
            "penstock_gate_datagrams_total{listener=\"u\",verdict=\"passed\"} 0",
            "penstock_gate_datagrams_total{listener=\"u\",verdict=\"closing\"} 0",
            "penstock_received_datagrams_total{listener=\"u\"} 0",
            "penstock_refused_frames_total{listener=\"t\",reason=\"duplicate\"} 0",
            "penstock_refused_frames_total{listener=\"u\",reason=\"backpressure\"} 0",
            "penstock_accepted_records_total{listener=\"t\",encoding=\"json\"} 0",
            "penstock_unmapped_fields_total{listener=\"u\"} 0",
            "penstock_connections{listener=\"t\"} 0",
            "penstock_connections_closed_total{listener=\"t\",reason=\"framing_lost\"} 0",
            "penstock_journal_lost_records_total{reason=\"sync_failed\"} 0",
            "penstock_acks_total{status=\"try_later\"} 0",
            "penstock_receive_pool_exhausted_total{shard=\"3\"} 0",
            "penstock_shard_busy_seconds_total{shard=\"3\"} 0",
            "penstock_journal_sync_duration_seconds_count 0",
        ] {
            assert!(has(&text, line), "{line} in\n{text}");
        }
        // All 36 reasons of each listener; no series that its protocol cannot have.
        let count = |start: &str| text.lines().filter(|l| l.starts_with(start)).count();
        assert_eq!(count("penstock_refused_frames_total{"), 72);
        assert_eq!(count("penstock_gate_datagrams_total{"), 6);
        assert_eq!(count("penstock_connections{"), 1);
        assert_eq!(count("penstock_received_datagrams_total{"), 1);
    }

    #[test]
    fn shards_add_their_differences_to_shared_series() {
        let registry = Arc::new(Registry::new());
        let listeners = [listener("u", Protocol::Udp), listener("t", Protocol::Tcp)];
        let mut first = ShardPublisher::new(&registry, &listeners, 0);
        let mut second = ShardPublisher::new(&registry, &listeners, 1);
        let mut counters = ShardCounters {
            listeners: vec![ListenerCounters::default(); 2],
            ..ShardCounters::default()
        };
        counters.listeners[0].gate_datagrams[Verdict::Malformed as usize] = 4;
        counters.listeners[0].received_frames = 12;
        counters.listeners[0].accepted_frames[Encoding::Json.index()] = 10;
        counters.listeners[0].accepted_records[Encoding::Json.index()] = 70;
        counters.listeners[0].accepted_records[Encoding::Protobuf.index()] = 30;
        counters.listeners[0].refused_frames[Reason::TooDeep.index()] = 2;
        counters.listeners[1].connections = 5;
        counters.journal_bytes = 1 << 28;
        counters.busy_ns = 1_500_000_000;
        counters.acks[AckStatus::Durable as usize] = 9;
        first.publish(&counters);
        // Nothing new: nothing is added.
        first.publish(&counters);
        second.publish(&counters);
        counters.listeners[1].connections = 1;
        counters.listeners[0].received_frames = 13;
        counters.journal_bytes = 0;
        second.publish(&counters);
        first.observe_sync(2_000_000);
        first.publish(&{
            let mut same = counters.clone();
            same.listeners[1].connections = 5;
            same.listeners[0].received_frames = 12;
            same.journal_bytes = 1 << 28;
            same
        });
        let text = registry.render();
        for line in [
            "penstock_gate_datagrams_total{listener=\"u\",verdict=\"malformed\"} 8",
            "penstock_received_frames_total{listener=\"u\"} 25",
            "penstock_accepted_records_total{listener=\"u\",encoding=\"json\"} 140",
            "penstock_refused_frames_total{listener=\"u\",reason=\"too_deep\"} 4",
            "penstock_connections{listener=\"t\"} 6",
            "penstock_journal_bytes 268435456",
            "penstock_shard_busy_seconds_total{shard=\"0\"} 1.5",
            "penstock_acks_total{status=\"durable\"} 18",
            "penstock_journal_sync_duration_seconds_sum 0.002",
        ] {
            assert!(has(&text, line), "{line} in\n{text}");
        }
        let udp = registry.listener_counts("u");
        assert_eq!((udp.received_frames, udp.accepted_records), (25, 200));
        assert_eq!((udp.accepted_frames, udp.refused_frames), (20, 4));
        assert_eq!(registry.listener_counts("t").connections, 6);
    }

    #[test]
    fn a_listener_that_comes_later_and_changes_its_protocol_keeps_its_counts() {
        let registry = Arc::new(Registry::new());
        let mut publisher = ShardPublisher::new(&registry, &[listener("a", Protocol::Tcp)], 0);
        publisher.listen(1, "b", Protocol::Tcp);
        let text = registry.render();
        assert!(has(&text, "penstock_connections{listener=\"b\"} 0"));
        let mut counters = ShardCounters {
            listeners: vec![ListenerCounters::default(); 2],
            ..ShardCounters::default()
        };
        counters.listeners[1].received_frames = 3;
        publisher.publish(&counters);
        publisher.listen(1, "b", Protocol::Udp);
        counters.listeners[1].received_frames = 5;
        counters.listeners[1].received_datagrams = 2;
        publisher.publish(&counters);
        let text = registry.render();
        for line in [
            "penstock_received_frames_total{listener=\"b\"} 5",
            "penstock_received_datagrams_total{listener=\"b\"} 2",
            "penstock_connections{listener=\"b\"} 0",
        ] {
            assert!(has(&text, line), "{line} in\n{text}");
        }
        assert_eq!(registry.listener_counts("b").received_frames, 5);
    }

    #[test]
    #[should_panic(expected = "a counter went back from 2 to 1")]
    fn a_counter_that_goes_back_is_our_mistake() {
        let registry = Arc::new(Registry::new());
        let mut publisher = ShardPublisher::new(&registry, &[], 0);
        let mut counters = ShardCounters {
            receive_pool_exhausted: 2,
            ..ShardCounters::default()
        };
        publisher.publish(&counters);
        counters.receive_pool_exhausted = 1;
        publisher.publish(&counters);
    }
}
