//! Whether the agent can do its work: named conditions, set by whoever knows.

use std::sync::atomic::{AtomicBool, Ordering};

/// What must hold before the agent is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Every configured listener's socket is bound, on every shard.
    ListenersBound,
    /// Every shard's journal has a segment that takes writes.
    JournalWritable,
}

impl Condition {
    pub const ALL: [Self; 2] = [Self::ListenersBound, Self::JournalWritable];

    pub const fn label(self) -> &'static str {
        match self {
            Self::ListenersBound => "listeners_bound",
            Self::JournalWritable => "journal_writable",
        }
    }

    /// What is said where it does not hold.
    pub const fn words_of_lack(self) -> &'static str {
        match self {
            Self::ListenersBound => "the listeners are not bound",
            Self::JournalWritable => "the journal is not writable",
        }
    }
}

/// Nothing holds at first; what held may cease to (a full disk).
#[derive(Debug, Default)]
pub struct Readiness {
    holds: [AtomicBool; Condition::ALL.len()],
}

impl Readiness {
    pub fn set(&self, condition: Condition, holds: bool) {
        self.holds[condition as usize].store(holds, Ordering::Release);
    }

    pub fn is_ready(&self) -> bool {
        self.missing().next().is_none()
    }

    /// What does not hold.
    pub fn missing(&self) -> impl Iterator<Item = Condition> {
        Condition::ALL
            .into_iter()
            .filter(|&condition| !self.holds[condition as usize].load(Ordering::Acquire))
    }
}
