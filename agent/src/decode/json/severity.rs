//! Severity as loggers write it, to OpenTelemetry's number.

/// The severity numbers end at 24 (FATAL4); 0 is "unspecified".
const NUMBER_MAX: u32 = 24;
/// Longer than any word below.
const WORD_LEN_MAX: usize = 16;

/// For the names that promise OpenTelemetry's number.
pub fn number_or_word(text: &str) -> Option<u32> {
    match text.as_bytes() {
        [b'0'..=b'9'] | [b'0'..=b'9', b'0'..=b'9'] => {
            text.parse().ok().filter(|&number| number <= NUMBER_MAX)
        }
        _ => word(text),
    }
}

/// A level's name in any case. The mapping is that of the OpenTelemetry log data model, appendix B;
/// its own short names (`INFO2`, `ERROR3`) are read too.
pub fn word(text: &str) -> Option<u32> {
    let mut lower = [0; WORD_LEN_MAX];
    let lower = lower.get_mut(..text.len())?;
    lower.copy_from_slice(text.as_bytes());
    lower.make_ascii_lowercase();
    let number = match &*lower {
        b"trace" => 1,
        b"debug" | b"verbose" => 5,
        b"info" | b"information" | b"informational" => 9,
        b"notice" => 10,
        b"warn" | b"warning" => 13,
        b"err" | b"error" => 17,
        b"crit" | b"critical" => 18,
        b"alert" => 19,
        b"fatal" | b"emerg" | b"emergency" | b"panic" => 21,
        [short @ .., step @ b'2'..=b'4'] => {
            let first = match short {
                b"trace" => 1,
                b"debug" => 5,
                b"info" => 9,
                b"warn" => 13,
                b"error" => 17,
                b"fatal" => 21,
                _ => return None,
            };
            first + u32::from(step - b'1')
        }
        _ => return None,
    };
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Appendix B of the OpenTelemetry log data model, and its table of short names.
    #[test]
    fn words_have_the_numbers_of_the_data_model() {
        for (text, number) in [
            ("TRACE", 1),
            ("trace4", 4),
            ("Debug", 5),
            ("verbose", 5),
            ("DEBUG2", 6),
            ("info", 9),
            ("Informational", 9),
            ("Information", 9),
            ("NOTICE", 10),
            ("INFO4", 12),
            ("warn", 13),
            ("WARNING", 13),
            ("err", 17),
            ("ERROR", 17),
            ("crit", 18),
            ("Critical", 18),
            ("alert", 19),
            ("ERROR3", 19),
            ("emerg", 21),
            ("Emergency", 21),
            ("panic", 21),
            ("fatal", 21),
            ("FATAL4", 24),
        ] {
            assert_eq!(word(text), Some(number), "{text}");
        }
        for text in [
            "",
            "9",
            "info1",
            "info5",
            "notice2",
            "infoo",
            "in",
            "ınfo",
            "a long sentence that is no level",
        ] {
            assert_eq!(word(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_end_where_the_data_model_ends() {
        assert_eq!(number_or_word("0"), Some(0));
        assert_eq!(number_or_word("9"), Some(9));
        assert_eq!(number_or_word("24"), Some(24));
        assert_eq!(number_or_word("warn"), Some(13));
        for text in ["25", "99", "-1", "9.0", "1e1", "100", "true", "+9"] {
            assert_eq!(number_or_word(text), None, "{text}");
        }
    }
}
