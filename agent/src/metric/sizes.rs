//! `penstock_datagram_size_bytes`: what the gate has counted, as a histogram for each listener.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use agent_common::observe::{SIZE_BOUNDS, SIZE_BUCKETS, SIZE_SUM, SizeCounts};

use super::family;
use super::text::Text;

/// By listener, in the order of their names.
#[derive(Default)]
pub struct DatagramSizes(Mutex<BTreeMap<String, SizeCounts>>);

impl DatagramSizes {
    pub fn set(&self, listener: &str, counts: &SizeCounts) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(listener) {
            Some(known) => *known = *counts,
            None => {
                all.insert(listener.to_owned(), *counts);
            }
        }
    }

    pub fn write(&self, text: &mut Text) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return;
        }
        text.family(&family::DATAGRAM_SIZE);
        for (listener, counts) in all.iter() {
            let mut count = 0;
            for (bucket, bound) in counts.iter().zip(SIZE_BOUNDS) {
                count += bucket;
                let bound = bound.to_string();
                text.sample_of("_bucket", &[("listener", listener), ("le", &bound)], count);
            }
            count += counts[SIZE_BUCKETS - 1];
            text.sample_of("_bucket", &[("listener", listener), ("le", "+Inf")], count);
            text.sample_of("_sum", &[("listener", listener)], counts[SIZE_SUM]);
            text.sample_of("_count", &[("listener", listener)], count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_listener_has_its_cumulative_buckets() {
        let sizes = DatagramSizes::default();
        let mut counts = SizeCounts::default();
        // Two of at most 64 bytes, three up to 256, one above 32,768; their bytes.
        (counts[0], counts[2], counts[SIZE_BUCKETS - 1]) = (2, 3, 1);
        counts[SIZE_SUM] = 40_000;
        sizes.set("udp", &SizeCounts::default());
        sizes.set("udp", &counts);
        sizes.set("apps", &SizeCounts::default());
        let mut text = Text::after(String::new());
        sizes.write(&mut text);
        let text = text.finish();
        for line in [
            "# TYPE penstock_datagram_size_bytes histogram",
            "penstock_datagram_size_bytes_bucket{listener=\"udp\",le=\"64\"} 2",
            "penstock_datagram_size_bytes_bucket{listener=\"udp\",le=\"128\"} 2",
            "penstock_datagram_size_bytes_bucket{listener=\"udp\",le=\"256\"} 5",
            "penstock_datagram_size_bytes_bucket{listener=\"udp\",le=\"32768\"} 5",
            "penstock_datagram_size_bytes_bucket{listener=\"udp\",le=\"+Inf\"} 6",
            "penstock_datagram_size_bytes_sum{listener=\"udp\"} 40000",
            "penstock_datagram_size_bytes_count{listener=\"udp\"} 6",
            "penstock_datagram_size_bytes_count{listener=\"apps\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
