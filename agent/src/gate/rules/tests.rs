use super::*;

fn prefix(text: &str) -> Prefix {
    let (address, len) = text.split_once('/').unwrap();
    Prefix {
        address: address.parse().unwrap(),
        len: len.parse().unwrap(),
    }
}

fn said(policy: &GatePolicy) -> Vec<String> {
    mistakes(policy).iter().map(ToString::to_string).collect()
}

#[test]
fn the_default_has_no_mistake_and_asks_for_nothing() {
    let rules = Rules::new(&GatePolicy::default()).unwrap();
    assert_eq!(rules.policy.flags, 0);
    assert!(rules.lists.is_empty() && rules.limits.is_empty());
    assert_eq!(rules.ceiling, Keep::ALL);
}

#[test]
fn every_mistake_is_named() {
    let rate = |sustained, burst| Some(Rate { sustained, burst });
    let limit = |datagrams, bytes| SourceLimit {
        datagrams,
        bytes,
        connections: None,
    };
    let cases = [
        (
            GatePolicy {
                allow: vec![prefix("10.0.0.0/8"), prefix("192.0.2.1/24")],
                deny: vec![prefix("2001:db8::/129")],
                ..GatePolicy::default()
            },
            vec![
                "gate.allow: 192.0.2.1/24 has bits",
                "gate.deny: 2001:db8::/129",
            ],
        ),
        (
            GatePolicy {
                allow: vec![prefix("10.0.0.0/8")],
                deny: vec![prefix("::ffff:10.0.0.0/104")],
                ..GatePolicy::default()
            },
            vec!["10.0.0.0/8 is both allowed and denied"],
        ),
        (
            GatePolicy {
                source_limit: limit(rate(0, 1), rate(1, 0)),
                newcomers: limit(rate(RATE_MAX + 1, 1), None),
                limits: vec![
                    (prefix("10.0.0.0/8"), SourceLimit::default()),
                    (prefix("10.0.0.0/8"), SourceLimit::default()),
                ],
                ..GatePolicy::default()
            },
            vec![
                "gate.limits: 10.0.0.0/8 stands twice",
                "gate.source_limit: a rate of 0",
                "gate.source_limit: a byte_burst of 0",
                "gate.newcomers: a rate of 1000000000001 a second is above",
            ],
        ),
        (
            GatePolicy {
                source_prefix_v4: 0,
                source_prefix_v6: 129,
                keep: [16, 17, 16, 16],
                ..GatePolicy::default()
            },
            vec![
                "gate.source_prefix_v4: 0",
                "gate.source_prefix_v6: 129",
                "gate.keep: 17/16 of priority 1",
            ],
        ),
    ];
    for (policy, expected) in cases {
        let said = said(&policy);
        assert_eq!(said.len(), expected.len(), "{said:?}");
        for (said, expected) in said.iter().zip(expected) {
            assert!(said.starts_with(expected), "{said} / {expected}");
            assert!(!said.contains('\n'));
        }
        assert!(Rules::new(&policy).is_err());
    }
}

#[test]
fn more_prefixes_than_there_is_room_for() {
    let deny = (0..=LISTS_MAX).map(|number| Prefix {
        address: IpAddr::from(number.to_be_bytes()),
        len: 32,
    });
    let mut policy = GatePolicy {
        deny: deny.collect(),
        ..GatePolicy::default()
    };
    assert!(matches!(
        mistakes(&policy)[..],
        [PolicyError::TooMany { len: 16_385, .. }]
    ));
    policy.deny.pop();
    assert!(mistakes(&policy).is_empty());
}

#[test]
fn every_source_has_its_limit_unless_a_prefix_says_otherwise() {
    let of = |sustained| SourceLimit {
        datagrams: Some(Rate {
            sustained,
            burst: 1,
        }),
        ..SourceLimit::default()
    };
    let policy = GatePolicy {
        source_limit: of(1),
        limits: vec![(prefix("0.0.0.0/0"), of(2)), (prefix("10.0.0.0/8"), of(3))],
        ..GatePolicy::default()
    };
    let rules = Rules::new(&policy).unwrap();
    assert_eq!(rules.policy.flags, POLICY_LIMITS);
    let bits: Vec<(u32, u32)> = rules
        .limits
        .iter()
        .map(|(n, _)| (n.source.family, n.bits))
        .collect();
    assert_eq!(bits, [(6, 0), (0, 0), (4, 0), (4, 8)]);
}
