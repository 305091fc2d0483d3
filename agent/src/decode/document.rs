//! `proto/RECORDS.md` says what is true: its examples decode to what it says, and its tables are
//! the ones that the decoders go by.

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
    blocks(language)[0]
        .lines()
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
    let mut records = Vec::new();
    for (encoding, payload) in [(Encoding::Avro, &avro[..]), (Encoding::Json, json)] {
        let payload = Payload::plain(encoding, payload);
        let mut fields = Vec::new();
        let count = decoder.for_each(&payload, |record| {
            fields.push((
                record.time_unix_nano,
                record.severity_number,
                [record.service_name, record.body, record.host_name].map(str::to_owned),
                record
                    .attributes
                    .iter()
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .collect::<Vec<_>>(),
            ));
        });
        assert_eq!(count, Ok(1));
        records.push(fields.remove(0));
    }
    assert_eq!(records[0], records[1]);
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
    assert_eq!(avro.len(), 93);
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
