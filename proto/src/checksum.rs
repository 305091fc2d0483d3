//! CRC-32C (Castagnoli): the checksum of frames, of the journal and of cursors, in one place.
//!
//! Every byte that is ingested goes through it once. The crate folds with carry-less
//! multiplications, by 512-bit registers where the processor has them, and finds out which at run
//! time; the instruction `crc32` alone, three streams of it side by side, takes twice as long.

/// The CRC-32C of `bytes` (RFC 3720, appendix B.4).
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    #[test]
    fn the_vectors_of_rfc_3720() {
        let ascending: Vec<u8> = (0..32).collect();
        let descending: Vec<u8> = (0..32).rev().collect();
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&ascending), 0x46dd_794e);
        assert_eq!(crc32c(&descending), 0x113f_db5c);
    }

    /// Another crate, by another method, at every length around each of the folding's borders.
    #[test]
    fn the_same_as_the_instruction_s() {
        let bytes: Vec<u8> = (0..20_000u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        for len in (0..1_200).chain([1_390, 4_092, 11_000, 20_000]) {
            for start in [0, 1, 7]
                .into_iter()
                .filter(|start| start + len <= bytes.len())
            {
                let part = &bytes[start..start + len];
                assert_eq!(
                    crc32c(part),
                    ::crc32c::crc32c(part),
                    "{len} bytes from {start}"
                );
            }
        }
    }
}
