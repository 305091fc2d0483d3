//! The rates of `penstock gate limit`, as words of a command line.

use crate::daemon::gate_change::LimitWords;
use crate::exit::{Exit, Failure};

/// Sorts the words by their shape into the keys of a limit; what they say is looked at by the agent.
pub fn words(rates: &[String]) -> Result<LimitWords, Failure> {
    let mut limit = LimitWords::default();
    for word in rates {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, value),
            None => (name_of(word), word.as_str()),
        };
        let place = match name {
            "rate" => &mut limit.rate,
            "burst" => &mut limit.burst,
            "byte_rate" => &mut limit.byte_rate,
            "byte_burst" => &mut limit.byte_burst,
            "connection_rate" => &mut limit.connection_rate,
            "connection_burst" => &mut limit.connection_burst,
            _ => {
                return Err(usage(format!(
                    "{name} is no key of a limit: rate, burst, byte_rate, byte_burst, \
                     connection_rate, connection_burst"
                )));
            }
        };
        if place.replace(value.to_owned()).is_some() {
            return Err(usage(format!(
                "{name} is given twice, the second time as {word}"
            )));
        }
    }
    Ok(limit)
}

/// `50k/s` is a rate and `200k` a burst; with a B behind the number they are of bytes.
fn name_of(word: &str) -> &'static str {
    let (amount, is_rate) = match word.split_once('/') {
        Some((amount, _)) => (amount, true),
        None => (word, false),
    };
    match (amount.ends_with(['B', 'b']), is_rate) {
        (false, true) => "rate",
        (false, false) => "burst",
        (true, true) => "byte_rate",
        (true, false) => "byte_burst",
    }
}

fn usage(message: String) -> Failure {
    Failure::new(Exit::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Result<LimitWords, Failure> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        super::words(&words)
    }

    #[test]
    fn words_are_sorted_by_their_shape_or_their_name() {
        let text = |text: &str| Some(text.to_owned());
        let limit = of(&["200k", "50k/s", "10MB/s", "40MiB"]).expect("sorted");
        assert_eq!(limit.rate, text("50k/s"));
        assert_eq!(limit.burst, text("200k"));
        assert_eq!(limit.byte_rate, text("10MB/s"));
        assert_eq!(limit.byte_burst, text("40MiB"));
        assert_eq!(limit.connection_rate, None);
        let limit = of(&["connection_rate=5/s", "connection_burst=10"]).expect("sorted");
        assert_eq!(limit.connection_rate, text("5/s"));
        assert_eq!(limit.connection_burst, text("10"));
        assert_eq!(limit.rate, None);
        for wrong in [&["50k/s", "60k/s"][..], &["rate=1/s", "1/s"], &["brust=1"]] {
            let failure = of(wrong).expect_err("wrong");
            assert_eq!(failure.exit, Exit::Usage, "{wrong:?}");
        }
    }
}
