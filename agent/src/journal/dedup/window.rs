//! One producer's memory: the last 1,024 sequences taken, each with the checksum of its payload.

use crate::limits::OUTSTANDING_FRAMES_MAX;

/// How many sequences a window spans: as many as a producer may have unsettled, so that a retry of
/// a frame that a rule-abiding producer has not seen settled always falls within it.
pub const WINDOW_LEN: usize = OUTSTANDING_FRAMES_MAX;
const WORDS: usize = WINDOW_LEN / 64;

/// What a sequence is, seen from the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not taken so far: above the window, or a gap in it.
    New,
    /// Taken, with this very payload.
    Duplicate,
    /// Taken, with another payload.
    Conflict,
    /// Below the window: whether it was taken is not known.
    TooOld,
}

/// Sequences `head - 1023 ..= head`, of which those in `taken` were taken. A sequence's place is
/// its remainder by 1,024, so that the window moves without moving anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The highest sequence ever taken; 0 where there is none yet.
    head: u64,
    taken: [u64; WORDS],
    /// Of a place that is not taken, 0.
    crcs: [u32; WINDOW_LEN],
}

impl Default for Window {
    fn default() -> Self {
        Self {
            head: 0,
            taken: [0; WORDS],
            crcs: [0; WINDOW_LEN],
        }
    }
}

#[inline]
fn place(sequence: u64) -> usize {
    (sequence % WINDOW_LEN as u64) as usize
}

impl Window {
    /// Of the bytes of a snapshot, checked by its parser.
    pub(super) fn from_parts(head: u64, taken: [u64; WORDS], crcs: [u32; WINDOW_LEN]) -> Self {
        Self { head, taken, crcs }
    }

    pub fn head(&self) -> u64 {
        self.head
    }

    /// The places that are taken, a bit each.
    pub fn taken(&self) -> &[u64; WORDS] {
        &self.taken
    }

    pub(super) fn crc_at(&self, place: usize) -> u32 {
        self.crcs[place]
    }

    #[inline]
    fn is_taken(&self, place: usize) -> bool {
        self.taken[place / 64] >> (place % 64) & 1 == 1
    }

    #[inline]
    pub fn judge(&self, sequence: u64, crc: u32) -> Verdict {
        if sequence > self.head {
            return Verdict::New;
        }
        if self.head - sequence >= WINDOW_LEN as u64 {
            return Verdict::TooOld;
        }
        let place = place(sequence);
        match self.is_taken(place) {
            false => Verdict::New,
            true if self.crcs[place] == crc => Verdict::Duplicate,
            true => Verdict::Conflict,
        }
    }

    /// Remembers a sequence; above the window, the window moves and what falls out is forgotten.
    /// One below it is not remembered: `judge` says `TooOld` of it.
    #[inline]
    pub fn take(&mut self, sequence: u64, crc: u32) {
        if sequence > self.head {
            self.advance(sequence);
        } else if self.head - sequence >= WINDOW_LEN as u64 {
            return;
        }
        let place = place(sequence);
        self.taken[place / 64] |= 1 << (place % 64);
        self.crcs[place] = crc;
    }

    #[inline]
    fn advance(&mut self, head: u64) {
        if head - self.head >= WINDOW_LEN as u64 {
            self.taken = [0; WORDS];
            self.crcs = [0; WINDOW_LEN];
        } else {
            for sequence in self.head + 1..=head {
                self.clear(place(sequence));
            }
        }
        self.head = head;
    }

    #[inline]
    fn clear(&mut self, place: usize) {
        self.taken[place / 64] &= !(1 << (place % 64));
        self.crcs[place] = 0;
    }

    /// Takes a sequence back out: it was lost before it was durable. The window does not move back:
    /// what fell out at its lower end was settled long ago.
    pub fn forget(&mut self, sequence: u64) {
        if sequence <= self.head && self.head - sequence < WINDOW_LEN as u64 {
            self.clear(place(sequence));
        }
    }

    /// Adds what another memory of the same producer holds.
    pub fn merge(&mut self, other: &Self) {
        if other.head > self.head {
            self.advance(other.head);
        }
        for (sequence, crc) in other.iter() {
            self.take(sequence, crc);
        }
    }

    /// What is taken, with its checksum, in the order of places.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        (0..WINDOW_LEN)
            .filter(|place| self.is_taken(*place))
            .map(|at| {
                // The highest sequence at or below the head that has this place.
                let back = (place(self.head) + WINDOW_LEN - at) % WINDOW_LEN;
                (self.head - back as u64, self.crcs[at])
            })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The rules of PROTOCOL.md over a map that forgets nothing.
    #[derive(Default)]
    struct Naive {
        taken: BTreeMap<u64, u32>,
        highest: u64,
    }

    impl Naive {
        fn judge(&self, sequence: u64, crc: u32) -> Verdict {
            if sequence + 1024 <= self.highest {
                return Verdict::TooOld;
            }
            match self.taken.get(&sequence) {
                None => Verdict::New,
                Some(known) if *known == crc => Verdict::Duplicate,
                Some(_) => Verdict::Conflict,
            }
        }

        fn take(&mut self, sequence: u64, crc: u32) {
            self.highest = self.highest.max(sequence);
            self.taken.insert(sequence, crc);
        }

        /// What a window that saw the same holds.
        fn within(&self) -> Vec<(u64, u32)> {
            let low = self.highest.saturating_sub(1023);
            self.taken
                .range(low..)
                .map(|(sequence, crc)| (*sequence, *crc))
                .collect()
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Frame { sequence: u64, crc: u32 },
        Lost { sequence: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let sequence = || {
            prop_oneof![
                6 => 1..40_u64,
                3 => 1_000..1_100_u64,
                3 => 2_040..2_060_u64,
                1 => 1..5_000_u64,
            ]
        };
        prop_oneof![
            9 => (sequence(), 0..3_u32).prop_map(|(sequence, crc)| Step::Frame { sequence, crc }),
            1 => sequence().prop_map(|sequence| Step::Lost { sequence }),
        ]
    }

    fn sorted(window: &Window) -> Vec<(u64, u32)> {
        let mut taken: Vec<_> = window.iter().collect();
        taken.sort_unstable();
        taken
    }

    proptest! {
        #[test]
        fn a_window_is_a_map_that_forgets_below(steps in proptest::collection::vec(step(), 1..200)) {
            let (mut window, mut naive) = (Window::default(), Naive::default());
            for step in steps {
                match step {
                    Step::Frame { sequence, crc } => {
                        let verdict = window.judge(sequence, crc);
                        prop_assert_eq!(verdict, naive.judge(sequence, crc));
                        if verdict == Verdict::New {
                            window.take(sequence, crc);
                            naive.take(sequence, crc);
                        }
                    }
                    Step::Lost { sequence } => {
                        window.forget(sequence);
                        naive.taken.remove(&sequence);
                    }
                }
                prop_assert_eq!(window.head(), naive.highest);
                prop_assert_eq!(sorted(&window), naive.within());
            }
        }

        #[test]
        fn merged_windows_hold_what_either_holds_within_the_later_one(
            ours in proptest::collection::vec(1..3_000_u64, 0..40),
            theirs in proptest::collection::vec(1..3_000_u64, 0..40),
        ) {
            let crc = |sequence: u64| sequence as u32 ^ 0x5bd1_e995;
            let (mut first, mut second, mut naive) =
                (Window::default(), Window::default(), Naive::default());
            let mut ours = ours;
            let mut theirs = theirs;
            // As they are taken in life: nothing below the window.
            ours.sort_unstable();
            theirs.sort_unstable();
            for sequence in &ours {
                first.take(*sequence, crc(*sequence));
                naive.take(*sequence, crc(*sequence));
            }
            for sequence in &theirs {
                second.take(*sequence, crc(*sequence));
                naive.take(*sequence, crc(*sequence));
            }
            first.merge(&second);
            prop_assert_eq!(first.head(), naive.highest);
            prop_assert_eq!(sorted(&first), naive.within());
        }
    }

    #[test]
    fn the_edges() {
        let mut window = Window::default();
        assert_eq!(window.judge(1, 0), Verdict::New, "nothing is known");
        window.take(1_024, 7);
        assert_eq!(window.judge(1_024, 7), Verdict::Duplicate);
        assert_eq!(window.judge(1_024, 8), Verdict::Conflict);
        // With frame 1 unsettled, 1024 is the highest that may be sent: frame 1 is still new.
        assert_eq!(window.judge(1, 7), Verdict::New);
        window.take(1_025, 7);
        assert_eq!(window.judge(1, 7), Verdict::TooOld);
        assert_eq!(window.judge(2, 7), Verdict::New);
        // 2048 has the place of 1024, which falls out with it.
        window.take(2_048, 9);
        assert_eq!(window.judge(1_024, 7), Verdict::TooOld);
        assert_eq!(window.judge(1_025, 7), Verdict::Duplicate);
        window.take(u64::MAX, 1);
        assert_eq!(window.judge(u64::MAX, 1), Verdict::Duplicate);
        assert_eq!(window.judge(2_048, 9), Verdict::TooOld);
    }
}
