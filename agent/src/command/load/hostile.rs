//! Frames that must be refused, each made so that it earns one certain reason.
//!
//! Most are made by changing the header of a good frame, so that they have its length and can
//! stand in one bundle with good ones. The rest bring their own payload.

use agent_common::frame::{FLAG_ZSTD, FRAME_HEADER_LEN, FrameHeader, offset};
use penstock_client::LogRecord;
use penstock_client::batch::Batch;
use penstock_proto::avro::SchemaVersion;
use penstock_proto::checksum::crc32c;
use penstock_proto::encoding::Encoding;
use penstock_proto::reason::Reason;

use crate::config::settings::Protocol;

/// After these the stream's next frame can still be found.
pub const IN_STREAM: [Reason; 18] = [
    Reason::UnknownEncoding,
    Reason::PayloadChecksum,
    Reason::UnknownFlag,
    Reason::RecordCount,
    Reason::BadPriority,
    Reason::MalformedPayload,
    Reason::BadReserved,
    Reason::InvalidUtf8,
    Reason::NoRecords,
    Reason::TruncatedPayload,
    Reason::UnsupportedEncoding,
    Reason::TooDeep,
    Reason::MalformedCompression,
    Reason::DecompressedTooLong,
    Reason::UnknownDictionary,
    Reason::BadSequence,
    Reason::ForeignProducer,
    Reason::PayloadChecksum,
];

/// After these it cannot, or the rest of the frame would be a gigabyte: one connection each.
pub const LAST_OF_STREAM: [Reason; 4] = [
    Reason::BadMagic,
    Reason::UnknownVersion,
    Reason::HeaderChecksum,
    Reason::TooLong,
];

/// A datagram stands alone: all but the second producer of a connection.
pub const DATAGRAM: [Reason; 22] = [
    Reason::Truncated,
    Reason::BadMagic,
    Reason::PayloadChecksum,
    Reason::UnknownVersion,
    Reason::RecordCount,
    Reason::UnknownEncoding,
    Reason::MalformedPayload,
    Reason::UnknownFlag,
    Reason::InvalidUtf8,
    Reason::BadPriority,
    Reason::TruncatedPayload,
    Reason::BadReserved,
    Reason::TooDeep,
    Reason::NoRecords,
    Reason::LengthMismatch,
    Reason::TooLong,
    Reason::HeaderChecksum,
    Reason::UnsupportedEncoding,
    Reason::MalformedCompression,
    Reason::DecompressedTooLong,
    Reason::UnknownDictionary,
    Reason::BadSequence,
];

/// The reasons that frames of a protocol can be made to earn.
pub fn kinds(protocol: Protocol) -> Vec<Reason> {
    match protocol {
        Protocol::Tcp => [&IN_STREAM[..], &LAST_OF_STREAM[..]].concat(),
        Protocol::Udp => DATAGRAM.to_vec(),
    }
}

/// A header that earns `reason`, made from one that is right. Its checksum is right unless that is
/// the reason.
pub fn forge_header(reason: Reason, right: FrameHeader) -> [u8; FRAME_HEADER_LEN] {
    let mut header = right;
    match reason {
        Reason::UnknownEncoding => header.encoding = 0xee,
        // Raw messages, which the protocol names and this version does not decode.
        Reason::UnsupportedEncoding => header.encoding = 5,
        Reason::UnknownFlag => header.flags |= 1 << 7,
        Reason::BadPriority => header.priority = 4,
        Reason::NoRecords => header.records = 0,
        Reason::TooLong => header.payload_len = u32::MAX,
        Reason::LengthMismatch => header.payload_len -= 1,
        Reason::PayloadChecksum => header.payload_crc ^= 1,
        Reason::RecordCount => header.records += 1,
        Reason::BadSequence => header.sequence = 0,
        Reason::ForeignProducer => header.producer ^= 1 << 63 | 1,
        _ => {}
    }
    let mut bytes = header.write();
    match reason {
        Reason::BadMagic => bytes[0] = b'Q',
        Reason::UnknownVersion => bytes[offset::VERSION] = b'9',
        Reason::BadReserved => bytes[offset::RESERVED] = 1,
        _ => {}
    }
    let crc = crc32c(&bytes[..offset::HEADER_CRC]);
    let crc = match reason {
        Reason::HeaderChecksum => crc ^ 1,
        _ => crc,
    };
    bytes[offset::HEADER_CRC..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Flags that belong to a forged payload.
pub fn forged_flags(reason: Reason) -> u8 {
    match reason {
        Reason::MalformedCompression | Reason::DecompressedTooLong | Reason::UnknownDictionary => {
            FLAG_ZSTD
        }
        _ => 0,
    }
}

/// The payload that earns `reason`, where a header alone does not, with its encoding.
pub fn forge_payload(reason: Reason, encoding: Encoding) -> Option<(Encoding, Vec<u8>)> {
    let mut batch = Batch::new(encoding, SchemaVersion::default());
    let record = LogRecord {
        body: "cut or damaged here".into(),
        ..LogRecord::default()
    };
    batch.push(&record, usize::MAX).expect("no limit");
    let mut payload = batch.payload().to_vec();
    let text_at = payload
        .windows(3)
        .position(|w| w == b"cut")
        .expect("the body");
    match (reason, encoding) {
        (Reason::InvalidUtf8, _) => payload[text_at] = 0xff,
        (Reason::TruncatedPayload, _) => payload.truncate(text_at + 3),
        // It says that it is compressed and is not.
        (Reason::MalformedCompression, _) => {}
        (Reason::DecompressedTooLong, _) => payload = zstd_head(0b1010_0000, &[0xff; 4]),
        (Reason::UnknownDictionary, _) => payload = zstd_head(0b0010_0001, &[7, 0]),
        // A field with wire type 7, of which there is none.
        (Reason::MalformedPayload, Encoding::Protobuf) => payload = vec![0x0f, 0, 0, 0],
        // A body of a negative length. (Its length is the byte before its text.)
        (Reason::MalformedPayload, Encoding::Avro) => payload[text_at - 1] = 1,
        (Reason::MalformedPayload, Encoding::Json) => payload = b"{\"body\" 1}\n".to_vec(),
        (Reason::TooDeep, _) => {
            let (open, close) = ("[".repeat(100), "]".repeat(100));
            let text = format!("{{\"body\":\"x\",\"a\":{open}{close}}}\n");
            return Some((Encoding::Json, text.into_bytes()));
        }
        _ => return None,
    }
    Some((encoding, payload))
}

/// A zstd frame by hand (RFC 8878): magic, the frame header's descriptor and what it announces (a
/// dictionary's id, a content size), and a last block without bytes.
fn zstd_head(descriptor: u8, fields: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, descriptor];
    frame.extend_from_slice(fields);
    frame.extend_from_slice(&[1, 0, 0]);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_common::classify::check_datagram;
    use penstock_proto::v1::LogBatch;
    use penstock_proto::wire::{header_crc_matches, seal};
    use prost::Message;

    fn right() -> FrameHeader {
        FrameHeader {
            encoding: 1,
            flags: 2,
            priority: 2,
            payload_len: 100,
            records: 3,
            producer: 7,
            sequence: 9,
            payload_crc: 1,
        }
    }

    #[test]
    fn forged_headers_are_refused_for_their_reason_by_the_classifier() {
        for reason in DATAGRAM {
            if reason == Reason::Truncated {
                // Made by cutting the datagram, which is its sender's part.
                continue;
            }
            let bytes = forge_header(reason, right());
            let found = check_datagram(&bytes, 140, 65_467).map_err(Reason::from);
            let by_header = [
                Reason::BadMagic,
                Reason::UnknownVersion,
                Reason::UnknownEncoding,
                Reason::UnknownFlag,
                Reason::BadPriority,
                Reason::BadReserved,
                Reason::NoRecords,
                Reason::TooLong,
                Reason::LengthMismatch,
            ];
            let expected = match by_header.contains(&reason) {
                true => Err(reason),
                false => Ok(()),
            };
            assert_eq!(found, expected, "{reason:?}");
            let crc_is_right = reason != Reason::HeaderChecksum;
            assert_eq!(header_crc_matches(&bytes), crc_is_right, "{reason:?}");
            let changed = bytes != seal(&right());
            let needs_payload = forge_payload(reason, Encoding::Protobuf).is_some();
            assert!(changed != needs_payload, "{reason:?} is made one way");
        }
    }

    #[test]
    fn forged_payloads_are_refused_by_the_slow_decoders() {
        for reason in [
            Reason::InvalidUtf8,
            Reason::TruncatedPayload,
            Reason::MalformedPayload,
        ] {
            let (_, payload) = forge_payload(reason, Encoding::Protobuf).unwrap();
            assert!(LogBatch::decode(payload.as_slice()).is_err(), "{reason:?}");
            let (_, payload) = forge_payload(reason, Encoding::Json).unwrap();
            let parsed = serde_json::from_slice::<serde_json::Value>(&payload);
            assert!(parsed.is_err(), "{reason:?}");
        }
    }
}
