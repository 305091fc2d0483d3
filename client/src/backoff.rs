//! Exponential backoff with full jitter: a thousand producers that lost one agent at the same
//! moment must not come back at the same moment.

use std::time::Duration;

use rand::Rng;

/// How long to stay away after the next failure.
#[derive(Debug)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub fn new(base: Duration, max: Duration) -> Self {
        Self {
            base,
            max,
            failures: 0,
        }
    }

    /// A random time between 0 and min(max, base × 2^failures), and one failure more.
    pub fn next(&mut self, random: &mut impl Rng) -> Duration {
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        random.random_range(Duration::ZERO..=ceiling)
    }

    /// The same without counting a failure: for the second, third … of several targets.
    pub fn again(&self, random: &mut impl Rng) -> Duration {
        random.random_range(Duration::ZERO..=self.ceiling())
    }

    /// The other side did what it is there for.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    fn ceiling(&self) -> Duration {
        let factor = 1u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn ceilings_double_up_to_the_maximum_and_start_again() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(1000));
        let mut random = rand::rngs::StdRng::seed_from_u64(1);
        for ceiling in [100, 200, 400, 800, 1000, 1000] {
            assert_eq!(backoff.ceiling(), ms(ceiling));
            assert!(backoff.next(&mut random) <= ms(ceiling));
        }
        for _ in 0..100 {
            assert!(backoff.next(&mut random) <= ms(1000));
        }
        backoff.reset();
        assert_eq!(backoff.ceiling(), ms(100));
    }
}
