//! Sizes, times, counts, rates and percentages as people write them: a whole number and its unit.

use std::time::Duration;

use super::mistake::Wrong;

/// Largest first, so that formatting finds the largest that divides.
const BINARY: [(&str, u64); 4] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];
const DECIMAL: [(&str, u64); 5] = [
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
];
const TIMES_US: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

const COUNTS: [(&str, u64); 3] = [("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)];
const COUNT_UNITS: &str = "counts are whole numbers, in thousands with k, M or G, as in \"200k\"";

const SIZE_UNITS: &str = "sizes are in B, KiB, MiB, GiB, TiB (times 1024) or kB, MB, GB, TB (times 1000), \
     as in \"256MiB\"";
const TIME_UNITS: &str = "times are in us, ms, s, m, h or d, as in \"5ms\" or \"7d\"";

/// `"256MiB"` in bytes.
pub fn parse_size(text: &str) -> Result<u64, Wrong> {
    parse(
        text,
        "size",
        |unit| {
            BINARY
                .iter()
                .chain(&DECIMAL)
                .chain(&[("B", 1)])
                .find(|(name, _)| *name == unit)
                .map(|(_, factor)| *factor)
        },
        &["B", "KiB", "MiB", "GiB", "TiB", "kB", "MB", "GB", "TB"],
        SIZE_UNITS,
        format_size,
    )
}

/// `"5ms"` as a duration.
pub fn parse_time(text: &str) -> Result<Duration, Wrong> {
    parse(
        text,
        "time",
        |unit| {
            TIMES_US
                .iter()
                .find(|(name, _)| *name == unit)
                .map(|(_, factor)| *factor)
        },
        &["us", "ms", "s", "m", "h", "d"],
        TIME_UNITS,
        |us| format_time(Duration::from_micros(us)),
    )
    .map(Duration::from_micros)
}

/// `"10%"` as 10.0; only digits and one point before the sign.
pub fn parse_percent(text: &str) -> Result<f64, Wrong> {
    let wrong = || {
        Wrong::new(
            format!("\"{text}\" is no percentage"),
            "write it as in \"10%\"",
        )
    };
    let number = text.strip_suffix('%').ok_or_else(wrong)?;
    let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && number.starts_with(|c: char| c.is_ascii_digit());
    match number.parse::<f64>() {
        Ok(value) if plain => Ok(value),
        _ => Err(wrong()),
    }
}

/// `"200k"` as 200,000; a count has no unit but its thousands.
pub fn parse_count(text: &str) -> Result<u64, Wrong> {
    let whole = text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty();
    if whole && let Ok(count) = text.parse() {
        return Ok(count);
    }
    parse(
        text,
        "count",
        |unit| {
            COUNTS
                .iter()
                .find(|(name, _)| *name == unit)
                .map(|(_, factor)| *factor)
        },
        &["k", "M", "G"],
        COUNT_UNITS,
        format_count,
    )
}

/// `"50k/s"` as 50,000 a second.
pub fn parse_rate(text: &str) -> Result<u64, Wrong> {
    per_second(text, "50k/s", parse_count, format_count)
}

/// `"10MB/s"` in bytes a second.
pub fn parse_byte_rate(text: &str) -> Result<u64, Wrong> {
    per_second(text, "10MB/s", parse_size, short_size)
}

/// What comes before the `/s`; another time is said in seconds where that is exact.
fn per_second(
    text: &str,
    example: &str,
    parse: fn(&str) -> Result<u64, Wrong>,
    format: fn(u64) -> String,
) -> Result<u64, Wrong> {
    let help = format!("rates are per second, as in \"{example}\"");
    let Some((amount, time)) = text.split_once('/') else {
        let help = match parse(text) {
            Ok(_) => format!("write \"{text}/s\""),
            Err(_) => help,
        };
        return Err(Wrong::new(format!("\"{text}\" is no rate"), help));
    };
    if time == "s" {
        return parse(amount);
    }
    let seconds = match time {
        "sec" | "second" | "S" => Some(1),
        "m" | "min" | "minute" => Some(60),
        "h" | "hour" => Some(3_600),
        "d" | "day" => Some(86_400),
        _ => None,
    };
    let exact = parse(amount)
        .ok()
        .zip(seconds)
        .filter(|(amount, seconds)| amount.is_multiple_of(*seconds));
    let help = match exact {
        Some((amount, seconds)) => format!("write \"{}/s\"", format(amount / seconds)),
        None => help,
    };
    Err(Wrong::new(
        format!("\"{text}\": a rate is so much a second"),
        help,
    ))
}

/// Of a priority's frames, how many of sixteen are kept: `"8/16"`, or `"50%"`, which is the same.
pub fn parse_sixteenths(text: &str) -> Result<u8, Wrong> {
    const HELP: &str = "write it in sixteenths, as in \"8/16\", or as in \"50%\"";
    if text.ends_with('%') {
        let percent = parse_percent(text)?;
        if percent > 100.0 {
            return Err(Wrong::new(
                format!("{text} is out of range"),
                "from \"0%\" to \"100%\"",
            ));
        }
        let sixteenths = percent * 16.0 / 100.0;
        if sixteenths.fract() == 0.0 {
            return Ok(sixteenths as u8);
        }
        let below = sixteenths.floor() as u8;
        return Err(Wrong::new(
            format!("\"{text}\" is no whole number of sixteenths"),
            format!(
                "the nearest are \"{below}/16\" ({}) and \"{}/16\" ({})",
                percent_of(below),
                below + 1,
                percent_of(below + 1),
            ),
        ));
    }
    let Some((kept, of)) = text.split_once('/') else {
        return Err(Wrong::new(format!("\"{text}\" is no ratio"), HELP));
    };
    let number = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u32>().ok().filter(|_| digits)
    };
    let (Some(kept), Some(of)) = (number(kept), number(of).filter(|of| *of > 0)) else {
        return Err(Wrong::new(format!("\"{text}\" is no ratio"), HELP));
    };
    if kept > of {
        return Err(Wrong::new(
            format!("\"{text}\" is more than all"),
            "from \"0/16\" to \"16/16\"",
        ));
    }
    if of == 16 {
        return Ok(kept as u8);
    }
    let sixteenths = u64::from(kept) * 16;
    let below = sixteenths / u64::from(of);
    let help = match sixteenths.is_multiple_of(u64::from(of)) {
        true => format!("write \"{below}/16\""),
        false => format!("the nearest are \"{below}/16\" and \"{}/16\"", below + 1),
    };
    Err(Wrong::new(
        format!("\"{text}\": a ratio is in sixteenths"),
        help,
    ))
}

pub fn format_sixteenths(sixteenths: u8) -> String {
    format!("{sixteenths}/16")
}

fn percent_of(sixteenths: u8) -> String {
    format!("{}%", f64::from(sixteenths) * 100.0 / 16.0)
}

/// The shortest exact form: the largest thousands that divide.
pub fn format_count(count: u64) -> String {
    COUNTS
        .iter()
        .find(|(_, factor)| count >= *factor && count.is_multiple_of(*factor))
        .map_or_else(
            || count.to_string(),
            |(unit, factor)| format!("{}{unit}", count / factor),
        )
}

pub fn format_rate(per_second: u64) -> String {
    format!("{}/s", format_count(per_second))
}

pub fn format_byte_rate(bytes_per_second: u64) -> String {
    format!("{}/s", short_size(bytes_per_second))
}

/// The shortest exact form, in units of 1024 or of 1000: rates of bytes are most often given in the
/// latter.
pub fn short_size(bytes: u64) -> String {
    let binary = format_size(bytes);
    let decimal = DECIMAL
        .iter()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor))
        .map(|(unit, factor)| format!("{}{unit}", bytes / factor));
    match decimal {
        Some(decimal) if decimal.len() < binary.len() => decimal,
        _ => binary,
    }
}

/// The shortest exact form: the largest unit of 1024 that divides, else bytes.
pub fn format_size(bytes: u64) -> String {
    BINARY
        .iter()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor))
        .map_or_else(
            || format!("{bytes}B"),
            |(unit, factor)| format!("{}{unit}", bytes / factor),
        )
}

/// For a person: exact where that is short, else rounded up to a tenth of the largest unit.
pub fn about_size(bytes: u64) -> String {
    let exact = format_size(bytes);
    if exact.len() <= 7 {
        return exact;
    }
    BINARY
        .iter()
        .find(|(_, factor)| bytes >= *factor)
        .map_or(exact, |(unit, factor)| {
            let tenths = (u128::from(bytes) * 10).div_ceil(u128::from(*factor));
            format!("{}.{}{unit}", tenths / 10, tenths % 10)
        })
}

/// The shortest exact form; what is below a microsecond is not configurable.
pub fn format_time(time: Duration) -> String {
    let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    TIMES_US
        .iter()
        .find(|(_, factor)| us >= *factor && us.is_multiple_of(*factor))
        .map_or_else(
            || "0ms".to_owned(),
            |(unit, factor)| format!("{}{unit}", us / factor),
        )
}

fn parse(
    text: &str,
    what: &str,
    factor_of: impl Fn(&str) -> Option<u64>,
    units: &[&str],
    units_help: &str,
    format: impl Fn(u64) -> String,
) -> Result<u64, Wrong> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(Wrong::new(format!("\"{text}\" is no {what}"), units_help));
    }
    if unit.is_empty() {
        return Err(Wrong::new(format!("\"{text}\" has no unit"), units_help));
    }
    let Some(factor) = factor_of(unit) else {
        return Err(unknown_unit(
            text, what, factor_of, units, units_help, format,
        ));
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| Wrong::new(format!("\"{text}\" is too large a {what}"), units_help))
}

/// What was probably meant: a fraction, a blank before the unit, or the unit in another case.
fn unknown_unit(
    text: &str,
    what: &str,
    factor_of: impl Fn(&str) -> Option<u64>,
    units: &[&str],
    units_help: &str,
    format: impl Fn(u64) -> String,
) -> Wrong {
    let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let split = compact
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(compact.len());
    let (number, unit) = compact.split_at(split);
    if number.contains('.') {
        let whole = number
            .parse::<f64>()
            .ok()
            .zip(factor_of(unit))
            .map(|(number, factor)| number * factor as f64)
            // Beyond 2^53 a float no longer holds every whole number.
            .filter(|value| value.fract() == 0.0 && *value < 9e15);
        let help = whole.map_or_else(
            || units_help.to_owned(),
            |value| format!("write \"{}\"", format(value as u64)),
        );
        return Wrong::new(
            format!("\"{text}\": a {what} is a whole number and its unit"),
            help,
        );
    }
    let help = if factor_of(unit).is_some() {
        format!("write \"{compact}\", without blanks")
    } else {
        match units.iter().find(|known| known.eq_ignore_ascii_case(unit)) {
            Some(known) => format!("did you mean \"{number}{known}\"? {units_help}"),
            None => units_help.to_owned(),
        }
    };
    Wrong::new(
        format!("\"{text}\" has no unit of a {what} that is known"),
        help,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_what_their_units_say() {
        for (text, bytes) in [
            ("0B", 0),
            ("1B", 1),
            ("64KiB", 65_536),
            ("256MiB", 268_435_456),
            ("8GiB", 8_589_934_592),
            ("2TiB", 2_199_023_255_552),
            ("1kB", 1_000),
            ("1KB", 1_000),
            ("3MB", 3_000_000),
            ("1GB", 1_000_000_000),
            ("5TB", 5_000_000_000_000),
            ("18446744073709551615B", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_right_form() {
        for (text, message, help) in [
            ("", "\"\" is no size", "256MiB"),
            ("256", "has no unit", "256MiB"),
            ("MiB", "is no size", "256MiB"),
            ("-1MiB", "is no size", "256MiB"),
            ("256mib", "that is known", "did you mean \"256MiB\"?"),
            ("1gb", "that is known", "did you mean \"1GB\"?"),
            ("256 MiB", "that is known", "write \"256MiB\""),
            ("1.5GiB", "whole number", "write \"1536MiB\""),
            ("1.3B", "whole number", "256MiB"),
            ("16777216TiB", "too large", "TiB"),
            ("18446744073709551616B", "too large", "TiB"),
            ("5ms", "that is known", "256MiB"),
        ] {
            let wrong = parse_size(text).expect_err(text);
            assert!(wrong.message.contains(message), "{text}: {wrong:?}");
            assert!(wrong.help.contains(help), "{text}: {wrong:?}");
        }
    }

    #[test]
    fn times_are_what_their_units_say() {
        for (text, us) in [
            ("0ms", 0),
            ("7us", 7),
            ("5ms", 5_000),
            ("1s", 1_000_000),
            ("5m", 300_000_000),
            ("2h", 7_200_000_000),
            ("7d", 604_800_000_000),
        ] {
            assert_eq!(parse_time(text), Ok(Duration::from_micros(us)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_with_the_right_form() {
        for (text, message, help) in [
            ("5", "has no unit", "\"5ms\""),
            ("5 ms", "that is known", "write \"5ms\""),
            ("5MS", "that is known", "did you mean \"5ms\"?"),
            ("0.5s", "whole number", "write \"500ms\""),
            ("5min", "that is known", "us, ms, s, m, h or d"),
            ("ms", "is no time", "\"5ms\""),
            ("999999999999999999999d", "too large", "\"5ms\""),
        ] {
            let wrong = parse_time(text).expect_err(text);
            assert!(wrong.message.contains(message), "{text}: {wrong:?}");
            assert!(wrong.help.contains(help), "{text}: {wrong:?}");
        }
    }

    #[test]
    fn percentages() {
        assert_eq!(parse_percent("10%"), Ok(10.0));
        assert_eq!(parse_percent("2.5%"), Ok(2.5));
        for text in [
            "10", "%", "-1%", "1e1%", "inf%", "NaN%", ".5%", "1.2.3%", "10 %",
        ] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_and_rates_are_what_they_say() {
        for (text, count) in [
            ("0", 0),
            ("7", 7),
            ("200k", 200_000),
            ("3M", 3_000_000),
            ("2G", 2_000_000_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_count(text), Ok(count), "{text}");
            assert_eq!(parse_rate(&format!("{text}/s")), Ok(count), "{text}/s");
        }
        for (text, bytes) in [("10MB/s", 10_000_000), ("10MiB/s", 10_485_760), ("1B/s", 1)] {
            assert_eq!(parse_byte_rate(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_count_or_rate_is_refused_with_the_right_form() {
        for (text, message, help) in [
            ("", "is no count", "\"200k\""),
            ("k", "is no count", "\"200k\""),
            ("-1", "is no count", "\"200k\""),
            ("200K", "that is known", "did you mean \"200k\"?"),
            ("1.5k", "whole number", "write \"1500\""),
            ("200 k", "that is known", "write \"200k\""),
            ("18446744073709551616", "no unit", "\"200k\""),
            ("18446744073709551615k", "too large", "\"200k\""),
            ("5MB", "that is known", "\"200k\""),
        ] {
            let wrong = parse_count(text).expect_err(text);
            assert!(wrong.message.contains(message), "{text}: {wrong:?}");
            assert!(wrong.help.contains(help), "{text}: {wrong:?}");
        }
        for (text, message, help) in [
            ("50k", "is no rate", "write \"50k/s\""),
            ("", "is no rate", "\"50k/s\""),
            ("6k/m", "a second", "write \"100/s\""),
            ("1k/h", "a second", "\"50k/s\""),
            ("50k/", "a second", "\"50k/s\""),
            ("10MB/s", "that is known", "\"200k\""),
        ] {
            let wrong = parse_rate(text).expect_err(text);
            assert!(wrong.message.contains(message), "{text}: {wrong:?}");
            assert!(wrong.help.contains(help), "{text}: {wrong:?}");
        }
        let wrong = parse_byte_rate("10MB").expect_err("no time");
        assert_eq!(wrong.help, "write \"10MB/s\"");
        let wrong = parse_byte_rate("60MB/min").expect_err("a minute");
        assert_eq!(wrong.help, "write \"1MB/s\"");
    }

    #[test]
    fn ratios_are_whole_sixteenths() {
        for (text, sixteenths) in [
            ("0/16", 0),
            ("8/16", 8),
            ("16/16", 16),
            ("0%", 0),
            ("6.25%", 1),
            ("50%", 8),
            ("93.75%", 15),
            ("100%", 16),
        ] {
            assert_eq!(parse_sixteenths(text), Ok(sixteenths), "{text}");
        }
        for (text, message, help) in [
            (
                "30%",
                "no whole number of sixteenths",
                "\"4/16\" (25%) and \"5/16\" (31.25%)",
            ),
            (
                "99.9%",
                "no whole",
                "\"15/16\" (93.75%) and \"16/16\" (100%)",
            ),
            ("101%", "out of range", "100%"),
            ("17/16", "more than all", "16/16"),
            ("1/2", "in sixteenths", "write \"8/16\""),
            ("1/3", "in sixteenths", "\"5/16\" and \"6/16\""),
            ("1/0", "no ratio", "8/16"),
            ("8", "no ratio", "8/16"),
            ("-1/16", "no ratio", "8/16"),
            ("+1/16", "no ratio", "8/16"),
            ("", "no ratio", "8/16"),
            ("8/16/1", "no ratio", "8/16"),
        ] {
            let wrong = parse_sixteenths(text).expect_err(text);
            assert!(wrong.message.contains(message), "{text}: {wrong:?}");
            assert!(wrong.help.contains(help), "{text}: {wrong:?}");
        }
    }

    #[test]
    fn what_is_formatted_parses_back() {
        for number in [1, 999, 1_000, 1_024, 50_000, 1_500_000, 1 << 30, u64::MAX] {
            assert_eq!(parse_count(&format_count(number)), Ok(number));
            assert_eq!(parse_rate(&format_rate(number)), Ok(number));
            assert_eq!(parse_byte_rate(&format_byte_rate(number)), Ok(number));
        }
        assert_eq!(format_rate(50_000), "50k/s");
        assert_eq!(format_byte_rate(10_000_000), "10MB/s");
        assert_eq!(format_byte_rate(10 << 20), "10MiB/s");
        assert_eq!(short_size(1_500), "1500B");
    }

    #[test]
    fn formatting_is_exact_and_short() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (1_000_000, "1000000B"),
            (1 << 20, "1MiB"),
            (1536 << 20, "1536MiB"),
            (50 << 30, "50GiB"),
            (1 << 40, "1TiB"),
        ] {
            assert_eq!(format_size(bytes), text);
        }
        for (us, text) in [
            (0, "0ms"),
            (1, "1us"),
            (1_500, "1500us"),
            (5_000, "5ms"),
            (60_000_000, "1m"),
            (90_000_000, "90s"),
            (604_800_000_000, "7d"),
        ] {
            assert_eq!(format_time(Duration::from_micros(us)), text);
        }
        assert_eq!(about_size(100_663_297), "96.1MiB");
        assert_eq!(about_size(1 << 30), "1GiB");
    }
}
