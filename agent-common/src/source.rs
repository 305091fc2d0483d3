//! Who sends: an address of either family, as the maps' keys have it.

use core::net::IpAddr;

/// No address could be read: no list names it, and all of these share one limit.
pub const FAMILY_UNKNOWN: u32 = 0;
pub const FAMILY_V4: u32 = 4;
pub const FAMILY_V6: u32 = 6;

/// A sender's address, or the part of it that makes a source: the key of the map `SOURCES`.
///
/// An IPv4 sender is the same source whether it came over an IPv4 socket or, as an IPv4-mapped
/// address (RFC 4291, 2.5.5.2), over an IPv6 one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Source {
    /// `FAMILY_V4` or `FAMILY_V6`.
    pub family: u32,
    /// The address as it stands in a packet, so each word in network byte order; IPv4 has the first.
    pub words: [u32; 4],
}

impl Source {
    pub const UNKNOWN: Self = Self {
        family: FAMILY_UNKNOWN,
        words: [0; 4],
    };

    /// `address`: as it stands in the packet.
    #[inline(always)]
    pub const fn v4(address: u32) -> Self {
        Self {
            family: FAMILY_V4,
            words: [address, 0, 0, 0],
        }
    }

    /// The four words as they stand in the packet.
    #[inline(always)]
    pub const fn v6(words: [u32; 4]) -> Self {
        if words[0] == 0 && words[1] == 0 && words[2] == 0xffff_u32.to_be() {
            return Self::v4(words[3]);
        }
        Self {
            family: FAMILY_V6,
            words,
        }
    }

    /// Bits of an address of this family.
    pub const fn bits(&self) -> u32 {
        match self.family {
            FAMILY_V4 => 32,
            FAMILY_V6 => 128,
            _ => 0,
        }
    }

    /// With the bits behind the mask's cleared.
    #[inline(always)]
    pub const fn masked(&self, mask: &[u32; 4]) -> Self {
        Self {
            family: self.family,
            words: [
                self.words[0] & mask[0],
                self.words[1] & mask[1],
                self.words[2] & mask[2],
                self.words[3] & mask[3],
            ],
        }
    }
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::v4(u32::from_ne_bytes(v4.octets())),
            IpAddr::V6(v6) => {
                let bytes = v6.octets();
                let word = |at: usize| {
                    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
                };
                Self::v6([word(0), word(4), word(8), word(12)])
            }
        }
    }
}

/// The first `bits` bits of an address, as `Source::words` has them.
pub const fn mask(bits: u32) -> [u32; 4] {
    let mut words = [0; 4];
    let mut index = 0;
    while index < 4 {
        let here = bits.saturating_sub(32 * index as u32);
        words[index] = match here {
            0 => 0,
            1..=31 => (u32::MAX << (32 - here)).to_be(),
            _ => u32::MAX,
        };
        index += 1;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(address: &str) -> Source {
        Source::from(address.parse::<IpAddr>().unwrap())
    }

    fn bytes(source: &Source) -> Vec<u8> {
        source.words.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }

    #[test]
    fn words_are_the_packets_bytes() {
        let v4 = source("192.0.2.33");
        assert_eq!((v4.family, v4.bits()), (4, 32));
        assert_eq!(bytes(&v4)[..5], [192, 0, 2, 33, 0]);
        let v6 = source("2001:db8::1");
        assert_eq!((v6.family, v6.bits()), (6, 128));
        assert_eq!(
            bytes(&v6),
            [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
        );
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_one() {
        assert_eq!(source("::ffff:192.0.2.33"), source("192.0.2.33"));
        // Its neighbours are not mapped: the deprecated compatible form, and a longer head.
        for other in ["::192.0.2.33", "1::ffff:192.0.2.33", "::1:ffff:c000:221"] {
            assert_eq!(source(other).family, FAMILY_V6, "{other}");
        }
    }

    #[test]
    fn a_mask_clears_what_is_behind_it() {
        for (address, bits, expected) in [
            ("192.0.2.255", 32, "192.0.2.255"),
            ("192.0.2.255", 25, "192.0.2.128"),
            ("192.0.2.255", 1, "128.0.0.0"),
            ("192.0.2.255", 0, "0.0.0.0"),
            ("2001:db8:1:2:ffff::1", 64, "2001:db8:1:2::"),
            ("2001:db8:1:2:ffff::1", 65, "2001:db8:1:2:8000::"),
            ("2001:db8:1:2:ffff::1", 33, "2001:db8::"),
            ("2001:db8:1:2:ffff::1", 128, "2001:db8:1:2:ffff::1"),
        ] {
            let masked = source(address).masked(&mask(bits));
            assert_eq!(masked, source(expected), "{address}/{bits}");
        }
    }
}
