//! Medians and spreads.

use serde::Serialize;

/// Of an even number of values the median is the mean of the two in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// `None` of nothing.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let upper = values.len() / 2;
        let median = match values.len() % 2 {
            0 => (values[upper - 1] + values[upper]) / 2.0,
            _ => values[upper],
        };
        Some(Self { median, min, max })
    }

    /// `4.21 (3.90–4.40)`
    pub fn text(&self, unit: f64, decimals: usize) -> String {
        let [median, min, max] = [self.median, self.min, self.max].map(|value| value / unit);
        format!("{median:.decimals$} ({min:.decimals$}–{max:.decimals$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_numbers_of_values() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        let of = |median, min, max| Some(Spread { median, min, max });
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[2.0]), of(2.0, 2.0, 2.0));
        assert_eq!(spread(&[9.0, 1.0, 4.0]), of(4.0, 1.0, 9.0));
        assert_eq!(spread(&[9.0, 1.0, 4.0, 5.0]), of(4.5, 1.0, 9.0));
    }

    #[test]
    fn a_spread_reads_as_median_and_range() {
        let spread = Spread {
            median: 4_214_000.0,
            min: 3_900_000.0,
            max: 4_404_000.0,
        };
        assert_eq!(spread.text(1e6, 2), "4.21 (3.90–4.40)");
    }
}
