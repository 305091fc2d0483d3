//! Payload to records, in place: parsers that take bytes and return views or a reason.
//!
//! ```text
//! frame payload ──▶ Decoder::validate   ingest: every record checked, none looked at
//!               └─▶ Decoder::for_each   sinks: the same walk, each record shown as a view
//! ```
//!
//! A view borrows the payload, or the decoder's scratch for what stands in no payload as it is
//! meant (JSON text with escapes, ids in hex), or the buffer into which a compressed payload was
//! undone. All of it is allocated once, at the bounds that `limits` derives from the longest
//! payload, and is never grown: decoding allocates nothing.
//! `proto/RECORDS.md` says what each encoding may hold and what becomes of it.

pub mod avro;
pub mod compressed;
pub mod json;
pub mod protobuf;
pub(crate) mod text;
mod varint;

#[cfg(test)]
mod damage;
#[cfg(test)]
mod document;

use agent_common::frame::{FLAG_ZSTD, FrameHeader};
use penstock_proto::encoding::Encoding;
use penstock_proto::reason::Reason;

use std::sync::Arc;

use crate::decode::compressed::Decompressor;
use crate::limits;
use crate::record::RecordView;
use crate::schema::table::{SchemaTable, Schemas};

/// A frame's payload, as its header announces it.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    pub encoding: Encoding,
    /// The bytes are zstd frames around what the encoding speaks of.
    pub zstd: bool,
    pub bytes: &'a [u8],
}

impl<'a> Payload<'a> {
    /// `Err` where no decoder knows the encoding.
    pub fn of(header: &FrameHeader, bytes: &'a [u8]) -> Result<Self, Reason> {
        Ok(Self {
            encoding: Encoding::from_wire(header.encoding).ok_or(Reason::UnsupportedEncoding)?,
            zstd: header.flags & FLAG_ZSTD != 0,
            bytes,
        })
    }

    /// A payload that is not compressed.
    pub fn plain(encoding: Encoding, bytes: &'a [u8]) -> Self {
        Self {
            encoding,
            zstd: false,
            bytes,
        }
    }
}

/// What was found in a payload that is in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Fields that have no place in a record and are not stored.
    pub unmapped_fields: u64,
}

/// Reads payloads of every encoding; one for each thread that decodes.
pub struct Decoder {
    decompressor: Decompressor,
    scratch: json::Scratch,
    schemas: CurrentSchemas,
}

impl Decoder {
    pub fn new(schemas: &Schemas) -> Self {
        let (generation, table) = schemas.current();
        Self {
            decompressor: Decompressor::default(),
            scratch: json::Scratch::new(),
            schemas: CurrentSchemas {
                schemas: schemas.clone(),
                table,
                generation,
            },
        }
    }

    /// Checks every record of a payload and that there are exactly `records` of them.
    pub fn validate(&mut self, payload: &Payload<'_>, records: u32) -> Result<Checked, Reason> {
        let bytes = plain(&mut self.decompressor, payload)?;
        let (found, unmapped_fields) = match payload.encoding {
            Encoding::Protobuf => {
                let found = protobuf::validate(bytes)?;
                (found.records, found.unknown_fields)
            }
            Encoding::Avro => {
                let table = self.schemas.table();
                let found = avro::for_each(table, &mut self.scratch, bytes, |_| ())?;
                (found.records, found.unmapped_fields)
            }
            Encoding::Json => (json::validate(bytes)?, 0),
        };
        if found == records {
            Ok(Checked { unmapped_fields })
        } else {
            Err(Reason::RecordCount)
        }
    }

    /// Shows each record to `visit`, in order, and returns how many there were. A payload that is
    /// damaged past its first record is refused only after the records before were shown.
    pub fn for_each(
        &mut self,
        payload: &Payload<'_>,
        visit: impl FnMut(&RecordView<'_>),
    ) -> Result<u32, Reason> {
        let bytes = plain(&mut self.decompressor, payload)?;
        match payload.encoding {
            Encoding::Protobuf => protobuf::for_each(bytes, visit),
            Encoding::Avro => {
                let table = self.schemas.table();
                let found = avro::for_each(table, &mut self.scratch, bytes, visit)?;
                Ok(found.records)
            }
            Encoding::Json => json::for_each(&mut self.scratch, bytes, visit),
        }
    }
}

/// The table of schemas, as this thread last saw it.
struct CurrentSchemas {
    schemas: Schemas,
    /// The table as it stood at `generation`.
    table: Arc<SchemaTable>,
    generation: u64,
}

impl CurrentSchemas {
    #[inline(always)]
    fn table(&mut self) -> &SchemaTable {
        if self.schemas.generation() != self.generation {
            (self.generation, self.table) = self.schemas.current();
        }
        &self.table
    }
}

/// The payload as its encoding speaks of it.
fn plain<'a>(
    decompressor: &'a mut Decompressor,
    payload: &Payload<'a>,
) -> Result<&'a [u8], Reason> {
    within_bounds(payload.bytes)?;
    if payload.zstd {
        decompressor.decompress(payload.bytes)
    } else {
        Ok(payload.bytes)
    }
}

/// The scratch is sized for the longest payload there is: a longer one is no decoder's to read.
fn within_bounds(payload: &[u8]) -> Result<(), Reason> {
    if payload.len() <= limits::PAYLOAD_LEN_MAX {
        Ok(())
    } else {
        Err(Reason::TooLong)
    }
}

#[cfg(test)]
mod tests {
    use penstock_proto::avro::SchemaVersion;

    use super::*;

    #[test]
    fn the_header_and_the_payload_must_agree_on_the_number_of_records() {
        let mut decoder = Decoder::new(&Schemas::default());
        // Two records, both empty: field 1, length 0.
        let protobuf = [0x0a, 0, 0x0a, 0];
        let json = b"{}\n{}\n";
        // An array of v1, one block of two.
        let v1 = SchemaVersion::V1.array_fingerprint().to_le_bytes();
        let avro = [&[0xc3, 1], &v1[..], &[4, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
        let no_avro = [&[0xc3, 1], &v1[..], &[0]].concat();
        for (encoding, payload, empty) in [
            (Encoding::Protobuf, &protobuf[..], &b""[..]),
            (Encoding::Avro, &avro, &no_avro),
            (Encoding::Json, &json[..], b""),
        ] {
            let payload = Payload::plain(encoding, payload);
            let empty = Payload::plain(encoding, empty);
            assert_eq!(decoder.validate(&payload, 2), Ok(Checked::default()));
            for records in [0, 1, 3, u32::MAX] {
                assert_eq!(
                    decoder.validate(&payload, records),
                    Err(Reason::RecordCount)
                );
            }
            assert_eq!(decoder.for_each(&payload, |_| ()), Ok(2));
            assert_eq!(
                decoder.validate(&empty, 1),
                Err(Reason::RecordCount),
                "an empty payload holds no record"
            );
        }
    }

    #[test]
    fn a_compressed_payload_is_what_it_was() {
        let mut decoder = Decoder::new(&Schemas::default());
        let json = b"{\"msg\":\"a\\tb\"}\n{\"msg\":\"c\"}\n";
        let compressed = zstd::bulk::compress(json, 1).expect("compressed");
        let payload = Payload {
            zstd: true,
            ..Payload::plain(Encoding::Json, &compressed)
        };
        assert_eq!(decoder.validate(&payload, 2), Ok(Checked::default()));
        assert_eq!(decoder.validate(&payload, 1), Err(Reason::RecordCount));
        let mut bodies = Vec::new();
        let shown = decoder.for_each(&payload, |record| bodies.push(record.body.to_owned()));
        assert_eq!(
            (shown, bodies),
            (Ok(2), vec!["a\tb".to_owned(), "c".to_owned()])
        );
        // The flag is believed: what is not compressed is refused.
        let plain = Payload {
            bytes: json,
            ..payload
        };
        assert_eq!(
            decoder.validate(&plain, 2),
            Err(Reason::MalformedCompression)
        );
    }

    #[test]
    fn a_payload_beyond_the_limit_is_not_read() {
        let mut decoder = Decoder::new(&Schemas::default());
        let blanks = vec![b'\n'; limits::PAYLOAD_LEN_MAX + 1];
        let within = &blanks[..limits::PAYLOAD_LEN_MAX];
        let within = Payload::plain(Encoding::Json, within);
        assert_eq!(decoder.validate(&within, 0), Ok(Checked::default()));
        assert_eq!(
            decoder.validate(&Payload::plain(Encoding::Json, &blanks), 0),
            Err(Reason::TooLong)
        );
        assert_eq!(
            decoder.for_each(&Payload::plain(Encoding::Protobuf, &blanks), |_| ()),
            Err(Reason::TooLong)
        );
    }
}
