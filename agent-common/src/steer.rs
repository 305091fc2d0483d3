//! Which shard takes a bundle: the one that remembers its first producer; where it names none, the
//! one of its sender's address.
//!
//! A producer's frames so keep their order, and a single address with many producers spreads.
//! Datagrams without a producer (raw ones, and frames of producer 0) keep the order of their address,
//! whatever its ports: a tool that opens a socket for each line is one sender.

use crate::frame::{FRAME_HEADER_LEN, FRAME_MAGIC, FRAME_VERSION, offset, read_u64};
use crate::owner::owner;
use crate::source::{FAMILY_V4, FAMILY_V6, Source};

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SteeredBy {
    /// The first frame's producer.
    Producer = 0,
    /// The sender's address.
    Source = 1,
    /// The kernel's hash of addresses and ports: a socket of the listener is not there yet, or no
    /// longer.
    Hash = 2,
}

impl SteeredBy {
    pub const ALL: [Self; 3] = [Self::Producer, Self::Source, Self::Hash];
    pub const COUNT: usize = Self::ALL.len();

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Source => "source",
            Self::Hash => "hash",
        }
    }
}

/// The producer that a bundle's first 40 bytes name; `None` where they are no frame's, or nobody's.
///
/// Only the magic is looked at, as what else may be wrong is for the verdict and the parser: a wrong
/// id sends a frame that is refused anyway to another shard.
#[inline(always)]
pub fn first_producer(header: &[u8; FRAME_HEADER_LEN]) -> Option<u64> {
    let is_frame = header[0] == FRAME_MAGIC[0]
        && header[1] == FRAME_MAGIC[1]
        && header[2] == FRAME_MAGIC[2]
        && header[offset::VERSION] == FRAME_VERSION;
    let producer = read_u64(header, offset::PRODUCER);
    if is_frame && producer != 0 {
        Some(producer)
    } else {
        None
    }
}

/// A number for a sender; 0 where no address could be read: such datagrams all go to one shard.
#[inline(always)]
pub fn source_number(source: &Source) -> u64 {
    let [first, second, third, fourth] = source.words.map(u32::from_be);
    match source.family {
        FAMILY_V4 => u64::from(first),
        FAMILY_V6 => {
            // The halves, of which one is turned, so that `a:b` and `b:a` differ.
            let high = u64::from(first) << 32 | u64::from(second);
            let low = u64::from(third) << 32 | u64::from(fourth);
            high.rotate_left(32) ^ low
        }
        _ => 0,
    }
}

/// The shard, of `shards`, that takes what bears this number. Sources are spread by the hash that
/// spreads producers.
#[inline(always)]
pub const fn shard_of(number: u64, shards: u16) -> u16 {
    owner(number, shards)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameHeader;

    fn frame(producer: u64) -> [u8; FRAME_HEADER_LEN] {
        FrameHeader {
            encoding: 1,
            flags: 0,
            priority: 2,
            payload_len: 0,
            records: 1,
            producer,
            sequence: 1,
            payload_crc: 0,
        }
        .write()
    }

    #[test]
    fn the_first_frame_names_the_producer() {
        assert_eq!(first_producer(&frame(7)), Some(7));
        assert_eq!(first_producer(&frame(u64::MAX)), Some(u64::MAX));
        // Nobody, and what is no frame.
        assert_eq!(first_producer(&frame(0)), None);
        for at in 0..4 {
            let mut other = frame(7);
            other[at] ^= 1;
            assert_eq!(first_producer(&other), None, "byte {at}");
        }
    }

    fn number(address: impl Into<core::net::IpAddr>) -> u64 {
        source_number(&Source::from(address.into()))
    }

    #[test]
    fn addresses_are_numbers() {
        assert_eq!(number([10, 1, 2, 3]), 0x0a01_0203);
        let mut address = [0u8; 16];
        address[0] = 0x20;
        address[15] = 1;
        // The upper half is 0x2000_0000_0000_0000, whose 32-bit halves change places.
        assert_eq!(number(address), 0x2000_0001);
        assert_eq!(source_number(&Source::UNKNOWN), 0);
    }

    #[test]
    fn neighbouring_addresses_spread() {
        let mut v4 = [0; 4];
        let mut v6 = [0; 4];
        for host in 0..=255 {
            v4[usize::from(shard_of(number([192, 0, 2, host]), 4))] += 1;
            let mut address = [0u8; 16];
            address[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
            address[7] = host;
            v6[usize::from(shard_of(number(address), 4))] += 1;
        }
        for counts in [v4, v6] {
            assert!(
                counts.iter().all(|&count| (32..=96).contains(&count)),
                "{counts:?}"
            );
        }
    }
}
