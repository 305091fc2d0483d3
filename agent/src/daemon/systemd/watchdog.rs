//! When a sign of life is due, and whether the shards have earned it.

use std::time::{Duration, Instant};

/// Counts the beats. A beat is due four times in the service manager's time, and goes out only once
/// every shard has turned since the last one. A shard turns at least twice a second, busy or idle
/// (`SLEEP_MAX` of its worker), so one that has not turned is stuck; the control thread, which
/// sends the beat, is proven by the beat itself.
#[derive(Debug)]
pub struct Watchdog {
    interval: Duration,
    last_beat: Instant,
    /// Each shard's turns at the last beat.
    turns: Vec<u64>,
    /// The stuck shard that was last told of.
    told: Option<usize>,
}

/// What a look comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    NotDue,
    Due,
    /// It is due, but this shard has not turned.
    Withheld {
        shard: usize,
        /// The first look that found it so.
        is_news: bool,
    },
}

impl Watchdog {
    /// `time` is the service manager's: without a beat for that long it ends the process.
    pub fn new(time: Duration, now: Instant) -> Self {
        Self {
            interval: time / 4,
            last_beat: now,
            turns: Vec::new(),
            told: None,
        }
    }

    /// `turns` are the wake-ups of each shard so far.
    pub fn look(&mut self, now: Instant, turns: &[u64]) -> Beat {
        if now.duration_since(self.last_beat) < self.interval {
            return Beat::NotDue;
        }
        let stuck =
            |(shard, turns): (usize, &u64)| (self.turns.get(shard) == Some(turns)).then_some(shard);
        if let Some(shard) = turns.iter().enumerate().find_map(stuck) {
            let is_news = self.told != Some(shard);
            self.told = Some(shard);
            return Beat::Withheld { shard, is_news };
        }
        self.told = None;
        self.last_beat = now;
        self.turns.clear();
        self.turns.extend_from_slice(turns);
        Beat::Due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(20);

    fn seconds(since: Instant, seconds: u64) -> Instant {
        since + Duration::from_secs(seconds)
    }

    #[test]
    fn a_beat_is_due_four_times_in_the_time() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(TIME, start);
        let looks = (1..=20).map(|second| watchdog.look(seconds(start, second), &[second, second]));
        let beats = looks.filter(|beat| *beat == Beat::Due).count();
        assert_eq!(beats, 4);
    }

    #[test]
    fn one_shard_that_does_not_turn_withholds_the_beat_until_it_does() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(TIME, start);
        assert_eq!(watchdog.look(seconds(start, 5), &[10, 10]), Beat::Due);
        // Shard 1 stands still while shard 0 goes on.
        assert_eq!(watchdog.look(seconds(start, 6), &[12, 10]), Beat::NotDue);
        let withheld = |is_news| Beat::Withheld { shard: 1, is_news };
        assert_eq!(watchdog.look(seconds(start, 10), &[20, 10]), withheld(true));
        assert_eq!(
            watchdog.look(seconds(start, 11), &[22, 10]),
            withheld(false)
        );
        assert_eq!(
            watchdog.look(seconds(start, 24), &[48, 10]),
            withheld(false)
        );
        // One turn is enough, and the next beat is due an interval later.
        assert_eq!(watchdog.look(seconds(start, 25), &[50, 11]), Beat::Due);
        assert_eq!(watchdog.look(seconds(start, 29), &[58, 19]), Beat::NotDue);
        assert_eq!(watchdog.look(seconds(start, 30), &[60, 21]), Beat::Due);
    }

    #[test]
    fn a_shard_that_sticks_again_is_told_of_again() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(TIME, start);
        let news = Beat::Withheld {
            shard: 0,
            is_news: true,
        };
        assert_eq!(watchdog.look(seconds(start, 5), &[1]), Beat::Due);
        assert_eq!(watchdog.look(seconds(start, 10), &[1]), news);
        assert_eq!(watchdog.look(seconds(start, 11), &[2]), Beat::Due);
        assert_eq!(watchdog.look(seconds(start, 16), &[2]), news);
    }
}
