//! How many datagrams does a bundle hold, and what is each of them? The one loop, for the gate in
//! the kernel and for its stand-in in user space.

use crate::classify::check_datagram;
use crate::frame::{FRAME_HEADER_LEN, offset, read_u64};
use crate::keep::Keep;
use crate::layout::{SOCKET_SYSLOG, SocketSlot};
use crate::syslog;

/// Datagrams of a bundle whose headers are looked at: the kernel's `UDP_MAX_SEGMENTS` (GSO over
/// loopback or veth; it was 64 before 6.9, and GRO makes at most 64 of its own).
pub const BUNDLE_DATAGRAMS_MAX: u32 = 128;

/// A bundle where it lies: a slice in user space, helpers' calls in the kernel.
pub trait Packet {
    /// What `look` says of the `N` bytes from `offset` of the bundle; `None` where it ends before.
    ///
    /// The bytes are shown rather than handed over: user space then copies nothing, and the
    /// kernel's side need not clear the memory that its helper fills.
    fn look<const N: usize, R>(&self, offset: u32, look: impl FnOnce(&[u8; N]) -> R) -> Option<R>;

    /// Counts a raw message, and says how many there were before: the number that frames bring with
    /// them.
    fn tick(&self, listener: u32, priority: u8) -> u64;

    /// Calls `scan.step()` until that says true, at most `scan.steps()` times.
    ///
    /// The kernel's loop must be its helper `bpf_loop`: of a loop in the program the verifier would
    /// look at each turn anew, 180,000 instructions of its million.
    #[inline]
    fn run(scan: &mut Scan<'_, Self>) {
        for _ in 0..scan.steps() {
            if scan.step() {
                return;
            }
        }
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

/// A look at the datagrams of a bundle: which of them are well formed, and is any of these kept?
pub struct Scan<'a, P: ?Sized> {
    packet: &'a P,
    shape: BundleShape,
    listener: u32,
    flags: u32,
    payload_len_max: u32,
    keep: Keep,
    /// To the end even behind one that is kept: the others' number is wanted.
    whole: bool,
    offset: u32,
    /// Datagrams that are a frame, or a syslog message.
    pub well_formed: u32,
    pub well_formed_bytes: u32,
    /// One of them is kept at these ratios.
    pub kept: bool,
}

impl<'a, P: Packet + ?Sized> Scan<'a, P> {
    /// `whole`: the counts are wanted; otherwise the scan ends at the first datagram that passes,
    /// so that a good bundle costs one look.
    #[inline(always)]
    pub fn new(
        packet: &'a P,
        shape: BundleShape,
        slot: &SocketSlot,
        keep: Keep,
        whole: bool,
    ) -> Self {
        Self {
            packet,
            shape,
            listener: slot.listener,
            flags: slot.flags,
            payload_len_max: slot.payload_len_max,
            keep,
            whole,
            offset: 0,
            well_formed: 0,
            well_formed_bytes: 0,
            kept: false,
        }
    }

    /// How often `step` is to be called at most.
    #[inline(always)]
    pub fn steps(&self) -> u32 {
        self.shape.datagrams().min(BUNDLE_DATAGRAMS_MAX)
    }

    /// Looks at the next datagram; true when the scan is over.
    #[inline(always)]
    pub fn step(&mut self) -> bool {
        let left = self.shape.payload_len.wrapping_sub(self.offset);
        let segment_len = self.shape.segment_len;
        let datagram_len = if segment_len == 0 || left < segment_len {
            left
        } else {
            segment_len
        };
        let found = if self.flags & SOCKET_SYSLOG == 0 {
            self.frame(datagram_len)
        } else {
            self.message(datagram_len)
        };
        if let Some((priority, number)) = found {
            self.well_formed += 1;
            self.well_formed_bytes += datagram_len;
            self.kept |= self.keep.keeps(priority, number);
        }
        self.offset += segment_len;
        self.kept && !self.whole
    }

    /// Priority and sequence, if the datagram is a frame. One shorter than a header must not be
    /// given its neighbour's bytes.
    #[inline(always)]
    fn frame(&self, datagram_len: u32) -> Option<(u8, u64)> {
        if datagram_len < FRAME_HEADER_LEN as u32 {
            return None;
        }
        self.packet.look(self.offset, |header| {
            check_datagram(header, datagram_len, self.payload_len_max).ok()?;
            Some((header[offset::PRIORITY], read_u64(header, offset::SEQUENCE)))
        })?
    }

    /// Priority and number, if the datagram begins like a syslog message.
    #[inline(always)]
    fn message(&self, datagram_len: u32) -> Option<(u8, u64)> {
        let severity = match datagram_len {
            0..syslog::START_LEN_MIN => None,
            3 => self
                .packet
                .look(self.offset, |&[a, b, c]| syslog::severity(&[a, b, c, 0, 0])),
            4 => self.packet.look(self.offset, |&[a, b, c, d]| {
                syslog::severity(&[a, b, c, d, 0])
            }),
            _ => self.packet.look(self.offset, syslog::severity),
        };
        let priority = syslog::priority(severity??);
        Some((priority, self.packet.tick(self.listener, priority)))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

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

    /// A bundle in one piece, and a count of its messages by priority.
    struct Bytes<'a>(&'a [u8], Cell<[u64; 4]>);

    impl Packet for Bytes<'_> {
        fn look<const N: usize, R>(
            &self,
            offset: u32,
            look: impl FnOnce(&[u8; N]) -> R,
        ) -> Option<R> {
            self.0.get(offset as usize..)?.first_chunk().map(look)
        }

        fn tick(&self, _: u32, priority: u8) -> u64 {
            let mut ticks = self.1.get();
            ticks[usize::from(priority)] += 1;
            self.1.set(ticks);
            ticks[usize::from(priority)] - 1
        }
    }

    fn slot(flags: u32, payload_len_max: u32) -> SocketSlot {
        SocketSlot {
            listener: 3,
            payload_len_max,
            flags,
            reserved: 0,
        }
    }

    /// Well-formed datagrams and their bytes, and whether one is kept.
    fn scan(
        bytes: &[u8],
        shape: BundleShape,
        slot: &SocketSlot,
        keep: Keep,
        whole: bool,
    ) -> (u32, u32, bool) {
        let packet = Bytes(bytes, Cell::default());
        let mut scan = Scan::new(&packet, shape, slot, keep, whole);
        Packet::run(&mut scan);
        (scan.well_formed, scan.well_formed_bytes, scan.kept)
    }

    fn frames(bytes: &[u8], shape: BundleShape, payload_len_max: u32) -> (u32, u32, bool) {
        scan(bytes, shape, &slot(0, payload_len_max), Keep::ALL, true)
    }

    #[test]
    fn a_frame_is_found_anywhere() {
        for good in [0, 1, 63, 126, 127] {
            let mut bundle = vec![b'x'; 128 * 50];
            bundle[good * 50..][..50].copy_from_slice(&frame(50));
            let whole = shape(bundle.len() as u32, 50);
            assert_eq!(frames(&bundle, whole, 1000), (1, 50, true), "at {good}");
        }
        let bad = vec![b'x'; 128 * 50];
        let whole = shape(bad.len() as u32, 50);
        assert_eq!(frames(&bad, whole, 1000), (0, 0, false));
    }

    #[test]
    fn the_last_datagram_has_its_own_length() {
        let mut bundle = vec![b'x'; 60];
        bundle.extend(frame(45));
        assert_eq!(frames(&bundle, shape(105, 60), 1000), (1, 45, true));
        // The same bytes, with one more behind them: the length is no longer the frame's.
        bundle.push(0);
        assert_eq!(frames(&bundle, shape(106, 60), 1000), (0, 0, false));
    }

    #[test]
    fn a_short_datagram_is_not_read_into_its_neighbour() {
        // One frame of 40 bytes, cut by a segment length of 20: two datagrams, and neither is one.
        let bundle = frame(40);
        assert_eq!(frames(&bundle, shape(40, 0), 1000), (1, 40, true));
        assert_eq!(frames(&bundle, shape(40, 20), 1000), (0, 0, false));
        assert_eq!(frames(&[], shape(0, 0), 1000), (0, 0, false));
    }

    #[test]
    fn a_scan_that_need_not_count_ends_at_the_first_that_is_kept() {
        let bundle = [frame(50), frame(50), frame(50)].concat();
        let whole = shape(150, 50);
        let slot = slot(0, 1000);
        assert_eq!(scan(&bundle, whole, &slot, Keep::ALL, false), (1, 50, true));
        assert_eq!(scan(&bundle, whole, &slot, Keep::ALL, true), (3, 150, true));
        // Sequence 1 of priority 0 is not kept at 1/16; it is at 2/16.
        let keep = |sixteenths| Keep::new([sixteenths, 16, 16, 16]);
        assert_eq!(scan(&bundle, whole, &slot, keep(1), false), (3, 150, false));
        assert_eq!(scan(&bundle, whole, &slot, keep(2), false), (1, 50, true));
    }

    #[test]
    fn messages_are_told_by_their_pri_and_numbered_as_they_come() {
        let slot = slot(SOCKET_SYSLOG, 0);
        for (text, well_formed) in [
            ("<13>x", 1),
            ("<0>", 1),
            ("<13>", 1),
            ("<191>", 1),
            ("<192>", 0),
            ("<1", 0),
            ("", 0),
            ("PNS1", 0),
        ] {
            let len = text.len() as u32;
            let expected = (well_formed, well_formed * len, well_formed == 1);
            let found = scan(text.as_bytes(), shape(len, 0), &slot, Keep::ALL, true);
            assert_eq!(found, expected, "{text:?}");
        }
        // Cut between the digits: a datagram is not read into its neighbour.
        assert_eq!(
            scan(b"<13>", shape(4, 2), &slot, Keep::ALL, true),
            (0, 0, false)
        );

        // 32 of severity 7 (background) at 4/16: of each 16 the first 4 are kept.
        let packet = Bytes(b"<15>x", Cell::default());
        let keep = Keep::new([0, 0, 0, 4]);
        let kept: Vec<bool> = (0..32)
            .map(|_| {
                let mut scan = Scan::new(&packet, shape(5, 0), &slot, keep, true);
                Packet::run(&mut scan);
                scan.kept
            })
            .collect();
        let expected: Vec<bool> = (0..32).map(|number| number % 16 < 4).collect();
        assert_eq!(kept, expected);
    }
}
