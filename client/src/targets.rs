//! Which of several agents to send to.
//!
//! The first is preferred. Another is taken when the present one is no use (`failover_after`), kept
//! as long as it is (sticky), and left for the first after `return_after`, at a moment when no frame
//! is in an unknown state; where the first is still not there, the way back costs one attempt.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Targets {
    current: usize,
    /// Since when the present one is that; `None`: from the beginning.
    since: Option<Instant>,
    /// By target: it asked to be left alone until then.
    rest_until: Vec<Option<Instant>>,
    /// Attempts in a row that did not reach any target.
    tried: usize,
    /// When to look whether the first is there again; only while another is the present one.
    return_at: Option<Instant>,
    /// An attempt at the first is under way, from this one.
    came_from: Option<usize>,
}

impl Targets {
    pub fn new(count: usize) -> Self {
        assert!(count > 0, "a producer without a target");
        Self {
            current: 0,
            since: None,
            rest_until: vec![None; count],
            tried: 0,
            return_at: None,
            came_from: None,
        }
    }

    pub fn current(&self) -> usize {
        self.current
    }

    pub fn are_several(&self) -> bool {
        self.rest_until.len() > 1
    }

    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    pub fn return_at(&self) -> Option<Instant> {
        self.return_at
    }

    /// The next one that did not ask to be left alone becomes the present one; `false` where there
    /// is none. `rest_until` is what the present one asked for.
    pub fn leave(
        &mut self,
        now: Instant,
        rest_until: Option<Instant>,
        return_after: Duration,
    ) -> bool {
        self.rest_until[self.current] = rest_until;
        let count = self.rest_until.len();
        let next = (1..count)
            .map(|step| (self.current + step) % count)
            .find(|&target| self.rest_until[target].is_none_or(|until| until <= now));
        let Some(next) = next else {
            return false;
        };
        self.adopt(next, now, return_after);
        true
    }

    fn adopt(&mut self, target: usize, now: Instant, return_after: Duration) {
        self.current = target;
        self.since = Some(now);
        self.return_at =
            (target != 0).then(|| (now + return_after).max(self.rest_until[0].unwrap_or(now)));
        self.came_from = None;
    }

    /// The present one is left to see whether the first is there again.
    pub fn try_first(&mut self) {
        self.came_from = Some(self.current);
        self.current = 0;
        self.return_at = None;
    }

    /// A connection is open.
    pub fn on_connected(&mut self, now: Instant) {
        self.tried = 0;
        if self.came_from.take().is_some() {
            self.since = Some(now);
        }
    }

    /// The present one did not take a connection. `true`: it was the first, looked at in passing,
    /// and the one before it is the present one again.
    pub fn on_connect_failed(&mut self, now: Instant, return_after: Duration) -> bool {
        match self.came_from.take() {
            Some(before) => {
                let since = self.since;
                self.adopt(before, now, return_after);
                self.since = since;
                true
            }
            None => false,
        }
    }

    /// Counts a failed attempt; `true` once each target has had one, since the last time.
    pub fn round_is_over(&mut self) -> bool {
        self.tried += 1;
        let over = self.tried >= self.rest_until.len();
        if over {
            self.tried = 0;
        }
        over
    }
}
