//! The control thread: starts everything in order, watches over it, answers scrapes and requests,
//! and stops everything in order. Tokio runs here and nowhere else.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::admin;
use crate::config::Loaded;
use crate::daemon::agent::Agent;
use crate::daemon::reload;
use crate::daemon::request::Ask;
use crate::daemon::signal::{Asked, Signals};
use crate::daemon::systemd::{Service, SocketStore};
use crate::exit::Failure;
use crate::limits;
use crate::log;
use crate::privilege;

/// How often the disk, the shards and readiness are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);
/// The same while a reload is under way: what shards and sinks have done is looked at.
const CHANGE_INTERVAL: Duration = Duration::from_millis(5);

/// Runs the agent until a signal stops it.
pub fn run(loaded: Loaded) -> Result<(), Failure> {
    ignore_file_size_signal();
    let store = SocketStore::from_environment();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Its helpers, which wait in calls that block; this thread is not one of them.
        .on_thread_start(privilege::give_up)
        .build()
        .map_err(|error| Failure::io("start the control thread's runtime", &error))?;
    let outcome = runtime.block_on(live(loaded, store));
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

async fn live(loaded: Loaded, store: SocketStore) -> Result<(), Failure> {
    let mut signals = Signals::watch()?;
    let mut service = Service::from_environment();
    let mut agent = Agent::start(&loaded, store)?;
    let (stop_admin, admin_stopped) = oneshot::channel::<()>();
    let (ask, mut asked) = mpsc::channel::<Ask>(limits::CONTROL_REQUESTS);
    let serving = tokio::spawn(admin::serve(
        agent.admin_listener()?,
        agent.control_socket(),
        agent.admin_state(),
        ask,
        async move {
            let _ = admin_stopped.await;
        },
    ));
    let logger = agent.gate_logger();
    agent.wait_until_ready().await?;
    service.look(Instant::now(), agent.standing());

    let mut watch = tokio::time::interval(WATCH_INTERVAL);
    let mut change = tokio::time::interval(CHANGE_INTERVAL);
    change.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told_reloading = false;
    let failure = loop {
        // The service manager is told of a reload, however it was asked for.
        let is_reloading = agent.is_reloading();
        match (told_reloading, is_reloading) {
            (false, true) => service.reloading(),
            (true, false) => service.ready_again(),
            _ => {}
        }
        told_reloading = is_reloading;
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Stop(name) => {
                    tracing::info!("{name}: stopping; a second signal ends the process at once");
                    break None;
                }
                Asked::Reload => {
                    tracing::info!("SIGHUP: reloading");
                    agent.ask_reload(reload::Asked { reply: None, dry_run: false });
                }
            },
            Some(ask) = asked.recv() => {
                agent.ask(ask);
            }
            _ = change.tick(), if agent.is_changing() => agent.tend(),
            _ = watch.tick() => {
                log::sum_up();
                if let Err(failure) = agent.watch() {
                    tracing::error!("{failure}");
                    break Some(failure);
                }
                service.look(Instant::now(), agent.standing());
            }
        }
    };

    service.stopping("Stopping: what was taken is synced, acknowledged and delivered");
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
