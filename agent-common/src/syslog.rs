//! The start of a syslog message: `<PRI>` of RFC 5424, 6.2.1, and RFC 3164, 4.1.1.

/// The shortest start: `<0>`.
pub const START_LEN_MIN: u32 = 3;
/// The longest: `<191>`.
pub const START_LEN_MAX: usize = 5;
/// Facility 23, severity 7.
const PRI_MAX: u32 = 191;

/// The severity (0 emergency to 7 debug) where the bytes begin with a valid `<PRI>`: 0 to 191
/// without leading zeros, as both documents demand. What is shorter than five bytes ends in zeros.
#[inline(always)]
pub const fn severity(start: &[u8; START_LEN_MAX]) -> Option<u8> {
    if start[0] != b'<' {
        return None;
    }
    let (a, b, c) = (start[1], start[2], start[3]);
    let pri = if !a.is_ascii_digit() {
        return None;
    } else if b == b'>' {
        digit(a)
    } else if !b.is_ascii_digit() || a == b'0' {
        return None;
    } else if c == b'>' {
        digit(a) * 10 + digit(b)
    } else if !c.is_ascii_digit() || start[4] != b'>' {
        return None;
    } else {
        digit(a) * 100 + digit(b) * 10 + digit(c)
    };
    if pri > PRI_MAX {
        return None;
    }
    Some((pri % 8) as u8)
}

/// The priority by which a message of this severity is shed: emergency, alert and critical are
/// critical; error and warning high; notice and informational normal; debug background.
#[inline(always)]
pub const fn priority(severity: u8) -> u8 {
    match severity {
        0..=2 => 0,
        3 | 4 => 1,
        5 | 6 => 2,
        _ => 3,
    }
}

#[inline(always)]
const fn digit(byte: u8) -> u32 {
    (byte - b'0') as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<u8> {
        let mut start = [0; START_LEN_MAX];
        let len = text.len().min(START_LEN_MAX);
        start[..len].copy_from_slice(&text.as_bytes()[..len]);
        severity(&start)
    }

    #[test]
    fn every_number_is_valid_from_0_to_191_only() {
        for pri in 0..=1000 {
            let expected = (pri <= 191).then_some((pri % 8) as u8);
            assert_eq!(of(&format!("<{pri}>x")), expected, "<{pri}>");
            assert_eq!(of(&format!("<{pri}>")), expected, "<{pri}>");
        }
    }

    #[test]
    fn what_is_no_pri_is_refused() {
        for text in [
            "", "<", "<>", "<1", "<19", "<191", "<00>", "<01>", "<013>", "<-1>", "< 1>", "1>",
            "<1x>", "x<1>", "<1 >", "<1/>", "<1:>", "{1}",
        ] {
            assert_eq!(of(text), None, "{text:?}");
        }
    }

    /// RFC 5424, table 2: 0 emergency, 1 alert, 2 critical, 3 error, 4 warning, 5 notice,
    /// 6 informational, 7 debug.
    #[test]
    fn severities_have_priorities() {
        let priorities: Vec<u8> = (0..8).map(priority).collect();
        assert_eq!(priorities, [0, 0, 0, 1, 1, 2, 2, 3]);
        // Facility 20, severity 5: the example of RFC 5424, 6.2.1.
        assert_eq!(of("<165>1 2003-08-24"), Some(5));
    }
}
