//! The gate in user space, for hosts without eBPF: the same rule as the socket filter, applied to a
//! bundle that has already been received.

use agent_common::bundle::{BundleShape, any_frame};
use agent_common::verdict::Verdict;

/// What becomes of a bundle as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleVerdict {
    /// At least one datagram passed; the parser refuses the others.
    Pass,
    /// Each of its datagrams earned a drop.
    Drop,
}

/// Gives the datagrams of a bundle their verdict, which they share, and counts each.
///
/// `segment_len` is the length of each datagram but the last; `None`: a single datagram. A bundle
/// that was cut (MSG_TRUNC) is judged as what is left of it.
pub fn judge_bundle(
    bundle: &[u8],
    segment_len: Option<u16>,
    payload_len_max: u32,
    counts: &mut [u64; Verdict::COUNT],
) -> BundleVerdict {
    let shape = BundleShape {
        payload_len: u32::try_from(bundle.len()).expect("a bundle is at most 64 KiB"),
        segment_len: segment_len.map_or(0, u32::from),
    };
    let (verdict, bundle_verdict) = if any_frame(bundle, shape, payload_len_max) {
        (Verdict::Passed, BundleVerdict::Pass)
    } else {
        (Verdict::Malformed, BundleVerdict::Drop)
    };
    counts[verdict as usize] += u64::from(shape.datagrams());
    bundle_verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_common::frame::FrameHeader;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader {
            encoding: 3,
            flags: 0,
            priority: 2,
            payload_len: 0,
            records: 1,
            producer: 0,
            sequence: 1,
            payload_crc: 0,
        };
        let mut bytes = Vec::new();
        penstock_proto::wire::write_frame(&mut bytes, header, payload);
        bytes
    }

    #[test]
    fn counts_what_it_says() {
        let good = frame(b"{}");
        let mut counts = [0; Verdict::COUNT];
        assert_eq!(
            judge_bundle(&good, None, 100, &mut counts),
            BundleVerdict::Pass
        );
        let mixed = [&b"x".repeat(42)[..], &good, &good[..41]].concat();
        assert_eq!(
            judge_bundle(&mixed, Some(42), 100, &mut counts),
            BundleVerdict::Pass
        );
        assert_eq!(counts, [4, 0, 0, 0, 0, 0]);
        assert_eq!(
            judge_bundle(&mixed[..84], Some(43), 100, &mut counts),
            BundleVerdict::Drop
        );
        assert_eq!(
            judge_bundle(&good, None, 1, &mut counts),
            BundleVerdict::Drop
        );
        assert_eq!(judge_bundle(&[], None, 1, &mut counts), BundleVerdict::Drop);
        assert_eq!(counts, [4, 0, 4, 0, 0, 0]);
    }
}
