//! Is this datagram a frame? The one answer, for the gate in the kernel, its stand-in in user
//! space and the parser behind both.

use crate::frame::{
    ENCODING_MAX, FLAGS_KNOWN, FRAME_HEADER_LEN, FRAME_MAGIC, FRAME_VERSION, PRIORITY_MAX, offset,
    read_u32,
};

/// What is wrong with a header, in the order in which it is looked at.
///
/// The checks read no checksum: user space believes no field before the header's CRC, and the
/// kernel does not compute one. `TooLong` is the caller's limit; `Length` is a payload that does
/// not fill its datagram exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// Fewer than 40 bytes.
    Truncated,
    Magic,
    Version,
    Encoding,
    Flags,
    Priority,
    Reserved,
    NoRecords,
    TooLong,
    Length,
}

/// Looks at a header's own fields; `payload_len_max` is the listener's limit in bytes.
#[inline]
pub fn check_header(
    header: &[u8; FRAME_HEADER_LEN],
    payload_len_max: u32,
) -> Result<(), HeaderFault> {
    if header[0] != FRAME_MAGIC[0] || header[1] != FRAME_MAGIC[1] || header[2] != FRAME_MAGIC[2] {
        return Err(HeaderFault::Magic);
    }
    if header[offset::VERSION] != FRAME_VERSION {
        return Err(HeaderFault::Version);
    }
    let encoding = header[offset::ENCODING];
    if encoding == 0 || encoding > ENCODING_MAX {
        return Err(HeaderFault::Encoding);
    }
    if header[offset::FLAGS] & !FLAGS_KNOWN != 0 {
        return Err(HeaderFault::Flags);
    }
    if header[offset::PRIORITY] > PRIORITY_MAX {
        return Err(HeaderFault::Priority);
    }
    if header[offset::RESERVED] != 0 {
        return Err(HeaderFault::Reserved);
    }
    if read_u32(header, offset::RECORDS) == 0 {
        return Err(HeaderFault::NoRecords);
    }
    if read_u32(header, offset::PAYLOAD_LEN) > payload_len_max {
        return Err(HeaderFault::TooLong);
    }
    Ok(())
}

/// Looks at the header of a datagram of `datagram_len` bytes: a datagram holds exactly one frame.
#[inline]
pub fn check_datagram(
    header: &[u8; FRAME_HEADER_LEN],
    datagram_len: u32,
    payload_len_max: u32,
) -> Result<(), HeaderFault> {
    check_header(header, payload_len_max)?;
    let payload_len = read_u32(header, offset::PAYLOAD_LEN);
    // No overflow: payload_len is at most payload_len_max, which is far below u32::MAX − 40.
    if payload_len + FRAME_HEADER_LEN as u32 != datagram_len {
        return Err(HeaderFault::Length);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sound header, byte by byte from the table of the frame (PROTOCOL.md): version 1, Protobuf,
    /// both flags, background, 258 bytes of payload, 3 records, and numbers that no check reads.
    const SOUND: [u8; 40] = [
        b'P', b'N', b'S', b'1', 1, 3, 3, 0, 2, 1, 0, 0, 3, 0, 0,
        0, // to the number of records
        7, 7, 7, 7, 7, 7, 7, 7, 9, 9, 9, 9, 9, 9, 9, 9, // producer, sequence
        0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0x11, 0x22, // checksums, wrong on purpose
    ];
    const SOUND_LEN: u32 = 40 + 258;
    const MAX: u32 = 258;

    fn with(changes: &[(usize, u8)]) -> Result<(), HeaderFault> {
        let mut header = SOUND;
        for &(at, byte) in changes {
            header[at] = byte;
        }
        check_datagram(&header, SOUND_LEN, MAX)
    }

    #[test]
    fn a_sound_header_passes_whatever_its_checksums_say() {
        assert_eq!(with(&[]), Ok(()));
        for at in 16..40 {
            assert_eq!(with(&[(at, 0)]), Ok(()), "byte {at}");
            assert_eq!(with(&[(at, 0xff)]), Ok(()), "byte {at}");
        }
    }

    #[test]
    fn each_field_has_its_fault() {
        for (at, byte, fault) in [
            (0, b'p', HeaderFault::Magic),
            (1, b'M', HeaderFault::Magic),
            (2, 0, HeaderFault::Magic),
            (3, b'0', HeaderFault::Version),
            (3, b'2', HeaderFault::Version),
            (4, 0, HeaderFault::Encoding),
            (4, 6, HeaderFault::Encoding),
            (4, 255, HeaderFault::Encoding),
            (5, 4, HeaderFault::Flags),
            (5, 0x80, HeaderFault::Flags),
            (6, 4, HeaderFault::Priority),
            (6, 255, HeaderFault::Priority),
            (7, 1, HeaderFault::Reserved),
            (7, 0x80, HeaderFault::Reserved),
            (12, 0, HeaderFault::NoRecords),
            (8, 3, HeaderFault::TooLong),
            (11, 0x80, HeaderFault::TooLong),
            (8, 1, HeaderFault::Length),
            (9, 0, HeaderFault::Length),
        ] {
            assert_eq!(with(&[(at, byte)]), Err(fault), "byte {at} = {byte}");
        }
    }

    #[test]
    fn all_that_the_table_allows_passes() {
        for encoding in 1..=5 {
            for flags in 0..=3 {
                for priority in 0..=3 {
                    let changes = [(4, encoding), (5, flags), (6, priority)];
                    assert_eq!(with(&changes), Ok(()), "{changes:?}");
                }
            }
        }
        // The number of records is four bytes wide.
        assert_eq!(with(&[(12, 0), (15, 1)]), Ok(()));
    }

    /// The faults in the order in which the fields stand, but for the length, which comes last:
    /// with all of them at once the first is named, without it the next, and so on.
    #[test]
    fn the_first_fault_is_the_one_named() {
        let faults = [
            (0, b'x', HeaderFault::Magic),
            (3, b'x', HeaderFault::Version),
            (4, 0, HeaderFault::Encoding),
            (5, 4, HeaderFault::Flags),
            (6, 4, HeaderFault::Priority),
            (7, 1, HeaderFault::Reserved),
            (12, 0, HeaderFault::NoRecords),
            (11, 1, HeaderFault::TooLong),
        ];
        for first in 0..faults.len() {
            let changes: Vec<_> = faults[first..].iter().map(|f| (f.0, f.1)).collect();
            assert_eq!(with(&changes), Err(faults[first].2));
        }
    }

    #[test]
    fn a_payload_fills_its_datagram_to_the_byte() {
        for (datagram_len, expected) in [
            (SOUND_LEN - 1, Err(HeaderFault::Length)),
            (SOUND_LEN, Ok(())),
            (SOUND_LEN + 1, Err(HeaderFault::Length)),
            (40, Err(HeaderFault::Length)),
        ] {
            assert_eq!(check_datagram(&SOUND, datagram_len, MAX), expected);
        }
        // An empty payload is a length like any other.
        let mut empty = SOUND;
        empty[8..12].fill(0);
        assert_eq!(check_datagram(&empty, 40, MAX), Ok(()));
    }

    #[test]
    fn the_limit_itself_is_allowed() {
        assert_eq!(check_header(&SOUND, 258), Ok(()));
        assert_eq!(check_header(&SOUND, 257), Err(HeaderFault::TooLong));
        // The longest length a header can claim must not wrap round to a short one.
        let mut longest = SOUND;
        longest[8..12].fill(0xff);
        assert_eq!(
            check_datagram(&longest, 39, 65_467),
            Err(HeaderFault::TooLong)
        );
    }
}
