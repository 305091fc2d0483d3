//! The control thread: starts everything in order, watches over it, answers scrapes, and stops
//! everything in order. Tokio runs here and nowhere else.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::admin::{self, AdminState, Condition, Readiness};
use crate::config::settings::{OnFull, Settings};
use crate::config::{self, Loaded};
use crate::daemon::data::DataFolder;
use crate::daemon::disk::DiskWatch;
use crate::daemon::listen;
use crate::daemon::recall::recall;
use crate::daemon::shards::{Shard, ShardPlan, listener_plans};
use crate::daemon::status::{Shared, SinkView, Views};
use crate::exit::{Exit, Failure};
use crate::gate::{self, Gate, GateKind};
use crate::journal::dedup::StartBarrier;
use crate::journal::feed::{FeedSender, JournalMarks, SinkMark, feed};
use crate::journal::format::SEGMENT_HEADER_LEN;
use crate::journal::recovery::retire::retire;
use crate::journal::writer::{ExistingSegment, JournalPlan, JournalStart};
use crate::limits;
use crate::metric::{Registry, ShardPublisher};
use crate::schema::registry::Registry as SchemaRegistry;
use crate::schema::table::Schemas;
use crate::schema::watch::Watch;
use crate::shard::handover::Handover;
use crate::shard::op::ListenerId;
use crate::sink::run::{SinkPlan, hold, join_until, spawn};
use crate::sink::{SinkError, SinkLag, StopDeadline};

/// How often the disk, the shards and readiness are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);
/// The same while the agent starts, and how long that may take before the log says what is missing.
const READY_INTERVAL: Duration = Duration::from_millis(2);
const READY_WAIT: Duration = Duration::from_secs(1);
/// How long before the end of `stop_timeout` sinks stop delivering: one that hangs in a call is
/// waited for until then. What they did not deliver stays in the journal, for the next start.
const SINK_HANG: Duration = Duration::from_secs(2);

/// Runs the agent until a signal stops it.
pub fn run(loaded: Loaded) -> Result<(), Failure> {
    ignore_file_size_signal();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("start the control thread's runtime", &error))?;
    let outcome = runtime.block_on(live(loaded));
    // A sink that hangs in a call must not keep the process: its thread ends with it.
    runtime.shutdown_background();
    outcome
}

/// A write or an allocation beyond RLIMIT_FSIZE fails with EFBIG, which is treated as a full disk, and
/// sends SIGXFSZ, whose default is to end the process.
fn ignore_file_size_signal() {
    // SAFETY: SIG_IGN is no handler: nothing of ours runs in a signal's context.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

async fn live(loaded: Loaded) -> Result<(), Failure> {
    let mut signals = Signals::watch()?;
    let mut agent = Agent::start(&loaded)?;
    let (stop_admin, admin_stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(admin::serve(
        agent.admin_listener()?,
        agent.admin_state(),
        async move {
            let _ = admin_stopped.await;
        },
    ));
    let logger = agent.gate_logger();
    agent.wait_until_ready().await?;

    let mut watch = tokio::time::interval(WATCH_INTERVAL);
    let failure = loop {
        tokio::select! {
            name = signals.stop() => {
                tracing::info!("{name}: stopping; a second signal ends the process at once");
                break None;
            }
            _ = watch.tick() => {
                if let Err(failure) = agent.watch() {
                    tracing::error!("{failure}");
                    break Some(failure);
                }
            }
        }
    };

    let stopped = tokio::select! {
        stopped = agent.stop() => stopped,
        name = signals.stop() => {
            tracing::warn!("{name} again: ending at once; the journal keeps what was acknowledged");
            // What a shell reports of a process that SIGTERM ended.
            std::process::exit(128 + libc::SIGTERM);
        }
    };
    if let Some(logger) = logger {
        logger.abort();
    }
    let _ = stop_admin.send(());
    let _ = serving.await;
    tracing::info!("stopped");
    failure.map_or(stopped, Err)
}

/// The signals that a service manager and a terminal send.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn watch() -> Result<Self, Failure> {
        let watch = |kind| signal(kind).map_err(|error| Failure::io("watch a signal", &error));
        Ok(Self {
            terminate: watch(SignalKind::terminate())?,
            interrupt: watch(SignalKind::interrupt())?,
            hangup: watch(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal that stops the agent, and names it.
    async fn stop(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => {
                    tracing::warn!("SIGHUP: this version reloads nothing; restart to change settings");
                }
            }
        }
    }
}

type SinkThread = JoinHandle<Result<(), SinkError>>;

/// Everything that runs.
struct Agent {
    shared: Arc<Shared>,
    readiness: Arc<Readiness>,
    registry: Arc<Registry>,
    admin: Option<std::net::TcpListener>,
    admin_address: SocketAddr,
    shards: Vec<Shard>,
    sinks: Vec<(String, SinkThread)>,
    sink_stop: Arc<StopDeadline>,
    disk: DiskWatch,
    stop_timeout: Duration,
    data: DataFolder,
    /// Looked at by `watch` only, until they are done with.
    left_behind: Mutex<Vec<LeftBehind>>,
    /// Ends with the agent.
    _schemas: Watch,
}

impl Agent {
    /// In this order: what can be wrong without harm first, what others see last.
    fn start(loaded: &Loaded) -> Result<Self, Failure> {
        let started = Instant::now();
        let settings = &loaded.settings;
        for warning in config::warnings(settings) {
            tracing::warn!("{warning}");
        }
        let shard_count = settings.shard_count(config::cores());
        let data = DataFolder::open(&settings.data_dir)?;
        let admin = bind_admin(settings.admin.address)?;
        let admin_address = admin
            .local_addr()
            .map_err(|error| Failure::io("look up the admin address", &error))?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_unix_ns = since.map_or(0, |since| since.as_nanos() as u64);
        let inherited = recall(&data, settings, shard_count, now_unix_ns)?;
        let mut gate = Gate::open(settings.gate.mode, settings.listeners.len())
            .map_err(|error| Failure::new(Exit::Unavailable, format!("the gate: {error}")))?;
        let gate_kind = gate.kind();
        let registry = Arc::new(Registry::new());
        let mut bound = Vec::new();
        for (index, listener) in settings.listeners.iter().enumerate() {
            let id = ListenerId(index as u16);
            let listening = listen::bind(id, listener, shard_count, &mut gate)?;
            tracing::info!(listener = %listener.name, address = %listening.address, "listening");
            bound.push(listening);
        }

        let sink_stop = Arc::new(StopDeadline::default());
        let segment_len = limits::segment_len(settings.journal.max_size / u64::from(shard_count));
        let disk = DiskWatch::new(
            settings.journal.min_free,
            u64::from(shard_count) * segment_len,
        );
        disk.look(data.path());
        let schemas = SchemaRegistry::open(settings, data.path());
        let delivered = schemas.delivered().clone();
        let mut sinks = Sinks::new(settings, data.path(), &delivered, &sink_stop);
        let handovers = Handover::for_shards(shard_count);
        let mut shards = Vec::new();
        let mut marks = Vec::new();
        let size_max = settings.journal.max_size / u64::from(shard_count);
        for (shard, (start, recalled)) in (0..).zip(inherited.shards) {
            let shard_marks = Arc::new(JournalMarks::new(start.position, start.records));
            if settings.journal.on_full == OnFull::DropOldest {
                // What an earlier life has dropped is told apart from what is missing.
                if let Some((oldest, _)) = data.oldest(shard)? {
                    shard_marks.drop_until(oldest);
                }
            }
            let feeds = sinks.start(shard, &shard_marks)?;
            let publisher = ShardPublisher::new(&registry, &settings.listeners, shard);
            let stand_in = gate_kind == GateKind::UserSpace;
            shards.push(Shard::start(ShardPlan {
                shard,
                shards: shard_count,
                folder: data.shard_folder(shard),
                journal: JournalPlan {
                    commit_interval: settings.journal.commit_interval,
                    commit_size: settings.journal.commit_size as usize,
                    sync: settings.journal.sync,
                    sync_interval: settings.journal.sync_interval,
                    segment_len: limits::segment_len(size_max),
                    size_max,
                    start,
                    recalled,
                    feeds,
                    marks: Arc::clone(&shard_marks),
                    disk_low: Arc::clone(disk.low()),
                    on_full: settings.journal.on_full,
                    // A hasher of the standard library is seeded by the kernel's random numbers.
                    salt_seed: RandomState::new().build_hasher().finish(),
                },
                handover: (shard_count > 1).then(|| handovers[usize::from(shard)].clone()),
                schemas: schemas.accepted().clone(),
                listeners: listener_plans(shard, &settings.listeners, &bound, stand_in),
                observer: Box::new(publisher),
                stop_timeout: settings.stop_timeout,
            })?);
            marks.push(shard_marks);
        }
        let mut left_behind = Vec::new();
        for (shard, start) in inherited.left_behind {
            if !start.existing.is_empty() {
                let barrier = inherited.barrier.clone();
                left_behind.push(LeftBehind::deliver(shard, start, barrier, &mut sinks)?);
            }
        }

        let views = Views {
            sinks: sinks.views,
            schemas: Arc::clone(schemas.view()),
            disk: disk.space(),
        };
        let schemas = Watch::start(schemas)
            .map_err(|error| Failure::io("start the thread that looks at schemas_dir", &error))?;
        let shared = Shared::new(loaded, started, gate, bound, marks, views, &registry);
        Ok(Self {
            shared: Arc::new(shared),
            readiness: Arc::new(Readiness::default()),
            registry,
            admin: Some(admin),
            admin_address,
            shards,
            sinks: sinks.threads,
            sink_stop,
            disk,
            stop_timeout: settings.stop_timeout,
            data,
            left_behind: Mutex::new(left_behind),
            _schemas: schemas,
        }
        .listening())
    }

    fn listening(self) -> Self {
        self.readiness.set(Condition::ListenersBound, true);
        self
    }

    fn admin_listener(&mut self) -> Result<tokio::net::TcpListener, Failure> {
        let listener = self.admin.take().expect("taken once, at the start");
        tokio::net::TcpListener::from_std(listener)
            .map_err(|error| Failure::io("serve the admin address", &error))
    }

    fn admin_state(&self) -> AdminState {
        AdminState {
            registry: Arc::clone(&self.registry),
            readiness: Arc::clone(&self.readiness),
            source: Arc::clone(&self.shared) as Arc<dyn admin::StatusSource>,
        }
    }

    /// Hands on what the eBPF programs log.
    fn gate_logger(&self) -> Option<tokio::task::JoinHandle<()>> {
        let logger = self.shared.gate().take_logger()?;
        Some(tokio::spawn(async move {
            if let Err(error) = gate::log::forward(logger).await {
                tracing::warn!("the gate's log cannot be read: {error}");
            }
        }))
    }

    /// Says how the start went, once the journal takes frames or has had time to.
    async fn wait_until_ready(&self) -> Result<(), Failure> {
        while !self.readiness.is_ready() && self.shared.started.elapsed() < READY_WAIT {
            self.watch()?;
            tokio::time::sleep(READY_INTERVAL).await;
        }
        let milliseconds = self.shared.started.elapsed().as_millis() as u64;
        let (shards, admin) = (self.shards.len(), self.admin_address);
        let gate = self.shared.gate_kind.label();
        match self.readiness.is_ready() {
            true => tracing::info!(milliseconds, shards, gate, %admin, "ready"),
            false => tracing::warn!(
                milliseconds, shards, gate, %admin,
                "not ready yet: the journal is not writable, senders are told to try later",
            ),
        }
        Ok(())
    }

    /// Looks at the disk and at the shards; an error means that the agent cannot go on.
    fn watch(&self) -> Result<(), Failure> {
        self.disk.look(self.data.path());
        self.retire_left_behind();
        let writable = self.shared.marks.iter().all(|marks| marks.is_writable());
        self.readiness.set(Condition::JournalWritable, writable);
        match self.shards.iter().position(Shard::is_finished) {
            Some(shard) => Err(Failure::new(
                Exit::Software,
                format!("shard {shard} has ended by itself; stopping the others"),
            )),
            None => Ok(()),
        }
    }

    /// Lets go of the journals of shards that are gone, each once nobody needs it.
    fn retire_left_behind(&self) {
        let mut all = self
            .left_behind
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.retain(|left| {
            if !left.is_done() {
                return true;
            }
            let shard = left.shard;
            match retire(&self.data.shard_folder(shard), shard, &left.start) {
                Ok(()) => tracing::info!(shard, "the journal of a shard that is gone is delivered"),
                Err(error) => {
                    tracing::error!(shard, "the next start tries again: {error}");
                }
            }
            false
        });
    }

    /// Closes the gate, then the shards, then the sinks.
    async fn stop(&mut self) -> Result<(), Failure> {
        self.readiness.set(Condition::ListenersBound, false);
        self.shared.close_gate();
        let end = Instant::now() + self.stop_timeout;
        for shard in &self.shards {
            shard.stop();
        }
        let shards = std::mem::take(&mut self.shards);
        let sinks = std::mem::take(&mut self.sinks);
        let sink_stop = Arc::clone(&self.sink_stop);
        let joined = tokio::task::spawn_blocking(move || {
            let mut outcome = Ok(());
            for shard in shards {
                // The writer goes with its shard, and with it the feeds: sinks see the end.
                if let Err(error) = shard.join() {
                    outcome = Err(Failure::io("a shard's ring", &error));
                }
            }
            sink_stop.set(end - SINK_HANG);
            for (name, thread) in sinks {
                if let Err(failure) = join_sink(&name, thread, end) {
                    outcome = outcome.and(Err(failure));
                }
            }
            outcome
        });
        let outcome = joined
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        self.shared.close_sockets();
        outcome
    }
}

/// Waits for one sink; what it could not deliver stays in the journal.
fn join_sink(name: &str, thread: SinkThread, deadline: Instant) -> Result<(), Failure> {
    match join_until(thread, deadline) {
        Some(Ok(Ok(()))) => Ok(()),
        Some(Ok(Err(error))) => Err(Failure::new(
            Exit::Io,
            format!("sink {name}: {error}; the journal keeps the rest"),
        )),
        Some(Err(panic)) => std::panic::resume_unwind(panic),
        None => Err(Failure::new(
            Exit::Io,
            format!("sink {name} hangs in its output; the journal keeps what it did not deliver"),
        )),
    }
}

fn bind_admin(address: SocketAddr) -> Result<std::net::TcpListener, Failure> {
    let bound = std::net::TcpListener::bind(address);
    let listener =
        bound.map_err(|error| Failure::io(format!("admin: cannot listen on {address}"), &error))?;
    listener
        .set_nonblocking(true)
        .map_err(|error| Failure::io("make the admin socket non-blocking", &error))?;
    Ok(listener)
}

/// The sinks' threads as they are started, shard by shard.
struct Sinks<'a> {
    settings: &'a Settings,
    data_dir: PathBuf,
    schemas: &'a Schemas,
    stop: &'a Arc<StopDeadline>,
    views: Vec<SinkView>,
    threads: Vec<(String, SinkThread)>,
}

impl<'a> Sinks<'a> {
    fn new(
        settings: &'a Settings,
        data_dir: &std::path::Path,
        schemas: &'a Schemas,
        stop: &'a Arc<StopDeadline>,
    ) -> Self {
        let views = settings
            .sinks
            .iter()
            .map(|sink| SinkView::new(&sink.name))
            .collect();
        Self {
            settings,
            data_dir: data_dir.to_owned(),
            schemas,
            stop,
            views,
            threads: Vec::new(),
        }
    }

    /// Starts each sink's thread for one shard, whose journal is recovered.
    fn start(&mut self, shard: u16, marks: &Arc<JournalMarks>) -> Result<Vec<FeedSender>, Failure> {
        let sinks = self.settings.sinks.len().max(1);
        // One block more than the queue holds is in the sink's hands.
        let queued = (limits::JOURNAL_BLOCKS_SHARED_MAX / sinks)
            .saturating_sub(1)
            .max(1);
        let mut senders = Vec::new();
        for (settings, view) in self.settings.sinks.iter().zip(&mut self.views) {
            let (sender, receiver) = feed(marks, queued);
            let lag = Arc::new(SinkLag::default());
            view.shards.push((
                Arc::clone(marks),
                Arc::clone(&sender.mark),
                Arc::clone(&lag),
            ));
            // Its end of the feed keeps the journal's segments, whether the sink runs or not.
            senders.push(sender);
            let plan = SinkPlan {
                settings: settings.clone(),
                shard,
                data_dir: self.data_dir.clone(),
                feed: receiver,
                schemas: self.schemas.clone(),
                stats: Arc::clone(&view.stats),
                lag,
                stop: Arc::clone(self.stop),
            };
            if !settings.enabled {
                hold(&plan).map_err(|error| {
                    Failure::new(Exit::Io, format!("sink {}: {error}", settings.name))
                })?;
                continue;
            }
            let thread = spawn(plan)
                .map_err(|error| Failure::io(format!("start sink {}", settings.name), &error))?;
            self.threads.push((settings.name.clone(), thread));
        }
        Ok(senders)
    }
}

/// The journal of a shard that an earlier, larger configuration had: it is delivered and gets no
/// more.
struct LeftBehind {
    shard: u16,
    start: JournalStart,
    /// How far each sink has it.
    sinks: Vec<Arc<SinkMark>>,
    barrier: Option<Arc<StartBarrier>>,
    /// Nothing is left of it but what `retire` leaves.
    is_retired: bool,
}

impl LeftBehind {
    fn deliver(
        shard: u16,
        start: JournalStart,
        barrier: Option<Arc<StartBarrier>>,
        sinks: &mut Sinks<'_>,
    ) -> Result<Self, Failure> {
        let is_page = |segment: &ExistingSegment| segment.bytes == SEGMENT_HEADER_LEN as u64;
        let is_retired = start.existing.iter().all(is_page);
        if !is_retired {
            tracing::info!(
                shard,
                records = start.records,
                "delivering the journal of a shard that is gone"
            );
        }
        let marks = Arc::new(JournalMarks::new(start.position, start.records));
        let senders = sinks.start(shard, &marks)?;
        let sinks = senders.iter().map(|feed| Arc::clone(&feed.mark)).collect();
        // Without its senders a feed is closed: the sinks read what is there and end.
        drop(senders);
        marks.close();
        Ok(Self {
            shard,
            start,
            sinks,
            barrier,
            is_retired,
        })
    }

    /// Whether nobody needs it: every sink has all of it, and what it remembered of the producers
    /// is durable in the journals of those who own them now. Without a sink it is the only copy.
    fn is_done(&self) -> bool {
        let is_durable = self
            .barrier
            .as_ref()
            .is_none_or(|barrier| barrier.is_passed());
        let has_all = |mark: &Arc<SinkMark>| mark.committed() >= self.start.position;
        is_durable && !self.is_retired && !self.sinks.is_empty() && self.sinks.iter().all(has_all)
    }
}
