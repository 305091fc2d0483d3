//! How many datagrams does a bundle hold, and what is each of them? The one loop, for the gate in
//! the kernel and for its stand-in in user space.

use crate::classify::check_datagram;
use crate::frame::FRAME_HEADER_LEN;

/// Datagrams of a bundle whose headers are looked at: the kernel's `UDP_MAX_SEGMENTS` (GSO over
/// loopback or veth; it was 64 before 6.9, and GRO makes at most 64 of its own).
pub const BUNDLE_DATAGRAMS_MAX: u32 = 128;

/// Where a bundle's bytes are: a slice in user space, a helper's call in the kernel.
///
/// The header is shown rather than handed over: user space then copies nothing, and the kernel's
/// side need not clear the memory that its helper fills.
pub trait ByteSource {
    /// What `check` says of the 40 bytes from `offset` of the bundle; false where it ends before.
    fn header_passes(
        &self,
        offset: u32,
        check: impl FnOnce(&[u8; FRAME_HEADER_LEN]) -> bool,
    ) -> bool;
}

impl ByteSource for [u8] {
    #[inline]
    fn header_passes(
        &self,
        offset: u32,
        check: impl FnOnce(&[u8; FRAME_HEADER_LEN]) -> bool,
    ) -> bool {
        self.get(offset as usize..)
            .and_then(|rest| rest.first_chunk())
            .is_some_and(check)
    }
}

/// Datagrams of one sender that the kernel handed over as one, back to back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BundleShape {
    /// Bytes of all datagrams, without any UDP header.
    pub payload_len: u32,
    /// Length of each datagram but the last, which may be shorter; 0: a single datagram.
    pub segment_len: u32,
}

impl BundleShape {
    /// How many datagrams it holds: the kernel's `gso_size` decides, as `gso_segs` may be 0 for
    /// what virtio or tun handed in. An empty datagram is a datagram.
    #[inline(always)]
    pub const fn datagrams(&self) -> u32 {
        if self.segment_len == 0 || self.payload_len <= self.segment_len {
            return 1;
        }
        self.payload_len.div_ceil(self.segment_len)
    }
}

/// The search for a frame among the datagrams of a bundle: if any is one, all of the bundle passes,
/// and the parser refuses the others; only a bundle without one is dropped.
///
/// So every datagram of a bundle has the same verdict, which keeps the conservation law exact: what
/// passed is what user space receives or the kernel drops, and a datagram that the parser refuses
/// is not counted here as well. It also ends the search at the first frame: a good bundle costs
/// one look.
///
/// The loop is the caller's, because the kernel's must be its helper `bpf_loop`: of a loop in the
/// program the verifier would look at each turn anew, 180,000 instructions of its million.
pub struct Search<'a, S: ?Sized> {
    source: &'a S,
    shape: BundleShape,
    payload_len_max: u32,
    offset: u32,
    found: bool,
}

impl<'a, S: ByteSource + ?Sized> Search<'a, S> {
    #[inline(always)]
    pub fn new(source: &'a S, shape: BundleShape, payload_len_max: u32) -> Self {
        Self {
            source,
            shape,
            payload_len_max,
            offset: 0,
            // Datagrams beyond those that are looked at pass unseen: the parser sees them anyway.
            found: shape.datagrams() > BUNDLE_DATAGRAMS_MAX,
        }
    }

    /// How often `step` is to be called at most.
    #[inline(always)]
    pub fn steps(&self) -> u32 {
        self.shape.datagrams().min(BUNDLE_DATAGRAMS_MAX)
    }

    /// Looks at the next datagram; true when the search is over.
    #[inline(always)]
    pub fn step(&mut self) -> bool {
        let left = self.shape.payload_len.wrapping_sub(self.offset);
        let segment_len = self.shape.segment_len;
        let datagram_len = if segment_len == 0 || left < segment_len {
            left
        } else {
            segment_len
        };
        // A datagram shorter than a header must not be given its neighbour's bytes.
        if datagram_len >= FRAME_HEADER_LEN as u32
            && self.source.header_passes(self.offset, |header| {
                check_datagram(header, datagram_len, self.payload_len_max).is_ok()
            })
        {
            self.found = true;
        }
        self.offset += segment_len;
        self.found
    }

    #[inline(always)]
    pub fn found(&self) -> bool {
        self.found
    }
}

/// Whether any datagram of a bundle is a frame.
pub fn any_frame<S: ByteSource + ?Sized>(
    source: &S,
    shape: BundleShape,
    payload_len_max: u32,
) -> bool {
    let mut search = Search::new(source, shape, payload_len_max);
    search.found() || (0..search.steps()).any(|_| search.step())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameHeader;

    fn shape(payload_len: u32, segment_len: u32) -> BundleShape {
        BundleShape {
            payload_len,
            segment_len,
        }
    }

    /// A frame of `len` bytes.
    fn frame(len: usize) -> Vec<u8> {
        let header = FrameHeader {
            encoding: 1,
            flags: 0,
            priority: 0,
            payload_len: (len - FRAME_HEADER_LEN) as u32,
            records: 1,
            producer: 0,
            sequence: 1,
            payload_crc: 0,
        };
        let mut bytes = header.write().to_vec();
        bytes.resize(len, 0);
        bytes
    }

    #[test]
    fn datagrams_are_counted_as_the_kernel_cuts_them() {
        // (payload, gso_size, datagrams): udp(7) on UDP_SEGMENT: all but the last of equal size.
        for (payload_len, segment_len, datagrams) in [
            (0, 0, 1),
            (65_507, 0, 1),
            (0, 100, 1),
            (100, 100, 1),
            (101, 100, 2),
            (200, 100, 2),
            (12_800, 100, 128),
            (12_801, 100, 129),
            (3, 1, 3),
        ] {
            let shape = shape(payload_len, segment_len);
            assert_eq!(shape.datagrams(), datagrams, "{shape:?}");
        }
    }

    #[test]
    fn one_frame_anywhere_is_enough() {
        for good in [0, 1, 63, 126, 127] {
            let mut bundle = vec![b'x'; 128 * 50];
            bundle[good * 50..][..50].copy_from_slice(&frame(50));
            let whole = shape(bundle.len() as u32, 50);
            assert!(any_frame(&bundle[..], whole, 1000), "frame at {good}");
        }
        let bad = vec![b'x'; 128 * 50];
        assert!(!any_frame(&bad[..], shape(bad.len() as u32, 50), 1000));
    }

    #[test]
    fn the_last_datagram_has_its_own_length() {
        let mut bundle = vec![b'x'; 60];
        bundle.extend(frame(45));
        assert!(any_frame(&bundle[..], shape(105, 60), 1000));
        // The same bytes, with one more behind them: the length is no longer the frame's.
        bundle.push(0);
        assert!(!any_frame(&bundle[..], shape(106, 60), 1000));
    }

    #[test]
    fn a_short_datagram_is_not_read_into_its_neighbour() {
        // One frame of 40 bytes, cut by a segment length of 20: two datagrams, and neither is one.
        let bundle = frame(40);
        assert!(any_frame(&bundle[..], shape(40, 0), 1000));
        assert!(!any_frame(&bundle[..], shape(40, 20), 1000));
        assert!(!any_frame(&[][..], shape(0, 0), 1000));
    }

    #[test]
    fn beyond_the_most_that_are_looked_at_all_pass() {
        let bad = vec![b'x'; 129 * 50];
        assert!(any_frame(&bad[..], shape(bad.len() as u32, 50), 1000));
    }
}
