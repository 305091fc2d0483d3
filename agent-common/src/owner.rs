//! Which shard remembers a producer.

/// The shard, of `shards`, that owns a producer: the upper half of the id's product with
/// 0x9E37_79B9_7F4A_7C15 (2^64 over the golden ratio), reduced to `shards` by multiplication.
///
/// It depends on nothing but its arguments, and never changes: journals of earlier versions are
/// partitioned by it. Ids are random, but a test's 1, 2, 3 … spread as well. Whoever picks ids to
/// crowd one shard meets that shard's bound on producers.
pub const fn owner(producer: u64, shards: u16) -> u16 {
    let mixed = producer.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    ((mixed * shards as u64) >> 32) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_never_change() {
        // 0x9E3779B9 is 0.618 of 2^32.
        assert_eq!(owner(1, 1), 0);
        assert_eq!(owner(1, 2), 1);
        // 2 × 0x9E3779B97F4A7C15 is 0x13C6EF372FE94F82A: the upper half of 64 bits is 0x3C6EF372.
        assert_eq!(owner(2, 2), 0);
        assert_eq!(owner(2, 256), 0x3c);
        assert_eq!(owner(1, 256), 0x9e);
    }

    #[test]
    fn consecutive_ids_spread() {
        let mut counts = [0; 7];
        for producer in 1..=7_000 {
            counts[usize::from(owner(producer, 7))] += 1;
        }
        assert!(
            counts.iter().all(|count| (900..1_100).contains(count)),
            "{counts:?}"
        );
    }
}
