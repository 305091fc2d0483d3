//! What `/metrics` said, by name and labels.

/// One scrape.
#[derive(Clone, Debug)]
pub struct Metrics {
    series: Vec<Series>,
}

#[derive(Clone, Debug)]
struct Series {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Reads the Prometheus text format, of which the agent uses no escapes in label values.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let lines = lines.filter(|line| !line.is_empty());
        Self {
            series: lines.map(Series::parse).collect(),
        }
    }

    /// The sum of the series of `name` that have all of `labels`; at least one must exist.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let mut found = self.matching(name, labels).peekable();
        assert!(found.peek().is_some(), "no series {name} with {labels:?}");
        found.map(Series::count).sum()
    }

    /// The only series of `name` with these labels.
    pub fn one(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let found: Vec<&Series> = self.matching(name, labels).collect();
        assert_eq!(found.len(), 1, "{name} with {labels:?}: {found:?}");
        found[0].count()
    }

    /// Frames of `listener` that were refused for `reason`.
    pub fn refused(&self, listener: &str, reason: &str) -> u64 {
        let labels = [("listener", listener), ("reason", reason)];
        self.one("penstock_refused_frames_total", &labels)
    }

    /// Every series of `name` that is not 0, for messages.
    pub fn shown(&self, name: &str) -> String {
        let all = self.matching(name, &[]).filter(|each| each.value != 0.0);
        all.map(|each| format!("  {name}{:?} {}\n", each.labels, each.value))
            .collect()
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Series> {
        self.series.iter().filter(move |each| {
            let has = |(key, value): &(&str, &str)| {
                let mut own = each.labels.iter();
                own.any(|(own_key, own_value)| own_key == key && own_value == value)
            };
            each.name == name && labels.iter().all(has)
        })
    }
}

impl Series {
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').expect("a brace")),
            None => (series, ""),
        };
        let labels = labels.split("\",").filter(|label| !label.is_empty());
        let labels = labels.map(|label| {
            let (key, value) = label.split_once("=\"").expect("key and value");
            (key.to_owned(), value.trim_end_matches('"').to_owned())
        });
        Self {
            name: name.to_owned(),
            labels: labels.collect(),
            value: value.parse().expect("a number"),
        }
    }

    fn count(&self) -> u64 {
        let is_count = self.value >= 0.0 && self.value.fract() == 0.0;
        assert!(is_count, "{self:?} is no count");
        self.value as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_found_by_some_of_their_labels() {
        let metrics = Metrics::parse(
            "# HELP a b\n# TYPE a counter\na{x=\"1\",y=\"p, q\"} 2\na{x=\"1\",y=\"r\"} 3\nb 4\n",
        );
        assert_eq!(metrics.sum("a", &[("x", "1")]), 5);
        assert_eq!(metrics.one("a", &[("y", "p, q")]), 2);
        assert_eq!(metrics.one("b", &[]), 4);
    }
}
