//! A token bucket that fits one word: what comes in for good, and how much may come at once.
//!
//! The word is the moment at which the bucket will be full again (the "theoretical arrival time" of
//! the generic cell rate algorithm, ITU-T I.371, A.1, seen from the other end). So nothing has to be
//! filled up as time goes by:
//!
//! ```text
//!  empty ◀───── depth ─────▶ full
//!  ├────────────┬────────────┤
//!             now            full_at          full_at ≤ now: full        full_at ≥ now + depth: empty
//! ```
//!
//! A bundle passes whole, so it passes where the bucket is not empty, whatever it is worth: the
//! bucket goes below empty by one bundle at the most, and by one more for each CPU that passes a
//! bundle of the same source at the very same moment.

use crate::word::Word;

/// Time is counted in sixteenths of a nanosecond: at 10 GB/s a byte takes 1.6 of them. They last for
/// 36 years after the host's start.
pub const TICKS_PER_NS: u64 = 16;
/// What one item takes is kept with this many bits behind the point.
const FRACTION_BITS: u32 = 10;
/// Depths are cut here (two years): moments must not run over.
const DEPTH_MAX: u64 = 1 << 60;
/// Items of one bundle: bytes, at the most (a bundle has 65,535).
pub const AMOUNT_MAX: u32 = 1 << 17;
/// The highest rate, per second, that the arithmetic keeps (to 6 %; at 10^9 to 0.01 %).
pub const RATE_MAX: u64 = 1_000_000_000_000;
/// Attempts of a compare-and-swap before the amount is simply added.
const ATTEMPTS: u32 = 4;

/// A rate and a burst, as the judge needs them. All 0: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Bucket {
    /// What one item takes, in 1/1024 of a tick, rounded up: never more than the rate comes through.
    interval: u64,
    /// What the whole bucket takes, in ticks.
    depth: u64,
    /// What it can owe at the most, in ticks. Bounds how long a debt from before a change of the
    /// limit is remembered.
    debt_max: u64,
}

/// What became of an attempt to take from a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Yes,
    /// Taken, after others have been quicker `ATTEMPTS` times: exactly charged, but perhaps from a
    /// bucket that they had emptied.
    Contended,
    Empty,
}

impl Bucket {
    pub const NONE: Self = Self {
        interval: 0,
        depth: 0,
        debt_max: 0,
    };

    /// `sustained` items a second and `burst` at once, each from 1 on; a rate above `RATE_MAX` is
    /// taken as that. `bundle_max`: the most that one bundle can be worth.
    pub const fn new(sustained: u64, burst: u64, bundle_max: u32) -> Self {
        let sustained = match sustained {
            0 => 1,
            1..=RATE_MAX => sustained as u128,
            _ => RATE_MAX as u128,
        };
        let second = (TICKS_PER_NS as u128 * 1_000_000_000) << FRACTION_BITS;
        let depth = (second * burst as u128).div_ceil(sustained) >> FRACTION_BITS;
        let mut bucket = Self {
            interval: second.div_ceil(sustained) as u64,
            depth: if depth > DEPTH_MAX as u128 {
                DEPTH_MAX
            } else if depth == 0 {
                1
            } else {
                depth as u64
            },
            debt_max: 0,
        };
        // Bundles of eight CPUs at once.
        bucket.debt_max = 8 * bucket.cost(bundle_max);
        bucket
    }

    /// 0 where there is no limit.
    #[inline(always)]
    pub(crate) const fn interval(&self) -> u64 {
        self.interval
    }

    #[inline(always)]
    pub const fn is_limit(&self) -> bool {
        self.interval != 0
    }

    /// What `amount` items take, in ticks, rounded up.
    #[inline(always)]
    pub const fn cost(&self, amount: u32) -> u64 {
        let amount = if amount > AMOUNT_MAX {
            AMOUNT_MAX
        } else {
            amount
        };
        // No overflow: an interval is below 2^44, the highest amount 2^17.
        (self.interval * amount as u64 + ((1 << FRACTION_BITS) - 1)) >> FRACTION_BITS
    }

    /// Whether it is not empty; where there is no limit, always.
    #[inline(always)]
    pub const fn has_room(&self, full_at: u64, now: u64) -> bool {
        !self.is_limit() || full_at < now + self.depth
    }

    /// The word of a bucket that is empty.
    #[inline(always)]
    pub const fn empty(&self, now: u64) -> u64 {
        now + self.depth
    }

    /// The word of a bucket that was full and has just given `amount`.
    #[inline(always)]
    pub const fn full_less(&self, amount: u32, now: u64) -> u64 {
        now + self.cost(amount)
    }

    /// Takes `amount` unless the bucket is empty.
    ///
    /// Bounded under contention: after `ATTEMPTS` lost races the amount is added without asking
    /// again. That errs on passing, by one bundle for each CPU, and only for now: what passed too
    /// much has been charged, and is missing afterwards.
    #[inline(always)]
    pub fn take<W: Word>(&self, word: &W, amount: u32, now: u64) -> Taken {
        if !self.is_limit() {
            return Taken::Yes;
        }
        let cost = self.cost(amount);
        let mut full_at = word.load();
        let mut attempt = 0;
        while attempt < ATTEMPTS {
            if !self.has_room(full_at, now) {
                self.forgive(word, full_at, now);
                return Taken::Empty;
            }
            let from = if full_at > now { full_at } else { now };
            let found = word.compare_exchange(full_at, from + cost);
            if found == full_at {
                return Taken::Yes;
            }
            full_at = found;
            attempt += 1;
        }
        if !self.has_room(full_at, now) {
            return Taken::Empty;
        }
        word.add(cost);
        Taken::Contended
    }

    /// Gives back what was just taken.
    #[inline(always)]
    pub fn give_back<W: Word>(&self, word: &W, amount: u32) {
        word.add(self.cost(amount).wrapping_neg());
    }

    /// A debt from the time of a lower rate would last for as long as that rate needs to pay it.
    #[inline(always)]
    fn forgive<W: Word>(&self, word: &W, full_at: u64, now: u64) {
        let deepest = now + self.depth + self.debt_max;
        if full_at > deepest {
            // If another was quicker, the next one does it.
            let _ = word.compare_exchange(full_at, deepest);
        }
    }
}

#[cfg(test)]
mod tests;
