//! What the encoder writes, read by apache-avro and by our own reader.

use apache_avro::types::Value;
use proptest::prelude::*;

use super::*;
use crate::sink::Cursor;
use crate::sink::file::container::{ContainerReader, Stored};
use crate::sink::sample::{LISTENERS, SampleEntry, SampleJournal};

/// Writes the entries through a journal and the sink; returns the sealed file's bytes and path.
fn write(entries: &[SampleEntry], compression: Compression) -> (tempfile::TempDir, Vec<u8>) {
    write_as((FileFormat::Avro, compression), entries)
}

pub(super) fn write_as(
    format: (FileFormat, Compression),
    entries: &[SampleEntry],
) -> (tempfile::TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = SampleJournal::new(folder.path());
    journal.append(entries);
    let mut sink = sink(folder.path(), &settings_of(format));
    sink.resume().expect("resume");
    sink.begin(Cursor::default()).expect("begin");
    deliver(&mut sink, &journal.folder, 0, journal.position);
    sink.seal().expect("seal");
    let names = output_names(folder.path());
    assert_eq!(names.len(), 1);
    let bytes = std::fs::read(folder.path().join("records").join(&names[0])).expect("read");
    (folder, bytes)
}

/// What apache-avro must read, built field by field from what was sent.
fn expected(entry: &SampleEntry, record: &LogRecord) -> Value {
    let attributes = record
        .attributes
        .iter()
        .map(|(key, value)| (key.clone(), Value::String(value.clone())))
        .collect();
    let peer = entry.peer.map(|peer| peer.to_string()).unwrap_or_default();
    let fields = [
        ("time_unix_nano", Value::Long(record.time_unix_nano as i64)),
        ("severity_number", Value::Int(record.severity_number as i32)),
        ("service_name", Value::String(record.service_name.clone())),
        ("body", Value::String(record.body.clone())),
        ("host_name", Value::String(record.host_name.clone())),
        ("attributes", Value::Map(attributes)),
        ("trace_id", Value::Bytes(record.trace_id.clone())),
        ("span_id", Value::Bytes(record.span_id.clone())),
        (
            "observed_time_unix_nano",
            Value::Long(entry.observed_time_unix_nano as i64),
        ),
        (
            "listener",
            Value::String(LISTENERS[usize::from(entry.listener)].to_owned()),
        ),
        ("peer_address", Value::String(peer)),
    ];
    Value::Record(
        fields
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec(),
    )
}

fn own_reader(bytes: &[u8]) -> Vec<String> {
    let mut file = tempfile::tempfile().expect("a file");
    std::io::Write::write_all(&mut file, bytes).expect("write");
    let mut reader = ContainerReader::open(file).expect("a container");
    let mut shown = Vec::new();
    while let Next::Records(records) = reader.read_next().expect("a good block") {
        for mut record in records {
            record.attributes.sort_unstable();
            shown.push(format!("{record:?}"));
        }
    }
    shown
}

pub(super) fn own_expected(entry: &SampleEntry, record: &LogRecord) -> String {
    let peer = entry.peer.map(|peer| peer.to_string()).unwrap_or_default();
    let mut stored = Stored {
        time_unix_nano: record.time_unix_nano,
        severity_number: record.severity_number,
        service_name: &record.service_name,
        body: &record.body,
        host_name: &record.host_name,
        attributes: record
            .attributes
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect(),
        trace_id: &record.trace_id,
        span_id: &record.span_id,
        observed_time_unix_nano: entry.observed_time_unix_nano,
        listener: LISTENERS[usize::from(entry.listener)],
        peer_address: &peer,
        keep_sixteenths: None,
    };
    stored.attributes.sort_unstable();
    format!("{stored:?}")
}

fn any_record() -> impl Strategy<Value = LogRecord> {
    (
        any::<u64>(),
        any::<u32>(),
        ".{0,12}",
        ".{0,200}",
        "[a-zäß☃]{0,8}",
        proptest::collection::hash_map(".{0,8}", ".{0,20}", 0..20),
        prop_oneof![Just(vec![]), proptest::collection::vec(any::<u8>(), 16)],
        prop_oneof![Just(vec![]), proptest::collection::vec(any::<u8>(), 8)],
    )
        .prop_map(
            |(time, severity, service, body, host, attributes, trace, span)| LogRecord {
                time_unix_nano: time,
                severity_number: severity,
                service_name: service,
                body,
                host_name: host,
                attributes,
                trace_id: trace,
                span_id: span,
            },
        )
}

pub(super) fn any_entry() -> impl Strategy<Value = (SampleEntry, Vec<LogRecord>)> {
    let records = proptest::collection::vec(any_record(), 1..12);
    let peer = prop_oneof![
        Just(None),
        any::<(u32, u16)>()
            .prop_map(|(ip, port)| Some((std::net::Ipv4Addr::from(ip), port).into())),
        // Not an IPv4 address mapped into IPv6, which the journal writes as IPv4.
        any::<(u32, u16)>().prop_map(|(ip, port)| {
            let ip = std::net::Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(ip));
            Some((ip, port).into())
        }),
    ];
    (records, any::<u64>(), 0..2_u16, peer).prop_map(|(records, observed, listener, peer)| {
        let entry = SampleEntry {
            listener,
            peer,
            ..SampleEntry::protobuf(observed, records.clone())
        };
        (entry, records)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn apache_avro_reads_what_was_sent(
        batches in proptest::collection::vec(any_entry(), 1..6),
        compression in prop_oneof![
            Just(Compression::None),
            Just(Compression::Zstd),
            Just(Compression::Snappy),
        ],
    ) {
        let entries: Vec<_> = batches.iter().map(|(entry, _)| entry.clone()).collect();
        let (_folder, bytes) = write(&entries, compression);
        let read: Vec<Value> = apache_avro::Reader::new(&bytes[..])
            .expect("an Avro file")
            .collect::<Result<_, _>>()
            .expect("records");
        let pairs = || batches.iter().flat_map(|(entry, records)| records.iter().map(move |r| (entry, r)));
        let sent: Vec<Value> = pairs().map(|(entry, record)| expected(entry, record)).collect();
        prop_assert_eq!(read, sent);
        let sent: Vec<String> = pairs().map(|(entry, record)| own_expected(entry, record)).collect();
        prop_assert_eq!(own_reader(&bytes), sent);
    }
}

/// One Protobuf record with these attributes as they stand, keys twice and all.
pub(super) fn with_attributes(pairs: &[(String, String)]) -> SampleEntry {
    fn field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
        out.push(number << 3 | 2);
        let mut len = bytes.len();
        while len >= 0x80 {
            out.push(len as u8 | 0x80);
            len >>= 7;
        }
        out.push(len as u8);
        out.extend_from_slice(bytes);
    }
    let mut record = Vec::new();
    for (key, value) in pairs {
        let mut pair = Vec::new();
        field(1, key.as_bytes(), &mut pair);
        field(2, value.as_bytes(), &mut pair);
        field(6, &pair, &mut record);
    }
    let mut payload = Vec::new();
    field(1, &record, &mut payload);
    SampleEntry {
        payload,
        records: 1,
        ..SampleEntry::protobuf(1, vec![LogRecord::default()])
    }
}

#[test]
fn of_attributes_with_one_key_the_last_is_stored_once() {
    // Below and above the count where the way to find them changes.
    for count in [2, 3, 8, 9, 40, 1_000] {
        let pairs: Vec<(String, String)> = (0..count)
            .map(|at| (format!("key{}", at % (count / 2 + 1)), format!("value{at}")))
            .collect();
        let entry = with_attributes(&pairs);
        let (_folder, bytes) = write(&[entry], Compression::None);
        // What a plain map makes of them.
        let last: std::collections::HashMap<_, _> = pairs.iter().cloned().collect();
        let mut file = tempfile::tempfile().expect("a file");
        std::io::Write::write_all(&mut file, &bytes).expect("write");
        let mut reader = ContainerReader::open(file).expect("a container");
        let Next::Records(records) = reader.read_next().expect("a good block") else {
            panic!("no block");
        };
        assert_eq!(records[0].attributes.len(), last.len(), "{count} pairs");
        for (key, value) in &records[0].attributes {
            assert_eq!(last.get(*key).map(String::as_str), Some(*value));
        }
        assert_eq!(
            records[0].listener, "apps",
            "the fields behind the map are in their place"
        );
    }
}

#[test]
fn a_frame_of_tiny_records_is_written_in_blocks_of_bounded_length() {
    // 100,000 empty records in 200,000 bytes become 29 bytes each: eight for fields at their defaults
    // (time, severity, three texts, the map, two ids), 1 for the observed time, 5 for "apps", 15 for
    // "192.0.2.7:5140".
    let payload = [0x0a, 0].repeat(100_000);
    let entry = SampleEntry {
        payload,
        records: 100_000,
        ..SampleEntry::protobuf(1, vec![LogRecord::default()])
    };
    let (_folder, bytes) = write(&[entry], Compression::None);
    assert!(bytes.len() > 2_900_000, "{} bytes", bytes.len());
    let mut file = tempfile::tempfile().expect("a file");
    std::io::Write::write_all(&mut file, &bytes).expect("write");
    let mut reader = ContainerReader::open(file).expect("a container");
    let mut total = 0;
    while let Next::Records(records) = reader.read_next().expect("a good block") {
        // A block ends at the first record beyond 128 KiB.
        assert!(
            records.len() * 29 < (128 << 10) + 29,
            "{} records",
            records.len()
        );
        total += records.len();
    }
    assert_eq!(total, 100_000);
}
