//! The frame header: 40 bytes, integers little-endian (proto/PROTOCOL.md).
//!
//! ```text
//!  0        4     5     6     7     8          12        16          24         32        36      40
//!  ├ "PNS1" ┼ enc ┼ flg ┼ pri ┼  0  ┼ length   ┼ records ┼ producer  ┼ sequence ┼ payload ┼ header ┤
//!  │        │  u8 │  u8 │  u8 │     │ u32      │ u32     │ u64       │ u64      │ CRC-32C │ CRC-32C│
//! ```

/// Length of the header in bytes.
pub const FRAME_HEADER_LEN: usize = 40;
/// The first three bytes of the magic; the fourth is the version.
pub const FRAME_MAGIC: [u8; 3] = *b"PNS";
/// The only version there is, as it stands in the fourth byte.
pub const FRAME_VERSION: u8 = b'1';
/// The longest payload a UDP datagram can carry: 65,535 − 20 (IPv4) − 8 (UDP) − 40.
pub const UDP_PAYLOAD_LEN_MAX: u32 = 65_467;

/// Bit 0 of the flags: the payload is one zstd frame.
pub const FLAG_ZSTD: u8 = 1 << 0;
/// Bit 1 of the flags: the sender waits for an acknowledgement (TCP only).
pub const FLAG_ACKNOWLEDGE: u8 = 1 << 1;
/// All flags that have a meaning in version 1.
pub const FLAGS_KNOWN: u8 = FLAG_ZSTD | FLAG_ACKNOWLEDGE;
/// The highest priority number: 0 critical, 1 high, 2 normal, 3 background.
pub const PRIORITY_MAX: u8 = 3;

/// The highest encoding number that the protocol names.
pub const ENCODING_MAX: u8 = 5;

/// Byte offsets of the header's fields.
pub mod offset {
    pub const VERSION: usize = 3;
    pub const ENCODING: usize = 4;
    pub const FLAGS: usize = 5;
    pub const PRIORITY: usize = 6;
    pub const RESERVED: usize = 7;
    pub const PAYLOAD_LEN: usize = 8;
    pub const RECORDS: usize = 12;
    pub const PRODUCER: usize = 16;
    pub const SEQUENCE: usize = 24;
    pub const PAYLOAD_CRC: usize = 32;
    pub const HEADER_CRC: usize = 36;
}

/// The header's fields as they stand on the wire: nothing in it is checked by holding one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub encoding: u8,
    pub flags: u8,
    pub priority: u8,
    /// Payload length in bytes, as sent (compressed where `FLAG_ZSTD` is set).
    pub payload_len: u32,
    pub records: u32,
    /// 0 is nobody: no dedup, no acknowledgement.
    pub producer: u64,
    /// From 1, rising by 1 per frame of a producer.
    pub sequence: u64,
    /// CRC-32C of the payload as sent.
    pub payload_crc: u32,
}

impl FrameHeader {
    /// Reads the fields; looks at neither magic, reserved byte nor checksums.
    #[inline]
    pub fn read(bytes: &[u8; FRAME_HEADER_LEN]) -> Self {
        Self {
            encoding: bytes[offset::ENCODING],
            flags: bytes[offset::FLAGS],
            priority: bytes[offset::PRIORITY],
            payload_len: read_u32(bytes, offset::PAYLOAD_LEN),
            records: read_u32(bytes, offset::RECORDS),
            producer: read_u64(bytes, offset::PRODUCER),
            sequence: read_u64(bytes, offset::SEQUENCE),
            payload_crc: read_u32(bytes, offset::PAYLOAD_CRC),
        }
    }

    /// Writes all but the header's checksum, which stays 0 (`penstock_proto::wire::seal` sets it).
    pub fn write(&self) -> [u8; FRAME_HEADER_LEN] {
        let mut bytes = [0; FRAME_HEADER_LEN];
        bytes[..3].copy_from_slice(&FRAME_MAGIC);
        bytes[offset::VERSION] = FRAME_VERSION;
        bytes[offset::ENCODING] = self.encoding;
        bytes[offset::FLAGS] = self.flags;
        bytes[offset::PRIORITY] = self.priority;
        bytes[offset::PAYLOAD_LEN..][..4].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[offset::RECORDS..][..4].copy_from_slice(&self.records.to_le_bytes());
        bytes[offset::PRODUCER..][..8].copy_from_slice(&self.producer.to_le_bytes());
        bytes[offset::SEQUENCE..][..8].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[offset::PAYLOAD_CRC..][..4].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes
    }

    /// Whether the sender waits for an answer: the flag is set and there is somebody to answer.
    #[inline]
    pub fn wants_ack(&self) -> bool {
        self.flags & FLAG_ACKNOWLEDGE != 0 && self.producer != 0
    }

    /// Header and payload in bytes.
    #[inline]
    pub fn frame_len(&self) -> usize {
        FRAME_HEADER_LEN + self.payload_len as usize
    }
}

#[inline]
pub(crate) fn read_u32(bytes: &[u8; FRAME_HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline]
pub(crate) fn read_u64(bytes: &[u8; FRAME_HEADER_LEN], at: usize) -> u64 {
    u64::from_le_bytes([
        bytes[at],
        bytes[at + 1],
        bytes[at + 2],
        bytes[at + 3],
        bytes[at + 4],
        bytes[at + 5],
        bytes[at + 6],
        bytes[at + 7],
    ])
}
