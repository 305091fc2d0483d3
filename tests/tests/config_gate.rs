//! `[gate]` as its users meet it: text in, a policy or mistakes out.

use penstock::config;
use penstock::gate::policy::{GatePolicy, KEEP_ALL, Prefix, Rate, SourceLimit};

fn policy(text: &str) -> GatePolicy {
    let settings = config::parse("penstock.toml", text);
    let settings = settings.unwrap_or_else(|mistakes| panic!("{mistakes}"));
    // What `config show` prints reads back to the same.
    let shown = config::show(&settings);
    let again = config::parse("shown", &shown).unwrap_or_else(|m| panic!("{m}\n{shown}"));
    assert_eq!(again, settings, "{shown}");
    settings.gate.policy
}

fn mistakes(text: &str) -> String {
    match config::parse("penstock.toml", text) {
        Ok(settings) => panic!("no mistake found in:\n{text}\n{settings:?}"),
        Err(mistakes) => mistakes.to_string(),
    }
}

fn prefix(text: &str) -> Prefix {
    Prefix::parse(text).expect("a prefix")
}

fn rate(sustained: u64, burst: u64) -> Option<Rate> {
    Some(Rate { sustained, burst })
}

#[test]
fn every_key_is_read_and_shown() {
    let read = policy(
        r#"
        [gate]
        allow = ["10.0.0.0/8", "2001:db8::/32"]
        deny = "10.66.0.9"
        source_limit = { rate = "50k/s", burst = "200k", byte_rate = "10MB/s", byte_burst = "40MiB" }
        source_prefix_v4 = 24
        source_prefix_v6 = 48
        keep = { normal = "50%", background = "1/16" }
        connections_per_source = 100
        [gate.limits."10.0.0.0/8"]
        rate = "1M/s"
        burst = "4M"
        [gate.limits."2001:db8::/32"]
        connection_rate = "10/s"
        connection_burst = "20"
        [gate.newcomers]
        rate = "1k/s"
        burst = "2k"
        "#,
    );
    let expected = GatePolicy {
        allow: vec![prefix("10.0.0.0/8"), prefix("2001:db8::/32")],
        deny: vec![prefix("10.66.0.9/32")],
        source_limit: SourceLimit {
            datagrams: rate(50_000, 200_000),
            bytes: rate(10_000_000, 40 << 20),
            connections: None,
        },
        limits: vec![
            (
                prefix("10.0.0.0/8"),
                SourceLimit {
                    datagrams: rate(1_000_000, 4_000_000),
                    ..SourceLimit::default()
                },
            ),
            (
                prefix("2001:db8::/32"),
                SourceLimit {
                    connections: rate(10, 20),
                    ..SourceLimit::default()
                },
            ),
        ],
        source_prefix_v4: 24,
        source_prefix_v6: 48,
        // The first as given; the others as much as the source that may send the most.
        newcomers: SourceLimit {
            datagrams: rate(1_000, 2_000),
            bytes: rate(10_000_000, 40 << 20),
            connections: rate(10, 20),
        },
        keep: [KEEP_ALL, KEEP_ALL, 8, 1],
        connections_max: Some(100),
    };
    assert_eq!(read, expected);
    assert_eq!(policy(""), GatePolicy::default());
}

#[test]
fn every_mistake_is_named_at_its_line_with_what_would_be_right() {
    // (what stands below [gate], its place, words of the message, words of the help)
    let cases: &[(&str, &str, &str, &str)] = &[
        (
            "deny = [\"10.0.0.1/8\"]",
            "2:9",
            "gate.deny: \"10.0.0.1/8\" has bits beyond",
            "did you mean \"10.0.0.0/8\"?",
        ),
        (
            "deny = [\n\"10.0.0.0/8\",\n\"nonsense\"]",
            "4:1",
            "gate.deny: \"nonsense\" is no prefix",
            "\"10.0.0.0/8\"",
        ),
        (
            "allow = [1]",
            "2:9",
            "a list, where text is wanted",
            "10.0.0.0/8",
        ),
        (
            "allow = [\"10.0.0.0/8\"]\ndeny = [\"10.0.0.0/8\"]",
            "3:9",
            "10.0.0.0/8 is both allowed and denied",
            "the other is at penstock.toml:2:10",
        ),
        (
            "deny = [\n\"10.0.0.7\",\n\"10.0.0.7/32\"]",
            "4:1",
            "gate.deny has 10.0.0.7/32 twice",
            "the other is at penstock.toml:3:1",
        ),
        (
            "limits.\"10.0.0.1/8\" = { rate = \"1/s\", burst = \"1\" }",
            "2:8",
            "gate.limits: \"10.0.0.1/8\" has bits beyond",
            "\"10.0.0.0/8\"",
        ),
        (
            "limits.\"2001:db8::/32\" = { rate = \"1/s\", burst = \"1\" }\nlimits.\"2001:0db8::/32\" = { rate = \"1/s\", burst = \"1\" }",
            "3:8",
            "gate.limits has 2001:db8::/32 twice",
            "the other is at penstock.toml:2:8",
        ),
        (
            "limits.\"10.0.0.0/8\" = { rate = \"0/s\", burst = \"1\" }",
            "2:32",
            "gate.limits.10.0.0.0/8.rate: \"0/s\" is a limit of zero",
            "gate.deny",
        ),
        (
            "source_limit = { rate = \"1k/s\", burst = \"0\" }",
            "2:41",
            "gate.source_limit.burst: \"0\" is a limit of zero",
            "at least 1",
        ),
        (
            "source_limit = { rate = \"50k/s\" }",
            "2:18",
            "gate.source_limit has rate without burst",
            "add burst = \"100k\"",
        ),
        (
            "source_limit.byte_burst = \"10MB\"",
            "2:14",
            "gate.source_limit has byte_burst without byte_rate",
            "add byte_rate = \"5MB/s\"",
        ),
        (
            "newcomers.connection_rate = \"1/s\"",
            "2:11",
            "gate.newcomers has connection_rate without connection_burst",
            "connection_burst = \"2\"",
        ),
        (
            "limits.\"10.0.0.0/8\" = {}",
            "2:8",
            "gate.limits.10.0.0.0/8 limits nothing",
            "add rate",
        ),
        (
            "limits.\"10.0.0.0/8\" = \"50k/s\"",
            "2:8",
            "is a value, where a table is wanted",
            "[gate.limits.10.0.0.0/8]",
        ),
        (
            "source_limit = { rate = 50, burst = \"1\" }",
            "2:25",
            "the bare number 50",
            "\"50k/s\"",
        ),
        (
            "source_limit = { rate = \"50k\", burst = \"1\" }",
            "2:25",
            "\"50k\" is no rate",
            "\"50k/s\"",
        ),
        (
            "source_limit = { brust = \"1\" }",
            "2:18",
            "brust is no key here",
            "did you mean burst?",
        ),
        (
            "keep.normal = \"30%\"",
            "2:15",
            "no whole number of sixteenths",
            "\"4/16\" (25%) and \"5/16\" (31.25%)",
        ),
        (
            "keep.urgent = \"50%\"",
            "2:6",
            "urgent is no key here",
            "critical, high, normal, background",
        ),
        (
            "source_prefix_v4 = 33",
            "2:20",
            "no number of bits",
            "from 1 to 32",
        ),
        (
            "source_prefix_v6 = 0",
            "2:20",
            "no number of bits",
            "from 1 to 128",
        ),
        (
            "connections_per_source = 0",
            "2:26",
            "no number of connections",
            "from 1",
        ),
    ];
    for (text, place, message, help) in cases {
        let printed = mistakes(&format!("[gate]\n{text}\n"));
        assert!(
            printed.starts_with(&format!("penstock.toml:{place}: ")),
            "{text}: at {place}:\n{printed}"
        );
        assert!(printed.contains(message), "{text}: {message}:\n{printed}");
        assert!(printed.contains(help), "{text}: {help}:\n{printed}");
        assert!(printed.ends_with("1 mistake"), "{text}:\n{printed}");
    }
}

#[test]
fn more_entries_than_the_maps_hold_are_refused() {
    let prefixes = |count: usize| -> Vec<String> {
        (0..count)
            .map(|at| format!("\"10.{}.{}.{}\"", at >> 16, at >> 8 & 255, at & 255))
            .collect()
    };
    let max = penstock::limits::GATE_PREFIXES_MAX;
    let list = |count| format!("[gate]\ndeny = [{}]\n", prefixes(count).join(", "));
    assert_eq!(policy(&list(max)).deny.len(), max);
    let printed = mistakes(&list(max + 1));
    assert!(
        printed.contains(&format!("{} prefixes", max + 1)),
        "{printed}"
    );
    assert!(printed.ends_with("1 mistake"), "{printed}");
    let both = format!("{}allow = [\"192.0.2.0/24\"]\n", list(max));
    assert!(mistakes(&both).contains("prefixes together"));

    let max = penstock::limits::GATE_LIMITS_MAX;
    let limits = |count| -> String {
        let lines = prefixes(count);
        let lines = lines
            .iter()
            .map(|p| format!("{p} = {{ rate = \"1/s\", burst = \"1\" }}\n"));
        format!("[gate.limits]\n{}", lines.collect::<String>())
    };
    assert_eq!(policy(&limits(max)).limits.len(), max);
    let printed = mistakes(&limits(max + 1));
    assert!(printed.contains("gate.limits has"), "{printed}");
}
