//! Longest-prefix match in user space: a hash table for each length that occurs.

use std::collections::HashMap;

use agent_common::layout::{PREFIX_HEAD_BITS, PrefixKey};
use agent_common::source::mask;

use super::rules::Network;

/// Prefixes with their values. A look-up asks once for each length there is, the longest first:
/// lists are made of few lengths.
pub struct PrefixTable<V> {
    lengths: Vec<Length<V>>,
}

struct Length<V> {
    mask: [u32; 4],
    values: HashMap<PrefixKey, V>,
}

const _: () = assert!(PREFIX_HEAD_BITS == 32);

impl<V: Copy> PrefixTable<V> {
    pub const EMPTY: Self = Self {
        lengths: Vec::new(),
    };

    pub fn new(entries: &[(Network, V)]) -> Self {
        let mut bits: Vec<u32> = entries.iter().map(|(network, _)| network.bits).collect();
        bits.sort_unstable();
        bits.dedup();
        let of = |bits: u32| {
            let entries = entries.iter().filter(|(network, _)| network.bits == bits);
            let key = |network: &Network| PrefixKey::new(0, &network.source);
            Length {
                mask: mask(bits),
                values: entries.map(|(n, value)| (key(n), *value)).collect(),
            }
        };
        Self {
            lengths: bits.into_iter().rev().map(of).collect(),
        }
    }

    /// `key` is one of generation 0, as all rules have before the kernel gets them.
    pub fn get(&self, key: &PrefixKey) -> Option<&V> {
        self.lengths.iter().find_map(|length| {
            let mut masked = *key;
            for (word, mask) in masked.words.iter_mut().zip(length.mask) {
                *word &= mask;
            }
            length.values.get(&masked)
        })
    }
}

#[cfg(test)]
mod tests;
