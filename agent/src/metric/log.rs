//! How much of the agent's own log was held back.

use metrics::Counter;

use super::{Registry, add_differences, family};
use crate::log::Complaint;

pub struct LogPublisher {
    suppressed: [Counter; Complaint::COUNT],
    last: [u64; Complaint::COUNT],
}

impl LogPublisher {
    pub fn new(registry: &Registry) -> Self {
        Self {
            suppressed: Complaint::ALL
                .map(|one| registry.counter(&family::LOG_SUPPRESSED, &[one.label()])),
            last: [0; Complaint::COUNT],
        }
    }

    /// Counts since the start.
    pub fn publish(&mut self, now: &[u64; Complaint::COUNT]) {
        add_differences(&self.suppressed, &mut self.last, now);
    }
}
