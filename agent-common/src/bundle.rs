//! How many datagrams does a bundle hold, and what is each of them? The one loop, for the gate in
//! the kernel and for its stand-in in user space.

use crate::classify::check_datagram;
use crate::frame::FRAME_HEADER_LEN;

/// Datagrams of a bundle whose headers are looked at: the kernel's `UDP_MAX_SEGMENTS` (GSO over
/// loopback or veth; it was 64 before 6.9, and GRO makes at most 64 of its own).
pub const BUNDLE_DATAGRAMS_MAX: u32 = 128;

/// Where a bundle's bytes are: a slice in user space, a helper's call in the kernel.
pub trait ByteSource {
    /// Copies the 40 bytes from `offset` of the bundle; false where it ends before.
    fn read_header(&self, offset: u32, header: &mut [u8; FRAME_HEADER_LEN]) -> bool;
}

impl ByteSource for [u8] {
    fn read_header(&self, offset: u32, header: &mut [u8; FRAME_HEADER_LEN]) -> bool {
        let Some(bytes) = self
            .get(offset as usize..)
            .and_then(|rest| rest.first_chunk())
        else {
            return false;
        };
        *header = *bytes;
        true
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
        // No overflow below 4 GiB: lengths of skbs are far from it.
        (self.payload_len + self.segment_len - 1) / self.segment_len
    }
}

/// What the datagrams of one bundle are. `passed + malformed` is `BundleShape::datagrams`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    pub passed: u32,
    pub malformed: u32,
    /// Whether any datagram passed. A flag of its own rather than `passed > 0`: comparing a count
    /// makes the verifier keep every value of it apart, and a bundle of 128 then costs it millions
    /// of instructions.
    pub any_passed: bool,
}

/// Gives each datagram of a bundle its verdict.
///
/// Datagrams beyond `BUNDLE_DATAGRAMS_MAX` pass unseen: the parser looks at them anyway.
#[inline(always)]
pub fn judge_datagrams<S: ByteSource + ?Sized>(
    source: &S,
    shape: BundleShape,
    payload_len_max: u32,
) -> Judgement {
    let datagrams = shape.datagrams();
    let mut judgement = Judgement::default();
    let mut header = [0; FRAME_HEADER_LEN];
    let mut offset = 0;
    let mut index = 0;
    while index < BUNDLE_DATAGRAMS_MAX && index < datagrams {
        let left = shape.payload_len - offset;
        let datagram_len = if shape.segment_len == 0 || left < shape.segment_len {
            left
        } else {
            shape.segment_len
        };
        // A datagram shorter than a header must not be given its neighbour's bytes.
        let whole =
            datagram_len >= FRAME_HEADER_LEN as u32 && source.read_header(offset, &mut header);
        if whole && check_datagram(&header, datagram_len, payload_len_max).is_ok() {
            judgement.passed += 1;
            judgement.any_passed = true;
        } else {
            judgement.malformed += 1;
        }
        offset += shape.segment_len;
        index += 1;
    }
    if datagrams > BUNDLE_DATAGRAMS_MAX {
        judgement.passed += datagrams - BUNDLE_DATAGRAMS_MAX;
        judgement.any_passed = true;
    }
    judgement
}
