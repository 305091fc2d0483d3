//! All that was measured of one contender.

use serde::Serialize;

use super::contender::Measurement;
use crate::rig::spread::Spread;

/// All measurements of one contender in one case.
#[derive(Debug, Default, Serialize)]
pub struct Figures {
    pub measurements: Vec<Measurement>,
}

impl Figures {
    pub fn spread(&self, value: impl Fn(&Measurement) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.measurements.iter().filter_map(value))
    }
}
