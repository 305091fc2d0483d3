//! What the gate is told: plain data, as the configuration or a person at the control socket gives
//! it. `Gate::apply` turns it into maps, or refuses it and keeps what holds.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use agent_common::frame::PRIORITY_MAX;
pub use agent_common::keep::KEEP_ALL;

/// An address with the number of its leading bits that count: 0 to 32, or to 128. The bits behind
/// them are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    pub address: IpAddr,
    pub len: u8,
}

/// Why a text is no prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixFault {
    Syntax,
    /// More bits than an address of this kind has.
    Length {
        max: u8,
    },
    /// Bits behind the length that are not 0.
    Bits {
        meant: Prefix,
    },
    /// An IPv4 address mapped to IPv6: the gate looks at packets, where there are none.
    Mapped {
        meant: Prefix,
    },
}

impl Prefix {
    /// `10.0.0.0/8`; an address alone means all of its bits.
    pub fn parse(text: &str) -> Result<Self, PrefixFault> {
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| PrefixFault::Syntax)?;
        let max = Self::bits(address);
        let len = match len {
            None => max,
            // `parse` takes a sign, which has no meaning here.
            Some(len) if !len.bytes().all(|b| b.is_ascii_digit()) || len.is_empty() => {
                return Err(PrefixFault::Syntax);
            }
            Some(len) => match len.parse() {
                Ok(len) if len <= max => len,
                _ => return Err(PrefixFault::Length { max }),
            },
        };
        let meant = Self::of(address, len);
        if let IpAddr::V6(v6) = meant.address
            && len >= 96
            && let Some(v4) = v6.to_ipv4_mapped()
        {
            let meant = Self::of(IpAddr::V4(v4), len - 96);
            return Err(PrefixFault::Mapped { meant });
        }
        match meant.address == address {
            true => Ok(meant),
            false => Err(PrefixFault::Bits { meant }),
        }
    }

    /// The prefix of that many bits which holds the address.
    pub fn of(address: IpAddr, len: u8) -> Self {
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                IpAddr::V4((u32::from(v4) & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
            }
        };
        Self { address, len }
    }

    const fn bits(address: IpAddr) -> u8 {
        match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

/// A token bucket: what comes in for good, and how much may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Per second; at least 1.
    pub sustained: u64,
    /// At least 1.
    pub burst: u64,
}

/// What one source may send. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceLimit {
    pub datagrams: Option<Rate>,
    pub bytes: Option<Rate>,
    /// New TCP connections.
    pub connections: Option<Rate>,
}

impl SourceLimit {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Each of the three, `merge`d with another's.
    fn each(self, other: Self, merge: impl Fn(Option<Rate>, Option<Rate>) -> Option<Rate>) -> Self {
        Self {
            datagrams: merge(self.datagrams, other.datagrams),
            bytes: merge(self.bytes, other.bytes),
            connections: merge(self.connections, other.connections),
        }
    }
}

/// Everything a person can set about the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatePolicy {
    /// Longest prefix wins; with entries here what no list names is denied.
    pub allow: Vec<Prefix>,
    pub deny: Vec<Prefix>,
    /// For every source that no prefix of `limits` holds.
    pub source_limit: SourceLimit,
    /// Each source within the prefix has this limit of its own; the longest prefix wins.
    pub limits: Vec<(Prefix, SourceLimit)>,
    /// How many leading bits make a source: 1 to 32 and 1 to 128.
    pub source_prefix_v4: u8,
    pub source_prefix_v6: u8,
    /// What all sources that are not known yet may send together, where a limit holds.
    pub newcomers: SourceLimit,
    /// The most that is kept of each priority, in sixteenths: sampling. Pressure only lowers it.
    pub keep: [u8; PRIORITY_MAX as usize + 1],
    /// Connections that one source may have at once over TCP.
    pub connections_max: Option<u32>,
}

impl Default for GatePolicy {
    /// No list, no limit, nothing sampled.
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            deny: Vec::new(),
            source_limit: SourceLimit::default(),
            limits: Vec::new(),
            source_prefix_v4: 32,
            source_prefix_v6: 64,
            newcomers: SourceLimit::default(),
            keep: [KEEP_ALL; PRIORITY_MAX as usize + 1],
            connections_max: None,
        }
    }
}

impl GatePolicy {
    /// What sources that are not known yet may send together where nobody has said: as much as the
    /// one known source that may send the most. Inventing addresses then gains nobody more than
    /// having one.
    pub fn derived_newcomers(&self) -> SourceLimit {
        let most = |a: Option<Rate>, b: Option<Rate>| match (a, b) {
            (Some(a), Some(b)) => Some(Rate {
                sustained: a.sustained.max(b.sustained),
                burst: a.burst.max(b.burst),
            }),
            (one, other) => one.or(other),
        };
        self.limits
            .iter()
            .fold(self.source_limit, |all, (_, limit)| all.each(*limit, most))
    }

    /// Fills what the newcomers' allowance does not say and a limit needs.
    pub fn fill_newcomers(&mut self) {
        let derived = self.derived_newcomers();
        self.newcomers = self
            .newcomers
            .each(derived, |given, derived| given.or(derived));
    }

    /// Changes limits by `change`; the newcomers' allowance follows as far as it was derived.
    pub fn change_limits(&mut self, change: impl FnOnce(&mut Self)) {
        let derived = self.derived_newcomers();
        self.newcomers = self.newcomers.each(derived, |given, derived| {
            given.filter(|given| Some(*given) != derived)
        });
        change(self);
        self.fill_newcomers();
    }

    /// How many entries each of the gate's maps would hold: lists, and limits.
    pub fn entries(&self) -> (usize, usize) {
        (self.allow.len() + self.deny.len(), self.limits.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_its_address_and_its_length() {
        for (text, address, len) in [
            ("10.0.0.0/8", "10.0.0.0", 8),
            ("0.0.0.0/0", "0.0.0.0", 0),
            ("192.0.2.7", "192.0.2.7", 32),
            ("192.0.2.7/32", "192.0.2.7", 32),
            ("2001:db8::/32", "2001:db8::", 32),
            ("::/0", "::", 0),
            ("::1", "::1", 128),
            // Wider than the mapped ones, it holds other addresses too.
            ("::/64", "::", 64),
        ] {
            let prefix = Prefix::parse(text).expect(text);
            let address: IpAddr = address.parse().expect("an address");
            assert_eq!(prefix, Prefix { address, len }, "{text}");
            assert_eq!(Prefix::parse(&prefix.to_string()), Ok(prefix));
        }
        let meant = |text| Prefix::parse(text).expect("a prefix");
        for (text, fault) in [
            (
                "10.1.0.0/8",
                PrefixFault::Bits {
                    meant: meant("10.0.0.0/8"),
                },
            ),
            (
                "10.0.0.1/31",
                PrefixFault::Bits {
                    meant: meant("10.0.0.0/31"),
                },
            ),
            (
                "1.2.3.4/0",
                PrefixFault::Bits {
                    meant: meant("0.0.0.0/0"),
                },
            ),
            (
                "2001:db8:1::/32",
                PrefixFault::Bits {
                    meant: meant("2001:db8::/32"),
                },
            ),
            ("10.0.0.0/33", PrefixFault::Length { max: 32 }),
            ("10.0.0.0/256", PrefixFault::Length { max: 32 }),
            ("::/129", PrefixFault::Length { max: 128 }),
            (
                "::ffff:10.0.0.0/104",
                PrefixFault::Mapped {
                    meant: meant("10.0.0.0/8"),
                },
            ),
            (
                "::ffff:192.0.2.7",
                PrefixFault::Mapped {
                    meant: meant("192.0.2.7"),
                },
            ),
            ("10.0.0.0/-1", PrefixFault::Syntax),
            ("10.0.0.0/+8", PrefixFault::Syntax),
            ("10.0.0.0/ 8", PrefixFault::Syntax),
            ("10.0.0/8", PrefixFault::Syntax),
            ("010.0.0.0/8", PrefixFault::Syntax),
            ("/8", PrefixFault::Syntax),
            ("", PrefixFault::Syntax),
        ] {
            assert_eq!(Prefix::parse(text), Err(fault), "{text}");
        }
    }

    #[test]
    fn newcomers_get_together_what_the_largest_source_may_unless_somebody_says() {
        let rate = |sustained, burst| Some(Rate { sustained, burst });
        let mut policy = GatePolicy::default();
        policy.fill_newcomers();
        assert!(policy.newcomers.is_none(), "no limit, no allowance");
        let prefix = Prefix::parse("10.0.0.0/8").expect("a prefix");
        policy.change_limits(|policy| {
            policy.source_limit.datagrams = rate(100, 1_000);
            let limit = SourceLimit {
                datagrams: rate(500, 700),
                bytes: rate(5, 6),
                connections: None,
            };
            policy.limits.push((prefix, limit));
        });
        assert_eq!(policy.newcomers.datagrams, rate(500, 1_000));
        assert_eq!(policy.newcomers.bytes, rate(5, 6));
        // What was derived follows; what was given stays.
        policy.newcomers.bytes = rate(9, 9);
        policy.change_limits(|policy| policy.limits.clear());
        assert_eq!(policy.newcomers.datagrams, rate(100, 1_000));
        assert_eq!(policy.newcomers.bytes, rate(9, 9));
    }
}
