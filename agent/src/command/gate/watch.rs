//! `penstock gate watch`.

use std::time::{Duration, Instant};

use super::ask;
use crate::command::ask::Target;
use crate::command::config::print_text;
use crate::config;
use crate::daemon::gate_requests::GateRequest;
use crate::exit::{Exit, Failure};
use crate::gate::refused::{Refused, Watched};

/// Well within the time for which the agent goes on sampling after it was asked.
const INTERVAL: Duration = Duration::from_millis(250);

pub fn time(text: &str) -> Result<Duration, String> {
    config::parse_time(text).map_err(|wrong| format!("{}: {}", wrong.message, wrong.help))
}

/// Asks again and again; what the agent had before it was asked first is not shown.
pub fn run(
    target: &Target,
    duration: Duration,
    count: Option<u64>,
    json: bool,
) -> Result<(), Failure> {
    let end = Instant::now() + duration;
    let mut left = count.unwrap_or(u64::MAX);
    let first = look(target, u64::MAX)?;
    let (mut last, mut left_out) = (first.last, first.left_out);
    while left > 0 && Instant::now() < end {
        std::thread::sleep(INTERVAL.min(end.saturating_duration_since(Instant::now())));
        let watched = look(target, last)?;
        let missed = watched.left_out.saturating_sub(left_out) + watched.forgotten;
        for sample in watched
            .samples
            .iter()
            .take(usize::try_from(left).unwrap_or(usize::MAX))
        {
            print_text(&line(sample, json)?)?;
            left -= 1;
        }
        if missed > 0 {
            print_text(&match json {
                true => format!("{}\n", serde_json::json!({ "left_out": missed })),
                false => format!("… {missed} more were refused\n"),
            })?;
        }
        (last, left_out) = (watched.last, watched.left_out);
    }
    Ok(())
}

fn look(target: &Target, after: u64) -> Result<Watched, Failure> {
    let answer = ask(target, GateRequest::Watch { after })?;
    serde_json::from_value(answer)
        .map_err(|error| Failure::new(Exit::Software, format!("the agent's answer: {error}")))
}

fn line(sample: &Refused, json: bool) -> Result<String, Failure> {
    if json {
        let text = serde_json::to_string(sample)
            .map_err(|error| Failure::new(Exit::Software, format!("a sample as JSON: {error}")))?;
        return Ok(format!("{text}\n"));
    }
    let verdict = match (&sample.fault, &sample.reason) {
        (Some(fault), Some(reason)) => format!("{} {fault} ({reason})", sample.verdict),
        _ => sample.verdict.clone(),
    };
    let many = match sample.datagrams {
        1 => String::new(),
        datagrams => format!(" ×{datagrams}"),
    };
    let header = match &sample.header {
        Some(header) => format!(
            " encoding {} flags {} priority {} payload {} records {} producer {} sequence {}",
            header.encoding,
            header.flags,
            header.priority,
            header.payload_len,
            header.records,
            header.producer,
            header.sequence
        ),
        None => format!(" \"{}\"", sample.head),
    };
    Ok(format!(
        "{} {} {}: {verdict}, {} bytes{many}:{header}\n",
        clock(sample.unix_ms),
        sample.source,
        sample.listener,
        sample.len,
    ))
}

/// Of the day, in UTC.
fn clock(unix_ms: u64) -> String {
    let (seconds, ms) = (unix_ms / 1_000 % 86_400, unix_ms % 1_000);
    format!(
        "{:02}:{:02}:{:02}.{ms:03}Z",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_where_why_and_how_it_begins() {
        let sample = Refused {
            number: 1,
            unix_ms: 86_400_000 + 3_723_004,
            source: "192.0.2.7".to_owned(),
            listener: "udp".to_owned(),
            verdict: "malformed".to_owned(),
            fault: Some("magic".to_owned()),
            reason: Some("does not begin with PNS".to_owned()),
            datagrams: 3,
            len: 60,
            head: "GET / HTTP/1.1\\r\\n".to_owned(),
            header: None,
        };
        assert_eq!(
            line(&sample, false).expect("a line"),
            "01:02:03.004Z 192.0.2.7 udp: malformed magic (does not begin with PNS), 60 bytes ×3: \
             \"GET / HTTP/1.1\\r\\n\"\n"
        );
        let json = line(&sample, true).expect("a line");
        let read: Refused = serde_json::from_str(&json).expect("JSON");
        assert_eq!(read, sample);
    }
}
