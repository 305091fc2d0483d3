//! A record as bytes: a field of `penstock.v1.LogBatch`, an Avro record, or a line of JSON.

use std::io::Write;

use penstock_proto::avro::SchemaVersion;
use penstock_proto::encoding::Encoding;
use penstock_proto::v1::LogRecord;

/// Number of `LogBatch.records` in `logs.proto`.
const BATCH_RECORDS_TAG: u32 = 1;

use crate::avro;

/// Appends one record as it stands in a payload: payloads are records back to back, and those of
/// Avro have something around them. `schema` is the one that Avro is written with.
pub fn encode(encoding: Encoding, schema: SchemaVersion, record: &LogRecord, out: &mut Vec<u8>) {
    match encoding {
        Encoding::Avro => avro::encode(schema, record, out),
        Encoding::Protobuf => prost::encoding::message::encode(BATCH_RECORDS_TAG, record, out),
        Encoding::Json => encode_json(record, out),
    }
}

/// Appends a JSON object and a newline. Nanoseconds are a string, as in OTLP: a reader with
/// double precision would lose digits. Empty fields are left out, and mean the same.
fn encode_json(record: &LogRecord, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    let _ = write!(
        out,
        r#"{{"time_unix_nano":"{}","severity_number":{}"#,
        record.time_unix_nano, record.severity_number
    );
    for (name, value) in [
        ("service_name", &record.service_name),
        ("body", &record.body),
        ("host_name", &record.host_name),
    ] {
        if !value.is_empty() {
            let _ = write!(out, r#","{name}":"#);
            string(value, out);
        }
    }
    if !record.attributes.is_empty() {
        out.extend_from_slice(br#","attributes":{"#);
        for (index, (key, value)) in record.attributes.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            string(key, out);
            out.push(b':');
            string(value, out);
        }
        out.push(b'}');
    }
    for (name, id) in [("trace_id", &record.trace_id), ("span_id", &record.span_id)] {
        if !id.is_empty() {
            let _ = write!(out, r#","{name}":""#);
            for byte in id {
                let _ = write!(out, "{byte:02x}");
            }
            out.push(b'"');
        }
    }
    out.extend_from_slice(b"}\n");
}

/// A JSON string with its quotes and escapes.
fn string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a string goes into a Vec");
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_proto::v1::LogBatch;
    use prost::Message;

    fn record() -> LogRecord {
        LogRecord {
            time_unix_nano: 1_700_000_000_123_456_789,
            severity_number: 9,
            service_name: "web".into(),
            body: "said \"hi\"\n\u{1}ü".into(),
            host_name: "h1".into(),
            attributes: [("k".to_owned(), "v\\".to_owned())].into(),
            trace_id: vec![0, 0xab],
            span_id: vec![],
        }
    }

    #[test]
    fn records_back_to_back_are_a_batch() {
        let mut payload = Vec::new();
        encode(
            Encoding::Protobuf,
            SchemaVersion::V3,
            &record(),
            &mut payload,
        );
        encode(
            Encoding::Protobuf,
            SchemaVersion::V3,
            &LogRecord::default(),
            &mut payload,
        );
        let batch = LogBatch::decode(payload.as_slice()).unwrap();
        assert_eq!(batch.records, [record(), LogRecord::default()]);
    }

    #[test]
    fn json_is_one_line_with_everything_escaped() {
        let mut line = Vec::new();
        encode(Encoding::Json, SchemaVersion::V3, &record(), &mut line);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            concat!(
                r#"{"time_unix_nano":"1700000000123456789","severity_number":9,"#,
                r#""service_name":"web","body":"said \"hi\"\n\u0001ü","host_name":"h1","#,
                r#""attributes":{"k":"v\\"},"trace_id":"00ab"}"#,
                "\n"
            )
        );
    }
}
