//! Cutting bytes into frames: a view or a reason, nothing else.
//!
//! No field of a header is believed before the header's own checksum: only then may its length be
//! used to find the next frame, and only then may a refusal name its producer and sequence.

use agent_common::classify::{check_datagram, check_header};
use agent_common::frame::{FRAME_HEADER_LEN, FRAME_MAGIC, FRAME_VERSION, FrameHeader, offset};
use penstock_proto::checksum::crc32c;
use penstock_proto::reason::Reason;
use penstock_proto::wire::header_crc_matches;

use crate::decode::Payload;

/// One whole frame, borrowing the bytes it was found in. Its header's checksum and fields are
/// right; its payload has not been looked at.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub header: FrameHeader,
    /// Header and payload, as they go to the journal.
    pub bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[FRAME_HEADER_LEN..]
    }

    /// Whether the payload is what the header says was sent.
    pub fn check_payload(&self) -> Result<(), Reason> {
        match crc32c(self.payload()) == self.header.payload_crc {
            true => Ok(()),
            false => Err(Reason::PayloadChecksum),
        }
    }

    /// The payload as decoders take it, where its checksum is right and its encoding is known.
    pub fn checked_payload(&self) -> Result<Payload<'a>, Reason> {
        self.check_payload()?;
        Payload::of(&self.header, &self.bytes[FRAME_HEADER_LEN..])
    }
}

/// What stands at the start of a stream's bytes.
#[derive(Clone, Copy, Debug)]
pub enum Split<'a> {
    Frame(Frame<'a>),
    /// The beginning of a frame; `needed` bytes are the least that say more.
    Partial {
        needed: usize,
    },
    /// The header is to be believed but the frame is not taken: step over `frame_len` bytes.
    Refused {
        header: FrameHeader,
        reason: Reason,
    },
    /// No header: where the next frame starts is unknown.
    Lost(Reason),
}

/// Looks at the start of a stream's bytes.
#[inline]
pub fn split(bytes: &[u8], payload_len_max: u32) -> Split<'_> {
    let Some(head) = bytes.first_chunk::<FRAME_HEADER_LEN>() else {
        // A stranger is told apart at the first wrong byte, not after 40.
        return match bytes
            .iter()
            .zip(FRAME_MAGIC)
            .any(|(have, want)| *have != want)
        {
            true => Split::Lost(Reason::BadMagic),
            false => Split::Partial {
                needed: FRAME_HEADER_LEN,
            },
        };
    };
    if head[..FRAME_MAGIC.len()] != FRAME_MAGIC {
        return Split::Lost(Reason::BadMagic);
    }
    if head[offset::VERSION] != FRAME_VERSION {
        return Split::Lost(Reason::UnknownVersion);
    }
    if !header_crc_matches(head) {
        return Split::Lost(Reason::HeaderChecksum);
    }
    let header = FrameHeader::read(head);
    if let Err(fault) = check_header(head, payload_len_max) {
        return Split::Refused {
            header,
            reason: fault.into(),
        };
    }
    if header.sequence == 0 && header.producer != 0 {
        return Split::Refused {
            header,
            reason: Reason::BadSequence,
        };
    }
    match bytes.get(..header.frame_len()) {
        Some(bytes) => Split::Frame(Frame { header, bytes }),
        None => Split::Partial {
            needed: header.frame_len(),
        },
    }
}

/// Looks at a datagram, which holds exactly one frame.
#[inline]
pub fn parse_datagram(bytes: &[u8], payload_len_max: u32) -> Result<Frame<'_>, Reason> {
    let head = bytes
        .first_chunk::<FRAME_HEADER_LEN>()
        .ok_or(Reason::Truncated)?;
    check_datagram(head, bytes.len() as u32, payload_len_max)?;
    if !header_crc_matches(head) {
        return Err(Reason::HeaderChecksum);
    }
    let header = FrameHeader::read(head);
    if header.sequence == 0 && header.producer != 0 {
        return Err(Reason::BadSequence);
    }
    Ok(Frame { header, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_common::frame::FLAG_ACKNOWLEDGE;
    use penstock_proto::encoding::Encoding;
    use penstock_proto::wire::{seal, write_frame};

    const MAX: u32 = 1 << 20;

    fn header() -> FrameHeader {
        FrameHeader {
            encoding: 1,
            flags: FLAG_ACKNOWLEDGE,
            priority: 2,
            payload_len: 0,
            records: 1,
            producer: 7,
            sequence: 1,
            payload_crc: 0,
        }
    }

    fn frame() -> Vec<u8> {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, header(), b"payload");
        bytes
    }

    #[test]
    fn a_frame_is_partial_until_its_last_byte() {
        let bytes = frame();
        for len in 0..bytes.len() {
            let Split::Partial { needed } = split(&bytes[..len], MAX) else {
                panic!("{len} bytes: {:?}", split(&bytes[..len], MAX));
            };
            assert_eq!(needed, if len < 40 { 40 } else { bytes.len() });
        }
        let Split::Frame(found) = split(&bytes, MAX) else {
            panic!("no frame")
        };
        assert_eq!(found.payload(), b"payload");
        let payload = found.checked_payload().expect("a payload");
        assert_eq!(payload.encoding, Encoding::Protobuf);
        assert_eq!(payload.bytes, b"payload");
    }

    #[test]
    fn what_a_header_is_not_believed_for_loses_the_framing() {
        let mut wrong_magic = frame();
        wrong_magic[1] = b'X';
        assert!(matches!(
            split(&wrong_magic[..2], MAX),
            Split::Lost(Reason::BadMagic)
        ));
        let mut wrong_version = frame();
        wrong_version[3] = b'2';
        assert!(matches!(
            split(&wrong_version, MAX),
            Split::Lost(Reason::UnknownVersion)
        ));
        let mut flipped = frame();
        flipped[16] ^= 1;
        assert!(matches!(
            split(&flipped, MAX),
            Split::Lost(Reason::HeaderChecksum)
        ));
    }

    #[test]
    fn a_believed_header_with_a_fault_keeps_the_framing() {
        let cases = [
            (
                FrameHeader {
                    encoding: 9,
                    ..header()
                },
                Reason::UnknownEncoding,
            ),
            (
                FrameHeader {
                    flags: 4,
                    ..header()
                },
                Reason::UnknownFlag,
            ),
            (
                FrameHeader {
                    priority: 4,
                    ..header()
                },
                Reason::BadPriority,
            ),
            (
                FrameHeader {
                    records: 0,
                    ..header()
                },
                Reason::NoRecords,
            ),
            (
                FrameHeader {
                    payload_len: MAX + 1,
                    ..header()
                },
                Reason::TooLong,
            ),
            (
                FrameHeader {
                    sequence: 0,
                    ..header()
                },
                Reason::BadSequence,
            ),
        ];
        for (header, expected) in cases {
            let Split::Refused { reason, .. } = split(&seal(&header), MAX) else {
                panic!("{header:?} was not refused");
            };
            assert_eq!(reason, expected);
        }
    }

    #[test]
    fn a_datagram_is_exactly_one_frame() {
        let mut bytes = frame();
        assert!(parse_datagram(&bytes, MAX).is_ok());
        assert_eq!(
            parse_datagram(&bytes[..39], MAX).unwrap_err(),
            Reason::Truncated
        );
        let short = &bytes[..bytes.len() - 1];
        assert_eq!(
            parse_datagram(short, MAX).unwrap_err(),
            Reason::LengthMismatch
        );
        bytes.push(0);
        assert_eq!(
            parse_datagram(&bytes, MAX).unwrap_err(),
            Reason::LengthMismatch
        );
    }

    #[test]
    fn a_damaged_payload_is_told_by_its_checksum() {
        let mut bytes = frame();
        *bytes.last_mut().unwrap() ^= 1;
        let frame = parse_datagram(&bytes, MAX).unwrap();
        assert_eq!(frame.checked_payload().err(), Some(Reason::PayloadChecksum));
    }
}
