use std::cell::Cell;
use std::sync::atomic::AtomicU64;
use std::thread;

use proptest::prelude::*;

use super::*;

const SECOND: u64 = TICKS_PER_NS * 1_000_000_000;

/// A word that nobody else changes.
#[derive(Default)]
struct Alone(Cell<u64>);

impl Word for Alone {
    fn load(&self) -> u64 {
        self.0.get()
    }

    fn compare_exchange(&self, expected: u64, new: u64) -> u64 {
        let found = self.0.get();
        if found == expected {
            self.0.set(new);
        }
        found
    }

    fn add(&self, amount: u64) {
        self.0.set(self.0.get().wrapping_add(amount));
    }
}

/// The text-book bucket: filled as time goes by, in the smallest parts that make it exact.
struct Naive {
    rate: u128,
    capacity: i128,
    level: i128,
    at: u64,
}

impl Naive {
    fn new(rate: u64, burst: u64, at: u64) -> Self {
        let capacity = i128::from(burst) * i128::from(SECOND);
        Self {
            rate: u128::from(rate),
            capacity,
            level: capacity,
            at,
        }
    }

    /// Passes where it is not empty, and takes what the bundle is worth.
    fn take(&mut self, amount: u32, now: u64) -> bool {
        let gained = self.rate * u128::from(now - self.at);
        self.level = self.capacity.min(self.level + gained as i128);
        self.at = now;
        let passes = self.level > 0;
        if passes {
            self.level -= i128::from(amount) * i128::from(SECOND);
        }
        passes
    }
}

proptest! {
    /// At rates that divide a second into whole ticks there is nothing to round: verdict for
    /// verdict the same.
    #[test]
    fn is_the_naive_bucket(
        rate in prop::sample::select(vec![1_u64, 2, 5, 1000, 12_500, 1_000_000, 500_000_000, 16_000_000_000]),
        burst in 1_u64..1_000_000,
        start in 0..1000 * SECOND,
        bundles in prop::collection::vec((0_u64..2_000_000_000, 1_u32..65_536), 1..400),
    ) {
        let bucket = Bucket::new(rate, burst, 65_535);
        let word = Alone::default();
        let mut naive = Naive::new(rate, burst, start);
        let mut now = start;
        for (gap, amount) in bundles {
            now += gap;
            let taken = bucket.take(&word, amount, now) == Taken::Yes;
            prop_assert_eq!(taken, naive.take(amount, now), "at {}", now - start);
        }
    }

    /// At any rate never more than the burst, what came in meanwhile, and the bundle that went
    /// below empty.
    #[test]
    fn never_lets_through_more_than_it_says(
        rate in 1..RATE_MAX,
        burst in 1_u64..1_000_000_000,
        bundles in prop::collection::vec((0_u64..100_000_000, 1_u32..65_536), 1..400),
    ) {
        let bucket = Bucket::new(rate, burst, 65_535);
        let word = Alone::default();
        let (mut now, mut passed) = (0, 0_u128);
        for (gap, amount) in bundles {
            now += gap;
            let before = passed;
            if bucket.take(&word, amount, now) == Taken::Yes {
                passed += u128::from(amount);
                let came_in = u128::from(rate) * u128::from(now) / u128::from(SECOND);
                prop_assert!(before <= u128::from(burst) + came_in, "{before} before, at {now}");
            }
        }
    }
}

/// Whoever sends flat out gets its rate: to 0.1 % at rates that do not divide a second evenly.
#[test]
fn a_rate_is_had_in_full() {
    for (rate, amount) in [
        (3, 1),
        (7_777, 1),
        (50_000, 64),
        (999_983, 1),
        (10_000_019, 64),
        (123_456_789, 1400),
        (10_000_000_019, 65_000),
    ] {
        // More than comes in from one step to the next.
        let bucket = Bucket::new(rate, rate / 1000 + 1, 65_535);
        let word = Alone::default();
        let seconds = 20;
        let steps = 40_000;
        let mut passed = 0;
        for step in 0..steps {
            let now = SECOND * seconds / steps * step;
            // As much as there is, in bundles.
            while bucket.take(&word, amount, now) == Taken::Yes {
                passed += u64::from(amount);
            }
        }
        let due = rate * seconds;
        let short = due.saturating_sub(passed);
        assert!(
            short <= due / 1000 + rate * seconds / steps + u64::from(amount),
            "{rate}: {passed} of {due}"
        );
    }
}

#[test]
fn a_burst_is_had_at_once_to_the_last_item() {
    for (rate, burst) in [
        (1, 1),
        (1, 100),
        (1000, 5000),
        (50_000, 200_000),
        (7, 12_345),
    ] {
        let bucket = Bucket::new(rate, burst, 128);
        let word = Alone::default();
        let now = 77 * SECOND;
        let passed = (0..2 * burst).filter(|_| bucket.take(&word, 1, now) == Taken::Yes);
        assert_eq!(passed.count() as u64, burst, "{burst} at {rate}/s");
    }
}

#[test]
fn a_bundle_passes_whole_and_leaves_a_debt() {
    // 10 a second, 5 at once: a bundle of 64 passes, and takes 5.9 s to be paid for.
    let bucket = Bucket::new(10, 5, 128);
    let word = Alone::default();
    assert_eq!(bucket.take(&word, 64, 0), Taken::Yes);
    assert_eq!(bucket.take(&word, 1, 59 * SECOND / 10), Taken::Empty);
    assert_eq!(bucket.take(&word, 1, 59 * SECOND / 10 + 1), Taken::Yes);
}

#[test]
fn no_number_makes_it_run_over() {
    for rate in [1, 2, RATE_MAX, u64::MAX] {
        for burst in [1, 1 << 40, u64::MAX] {
            let bucket = Bucket::new(rate, burst, 65_535);
            assert!(bucket.is_limit());
            let word = Alone::default();
            // Ten years after the host's start.
            let now = 3650 * 24 * 3600 * SECOND;
            for _ in 0..1000 {
                let _ = bucket.take(&word, u32::MAX, now);
            }
        }
    }
    assert!(!Bucket::NONE.is_limit());
    assert!(!Bucket::default().is_limit());
}

/// A debt made at 1/s would outlast a change to a million a second by hours.
#[test]
fn an_old_limits_debt_is_forgiven_but_for_eight_bundles() {
    let slow = Bucket::new(1, 100_000, 128);
    let word = Alone::default();
    while slow.take(&word, 128, 0) == Taken::Yes {}
    let fast = Bucket::new(1000, 10, 128);
    assert_eq!(fast.take(&word, 1, 0), Taken::Empty);
    // 8 × 128 at 1000 a second: 1.024 s.
    assert_eq!(fast.take(&word, 1, SECOND), Taken::Empty);
    assert_eq!(fast.take(&word, 1, 1025 * (SECOND / 1000)), Taken::Yes);
}

/// A word that others change each time between the look and the writing.
struct Crowded {
    word: Alone,
    /// What each of them adds.
    others: u64,
    races: Cell<u32>,
}

impl Word for Crowded {
    fn load(&self) -> u64 {
        self.word.load()
    }

    fn compare_exchange(&self, expected: u64, new: u64) -> u64 {
        if self.races.get() > 0 {
            self.races.set(self.races.get() - 1);
            self.word.add(self.others);
        }
        self.word.compare_exchange(expected, new)
    }

    fn add(&self, amount: u64) {
        self.word.add(amount);
    }
}

#[test]
fn contention_is_bounded_and_charged_exactly() {
    let bucket = Bucket::new(1000, 100, 128);
    let item = SECOND / 1000;
    for (races, expected) in [
        (0, Taken::Yes),
        (3, Taken::Yes),
        (4, Taken::Contended),
        (1000, Taken::Contended),
    ] {
        let word = Crowded {
            word: Alone::default(),
            others: item,
            races: Cell::new(races),
        };
        assert_eq!(bucket.take(&word, 2, 0), expected, "{races} races");
        // The others' and ours.
        assert_eq!(word.load(), u64::from(races.min(4)) * item + 2 * item);
    }
    // The others empty it: then it is empty for us too, and nothing is charged.
    let word = Crowded {
        word: Alone::default(),
        others: 30 * item,
        races: Cell::new(1000),
    };
    assert_eq!(bucket.take(&word, 2, 0), Taken::Empty);
    assert_eq!(word.load(), 4 * 30 * item);
}

#[test]
fn threads_share_a_bucket_and_every_item_is_charged() {
    const THREADS: u64 = 4;
    const BURST: u64 = 20_000;
    let bucket = Bucket::new(1, BURST, 128);
    let word = AtomicU64::new(0);
    let passed: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let taken = |_: &u64| bucket.take(&&word, 1, 0) != Taken::Empty;
                scope.spawn(move || (0..BURST).filter(taken).count() as u64)
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert!((BURST..BURST + THREADS).contains(&passed), "{passed}");
    assert_eq!(word.into_inner(), passed * SECOND);
}
