//! The windows as bytes: what stands at the head of a segment, before any frame.
//!
//! A snapshot is split into parts, as one block does not hold all producers; each part is one entry
//! (`format::ENTRY_KIND_WINDOWS`), alone in its block. Only a snapshot whose last part is there
//! counts. Integers are little-endian.
//!
//! | offset | size | field of a part |
//! |---|---|---|
//! | 0 | 4 | the part's number, from 0 |
//! | 4 | 4 | 1 where it is the last one |
//! | 8 | 4 | producers in this part |
//! | 12 | 4 | 0 |
//! | 16 | | the producers |
//!
//! | offset | size | field of a producer |
//! |---|---|---|
//! | 0 | 8 | producer id |
//! | 8 | 8 | the highest sequence taken |
//! | 16 | 8 | when its last frame came, nanoseconds since 1970 |
//! | 24 | 4 | sequences that are taken |
//! | 28 | 4 | 0 |
//! | 32 | 128 | a bit for each remainder by 1,024 of a sequence that is taken |
//! | 160 | 4 each | CRC-32C of the payload of each, in the order of the bits |

use super::table::{Remembered, Windows};
use super::window::{WINDOW_LEN, Window};

/// Before a part's producers.
pub const PART_HEADER_LEN: usize = 16;
const PRODUCER_HEADER_LEN: usize = 32;
const BITS_LEN: usize = WINDOW_LEN / 8;
/// The most that one producer takes.
pub const PRODUCER_LEN_MAX: usize = PRODUCER_HEADER_LEN + BITS_LEN + 4 * WINDOW_LEN;

/// Why bytes are no part of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a snapshot of the dedup windows that cannot be")]
pub struct SnapshotFault;

/// Writes one part, from `slot` on, as far as it fits in `out`. Returns the bytes written and the
/// slot to go on from, `None` where this was the last part.
pub fn write_part(
    windows: &Windows,
    slot: usize,
    part: u32,
    out: &mut [u8],
) -> (usize, Option<usize>) {
    let mut len = PART_HEADER_LEN;
    let mut producers = 0_u32;
    let mut next = None;
    for (at, producer, window, seen_unix_ns) in windows.from_slot(slot) {
        let count: u32 = window.taken().iter().map(|word| word.count_ones()).sum();
        let needed = PRODUCER_HEADER_LEN + BITS_LEN + 4 * count as usize;
        let Some(place) = out.get_mut(len..len + needed) else {
            next = Some(at);
            break;
        };
        let (head, rest) = place.split_at_mut(PRODUCER_HEADER_LEN);
        let (bits, crcs) = rest.split_at_mut(BITS_LEN);
        head[..8].copy_from_slice(&producer.to_le_bytes());
        head[8..16].copy_from_slice(&window.head().to_le_bytes());
        head[16..24].copy_from_slice(&seen_unix_ns.to_le_bytes());
        head[24..28].copy_from_slice(&count.to_le_bytes());
        head[28..].fill(0);
        for (place, word) in bits.chunks_exact_mut(8).zip(window.taken()) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let mut crcs = crcs.chunks_exact_mut(4);
        for (index, word) in window.taken().iter().enumerate() {
            let mut word = *word;
            while word != 0 {
                let crc = window.crc_at(index * 64 + word.trailing_zeros() as usize);
                let place = crcs.next().expect("counted above");
                place.copy_from_slice(&crc.to_le_bytes());
                word &= word - 1;
            }
        }
        len += needed;
        producers += 1;
    }
    assert!(
        producers > 0 || next.is_none(),
        "a part of {} bytes holds no producer",
        out.len()
    );
    out[..4].copy_from_slice(&part.to_le_bytes());
    out[4..8].copy_from_slice(&u32::from(next.is_none()).to_le_bytes());
    out[8..12].copy_from_slice(&producers.to_le_bytes());
    out[12..16].fill(0);
    (len, next)
}

/// A part, borrowing its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    pub number: u32,
    pub is_last: bool,
    producers: u32,
    bytes: &'a [u8],
}

impl<'a> Part<'a> {
    pub fn read(bytes: &'a [u8]) -> Result<Self, SnapshotFault> {
        let (head, rest) = bytes
            .split_first_chunk::<PART_HEADER_LEN>()
            .ok_or(SnapshotFault)?;
        let is_last = match get_u32(head, 4) {
            0 => false,
            1 => true,
            _ => return Err(SnapshotFault),
        };
        Ok(Self {
            number: get_u32(head, 0),
            is_last,
            producers: get_u32(head, 8),
            bytes: rest,
        })
    }

    /// Its producers; a fault ends them.
    pub fn producers(&self) -> impl Iterator<Item = Result<(u64, Remembered), SnapshotFault>> + 'a {
        let mut bytes = self.bytes;
        let mut left = self.producers;
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            left -= 1;
            let read = read_producer(bytes);
            match &read {
                Ok((_, _, rest)) => bytes = rest,
                Err(_) => left = 0,
            }
            Some(read.map(|(producer, remembered, _)| (producer, remembered)))
        })
    }
}

fn read_producer(bytes: &[u8]) -> Result<(u64, Remembered, &[u8]), SnapshotFault> {
    let (head, rest) = bytes
        .split_first_chunk::<PRODUCER_HEADER_LEN>()
        .ok_or(SnapshotFault)?;
    let (bits, rest) = rest.split_first_chunk::<BITS_LEN>().ok_or(SnapshotFault)?;
    let (producer, highest) = (get_u64(head, 0), get_u64(head, 8));
    let count = get_u32(head, 24);
    let mut taken = [0; WINDOW_LEN / 64];
    for (word, place) in taken.iter_mut().zip(bits.chunks_exact(8)) {
        *word = get_u64(place, 0);
    }
    let found: u32 = taken.iter().map(|word| word.count_ones()).sum();
    let len = 4 * count as usize;
    if found != count || producer == 0 || highest == 0 || rest.len() < len {
        return Err(SnapshotFault);
    }
    let (mut list, rest) = rest.split_at(len);
    let mut crcs = [0; WINDOW_LEN];
    for place in 0..WINDOW_LEN {
        if taken[place / 64] >> (place % 64) & 1 == 0 {
            continue;
        }
        // Sequences begin at 1: below a head of 1023 or less there are places without one.
        if highest < WINDOW_LEN as u64 && (place == 0 || place as u64 > highest) {
            return Err(SnapshotFault);
        }
        let (crc, after) = list.split_at(4);
        crcs[place] = get_u32(crc, 0);
        list = after;
    }
    let remembered = Remembered {
        window: Box::new(Window::from_parts(highest, taken, crcs)),
        seen_unix_ns: get_u64(head, 16),
    };
    Ok((producer, remembered, rest))
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn read_all(parts: &[Vec<u8>]) -> BTreeMap<u64, Remembered> {
        let mut all = BTreeMap::new();
        for (index, bytes) in parts.iter().enumerate() {
            let part = Part::read(bytes).expect("a part");
            assert_eq!(part.number as usize, index);
            assert_eq!(part.is_last, index + 1 == parts.len());
            for producer in part.producers() {
                let (producer, remembered) = producer.expect("a producer");
                assert!(all.insert(producer, remembered).is_none(), "once");
            }
        }
        all
    }

    fn write_all(windows: &Windows, part_len: usize) -> Vec<Vec<u8>> {
        let mut parts = Vec::new();
        let mut slot = Some(0);
        while let Some(from) = slot {
            let mut out = vec![0xaa; part_len];
            let (len, next) = write_part(windows, from, parts.len() as u32, &mut out);
            out.truncate(len);
            parts.push(out);
            slot = next;
        }
        parts
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            frames in proptest::collection::vec((1..6_u64, 1..4_000_u64, any::<u32>()), 0..300),
            room in 0..3_usize,
        ) {
            let mut windows = Windows::new(8, Duration::from_secs(60));
            let mut expected: BTreeMap<u64, Remembered> = BTreeMap::new();
            for (index, (producer, sequence, crc)) in frames.into_iter().enumerate() {
                let now = 1_000 + index as u64;
                let known = &mut Default::default();
                windows.take(known, producer, sequence, crc, 1, now);
                let remembered = expected.entry(producer).or_default();
                remembered.window.take(sequence, crc);
                remembered.seen_unix_ns = now;
            }
            let part_len = PART_HEADER_LEN + PRODUCER_LEN_MAX * (1 + room);
            prop_assert_eq!(read_all(&write_all(&windows, part_len)), expected);
        }

        #[test]
        fn any_bytes_are_a_part_or_a_fault(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..600),
            producers in 0..4_u8,
        ) {
            if bytes.len() > 12 {
                bytes[4..12].fill(0);
                bytes[8] = producers;
            }
            if let Ok(part) = Part::read(&bytes) {
                for producer in part.producers() {
                    let Ok((producer, remembered)) = producer else { break };
                    prop_assert!(producer != 0 && remembered.window.head() != 0);
                    prop_assert!(remembered.window.iter().all(|(sequence, _)| sequence > 0));
                }
            }
        }
    }

    #[test]
    fn a_full_window_has_the_stated_length() {
        let mut windows = Windows::new(1, Duration::from_secs(60));
        for sequence in 1..=2_000 {
            windows.take(&mut Default::default(), 7, sequence, 1, 1, 5);
        }
        let parts = write_all(&windows, PART_HEADER_LEN + PRODUCER_LEN_MAX);
        // 32 + 128 + 4 × 1024, as the table says.
        assert_eq!(parts[0].len(), 16 + 4_256);
        // The highest sequence, and how many are taken.
        assert_eq!(parts[0][24..32], 2_000_u64.to_le_bytes());
        assert_eq!(parts[0][40..44], 1_024_u32.to_le_bytes());
    }

    #[test]
    fn nobody_takes_one_part() {
        let windows = Windows::new(1, Duration::from_secs(60));
        let parts = write_all(&windows, PART_HEADER_LEN + PRODUCER_LEN_MAX);
        assert_eq!(parts, [[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]);
    }
}
