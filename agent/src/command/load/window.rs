//! Which frames of a connection are not settled: a ring of 1,024 places, a bit for each.

use penstock_client::random_producer_id;
use penstock_proto::reason::Reason;

/// Frames of one producer that may be outstanding (PROTOCOL.md).
const PLACES: usize = 1024;

/// What is remembered of a frame until it is settled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    pub intended_ns: u64,
    pub template: u32,
    /// The reason that it was made to earn.
    pub hostile: Option<Reason>,
}

pub struct Window {
    pub producer: u64,
    /// The lowest sequence that is not settled; the next one to be given.
    base: u64,
    next: u64,
    unsettled: [u64; PLACES / 64],
    sent: Box<[Sent]>,
}

impl Window {
    pub fn new() -> Self {
        Self {
            producer: random_producer_id(),
            base: 1,
            next: 1,
            unsettled: [0; PLACES / 64],
            sent: vec![Sent::default(); PLACES].into_boxed_slice(),
        }
    }

    pub fn has_room(&self) -> bool {
        self.next - self.base < PLACES as u64
    }

    pub fn is_settled(&self) -> bool {
        self.base == self.next
    }

    /// Gives the next sequence to a frame.
    pub fn begin(&mut self, sent: Sent) -> u64 {
        assert!(self.has_room(), "{} to {}", self.base, self.next);
        let sequence = self.next;
        self.next += 1;
        let place = place(sequence);
        self.unsettled[place / 64] |= 1 << (place % 64);
        self.sent[place] = sent;
        sequence
    }

    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// A sequence without waiting for an answer.
    pub fn begin_unanswered(&mut self) -> u64 {
        self.next += 1;
        self.base = self.next;
        self.next - 1
    }

    /// What is known of a frame that is not settled.
    pub fn get(&self, sequence: u64) -> Option<Sent> {
        let place = place(sequence);
        let inside = sequence >= self.base && sequence < self.next;
        let unsettled = self.unsettled[place / 64] & 1 << (place % 64) != 0;
        (inside && unsettled).then(|| self.sent[place])
    }

    /// Settles a frame; `None` where it is settled or was never begun.
    pub fn settle(&mut self, sequence: u64) -> Option<Sent> {
        let sent = self.get(sequence)?;
        let at = place(sequence);
        self.unsettled[at / 64] &= !(1 << (at % 64));
        while self.base < self.next
            && self.unsettled[place(self.base) / 64] & 1 << (place(self.base) % 64) == 0
        {
            self.base += 1;
        }
        Some(sent)
    }

    /// The part of the `count` frames ending at `last` that was begun and may not be settled.
    pub fn clamp(&self, last: u64, count: u32) -> std::ops::Range<u64> {
        let end = last.saturating_add(1);
        let first = end.saturating_sub(count.into());
        first.max(self.base)..end.min(self.next)
    }

    /// All that is not settled.
    pub fn unsettled(&self) -> impl Iterator<Item = Sent> + '_ {
        (self.base..self.next).filter_map(|sequence| self.get(sequence))
    }
}

fn place(sequence: u64) -> usize {
    (sequence % PLACES as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::load::lines::SplitMix64;
    use std::collections::BTreeSet;

    #[test]
    fn it_agrees_with_a_set() {
        let mut random = SplitMix64::new(9);
        let mut window = Window::new();
        let mut set = BTreeSet::new();
        let mut next = 1;
        for _ in 0..200_000 {
            let lowest = set.first().copied().unwrap_or(next);
            assert_eq!(window.has_room(), next - lowest < 1024);
            if random.next().is_multiple_of(2) && window.has_room() {
                assert_eq!(window.begin(Sent::default()), next);
                set.insert(next);
                next += 1;
            } else {
                let sequence = (lowest + random.next() % 1100).saturating_sub(30);
                assert_eq!(window.settle(sequence).is_some(), set.remove(&sequence));
            }
            assert_eq!(window.is_settled(), set.is_empty());
        }
        assert!(next > 2000, "the ring went round");
        assert_eq!(window.unsettled().count(), set.len());
    }
}
