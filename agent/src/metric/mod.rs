//! Metrics: a leaf. Shards and the control thread hand over plain numbers; what comes out is
//! Prometheus' text format.
//!
//! Whole-number counters and gauges stand in the `metrics` registry of the Prometheus exporter.
//! Three things it cannot hold are written beside it, by `text`: histograms (its own keep every
//! sample until they are drained, which allocates on the recording thread and has no bound),
//! counters of seconds (its counters are whole numbers), and what is read from /proc at a scrape.

mod control;
mod family;
mod histogram;
mod host;
mod log;
mod process;
mod shard;
mod sizes;
mod text;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_common::observe::SizeCounts;
use metrics::{Counter, Gauge, Key, Label, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

pub use control::{ControlPublisher, JournalState, SinkCounts, SinkLabels};
use family::{Family, Kind};
use histogram::Histogram;
pub use log::LogPublisher;
use shard::ListenerTotals;
pub use shard::{ListenerCounts, ShardPublisher};
use text::Text;

/// Every series of this process. Tests make as many as they like; the agent has one.
pub struct Registry {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// `shard_busy_seconds_total`, in nanoseconds by shard.
    busy_ns: Mutex<Vec<(u16, Arc<AtomicU64>)>>,
    /// By listener's name, for `/api/v1/status`: a `metrics` counter cannot be read.
    totals: Mutex<BTreeMap<String, Arc<ListenerTotals>>>,
    journal_sync: Arc<Histogram>,
    ingest: Arc<Histogram>,
    datagram_sizes: sizes::DatagramSizes,
    host: Mutex<host::HostCounters>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// Describes every family; the series come with the publishers that know the label values.
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for family in family::RECORDED {
            let (name, help) = (family.name.into(), family.help.into());
            match family.kind {
                Kind::Counter => recorder.describe_counter(name, Some(family.unit), help),
                Kind::Gauge => recorder.describe_gauge(name, Some(family.unit), help),
                Kind::Histogram => unreachable!("{} stands beside the exporter", family.name),
            }
        }
        Self {
            handle: recorder.handle(),
            recorder,
            busy_ns: Mutex::default(),
            totals: Mutex::default(),
            journal_sync: Arc::default(),
            ingest: Arc::default(),
            datagram_sizes: sizes::DatagramSizes::default(),
            host: Mutex::default(),
        }
    }

    /// Everything, in Prometheus' text format 0.0.4; /proc is read now.
    pub fn render(&self) -> String {
        let mut text = Text::after(self.handle.render());
        text.family(&family::SHARD_BUSY_SECONDS);
        for (shard, busy_ns) in self.busy_ns().iter() {
            let seconds = text::seconds(busy_ns.load(Ordering::Relaxed));
            text.sample(&[("shard", &shard.to_string())], seconds);
        }
        self.journal_sync
            .write(&mut text, &family::JOURNAL_SYNC_DURATION);
        self.ingest.write(&mut text, &family::INGEST_DURATION);
        self.datagram_sizes.write(&mut text);
        self.host
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(&mut text);
        process::write(&mut text);
        text.finish()
    }

    /// What all shards together have published for a listener.
    pub fn listener_counts(&self, listener: &str) -> ListenerCounts {
        self.totals(listener).read()
    }

    /// What the gate has counted of a UDP listener's datagrams by size, since the process began.
    pub fn datagram_sizes(&self, listener: &str, counts: &SizeCounts) {
        self.datagram_sizes.set(listener, counts);
    }

    fn totals(&self, listener: &str) -> Arc<ListenerTotals> {
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(totals.entry(listener.to_owned()).or_default())
    }

    fn counter(&self, family: &'static Family, labels: &[&str]) -> Counter {
        assert_eq!(family.kind, Kind::Counter, "{}", family.name);
        self.recorder
            .register_counter(&key(family, labels), &METADATA)
    }

    fn gauge(&self, family: &'static Family, labels: &[&str]) -> Gauge {
        assert_eq!(family.kind, Kind::Gauge, "{}", family.name);
        self.recorder
            .register_gauge(&key(family, labels), &METADATA)
    }

    fn busy_counter(&self, shard: u16) -> Arc<AtomicU64> {
        let mut shards = self.busy_ns();
        if let Some((_, busy_ns)) = shards.iter().find(|(known, _)| *known == shard) {
            return Arc::clone(busy_ns);
        }
        let busy_ns = Arc::new(AtomicU64::new(0));
        shards.push((shard, Arc::clone(&busy_ns)));
        busy_ns
    }

    fn busy_ns(&self) -> MutexGuard<'_, Vec<(u16, Arc<AtomicU64>)>> {
        self.busy_ns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The exporter looks at none of it.
static METADATA: Metadata<'_> = Metadata::new(module_path!(), metrics::Level::INFO, None);

fn key(family: &'static Family, values: &[&str]) -> Key {
    assert_eq!(family.labels.len(), values.len(), "{}", family.name);
    let labels: Vec<Label> = family
        .labels
        .iter()
        .zip(values)
        .map(|(&name, &value)| Label::new(name, value.to_owned()))
        .collect();
    Key::from_parts(family.name, labels)
}

/// Adds to `counter` what came since the last call, and says whether anything did; most calls find
/// nothing.
#[inline]
fn add_difference(counter: &Counter, last: &mut u64, now: u64) -> bool {
    let is_new = now != *last;
    if is_new {
        assert!(now > *last, "a counter went back from {last} to {now}");
        counter.increment(now - *last);
        *last = now;
    }
    is_new
}

/// The same for a whole set; the comparison of the arrays is what most calls cost.
#[inline]
fn add_differences<const N: usize>(
    counters: &[Counter; N],
    last: &mut [u64; N],
    now: &[u64; N],
) -> bool {
    let is_new = now != last;
    if is_new {
        for ((counter, last), now) in counters.iter().zip(last).zip(now) {
            add_difference(counter, last, *now);
        }
    }
    is_new
}

/// Moves a gauge that several shards share by what this one's part has changed.
#[inline]
fn move_gauge(gauge: &Gauge, last: &mut u64, now: u64) -> bool {
    let is_new = now != *last;
    if now > *last {
        gauge.increment((now - *last) as f64);
    } else if now < *last {
        gauge.decrement((*last - now) as f64);
    }
    *last = now;
    is_new
}
