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
use crate::shard::regulation::Board;
use crate::sink::{ErrorReason, SinkLag, SinkStats, SkipReason};

/// Of `penstock gate top`, what `/api/v1/status` has.
const STATUS_TOP_SOURCES: usize = 10;

/// One sink, over all shards.
pub struct SinkView {
    name: String,
    pub stats: Arc<SinkStats>,
    /// Per shard: how far the journal is, how far the sink is, and since when it lags.
    pub shards: Vec<(Arc<JournalMarks>, Arc<SinkMark>, Arc<SinkLag>)>,
}

impl SinkView {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            stats: Arc::default(),
            shards: Vec::new(),
        }
    }

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

/// Read by the admin side on the control thread; the mutexes are never contended.
pub struct Shared {
    pub started: Instant,
    pub io: Io,
    pub gate_kind: GateKind,
    pub marks: Vec<Arc<JournalMarks>>,
    pub config: String,
    listeners: Vec<ListenerSettings>,
    gate: Mutex<Gate>,
    bound: Mutex<Vec<Bound>>,
    sinks: Vec<SinkView>,
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
        let error_reasons: Vec<&'static str> = ErrorReason::ALL
            .iter()
            .map(|reason| reason.label())
            .collect();
        let skip_reasons = SkipReason::ALL.map(SkipReason::label);
        let labels: Vec<SinkLabels<'_>> = sinks
            .iter()
            .map(|sink| SinkLabels {
                name: &sink.name,
                error_reasons: &error_reasons,
                skip_reasons: &skip_reasons,
            })
            .collect();
        let listeners = &loaded.settings.listeners;
        let kind = gate.kind();
        let publisher =
            ControlPublisher::new(registry, listeners, &labels, io.label(), kind.label())
                .with_shards(registry, board.pressures().count());
        publisher.journal_limit(loaded.settings.journal.max_size);
        Self {
            started,
            io,
            gate_kind: kind,
            marks,
            config: loaded.source(),
            listeners: listeners.clone(),
            gate: Mutex::new(gate),
            bound: Mutex::new(bound),
            sinks,
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
        let behind: u64 = self.sinks.iter().map(SinkView::lag_records).sum();
        format!(
            "{} listeners on {} shards by {}, gate in {}; sinks {behind} records behind",
            self.listeners.len(),
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

    /// The name of a listener, of whom the gate knows the number.
    pub fn listener_name(&self, listener: u32) -> String {
        let listener = self.listeners.get(listener as usize);
        listener.map_or_else(|| "unknown".to_owned(), |listener| listener.name.clone())
    }

    /// From here on every datagram, and every connection that is asked for, is counted as `closing`
    /// and dropped in the kernel.
    pub fn close_gate(&self) {
        let mut gate = self.gate();
        for (id, _) in self.ids() {
            gate.close(id);
        }
    }

    /// The shards are done with their sockets.
    pub fn close_sockets(&self) {
        self.refresh();
        lock(&self.bound)
            .iter_mut()
            .for_each(|bound| bound.sockets.clear());
    }

    fn ids(&self) -> impl Iterator<Item = (ListenerId, &ListenerSettings)> {
        (0..).map(ListenerId).zip(&self.listeners)
    }
}

impl StatusSource for Shared {
    fn refresh(&self) {
        lock(&self.log).publish(&log::suppressed());
        let mut publisher = lock(&self.publisher);
        let gate = self.gate();
        let bound = lock(&self.bound);
        for (id, listener) in self.ids() {
            if listener.protocol != Protocol::Udp {
                continue;
            }
            let index = usize::from(id.0);
            let counts = gate.counts(id);
            publisher.gate_datagrams(index, &counts.verdicts);
            publisher.kernel_drops(index, &counts.drops);
            publisher.gate_attached(index, gate.attached(id));
            let sizes = gate.sizes(id);
            self.registry.datagram_sizes(&listener.name, &sizes);
            let memory = bound[index]
                .sockets
                .iter()
                .map(|socket| receive_queue(socket.as_raw_fd()));
            let (used, limit) =
                memory.fold((0, 0), |sum, one| (sum.0 + one.used, sum.1 + one.limit));
            publisher.receive_buffer(index, used, limit);
        }
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
        for (index, sink) in self.sinks.iter().enumerate() {
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
        let gate = self.gate();
        let bound = lock(&self.bound);
        let listeners =
            self.ids()
                .zip(bound.iter())
                .map(|((id, listener), bound)| ListenerStatus {
                    name: listener.name.clone(),
                    protocol: match listener.protocol {
                        Protocol::Udp => "udp",
                        Protocol::Tcp => "tcp",
                    },
                    address: bound.address,
                    gate_attached: gate.attached(id),
                    counts: self.registry.listener_counts(&listener.name),
                });
        let journal = (0..).zip(&self.marks).map(|(shard, marks)| JournalStatus {
            shard,
            durable_bytes: marks.durable(),
            durable_records: marks.durable_records(),
        });
        let sinks = self.sinks.iter().map(|sink| SinkStatus {
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
            config: self.config.clone(),
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
