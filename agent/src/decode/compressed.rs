//! Payloads that their sender compressed: zstd frames (RFC 8878), undone into one buffer of the
//! decoder with one context of its own.
//!
//! What comes out is bounded before anything is spent on it. The sizes that the frames declare are
//! summed first; where a frame declares none, the room that is left stops the decompressor. Each
//! frame is undone in one call, for which zstd takes the output itself as its window: a frame that
//! declares a window of gigabytes costs no more memory than one that declares a kilobyte.
//! `ZSTD_d_windowLogMax` bounds only streaming decompression and has no part in this.

#![forbid(unsafe_code)]

use penstock_proto::reason::Reason;
use penstock_proto::wire::{ZSTD_FRAMES_MAX, ZSTD_RATIO_MAX};
use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;
use zstd::zstd_safe::{self, DCtx};

use crate::limits::PAYLOAD_LEN_MAX;

/// The magic of skippable frames (RFC 8878, 3.1.2) but for its lowest four bits, which are the
/// user's own.
const SKIPPABLE_MAGIC: u32 = 0x184d_2a50;

/// A context and the buffer that it fills.
pub struct Decompressor {
    context: DCtx<'static>,
    out: Box<[u8]>,
}

impl Default for Decompressor {
    fn default() -> Self {
        Self {
            context: DCtx::create(),
            out: vec![0; PAYLOAD_LEN_MAX].into_boxed_slice(),
        }
    }
}

impl Decompressor {
    /// What the zstd frames of `payload` hold, one behind the other.
    pub fn decompress(&mut self, payload: &[u8]) -> Result<&[u8], Reason> {
        let room = payload
            .len()
            .saturating_mul(ZSTD_RATIO_MAX)
            .min(self.out.len());
        check_declared(payload, room as u64)?;
        let mut rest = payload;
        let mut filled = 0;
        while !rest.is_empty() {
            let (frame, behind) = split_frame(rest)?;
            rest = behind;
            if is_skippable(frame) {
                continue;
            }
            let declared = content_size(frame)?;
            filled += self
                .context
                .decompress(&mut self.out[filled..room], frame)
                .map_err(|code| reason_of(code, declared))?;
        }
        Ok(&self.out[..filled])
    }
}

/// Looks at every frame's header: nothing is decompressed of a payload that says itself that it is
/// too long, needs a dictionary, or is cut.
fn check_declared(payload: &[u8], room: u64) -> Result<(), Reason> {
    let mut rest = payload;
    let mut declared_sum = 0u64;
    let (mut frames, mut skippable) = (0, 0);
    while !rest.is_empty() {
        let (frame, behind) = split_frame(rest)?;
        rest = behind;
        frames += 1;
        if frames > ZSTD_FRAMES_MAX {
            return Err(Reason::MalformedCompression);
        }
        if is_skippable(frame) {
            skippable += 1;
            continue;
        }
        // There are no dictionaries: whichever is named is not there.
        if zstd_safe::get_dict_id_from_frame(frame).is_some() {
            return Err(Reason::UnknownDictionary);
        }
        declared_sum = declared_sum.saturating_add(content_size(frame)?.unwrap_or(0));
        if declared_sum > room {
            return Err(Reason::DecompressedTooLong);
        }
    }
    // No frame at all, or none with content in it.
    if frames == skippable {
        return Err(Reason::MalformedCompression);
    }
    Ok(())
}

/// The frame that `bytes` begin with and what follows it; its blocks' headers are walked, their
/// content is not looked at.
fn split_frame(bytes: &[u8]) -> Result<(&[u8], &[u8]), Reason> {
    let len =
        zstd_safe::find_frame_compressed_size(bytes).map_err(|_| Reason::MalformedCompression)?;
    bytes
        .split_at_checked(len)
        .ok_or(Reason::MalformedCompression)
}

fn is_skippable(frame: &[u8]) -> bool {
    frame
        .first_chunk()
        .is_some_and(|magic| u32::from_le_bytes(*magic) & !0xf == SKIPPABLE_MAGIC)
}

/// What the frame's header says that it holds; `None` where it does not say.
fn content_size(frame: &[u8]) -> Result<Option<u64>, Reason> {
    zstd_safe::get_frame_content_size(frame).map_err(|_| Reason::MalformedCompression)
}

fn reason_of(code: zstd_safe::ErrorCode, declared: Option<u64>) -> Reason {
    // zstd returns errors as the negated number (zstd_errors.h, stable since 1.3.1).
    let is = |error: ZSTD_ErrorCode| code == 0usize.wrapping_sub(error as usize);
    if is(ZSTD_ErrorCode::ZSTD_error_dictionary_wrong) {
        Reason::UnknownDictionary
    } else if is(ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall) && declared.is_none() {
        Reason::DecompressedTooLong
    } else {
        // Also a frame that holds more than it declares: what it declares had room.
        Reason::MalformedCompression
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::DECOMPRESSOR_CONTEXT_MEMORY;
    use proptest::prelude::*;
    use std::io::Write;

    /// One frame that declares its size.
    fn frame(plain: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(plain, 3).expect("compressed")
    }

    /// One frame that does not: a stream's.
    fn undeclared(plain: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).expect("an encoder");
        encoder.write_all(plain).expect("written");
        encoder.finish().expect("finished")
    }

    fn skippable(content: &[u8]) -> Vec<u8> {
        let mut frame = 0x184d_2a5e_u32.to_le_bytes().to_vec();
        frame.extend_from_slice(&(content.len() as u32).to_le_bytes());
        frame.extend_from_slice(content);
        frame
    }

    fn decompress(payload: &[u8]) -> Result<Vec<u8>, Reason> {
        Decompressor::default()
            .decompress(payload)
            .map(<[u8]>::to_vec)
    }

    /// Text that zstd makes about three times smaller.
    fn text(len: usize) -> Vec<u8> {
        let lines = (0..).flat_map(|n: u64| {
            format!("line {n}: {:x}\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes()
        });
        lines.take(len).collect()
    }

    #[test]
    fn what_went_in_comes_out() {
        for len in [0, 1, 100, 70_000, PAYLOAD_LEN_MAX] {
            let plain = text(len);
            assert_eq!(decompress(&frame(&plain)).as_deref(), Ok(&plain[..]));
            assert_eq!(decompress(&undeclared(&plain)).as_deref(), Ok(&plain[..]));
        }
    }

    #[test]
    fn frames_stand_one_behind_the_other_and_skippable_ones_are_passed_over() {
        let payload = [
            skippable(b"who made it"),
            frame(b"one "),
            undeclared(b"two "),
            skippable(b""),
            frame(b"three"),
        ];
        assert_eq!(
            decompress(&payload.concat()).as_deref(),
            Ok(&b"one two three"[..])
        );
        let most = frame(b"x").repeat(ZSTD_FRAMES_MAX);
        assert_eq!(decompress(&most), Ok(vec![b'x'; ZSTD_FRAMES_MAX]));
        let more = [most, frame(b"x")].concat();
        assert_eq!(decompress(&more), Err(Reason::MalformedCompression));
    }

    #[test]
    fn damage_is_malformed_wherever_it_stands() {
        for payload in [
            &b""[..],
            b"x",
            b"{\"body\":\"not compressed\"}",
            &skippable(b"alone"),
            &[frame(b"good"), b"trailing".to_vec()].concat(),
            &[frame(b"good"), vec![0]].concat(),
            // gzip's magic.
            &[0x1f, 0x8b, 8, 0],
        ] {
            assert_eq!(decompress(payload), Err(Reason::MalformedCompression));
        }
        for whole in [frame(&text(5_000)), undeclared(&text(5_000))] {
            for cut in 0..whole.len() {
                assert_eq!(
                    decompress(&whole[..cut]),
                    Err(Reason::MalformedCompression),
                    "cut at {cut}"
                );
            }
        }
    }

    /// By hand, from RFC 8878: magic; frame header descriptor (single segment, content size of four
    /// bytes); the size; a last block of 4 raw bytes.
    #[test]
    fn a_frame_is_not_believed_about_its_size() {
        let with_size = |size: u32| {
            let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1010_0000];
            bytes.extend_from_slice(&size.to_le_bytes());
            bytes.extend_from_slice(&[0x21, 0, 0]);
            bytes.extend_from_slice(b"four");
            bytes
        };
        assert_eq!(decompress(&with_size(4)).as_deref(), Ok(&b"four"[..]));
        for lie in [3, 5, 1000] {
            assert_eq!(
                decompress(&with_size(lie)),
                Err(Reason::MalformedCompression)
            );
        }
        for too_long in [(1 << 20) + 1, u32::MAX] {
            assert_eq!(
                decompress(&with_size(too_long)),
                Err(Reason::DecompressedTooLong)
            );
        }
        // 16 bytes may become 256 times as many.
        assert_eq!(with_size(0).len(), 16);
        assert_eq!(
            decompress(&with_size(16 * 256)),
            Err(Reason::MalformedCompression)
        );
        assert_eq!(
            decompress(&with_size(16 * 256 + 1)),
            Err(Reason::DecompressedTooLong)
        );
    }

    #[test]
    fn a_bomb_is_refused_whether_it_says_so_or_not() {
        let plain = vec![b'\n'; PAYLOAD_LEN_MAX];
        // A MiB of one byte is a few dozen bytes.
        for bomb in [frame(&plain), undeclared(&plain)] {
            assert!(bomb.len() < 200, "{}", bomb.len());
            assert_eq!(decompress(&bomb), Err(Reason::DecompressedTooLong));
        }
        // Within the ratio, and beyond the limit in bytes; in one frame and in two.
        let long = text(PAYLOAD_LEN_MAX + 1);
        for bomb in [frame(&long), undeclared(&long)] {
            assert_eq!(decompress(&bomb), Err(Reason::DecompressedTooLong));
        }
        let half = text(PAYLOAD_LEN_MAX / 2 + 1);
        for bomb in [frame(&half).repeat(2), undeclared(&half).repeat(2)] {
            assert_eq!(decompress(&bomb), Err(Reason::DecompressedTooLong));
        }
    }

    /// A window descriptor of 0xff asks for 3.75 TiB, one of 0x88 for 128 MiB.
    #[test]
    fn a_window_costs_nothing() {
        let with_window = |descriptor: u8| {
            let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0, descriptor];
            bytes.extend_from_slice(&[0x21, 0, 0]);
            bytes.extend_from_slice(b"four");
            bytes
        };
        let mut decompressor = Decompressor::default();
        assert_eq!(
            decompressor.decompress(&with_window(0x88)),
            Ok(&b"four"[..])
        );
        // zstd itself refuses windows beyond 2 GiB.
        let refused = decompressor.decompress(&with_window(0xff));
        assert_eq!(refused, Err(Reason::MalformedCompression));
        assert!(decompressor.context.sizeof() as u64 <= DECOMPRESSOR_CONTEXT_MEMORY);
    }

    #[test]
    fn a_dictionary_is_not_there() {
        // By hand: a single segment, a dictionary id of one byte, a content size of one byte.
        let mut payload = vec![0x28, 0xb5, 0x2f, 0xfd, 0x21, 7, 4, 0x21, 0, 0];
        payload.extend_from_slice(b"four");
        assert_eq!(decompress(&payload), Err(Reason::UnknownDictionary));
    }

    #[test]
    fn the_context_is_whole_again_after_a_refusal() {
        let mut decompressor = Decompressor::default();
        let plain = text(30_000);
        let good = frame(&plain);
        // Another number of bytes comes out than the frame declares.
        let mut damaged = good.clone();
        let declared_at = 5;
        damaged[declared_at] ^= 1;
        let bomb = undeclared(&vec![b'x'; 100_000]);
        for _ in 0..3 {
            let refused = decompressor.decompress(&damaged);
            assert_eq!(refused, Err(Reason::MalformedCompression));
            let refused = decompressor.decompress(&bomb);
            assert_eq!(refused, Err(Reason::DecompressedTooLong));
            assert_eq!(decompressor.decompress(&good), Ok(&plain[..]));
        }
    }

    proptest! {
        /// zstd's own streaming decompressor, given all the memory it wants, says the same, but for
        /// what is refused here by rule.
        #[test]
        fn agrees_with_the_streaming_decompressor(
            pieces in proptest::collection::vec((0..3u8, 0..3_000usize), 0..5),
            flips in proptest::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 0..3),
        ) {
            let mut payload = Vec::new();
            for (kind, len) in pieces {
                payload.extend(match kind {
                    0 => frame(&text(len)),
                    1 => undeclared(&text(len)),
                    _ => skippable(&text(len)),
                });
            }
            for (at, flip) in flips {
                if !payload.is_empty() {
                    let at = at.index(payload.len());
                    payload[at] ^= flip;
                }
            }
            let slow = zstd::stream::decode_all(&payload[..]);
            match (decompress(&payload), slow) {
                (Ok(fast), Ok(slow)) => prop_assert_eq!(fast, slow),
                (Ok(fast), Err(error)) => {
                    // A window that streaming would have to allocate.
                    let text = error.to_string();
                    prop_assert!(text.contains("memory"), "{text}: {} bytes", fast.len());
                }
                // Skippable frames only, or no frame.
                (Err(Reason::MalformedCompression), Ok(slow)) => prop_assert!(slow.is_empty()),
                (Err(reason), Ok(slow)) => prop_assert!(
                    reason == Reason::UnknownDictionary
                        || slow.len() > payload.len() * ZSTD_RATIO_MAX,
                    "{reason:?}"
                ),
                (Err(_), Err(_)) => {}
            }
        }
    }
}
