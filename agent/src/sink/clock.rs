//! The time that a sink goes by: the host's, or one that a simulation moves by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Cheap to clone; clones of a stepped clock show the same time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    stepped: Option<Arc<Stepped>>,
}

#[derive(Debug)]
struct Stepped {
    /// Where intervals begin: an `Instant` cannot be made from a number.
    origin: Instant,
    start_unix_ns: u64,
    elapsed_ns: AtomicU64,
}

impl Clock {
    /// The kernel's clocks.
    pub fn host() -> Self {
        Self::default()
    }

    /// A clock that stands still until `set` moves it.
    pub fn stepped(start_unix_ns: u64) -> Self {
        let stepped = Stepped {
            origin: Instant::now(),
            start_unix_ns,
            elapsed_ns: AtomicU64::new(0),
        };
        Self {
            stepped: Some(Arc::new(stepped)),
        }
    }

    /// Moves a stepped clock to so long after its start; the host's cannot be moved.
    pub fn set(&self, elapsed_ns: u64) {
        let stepped = self.stepped.as_ref().expect("the host's clock is not ours");
        stepped.elapsed_ns.store(elapsed_ns, Ordering::Relaxed);
    }

    /// For intervals.
    pub fn instant(&self) -> Instant {
        match &self.stepped {
            None => Instant::now(),
            Some(stepped) => {
                stepped.origin + Duration::from_nanos(stepped.elapsed_ns.load(Ordering::Relaxed))
            }
        }
    }

    /// For names and ages of files.
    pub fn system(&self) -> SystemTime {
        match &self.stepped {
            None => SystemTime::now(),
            Some(stepped) => {
                let elapsed_ns = stepped.elapsed_ns.load(Ordering::Relaxed);
                UNIX_EPOCH + Duration::from_nanos(stepped.start_unix_ns + elapsed_ns)
            }
        }
    }
}
