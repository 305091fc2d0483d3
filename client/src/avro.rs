//! Records as Avro: an array of `penstock.LogRecord` in the single-object encoding, as one block.
//!
//! ```text
//! C3 01 │ fingerprint │ count │ record │ record │ … │ 0
//! ```
//! How many records there will be is known only at the end, and a count takes one byte or more. So
//! room for the longest head is kept before the records, and the head ends where they begin.

use penstock_proto::avro::SchemaVersion;
use penstock_proto::v1::LogRecord;

/// Marker, fingerprint, and a count of 32 bits.
pub const HEAD_LEN_MAX: usize = 2 + 8 + COUNT_LEN_MAX;
/// A count is doubled, and has seven bits a byte.
const COUNT_LEN_MAX: usize = 5;

/// Writes the head of an array of `count` records into `room`, at its end; returns where it begins.
pub fn write_head(schema: SchemaVersion, count: u32, room: &mut [u8; HEAD_LEN_MAX]) -> usize {
    let mut head = Vec::with_capacity(HEAD_LEN_MAX);
    head.extend_from_slice(&[0xc3, 0x01]);
    head.extend_from_slice(&schema.array_fingerprint().to_le_bytes());
    long(i64::from(count), &mut head);
    let start = HEAD_LEN_MAX - head.len();
    room[start..].copy_from_slice(&head);
    start
}

/// Appends a record: the values of its fields, in the schema's order.
pub fn encode(schema: SchemaVersion, record: &LogRecord, out: &mut Vec<u8>) {
    // Unsigned numbers beyond Avro's are the negative ones with the same bits.
    long(record.time_unix_nano as i64, out);
    long(i64::from(record.severity_number as i32), out);
    bytes(record.service_name.as_bytes(), out);
    bytes(record.body.as_bytes(), out);
    if schema == SchemaVersion::V1 {
        return;
    }
    bytes(record.host_name.as_bytes(), out);
    if !record.attributes.is_empty() {
        long(record.attributes.len() as i64, out);
        for (key, value) in &record.attributes {
            bytes(key.as_bytes(), out);
            bytes(value.as_bytes(), out);
        }
    }
    // A block of none ends the map.
    long(0, out);
    if schema == SchemaVersion::V2 {
        return;
    }
    bytes(&record.trace_id, out);
    bytes(&record.span_id, out);
}

fn bytes(bytes: &[u8], out: &mut Vec<u8>) {
    long(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}

/// Zigzag, then seven bits a byte, the low ones first.
fn long(value: i64, out: &mut Vec<u8>) {
    let mut rest = (value << 1 ^ value >> 63) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are fastavro's, 1.13.1: `schemaless_writer` with the schemas in `schemas/`.
    #[test]
    fn a_record_in_each_version() {
        let record = LogRecord {
            time_unix_nano: 1_700_000_000_123_456_789,
            severity_number: 17,
            service_name: "billing".into(),
            body: "card declined".into(),
            host_name: "web-17".into(),
            attributes: [("attempt".to_owned(), "3".to_owned())].into(),
            trace_id: vec![0x4b, 0xf9],
            span_id: vec![],
        };
        let v1 = b"\xaa\xb4\xae\xd8\xc7\xbf\xce\x97\x2f\x22\x0ebilling\x1acard declined";
        let v2 = [&v1[..], b"\x0cweb-17\x02\x0eattempt\x023\x00"].concat();
        let v3 = [&v2[..], b"\x04\x4b\xf9\x00"].concat();
        for (schema, expected) in SchemaVersion::ALL.into_iter().zip([v1, &v2[..], &v3]) {
            let mut out = Vec::new();
            encode(schema, &record, &mut out);
            assert_eq!(out, expected, "{schema:?}");
        }
    }

    /// As the agent and the Avro files have them: the same bits, read as a signed number.
    #[test]
    fn numbers_beyond_avros() {
        let record = LogRecord {
            time_unix_nano: u64::MAX,
            severity_number: u32::MAX,
            ..LogRecord::default()
        };
        let mut out = Vec::new();
        encode(SchemaVersion::V1, &record, &mut out);
        assert_eq!(out, [1, 1, 0, 0]);
    }
}
