//! A histogram of times whose error is below 1/64, in 18 KiB: buckets double in width every 64.

/// Buckets per doubling.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.ilog2();
/// 2^42 ns is over an hour; longer counts as that.
const BITS_MAX: u32 = 42;
const BUCKETS: usize = ((BITS_MAX - STEP_BITS + 1) * STEPS as u32) as usize;

#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Box<[u64]>,
    total: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS].into_boxed_slice(),
            total: 0,
            max_ns: 0,
        }
    }
}

impl Histogram {
    #[inline]
    pub fn record(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
        self.total += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The time that `share` (0 to 1) of all did not exceed: the top of its bucket.
    pub fn quantile_ns(&self, share: f64) -> u64 {
        let wanted = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return top(index).min(self.max_ns);
            }
        }
        self.max_ns
    }
}

/// Below 64: itself. From there, the position of the highest bit and the six bits below it.
fn bucket(ns: u64) -> usize {
    if ns < STEPS {
        return ns as usize;
    }
    let ns = ns.min((1 << BITS_MAX) - 1);
    let shift = ns.ilog2() - STEP_BITS;
    (u64::from(shift + 1) * STEPS + ((ns >> shift) - STEPS)) as usize
}

/// The highest value of a bucket.
fn top(index: usize) -> u64 {
    let index = index as u64;
    if index < STEPS {
        return index;
    }
    let shift = index / STEPS - 1;
    ((index % STEPS + STEPS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::load::lines::SplitMix64;

    #[test]
    fn quantiles_agree_with_a_sorted_list() {
        let mut random = SplitMix64::new(3);
        let mut histogram = Histogram::default();
        let mut sorted = Vec::new();
        for _ in 0..20_000 {
            let ns = random.next() >> (random.next() % 40 + 24);
            histogram.record(ns);
            sorted.push(ns);
        }
        sorted.sort_unstable();
        for share in [0.001, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let exact = sorted[((20_000.0 * share) as usize).max(1) - 1];
            let found = histogram.quantile_ns(share);
            assert!(found >= exact, "{share}: {found} below {exact}");
            assert!(
                found - exact <= exact / 64 + 1,
                "{share}: {found} for {exact}"
            );
        }
        assert_eq!(histogram.max_ns(), *sorted.last().unwrap());
    }

    #[test]
    fn the_longest_time_has_a_bucket() {
        let mut histogram = Histogram::default();
        histogram.record(u64::MAX);
        assert_eq!(histogram.quantile_ns(0.5), (1 << 42) - 1);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }
}
