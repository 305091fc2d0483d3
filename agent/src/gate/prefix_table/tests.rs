use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_common::source::Source;
use proptest::prelude::*;

use super::*;

/// Few addresses near each other, so that prefixes hold each other and addresses.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0_u32..64, 0_u32..4).prop_map(|(high, low)| Ipv4Addr::from(high << 26 | low).into()),
        (0_u128..64, 0_u128..4).prop_map(|(high, low)| Ipv6Addr::from(high << 122 | low).into()),
    ]
}

/// The bits of an address, the first one first.
fn bits(address: &IpAddr) -> Vec<bool> {
    let bytes = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let bit = |byte: u8| (0..8).map(move |at| byte & (0x80 >> at) != 0);
    bytes.into_iter().flat_map(bit).collect()
}

proptest! {
    #[test]
    fn is_a_linear_scan_for_the_longest(
        prefixes in prop::collection::vec((address(), 0_u32..=128), 0..40),
        asked in prop::collection::vec(address(), 1..40),
    ) {
        let prefixes: Vec<(IpAddr, usize)> = prefixes
            .into_iter()
            .map(|(address, len)| (address, (len as usize).min(bits(&address).len())))
            .collect();
        let entries: Vec<(Network, (IpAddr, usize))> = prefixes
            .iter()
            .map(|&(address, len)| {
                let source = Source::from(address).masked(&mask(len as u32));
                (Network { source, bits: len as u32 }, (address, len))
            })
            .collect();
        let table = PrefixTable::new(&entries);
        for address in asked {
            let holds = |&&(prefix, len): &&(IpAddr, usize)| {
                prefix.is_ipv4() == address.is_ipv4() && bits(&prefix)[..len] == bits(&address)[..len]
            };
            let longest = prefixes.iter().filter(holds).map(|(_, len)| *len).max();
            let key = PrefixKey::new(0, &Source::from(address));
            let found = table.get(&key);
            prop_assert_eq!(found.map(|(_, len)| *len), longest, "{}", address);
            prop_assert!(found.is_none_or(|entry| holds(&entry)));
        }
    }
}
