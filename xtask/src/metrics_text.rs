//! Reads the Prometheus text format, as far as the agent writes it: samples without timestamps.

use std::collections::BTreeMap;

/// One scrape.
#[derive(Debug, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut samples = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            match sample(line) {
                Some(sample) => samples.push(sample),
                None => anyhow::bail!("line {} is no sample: {line}", index + 1),
            }
        }
        Ok(Self { samples })
    }

    /// The sum of all series of `name` that carry these labels; `None` where there is no such
    /// series, which is another thing than 0.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.matching(name, labels)
            .map(|sample| sample.value)
            .reduce(|sum, value| sum + value)
    }

    /// The same as a count. The agent's counters are whole and far below 2^53.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        self.sum(name, labels).map(|value| value as u64)
    }

    /// Counts of the series of `name` that carry these labels, by their label `by`, without zeros.
    pub fn counts_by(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        by: &str,
    ) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for sample in self.matching(name, labels) {
            if let (Some(label), true) = (sample.labels.get(by), sample.value != 0.0) {
                *counts.entry(label.clone()).or_default() += sample.value as u64;
            }
        }
        counts
    }

    fn matching<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|have| have == value))
        })
    }
}

/// `name{key="value",…} number`
fn sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' ', '\t'])?;
    let name = line[..name_end].to_owned();
    if name.is_empty() {
        return None;
    }
    let mut labels = BTreeMap::new();
    let mut rest = &line[name_end..];
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (key, after_key) = rest.split_once("=\"")?;
            let (value, after_value) = quoted(after_key)?;
            labels.insert(key.trim().to_owned(), value);
            rest = after_value;
        }
    }
    let value = rest.split_whitespace().next()?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        number => number.parse().ok()?,
    };
    Some(Sample {
        name,
        labels,
        value,
    })
}

/// A label's value up to its closing quote, and what follows it. The escapes are `\\`, `\"`, `\n`.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[index + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                escaped => value.push(escaped),
            },
            _ => value.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines in the shapes of the exposition format's own documentation.
    const TEXT: &str = r#"# HELP penstock_gate_datagrams_total Verdicts.
# TYPE penstock_gate_datagrams_total counter
penstock_gate_datagrams_total{listener="udp-json",verdict="passed"} 120
penstock_gate_datagrams_total{listener="udp-json",verdict="malformed"} 3
penstock_gate_datagrams_total{listener="udp-json",verdict="denied"} 0
penstock_gate_datagrams_total{listener="load-udp",verdict="passed"} 5

msdos_file_access_time_seconds{path="C:\\DIR\\FILE.TXT",error="Cannot find file:\n\"FILE.TXT\""} 1.458255915e9
penstock_ingest_duration_seconds_bucket{le="+Inf"} 7
metric_without_labels 12.47
something_weird{problem="division by zero"} +Inf
"#;

    #[test]
    fn sums_run_over_the_labels_that_were_left_out() {
        let metrics = Metrics::parse(TEXT).unwrap();
        let name = "penstock_gate_datagrams_total";
        assert_eq!(metrics.count(name, &[("listener", "udp-json")]), Some(123));
        assert_eq!(metrics.count(name, &[]), Some(128));
        assert_eq!(
            metrics.count(name, &[("listener", "load-udp"), ("verdict", "passed")]),
            Some(5)
        );
        assert_eq!(metrics.sum("metric_without_labels", &[]), Some(12.47));
        assert_eq!(metrics.sum("something_weird", &[]), Some(f64::INFINITY));
    }

    #[test]
    fn a_series_that_is_not_there_is_not_zero() {
        let metrics = Metrics::parse(TEXT).unwrap();
        assert_eq!(
            metrics.count("penstock_gate_datagrams_total", &[("listener", "no")]),
            None
        );
        assert_eq!(metrics.count("penstock_gate_datagrams", &[]), None);
    }

    #[test]
    fn counts_by_a_label_leave_zeros_out() {
        let metrics = Metrics::parse(TEXT).unwrap();
        let counts = metrics.counts_by(
            "penstock_gate_datagrams_total",
            &[("listener", "udp-json")],
            "verdict",
        );
        assert_eq!(
            counts,
            BTreeMap::from([("malformed".to_owned(), 3), ("passed".to_owned(), 120)])
        );
    }

    #[test]
    fn escapes_in_labels_are_undone() {
        let metrics = Metrics::parse(TEXT).unwrap();
        let labels = [
            ("path", r"C:\DIR\FILE.TXT"),
            ("error", "Cannot find file:\n\"FILE.TXT\""),
        ];
        assert_eq!(
            metrics.sum("msdos_file_access_time_seconds", &labels),
            Some(1.458255915e9)
        );
    }

    #[test]
    fn what_is_no_sample_is_an_error_with_its_line() {
        for text in ["name", "name{a=\"b} 1", "name{a=\"b\"} one", "{} 1"] {
            let error = Metrics::parse(&format!("fine 1\n{text}\n")).unwrap_err();
            assert!(error.to_string().starts_with("line 2 "), "{error}");
        }
    }
}
