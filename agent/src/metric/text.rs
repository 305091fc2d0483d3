//! Prometheus' text format, version 0.0.4, for what the exporter does not hold.

use std::fmt::{Display, Write};

use super::family::{Family, Kind};

/// Text that grows family by family.
pub struct Text {
    out: String,
    name: &'static str,
}

impl Text {
    /// Goes on after what the exporter wrote.
    pub fn after(out: String) -> Self {
        Self { out, name: "" }
    }

    /// Begins a family: its samples follow.
    pub fn family(&mut self, family: &Family) {
        self.describe(family.name, family.kind, family.help);
    }

    pub fn describe(&mut self, name: &'static str, kind: Kind, help: &'static str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.name = name;
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.sample_of("", labels, value);
    }

    /// A sample of the family's name with a suffix, as histograms have them. Label values are our
    /// own words and numbers: none needs escaping.
    pub fn sample_of(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let name = self.name;
        self.put(format_args!("{name}{suffix}"));
        for (index, (label, text)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            self.put(format_args!("{open}{label}=\"{text}\""));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        self.put(format_args!("{close} {value}\n"));
    }

    pub fn finish(self) -> String {
        self.out
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.out
            .write_fmt(text)
            .expect("writing to a String cannot fail");
    }
}

/// Nanoseconds as seconds.
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
