//! Time as loggers write it, to nanoseconds since 1970-01-01T00:00:00Z. What lies before that or
//! beyond 64 bits (the year 2554), or leaves its zone open, is no time here.

const SECOND_NS: u64 = 1_000_000_000;

/// A whole number of nanoseconds.
pub fn nanoseconds(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    (digits && !text.is_empty()).then(|| text.parse().ok())?
}

/// A date and time by RFC 3339, or a number of seconds, milliseconds, microseconds or nanoseconds.
pub fn instant(text: &str) -> Option<u64> {
    match text.as_bytes() {
        [_, _, _, _, b'-', ..] => date_time(text.as_bytes()),
        _ => number(text),
    }
}

/// A number with or without a fraction, its unit told by its magnitude. The bounds stand far from
/// every plausible time in either unit: 10^11 seconds is the year 5138, 10^11 milliseconds is 1973,
/// and so on with a factor of 1000. What a fraction has beyond nanoseconds is cut off.
fn number(text: &str) -> Option<u64> {
    let (whole, fraction) = match text.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (text, ""),
    };
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let whole = nanoseconds(whole)?;
    let unit_ns = match whole {
        0..100_000_000_000 => SECOND_NS,
        100_000_000_000..100_000_000_000_000 => 1_000_000,
        100_000_000_000_000..100_000_000_000_000_000 => 1_000,
        _ => 1,
    };
    whole
        .checked_mul(unit_ns)?
        .checked_add(fraction_ns(fraction.as_bytes(), unit_ns))
}

/// Digits behind a decimal point, of a unit that is a power of ten.
fn fraction_ns(digits: &[u8], unit_ns: u64) -> u64 {
    let mut place_ns = unit_ns;
    let mut sum = 0;
    for digit in digits {
        place_ns /= 10;
        sum += u64::from(digit - b'0') * place_ns;
    }
    sum
}

/// `YYYY-MM-DDThh:mm:ss[.fraction](Z|±hh:mm)`, RFC 3339 section 5.6; the `T` and the `Z` in either
/// case, or a blank for the `T` as its note allows. A leap second (`:60`) counts as the first
/// second of the next minute, for Unix time has no place of its own for it.
fn date_time(bytes: &[u8]) -> Option<u64> {
    let (date, rest) = bytes.split_first_chunk::<19>()?;
    let [
        y0,
        y1,
        y2,
        y3,
        b'-',
        mo0,
        mo1,
        b'-',
        d0,
        d1,
        b'T' | b't' | b' ',
        h0,
        h1,
        b':',
        mi0,
        mi1,
        b':',
        s0,
        s1,
    ] = *date
    else {
        return None;
    };
    let year = u64::from(two(y0, y1)?) * 100 + u64::from(two(y2, y3)?);
    let month = two(mo0, mo1)?;
    let day = two(d0, d1)?;
    let (hour, minute, second) = (two(h0, h1)?, two(mi0, mi1)?, two(s0, s1)?);
    if year < 1969
        || !(1..=12).contains(&month)
        || !(1..=days_in_month(year, month)).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }

    let (fraction, zone) = match rest {
        [b'.', rest @ ..] => {
            let len = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if len == 0 {
                return None;
            }
            rest.split_at(len)
        }
        _ => (&[][..], rest),
    };
    let offset_s = match *zone {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h0, h1, b':', m0, m1] => {
            let (hours, minutes) = (two(h0, h1)?, two(m0, m1)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset_s = i64::from(hours) * 3600 + i64::from(minutes) * 60;
            if sign == b'+' { offset_s } else { -offset_s }
        }
        _ => return None,
    };

    let local_s = days_since_1970(year, month, day) * 86_400
        + i64::from(hour) * 3600
        + i64::from(minute) * 60
        + i64::from(second);
    u64::try_from(local_s - offset_s)
        .ok()?
        .checked_mul(SECOND_NS)?
        .checked_add(fraction_ns(fraction, SECOND_NS))
}

fn two(tens: u8, ones: u8) -> Option<u8> {
    (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| (tens - b'0') * 10 + (ones - b'0'))
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_month(year: u64, month: u8) -> u8 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Counted in years that begin in March, so that the leap day is the last of its year and the
/// months before it have the lengths 31, 30, 31, 30, 31 over and over: `(153 * month + 2) / 5` days.
fn days_since_1970(year: u64, month: u8, day: u8) -> i64 {
    let month = i64::from(month);
    let (year, month) = match month {
        ..=2 => (year as i64 - 1, month + 9),
        _ => (year as i64, month - 3),
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leap_days + (153 * month + 2) / 5 + i64::from(day) - 1;
    // 1970-01-01 counted in the same way.
    days - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_3339() {
        // Section 5.8; the numbers are those of `date -d TEXT +%s%N`.
        for (text, expected) in [
            ("1985-04-12T23:20:50.52Z", Some(482_196_050_520_000_000)),
            ("1996-12-19T16:39:57-08:00", Some(851_042_397_000_000_000)),
            // A leap second: 1991-01-01T00:00:00Z.
            ("1990-12-31T23:59:60Z", Some(662_688_000_000_000_000)),
            ("1990-12-31T15:59:60-08:00", Some(662_688_000_000_000_000)),
            // Before 1970.
            ("1937-01-01T12:00:27.87+00:20", None),
        ] {
            assert_eq!(instant(text), expected, "{text}");
        }
    }

    #[test]
    fn dates_at_their_edges() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01 00:00:00z", Some(0)),
            ("1970-01-01t01:00:00.000000001+01:00", Some(1)),
            ("1969-12-31T23:00:00-01:00", Some(0)),
            ("1969-12-31T23:59:59Z", None),
            (
                "2000-02-29T12:34:56.123456789Z",
                Some(951_827_696_123_456_789),
            ),
            ("2024-02-29T00:00:00Z", Some(1_709_164_800_000_000_000)),
            (
                "2024-12-31T23:59:59.9999999999Z",
                Some(1_735_689_599_999_999_999),
            ),
            ("2023-02-29T00:00:00Z", None),
            ("2100-02-29T00:00:00Z", None),
            ("2024-00-01T00:00:00Z", None),
            ("2024-13-01T00:00:00Z", None),
            ("2024-04-31T00:00:00Z", None),
            ("2024-01-00T00:00:00Z", None),
            ("2024-01-01T24:00:00Z", None),
            ("2024-01-01T00:60:00Z", None),
            ("2024-01-01T00:00:61Z", None),
            // 2^64 - 1 nanoseconds, and one more.
            ("2554-07-21T23:34:33.709551615Z", Some(u64::MAX)),
            ("2554-07-21T23:34:33.709551616Z", None),
            // The zone is open, or is none.
            ("2024-01-01T00:00:00", None),
            ("2024-01-01T00:00:00.Z", None),
            ("2024-01-01T00:00:00+0100", None),
            ("2024-01-01T00:00:00+24:00", None),
            ("2024-01-01T00:00:00Zulu", None),
            ("2024-01-01", None),
            ("2024-1-1T00:00:00Z", None),
            ("2024-01-01T0x:00:00Z", None),
        ] {
            assert_eq!(instant(text), expected, "{text}");
        }
    }

    /// The slow way: a loop over the years and the months, by the Gregorian rule as it is told.
    #[test]
    fn every_day_of_600_years_follows_the_one_before() {
        let mut days = 0;
        for year in 1970..2570 {
            for month in 1..=12u8 {
                let leap = year % 400 == 0 || (year % 4 == 0 && year % 100 != 0);
                let len = match (month, leap) {
                    (2, true) => 29,
                    (2, false) => 28,
                    (4 | 6 | 9 | 11, _) => 30,
                    _ => 31,
                };
                for day in 1..=len {
                    assert_eq!(days_since_1970(year, month, day), days);
                    assert!(day <= days_in_month(year, month));
                    days += 1;
                }
                assert_eq!(days_in_month(year, month), len);
            }
        }
    }

    #[test]
    fn the_magnitude_of_a_number_tells_its_unit() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1700000000", Some(1_700_000_000_000_000_000)),
            ("1700000000.25", Some(1_700_000_000_250_000_000)),
            ("1700000000.1234567899", Some(1_700_000_000_123_456_789)),
            ("1700000000123", Some(1_700_000_000_123_000_000)),
            ("1700000000123.5", Some(1_700_000_000_123_500_000)),
            ("1700000000123456", Some(1_700_000_000_123_456_000)),
            ("1700000000123456.789", Some(1_700_000_000_123_456_789)),
            ("1700000000123456789", Some(1_700_000_000_123_456_789)),
            ("1700000000123456789.9", Some(1_700_000_000_123_456_789)),
            // Each unit's last and the next one's first.
            ("18446744073", Some(18_446_744_073_000_000_000)),
            ("18446744074", None),
            ("99999999999", None),
            ("100000000000", Some(100_000_000_000_000_000)),
            ("99999999999999999", None),
            ("100000000000000000", Some(100_000_000_000_000_000)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("-1", None),
            ("-0", None),
            ("1.7e9", None),
            ("1700000000.", None),
            (".5", None),
            ("", None),
            ("+1", None),
            ("1_0", None),
            ("now", None),
        ] {
            assert_eq!(instant(text), expected, "{text}");
        }
    }

    #[test]
    fn nanoseconds_are_a_whole_number() {
        assert_eq!(nanoseconds("1"), Some(1));
        assert_eq!(nanoseconds("18446744073709551615"), Some(u64::MAX));
        for text in ["", "1.0", "-1", "+1", "18446744073709551616", "1e3", "true"] {
            assert_eq!(nanoseconds(text), None, "{text}");
        }
    }
}
