//! Frames and acknowledgements as bytes, checksums included (proto/PROTOCOL.md).

use crate::checksum::crc32c;
use agent_common::frame::{FRAME_HEADER_LEN, FrameHeader, offset};

/// Length of an acknowledgement in bytes.
pub const ACK_LEN: usize = 32;
/// The first four bytes of an acknowledgement.
pub const ACK_MAGIC: [u8; 4] = *b"PNA1";
/// How many times its length a zstd payload may become. Real log lines in batches of 50 to 500 become
/// 3 to 20 times smaller; generated ones that differ in a time and a number, 60 times. And a byte on
/// the wire never costs its reader more than the decoding of 256: a third of a microsecond.
pub const ZSTD_RATIO_MAX: usize = 256;
/// How many zstd frames, skippable ones included, a payload may be made of: one is the rule, and
/// compressors with several threads make one each.
pub const ZSTD_FRAMES_MAX: usize = 16;

/// Writes a header with its checksum: bytes 36..40 are the CRC-32C of bytes 0..36.
pub fn seal(header: &FrameHeader) -> [u8; FRAME_HEADER_LEN] {
    let mut bytes = header.write();
    let crc = crc32c(&bytes[..offset::HEADER_CRC]);
    bytes[offset::HEADER_CRC..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Appends one whole frame: `header` with its payload's length and CRC set from `payload`.
pub fn write_frame(out: &mut Vec<u8>, header: FrameHeader, payload: &[u8]) {
    let header = FrameHeader {
        payload_len: payload.len() as u32,
        payload_crc: crc32c(payload),
        ..header
    };
    out.extend_from_slice(&seal(&header));
    out.extend_from_slice(payload);
}

/// Whether the header's own checksum is right; before that no field is to be believed.
#[inline]
pub fn header_crc_matches(header: &[u8; FRAME_HEADER_LEN]) -> bool {
    let crc = u32::from_le_bytes([header[36], header[37], header[38], header[39]]);
    crc32c(&header[..offset::HEADER_CRC]) == crc
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AckStatus {
    /// Synced to disk.
    Durable = 0,
    /// A duplicate of a frame that is durable.
    Duplicate = 1,
    /// Refused for good; the reason says why.
    Refused = 2,
    /// Not taken; send it again after `retry_after_ms`.
    TryLater = 3,
    /// Written, not synced (only where `journal.sync` is not `always`).
    Written = 4,
}

impl AckStatus {
    pub const ALL: [Self; 5] = [
        Self::Durable,
        Self::Duplicate,
        Self::Refused,
        Self::TryLater,
        Self::Written,
    ];
    pub const COUNT: usize = Self::ALL.len();

    pub const fn from_wire(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Durable),
            1 => Some(Self::Duplicate),
            2 => Some(Self::Refused),
            3 => Some(Self::TryLater),
            4 => Some(Self::Written),
            _ => None,
        }
    }

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::Duplicate => "duplicate",
            Self::Refused => "refused",
            Self::TryLater => "try_later",
            Self::Written => "written",
        }
    }
}

/// Speaks of the `count` frames of `producer` that end at `sequence`, and of no other.
///
/// ```text
///  0        4        5        6     8          16         24               28      32
///  ├ "PNA1" ┼ status ┼ reason ┼  0  ┼ producer ┼ sequence ┼ retry-after ms ┼ count ┤
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub status: AckStatus,
    /// `Reason` as a number; 0 where there is none.
    pub reason: u8,
    pub producer: u64,
    pub sequence: u64,
    pub retry_after_ms: u32,
    pub count: u32,
}

impl Ack {
    pub fn write(&self) -> [u8; ACK_LEN] {
        let mut bytes = [0; ACK_LEN];
        bytes[..4].copy_from_slice(&ACK_MAGIC);
        bytes[4] = self.status as u8;
        bytes[5] = self.reason;
        bytes[8..16].copy_from_slice(&self.producer.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.retry_after_ms.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.count.to_le_bytes());
        bytes
    }

    /// `None` where the bytes are no acknowledgement of this version.
    pub fn read(bytes: &[u8; ACK_LEN]) -> Option<Self> {
        if bytes[..4] != ACK_MAGIC || bytes[6] != 0 || bytes[7] != 0 {
            return None;
        }
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        Some(Self {
            status: AckStatus::from_wire(bytes[4])?,
            reason: bytes[5],
            producer: u64_at(8),
            sequence: u64_at(16),
            retry_after_ms: u32_at(24),
            count: u32_at(28),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ack_bytes_stand_where_the_protocol_puts_them() {
        let ack = Ack {
            status: AckStatus::TryLater,
            reason: 25,
            producer: 0x1122_3344_5566_7788,
            sequence: 9,
            retry_after_ms: 250,
            count: 3,
        };
        let expected = [
            b'P', b'N', b'A', b'1', 3, 25, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 9,
            0, 0, 0, 0, 0, 0, 0, 250, 0, 0, 0, 3, 0, 0, 0,
        ];
        assert_eq!(ack.write(), expected);
        assert_eq!(Ack::read(&expected), Some(ack));
    }
}
