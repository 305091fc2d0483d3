//! A record as a line for eyes.

use super::escape::{Escapes, push_escaped};
use crate::sink::file::container::Stored;
use crate::sink::file::name::Civil;

pub(super) fn text_line(record: &Stored<'_>, line: &mut String) {
    let time = match record.time_unix_nano {
        0 => record.observed_time_unix_nano,
        time => time,
    };
    line.push_str(&Civil::from_unix_nano(time).to_string());
    line.push(' ');
    line.push_str(&severity_text(record.severity_number));
    for name in [record.service_name, record.host_name] {
        line.push(' ');
        match name {
            "" => line.push('-'),
            name => push_escaped(name, Escapes::Text, line),
        }
    }
    line.push(' ');
    push_escaped(record.body, Escapes::Text, line);
    for (key, value) in &record.attributes {
        line.push(' ');
        push_escaped(key, Escapes::Text, line);
        line.push('=');
        let quoted = value.is_empty() || value.contains([' ', '"', '=']);
        if quoted {
            line.push('"');
            push_escaped(value, Escapes::Json, line);
            line.push('"');
        } else {
            push_escaped(value, Escapes::Text, line);
        }
    }
}

/// OpenTelemetry's short names: four numbers each.
fn severity_text(number: u32) -> String {
    const NAMES: [&str; 6] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];
    match number {
        0 => "-".to_owned(),
        1..=24 => {
            let name = NAMES[(number as usize - 1) / 4];
            match (number - 1) % 4 {
                0 => name.to_owned(),
                more => format!("{name}{}", more + 1),
            }
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severities_have_opentelemetrys_names() {
        let names: Vec<_> = [0, 1, 4, 5, 9, 13, 17, 20, 21, 24, 25]
            .into_iter()
            .map(severity_text)
            .collect();
        assert_eq!(
            names,
            [
                "-", "TRACE", "TRACE4", "DEBUG", "INFO", "WARN", "ERROR", "ERROR4", "FATAL",
                "FATAL4", "25"
            ]
        );
    }
}
