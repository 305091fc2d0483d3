//! When the next frame is due, and when the run is over.

use std::time::{Duration, Instant};

/// Frames of a paced run go out in small groups this far apart: a wake-up for each frame would
/// cost more than sending it.
const TICK_NS: u64 = 200_000;

/// The schedule of one run: record number n is due at n / rate, whether or not those before it got
/// out in time. Latency counts from there, so that a stalled receiver cannot hide its stall by
/// stalling the generator (coordinated omission).
pub struct Pace {
    start: Instant,
    ns_per_record: Option<f64>,
    records_left: u64,
    records_begun: u64,
    end_ns: u64,
}

impl Pace {
    /// `records_per_second`: `None` is as fast as it goes.
    pub fn start(records_per_second: Option<u64>, records: Option<u64>, time: Duration) -> Self {
        Self {
            start: Instant::now(),
            ns_per_record: records_per_second.map(|rate| 1e9 / rate as f64),
            records_left: records.unwrap_or(u64::MAX),
            records_begun: 0,
            end_ns: time.as_nanos() as u64,
        }
    }

    /// Nanoseconds since the start.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Nothing more is to be begun.
    pub fn is_over(&self, now_ns: u64) -> bool {
        self.records_left == 0 || now_ns >= self.end_ns
    }

    /// How many records the next frame may have, if one is due; its intended time.
    #[inline]
    pub fn due(&self, now_ns: u64) -> Option<(u64, u64)> {
        if self.is_over(now_ns) {
            return None;
        }
        match self.intended_ns() {
            None => Some((self.records_left, now_ns)),
            Some(intended_ns) if intended_ns <= now_ns => Some((self.records_left, intended_ns)),
            Some(_) => None,
        }
    }

    /// A frame of so many records was begun.
    #[inline]
    pub fn begin(&mut self, records: u64) {
        self.records_left -= records;
        self.records_begun += records;
    }

    /// How long until there is something to send; `None` where there is now.
    pub fn wait(&self, now_ns: u64) -> Option<Duration> {
        let end_in = self.end_ns.saturating_sub(now_ns);
        let wait_ns = self.intended_ns()?.checked_sub(now_ns)?;
        Some(Duration::from_nanos(wait_ns.max(TICK_NS).min(end_in)))
    }

    fn intended_ns(&self) -> Option<u64> {
        let ns_per_record = self.ns_per_record?;
        Some((self.records_begun as f64 * ns_per_record) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_gives_each_frame_its_time() {
        // 1,000 records/s in frames of 50: one each 50 ms.
        let mut pace = Pace::start(Some(1000), None, Duration::from_secs(1));
        let mut intended_ms = Vec::new();
        for now_ms in [0, 10, 50, 210] {
            while let Some((_, intended_ns)) = pace.due(now_ms * 1_000_000) {
                intended_ms.push((now_ms, intended_ns / 1_000_000));
                pace.begin(50);
            }
        }
        // After a stall to 210 ms the frames missed are sent at once, with the times they had.
        let expected = [(0, 0), (50, 50), (210, 100), (210, 150), (210, 200)];
        assert_eq!(intended_ms, expected);
        assert!(pace.due(999_999_999).is_some());
        assert!(pace.due(1_000_000_000).is_none());
    }

    #[test]
    fn a_count_ends_a_run() {
        let mut pace = Pace::start(None, Some(70), Duration::from_secs(1));
        assert_eq!(pace.due(5), Some((70, 5)));
        pace.begin(50);
        assert_eq!(pace.due(6), Some((20, 6)));
        pace.begin(20);
        assert_eq!(pace.due(7), None);
        assert!(pace.is_over(7));
    }
}
