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
