//! Sinks: readers of a shard's journal that deliver its records somewhere and keep a durable cursor.
//!
//! `run` is the loop that every sink shares: blocks from memory while it keeps up, from disk when
//! it lags, a commit at bounds, a retry after a failure. `file` is the sink that writes files,
//! `forward` the one that hands over to another Penstock.
//! A sink knows the journal's reader and nothing of the shards' sockets.

pub mod clock;
pub mod file;
pub mod forward;
pub mod run;
#[cfg(test)]
pub(crate) mod sample;

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use penstock_proto::reason::Reason;

use crate::journal::format::FormatFault;
pub use crate::journal::reader::BlockView as Block;
use crate::journal::reader::ReadError;
use crate::sink::clock::Clock;

/// How far a sink has come: a position in a shard's journal, always a block's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    pub position: u64,
    /// Records in the journal before `position`.
    pub records: u64,
}

/// Where records go. One value serves one sink and one shard, on one thread.
///
/// Output and cursor commit in order: first the output is durable, then the cursor that speaks of
/// it. Whatever was delivered after the last commit is undone by `resume` and delivered again, so
/// that a stored record appears once, after any crash and after any error: `resume` is also what
/// the loop calls after a failed `deliver` or `commit`.
pub trait Sink {
    /// Brings the output back to its last commit, and finishes what that commit began. `None`: this
    /// sink never committed anything of this shard.
    fn resume(&mut self) -> Result<Option<Cursor>, SinkError>;

    /// Sets the first cursor there is, durably, before anything is delivered.
    fn begin(&mut self, cursor: Cursor) -> Result<(), SinkError>;

    /// Takes the records of the block at the cursor. Entries that cannot be read are counted in
    /// `Delivered` and stepped over.
    fn deliver(&mut self, block: Block<'_>) -> Result<Delivered, SinkError>;

    /// Moves the cursor over bytes of the journal that cannot be delivered.
    fn skip_to(&mut self, cursor: Cursor);

    /// Whether the sink wants a commit before the loop's own bounds call for one.
    fn wants_commit(&self) -> bool;

    /// Makes everything delivered so far durable, and then the cursor.
    fn commit(&mut self) -> Result<Cursor, SinkError>;

    /// Commits, and closes the output so that it is complete as it stands.
    fn seal(&mut self) -> Result<Cursor, SinkError>;

    /// The clock that the loop goes by.
    fn clock(&self) -> Clock {
        Clock::host()
    }
}

/// What became of one block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    pub records: u64,
    /// Observed time of the block's last entry; 0 where it has none.
    pub observed_time_unix_nano: u64,
    /// Entries whose bytes are damaged, and the first one's fault.
    pub damaged_entries: u64,
    pub first_fault: Option<FormatFault>,
    /// Entries that this version cannot decode, and the first one's reason.
    pub undecodable_entries: u64,
    pub first_reason: Option<Reason>,
}

/// Why a sink could not go on.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error("{call} {}: {source}", path.display())]
    Output {
        call: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{call} {}: {source}", path.display())]
    Cursor {
        call: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The cursor's file is not what this sink wrote. Guessing would store records twice or never.
    #[error(
        "{}: the cursor is damaged ({what}); remove it to deliver the journal again from its \
         oldest segment, which may store records a second time",
        path.display()
    )]
    CursorDamaged { path: PathBuf, what: &'static str },
    #[error("waiting for the connection: {0}")]
    Connection(io::Error),
    #[error(transparent)]
    Journal(#[from] ReadError),
    /// The stop's deadline passed. Nothing is lost: the rest is delivered after the next start.
    #[error("stopped at its deadline, {undelivered} records behind the journal")]
    Deadline { undelivered: u64 },
}

macro_rules! error_reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal;)*) => {
        /// What went wrong in a sink: the label of `penstock_sink_errors_total{sink,reason}`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ErrorReason { $($(#[$doc])* $name,)* }

        impl ErrorReason {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            pub const COUNT: usize = Self::ALL.len();

            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

error_reasons! {
    /// No room for the output (ENOSPC, EDQUOT), or no longer file allowed (EFBIG).
    OutputFull = "output_full";
    /// Any other failure of the output.
    Output = "output";
    Cursor = "cursor";
    CursorDamaged = "cursor_damaged";
    /// The journal could not be read.
    Journal = "journal";
    /// A segment that was not yet delivered is not there.
    JournalMissing = "journal_missing";
    /// A segment that was not yet delivered was dropped to make room (`journal.on_full`).
    Dropped = "dropped";
    /// Bytes of the journal fail their checksums; stepped over.
    Damaged = "damaged";
    /// An entry that this version cannot decode; stepped over.
    Undecodable = "undecodable";
    /// The stop's deadline passed before everything was delivered.
    Deadline = "deadline";
    /// The agent that this sink forwards to could not be reached, or the connection ended.
    Connection = "connection";
    /// That agent asked to try a frame later.
    TryLater = "try_later";
    /// That agent refused a frame: its records are not delivered, and not tried again.
    Refused = "refused";
}

impl SinkError {
    pub fn reason(&self) -> ErrorReason {
        match self {
            Self::Output { source, .. } | Self::Cursor { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull
                        | io::ErrorKind::QuotaExceeded
                        | io::ErrorKind::FileTooLarge
                ) =>
            {
                ErrorReason::OutputFull
            }
            Self::Output { .. } => ErrorReason::Output,
            Self::Cursor { .. } => ErrorReason::Cursor,
            Self::CursorDamaged { .. } => ErrorReason::CursorDamaged,
            Self::Connection(_) => ErrorReason::Connection,
            Self::Journal(ReadError::Missing { .. }) => ErrorReason::JournalMissing,
            Self::Journal(ReadError::Damaged { .. }) => ErrorReason::Damaged,
            Self::Journal(_) => ErrorReason::Journal,
            Self::Deadline { .. } => ErrorReason::Deadline,
        }
    }
}

/// Why durable records are never delivered: the label of
/// `penstock_sink_skipped_records_total{sink,reason}`. What is journalled is delivered, lags or is
/// skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// Dropped to make room (`journal.on_full = "drop_oldest"`).
    Dropped,
    /// Damaged, missing, or of a kind that this version cannot decode.
    Unreadable,
    /// Refused for good by the agent that they were forwarded to.
    Refused,
}

impl SkipReason {
    pub const ALL: [Self; 3] = [Self::Dropped, Self::Unreadable, Self::Refused];
    pub const COUNT: usize = Self::ALL.len();

    pub const fn label(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Unreadable => "unreadable",
            Self::Refused => "refused",
        }
    }
}

/// What one sink counts, all its shards together; written by its threads, read by the metrics.
#[derive(Debug, Default)]
pub struct SinkStats {
    /// Records in committed output.
    pub records: AtomicU64,
    /// Records that the journal held and that will not be delivered.
    skipped: [AtomicU64; SkipReason::COUNT],
    /// Bytes written to output, retries included.
    pub bytes_written: AtomicU64,
    pub files_sealed: AtomicU64,
    errors: [AtomicU64; ErrorReason::COUNT],
}

impl SinkStats {
    pub fn count_error(&self, reason: ErrorReason, times: u64) {
        self.errors[reason as usize].fetch_add(times, Ordering::Relaxed);
    }

    pub fn count_skipped(&self, reason: SkipReason, records: u64) {
        self.skipped[reason as usize].fetch_add(records, Ordering::Relaxed);
    }

    pub fn skipped(&self, reason: SkipReason) -> u64 {
        self.skipped[reason as usize].load(Ordering::Relaxed)
    }

    pub fn errors(&self, reason: ErrorReason) -> u64 {
        self.errors[reason as usize].load(Ordering::Relaxed)
    }
}

/// One thread's own view of time behind: for `penstock_sink_lag_seconds`.
#[derive(Debug, Default)]
pub struct SinkLag {
    /// Observed time of the oldest record that is taken but not committed; 0: nothing waits.
    oldest_pending_unix_nano: AtomicU64,
}

impl SinkLag {
    pub fn set_oldest_pending(&self, unix_nano: u64) {
        self.oldest_pending_unix_nano
            .store(unix_nano, Ordering::Relaxed);
    }

    pub fn seconds(&self, now_unix_nano: u64) -> f64 {
        match self.oldest_pending_unix_nano.load(Ordering::Relaxed) {
            0 => 0.0,
            since => now_unix_nano.saturating_sub(since) as f64 / 1e9,
        }
    }
}

/// Until when a sink may go on delivering. Unset while it runs; the control thread sets it
/// once, when the agent stops or a reload takes the sink away. A sink looks at it before each block and while it waits to try again, so
/// that an output that fails or is slow ends there. A call that hangs in the kernel (a dead network
/// file system) cannot be interrupted: whoever joins the thread bounds the wait (`run::join_until`).
#[derive(Debug, Default)]
pub struct StopDeadline {
    deadline: OnceLock<Instant>,
    leaving: AtomicBool,
}

impl StopDeadline {
    pub fn set(&self, deadline: Instant) {
        // A second stop does not extend the first.
        let _ = self.deadline.set(deadline);
    }

    /// This sink goes although its journal does not: it seals what it has delivered and ends, until
    /// `deadline` at the latest. What it has not delivered stays in the journal.
    pub fn leave(&self, deadline: Instant) {
        self.set(deadline);
        self.leaving.store(true, Ordering::Release);
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    pub fn get(&self) -> Option<Instant> {
        self.deadline.get().copied()
    }

    pub fn has_passed(&self, now: Instant) -> bool {
        self.get().is_some_and(|deadline| now >= deadline)
    }
}
