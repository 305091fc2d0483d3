//! Decoding allocates nothing: a decoder brings its scratch with it, and views borrow.

use std::sync::Arc;

use penstock::decode::avro::plan::Mapping;
use penstock::decode::avro::writer::WriterSchema;
use penstock::decode::{Decoder, Payload};
use penstock::schema::table::{Known, SchemaTable, Schemas};
use penstock_proto::avro::SchemaVersion;
use penstock_proto::encoding::Encoding;
use penstock_proto::v1::{LogBatch, LogRecord};
use penstock_tests::agent::client::avro;
use penstock_tests::allocation::{Counting, allocations};
use prost::Message;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const RECORDS: u32 = 1000;

fn records() -> Vec<LogRecord> {
    (0..u64::from(RECORDS))
        .map(|index| LogRecord {
            time_unix_nano: 1_700_000_000_000_000_000 + index,
            severity_number: 9,
            service_name: "api".into(),
            body: format!("request {index} – {}", "x".repeat(index as usize % 300)),
            host_name: "web-17".into(),
            attributes: (0..index % 4)
                .map(|n| (format!("key{n}"), format!("{index}")))
                .collect(),
            trace_id: vec![index as u8; 16],
            span_id: vec![index as u8; 8],
        })
        .collect()
}

/// A schema that is not ours, of whose fields most become attributes: numbers and bytes as text,
/// what nests as JSON; with times in another unit and words for severities.
const FOREIGN_SCHEMA: &str = r#"{"type": "array", "items": {"type": "record", "name": "Foreign", "fields": [
    {"name": "when", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    {"name": "severity_number", "type": "string"},
    {"name": "body", "type": ["null", "string"]},
    {"name": "took", "type": "double"},
    {"name": "count", "type": "long"},
    {"name": "raw", "type": "bytes"},
    {"name": "deep", "type": {"type": "record", "name": "Deep", "fields": [
        {"name": "list", "type": {"type": "array", "items": ["long", "string"]}},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}}]}},
    {"name": "attributes", "type": {"type": "map", "values": ["null", "boolean", "string"]}}]}}"#;
const FOREIGN_ID: u32 = 9;

/// By hand: each record has the same bytes but for its time and a number.
fn foreign_payload() -> Vec<u8> {
    let mut payload = [&[0][..], &FOREIGN_ID.to_be_bytes()].concat();
    // A block of 1000, zigzag.
    payload.extend_from_slice(&[0xd0, 0x0f]);
    for index in 0..RECORDS {
        payload.extend_from_slice(&[2 * (index % 60) as u8]);
        payload.extend_from_slice(b"\x08loud\x02\x0aseven");
        payload.extend_from_slice(&(f64::from(index) / 7.0).to_le_bytes());
        payload.extend_from_slice(&[0xfe, 0xff, 0xff, 0x0f, 4, 0xab, 0xcd]);
        payload.extend_from_slice(b"\x04\x00\x0c\x02\x08a\"\nb\x00\x02");
        payload.extend_from_slice(b"\x06\x02k\x00\x02l\x02\x01\x02m\x04\x02v\x00");
    }
    payload.push(0);
    payload
}

/// Our own schemas, and the foreign one under its registry id.
fn schemas() -> Schemas {
    let mut table = SchemaTable::builtin();
    let schema = WriterSchema::parse(FOREIGN_SCHEMA).expect("a schema");
    let mut plans = schema.plans(&Mapping::default()).expect("plans");
    let (_, plan) = plans.pop().expect("of the array");
    let known = Known::Plan(Arc::new(plan));
    table.by_registry_id.insert(FOREIGN_ID, known);
    Schemas::new(table)
}

/// With all that needs the scratch: escapes in names and values, ids, attributes.
fn json_payload() -> Vec<u8> {
    (0..RECORDS)
        .flat_map(|index| {
            let padding = "\\n\\u00e9".repeat(index as usize % 40);
            [
                format!(r#"{{"ts":"2024-02-29T12:00:00.{index:09}Z","level":"warn","#),
                format!(r#""\u006dsg":"say \"{index}\"{padding}","took":{index}.5,"#),
                format!(r#""trace_id":"{index:032x}","span_id":"{index:016x}","host":"h","#),
                r#""attributes":{"a\tb":"c\\d","deep":[{"x":[1,2,{}]}]}}"#.to_owned(),
                "\n".to_owned(),
            ]
        })
        .collect::<String>()
        .into_bytes()
}

#[test]
fn decoding_allocates_nothing() {
    let one = allocations(|| drop(std::hint::black_box(vec![0u8; 100])));
    assert_eq!(one, 1, "the allocator counts");

    let mut decoder = Decoder::new(&schemas());
    let batch = LogBatch { records: records() };
    let compressed = |payload: Vec<u8>| zstd::bulk::compress(&payload, 3).expect("compressed");
    let v3 = avro(SchemaVersion::V3, &batch.records);
    for (encoding, zstd, payload) in [
        (Encoding::Protobuf, false, batch.encode_to_vec()),
        (
            Encoding::Avro,
            false,
            avro(SchemaVersion::V1, &batch.records),
        ),
        (
            Encoding::Avro,
            false,
            avro(SchemaVersion::V2, &batch.records),
        ),
        (Encoding::Avro, false, v3.clone()),
        (Encoding::Avro, false, foreign_payload()),
        (Encoding::Json, false, json_payload()),
        (Encoding::Protobuf, true, compressed(batch.encode_to_vec())),
        (Encoding::Avro, true, compressed(v3)),
        (Encoding::Json, true, compressed(json_payload())),
    ] {
        let mut seen = 0;
        let mut pass = || {
            let whole = Payload {
                zstd,
                ..Payload::plain(encoding, &payload)
            };
            assert!(decoder.validate(&whole, RECORDS).is_ok());
            let count = decoder.for_each(&whole, |record| {
                seen += record.body.len() + record.trace_id.len();
                for (key, value) in &record.attributes {
                    seen += key.len() + value.len();
                }
            });
            assert_eq!(count, Ok(RECORDS));
            // A refusal needs no memory either.
            let cut = Payload {
                bytes: &payload[..payload.len() - 5],
                ..whole
            };
            assert!(decoder.validate(&cut, RECORDS).is_err());
            assert!(decoder.for_each(&cut, |_| ()).is_err());
        };
        // Once for what is set up at first use (simdutf8 asks the processor what it can).
        pass();
        let count = allocations(|| (0..10).for_each(|_| pass()));
        assert_eq!(count, 0, "{encoding:?}, zstd: {zstd}");
        assert!(seen > 0);
    }
}
