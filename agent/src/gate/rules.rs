//! A policy, checked and worked out: what the kernel's maps and the stand-in are both given.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use agent_common::bucket::{Bucket, RATE_MAX};
use agent_common::bundle::BUNDLE_DATAGRAMS_MAX;
use agent_common::keep::Keep;
use agent_common::layout::{
    LIMITS_MAX, LIMITS_OF_ALL, LISTS_MAX, ListEntry, POLICY_ALLOW, POLICY_LIMITS, POLICY_LISTS,
    Policy,
};
use agent_common::limit::Limit;
use agent_common::source::{FAMILY_V6, Source, mask};

use super::policy::{GatePolicy, KEEP_ALL, Prefix, Rate, SourceLimit};

/// The most bytes of one bundle (a UDP datagram's length is 16 bits, and GRO keeps to it).
const BUNDLE_LEN_MAX: u32 = 65_535;

/// A prefix as the maps have it: an IPv4 one is IPv4, however it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    pub source: Source,
    /// Leading bits of the address that count.
    pub bits: u32,
}

/// Of each family, the prefix that holds every address.
const EVERY_SOURCE: [Source; LIMITS_OF_ALL as usize] = [
    Source::v4(0),
    Source {
        family: FAMILY_V6,
        words: [0; 4],
    },
    Source::UNKNOWN,
];

/// Everything of a policy that the judge asks for.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Generation 0: who puts it in force gives it its number.
    pub policy: Policy,
    pub lists: Vec<(Network, ListEntry)>,
    pub limits: Vec<(Network, Limit)>,
    pub ceiling: Keep,
}

/// Why a policy is not put in force. The one before it still holds.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("{what}: {len} prefixes, and the gate has room for {max}: name wider prefixes")]
    TooMany {
        what: &'static str,
        len: usize,
        max: u32,
    },
    #[error("{what}: {address}/{len}: an address of this kind has {max} bits")]
    Length {
        what: &'static str,
        address: IpAddr,
        len: u8,
        max: u8,
    },
    #[error("{what}: {prefix} has bits behind its length: {meant} is meant")]
    Bits {
        what: &'static str,
        prefix: Prefix,
        meant: Prefix,
    },
    #[error("{0} is both allowed and denied: remove one of them")]
    AllowedAndDenied(Prefix),
    #[error("gate.limits: {0} stands twice: remove one of them")]
    Twice(Prefix),
    #[error("{of}: a {what} of 0 lets nothing through: to refuse a prefix, deny it")]
    Zero { of: LimitOf, what: String },
    #[error("{of}: a {what} of {rate} a second is above the most that can be counted, {RATE_MAX}")]
    TooFast {
        of: LimitOf,
        what: String,
        rate: u64,
    },
    #[error("gate.{key}: {len}: a source has 1 to {max} bits of such an address")]
    SourceBits { key: &'static str, len: u8, max: u8 },
    #[error("gate.keep: {sixteenths}/16 of priority {priority}: at most 16/16")]
    Keep { priority: usize, sixteenths: u8 },
    #[error("bpf map update of {map}: {source}: the policy before this one still holds")]
    Map {
        map: &'static str,
        source: aya::maps::MapError,
    },
}

/// Whose limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitOf {
    EverySource,
    Newcomers,
    Prefix(Prefix),
}

impl fmt::Display for LimitOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EverySource => f.write_str("gate.source_limit"),
            Self::Newcomers => f.write_str("gate.newcomers"),
            Self::Prefix(prefix) => write!(f, "gate.limits.\"{prefix}\""),
        }
    }
}

impl Rules {
    /// The first mistake, if there is one.
    pub fn new(policy: &GatePolicy) -> Result<Self, PolicyError> {
        match mistakes(policy).into_iter().next() {
            Some(mistake) => Err(mistake),
            None => Ok(Self::of_checked(policy)),
        }
    }

    /// The same prefix may stand twice in one list.
    fn of_checked(policy: &GatePolicy) -> Self {
        let mut lists = BTreeMap::new();
        for (prefixes, entry) in [
            (&policy.allow, ListEntry::Allow),
            (&policy.deny, ListEntry::Deny),
        ] {
            lists.extend(prefixes.iter().map(|p| (canonical(*p), entry)));
        }
        let mut limits: Vec<(Network, Limit)> = Vec::new();
        let source_limit = limit(&policy.source_limit);
        if source_limit != Limit::NONE {
            let every = |source| (Network { source, bits: 0 }, source_limit);
            limits.extend(EVERY_SOURCE.map(every));
        }
        for (prefix, of) in &policy.limits {
            let network = network(canonical(*prefix));
            // A person may name all of a family, too.
            limits.retain(|(other, _)| *other != network);
            limits.push((network, limit(of)));
        }
        let flag = |wanted: bool, flag: u32| if wanted { flag } else { 0 };
        Self {
            policy: Policy {
                generation: 0,
                flags: flag(!lists.is_empty(), POLICY_LISTS)
                    | flag(!policy.allow.is_empty(), POLICY_ALLOW)
                    | flag(!limits.is_empty(), POLICY_LIMITS),
                mask_v4: mask(u32::from(policy.source_prefix_v4)),
                mask_v6: mask(u32::from(policy.source_prefix_v6)),
                newcomers: limit(&policy.newcomers),
            },
            lists: lists
                .into_iter()
                .map(|(prefix, entry)| (network(prefix), entry))
                .collect(),
            limits,
            ceiling: Keep::new(policy.keep),
        }
    }
}

/// Everything that is wrong with a policy, in the order of its keys.
pub fn mistakes(policy: &GatePolicy) -> Vec<PolicyError> {
    let mut found = Vec::new();
    for (what, prefixes) in [("gate.allow", &policy.allow), ("gate.deny", &policy.deny)] {
        found.extend(prefixes.iter().filter_map(|p| check_prefix(what, *p).err()));
    }
    let of_limits = policy.limits.iter().map(|(prefix, _)| *prefix);
    found.extend(of_limits.filter_map(|p| check_prefix("gate.limits", p).err()));
    // What follows compares prefixes, and needs them sound.
    let sound = found.is_empty();
    if sound {
        contradictions(policy, &mut found);
    }
    let listed = policy.allow.len() + policy.deny.len();
    for (what, len, max) in [
        ("gate.allow and gate.deny", listed, LISTS_MAX),
        ("gate.limits", policy.limits.len(), LIMITS_MAX),
    ] {
        if len > max as usize {
            found.push(PolicyError::TooMany { what, len, max });
        }
    }
    check_limit(LimitOf::EverySource, &policy.source_limit, &mut found);
    check_limit(LimitOf::Newcomers, &policy.newcomers, &mut found);
    for (prefix, limit) in &policy.limits {
        check_limit(LimitOf::Prefix(*prefix), limit, &mut found);
    }
    for (key, len, max) in [
        ("source_prefix_v4", policy.source_prefix_v4, 32),
        ("source_prefix_v6", policy.source_prefix_v6, 128),
    ] {
        if len == 0 || len > max {
            found.push(PolicyError::SourceBits { key, len, max });
        }
    }
    for (priority, &sixteenths) in policy.keep.iter().enumerate() {
        if sixteenths > KEEP_ALL {
            found.push(PolicyError::Keep {
                priority,
                sixteenths,
            });
        }
    }
    found
}

fn contradictions(policy: &GatePolicy, found: &mut Vec<PolicyError>) {
    let mut allowed: Vec<Prefix> = policy.allow.iter().map(|p| canonical(*p)).collect();
    allowed.sort_unstable();
    let denied = policy.deny.iter().map(|prefix| canonical(*prefix));
    let both = denied.filter(|prefix| allowed.binary_search(prefix).is_ok());
    found.extend(both.map(PolicyError::AllowedAndDenied));
    let limits = policy.limits.iter();
    let mut limits: Vec<Prefix> = limits.map(|(prefix, _)| canonical(*prefix)).collect();
    limits.sort_unstable();
    let twice = limits.windows(2).filter(|pair| pair[0] == pair[1]);
    found.extend(twice.map(|pair| PolicyError::Twice(pair[0])));
}

fn check_prefix(what: &'static str, prefix: Prefix) -> Result<(), PolicyError> {
    let Prefix { address, len } = prefix;
    let max = if address.is_ipv4() { 32 } else { 128 };
    if len > max {
        return Err(PolicyError::Length {
            what,
            address,
            len,
            max,
        });
    }
    let meant = Prefix::of(address, len);
    if meant != prefix {
        return Err(PolicyError::Bits {
            what,
            prefix,
            meant,
        });
    }
    Ok(())
}

fn check_limit(of: LimitOf, limit: &SourceLimit, found: &mut Vec<PolicyError>) {
    for (what, rate) in [
        ("", limit.datagrams),
        ("byte_", limit.bytes),
        ("connection_", limit.connections),
    ] {
        let Some(Rate { sustained, burst }) = rate else {
            continue;
        };
        for (value, name) in [(sustained, "rate"), (burst, "burst")] {
            let what = format!("{what}{name}");
            if value == 0 {
                found.push(PolicyError::Zero { of, what });
            } else if name == "rate" && value > RATE_MAX {
                found.push(PolicyError::TooFast {
                    of,
                    what,
                    rate: value,
                });
            }
        }
    }
}

/// An IPv4 prefix written as an IPv4-mapped one is the IPv4 one: packets that come over IPv4 match
/// it, and so do those that an IPv6 socket reports as mapped.
fn canonical(prefix: Prefix) -> Prefix {
    match prefix.address {
        IpAddr::V6(v6) if prefix.len >= 96 => match v6.to_ipv4_mapped() {
            Some(v4) => Prefix {
                address: v4.into(),
                len: prefix.len - 96,
            },
            None => prefix,
        },
        _ => prefix,
    }
}

fn network(prefix: Prefix) -> Network {
    Network {
        source: Source::from(prefix.address),
        bits: u32::from(prefix.len),
    }
}

fn limit(of: &SourceLimit) -> Limit {
    let bucket = |rate: Option<Rate>, bundle_max| {
        rate.map_or(Bucket::NONE, |Rate { sustained, burst }| {
            Bucket::new(sustained, burst, bundle_max)
        })
    };
    Limit {
        datagrams: bucket(of.datagrams, BUNDLE_DATAGRAMS_MAX),
        bytes: bucket(of.bytes, BUNDLE_LEN_MAX),
        connections: bucket(of.connections, 1),
    }
}

#[cfg(test)]
mod tests;
