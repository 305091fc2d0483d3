//! `[gate]`: prefixes, limits, ratios.

use agent_common::bucket::RATE_MAX;

use super::{Key, quote, text};
use crate::config::document::Leaf;
use crate::config::mistake::Wrong;
use crate::config::settings::GateMode;
use crate::config::unit::{
    format_byte_rate, format_count, format_rate, format_sixteenths, parse_byte_rate, parse_count,
    parse_rate, parse_sixteenths, parse_size, short_size,
};
use crate::gate::policy::{Prefix, PrefixFault, Rate, SourceLimit};

pub const GATE_MODE: Key<GateMode> = Key {
    path: "gate.mode",
    default: Some("auto"),
    parse: |leaf| super::word(leaf, &GATE_WORDS, &[]),
    show: |mode| super::show_word(mode, &GATE_WORDS),
};
const GATE_WORDS: [(&str, GateMode); 3] = [
    ("auto", GateMode::Auto),
    ("required", GateMode::Required),
    ("off", GateMode::Off),
];

/// One entry of the list.
pub const GATE_ALLOW: Key<Prefix> = Key {
    path: "gate.allow",
    default: None,
    parse: |leaf| parse_prefix(text(leaf, "10.0.0.0/8")?),
    show: |prefix| quote(&prefix.to_string()),
};

/// The same.
pub const GATE_DENY: Key<Prefix> = Key {
    path: "gate.deny",
    ..GATE_ALLOW
};

/// The three tables of limits have the same six keys, named here below their tables.
pub const LIMIT_RATE: Key<u64> = Key {
    path: "rate",
    default: None,
    parse: |leaf| limit(leaf, "50k/s", parse_rate),
    show: |rate| quote(&format_rate(*rate)),
};
pub const LIMIT_BURST: Key<u64> = Key {
    path: "burst",
    default: None,
    parse: |leaf| limit(leaf, "200k", parse_count),
    show: |burst| quote(&format_count(*burst)),
};
pub const LIMIT_BYTE_RATE: Key<u64> = Key {
    path: "byte_rate",
    default: None,
    parse: |leaf| limit(leaf, "10MB/s", parse_byte_rate),
    show: |rate| quote(&format_byte_rate(*rate)),
};
pub const LIMIT_BYTE_BURST: Key<u64> = Key {
    path: "byte_burst",
    default: None,
    parse: |leaf| limit(leaf, "40MB", parse_size),
    show: |burst| quote(&short_size(*burst)),
};
pub const LIMIT_CONNECTION_RATE: Key<u64> = Key {
    path: "connection_rate",
    ..LIMIT_RATE
};
pub const LIMIT_CONNECTION_BURST: Key<u64> = Key {
    path: "connection_burst",
    ..LIMIT_BURST
};

pub const GATE_SOURCE_PREFIX_V4: Key<u8> = Key {
    path: "gate.source_prefix_v4",
    default: Some("32"),
    parse: |leaf| source_prefix(leaf, 32),
    show: u8::to_string,
};
pub const GATE_SOURCE_PREFIX_V6: Key<u8> = Key {
    path: "gate.source_prefix_v6",
    default: Some("64"),
    parse: |leaf| source_prefix(leaf, 128),
    show: u8::to_string,
};

pub const GATE_CONNECTIONS_PER_SOURCE: Key<u32> = Key {
    path: "gate.connections_per_source",
    default: None,
    parse: |leaf| {
        let number = match leaf {
            Leaf::Number(number) => number.parse().ok().filter(|count| *count > 0),
            _ => None,
        };
        const HELP: &str = "write a number from 1 without quotes, or leave it out for no limit";
        number.ok_or_else(|| Wrong::new("no number of connections", HELP))
    },
    show: u32::to_string,
};

/// By the priority's number.
pub const GATE_KEEP: [Key<u8>; 4] = [
    keep("gate.keep.critical"),
    keep("gate.keep.high"),
    keep("gate.keep.normal"),
    keep("gate.keep.background"),
];

const fn keep(path: &'static str) -> Key<u8> {
    Key {
        path,
        default: Some("16/16"),
        parse: |leaf| parse_sixteenths(text(leaf, "8/16")?),
        show: |keep| quote(&format_sixteenths(*keep)),
    }
}

/// `"10.0.0.0/8"`, or an address alone for all of its bits.
pub fn parse_prefix(text: &str) -> Result<Prefix, Wrong> {
    const HELP: &str = "write as in \"10.0.0.0/8\" or \"2001:db8::/32\"";
    Prefix::parse(text).map_err(|fault| match fault {
        PrefixFault::Syntax => Wrong::new(format!("\"{text}\" is no prefix"), HELP),
        PrefixFault::Length { max } => Wrong::new(
            format!("\"{text}\": a prefix of this kind has at most {max} bits"),
            HELP,
        ),
        PrefixFault::Bits { meant } => Wrong::new(
            format!("\"{text}\" has bits beyond its length"),
            format!("did you mean \"{meant}\"?"),
        ),
        PrefixFault::Mapped { meant } => Wrong::new(
            format!("\"{text}\" is an IPv4 prefix in IPv6's clothes"),
            format!("write \"{meant}\", which holds on every listener"),
        ),
    })
}

/// `"8/16"` or `"50%"`, of a priority.
pub fn parse_keep(ratio: &str) -> Result<u8, Wrong> {
    parse_sixteenths(ratio)
}

/// A limit from its keys' texts; a rate without its burst, or a burst alone, is refused.
pub fn parse_limit<'a>(given: impl Fn(&str) -> Option<&'a str>) -> Result<SourceLimit, Wrong> {
    let value = |key: &Key<u64>| {
        let text = given(key.path).map(|text| (key.parse)(&Leaf::Text(text.to_owned())));
        text.transpose()
            .map_err(|wrong| Wrong::new(format!("{}: {}", key.path, wrong.message), wrong.help))
    };
    let rate = |rate: &Key<u64>, burst: &Key<u64>| match (value(rate)?, value(burst)?) {
        (None, None) => Ok(None),
        (Some(sustained), Some(burst)) => Ok(Some(Rate { sustained, burst })),
        (sustained, at_once) => Err(without_the_other(rate, sustained, burst, at_once)),
    };
    Ok(SourceLimit {
        datagrams: rate(&LIMIT_RATE, &LIMIT_BURST)?,
        bytes: rate(&LIMIT_BYTE_RATE, &LIMIT_BYTE_BURST)?,
        connections: rate(&LIMIT_CONNECTION_RATE, &LIMIT_CONNECTION_BURST)?,
    })
}

/// A rate without its burst, or the other way round, of which neither means anything alone.
pub fn without_the_other(
    rate: &Key<u64>,
    sustained: Option<u64>,
    burst: &Key<u64>,
    at_once: Option<u64>,
) -> Wrong {
    match sustained {
        Some(sustained) => Wrong::new(
            format!("{} without {}", rate.path, burst.path),
            format!(
                "add {} = {}, say: what may come at once, here what two seconds bring",
                burst.path,
                (burst.show)(&sustained.saturating_mul(2)),
            ),
        ),
        None => Wrong::new(
            format!("{} without {}", burst.path, rate.path),
            format!(
                "add {} = {}, say: what may come in for good",
                rate.path,
                (rate.show)(&at_once.unwrap_or(2).div_ceil(2)),
            ),
        ),
    }
}

/// A limit of nothing would be a deny list in disguise, and one that says `rate_limited`.
fn limit(leaf: &Leaf, example: &str, parse: fn(&str) -> Result<u64, Wrong>) -> Result<u64, Wrong> {
    if let Leaf::Number(number) = leaf {
        return Err(Wrong::new(
            format!("the bare number {number}, where text is wanted"),
            format!("write it in quotes, as in \"{example}\""),
        ));
    }
    let given = text(leaf, example)?;
    match parse(given)? {
        0 => Err(Wrong::new(
            format!("\"{given}\" is a limit of zero"),
            "write gate.deny to let nothing in; a limit is at least 1",
        )),
        limit if limit > RATE_MAX => Err(Wrong::new(
            format!("\"{given}\" is more than the gate can count"),
            "at most a million times a million; leave it out for no limit",
        )),
        limit => Ok(limit),
    }
}

fn source_prefix(leaf: &Leaf, max: u8) -> Result<u8, Wrong> {
    let help = format!("write the number of leading bits that make a source, from 1 to {max}");
    let number = match leaf {
        // The default comes as text.
        Leaf::Number(number) | Leaf::Text(number) => number.parse::<u8>().ok(),
        _ => None,
    };
    number
        .filter(|bits| (1..=max).contains(bits))
        .ok_or_else(|| Wrong::new("no number of bits of an address", help))
}

/// The paths of all keys above.
pub const KNOWN: [&str; 28] = [
    GATE_MODE.path,
    GATE_ALLOW.path,
    GATE_DENY.path,
    "gate.source_limit.rate",
    "gate.source_limit.burst",
    "gate.source_limit.byte_rate",
    "gate.source_limit.byte_burst",
    "gate.source_limit.connection_rate",
    "gate.source_limit.connection_burst",
    "gate.limits.*.rate",
    "gate.limits.*.burst",
    "gate.limits.*.byte_rate",
    "gate.limits.*.byte_burst",
    "gate.limits.*.connection_rate",
    "gate.limits.*.connection_burst",
    "gate.newcomers.rate",
    "gate.newcomers.burst",
    "gate.newcomers.byte_rate",
    "gate.newcomers.byte_burst",
    "gate.newcomers.connection_rate",
    "gate.newcomers.connection_burst",
    GATE_SOURCE_PREFIX_V4.path,
    GATE_SOURCE_PREFIX_V6.path,
    GATE_KEEP[0].path,
    GATE_KEEP[1].path,
    GATE_KEEP[2].path,
    GATE_KEEP[3].path,
    GATE_CONNECTIONS_PER_SOURCE.path,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_prefix_is_refused_with_the_one_meant() {
        for (text, message, help) in [
            ("10.0.0.1/8", "bits beyond", "\"10.0.0.0/8\""),
            ("2001:db8::1/32", "bits beyond", "\"2001:db8::/32\""),
            ("10.0.0.0/33", "at most 32 bits", "10.0.0.0/8"),
            ("::/129", "at most 128 bits", "2001:db8::/32"),
            ("10.0.0.0/", "is no prefix", "10.0.0.0/8"),
            ("10.0.0/8", "is no prefix", "10.0.0.0/8"),
            ("10.0.0.0/+8", "is no prefix", "10.0.0.0/8"),
            ("example.org", "is no prefix", "10.0.0.0/8"),
            ("::ffff:10.0.0.0/104", "IPv6's clothes", "\"10.0.0.0/8\""),
            ("", "is no prefix", "10.0.0.0/8"),
        ] {
            let wrong = parse_prefix(text).expect_err(text);
            assert!(wrong.message.contains(message), "{text}: {wrong:?}");
            assert!(wrong.help.contains(help), "{text}: {wrong:?}");
        }
    }

    #[test]
    fn a_limit_of_zero_and_a_bare_number_are_refused() {
        let leaf = |text: &str| Leaf::Text(text.to_owned());
        assert_eq!((LIMIT_RATE.parse)(&leaf("50k/s")), Ok(50_000));
        assert_eq!((LIMIT_BYTE_BURST.parse)(&leaf("40MB")), Ok(40_000_000));
        assert_eq!((LIMIT_RATE.parse)(&leaf("1000G/s")), Ok(1_000_000_000_000));
        (LIMIT_RATE.parse)(&leaf("1001G/s")).expect_err("more than is counted");
        let wrong = (LIMIT_RATE.parse)(&leaf("0/s")).expect_err("zero");
        assert!(wrong.message.contains("a limit of zero"), "{wrong:?}");
        let wrong = (LIMIT_BURST.parse)(&Leaf::Number("200".into())).expect_err("bare");
        assert!(wrong.message.contains("the bare number 200"), "{wrong:?}");
    }
}
