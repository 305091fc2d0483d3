//! What the control thread publishes: what is read rather than counted (the gate's maps, the
//! sinks' marks, the sockets' buffers), and what does not change.

use std::time::{SystemTime, UNIX_EPOCH};

use agent_common::connection::ConnectionVerdict;
use agent_common::keep::{KEEP_ALL, Keep, PRIORITIES};
use agent_common::verdict::{KernelDrop, Verdict};
use metrics::{Counter, Gauge};

use super::{Registry, add_difference, add_differences, family};
use crate::config::settings::{ListenerSettings, Protocol};
use crate::schema::registry::State;
use crate::shard::counters::Refusal;

/// By the priority's number.
const PRIORITY_LABELS: [&str; PRIORITIES] = ["critical", "high", "normal", "background"];

/// The control thread's handles and what it published last.
pub struct ControlPublisher {
    listeners: Vec<ListenerHandles>,
    sinks: Vec<SinkHandles>,
    /// By shard.
    pressure: Vec<Gauge>,
    /// By priority.
    gate_keep: [Gauge; PRIORITIES],
    schemas: [Gauge; State::ALL.len()],
    journal_limit_bytes: Gauge,
    journal_refusing_shards: [Gauge; Refusal::COUNT],
    journal_disk_free_bytes: Gauge,
    journal_min_free_bytes: Gauge,
    config_last_reload_successful: Gauge,
    config_last_reload_success_timestamp: Gauge,
}

/// Whether the journal takes frames, and what room there is.
#[derive(Clone, Copy, Debug)]
pub struct JournalState {
    /// Shards that take nothing, by cause.
    pub refusing: [u64; Refusal::COUNT],
    pub disk_free: u64,
    pub min_free: u64,
}

/// A sink's name and the closed set of reasons for which it may fail.
#[derive(Clone, Copy, Debug)]
pub struct SinkLabels<'a> {
    pub name: &'a str,
    pub error_reasons: &'a [&'static str],
    /// Why it may leave durable records out.
    pub skip_reasons: &'a [&'static str],
}

/// Where a sink stands now.
#[derive(Clone, Copy, Debug)]
pub struct SinkCounts<'a> {
    /// Delivered and committed since the process began.
    pub records: u64,
    pub lag_records: u64,
    pub lag_seconds: f64,
    /// Since the process began, in the order of `SinkLabels::error_reasons`.
    pub errors: &'a [u64],
    /// The same, in the order of `SinkLabels::skip_reasons`.
    pub skipped: &'a [u64],
}

/// Handles of a TCP listener do nothing here: the gate sees datagrams.
struct ListenerHandles {
    gate_datagrams: [Counter; Verdict::COUNT],
    gate_datagrams_last: [u64; Verdict::COUNT],
    gate_connections: [Counter; ConnectionVerdict::COUNT],
    gate_connections_last: [u64; ConnectionVerdict::COUNT],
    gate_attached: Gauge,
    kernel_drops: [Counter; KernelDrop::COUNT],
    kernel_drops_last: [u64; KernelDrop::COUNT],
    receive_buffer_used: Gauge,
    receive_buffer_limit: Gauge,
}

struct SinkHandles {
    records: Counter,
    records_last: u64,
    lag_records: Gauge,
    lag_seconds: Gauge,
    errors: Vec<(Counter, u64)>,
    skipped: Vec<(Counter, u64)>,
}

impl ControlPublisher {
    /// Every series exists, at 0, when this returns, but for `config_last_reload_successful`: the
    /// agent runs, so what was read last is in force.
    ///
    /// `io` and `gate` are the words of `build_info` for the kernel interface in use and for where
    /// the gate runs.
    pub fn new(
        registry: &Registry,
        listeners: &[ListenerSettings],
        sinks: &[SinkLabels<'_>],
        io: &str,
        gate: &str,
    ) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        registry
            .gauge(&family::BUILD_INFO, &[version, io, gate])
            .set(1);
        let config_last_reload_successful =
            registry.gauge(&family::CONFIG_LAST_RELOAD_SUCCESSFUL, &[]);
        config_last_reload_successful.set(1);
        let config_last_reload_success_timestamp =
            registry.gauge(&family::CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP, &[]);
        config_last_reload_success_timestamp.set(unix_seconds_now());
        Self {
            listeners: listeners
                .iter()
                .map(|listener| ListenerHandles::new(registry, listener))
                .collect(),
            sinks: sinks
                .iter()
                .map(|sink| SinkHandles::new(registry, sink))
                .collect(),
            pressure: Vec::new(),
            gate_keep: PRIORITY_LABELS.map(|label| {
                let gauge = registry.gauge(&family::GATE_KEEP, &[label]);
                gauge.set(1);
                gauge
            }),
            schemas: State::ALL.map(|state| registry.gauge(&family::SCHEMAS, &[state.label()])),
            journal_limit_bytes: registry.gauge(&family::JOURNAL_LIMIT_BYTES, &[]),
            journal_refusing_shards: Refusal::ALL
                .map(|cause| registry.gauge(&family::JOURNAL_REFUSING_SHARDS, &[cause.label()])),
            journal_disk_free_bytes: registry.gauge(&family::JOURNAL_DISK_FREE_BYTES, &[]),
            journal_min_free_bytes: registry.gauge(&family::JOURNAL_MIN_FREE_BYTES, &[]),
            config_last_reload_successful,
            config_last_reload_success_timestamp,
        }
    }

    /// With the series that each shard has here.
    pub fn with_shards(self, registry: &Registry, shards: usize) -> Self {
        let gauge = |shard: usize| registry.gauge(&family::PRESSURE, &[&shard.to_string()]);
        Self {
            pressure: (0..shards).map(gauge).collect(),
            ..self
        }
    }

    /// How hard pressed each shard is, from 0 to 1, and what is kept of each priority.
    pub fn regulation(&self, pressures: impl Iterator<Item = f64>, keep: Keep) {
        for (gauge, pressure) in self.pressure.iter().zip(pressures) {
            gauge.set(pressure);
        }
        for (gauge, sixteenths) in self.gate_keep.iter().zip(keep.sixteenths()) {
            gauge.set(f64::from(sixteenths) / f64::from(KEEP_ALL));
        }
    }

    /// Verdicts of the gate in the kernel since it was loaded. (Those of the stand-in come with the
    /// shards' counters, to the same series.)
    pub fn gate_datagrams(&mut self, listener: usize, now: &[u64; Verdict::COUNT]) {
        let handles = &mut self.listeners[listener];
        let last = &mut handles.gate_datagrams_last;
        add_differences(&handles.gate_datagrams, last, now);
    }

    /// The same of connections that were asked for.
    pub fn gate_connections(&mut self, listener: usize, now: &[u64; ConnectionVerdict::COUNT]) {
        let handles = &mut self.listeners[listener];
        let last = &mut handles.gate_connections_last;
        add_differences(&handles.gate_connections, last, now);
    }

    /// Whether the gate of this listener runs in the kernel.
    pub fn gate_attached(&self, listener: usize, is_attached: bool) {
        self.listeners[listener]
            .gate_attached
            .set(f64::from(u8::from(is_attached)));
    }

    /// What the kernel dropped since the gate was loaded.
    pub fn kernel_drops(&mut self, listener: usize, now: &[u64; KernelDrop::COUNT]) {
        let handles = &mut self.listeners[listener];
        let last = &mut handles.kernel_drops_last;
        add_differences(&handles.kernel_drops, last, now);
    }

    /// What waits in the sockets of a listener, and what may: the sums over its sockets.
    pub fn receive_buffer(&self, listener: usize, used_bytes: u64, limit_bytes: u64) {
        let handles = &self.listeners[listener];
        handles.receive_buffer_used.set(used_bytes as f64);
        handles.receive_buffer_limit.set(limit_bytes as f64);
    }

    pub fn sink(&mut self, sink: usize, now: &SinkCounts<'_>) {
        let handles = &mut self.sinks[sink];
        assert_eq!(
            handles.errors.len(),
            now.errors.len(),
            "error reasons of sink {sink}"
        );
        add_difference(&handles.records, &mut handles.records_last, now.records);
        handles.lag_records.set(now.lag_records as f64);
        handles.lag_seconds.set(now.lag_seconds);
        for ((counter, last), now) in handles.errors.iter_mut().zip(now.errors) {
            add_difference(counter, last, *now);
        }
        for ((counter, last), now) in handles.skipped.iter_mut().zip(now.skipped) {
            add_difference(counter, last, *now);
        }
    }

    pub fn journal(&self, now: &JournalState) {
        for (gauge, shards) in self.journal_refusing_shards.iter().zip(now.refusing) {
            gauge.set(shards as f64);
        }
        self.journal_disk_free_bytes.set(now.disk_free as f64);
        self.journal_min_free_bytes.set(now.min_free as f64);
    }

    /// How many schema files are in a state.
    pub fn schemas(&self, state: State, count: usize) {
        self.schemas[state as usize].set(count as f64);
    }

    pub fn journal_limit(&self, bytes: u64) {
        self.journal_limit_bytes.set(bytes as f64);
    }

    pub fn config_reloaded(&self, is_successful: bool) {
        self.config_last_reload_successful
            .set(f64::from(u8::from(is_successful)));
        if is_successful {
            let timestamp = &self.config_last_reload_success_timestamp;
            timestamp.set(unix_seconds_now());
        }
    }

    /// A listener that was not there at the start, or one that is back: its series exist from here
    /// on, and its counters go on from where they stood.
    pub fn listener(&mut self, registry: &Registry, index: usize, listener: &ListenerSettings) {
        let handles = ListenerHandles::new(registry, listener);
        match self.listeners.get_mut(index) {
            Some(known) => {
                *known = ListenerHandles {
                    gate_datagrams_last: known.gate_datagrams_last,
                    gate_connections_last: known.gate_connections_last,
                    kernel_drops_last: known.kernel_drops_last,
                    ..handles
                };
            }
            None => {
                assert_eq!(index, self.listeners.len(), "ids are given out in order");
                self.listeners.push(handles);
            }
        }
    }

    /// The next sink.
    pub fn add_sink(&mut self, registry: &Registry, sink: &SinkLabels<'_>) {
        self.sinks.push(SinkHandles::new(registry, sink));
    }
}

fn unix_seconds_now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

impl ListenerHandles {
    fn new(registry: &Registry, listener: &ListenerSettings) -> Self {
        let name = listener.name.as_str();
        let is_udp = listener.protocol == Protocol::Udp;
        let gauge = |family| match is_udp {
            true => registry.gauge(family, &[name]),
            false => Gauge::noop(),
        };
        let counter = |family, label| match is_udp {
            true => registry.counter(family, &[name, label]),
            false => Counter::noop(),
        };
        Self {
            gate_datagrams: Verdict::ALL
                .map(|verdict| counter(&family::GATE_DATAGRAMS, verdict.label())),
            gate_datagrams_last: [0; Verdict::COUNT],
            gate_connections: ConnectionVerdict::ALL.map(|verdict| match is_udp {
                true => Counter::noop(),
                false => registry.counter(&family::GATE_CONNECTIONS, &[name, verdict.label()]),
            }),
            gate_connections_last: [0; ConnectionVerdict::COUNT],
            gate_attached: registry.gauge(&family::GATE_ATTACHED, &[name]),
            kernel_drops: KernelDrop::ALL
                .map(|reason| counter(&family::KERNEL_DROPS, reason.label())),
            kernel_drops_last: [0; KernelDrop::COUNT],
            receive_buffer_used: gauge(&family::RECEIVE_BUFFER_USED),
            receive_buffer_limit: gauge(&family::RECEIVE_BUFFER_LIMIT),
        }
    }
}

impl SinkHandles {
    fn new(registry: &Registry, sink: &SinkLabels<'_>) -> Self {
        Self {
            records: registry.counter(&family::SINK_RECORDS, &[sink.name]),
            records_last: 0,
            lag_records: registry.gauge(&family::SINK_LAG_RECORDS, &[sink.name]),
            lag_seconds: registry.gauge(&family::SINK_LAG_SECONDS, &[sink.name]),
            errors: sink
                .error_reasons
                .iter()
                .map(|reason| {
                    let counter = registry.counter(&family::SINK_ERRORS, &[sink.name, reason]);
                    (counter, 0)
                })
                .collect(),
            skipped: sink
                .skip_reasons
                .iter()
                .map(|reason| {
                    let family = &family::SINK_SKIPPED_RECORDS;
                    (registry.counter(family, &[sink.name, reason]), 0)
                })
                .collect(),
        }
    }
}
