//! Complaints that repeat: the first ones of a kind are said, the others counted and summed up.
//!
//! A kind is one place in the code. What is said there may differ from time to time (an address, a
//! file), which is why some are let through before any is held back. Only errors and warnings are:
//! who asks for debug wants all of it, and what is said at info is said once for each thing.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::limits::{LOG_KINDS_MAX, LOG_REPEATS_MAX, LOG_TEXT_LEN_MAX};

/// What is held back is summed up when it began this long ago.
const INTERVAL: Duration = Duration::from_secs(60);
/// The target of summaries.
pub const SUMMARY_TARGET: &str = "penstock::log";

/// The levels that are held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    Error,
    Warning,
}

impl Complaint {
    pub const ALL: [Self; 2] = [Self::Error, Self::Warning];
    pub const COUNT: usize = Self::ALL.len();

    pub const fn label(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warn",
        }
    }

    pub const fn level(self) -> Level {
        match self {
            Self::Error => Level::ERROR,
            Self::Warning => Level::WARN,
        }
    }

    fn of(level: &Level) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.level() == *level)
    }
}

/// What was held back of one kind.
#[derive(Debug, PartialEq, Eq)]
pub struct Summary {
    pub complaint: Complaint,
    pub repeated: u64,
    pub over: Duration,
    /// What the first one that was held back would have said, shortened.
    pub text: String,
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (repeated, seconds) = (grouped(self.repeated), self.over.as_secs());
        write!(
            formatter,
            "{} … and {repeated} more like this in {seconds} s",
            self.text
        )
    }
}

/// `1,234`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The kinds and their times, without a clock: `now` only ever rises.
struct Repeats<Kind> {
    /// Kinds beyond the bound share `None`.
    windows: HashMap<Option<Kind>, Window>,
}

/// From the first complaint of a kind until it is summed up.
struct Window {
    began: Duration,
    said: u32,
    held: u64,
    complaint: Complaint,
    text: String,
}

impl<Kind: std::hash::Hash + Eq> Repeats<Kind> {
    fn new() -> Self {
        Self {
            windows: HashMap::with_capacity(LOG_KINDS_MAX + 1),
        }
    }

    /// Whether this one is said; if not, it is counted. `text` is asked for once in a window.
    fn judge(
        &mut self,
        kind: Kind,
        complaint: Complaint,
        now: Duration,
        text: impl FnOnce() -> String,
    ) -> bool {
        let is_full = self.windows.len() >= LOG_KINDS_MAX;
        let kind = match Some(kind) {
            kind if is_full && !self.windows.contains_key(&kind) => None,
            kind => kind,
        };
        let window = self.windows.entry(kind).or_insert_with(|| Window {
            began: now,
            said: 0,
            held: 0,
            complaint,
            text: String::new(),
        });
        if window.said < LOG_REPEATS_MAX {
            window.said += 1;
            return true;
        }
        if window.held == 0 {
            window.text = text();
            // Those who share a window may be of either level.
            window.complaint = complaint;
        }
        window.held += 1;
        false
    }

    /// The windows that are over; their kinds begin anew.
    fn due(&mut self, now: Duration) -> Vec<Summary> {
        self.take(now, |window| now.saturating_sub(window.began) >= INTERVAL)
    }

    fn take(&mut self, now: Duration, is_over: impl Fn(&Window) -> bool) -> Vec<Summary> {
        let over = self.windows.extract_if(|_, window| is_over(window));
        over.filter(|(_, window)| window.held > 0)
            .map(|(_, window)| Summary {
                complaint: window.complaint,
                repeated: window.held,
                over: now.saturating_sub(window.began),
                text: window.text,
            })
            .collect()
    }
}

/// The same as a `tracing` layer, with the clock and the counts.
pub struct HoldBack {
    began: Instant,
    repeats: Mutex<Repeats<Identifier>>,
    suppressed: [AtomicU64; Complaint::COUNT],
}

impl HoldBack {
    pub fn new(began: Instant) -> Self {
        Self {
            began,
            repeats: Mutex::new(Repeats::new()),
            suppressed: Default::default(),
        }
    }

    pub fn layer(self: Arc<Self>) -> HoldBackLayer {
        HoldBackLayer(self)
    }

    pub fn due(&self) -> Vec<Summary> {
        self.lock().due(self.began.elapsed())
    }

    pub fn all(&self) -> Vec<Summary> {
        self.lock().take(self.began.elapsed(), |_| true)
    }

    pub fn suppressed(&self) -> [u64; Complaint::COUNT] {
        Complaint::ALL.map(|one| self.suppressed[one as usize].load(Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, Repeats<Identifier>> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct HoldBackLayer(Arc<HoldBack>);

impl<S: Subscriber> Layer<S> for HoldBackLayer {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let Some(complaint) = Complaint::of(metadata.level()) else {
            return true;
        };
        if metadata.target() == SUMMARY_TARGET {
            return true;
        }
        let now = self.0.began.elapsed();
        let kind = metadata.callsite();
        let is_said = self.0.lock().judge(kind, complaint, now, || text(event));
        if !is_said {
            self.0.suppressed[complaint as usize].fetch_add(1, Ordering::Relaxed);
        }
        is_said
    }
}

/// An event's message, shortened to its bound.
fn text(event: &Event<'_>) -> String {
    struct Message(String);
    impl Visit for Message {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            if field.name() == "message" {
                let _ = write!(self.0, "{value:?}");
            }
        }
    }
    let mut message = Message(String::new());
    event.record(&mut message);
    let Message(mut text) = message;
    text.truncate(text.floor_char_boundary(LOG_TEXT_LEN_MAX));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// As often as asked at one time; how many were said.
    fn complain(
        repeats: &mut Repeats<&'static str>,
        kind: &'static str,
        times: u32,
        now: Duration,
    ) -> u32 {
        (0..times)
            .map(|_| {
                repeats.judge(kind, Complaint::Warning, now, || {
                    format!("the {kind} is full")
                })
            })
            .map(u32::from)
            .sum()
    }

    #[test]
    fn twenty_are_said_and_the_others_summed_up_after_a_minute() {
        let mut repeats = Repeats::new();
        assert_eq!(complain(&mut repeats, "disk", 1254, SECOND), 20);
        assert_eq!(
            complain(&mut repeats, "pool", 20, SECOND),
            20,
            "another kind"
        );
        assert_eq!(repeats.due(60 * SECOND), [], "59 seconds after the first");
        let summaries = repeats.due(61 * SECOND);
        assert_eq!(
            summaries.len(),
            1,
            "nothing was held back of the other: {summaries:?}"
        );
        let said = summaries[0].to_string();
        assert_eq!(said, "the disk is full … and 1,234 more like this in 60 s");
        // And anew.
        assert_eq!(complain(&mut repeats, "disk", 21, 62 * SECOND), 20);
        assert_eq!(repeats.due(62 * SECOND), []);
        assert_eq!(repeats.due(200 * SECOND)[0].repeated, 1);
        assert!(repeats.windows.is_empty(), "what is over takes no memory");
    }

    #[test]
    fn at_the_end_everything_held_back_is_summed_up() {
        let mut repeats = Repeats::new();
        complain(&mut repeats, "disk", 23, SECOND);
        let summaries = repeats.take(4 * SECOND, |_| true);
        assert_eq!(summaries[0].repeated, 3);
        assert_eq!(summaries[0].over, 3 * SECOND);
    }

    #[test]
    fn kinds_beyond_the_bound_share_one_window() {
        let mut repeats = Repeats::new();
        for kind in 0..10 * LOG_KINDS_MAX {
            repeats.judge(kind, Complaint::Error, SECOND, String::new);
        }
        assert_eq!(repeats.windows.len(), LOG_KINDS_MAX + 1);
        let shared = 9 * LOG_KINDS_MAX as u64;
        assert_eq!(repeats.due(61 * SECOND)[0].repeated, shared - 20);
        // Those that are known are still judged by themselves.
        assert!(repeats.judge(0, Complaint::Error, 62 * SECOND, String::new));
    }

    #[test]
    fn numbers_have_commas_at_the_thousands() {
        let shown = [0, 999, 1000, 1_234_567].map(grouped);
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn the_layer_holds_back_complaints_and_nothing_else() {
        use tracing_subscriber::layer::SubscriberExt;

        #[derive(Clone, Default)]
        struct Said(Arc<Mutex<Vec<Level>>>);
        impl<S: Subscriber> Layer<S> for Said {
            fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
                self.0
                    .lock()
                    .expect("whole")
                    .push(*event.metadata().level());
            }
        }

        let said = Said::default();
        let repeats = Arc::new(HoldBack::new(Instant::now()));
        let subscriber = tracing_subscriber::registry()
            .with(Arc::clone(&repeats).layer())
            .with(said.clone());
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..50 {
                tracing::error!(number, "é{}", "x".repeat(LOG_TEXT_LEN_MAX));
                tracing::warn!("warned");
                tracing::info!("informed");
            }
        });
        let said = said.0.lock().expect("whole");
        let count = |level| said.iter().filter(|one| **one == level).count();
        assert_eq!(
            [Level::ERROR, Level::WARN, Level::INFO].map(count),
            [20, 20, 50]
        );
        assert_eq!(repeats.suppressed(), [30, 30]);
        let mut summaries = repeats.all();
        summaries.sort_by_key(|one| one.complaint.label());
        assert_eq!(summaries[1].text, "warned");
        assert_eq!(summaries[0].text.len(), LOG_TEXT_LEN_MAX);
        assert!(summaries[0].text.starts_with("éx"));
    }
}
