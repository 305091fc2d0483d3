//! `penstock gate top`.

use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;

use super::{ask, print_json};
use crate::command::ask::Target;
use crate::command::config::print_text;
use crate::config;
use crate::daemon::gate_requests::{GateRequest, TopBy};
use crate::exit::Failure;

pub fn interval(text: &str) -> Result<Duration, String> {
    let time =
        config::parse_time(text).map_err(|wrong| format!("{}: {}", wrong.message, wrong.help))?;
    let range = Duration::from_millis(100)..=Duration::from_secs(60);
    match range.contains(&time) {
        true => Ok(time),
        false => Err("from 100ms to 1m".to_owned()),
    }
}

/// Looks twice, and prints the second look, whose rates are the difference.
pub fn run(
    target: &Target,
    by: TopBy,
    count: usize,
    interval: Duration,
    json: bool,
) -> Result<(), Failure> {
    let look = || ask(target, GateRequest::Top { by, count });
    look()?;
    std::thread::sleep(interval);
    let answer = look()?;
    match json {
        true => print_json(&answer),
        false => print_text(&table(&answer)),
    }
}

fn table(answer: &Value) -> String {
    let sources = answer["sources"].as_array().map_or(&[][..], Vec::as_slice);
    let width = sources
        .iter()
        .filter_map(|source| source["source"].as_str())
        .map(str::len)
        .fold("source".len(), usize::max);
    let mut text = String::new();
    let mut line = |source: &str, cells: [String; 6]| {
        let [a, b, c, d, e, f] = cells;
        writeln!(
            text,
            "{source:<width$} {a:>12} {b:>10} {c:>12} {d:>14} {e:>16} {f:>12}"
        )
        .expect("writing to a String cannot fail");
    };
    let head = [
        "datagrams/s",
        "bytes/s",
        "refused/s",
        "datagrams",
        "bytes",
        "refused",
    ];
    line("source", head.map(str::to_owned));
    for source in sources {
        let rate = |key: &str| match source[key].as_f64() {
            Some(rate) => short(rate),
            None => "-".to_owned(),
        };
        let total = |key: &str| source[key].to_string();
        line(
            source["source"].as_str().unwrap_or("?"),
            [
                rate("datagrams_per_second"),
                rate("bytes_per_second"),
                rate("refused_per_second"),
                total("datagrams"),
                total("bytes"),
                total("refused"),
            ],
        );
    }
    let known = &answer["known"];
    writeln!(
        text,
        "{} of {known} sources that the gate remembers",
        sources.len()
    )
    .expect("writing to a String cannot fail");
    text
}

/// Three digits and their thousands.
fn short(rate: f64) -> String {
    for (unit, factor) in [("G", 1e9), ("M", 1e6), ("k", 1e3)] {
        if rate >= factor {
            return format!("{:.1}{unit}", rate / factor);
        }
    }
    format!("{rate:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_has_a_line_for_each_source() {
        let answer = json!({
            "known": 7, "seconds": 1.0,
            "sources": [
                {"source": "203.0.113.7", "datagrams": 1_000_000, "bytes": 64_000_000, "refused": 5,
                 "datagrams_per_second": 52_345.0, "bytes_per_second": 3_350_080.0,
                 "refused_per_second": 0.0},
                {"source": "2001:db8::/64", "datagrams": 1, "bytes": 64, "refused": 0,
                 "datagrams_per_second": null, "bytes_per_second": null,
                 "refused_per_second": null},
            ],
        });
        let expected = "\
source         datagrams/s    bytes/s    refused/s      datagrams            bytes      refused
203.0.113.7          52.3k       3.4M            0        1000000         64000000            5
2001:db8::/64            -          -            -              1               64            0
2 of 7 sources that the gate remembers
";
        assert_eq!(table(&answer), expected);
    }
}
