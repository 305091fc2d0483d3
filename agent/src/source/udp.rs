//! A bundle's bytes become datagrams; a producer's sequences become a count of what is missing.

/// The datagrams of a bundle, in order: each of `segment_len` bytes, but for the last.
///
/// Linux hands an aggregated receive over with one length for all (UDP_GRO, since 5.0).
#[derive(Clone, Copy, Debug)]
pub struct Datagrams<'a> {
    bytes: &'a [u8],
    segment_len: usize,
}

impl<'a> Datagrams<'a> {
    pub fn new(bytes: &'a [u8], segment_len: Option<u16>) -> Self {
        let segment_len = match segment_len {
            Some(len) if len > 0 => usize::from(len),
            // A lone datagram, which may be empty.
            _ => bytes.len().max(1),
        };
        Self { bytes, segment_len }
    }

    /// At least 1: an empty datagram is a datagram.
    pub fn count(&self) -> usize {
        self.bytes.len().div_ceil(self.segment_len).max(1)
    }

    pub fn get(&self, index: usize) -> &'a [u8] {
        let start = index * self.segment_len;
        let end = (start + self.segment_len).min(self.bytes.len());
        &self.bytes[start..end]
    }
}

/// Producers whose sequences are followed, per shard; a power of two. One that shares its place
/// with another takes turns with it, and then counts less than what is missing, never more.
const PRODUCERS: usize = 4096;
/// A jump of more than this is a new life of the producer, not a gap.
const GAP_FRAMES_MAX: u64 = 1 << 20;

/// Counts the frames that a producer numbered and that did not come.
///
/// A frame that comes late was counted as missing when its successor came: over networks that
/// reorder, the count is an upper bound.
#[derive(Debug)]
pub struct SequenceGaps {
    /// (producer, the sequence expected next), at the producer's place.
    expected: Box<[(u64, u64)]>,
}

impl Default for SequenceGaps {
    fn default() -> Self {
        Self {
            expected: vec![(0, 0); PRODUCERS].into_boxed_slice(),
        }
    }
}

impl SequenceGaps {
    /// Takes note of a frame and returns how many are missing before it.
    #[inline]
    pub fn note(&mut self, producer: u64, sequence: u64) -> u64 {
        if producer == 0 {
            return 0;
        }
        // The multiplier is 2^64 divided by the golden ratio: Fibonacci hashing spreads what
        // counts up as well as what is random.
        let place = producer.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - PRODUCERS.ilog2());
        let entry = &mut self.expected[place as usize];
        let missing = match *entry {
            (known, expected) if known == producer => sequence.saturating_sub(expected),
            _ => 0,
        };
        if entry.0 != producer || sequence >= entry.1 || missing > GAP_FRAMES_MAX {
            *entry = (producer, sequence.saturating_add(1));
        }
        if missing > GAP_FRAMES_MAX { 0 } else { missing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_cut_at_its_segment_length() {
        let bundle = Datagrams::new(b"aaabbbc", Some(3));
        let parts: Vec<&[u8]> = (0..bundle.count()).map(|i| bundle.get(i)).collect();
        assert_eq!(parts, [b"aaa".as_slice(), b"bbb", b"c"]);
    }

    #[test]
    fn an_empty_datagram_is_one() {
        let lone = Datagrams::new(b"", None);
        assert_eq!((lone.count(), lone.get(0)), (1, b"".as_slice()));
        assert_eq!(Datagrams::new(b"abc", None).get(0), b"abc");
    }

    #[test]
    fn gaps_count_what_did_not_come() {
        let mut gaps = SequenceGaps::default();
        let missing: Vec<u64> = [5, 6, 9, 10, 7, 11]
            .iter()
            .map(|&sequence| gaps.note(42, sequence))
            .collect();
        // 7 and 8 were missing when 9 came; the late 7 changes nothing.
        assert_eq!(missing, [0, 0, 2, 0, 0, 0]);
        assert_eq!(gaps.note(42, 1 << 40), 0, "a new life");
        assert_eq!(gaps.note(42, (1 << 40) + 2), 1);
        assert_eq!(gaps.note(0, 7), 0, "nobody has no sequence");
    }
}
