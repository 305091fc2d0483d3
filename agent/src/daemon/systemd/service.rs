//! What the service manager is told: ready or not, alive, and in one line how it goes.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::watchdog::{Beat, Watchdog};

/// How often the line that says how it goes may change.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);
/// How much longer a start that is not over yet may take, each time that is said: some looks may be
/// missed. An agent that is not ready delivers what it has, and ending it would mend nothing.
const START_EXTENSION: Duration = Duration::from_secs(30);

/// The service manager's side of this life.
#[derive(Debug)]
pub struct Service {
    is_there: bool,
    watchdog: Option<Watchdog>,
    is_announced: bool,
    status: String,
    status_since: Option<Instant>,
}

/// How the agent stands at a look.
pub struct Standing {
    /// Listeners are bound, the gate is attached, the journal takes frames.
    pub is_ready: bool,
    /// Each shard's turns so far.
    pub turns: Vec<u64>,
    pub status: String,
}

impl Service {
    pub fn from_environment() -> Self {
        let mut usec = 0;
        let watchdog = sd_notify::watchdog_enabled(false, &mut usec)
            .then(|| Watchdog::new(Duration::from_micros(usec), Instant::now()));
        Self {
            is_there: std::env::var_os("NOTIFY_SOCKET").is_some(),
            watchdog,
            is_announced: false,
            status: String::new(),
            status_since: None,
        }
    }

    /// To be called several times a second.
    pub fn look(&mut self, now: Instant, standing: Standing) {
        if !self.is_there {
            return;
        }
        let mut message = Vec::new();
        if standing.is_ready && !self.is_announced {
            self.is_announced = true;
            message.push(NotifyState::Ready);
        }
        let rested = self
            .status_since
            .is_none_or(|since| now.duration_since(since) >= STATUS_INTERVAL);
        // The word "ready" does not wait for its line.
        let is_told = rested || !message.is_empty();
        if is_told && !self.is_announced {
            message.push(NotifyState::ExtendTimeoutUsec(
                START_EXTENSION.as_micros() as u32
            ));
        }
        if is_told && standing.status != self.status {
            self.status = standing.status;
            self.status_since = Some(now);
            message.push(NotifyState::Status(&self.status));
        } else if is_told {
            self.status_since = Some(now);
        }
        let beat = self
            .watchdog
            .as_mut()
            .map_or(Beat::NotDue, |watchdog| watchdog.look(now, &standing.turns));
        match beat {
            Beat::Due => message.push(NotifyState::Watchdog),
            Beat::Withheld {
                shard,
                is_news: true,
            } => tracing::error!(
                shard,
                "the shard does not turn: the watchdog gets no sign of life until it does",
            ),
            Beat::NotDue | Beat::Withheld { .. } => {}
        }
        send(&message);
    }

    /// The configuration is being read again; `ready_again` must follow, whatever came of it.
    pub fn reloading(&self) {
        // systemd 253 and later want to know when it began.
        if let (true, Ok(now)) = (self.is_announced, NotifyState::monotonic_usec_now()) {
            send(&[NotifyState::Reloading, now]);
        }
    }

    pub fn ready_again(&self) {
        if self.is_announced {
            send(&[NotifyState::Ready]);
        }
    }

    pub fn stopping(&self, status: &str) {
        if self.is_there {
            send(&[NotifyState::Stopping, NotifyState::Status(status)]);
        }
    }
}

/// A message that does not arrive is the service manager's loss: it asks again in its own way.
fn send(message: &[NotifyState<'_>]) {
    if message.is_empty() {
        return;
    }
    if let Err(error) = sd_notify::notify(false, message) {
        tracing::warn!("NOTIFY_SOCKET: the service manager is not told: {error}");
    }
}
