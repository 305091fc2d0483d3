//! A rate with a burst, in one word: the time at which the bucket would be full again (GCRA, the
//! generic cell rate algorithm). Several shards may take from one bucket.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::gate::policy::Rate;

/// The fastest rate that is told from none: below 100 ns a frame, whole nanoseconds are too coarse.
pub const RATE_MAX: u64 = 10_000_000;

/// What the frames of one tenant may come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Nanoseconds that one frame is worth.
    frame_ns: u64,
    /// What a full bucket is worth.
    burst_ns: u64,
}

impl Pace {
    /// Of a rate from 1 to `RATE_MAX` a second. A second of burst at most counts in a wait: see
    /// `pause_ns`.
    pub fn new(rate: Rate) -> Self {
        let frame_ns = 1_000_000_000 / rate.sustained.clamp(1, RATE_MAX);
        Self {
            frame_ns,
            burst_ns: frame_ns.saturating_mul(rate.burst.max(1)),
        }
    }

    /// How long a producer waits that has emptied its bucket: until half of it is there again, so
    /// that it neither comes for each single frame nor, late by the half that clients add at random,
    /// finds a bucket that was full before it came. At most a second, and no more frames' worth than
    /// half of the 1,024 that may be unsettled: or its window would be what slows it down.
    fn pause_ns(&self) -> u64 {
        const WINDOW: u64 = 512;
        let half = self.burst_ns / 2;
        half.min(WINDOW * self.frame_ns)
            .min(1_000_000_000)
            .max(self.frame_ns)
    }
}

/// The word. A bucket that was never used is full.
#[derive(Debug, Default)]
pub struct Bucket {
    full_at_ns: AtomicU64,
}

impl Bucket {
    /// Takes one frame out, or says for how long it is to wait.
    ///
    /// Relaxed: nothing else is read by what stands here. The loop ends: each failure of one shard
    /// is the success of another.
    #[inline]
    pub fn take(&self, pace: Pace, now_ns: u64) -> Result<(), u64> {
        let mut full_at = self.full_at_ns.load(Ordering::Relaxed);
        loop {
            let next = full_at.max(now_ns) + pace.frame_ns;
            if next > now_ns + pace.burst_ns {
                return Err(pace.pause_ns());
            }
            match self.full_at_ns.compare_exchange_weak(
                full_at,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(seen) => full_at = seen,
            }
        }
    }

    pub fn is_full(&self, now_ns: u64) -> bool {
        self.full_at_ns.load(Ordering::Relaxed) <= now_ns
    }

    pub fn reset(&mut self) {
        *self.full_at_ns.get_mut() = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn pace(sustained: u64, burst: u64) -> Pace {
        Pace::new(Rate { sustained, burst })
    }

    /// Frames that are taken at a time, one after the other, until one is not.
    fn taken(bucket: &Bucket, pace: Pace, now_ns: u64) -> u64 {
        (0..)
            .take_while(|_| bucket.take(pace, now_ns).is_ok())
            .count() as u64
    }

    #[test]
    fn a_burst_at_once_and_then_the_rate() {
        let (bucket, pace) = (Bucket::default(), pace(1_000, 50));
        let start = 1_000_000 * MS;
        assert_eq!(taken(&bucket, pace, start), 50);
        assert_eq!(taken(&bucket, pace, start + 10 * MS), 10);
        assert_eq!(taken(&bucket, pace, start + 10 * MS + MS / 2), 0);
        assert_eq!(taken(&bucket, pace, start + 11 * MS), 1);
        assert!(!bucket.is_full(start + 60 * MS));
        assert!(bucket.is_full(start + 61 * MS));
        // However long it rests, no more than the burst.
        assert_eq!(taken(&bucket, pace, start + 100_000 * MS), 50);
    }

    #[test]
    fn a_wait_brings_half_a_burst_a_second_at_most_and_one_frame_at_least() {
        let wait = |sustained, burst| {
            let (bucket, pace) = (Bucket::default(), pace(sustained, burst));
            taken(&bucket, pace, 5);
            bucket.take(pace, 5).expect_err("the bucket is empty")
        };
        assert_eq!(wait(1_000, 100), 50 * MS);
        assert_eq!(
            wait(1_000, 1_000_000),
            512 * MS,
            "half of a producer's window"
        );
        assert_eq!(wait(10, 1_000), 1_000 * MS);
        assert_eq!(wait(1, 1), 1_000 * MS);
        assert_eq!(wait(50, 1), 20 * MS);
    }

    #[test]
    fn several_shards_take_from_one_bucket_and_no_more_than_is_in_it() {
        let (bucket, pace) = (Bucket::default(), pace(1, 10_000));
        let all = std::thread::scope(|scope| {
            let each = || scope.spawn(|| taken(&bucket, pace, 7));
            let threads = [each(), each(), each()];
            threads
                .map(|thread| thread.join().expect("a thread"))
                .iter()
                .sum::<u64>()
        });
        assert_eq!(all, 10_000);
    }
}
