//! Where lanes send from: the addresses of a prefix, in turn, so that one host can play many.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// `ADDRESS` or `ADDRESS/LEN`; the host must have all of them, as Linux has all of 127.0.0.0/8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sources {
    first: IpAddr,
    count: u128,
}

impl Sources {
    /// Where lane number `lane` sends from; the kernel chooses the port.
    pub fn of_lane(&self, lane: usize) -> SocketAddr {
        let nth = lane as u128 % self.count;
        let address = match self.first {
            IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from(u32::from(first) + nth as u32)),
            IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from(u128::from(first) + nth)),
        };
        SocketAddr::new(address, 0)
    }

    pub fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }
}

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| format!("{address:?} is no address"))?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let len = match len {
            None => bits,
            Some(len) => len
                .parse()
                .ok()
                .filter(|&len: &u32| len <= bits)
                .ok_or_else(|| format!("a prefix has 0 to {bits} bits, not {len:?}"))?,
        };
        // A lane has a number of 16 bits: more addresses than that are never used.
        let host_bits = (bits - len).min(16);
        let count = 1u128 << host_bits;
        let mask = !(count - 1);
        let first = match address {
            IpAddr::V4(address) => Ipv4Addr::from(u32::from(address) & mask as u32).into(),
            IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & mask).into(),
        };
        Ok(Self { first, count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(sources: &str, lane: usize) -> String {
        let sources: Sources = sources.parse().expect("sources");
        sources.of_lane(lane).ip().to_string()
    }

    #[test]
    fn lanes_go_round_the_prefix() {
        assert_eq!(address("127.0.9.7", 5), "127.0.9.7");
        assert_eq!(address("127.0.9.7/30", 0), "127.0.9.4");
        assert_eq!(address("127.0.9.7/30", 3), "127.0.9.7");
        assert_eq!(address("127.0.9.7/30", 4), "127.0.9.4");
        assert_eq!(address("127.0.9.0/24", 255), "127.0.9.255");
        assert_eq!(address("10.0.0.0/8", 65_535), "10.0.255.255");
        assert_eq!(address("fd00::/64", 258), "fd00::102");
    }

    #[test]
    fn what_is_no_prefix_is_said() {
        for text in ["", "1.2.3", "1.2.3.4/33", "::1/129", "::1/x", "1.2.3.4/-1"] {
            assert!(text.parse::<Sources>().is_err(), "{text}");
        }
    }
}
