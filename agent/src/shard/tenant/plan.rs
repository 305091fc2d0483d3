//! The configured tenants, as all shards see them: who belongs to whom, and what each may have.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicU64;

use super::bucket::{Bucket, Pace};
use crate::config::settings::TenantSettings;
use crate::gate::policy::Prefix;

/// The tenant of whoever no other names: each of its producers is limited by itself.
pub const DEFAULT: &str = "default";

/// All tenants. The rules do not change; the words of those that several shards share do.
#[derive(Debug)]
pub struct TenantPlan {
    /// The first is `DEFAULT`.
    rules: Vec<Rule>,
    /// Sorted, with the index of the rule.
    producers: Vec<(u64, u16)>,
    /// The longest prefix first.
    sources: Vec<(Prefix, u16)>,
}

/// One tenant.
#[derive(Debug)]
pub struct Rule {
    pub name: String,
    pub weight: u64,
    pub pace: Option<Pace>,
    /// Bytes that may be taken and not yet acknowledged, on all shards together.
    pub in_flight_max: Option<u64>,
    /// Of each shard's journal, in percent.
    pub journal_percent: Option<u64>,
    /// Of `DEFAULT` unused: each of its producers has its own, in its slot.
    pub bucket: Bucket,
    pub in_flight: AtomicU64,
}

impl TenantPlan {
    /// `None` where no tenant is configured: then nothing is looked at.
    pub fn new(settings: &[TenantSettings]) -> Option<Self> {
        if settings.is_empty() {
            return None;
        }
        let default = settings.iter().find(|tenant| tenant.name == DEFAULT);
        let named = settings.iter().filter(|tenant| tenant.name != DEFAULT);
        let mut rules = vec![match default {
            Some(tenant) => Rule::new(tenant),
            None => Rule::new(&TenantSettings::unlimited(DEFAULT)),
        }];
        let (mut producers, mut sources) = (Vec::new(), Vec::new());
        for tenant in named {
            let rule = rules.len() as u16;
            producers.extend(tenant.producers.iter().map(|&id| (id, rule)));
            sources.extend(tenant.sources.iter().map(|&prefix| (prefix, rule)));
            rules.push(Rule::new(tenant));
        }
        producers.sort_unstable();
        sources.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len));
        Some(Self {
            rules,
            producers,
            sources,
        })
    }

    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whose a producer is: of the tenant that names it, or else of the one with the longest prefix
    /// that holds its address, or else of the default, which is 0.
    pub fn rule_of(&self, producer: u64, address: Option<SocketAddr>) -> u16 {
        if let Ok(at) = self
            .producers
            .binary_search_by_key(&producer, |each| each.0)
        {
            return self.producers[at].1;
        }
        let Some(address) = address.map(|address| address.ip().to_canonical()) else {
            return 0;
        };
        let holds = |(prefix, _): &&(Prefix, u16)| is_within(address, *prefix);
        self.sources.iter().find(holds).map_or(0, |(_, rule)| *rule)
    }
}

impl Rule {
    fn new(tenant: &TenantSettings) -> Self {
        Self {
            name: tenant.name.clone(),
            weight: u64::from(tenant.weight),
            pace: tenant.rate.map(Pace::new),
            in_flight_max: tenant.bytes_in_flight,
            journal_percent: tenant.journal_percent.map(u64::from),
            bucket: Bucket::default(),
            in_flight: AtomicU64::new(0),
        }
    }
}

fn is_within(address: IpAddr, prefix: Prefix) -> bool {
    // Shifting out all bits is no shift in Rust: a length of 0 holds every address.
    match (address, prefix.address) {
        (IpAddr::V4(address), IpAddr::V4(start)) => {
            let differs = address.to_bits() ^ start.to_bits();
            differs.checked_shr(32 - u32::from(prefix.len)).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(start)) => {
            let differs = address.to_bits() ^ start.to_bits();
            differs
                .checked_shr(128 - u32::from(prefix.len))
                .unwrap_or(0)
                == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str, sources: &[(&str, u8)], producers: &[u64]) -> TenantSettings {
        let prefix = |&(address, len): &(&str, u8)| Prefix {
            address: address.parse().expect("an address"),
            len,
        };
        TenantSettings {
            sources: sources.iter().map(prefix).collect(),
            producers: producers.to_vec(),
            ..TenantSettings::unlimited(name)
        }
    }

    #[test]
    fn a_producer_is_whose_its_id_says_then_whose_the_longest_prefix_says() {
        let plan = TenantPlan::new(&[
            tenant("lab", &[("10.0.0.0", 8), ("2001:db8::", 32)], &[]),
            tenant(
                "billing",
                &[("10.1.0.0", 16), ("2001:db8::7", 128)],
                &[7, 5],
            ),
            tenant("rest", &[("0.0.0.0", 0)], &[9]),
        ])
        .expect("tenants");
        let of = |producer, address: &str| {
            let rule = plan.rule_of(producer, Some(address.parse().expect("an address")));
            plan.rules()[usize::from(rule)].name.clone()
        };
        assert_eq!(of(1, "10.2.0.1:1"), "lab");
        assert_eq!(of(1, "10.1.255.255:1"), "billing");
        assert_eq!(of(9, "10.1.255.255:1"), "rest");
        assert_eq!(of(5, "[2001:db8::1]:1"), "billing");
        assert_eq!(of(1, "[2001:db8::1]:1"), "lab");
        assert_eq!(of(1, "[2001:db8::7]:1"), "billing");
        assert_eq!(of(1, "[2001:db9::7]:1"), DEFAULT);
        assert_eq!(
            of(1, "[::ffff:10.1.2.3]:1"),
            "billing",
            "IPv4 in an IPv6 socket"
        );
        assert_eq!(of(1, "192.0.2.1:1"), "rest");
        assert_eq!(plan.rule_of(1, None), 0);
    }

    #[test]
    fn without_a_table_there_is_nothing_to_look_at() {
        assert!(TenantPlan::new(&[]).is_none());
    }
}
