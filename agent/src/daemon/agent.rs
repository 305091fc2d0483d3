//! Everything that runs: how it is started, watched and stopped.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::admin::{self, AdminState, Condition, ControlSocket, Readiness};
use crate::config::settings::OnFull;
use crate::config::{self, Loaded, Settings};
use crate::daemon::data::DataFolder;
use crate::daemon::disk::DiskWatch;
use crate::daemon::gate_requests::GateKnowledge;
use crate::daemon::left_behind::LeftBehind;
use crate::daemon::listen;
use crate::daemon::listeners::listener_plan;
use crate::daemon::recall::recall;
use crate::daemon::reload::{self, Reloads};
use crate::daemon::shards::{Shard, ShardPlan, choose_io};
use crate::daemon::sinks::{Sinks, join_sink};
use crate::daemon::status::{Shared, Views};
use crate::daemon::systemd::{SocketStore, Standing};
use crate::exit::{Exit, Failure};
use crate::gate::{self, Gate};
use crate::journal::feed::JournalMarks;
use crate::journal::recovery::retire::retire;
use crate::journal::writer::JournalPlan;
use crate::limits;
use crate::metric::{Registry, ShardPublisher};
use crate::privilege::{self, Kept};
use crate::schema::registry::Registry as SchemaRegistry;
use crate::schema::watch::Watch;
use crate::shard::handover::Handover;
use crate::shard::op::ListenerId;
use crate::shard::orders::Orders;
use crate::shard::regulation::{Board, Regulation};
use crate::shard::tenant::TenantPlan;

/// How often readiness is looked at while the agent starts, and how long that may take before the
/// log says what is missing.
const READY_INTERVAL: Duration = Duration::from_millis(2);
const READY_WAIT: Duration = Duration::from_secs(1);
/// How long before the end of `stop_timeout` sinks stop delivering: one that hangs in a call is
/// waited for until then. What they did not deliver stays in the journal, for the next start.
const SINK_HANG: Duration = Duration::from_secs(2);

/// Everything that runs.
pub struct Agent {
    pub(super) shared: Arc<Shared>,
    pub(super) gate: GateKnowledge,
    readiness: Arc<Readiness>,
    registry: Arc<Registry>,
    admin: Option<std::net::TcpListener>,
    admin_address: SocketAddr,
    control_socket: Option<ControlSocket>,
    shards: Vec<Shard>,
    /// What the shards are told while they run, by shard.
    pub(super) orders: Vec<Arc<Orders>>,
    pub(super) store: SocketStore,
    pub(super) sinks: Sinks,
    pub(super) disk: DiskWatch,
    pub(super) stop_timeout: Duration,
    /// What is in force, and the file that it is read from again.
    pub(super) settings: Settings,
    pub(super) config_file: Option<PathBuf>,
    pub(super) reloads: Reloads,
    data: DataFolder,
    /// Looked at by `watch` only, until they are done with.
    left_behind: Vec<LeftBehind>,
    /// For sockets that are opened while the agent runs.
    pub(super) kept: Kept,
    /// Ends with the agent.
    pub(super) schemas: Watch,
}

impl Agent {
    /// In this order: what can be wrong without harm first, what others see last.
    pub fn start(loaded: &Loaded, mut store: SocketStore) -> Result<Self, Failure> {
        let started = Instant::now();
        let settings = &loaded.settings;
        privilege::become_user(settings)?;
        for warning in config::warnings(settings) {
            tracing::warn!("{warning}");
        }
        let shard_count = settings.shard_count(config::cores());
        let data = DataFolder::open(&settings.data_dir)?;
        let admin = bind_admin(settings.admin.address)?;
        let admin_address = admin
            .local_addr()
            .map_err(|error| Failure::io("look up the admin address", &error))?;
        let control_socket = admin::bind_control(&settings.admin_socket())?;
        let size_max = settings.journal.max_size / u64::from(shard_count);
        let segment_len = limits::segment_len(size_max);
        let inherited = recall(
            &data,
            &settings.sinks,
            shard_count,
            limits::producers_max(segment_len),
            settings.journal.producer_expiry,
            unix_ns_now(),
        )?;
        let io = choose_io(settings.io, shard_count)?;
        let unavailable = |error: &dyn std::error::Error| {
            Failure::new(Exit::Unavailable, format!("the gate: {error}"))
        };
        let mut gate = Gate::open(settings.gate.mode).map_err(|error| unavailable(&error))?;
        // Before the first socket: no datagram is judged by less than what is configured.
        gate.apply(&settings.gate.policy)
            .map_err(|error| unavailable(&error))?;
        let registry = Arc::new(Registry::new());
        store.recall(data.path());
        store.release_unwanted(&settings.listeners, shard_count);
        let mut bound = Vec::new();
        for (index, listener) in settings.listeners.iter().enumerate() {
            let id = ListenerId(index as u16);
            let listening = listen::bind(id, listener, shard_count, &mut gate, &mut store)?;
            listen::steer(id, listener, &listening, &mut gate);
            tracing::info!(listener = %listener.name, address = %listening.address, "listening");
            bound.push(listening);
        }
        store.report();

        let disk = DiskWatch::new(
            settings.journal.min_free,
            u64::from(shard_count) * segment_len,
        );
        disk.look(data.path());
        let schemas = SchemaRegistry::open(settings, data.path());
        let delivered = schemas.delivered().clone();
        let mut sinks = Sinks::new(settings, data.path(), &delivered);
        let handovers = Handover::for_shards(shard_count);
        let orders: Vec<Arc<Orders>> = (0..shard_count).map(|_| Arc::default()).collect();
        let regulation = Regulation {
            board: Arc::new(Board::new(shard_count, gate.keep().clone())),
            tenants: TenantPlan::new(&settings.tenants).map(Arc::new),
        };
        let mut shards = Vec::new();
        let mut marks = Vec::new();
        for (shard, (start, recalled)) in (0..).zip(inherited.shards) {
            let shard_marks = Arc::new(JournalMarks::new(start.position, start.records));
            if settings.journal.on_full == OnFull::DropOldest {
                // What an earlier life has dropped is told apart from what is missing.
                if let Some((oldest, _)) = data.oldest(shard)? {
                    shard_marks.drop_until(oldest);
                }
            }
            let own_orders = &orders[usize::from(shard)];
            let feeds = sinks.start(shard, &shard_marks, Some(own_orders))?;
            let publisher = ShardPublisher::new(&registry, &settings.listeners, shard)
                .with_tenants(&registry, regulation.tenants.as_deref());
            let listeners = settings.listeners.iter().zip(&bound);
            shards.push(Shard::start(ShardPlan {
                shard,
                shards: shard_count,
                io,
                folder: data.shard_folder(shard),
                journal: JournalPlan {
                    commit_interval: settings.journal.commit_interval,
                    commit_size: settings.journal.commit_size as usize,
                    sync: settings.journal.sync,
                    sync_interval: settings.journal.sync_interval,
                    segment_len,
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
                source_connections: Arc::clone(gate.source_connections()),
                handover: (shard_count > 1).then(|| handovers[usize::from(shard)].clone()),
                schemas: schemas.accepted().clone(),
                regulation: regulation.clone(),
                listeners: listeners
                    .map(|(each, bound)| listener_plan(shard.into(), each, bound, gate.stand_in()))
                    .collect(),
                orders: Arc::clone(own_orders),
                observer: publisher,
                sockets_kept: store.is_complete(),
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
            sinks: sinks.views(),
            schemas: Arc::clone(schemas.view()),
            disk: disk.space(),
            io,
            board: regulation.board,
        };
        let schemas = Watch::start(schemas)
            .map_err(|error| Failure::io("start the thread that looks at schemas_dir", &error))?;
        let kept = privilege::settle(settings)?;
        let shared = Shared::new(loaded, started, gate, bound, marks, views, &registry);
        Ok(Self {
            shared: Arc::new(shared),
            gate: GateKnowledge::new(&settings.gate.policy),
            readiness: Arc::new(Readiness::default()),
            registry,
            admin: Some(admin),
            admin_address,
            control_socket: Some(control_socket),
            shards,
            orders,
            store,
            sinks,
            disk,
            stop_timeout: settings.stop_timeout,
            settings: settings.clone(),
            config_file: reload::main_file(loaded),
            reloads: Reloads::default(),
            data,
            left_behind,
            kept,
            schemas,
        }
        .listening())
    }

    fn listening(self) -> Self {
        self.readiness.set(Condition::ListenersBound, true);
        self
    }

    pub fn admin_listener(&mut self) -> Result<tokio::net::TcpListener, Failure> {
        let listener = self.admin.take().expect("taken once, at the start");
        tokio::net::TcpListener::from_std(listener)
            .map_err(|error| Failure::io("serve the admin address", &error))
    }

    pub fn control_socket(&mut self) -> ControlSocket {
        self.control_socket
            .take()
            .expect("taken once, at the start")
    }

    pub fn admin_state(&self) -> AdminState {
        AdminState {
            registry: Arc::clone(&self.registry),
            readiness: Arc::clone(&self.readiness),
            source: Arc::clone(&self.shared) as Arc<dyn admin::StatusSource>,
        }
    }

    /// Hands on what the eBPF programs log.
    pub fn gate_logger(&self) -> Option<tokio::task::JoinHandle<()>> {
        let logger = self.shared.gate().take_logger()?;
        Some(tokio::spawn(async move {
            if let Err(error) = gate::log::forward(logger).await {
                tracing::warn!("the gate's log cannot be read: {error}");
            }
        }))
    }

    /// Says how the start went, once the journal takes frames or has had time to.
    pub async fn wait_until_ready(&mut self) -> Result<(), Failure> {
        while !self.readiness.is_ready() && self.shared.started.elapsed() < READY_WAIT {
            self.watch()?;
            tokio::time::sleep(READY_INTERVAL).await;
        }
        let milliseconds = self.shared.started.elapsed().as_millis() as u64;
        let (shards, admin) = (self.shards.len(), self.admin_address);
        let gate = self.shared.gate_kind.label();
        let io = self.shared.io.label();
        match self.readiness.is_ready() {
            true => tracing::info!(milliseconds, shards, io, gate, %admin, "ready"),
            false => tracing::warn!(
                milliseconds, shards, io, gate, %admin,
                "not ready yet: the journal is not writable, senders are told to try later",
            ),
        }
        Ok(())
    }

    /// Looks at the disk and at the shards; an error means that the agent cannot go on.
    pub fn watch(&mut self) -> Result<(), Failure> {
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

    /// How it stands, for the service manager.
    pub fn standing(&self) -> Standing {
        let missing = self.readiness.missing();
        let missing: Vec<&str> = missing.map(Condition::words_of_lack).collect();
        let is_ready = missing.is_empty();
        let mut status = match is_ready {
            true => format!("Ready: {}", self.shared.summary()),
            false => format!("NOT READY: {}", missing.join(", ")),
        };
        if let Some(cause) = self.shared.marks.iter().find_map(|marks| marks.refusal()) {
            status.push_str(&format!("; the journal takes nothing: {}", cause.label()));
        }
        Standing {
            is_ready,
            turns: self.shards.iter().map(Shard::turns).collect(),
            status,
        }
    }

    /// Lets go of the journals of shards that are gone, each once nobody needs it.
    fn retire_left_behind(&mut self) {
        let (data, sinks) = (&self.data, &mut self.sinks);
        self.left_behind.retain(|left| {
            let shard = left.shard;
            if !left.is_done(sinks.marks_of(shard).as_deref()) {
                return true;
            }
            sinks.forget_journal(shard);
            match retire(&data.shard_folder(shard), shard, &left.start) {
                Ok(()) => tracing::info!(shard, "the journal of a shard that is gone is delivered"),
                Err(error) => {
                    tracing::error!(shard, "the next start tries again: {error}");
                }
            }
            false
        });
    }

    /// Closes the gate, unless the sockets go on in the next life; then the shards, then the sinks.
    pub async fn stop(&mut self) -> Result<(), Failure> {
        self.readiness.set(Condition::ListenersBound, false);
        if !self.store.is_complete() {
            self.shared.close_gate();
        }
        let end = Instant::now() + self.stop_timeout;
        for shard in &self.shards {
            shard.stop();
        }
        let shards = std::mem::take(&mut self.shards);
        let sinks = self.sinks.take_threads();
        let joined = tokio::task::spawn_blocking(move || {
            let mut outcome = Ok(());
            for shard in shards {
                // The writer goes with its shard, and with it the feeds: sinks see the end.
                if let Err(error) = shard.join() {
                    outcome = Err(Failure::io("a shard's fence", &error));
                }
            }
            for stop in sinks.iter().filter_map(|sink| sink.stop.as_ref()) {
                stop.set(end - SINK_HANG);
            }
            for sink in sinks {
                if let Err(failure) = join_sink(&sink.name, sink.thread, end) {
                    outcome = outcome.and(Err(failure));
                }
            }
            outcome
        });
        let outcome = joined
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        self.store.leave(self.data.path());
        self.shared.close_sockets();
        outcome
    }
}

/// 0 where the clock stands before 1970.
fn unix_ns_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
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
