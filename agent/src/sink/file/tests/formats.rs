//! JSON lines and length-delimited Protobuf, read by serde_json and prost; every format by our own
//! reader.

use penstock_proto::v1::StoredRecord;
use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};

use super::interop::{any_entry, own_expected, with_attributes, write_as};
use super::*;
use crate::sink::file::container::ContainerError;
use crate::sink::sample::{LISTENERS, SampleEntry, numbered};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn peer(entry: &SampleEntry) -> String {
    entry.peer.map(|peer| peer.to_string()).unwrap_or_default()
}

/// What serde_json must read, built field by field from what was sent.
fn expected_json(entry: &SampleEntry, record: &LogRecord) -> Value {
    json!({
        "time_unix_nano": record.time_unix_nano.to_string(),
        "severity_number": record.severity_number,
        "service_name": record.service_name,
        "body": record.body,
        "host_name": record.host_name,
        "attributes": record.attributes,
        "trace_id": hex(&record.trace_id),
        "span_id": hex(&record.span_id),
        "observed_time_unix_nano": entry.observed_time_unix_nano.to_string(),
        "listener": LISTENERS[usize::from(entry.listener)],
        "peer_address": peer(entry),
    })
}

fn expected_protobuf(entry: &SampleEntry, record: &LogRecord) -> StoredRecord {
    let record = record.clone();
    StoredRecord {
        time_unix_nano: record.time_unix_nano,
        severity_number: record.severity_number,
        service_name: record.service_name,
        body: record.body,
        host_name: record.host_name,
        attributes: record.attributes,
        trace_id: record.trace_id,
        span_id: record.span_id,
        observed_time_unix_nano: entry.observed_time_unix_nano,
        listener: LISTENERS[usize::from(entry.listener)].to_owned(),
        peer_address: peer(entry),
    }
}

fn protobuf_messages(mut bytes: &[u8]) -> Vec<StoredRecord> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        messages.push(StoredRecord::decode_length_delimited(&mut bytes).expect("a message"));
    }
    messages
}

/// Every record that our reader finds, and every damage, as text.
fn own_reader(bytes: &[u8], name: &str) -> Vec<String> {
    let mut file = tempfile::tempfile().expect("a file");
    std::io::Write::write_all(&mut file, bytes).expect("write");
    let mut reader = RecordsReader::open(file, Path::new(name)).expect("a sink's file");
    let mut shown = Vec::new();
    loop {
        match reader.read_next() {
            Ok(Next::Records(records)) => {
                for mut record in records {
                    record.attributes.sort_unstable();
                    shown.push(format!("{record:?}"));
                }
            }
            Ok(Next::End) => return shown,
            Ok(Next::Partial) => {
                shown.push("partial".to_owned());
                return shown;
            }
            Err(ContainerError::Damaged { .. }) => shown.push("damaged".to_owned()),
            Err(error) => panic!("{error}"),
        }
    }
}

fn unzstd(compression: Compression, bytes: Vec<u8>) -> Vec<u8> {
    match compression {
        // Several frames, one behind the other, are one stream to every reader of zstd.
        Compression::Zstd => zstd::stream::decode_all(&bytes[..]).expect("zstd frames"),
        _ => bytes,
    }
}

const STREAM_COMPRESSIONS: [(Compression, &str, &str); 2] = [
    (Compression::None, "f.jsonl", "f.pb"),
    (Compression::Zstd, "f.jsonl.zst", "f.pb.zst"),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn serde_json_prost_and_our_reader_read_what_was_sent(
        batches in proptest::collection::vec(any_entry(), 1..6),
    ) {
        let entries: Vec<_> = batches.iter().map(|(entry, _)| entry.clone()).collect();
        let pairs = || batches.iter().flat_map(|(entry, records)| records.iter().map(move |r| (entry, r)));
        let own: Vec<String> = pairs().map(|(entry, record)| own_expected(entry, record)).collect();
        for (compression, jsonl, pb) in STREAM_COMPRESSIONS {
            let (_folder, bytes) = write_as((FileFormat::Jsonl, compression), &entries);
            prop_assert_eq!(&own_reader(&bytes, jsonl), &own);
            let text = String::from_utf8(unzstd(compression, bytes)).expect("UTF-8");
            let read: Vec<Value> = text
                .split_terminator('\n')
                .map(|line| serde_json::from_str(line).expect("JSON"))
                .collect();
            let sent: Vec<Value> = pairs().map(|(entry, record)| expected_json(entry, record)).collect();
            prop_assert_eq!(read, sent);

            let (_folder, bytes) = write_as((FileFormat::Protobuf, compression), &entries);
            prop_assert_eq!(&own_reader(&bytes, pb), &own);
            let read = protobuf_messages(&unzstd(compression, bytes));
            let sent: Vec<StoredRecord> =
                pairs().map(|(entry, record)| expected_protobuf(entry, record)).collect();
            prop_assert_eq!(read, sent);
        }
    }
}

/// By hand, so that the names, their order and the kinds of value are held.
#[test]
fn a_json_line_is_the_documented_one() {
    let record = LogRecord {
        time_unix_nano: 1_700_000_000_123_456_789,
        severity_number: 17,
        service_name: "billing".to_owned(),
        body: "card \"declined\"\n".to_owned(),
        host_name: "web-17".to_owned(),
        attributes: [("attempt".to_owned(), "3".to_owned())].into(),
        trace_id: (0..16).collect(),
        span_id: vec![0xff; 8],
    };
    let entry = SampleEntry::protobuf(
        1_700_000_000_200_000_000,
        vec![record, LogRecord::default()],
    );
    let (_folder, bytes) = write_as((FileFormat::Jsonl, Compression::None), &[entry]);
    let expected = concat!(
        r#"{"time_unix_nano":"1700000000123456789","severity_number":17,"service_name":"billing","#,
        r#""body":"card \"declined\"\n","host_name":"web-17","attributes":{"attempt":"3"},"#,
        r#""trace_id":"000102030405060708090a0b0c0d0e0f","span_id":"ffffffffffffffff","#,
        r#""observed_time_unix_nano":"1700000000200000000","listener":"apps","#,
        r#""peer_address":"192.0.2.7:5140"}"#,
        "\n",
        r#"{"time_unix_nano":"0","severity_number":0,"service_name":"","body":"","host_name":"","#,
        r#""attributes":{},"trace_id":"","span_id":"","#,
        r#""observed_time_unix_nano":"1700000000200000000","listener":"apps","#,
        r#""peer_address":"192.0.2.7:5140"}"#,
        "\n",
    );
    assert_eq!(String::from_utf8(bytes).expect("UTF-8"), expected);
}

#[test]
fn of_attributes_with_one_key_the_last_is_written_once() {
    for count in [2, 3, 8, 9, 40, 1_000] {
        // Keys that must be escaped, too.
        let pairs: Vec<(String, String)> = (0..count)
            .map(|at| {
                (
                    format!("key\t{}", at % (count / 2 + 1)),
                    format!("value{at}"),
                )
            })
            .collect();
        let entry = with_attributes(&pairs);
        let last: std::collections::HashMap<_, _> = pairs.iter().cloned().collect();
        let (_folder, bytes) = write_as(
            (FileFormat::Jsonl, Compression::None),
            std::slice::from_ref(&entry),
        );
        let line = String::from_utf8(bytes).expect("UTF-8");
        for key in last.keys() {
            let key = serde_json::to_string(key).expect("a string");
            assert_eq!(line.matches(&format!("{key}:")).count(), 1, "{count} pairs");
        }
        let read: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(read["attributes"], json!(last));
        assert_eq!(read["listener"], "apps");

        let (_folder, bytes) = write_as((FileFormat::Protobuf, Compression::None), &[entry]);
        let messages = protobuf_messages(&bytes);
        assert_eq!(messages[0].attributes, last);
        // As long as a message that never had the others.
        assert_eq!(
            messages[0].encode_length_delimited_to_vec().len(),
            bytes.len()
        );
    }
}

/// Lengths of one, two, three and four bytes.
#[test]
fn messages_of_every_length_stand_behind_their_length() {
    let records: Vec<LogRecord> = [
        0, 60, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99, 100, 16_300, 16_384, 700_000,
    ]
    .map(|len| LogRecord {
        body: "x".repeat(len),
        ..LogRecord::default()
    })
    .to_vec();
    let entry = SampleEntry {
        peer: None,
        ..SampleEntry::protobuf(1, records.clone())
    };
    let (_folder, bytes) = write_as(
        (FileFormat::Protobuf, Compression::None),
        std::slice::from_ref(&entry),
    );
    let expected: Vec<StoredRecord> = records
        .iter()
        .map(|record| expected_protobuf(&entry, record))
        .collect();
    assert_eq!(protobuf_messages(&bytes), expected);
    let slow: Vec<u8> = expected
        .iter()
        .flat_map(StoredRecord::encode_length_delimited_to_vec)
        .collect();
    assert_eq!(
        bytes, slow,
        "without attributes there is one way to write it"
    );
}

/// Cut at any byte, the whole records before it are read; a damaged block leaves its neighbours.
#[test]
fn cut_and_damaged_streams_give_what_is_whole() {
    let entries: Vec<SampleEntry> = (0..3)
        .map(|at| SampleEntry::protobuf(at, vec![numbered(at)]))
        .collect();
    for (compression, jsonl, pb) in STREAM_COMPRESSIONS {
        for (format, name) in [(FileFormat::Jsonl, jsonl), (FileFormat::Protobuf, pb)] {
            // One block for each entry, as if each had been committed.
            let blocks: Vec<Vec<u8>> = entries
                .iter()
                .map(|entry| write_as((format, compression), std::slice::from_ref(entry)).1)
                .collect();
            let whole = blocks.concat();
            let all = own_reader(&whole, name);
            assert_eq!(all.len(), 3);
            for cut in 0..whole.len() {
                let ends = [0, 1, 2].map(|at| blocks[..=at].iter().map(Vec::len).sum::<usize>());
                let count = ends.iter().filter(|end| **end <= cut).count();
                let mut expected = all[..count].to_vec();
                if cut != 0 && !ends.contains(&cut) {
                    expected.push("partial".to_owned());
                }
                assert_eq!(
                    own_reader(&whole[..cut], name),
                    expected,
                    "{name} cut at {cut}"
                );
            }
            let mut damaged = whole.clone();
            // In the second block: an opening brace, a message's first key, or a frame's checksum.
            let at = match (format, compression) {
                (FileFormat::Jsonl, Compression::None) => blocks[0].len(),
                (_, Compression::None) => blocks[0].len() + 1,
                _ => blocks[0].len() + blocks[1].len() - 1,
            };
            damaged[at] ^= 0x7f;
            let expected = [&all[0], "damaged", &all[2]];
            assert_eq!(own_reader(&damaged, name), expected, "{name}");
        }
    }
}

#[test]
fn a_file_with_another_name_is_known_by_its_first_bytes() {
    let entry = SampleEntry::protobuf(1, vec![numbered(7)]);
    for format in FORMATS {
        let (_folder, bytes) = write_as(format, std::slice::from_ref(&entry));
        if format.0 == FileFormat::Protobuf {
            // There is nothing to know it by.
            continue;
        }
        let shown = own_reader(&bytes, "copy.bin");
        assert!(
            shown.len() == 1 && shown[0].contains("record 7"),
            "{format:?}: {shown:?}"
        );
    }
}
