//! One scrape of the agent, in the Prometheus text format as the agent writes it.

use std::net::SocketAddr;

use anyhow::ensure;

use super::http;

pub struct Samples(String);

impl Samples {
    pub fn scrape(admin: SocketAddr) -> anyhow::Result<Self> {
        http::get(admin, "/metrics").map(Self)
    }

    /// The sum of the series of `name` that have all these labels, each as `key="value"`. That
    /// there is none is an error, and not 0.
    pub fn sum(&self, name: &str, labels: &[&str]) -> anyhow::Result<u64> {
        let mut sum = 0.0;
        let mut found = false;
        for line in self.0.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let (given, rest) = series.split_once('{').unwrap_or((series, "}"));
            let has = |label: &&str| rest.trim_end_matches('}').split(',').any(|l| l == *label);
            if given == name && labels.iter().all(has) {
                sum += value.parse::<f64>()?;
                found = true;
            }
        }
        ensure!(found, "the agent has no series {name} with {labels:?}");
        Ok(sum as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_name_and_labels() {
        let samples = Samples(
            "# TYPE a_total counter\na_total{x=\"1\",y=\"p\"} 3\na_total{x=\"1\",y=\"q\"} 4\n\
             a_total{x=\"2\",y=\"p\"} 5\na_total_b 9\nc 1.5e3\n"
                .to_owned(),
        );
        assert_eq!(samples.sum("a_total", &[]).unwrap(), 12);
        assert_eq!(samples.sum("a_total", &["x=\"1\""]).unwrap(), 7);
        assert_eq!(samples.sum("a_total", &["x=\"1\"", "y=\"q\""]).unwrap(), 4);
        assert_eq!(samples.sum("c", &[]).unwrap(), 1500);
        assert!(samples.sum("a_total", &["x=\"3\""]).is_err());
        assert!(samples.sum("a", &[]).is_err());
    }
}
