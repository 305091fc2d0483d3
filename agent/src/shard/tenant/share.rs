//! What a tenant has of the journal, and what it is entitled to.

/// The journal's room in so many parts; what a tenant has in one is its own until all of the part is
/// delivered.
pub(super) const EPOCHS: usize = 8;
/// A room's length of bytes touches one part more than it has, and a segment may be held back.
const RING: usize = 2 * EPOCHS;

/// Bytes by where they stand in the journal.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    bytes: [u64; RING],
    sum: u64,
    /// The last position at which there is anything.
    newest: u64,
}

impl Epochs {
    pub fn add(&mut self, position: u64, epoch_len: u64, bytes: u64) {
        self.bytes[ring(position / epoch_len)] += bytes;
        self.sum += bytes;
        self.newest = position;
    }

    /// What was added is lost.
    pub fn remove(&mut self, position: u64, epoch_len: u64, bytes: u64) {
        let part = &mut self.bytes[ring(position / epoch_len)];
        // Where it was delivered, it is out of the sum already.
        let bytes = bytes.min(*part);
        *part -= bytes;
        self.sum -= bytes;
    }

    /// All of a part is delivered.
    pub fn pass(&mut self, epoch: u64) {
        self.sum -= std::mem::take(&mut self.bytes[ring(epoch)]);
    }

    /// Where everything is delivered, whatever stands behind it in its part does not matter.
    pub fn settle(&mut self, delivered: u64) {
        if self.newest < delivered && self.sum > 0 {
            self.bytes = [0; RING];
            self.sum = 0;
        }
    }

    pub fn sum(&self) -> u64 {
        self.sum
    }
}

fn ring(epoch: u64) -> usize {
    (epoch % RING as u64) as usize
}

/// Whether memory is so short that weights hold. Before that whoever comes may have what is there.
pub(super) fn memory_is_short(used: u64, room: u64) -> bool {
    used > room / 2
}

/// The same of the journal on disk: sooner, as what somebody has there beyond its part stays until a
/// sink has delivered it.
pub(super) fn journal_is_short(used: u64, room: u64) -> bool {
    used > room / 4
}

/// Memory is free again with the next sync: all of it is dealt out.
pub(super) fn of_memory(room: u64, weight: u64, weights: u64) -> u64 {
    part(room, weight, weights)
}

/// Of the room on disk an eighth is dealt out to nobody: whoever comes when the others have all of
/// theirs finds that, until more is delivered.
pub(super) fn of_journal(room: u64, weight: u64, weights: u64) -> u64 {
    part(room - room / 8, weight, weights)
}

fn part(room: u64, weight: u64, weights: u64) -> u64 {
    debug_assert!(weight <= weights, "{weight} of {weights}");
    (u128::from(room) * u128::from(weight) / u128::from(weights.max(1))) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_delivered_counts_no_longer() {
        let mut epochs = Epochs::default();
        epochs.add(50, 100, 10);
        epochs.add(150, 100, 20);
        epochs.add(250, 100, 30);
        assert_eq!(epochs.sum(), 60);
        epochs.pass(0);
        assert_eq!(epochs.sum(), 50);
        epochs.settle(250);
        assert_eq!(epochs.sum(), 50, "the last one is not delivered yet");
        epochs.remove(250, 100, 30);
        assert_eq!(epochs.sum(), 20);
        epochs.settle(251);
        assert_eq!(epochs.sum(), 0);
        // The ring comes round.
        epochs.add(1_650, 100, 7);
        epochs.pass(16);
        assert_eq!(epochs.sum(), 0);
    }

    proptest! {
        #[test]
        fn parts_are_no_more_than_there_is(room in 0u64..1 << 50, weights in prop::collection::vec(1u64..=1000, 1..20)) {
            let sum: u64 = weights.iter().sum();
            let parts = |of: fn(u64, u64, u64) -> u64| -> u64 {
                weights.iter().map(|&weight| of(room, weight, sum)).sum()
            };
            prop_assert!(parts(of_memory) <= room);
            prop_assert!(parts(of_memory) + weights.len() as u64 > room - room.min(1));
            prop_assert!(parts(of_journal) <= room - room / 8);
        }

        #[test]
        fn a_greater_weight_is_no_smaller_part(room in 0u64..1 << 50, light in 1u64..1000, more in 0u64..1000, others in 0u64..10_000) {
            let sum = light + light + more + others;
            prop_assert!(of_journal(room, light, sum) <= of_journal(room, light + more, sum));
        }
    }
}
