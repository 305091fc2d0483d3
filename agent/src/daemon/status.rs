//! What the control thread shares with the admin side: where everything stands now.

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use agent_common::ramp::PRESSURE_MAX;

use crate::admin::{JournalStatus, KeepStatus, ListenerStatus, SinkStatus, Status, StatusSource};
use crate::config::Loaded;
use crate::config::settings::{ListenerSettings, Protocol};
use crate::daemon::disk::DiskSpace;
use crate::daemon::listen::Bound;
use crate::daemon::listeners::Listeners;
use crate::daemon::systemd::SocketStore;
use crate::fence::choice::Io;
use crate::fence::receive_queue;
use crate::gate::who::{self, TopBy};
use crate::gate::{Gate, GateKind};
use crate::journal::feed::{JournalMarks, SinkMark};
use crate::log;
use crate::metric::{
    ControlPublisher, JournalState, LogPublisher, Registry, SinkCounts, SinkLabels,
};
use crate::schema::registry::{SchemaView, State};
use crate::shard::counters::Refusal;
use crate::shard::op::ListenerId;
use crate::shard::orders::Orders;
use crate::shard::regulation::Board;
use crate::sink::{ErrorReason, SinkLag, SinkStats, SkipReason};

/// Of `penstock gate top`, what `/api/v1/status` has.
const STATUS_TOP_SOURCES: usize = 10;

/// One sink, over all shards.
pub struct SinkView {
    pub name: String,
    /// A reload may have taken it away: then its counters stay, and it lags no more.
    pub is_wanted: bool,
    pub stats: Arc<SinkStats>,
    /// Per shard: how far the journal is, how far the sink is, and since when it lags.
    pub shards: Vec<(Arc<JournalMarks>, Arc<SinkMark>, Arc<SinkLag>)>,
}

impl SinkView {
    fn committed_records(&self) -> u64 {
        self.shards
            .iter()
            .map(|(_, mark, _)| mark.committed_records())
            .sum()
    }

    fn lag_records(&self) -> u64 {
        let lags = self.shards.iter().map(|(marks, mark, _)| {
            // The sink's mark first: it can only have been behind the journal's later one.
            let committed = mark.committed_records();
            marks.durable_records().saturating_sub(committed)
        });
        lags.sum()
    }

    fn lag_seconds(&self) -> f64 {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let now_ns = now.as_nanos() as u64;
        self.shards
            .iter()
            .map(|(_, _, lag)| lag.seconds(now_ns))
            .fold(0.0, f64::max)
    }
}

/// What other threads say of themselves.
pub struct Views {
    pub sinks: Vec<SinkView>,
    pub schemas: Arc<SchemaView>,
    pub disk: Arc<DiskSpace>,
    pub io: Io,
    pub board: Arc<Board>,
}

/// Read by the admin side on the control thread; the mutexes are never contended, and taken in the
/// order in which they stand here.
pub struct Shared {
    pub started: Instant,
    pub io: Io,
    pub gate_kind: GateKind,
    pub marks: Vec<Arc<JournalMarks>>,
    config: Mutex<String>,
    listeners: Mutex<Listeners>,
    gate: Mutex<Gate>,
    sinks: Mutex<Vec<SinkView>>,
    disk: Arc<DiskSpace>,
    board: Arc<Board>,
    schemas: Arc<SchemaView>,
    registry: Arc<Registry>,
    publisher: Mutex<ControlPublisher>,
    log: Mutex<LogPublisher>,
}

impl Shared {
    pub fn new(
        loaded: &Loaded,
        started: Instant,
        gate: Gate,
        bound: Vec<Bound>,
        marks: Vec<Arc<JournalMarks>>,
        views: Views,
        registry: &Arc<Registry>,
    ) -> Self {
        let Views {
            sinks,
            schemas,
            disk,
            io,
            board,
        } = views;
        let listeners = &loaded.settings.listeners;
        let kind = gate.kind();
        let mut publisher =
            ControlPublisher::new(registry, listeners, &[], io.label(), kind.label())
                .with_shards(registry, board.pressures().count());
        for sink in &sinks {
            add_sink(&mut publisher, registry, &sink.name);
        }
        publisher.journal_limit(loaded.settings.journal.max_size);
        Self {
            started,
            io,
            gate_kind: kind,
            marks,
            config: Mutex::new(loaded.source()),
            listeners: Mutex::new(Listeners::at_start(listeners, bound)),
            gate: Mutex::new(gate),
            sinks: Mutex::new(sinks),
            disk,
            board,
            schemas,
            registry: Arc::clone(registry),
            publisher: Mutex::new(publisher),
            log: Mutex::new(LogPublisher::new(registry)),
        }
    }

    /// What runs, and how far behind the sinks are, in one line.
    pub fn summary(&self) -> String {
        let behind: u64 = lock(&self.sinks).iter().map(SinkView::lag_records).sum();
        format!(
            "{} listeners on {} shards by {}, gate in {}; sinks {behind} records behind",
            self.listeners().bound().count(),
            self.marks.len(),
            self.io.label(),
            match self.gate_kind {
                GateKind::Kernel => "the kernel",
                GateKind::UserSpace => "user space",
            },
        )
    }

    pub fn gate(&self) -> MutexGuard<'_, Gate> {
        lock(&self.gate)
    }

    /// Where the settings in force came from.
    pub fn config(&self) -> String {
        lock(&self.config).clone()
    }

    pub fn listeners(&self) -> MutexGuard<'_, Listeners> {
        lock(&self.listeners)
    }

    /// The name of a listener, of whom the gate knows the number.
    pub fn listener_name(&self, listener: u32) -> String {
        let listeners = self.listeners();
        let known = listeners.ids().nth(listener as usize);
        known.map_or_else(
            || "unknown".to_owned(),
            |(_, known)| known.settings.name.clone(),
        )
    }

    /// A listener is served that was not, or not so.
    pub fn show_listener(&self, id: ListenerId, settings: &ListenerSettings) {
        lock(&self.publisher).listener(&self.registry, usize::from(id.0), settings);
    }

    /// The sinks of now; those of before keep their places.
    pub fn show_sinks(&self, views: Vec<SinkView>) {
        let mut sinks = lock(&self.sinks);
        let mut publisher = lock(&self.publisher);
        for new in views.iter().skip(sinks.len()) {
            add_sink(&mut publisher, &self.registry, &new.name);
        }
        *sinks = views;
    }

    /// What a reload has come to.
    pub fn show_reload(&self, source: Option<&str>) {
        lock(&self.publisher).config_reloaded(source.is_some());
        if let Some(source) = source {
            source.clone_into(&mut lock(&self.config));
        }
    }

    /// Goes on with listeners that come and go.
    pub fn tend_listeners(&self, store: &mut SocketStore, shards: &[Arc<Orders>]) {
        let mut listeners = self.listeners();
        let mut gate = self.gate();
        listeners.tend(&mut gate, store, shards, |listeners, gate| {
            self.refresh_listeners(listeners, gate);
        });
    }

    /// From here on every datagram, and every connection that is asked for, is counted as `closing`
    /// and dropped in the kernel.
    pub fn close_gate(&self) {
        let listeners = self.listeners();
        let mut gate = self.gate();
        for (id, _, _) in listeners.bound() {
            gate.close(id);
        }
    }

    /// The shards are done with their sockets.
    pub fn close_sockets(&self) {
        self.refresh();
        let mut listeners = self.listeners();
        listeners.close_all();
        // What came since the last scrape is in no metric: here is the gate's last word.
        let gate = self.gate();
        for (id, known) in listeners.ids() {
            if known.settings.protocol == Protocol::Udp && gate.kind() == GateKind::Kernel {
                let counts = gate.counts(id);
                let [passed, denied, malformed, rate_limited, shed, closing] = counts.verdicts;
                let kernel_drops: u64 = counts.drops.iter().sum();
                tracing::info!(
                    listener = %known.settings.name,
                    passed, denied, malformed, rate_limited, shed, closing, kernel_drops,
                    "closed; the gate's last counts of datagrams"
                );
            }
        }
    }

    /// Those that a reload took away too: their last datagrams count.
    fn refresh_listeners(&self, listeners: &Listeners, gate: &Gate) {
        let mut publisher = lock(&self.publisher);
        for (id, known) in listeners.ids() {
            let index = usize::from(id.0);
            publisher.gate_attached(index, known.bound.is_some() && gate.attached(id));
            if known.settings.protocol != Protocol::Udp {
                publisher.gate_connections(index, &gate.connections(id));
                continue;
            }
            let counts = gate.counts(id);
            publisher.gate_datagrams(index, &counts.verdicts);
            publisher.kernel_drops(index, &counts.drops);
            let sizes = gate.sizes(id);
            self.registry.datagram_sizes(&known.settings.name, &sizes);
            let sockets = known.bound.iter().flat_map(|bound| &bound.sockets);
            let memory = sockets.map(|socket| receive_queue(socket.as_raw_fd()));
            let (used, limit) =
                memory.fold((0, 0), |sum, one| (sum.0 + one.used, sum.1 + one.limit));
            publisher.receive_buffer(index, used, limit);
        }
    }
}

fn add_sink(publisher: &mut ControlPublisher, registry: &Registry, name: &str) {
    let error_reasons: Vec<&'static str> = ErrorReason::ALL
        .iter()
        .map(|reason| reason.label())
        .collect();
    let labels = SinkLabels {
        name,
        error_reasons: &error_reasons,
        skip_reasons: &SkipReason::ALL.map(SkipReason::label),
    };
    publisher.add_sink(registry, &labels);
}

impl StatusSource for Shared {
    fn refresh(&self) {
        lock(&self.log).publish(&log::suppressed());
        self.refresh_listeners(&self.listeners(), &self.gate());
        let sinks = lock(&self.sinks);
        let mut publisher = lock(&self.publisher);
        let mut refusing = [0; Refusal::COUNT];
        for cause in self.marks.iter().filter_map(|marks| marks.refusal()) {
            refusing[cause as usize] += 1;
        }
        let pressures = self.board.pressures().map(pressure_ratio);
        publisher.regulation(pressures, self.board.in_force());
        publisher.journal(&JournalState {
            refusing,
            disk_free: self.disk.free.load(Ordering::Relaxed),
            min_free: self.disk.min_free.load(Ordering::Relaxed),
        });
        for state in State::ALL {
            publisher.schemas(state, self.schemas.count(state));
        }
        for (index, sink) in sinks.iter().enumerate() {
            let errors: Vec<u64> = ErrorReason::ALL
                .iter()
                .map(|&reason| sink.stats.errors(reason))
                .collect();
            publisher.sink(
                index,
                &SinkCounts {
                    records: sink.stats.records.load(Ordering::Relaxed),
                    lag_records: sink.lag_records(),
                    lag_seconds: sink.lag_seconds(),
                    errors: &errors,
                    skipped: &SkipReason::ALL.map(|reason| sink.stats.skipped(reason)),
                },
            );
        }
    }

    fn status(&self) -> Status {
        let known = self.listeners();
        let gate = self.gate();
        let listeners = known.bound().map(|(id, listener, bound)| ListenerStatus {
            name: listener.name.clone(),
            protocol: listener.protocol.scheme(),
            address: bound.address,
            gate_attached: gate.attached(id),
            counts: self.registry.listener_counts(&listener.name),
        });
        let journal = (0..).zip(&self.marks).map(|(shard, marks)| JournalStatus {
            shard,
            durable_bytes: marks.durable(),
            durable_records: marks.durable_records(),
        });
        let wanted = lock(&self.sinks);
        let wanted = wanted.iter().filter(|sink| sink.is_wanted);
        let sinks = wanted.map(|sink| SinkStatus {
            name: sink.name.clone(),
            committed_records: sink.committed_records(),
            lag_records: sink.lag_records(),
            lag_seconds: sink.lag_seconds(),
        });
        let top_sources = who::totals(
            &gate.sources(),
            gate.source_bits(),
            TopBy::Datagrams,
            STATUS_TOP_SOURCES,
        );
        Status {
            top_sources,
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            config: lock(&self.config).clone(),
            io: self.io.label().to_owned(),
            gate: self.gate_kind.label().to_owned(),
            listeners: listeners.collect(),
            journal: journal.collect(),
            sinks: sinks.collect(),
            pressure: self.board.pressures().map(pressure_ratio).collect(),
            keep_sixteenths: KeepStatus::of(self.board.in_force()),
            schemas: self.schemas.files().clone(),
        }
    }
}

/// From 0 to 1.
fn pressure_ratio(pressure: u32) -> f64 {
    f64::from(pressure) / f64::from(PRESSURE_MAX)
}

/// A poisoned lock means that a reader panicked between two reads: what it guards is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
