//! A spool's segment as bytes. Integers are little-endian.
//!
//! ```text
//!  0          8          16               24      28        32
//!  ├ "PNSPOOL1" ┼ producer ┼ first sequence ┼  0  ┼ CRC-32C ┤  the header, of bytes 0 to 27
//!
//!  ├ u32 body length ┼ u32 kind ┼ body ┼ CRC-32C ┤             entries, of all that stands before
//! ```
//!
//! Kind 1 is a frame, whole, as it is sent. Frames follow each other by their sequences, and the
//! first one of a segment has the header's. Kind 2 is a mark: the u64 below which every sequence is
//! settled.

use agent_common::frame::{FRAME_HEADER_LEN, FrameHeader};
use penstock_proto::checksum::crc32c;

pub const MAGIC: [u8; 8] = *b"PNSPOOL1";
pub const HEADER_LEN: usize = 32;
/// What an entry takes beside its body.
pub const ENTRY_OVERHEAD: usize = 12;
/// More than any frame: the protocol's longest payload fits 32 bits, the agents' limit is 1 MiB.
pub const BODY_LEN_MAX: usize = 64 << 20;
const KIND_FRAME: u32 = 1;
const KIND_MARK: u32 = 2;

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub producer: u64,
    pub first_sequence: u64,
}

impl Header {
    pub fn write(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.producer.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_sequence.to_le_bytes());
        let crc = crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub fn read(bytes: &[u8]) -> Result<Self, &'static str> {
        let bytes: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or("shorter than a header")?;
        if bytes[..8] != MAGIC {
            return Err("not a spool of this version");
        }
        if u32_at(bytes, 28) != crc32c(&bytes[..28]) {
            return Err("the header's checksum is wrong");
        }
        let header = Self {
            producer: u64_at(bytes, 8),
            first_sequence: u64_at(bytes, 16),
        };
        match header.producer == 0 || header.first_sequence == 0 {
            true => Err("the header names nobody"),
            false => Ok(header),
        }
    }
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    Frame {
        bytes: &'a [u8],
        header: FrameHeader,
    },
    SettledBelow(u64),
}

/// What the bytes at an entry's beginning are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read<'a> {
    /// The entry, and its whole length.
    Entry(Entry<'a>, usize),
    /// Not all of it is there.
    Short,
    Damaged,
}

pub fn write_frame(out: &mut Vec<u8>, frame: &[u8]) {
    write(out, KIND_FRAME, frame);
}

pub fn write_mark(out: &mut Vec<u8>, settled_below: u64) {
    write(out, KIND_MARK, &settled_below.to_le_bytes());
}

fn write(out: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let start = out.len();
    out.reserve(ENTRY_OVERHEAD + body.len());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(body);
    let crc = crc32c(&out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
}

/// Reads the entry at the beginning of `bytes`.
pub fn read(bytes: &[u8]) -> Read<'_> {
    let Some(head) = bytes.first_chunk::<8>() else {
        return Read::Short;
    };
    let body_len = u32_at(head, 0) as usize;
    if body_len > BODY_LEN_MAX {
        return Read::Damaged;
    }
    let len = ENTRY_OVERHEAD + body_len;
    let Some(entry) = bytes.get(..len) else {
        return Read::Short;
    };
    let (content, crc) = entry.split_at(len - 4);
    if u32_at(crc, 0) != crc32c(content) {
        return Read::Damaged;
    }
    let body = &content[8..];
    match u32_at(head, 4) {
        KIND_FRAME => match body.first_chunk::<FRAME_HEADER_LEN>() {
            Some(head) if FrameHeader::read(head).frame_len() == body.len() => {
                let header = FrameHeader::read(head);
                Read::Entry(
                    Entry::Frame {
                        bytes: body,
                        header,
                    },
                    len,
                )
            }
            _ => Read::Damaged,
        },
        KIND_MARK if body.len() == 8 => Read::Entry(Entry::SettledBelow(u64_at(body, 0)), len),
        _ => Read::Damaged,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_changed_byte_is_believed() {
        let header = Header {
            producer: 7,
            first_sequence: 9,
        };
        let written = header.write();
        assert_eq!(Header::read(&written), Ok(header));
        for at in (0..HEADER_LEN).flat_map(|at| [(at, 1u8), (at, 0x80)]) {
            let mut damaged = written;
            damaged[at.0] ^= at.1;
            assert!(Header::read(&damaged).is_err(), "byte {}", at.0);
        }
        let mut mark = Vec::new();
        write_mark(&mut mark, 0x0102_0304_0506_0708);
        // By hand: 8 bytes of body, kind 2, the number.
        assert_eq!(mark[..16], [8, 0, 0, 0, 2, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
        for at in 0..mark.len() {
            assert_eq!(read(&mark[..at]), Read::Short);
            let mut damaged = mark.clone();
            damaged[at] ^= 0x10;
            assert!(
                !matches!(read(&damaged), Read::Entry(..)),
                "byte {at} was changed"
            );
        }
    }
}
