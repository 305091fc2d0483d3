//! Durations in fixed buckets: a shard counts into plain numbers of its own and adds them to the
//! shared ones per wake-up. No sample is kept, nothing is allocated, a bucket is one addition.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::family::Family;
use super::text::{Text, seconds};

/// Upper bounds in nanoseconds, about 2 to 2.5 apart. An fdatasync takes 0.05 to 1 ms on flash and
/// 5 to 50 ms on disks that turn; 10 s is a device that is about to be lost.
const BOUNDS_NS: [u64; 17] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];
const BUCKETS: usize = BOUNDS_NS.len() + 1;

/// What all shards have observed.
#[derive(Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Histogram {
    /// The counts may be one shard's addition apart from the sum; each is right by itself.
    pub fn write(&self, text: &mut Text, family: &Family) {
        text.family(family);
        let mut count = 0;
        for (bucket, bound_ns) in self.buckets.iter().zip(BOUNDS_NS) {
            count += bucket.load(Ordering::Relaxed);
            let bound = seconds(bound_ns).to_string();
            text.sample_of("_bucket", &[("le", &bound)], count);
        }
        count += self.buckets[BUCKETS - 1].load(Ordering::Relaxed);
        text.sample_of("_bucket", &[("le", "+Inf")], count);
        text.sample_of("_sum", &[], seconds(self.sum_ns.load(Ordering::Relaxed)));
        text.sample_of("_count", &[], count);
    }
}

/// One shard's part that is not yet added.
pub struct Observer {
    shared: Arc<Histogram>,
    buckets: [u64; BUCKETS],
    sum_ns: u64,
    is_empty: bool,
}

impl Observer {
    pub fn new(shared: &Arc<Histogram>) -> Self {
        Self {
            shared: Arc::clone(shared),
            buckets: [0; BUCKETS],
            sum_ns: 0,
            is_empty: true,
        }
    }

    #[inline]
    pub fn observe(&mut self, ns: u64) {
        let bucket = BOUNDS_NS.partition_point(|bound| *bound < ns);
        self.buckets[bucket] += 1;
        self.sum_ns += ns;
        self.is_empty = false;
    }

    pub fn publish(&mut self) {
        if self.is_empty {
            return;
        }
        for (own, shared) in self.buckets.iter_mut().zip(&self.shared.buckets) {
            if *own != 0 {
                shared.fetch_add(*own, Ordering::Relaxed);
                *own = 0;
            }
        }
        self.shared.sum_ns.fetch_add(self.sum_ns, Ordering::Relaxed);
        self.sum_ns = 0;
        self.is_empty = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::family::INGEST_DURATION;

    #[test]
    fn buckets_are_cumulative_and_their_bounds_belong_to_them() {
        let shared = Arc::new(Histogram::default());
        let mut first = Observer::new(&shared);
        let mut second = Observer::new(&shared);
        // 0 and exactly 50 µs are within the first bound; one more nanosecond is not.
        for ns in [0, 50_000, 50_001, 1_000_000] {
            first.observe(ns);
        }
        second.observe(20_000_000_000);
        first.publish();
        first.publish();
        second.publish();
        let mut text = Text::after(String::new());
        shared.write(&mut text, &INGEST_DURATION);
        let text = text.finish();
        for line in [
            "# TYPE penstock_ingest_duration_seconds histogram",
            "penstock_ingest_duration_seconds_bucket{le=\"0.00005\"} 2",
            "penstock_ingest_duration_seconds_bucket{le=\"0.0001\"} 3",
            "penstock_ingest_duration_seconds_bucket{le=\"0.0005\"} 3",
            "penstock_ingest_duration_seconds_bucket{le=\"0.001\"} 4",
            "penstock_ingest_duration_seconds_bucket{le=\"10\"} 4",
            "penstock_ingest_duration_seconds_bucket{le=\"+Inf\"} 5",
            "penstock_ingest_duration_seconds_sum 20.001100001",
            "penstock_ingest_duration_seconds_count 5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
