//! Payloads as zstd frames: one context and one buffer, used again for each frame.

use std::fmt;
use std::io;

use penstock_proto::wire::ZSTD_RATIO_MAX;
use zstd::bulk;

/// zstd's own default: a producer compresses far less than an agent reads.
pub const ZSTD_LEVEL_DEFAULT: i32 = 3;

pub(crate) struct Compressor {
    context: bulk::Compressor<'static>,
    out: Vec<u8>,
}

impl Compressor {
    /// # Panics
    /// Where zstd gives no context: out of memory.
    pub(crate) fn new(level: i32) -> Self {
        let context = bulk::Compressor::new(level).expect("a context of zstd");
        Self {
            context,
            out: Vec::new(),
        }
    }

    /// `None` where the plain payload is better sent: it would not get shorter, or so much that an
    /// agent would take it for a bomb (PROTOCOL.md, limits).
    pub(crate) fn compress(&mut self, plain: &[u8]) -> Option<&[u8]> {
        self.out.clear();
        self.out
            .reserve(zstd::zstd_safe::compress_bound(plain.len()));
        let compressed: io::Result<usize> = self.context.compress_to_buffer(plain, &mut self.out);
        // The buffer has the room that zstd asks for; whatever else it may dislike, plain is right.
        let len = compressed.ok()?;
        (len < plain.len() && plain.len() <= len * ZSTD_RATIO_MAX).then_some(&self.out[..len])
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Compressor")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gains_nothing_or_too_much_stays_plain() {
        let mut compressor = Compressor::new(ZSTD_LEVEL_DEFAULT);
        let lines: String = (0..500).map(|n| format!("line {n} of many\n")).collect();
        let compressed = compressor.compress(lines.as_bytes()).expect("shorter");
        let plain = bulk::decompress(compressed, 1 << 20).expect("a zstd frame");
        assert_eq!(plain, lines.as_bytes());
        assert_eq!(compressor.compress(b"too short"), None);
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            // Knuth's MMIX generator; its high bits have no pattern that zstd would find.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(1000)
        .collect();
        assert_eq!(compressor.compress(&noise), None);
        // A MiB of one byte becomes about fifty.
        assert_eq!(compressor.compress(&vec![b'x'; 1 << 20]), None);
        assert!(compressor.compress(&[b'x'; 1_000]).is_some());
    }
}
