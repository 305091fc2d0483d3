//! What the agent says of itself: to journald with its fields, or to standard error as lines for a
//! person or as JSON. Its level changes while it runs; complaints that repeat are held back and
//! summed up.
//!
//! There is one log in a process, as there is one `tracing` subscriber. Before `start`, and in
//! commands that have none, the functions here do nothing.

mod filter;
mod journald;
mod output;
mod repeats;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use tracing::Level;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::exit::{Exit, Failure};
pub use filter::{LogFilter, NoLevel};
pub use repeats::Complaint;
use repeats::{HoldBack, SUMMARY_TARGET, Summary};

/// The configuration's `[log]`.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    pub level: LogFilter,
    pub format: LogFormat,
}

/// Where lines go, and what they look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Journald where standard error is its stream, else human.
    Auto,
    Journald,
    Human,
    Json,
}

struct Log {
    handle: reload::Handle<EnvFilter, Registry>,
    level: Mutex<LogFilter>,
    /// By --log or PENSTOCK_LOG: the configuration's level does not count.
    overriding: Option<LogFilter>,
    format: LogFormat,
    repeats: Arc<HoldBack>,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Begins the process's log. `overriding` is what the command line or the environment asks for.
pub fn start(settings: &LogSettings, overriding: Option<LogFilter>) -> Result<(), Failure> {
    let level = overriding.clone().unwrap_or_else(|| settings.level.clone());
    let (filter, handle) = reload::Layer::new(level.env_filter());
    let repeats = Arc::new(HoldBack::new(Instant::now()));
    let (output, trouble) = output::layer(settings.format);
    let subscriber = tracing_subscriber::registry()
        .with(filter)
        .with(Arc::clone(&repeats).layer())
        .with(output);
    subscriber.try_init().map_err(|error| {
        Failure::new(Exit::Software, format!("the log was begun twice: {error}"))
    })?;
    let log = Log {
        handle,
        level: Mutex::new(level),
        overriding,
        format: settings.format,
        repeats,
    };
    assert!(LOG.set(log).is_ok(), "begun once: try_init said so");
    if let Some(trouble) = trouble {
        tracing::warn!("{trouble}");
    }
    Ok(())
}

/// A reload: the level of the file that was read holds from here on, unless the command line or the
/// environment said another. Returns the keys that have changed and need a restart.
pub fn apply(settings: &LogSettings) -> Vec<&'static str> {
    let Some(log) = LOG.get() else {
        return Vec::new();
    };
    log.set(log.overriding.as_ref().unwrap_or(&settings.level).clone());
    match settings.format == log.format {
        true => Vec::new(),
        false => vec!["log.format"],
    }
}

/// The level in force; `None` before `start`.
pub fn level() -> Option<LogFilter> {
    LOG.get().map(|log| log.level().clone())
}

/// A level for now: until the next reload, or the end. Returns the one that held.
pub fn set_level(level: LogFilter) -> Option<LogFilter> {
    LOG.get().map(|log| log.set(level))
}

/// Says how often what was held back would have been said, where its time is over. To be called a
/// few times a second, by one thread.
pub fn sum_up() {
    if let Some(log) = LOG.get() {
        log.repeats.due().iter().for_each(say);
    }
}

/// The same of all there is: nothing that was held back goes unmentioned at the end.
pub fn finish() {
    if let Some(log) = LOG.get() {
        log.repeats.all().iter().for_each(say);
    }
}

/// How many complaints were held back since the start, by level.
pub fn suppressed() -> [u64; Complaint::COUNT] {
    LOG.get()
        .map_or([0; Complaint::COUNT], |log| log.repeats.suppressed())
}

impl Log {
    fn level(&self) -> MutexGuard<'_, LogFilter> {
        self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, level: LogFilter) -> LogFilter {
        let mut current = self.level();
        if *current != level
            && let Err(error) = self.handle.reload(level.env_filter())
        {
            // Only where the subscriber is gone, which lives as long as the process.
            tracing::error!("the log's level stays {current}: {error}");
            return current.clone();
        }
        std::mem::replace(&mut *current, level)
    }
}

/// With a target of its own, by which it is not held back itself.
fn say(summary: &Summary) {
    let repeated = summary.repeated;
    match summary.complaint.level() {
        Level::ERROR => tracing::error!(target: SUMMARY_TARGET, repeated, "{summary}"),
        _ => tracing::warn!(target: SUMMARY_TARGET, repeated, "{summary}"),
    }
}
