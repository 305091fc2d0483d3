//! `proto/RECORDS.md` says what is true: its examples decode to what it says, and its tables are
//! the ones that the decoders go by.

use std::collections::BTreeMap;
use std::sync::Arc;

use penstock_proto::avro::SchemaVersion;
use penstock_proto::encoding::Encoding;

use super::avro::plan::{Mapping, Plan, Target};
use super::avro::writer::WriterSchema;
use super::json::names::{Field, field};
use super::json::severity;
use super::{Checked, Decoder, Payload};
use crate::record::RecordView;
use crate::schema::table::{Known, SchemaTable, Schemas};

const DOCUMENT: &str = include_str!("../../../proto/RECORDS.md");

/// The code blocks of one language, in order.
fn blocks(language: &str) -> Vec<&'static str> {
    DOCUMENT
        .split("```")
        .filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'))
        .collect()
}

/// The rows below a table's heading.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, table) = DOCUMENT.split_once(heading).expect(heading);
    table
        .lines()
        .skip(2)
        .map_while(|line| line.strip_prefix('|')?.strip_suffix('|'))
        .map(|row| row.split('|').map(str::trim).collect())
        .collect()
}

fn names(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

fn assert_is_the_example(record: &RecordView<'_>) {
    assert_eq!(record.time_unix_nano, 1_700_000_000_123_456_789);
    assert_eq!(record.severity_number, 17);
    assert_eq!(record.service_name, "billing");
    assert_eq!(record.body, "card declined");
    assert_eq!(record.host_name, "web-17");
    assert!(record.attributes.iter().eq([("attempt", "3")]));
}

/// The bytes of a block of this language: what stands before a `#`, line after line.
fn hex(language: &str) -> Vec<u8> {
    bytes(blocks(language)[0])
}

fn bytes(hex: &str) -> Vec<u8> {
    hex.lines()
        .flat_map(|line| line.split('#').next().unwrap().split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

/// Somebody else's schema, mapped as the text says.
#[test]
fn the_example_of_another_schema_is_its_record() {
    let schema = WriterSchema::parse(blocks("avsc")[0]).expect("a schema");
    let mapping = Mapping {
        fields: vec![
            ("level".to_owned(), Target::SeverityNumber),
            ("host".to_owned(), Target::HostName),
        ],
        count_unmapped: false,
    };
    let plan = Plan::compile(schema.schema(), &mapping).expect("a plan");
    let mut table = SchemaTable::builtin();
    table.by_registry_id.insert(7, Known::Plan(Arc::new(plan)));
    let mut decoder = Decoder::new(&Schemas::new(table));

    let avro = hex("hex confluent");
    let json = blocks("json event")[0].as_bytes();
    let records = [(Encoding::Avro, &avro[..]), (Encoding::Json, json)]
        .map(|(encoding, payload)| shown(&mut decoder, encoding, payload));
    assert_eq!(records[0], records[1]);
    assert_eq!(records[0].len(), 1);
}

/// The records of a payload, each as text; of no attributes the order matters.
fn shown(decoder: &mut Decoder, encoding: Encoding, payload: &[u8]) -> Vec<String> {
    let mut shown = Vec::new();
    let count = decoder.for_each(&Payload::plain(encoding, payload), |record| {
        let attributes: BTreeMap<&str, &str> = record.attributes.iter().collect();
        shown.push(format!(
            "{} {} {:?} {attributes:?} {:?}",
            record.time_unix_nano,
            record.severity_number,
            [record.service_name, record.body, record.host_name],
            [record.trace_id, record.span_id],
        ));
    });
    assert_eq!(count, Ok(shown.len() as u32));
    shown
}

/// The samples of our own schemas say what stands beside them.
#[test]
fn the_samples_are_their_records() {
    let mut decoder = Decoder::new(&Schemas::default());
    for (avro, json) in [
        (
            include_str!("../../../schemas/samples/log_record_v1.hex"),
            include_str!("../../../schemas/samples/log_record_v1.jsonl"),
        ),
        (
            include_str!("../../../schemas/samples/log_record_v2.hex"),
            include_str!("../../../schemas/samples/log_record_v2.jsonl"),
        ),
        (
            include_str!("../../../schemas/samples/log_record_v3.hex"),
            include_str!("../../../schemas/samples/log_record_v3.jsonl"),
        ),
    ] {
        let avro = shown(&mut decoder, Encoding::Avro, &bytes(avro));
        let json = shown(&mut decoder, Encoding::Json, json.as_bytes());
        assert_eq!(avro, json);
        assert_eq!(avro.len(), 2);
    }
}

#[test]
fn the_table_of_versions_is_the_fingerprints() {
    let rows =
        rows("| version | its fields | fingerprint of the array, as it stands in a payload |");
    for (row, schema) in rows.iter().zip(SchemaVersion::ALL) {
        assert_eq!(row[0], schema.label());
        let digits = format!("{:016x}", schema.array_fingerprint().swap_bytes());
        assert_eq!(names(row[2]), [digits]);
    }
    assert_eq!(rows.len(), 3);
}

#[test]
fn the_examples_are_one_record() {
    let protobuf = hex("hex");
    assert_eq!(protobuf.len(), 87);
    let avro = hex("hex avro");
    assert_eq!(avro.len(), 89);
    let json = blocks("json");
    let trace_id = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes();
    let span_id = 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes();

    let mut decoder = Decoder::new(&Schemas::default());
    for (encoding, payload, has_ids) in [
        (Encoding::Protobuf, &protobuf[..], true),
        (Encoding::Avro, &avro[..], true),
        (Encoding::Json, json[0].as_bytes(), true),
        (Encoding::Json, json[1].as_bytes(), false),
    ] {
        let count = decoder.for_each(&Payload::plain(encoding, payload), |record| {
            assert_is_the_example(record);
            if has_ids {
                assert_eq!(record.trace_id, trace_id);
                assert_eq!(record.span_id, span_id);
            }
        });
        assert_eq!(count, Ok(1));
        assert_eq!(
            decoder.validate(&Payload::plain(encoding, payload), 1),
            Ok(Checked::default())
        );
    }
}

#[test]
fn the_table_of_names_is_the_decoders() {
    let rows = rows("| field | names | what the field takes |");
    let mut fields = Vec::new();
    for row in &rows {
        let names = names(row[1]);
        let filled = field(names[0]);
        assert!(!fields.contains(&filled), "{} has two rows", names[0]);
        assert_ne!(filled, Field::None, "{}", names[0]);
        fields.push(filled);
        for name in names {
            assert_eq!(field(name), filled, "{name}");
            assert_eq!(field(&name.to_uppercase()), Field::None, "{name}");
        }
    }
    assert_eq!(fields.len(), 10);
}

#[test]
fn the_table_of_levels_is_the_decoders() {
    let rows = rows("| word | number |");
    assert_eq!(rows.len(), 9);
    for row in &rows {
        for word in names(row[0]) {
            assert_eq!(severity::word(word), row[1].parse().ok(), "{word}");
        }
    }
}
