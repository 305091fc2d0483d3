//! How much is kept of each priority, in sixteenths.

use crate::frame::PRIORITY_MAX;

pub const PRIORITIES: usize = PRIORITY_MAX as usize + 1;
/// All of it.
pub const KEEP_ALL: u8 = 16;

/// A ratio for each priority, as one word: what is read of it was written as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Keep(pub u32);

impl Keep {
    pub const ALL: Self = Self::new([KEEP_ALL; PRIORITIES]);

    pub const fn new(sixteenths: [u8; PRIORITIES]) -> Self {
        Self(u32::from_le_bytes(sixteenths))
    }

    pub const fn sixteenths(self) -> [u8; PRIORITIES] {
        self.0.to_le_bytes()
    }

    /// Of each priority the lower of both.
    #[inline(always)]
    pub const fn min(self, other: Self) -> Self {
        let mut least = 0;
        let mut shift = 0;
        while shift < 32 {
            let (a, b) = (self.0 >> shift & 0xff, other.0 >> shift & 0xff);
            least |= (if a < b { a } else { b }) << shift;
            shift += 8;
        }
        Self(least)
    }

    /// The ratio of one priority; a priority that is none has that of `sixteenths()[priority % 4]`.
    #[inline(always)]
    pub const fn of(self, priority: u8) -> u8 {
        (self.0 >> ((priority as u32 & PRIORITY_MAX as u32) * 8)) as u8
    }

    /// Whether the datagram with this number is kept: the first `of(priority)` of each 16, so that
    /// the same ones are kept wherever this is asked.
    #[inline(always)]
    pub const fn keeps(self, priority: u8, number: u64) -> bool {
        number % (KEEP_ALL as u64) < self.of(priority) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_sixteen_in_a_row_as_many_are_kept_as_it_says() {
        for sixteenths in 0..=16 {
            for priority in 0..4 {
                let mut all = [7, 7, 7, 7];
                all[usize::from(priority)] = sixteenths;
                let keep = Keep::new(all);
                for first in [0, 5, u64::MAX - 15] {
                    let kept = (0..16).filter(|n| keep.keeps(priority, first.wrapping_add(*n)));
                    assert_eq!(kept.count(), usize::from(sixteenths));
                }
                assert_eq!(keep.of(priority), sixteenths);
                assert_eq!(keep.sixteenths(), all);
            }
        }
    }

    #[test]
    fn the_lower_of_each_priority() {
        let least = Keep::new([16, 0, 5, 9]).min(Keep::new([15, 3, 5, 10]));
        assert_eq!(least.sixteenths(), [15, 0, 5, 9]);
        assert_eq!(Keep::ALL.min(least), least);
    }
}
