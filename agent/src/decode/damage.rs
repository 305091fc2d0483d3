//! Damage for the differential tests, and how many cases each of them runs.

use proptest::prelude::*;

/// One change of bytes that were in order.
#[derive(Clone, Debug)]
pub enum Damage {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index, usize),
    Insert(prop::sample::Index, Vec<u8>),
    Truncate(prop::sample::Index),
}

impl Damage {
    pub fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self {
            Self::Flip(at, bit) => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            Self::Cut(at, len) => {
                let at = at.index(bytes.len());
                bytes.drain(at..bytes.len().min(at + len));
            }
            Self::Insert(at, new) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, new.iter().copied());
            }
            Self::Truncate(at) => bytes.truncate(at.index(bytes.len())),
        }
    }
}

/// One to three of them.
pub fn any_damage() -> impl Strategy<Value = Vec<Damage>> {
    let at = any::<prop::sample::Index>;
    let one = prop_oneof![
        4 => (at(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => (at(), 1..6usize).prop_map(|(at, len)| Damage::Cut(at, len)),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..6))
            .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        1 => at().prop_map(Damage::Truncate),
    ];
    prop::collection::vec(one, 1..4)
}

/// `PROPTEST_CASES` can only add to them.
pub fn cases() -> ProptestConfig {
    ProptestConfig::with_cases(ProptestConfig::default().cases.max(1000))
}
