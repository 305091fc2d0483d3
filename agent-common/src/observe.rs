//! What the gate remembers of what it saw, for people: who sends, how long datagrams are, and a
//! sample of what was refused. No verdict depends on it.
//!
//! ```text
//!  WHO              LRU      Source, masked → SourceCounts
//!  SIZES            per CPU  SizeCounts per listener
//!  WATCH            array    one u64: until when somebody watches, in ns of the monotonic clock
//!  WATCH_TURN       per CPU  one WatchTurn
//!  REFUSED          ring     RefusedSample
//! ```

use crate::bundle::BundleShape;
use crate::classify::HeaderFault;
use crate::frame::FRAME_HEADER_LEN;
use crate::source::Source;
use crate::verdict::Verdict;

/// Sources that are counted; the one that was silent the longest makes room. Some 120 bytes of
/// kernel memory each (2 MiB), taken when the map is made.
pub const WHO_MAX: u32 = 16_384;

/// What came from one source, since it got its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SourceCounts {
    pub datagrams: u64,
    /// Of these datagrams, without their UDP headers.
    pub bytes: u64,
    /// Datagrams that did not pass.
    pub refused: u64,
}

/// Upper bounds of the sizes' buckets, in bytes of a datagram without its UDP header. 1,472 is what
/// crosses Ethernet in one IPv4 packet.
pub const SIZE_BOUNDS: [u32; 11] = [
    64, 128, 256, 512, 1024, 1472, 2048, 4096, 8192, 16_384, 32_768,
];
/// The last one has no bound.
pub const SIZE_BUCKETS: usize = SIZE_BOUNDS.len() + 1;
/// Where the bytes of all datagrams stand.
pub const SIZE_SUM: usize = SIZE_BUCKETS;
/// A power of two, so that a masked index is in bounds for the verifier.
pub const SIZE_WORDS: usize = 16;

/// How many datagrams there were of each size, and their bytes at `SIZE_SUM`.
pub type SizeCounts = [u64; SIZE_WORDS];

/// The bucket of a datagram of this many bytes.
#[inline(always)]
pub const fn size_bucket(len: u32) -> usize {
    // The number of bounds below it. Without branches: the verifier would follow each way through
    // them, twelve times twelve for a bundle, with all that comes after. The sign of the difference
    // says which is greater, as both are below 2^31.
    let len = len & (u32::MAX >> 1);
    let mut bucket = 0;
    let mut index = 0;
    while index < SIZE_BOUNDS.len() {
        bucket += SIZE_BOUNDS[index].wrapping_sub(len) >> 31;
        index += 1;
    }
    bucket as usize
}

/// The datagrams of a bundle by size: all have one length but the last.
#[inline(always)]
pub const fn sizes(shape: BundleShape) -> [(usize, u64); 2] {
    let datagrams = shape.datagrams();
    let equal = datagrams - 1;
    let last = shape
        .payload_len
        .wrapping_sub(equal.wrapping_mul(shape.segment_len));
    [
        (size_bucket(shape.segment_len), equal as u64),
        (size_bucket(last), 1),
    ]
}

/// A CPU hands on at most `SAMPLES_PER_TURN` samples in a turn of 2^27 ns (0.13 s): 119 a second.
pub const TURN_SHIFT: u32 = 27;
pub const SAMPLES_PER_TURN: u64 = 16;

/// What a CPU has handed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct WatchTurn {
    /// The turn's number: the time over 2^27 ns.
    pub turn: u64,
    /// Samples of that turn.
    pub samples: u64,
    /// Refused bundles that were not handed on while somebody watched.
    pub left_out: u64,
}

impl WatchTurn {
    /// Whether another sample may go at `now_ns`; one that may not is counted.
    #[inline(always)]
    pub fn take(&mut self, now_ns: u64) -> bool {
        let turn = now_ns >> TURN_SHIFT;
        if self.turn != turn {
            self.turn = turn;
            self.samples = 0;
        }
        if self.samples >= SAMPLES_PER_TURN {
            self.left_out += 1;
            return false;
        }
        self.samples += 1;
        true
    }
}

/// Bytes of the ring: some 700 samples, which is what two CPUs hand on in three seconds.
pub const REFUSED_RING_LEN: u32 = 64 << 10;

/// A refused bundle, by its first datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RefusedSample {
    /// The sender's address, with all of its bits.
    pub source: Source,
    pub listener: u32,
    /// Datagrams of the bundle.
    pub datagrams: u32,
    /// Length of the first one, without its UDP header.
    pub len: u32,
    /// The `Verdict` of the first one.
    pub verdict: u8,
    /// `HeaderFault` + 1 where it is malformed; 0: nothing was found, or it is a raw message.
    pub fault: u8,
    /// How many bytes of `head` are its own.
    pub head_len: u8,
    pub reserved: u8,
    /// How it begins; what is behind `head_len` is 0.
    pub head: [u8; FRAME_HEADER_LEN],
}

impl RefusedSample {
    pub const EMPTY: Self = Self {
        source: Source::UNKNOWN,
        listener: 0,
        datagrams: 0,
        len: 0,
        verdict: 0,
        fault: 0,
        head_len: 0,
        reserved: 0,
        head: [0; FRAME_HEADER_LEN],
    };
}

/// The fault's number in a sample.
#[inline(always)]
pub const fn fault_number(fault: Option<HeaderFault>) -> u8 {
    match fault {
        None => 0,
        Some(fault) => fault as u8 + 1,
    }
}

/// The fault and the verdict of the first datagram of a bundle that was dropped as `verdict`: one
/// that is malformed has that verdict, unless the bundle was not looked into.
#[inline(always)]
pub const fn first_verdict(verdict: Verdict, fault: Option<HeaderFault>) -> (Verdict, u8) {
    match verdict {
        Verdict::Closing | Verdict::Denied => (verdict, 0),
        _ if fault.is_some() => (Verdict::Malformed, fault_number(fault)),
        _ => (verdict, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_belongs_to_the_first_bound_that_is_not_below_it() {
        for (len, bound) in [
            (0, 64),
            (64, 64),
            (65, 128),
            (1024, 1024),
            (1025, 1472),
            (1472, 1472),
            (1473, 2048),
            (32_768, 32_768),
        ] {
            assert_eq!(SIZE_BOUNDS[size_bucket(len)], bound, "{len}");
        }
        assert_eq!(size_bucket(32_769), SIZE_BUCKETS - 1);
        assert_eq!(size_bucket(u32::MAX), SIZE_BUCKETS - 1);
        const { assert!(SIZE_SUM < SIZE_WORDS && SIZE_WORDS.is_power_of_two()) };
    }

    /// Against the bundle cut into its datagrams one by one.
    #[test]
    fn a_bundle_is_counted_as_its_datagrams_are() {
        for (payload_len, segment_len) in [
            (0, 0),
            (100, 0),
            (100, 100),
            (101, 100),
            (1_000, 64),
            (65_507, 1_400),
            (3, 1),
        ] {
            let mut expected = [0; SIZE_BUCKETS];
            let mut left = payload_len;
            loop {
                let len = match segment_len {
                    0 => left,
                    _ => left.min(segment_len),
                };
                expected[size_bucket(len)] += 1;
                left -= len;
                if left == 0 {
                    break;
                }
            }
            let mut counted = [0; SIZE_BUCKETS];
            let shape = BundleShape {
                payload_len,
                segment_len,
            };
            for (bucket, count) in sizes(shape) {
                counted[bucket] += count;
            }
            assert_eq!(counted, expected, "{shape:?}");
        }
    }

    #[test]
    fn a_turn_hands_on_sixteen_and_counts_the_others() {
        let mut turn = WatchTurn::default();
        let start = 5 << TURN_SHIFT;
        let taken = (0..100).filter(|ns| turn.take(start + ns)).count();
        assert_eq!((taken, turn.left_out), (16, 84));
        assert!(turn.take(start + (1 << TURN_SHIFT)), "the next turn");
        assert_eq!(turn.left_out, 84);
    }

    #[test]
    fn a_sample_has_no_padding() {
        assert_eq!(size_of::<RefusedSample>(), 20 + 3 * 4 + 4 + 40);
        assert_eq!(size_of::<SourceCounts>(), 24);
        assert_eq!(size_of::<WatchTurn>(), 24);
    }

    #[test]
    fn the_first_datagram_has_the_verdict_it_earns() {
        let fault = Some(HeaderFault::Magic);
        assert_eq!(first_verdict(Verdict::Denied, fault), (Verdict::Denied, 0));
        assert_eq!(first_verdict(Verdict::Shed, fault), (Verdict::Malformed, 2));
        assert_eq!(first_verdict(Verdict::Shed, None), (Verdict::Shed, 0));
        assert_eq!(fault_number(Some(HeaderFault::Truncated)), 1);
    }
}
