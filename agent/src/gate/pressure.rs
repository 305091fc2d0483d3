//! From what a shard has in use to how hard pressed it is, and from that to what is kept of each
//! priority. No clock, no sockets: numbers in, numbers out.

use agent_common::keep::Keep;
use agent_common::ramp::{PRESSURE_MAX, ramps};

/// How full things are, each from 0 to `PRESSURE_MAX`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The fullest of the UDP sockets' receive buffers.
    pub sockets: u32,
    /// The UDP receive buffers that wait for the journal.
    pub pool: u32,
    /// The journal's memory in blocks that are not durable.
    pub blocks: u32,
    /// How long the sync in flight has taken; all of it is `SYNC_SLOW_NS`.
    pub sync: u32,
    /// The journal's room in what is not delivered; 0 where it drops what is oldest, all of it where
    /// it takes nothing.
    pub journal: u32,
}

/// A sync of this length says that the disk is at a standstill: a good one takes a hundredth of it.
pub const SYNC_SLOW_NS: u64 = 250_000_000;

impl Reading {
    /// What waits, and how much more of it can.
    ///
    /// A socket's buffer is the last place before a datagram is lost, so how full it is counts as it
    /// is. The pool comes before it, and fills by the number of datagrams, not by their bytes: while
    /// the disk stalls, a trickle fills it and is in no danger. A full pool counts as an eighth.
    ///
    /// A journal that is behind (its blocks in use, a sync that does not end) loses nothing by
    /// itself, but says that what waits will wait longer: it moves the ramps' beginnings down, from a
    /// quarter of the buffers to about an eighth. TCP that keeps the disk busy so costs a UDP sender
    /// nothing as long as its own buffers are empty.
    fn buffers(&self) -> u32 {
        let both = self.pool / 8 + self.sockets / 8 * 7 + self.sockets % 8;
        let waits = self.sockets.max(both).min(PRESSURE_MAX);
        let behind = self.blocks.max(self.sync).min(PRESSURE_MAX);
        waits + waits * (PRESSURE_MAX - waits) / PRESSURE_MAX * behind / PRESSURE_MAX
    }

    /// The journal on disk is there to be filled while a sink is away: only its last quarter is kept
    /// for what matters more, a part of it for each priority.
    fn fill(&self) -> u32 {
        const FROM: u32 = PRESSURE_MAX / 4 * 3;
        let journal = self.journal.min(PRESSURE_MAX);
        match journal.checked_sub(FROM) {
            None => 0,
            Some(above) => PRESSURE_MAX / 4 + above * 3,
        }
    }

    /// Whichever is worse.
    pub fn pressure(&self) -> u32 {
        self.buffers().max(self.fill())
    }
}

/// `part` of `whole` as a reading; all of it where there is no whole.
pub fn fraction(part: u64, whole: u64) -> u32 {
    if part >= whole {
        return PRESSURE_MAX;
    }
    (u128::from(part) * u128::from(PRESSURE_MAX) / u128::from(whole)) as u32
}

/// In how long the pressure that is told falls to about a third of what it was, with none behind it.
const RELEASE_NS: f64 = 200_000_000.0;
/// The pressure must have fallen by so much before a ratio rises again: half of a ramp.
const HYSTERESIS: u32 = 64;

/// One shard's pressure over time.
///
/// It rises at once: what it is made of are buffers, which have done the smoothing (a peak in them is
/// a peak of what waits). It falls slowly, and a ratio rises only when the pressure is well below
/// that at which it fell: so under a steady overload the ratios stand still instead of opening
/// whenever the buffers have run dry, and filling them anew.
#[derive(Clone, Debug)]
pub struct Regulator {
    pressure: f64,
    keep: Keep,
    at_ns: u64,
}

impl Regulator {
    pub fn new(now_ns: u64) -> Self {
        Self {
            pressure: 0.0,
            keep: Keep::ALL,
            at_ns: now_ns,
        }
    }

    /// Takes what was found at a time, and says what is to be kept from now on.
    pub fn step(&mut self, found: u32, now_ns: u64) -> Keep {
        let past = now_ns.saturating_sub(self.at_ns) as f64;
        self.at_ns = now_ns;
        let found = f64::from(found.min(PRESSURE_MAX));
        // A step of any length stays between the two.
        let falls = past / (past + RELEASE_NS);
        self.pressure = found.max(self.pressure + (found - self.pressure) * falls);
        let low = ramps(self.pressure().saturating_add(HYSTERESIS));
        let high = ramps(self.pressure());
        let (low, high) = (low.sixteenths(), high.sixteenths());
        let keep = self.keep.sixteenths();
        self.keep = Keep::new(std::array::from_fn(|priority| {
            keep[priority].clamp(low[priority], high[priority])
        }));
        self.keep
    }

    pub fn pressure(&self) -> u32 {
        self.pressure.round() as u32
    }

    /// Nothing is shed, and time alone will change nothing.
    pub fn is_calm(&self) -> bool {
        self.keep == Keep::ALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_common::keep::KEEP_ALL;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn what_waits_makes_the_pressure() {
        let none = Reading::default();
        let table = [
            ("nothing", none, 0),
            (
                "half a socket",
                Reading {
                    sockets: 512,
                    ..none
                },
                512,
            ),
            (
                "a full socket",
                Reading {
                    sockets: 1024,
                    pool: 1024,
                    blocks: 1024,
                    ..none
                },
                1024,
            ),
            // A trickle while the disk stalls: the pool is full, the sockets are empty.
            (
                "a trickle",
                Reading {
                    pool: 1024,
                    blocks: 1024,
                    sync: 1024,
                    ..none
                },
                240,
            ),
            (
                "a slow disk and nothing that waits",
                Reading {
                    blocks: 1024,
                    sync: 900,
                    ..none
                },
                0,
            ),
            (
                "an eighth, the disk idle",
                Reading {
                    sockets: 128,
                    ..none
                },
                128,
            ),
            (
                "an eighth, the disk at a standstill",
                Reading {
                    sockets: 128,
                    sync: 1024,
                    ..none
                },
                240,
            ),
            (
                "a journal at three quarters",
                Reading {
                    journal: 767,
                    ..none
                },
                0,
            ),
            (
                "a little more",
                Reading {
                    journal: 768,
                    ..none
                },
                256,
            ),
            (
                "at seven eighths",
                Reading {
                    journal: 896,
                    ..none
                },
                640,
            ),
            (
                "full",
                Reading {
                    journal: 1024,
                    ..none
                },
                1024,
            ),
            (
                "the worse of two",
                Reading {
                    journal: 800,
                    sockets: 700,
                    ..none
                },
                700,
            ),
        ];
        for (what, reading, pressure) in table {
            assert_eq!(reading.pressure(), pressure, "{what}");
        }
        // A trickle is not shed.
        assert_eq!(ramps(240), Keep::ALL);
    }

    #[test]
    fn fractions_are_exact_and_need_no_whole() {
        assert_eq!(fraction(0, 0), PRESSURE_MAX);
        assert_eq!(fraction(1, 2), 512);
        assert_eq!(fraction(u64::MAX - 1, u64::MAX), 1023);
        assert_eq!(fraction(3, 2), PRESSURE_MAX);
    }

    #[test]
    fn it_attacks_at_once_and_lets_go_slowly() {
        let mut regulator = Regulator::new(0);
        assert!(regulator.is_calm());
        assert_eq!(regulator.step(520, 0), Keep::new([16, 16, 0, 0]));
        let mut seen = Vec::new();
        for ms in 1..=2_000 {
            let keep = regulator.step(0, ms * MS).sixteenths();
            if seen.last() != Some(&(keep[2], keep[3])) {
                seen.push((keep[2], keep[3]));
            }
        }
        assert!(regulator.is_calm(), "{regulator:?}");
        // Normal comes back in steps, and before background does.
        let normal: Vec<u8> = seen.iter().map(|keep| keep.0).collect();
        assert!(normal.is_sorted() && normal.contains(&8), "{seen:?}");
        let background_opens = seen.iter().position(|keep| keep.1 > 0).expect("it opens");
        assert_eq!(seen[background_opens].0, 16, "{seen:?}");
    }

    /// A buffer that takes `offered` and gives `taken` a millisecond, under the regulator: what
    /// remains of each priority, of as many frames of each.
    fn overload(offered: [f64; 4], taken: f64, buffer: f64) -> ([f64; 4], f64, u32) {
        let mut regulator = Regulator::new(0);
        let (mut keep, mut fill, mut lost, mut turns) = ([KEEP_ALL; 4], 0.0_f64, 0.0, 0);
        let mut kept = [0.0; 4];
        for ms in 0..5_000 {
            for (priority, offered) in offered.iter().enumerate() {
                let arrives = offered * f64::from(keep[priority]) / f64::from(KEEP_ALL);
                kept[priority] += arrives;
                fill += arrives;
            }
            lost += (fill - buffer).max(0.0);
            fill = (fill.min(buffer) - taken).max(0.0);
            let pressure = fraction(fill as u64, buffer as u64);
            let next = regulator.step(pressure, ms * MS).sixteenths();
            turns += u32::from(next != keep);
            keep = next;
        }
        let ratio = |priority: usize| kept[priority] / (offered[priority] * 5_000.0);
        ([0, 1, 2, 3].map(ratio), lost, turns)
    }

    #[test]
    fn at_twice_what_is_taken_the_first_two_arrive_whole_and_nothing_overflows() {
        // 2.8 MB a millisecond, of which half is taken; 16 MiB.
        let offered = [0.28e6, 0.56e6, 0.84e6, 1.12e6];
        let (kept, lost, turns) = overload(offered, 1.4e6, 16e6);
        assert_eq!((kept[0], kept[1], lost), (1.0, 1.0, 0.0), "{kept:?}");
        assert!(kept[2] > kept[3], "{kept:?}");
        let taken: f64 = kept
            .iter()
            .zip(offered)
            .map(|(kept, offered)| kept * offered)
            .sum();
        assert!(taken > 0.9 * 1.4e6, "what can be taken is: {taken}");
        assert!(turns < 600, "{turns} changes in 5 s");
    }

    proptest! {
        #[test]
        fn more_in_use_is_no_less_pressure(
            one in prop::array::uniform5(0u32..=1024),
            more in prop::array::uniform5(0u32..=1024),
        ) {
            let reading = |of: [u32; 5]| Reading { sockets: of[0], pool: of[1], blocks: of[2], sync: of[3], journal: of[4] };
            let both = std::array::from_fn(|at| (one[at] + more[at]).min(1024));
            let (less, more) = (reading(one).pressure(), reading(both).pressure());
            prop_assert!(less <= more && more <= PRESSURE_MAX);
        }

        /// Order of priorities, monotone, and never beyond what the pressure found demands at once.
        #[test]
        fn order_holds_at_all_times(steps in prop::collection::vec((0u32..=1100, 0u64..300 * MS), 1..80)) {
            let (mut one, mut other) = (Regulator::new(0), Regulator::new(0));
            let mut now = 0;
            for (found, past) in steps {
                now += past;
                let keep = one.step(found, now).sixteenths();
                let under_more = other.step(found + 40, now).sixteenths();
                prop_assert!(keep.is_sorted_by(|a, b| a >= b), "{keep:?}");
                prop_assert_eq!(keep[0], KEEP_ALL);
                prop_assert!(keep.iter().zip(ramps(found.min(PRESSURE_MAX)).sixteenths()).all(|(keep, at_most)| *keep <= at_most));
                prop_assert!(under_more.iter().zip(keep).all(|(more, keep)| *more <= keep));
            }
        }

        /// Pressure that trembles by less than the hysteresis changes the ratios once, not each time.
        #[test]
        fn trembling_does_not_flap(base in 0u32..=960, tremble in prop::collection::vec(0u32..=60, 50)) {
            let mut regulator = Regulator::new(0);
            regulator.step(base + 60, 0);
            let keep = regulator.step(base + 60, MS);
            for (at, more) in tremble.into_iter().enumerate() {
                prop_assert_eq!(regulator.step(base + more, (at as u64 + 2) * 1_000 * MS), keep);
            }
        }
    }
}
