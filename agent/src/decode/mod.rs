//! Payload to records, in place: parsers that take bytes and return views or a reason.
//!
//! ```text
//! frame payload ──▶ Decoder::validate   ingest: every record checked, none looked at
//!               └─▶ Decoder::for_each   sinks: the same walk, each record shown as a view
//! ```
//!
//! A view borrows the payload, or the decoder's scratch for what stands in no payload as it is
//! meant (JSON text with escapes, ids in hex). The scratch is allocated once, at the bounds that
//! `limits` derives from the longest payload, and is never grown: decoding allocates nothing.
//! `proto/RECORDS.md` says what each encoding may hold and what becomes of it.

pub mod json;
pub mod protobuf;
mod text;

#[cfg(test)]
mod document;

use penstock_proto::encoding::Encoding;
use penstock_proto::reason::Reason;

use crate::limits;
use crate::record::RecordView;

/// Reads payloads of every encoding; one for each thread that decodes.
pub struct Decoder {
    json: json::Scratch,
}

impl Decoder {
    pub fn new() -> Self {
        Self {
            json: json::Scratch::new(),
        }
    }

    /// Checks every record of a payload and that there are exactly `records` of them.
    pub fn validate(
        &mut self,
        encoding: Encoding,
        payload: &[u8],
        records: u32,
    ) -> Result<(), Reason> {
        within_bounds(payload)?;
        let found = match encoding {
            Encoding::Protobuf => protobuf::validate(payload),
            Encoding::Json => json::validate(payload),
        }?;
        if found == records {
            Ok(())
        } else {
            Err(Reason::RecordCount)
        }
    }

    /// Shows each record to `visit`, in order, and returns how many there were. A payload that is
    /// damaged past its first record is refused only after the records before were shown.
    pub fn for_each(
        &mut self,
        encoding: Encoding,
        payload: &[u8],
        visit: impl FnMut(&RecordView<'_>),
    ) -> Result<u32, Reason> {
        within_bounds(payload)?;
        match encoding {
            Encoding::Protobuf => protobuf::for_each(payload, visit),
            Encoding::Json => json::for_each(&mut self.json, payload, visit),
        }
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
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
    use super::*;

    #[test]
    fn the_header_and_the_payload_must_agree_on_the_number_of_records() {
        let mut decoder = Decoder::new();
        // Two records, both empty: field 1, length 0.
        let protobuf = [0x0a, 0, 0x0a, 0];
        let json = b"{}\n{}\n";
        for (encoding, payload) in [
            (Encoding::Protobuf, &protobuf[..]),
            (Encoding::Json, &json[..]),
        ] {
            assert_eq!(decoder.validate(encoding, payload, 2), Ok(()));
            for records in [0, 1, 3, u32::MAX] {
                assert_eq!(
                    decoder.validate(encoding, payload, records),
                    Err(Reason::RecordCount)
                );
            }
            assert_eq!(decoder.for_each(encoding, payload, |_| ()), Ok(2));
            assert_eq!(
                decoder.validate(encoding, b"", 1),
                Err(Reason::RecordCount),
                "an empty payload holds no record"
            );
        }
    }

    #[test]
    fn a_payload_beyond_the_limit_is_not_read() {
        let mut decoder = Decoder::new();
        let blanks = vec![b'\n'; limits::PAYLOAD_LEN_MAX + 1];
        let within = &blanks[..limits::PAYLOAD_LEN_MAX];
        assert_eq!(decoder.validate(Encoding::Json, within, 0), Ok(()));
        assert_eq!(
            decoder.validate(Encoding::Json, &blanks, 0),
            Err(Reason::TooLong)
        );
        assert_eq!(
            decoder.for_each(Encoding::Protobuf, &blanks, |_| ()),
            Err(Reason::TooLong)
        );
    }
}
