//! What the programs say (aya-log), handed on to the agent's own log.

use std::io;

use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The programs' log lines; [`forward`] drives it.
pub type GateLogger = EbpfLogger<ToTracing>;

/// The `log` crate's records as `tracing` events.
pub struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let message = record.args();
        match record.level() {
            log::Level::Error => tracing::error!(target: "penstock::gate", "{message}"),
            log::Level::Warn => tracing::warn!(target: "penstock::gate", "{message}"),
            log::Level::Info => tracing::info!(target: "penstock::gate", "{message}"),
            log::Level::Debug => tracing::debug!(target: "penstock::gate", "{message}"),
            log::Level::Trace => tracing::trace!(target: "penstock::gate", "{message}"),
        }
    }

    fn flush(&self) {}
}

/// Hands on log lines until the task is dropped; an error means that the ring buffer cannot be
/// waited for. Lines are rare by design: the first of a kind on each CPU.
pub async fn forward(logger: GateLogger) -> io::Result<()> {
    // SAFETY: the logger owns its ring buffer's descriptor and never replaces it: it is the same,
    // and open, for as long as the logger, which the `AsyncFd` keeps.
    let mut logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }
        .map_err(|error| error.into_parts().1)?;
    loop {
        let mut ready = logger.readable_mut().await?;
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}
