//! `[tenants.NAME]`: whose a producer is, and what it may have.

use super::gate::{LIMIT_BURST, LIMIT_RATE, parse_prefix};
use super::{Key, quote, show_size, size, text};
use crate::config::document::Leaf;
use crate::config::mistake::Wrong;
use crate::config::unit::{format_rate, parse_percent};
use crate::gate::policy::Prefix;
use crate::limits::{FRAME_LEN_MAX, TENANT_PRODUCERS_MAX, TENANT_SOURCES_MAX};
use crate::shard::tenant::RATE_MAX;

pub const TENANT_SOURCES: Key<Vec<Prefix>> = Key {
    path: "tenants.*.sources",
    default: None,
    parse: |leaf| {
        let parse = |text: &str| parse_prefix(text);
        list(leaf, "10.0.0.0/8", TENANT_SOURCES_MAX, parse)
    },
    show: |prefixes| show_list(prefixes.iter().map(Prefix::to_string)),
};

pub const TENANT_PRODUCERS: Key<Vec<u64>> = Key {
    path: "tenants.*.producers",
    default: None,
    parse: |leaf| {
        list(
            leaf,
            "0x1122334455667788",
            TENANT_PRODUCERS_MAX,
            parse_producer,
        )
    },
    show: |ids| show_list(ids.iter().map(|id| format!("{id:#018x}"))),
};

pub const TENANT_WEIGHT: Key<u32> = Key {
    path: "tenants.*.weight",
    default: Some("1"),
    parse: |leaf| {
        let number = match leaf {
            // The default comes as text.
            Leaf::Number(number) | Leaf::Text(number) => number.parse().ok(),
            _ => None,
        };
        number
            .filter(|weight| (1..=1_000).contains(weight))
            .ok_or_else(|| {
                Wrong::new(
                    "no weight",
                    "write a number from 1 to 1000 without quotes; 1 is what others have",
                )
            })
    },
    show: u32::to_string,
};

/// Means something with its burst only, as the gate's.
pub const TENANT_RATE: Key<u64> = Key {
    path: "tenants.*.rate",
    default: None,
    parse: |leaf| match (LIMIT_RATE.parse)(leaf)? {
        rate if rate > RATE_MAX => Err(Wrong::new(
            format!("{} is out of range", format_rate(rate)),
            format!(
                "from \"1/s\" to \"{}\"; leave it out for no limit",
                format_rate(RATE_MAX)
            ),
        )),
        rate => Ok(rate),
    },
    show: LIMIT_RATE.show,
};

pub const TENANT_BURST: Key<u64> = Key {
    path: "tenants.*.burst",
    ..LIMIT_BURST
};

pub const TENANT_BYTES_IN_FLIGHT: Key<u64> = Key {
    path: "tenants.*.bytes_in_flight",
    default: None,
    // Less than one frame would not be less: who has nothing in flight may have one.
    parse: |leaf| size(leaf, FRAME_LEN_MAX.next_power_of_two() as u64, 1 << 40),
    show: show_size,
};

pub const TENANT_JOURNAL_SHARE: Key<u8> = Key {
    path: "tenants.*.journal_share",
    default: None,
    parse: |leaf| {
        const HELP: &str = "write a share of the journal in whole percent, as in \"25%\"";
        let percent = parse_percent(text(leaf, "25%")?)?;
        match percent {
            1.0..=100.0 if percent.fract() == 0.0 => Ok(percent as u8),
            _ => Err(Wrong::new(format!("{percent}% is no share"), HELP)),
        }
    },
    show: |percent| quote(&format!("{percent}%")),
};

pub const KNOWN: [&str; 7] = [
    TENANT_SOURCES.path,
    TENANT_PRODUCERS.path,
    TENANT_WEIGHT.path,
    TENANT_RATE.path,
    TENANT_BURST.path,
    TENANT_BYTES_IN_FLIGHT.path,
    TENANT_JOURNAL_SHARE.path,
];

/// An id as the log and `/api/v1/status` write it.
fn parse_producer(text: &str) -> Result<u64, Wrong> {
    let id = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    match id {
        Ok(0) => Err(Wrong::new(
            "0 is nobody's id",
            "name its address in sources, or leave it to [tenants.default]",
        )),
        Ok(id) if !text.contains('+') => Ok(id),
        _ => Err(Wrong::new(
            format!("\"{text}\" is no producer's id"),
            "write its 64 bits as in \"0x1122334455667788\"",
        )),
    }
}

fn list<T>(
    leaf: &Leaf,
    example: &str,
    count_max: usize,
    parse: fn(&str) -> Result<T, Wrong>,
) -> Result<Vec<T>, Wrong> {
    let texts: Vec<&str> = match leaf {
        Leaf::List(items) => items.iter().map(|item| item.text.as_str()).collect(),
        _ => vec![text(leaf, example)?],
    };
    if texts.is_empty() || texts.len() > count_max {
        return Err(Wrong::new(
            format!("{} entries", texts.len()),
            format!("from 1 to {count_max}, as in [\"{example}\"]"),
        ));
    }
    texts.into_iter().map(parse).collect()
}

fn show_list(shown: impl Iterator<Item = String>) -> String {
    let quoted: Vec<String> = shown.map(|text| quote(&text)).collect();
    format!("[{}]", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hexadecimal_or_decimal_and_never_0() {
        assert_eq!(
            parse_producer("0x1122334455667788"),
            Ok(0x1122_3344_5566_7788)
        );
        assert_eq!(parse_producer("17"), Ok(17));
        for wrong in [
            "0",
            "0x0",
            "",
            "0x",
            "x17",
            "-1",
            "+1",
            "0x+1",
            "0x11223344556677889",
        ] {
            assert!(parse_producer(wrong).is_err(), "{wrong}");
        }
    }
}
