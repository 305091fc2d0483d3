//! Decoding allocates nothing: a decoder brings its scratch with it, and views borrow.

use penstock::decode::{Decoder, Payload};
use penstock::schema::table::Schemas;
use penstock_proto::encoding::Encoding;
use penstock_proto::v1::{LogBatch, LogRecord};
use penstock_tests::allocation::{Counting, allocations};
use prost::Message;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const RECORDS: u32 = 1000;

fn protobuf_payload() -> Vec<u8> {
    let records = (0..u64::from(RECORDS))
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
        .collect();
    LogBatch { records }.encode_to_vec()
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

    let mut decoder = Decoder::new(&Schemas::default());
    let compressed = |payload: Vec<u8>| zstd::bulk::compress(&payload, 3).expect("compressed");
    for (encoding, zstd, payload) in [
        (Encoding::Protobuf, false, protobuf_payload()),
        (Encoding::Json, false, json_payload()),
        (Encoding::Protobuf, true, compressed(protobuf_payload())),
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
