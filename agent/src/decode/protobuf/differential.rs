//! The views against prost, on valid, damaged and random input: both accept or both refuse, and
//! where they accept they saw the same. Two differences are meant:
//!
//! - prost reads an attribute of any wire type as if it had the right one; we refuse it;
//! - prost nests unknown groups to 100, we to 32.

use penstock_proto::reason::Reason;
use penstock_proto::v1::{LogBatch, LogRecord};
use proptest::prelude::*;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::decode::damage::{any_damage, cases};
use crate::record::RecordView;

fn owned(view: &RecordView<'_>) -> LogRecord {
    assert_eq!(view.attributes.iter().count(), view.attributes.len());
    LogRecord {
        time_unix_nano: view.time_unix_nano,
        severity_number: view.severity_number,
        service_name: view.service_name.to_owned(),
        body: view.body.to_owned(),
        host_name: view.host_name.to_owned(),
        attributes: view
            .attributes
            .iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        trace_id: view.trace_id.to_owned(),
        span_id: view.span_id.to_owned(),
    }
}

fn read(payload: &[u8]) -> Result<LogBatch, Reason> {
    let mut records = Vec::new();
    let seen = super::for_each(payload, |view| records.push(owned(view)));
    let validated = super::validate(payload).map(|found| found.records);
    assert_eq!(seen, validated, "both walks agree");
    seen.map(|count| {
        assert_eq!(count as usize, records.len());
        LogBatch { records }
    })
}

/// Whether a record has a field 6 that is not length-delimited, as prost's own primitives see it.
fn has_attribute_of_foreign_wire_type(payload: &[u8]) -> bool {
    fn look(mut payload: &[u8]) -> Option<bool> {
        while !payload.is_empty() {
            let (tag, wire_type) = decode_key(&mut payload).ok()?;
            if (tag, wire_type) != (1, WireType::LengthDelimited) {
                skip_field(wire_type, tag, &mut payload, DecodeContext::default()).ok()?;
                continue;
            }
            let len = decode_varint(&mut payload).ok()? as usize;
            let (mut record, rest) = payload.split_at_checked(len)?;
            payload = rest;
            while !record.is_empty() {
                let (tag, wire_type) = decode_key(&mut record).ok()?;
                if tag == 6 && wire_type != WireType::LengthDelimited {
                    return Some(true);
                }
                skip_field(wire_type, tag, &mut record, DecodeContext::default()).ok()?;
            }
        }
        Some(false)
    }
    look(payload) == Some(true)
}

fn agree(payload: &[u8]) -> Result<(), TestCaseError> {
    match (read(payload), LogBatch::decode(payload)) {
        (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours, theirs),
        (Err(_), Err(_)) | (Err(Reason::TooDeep), Ok(_)) => {}
        (Err(Reason::MalformedPayload), Ok(_)) if has_attribute_of_foreign_wire_type(payload) => {}
        (ours, theirs) => prop_assert!(false, "{ours:?}, prost {theirs:?}"),
    }
    Ok(())
}

fn any_record() -> impl Strategy<Value = LogRecord> {
    (
        any::<u64>(),
        prop_oneof![0..25u32, any::<u32>()],
        ".{0,12}",
        // Lengths of one byte and of two, ASCII and not.
        prop_oneof![".{0,40}", "[ -~]{100,300}", "[ -~]{60,90}é?"],
        ".{0,12}",
        prop::collection::hash_map(".{0,8}", ".{0,8}", 0..4),
        prop::collection::vec(any::<u8>(), 0..17),
        prop::collection::vec(any::<u8>(), 0..9),
    )
        .prop_map(
            |(
                time_unix_nano,
                severity_number,
                service_name,
                body,
                host_name,
                attributes,
                trace_id,
                span_id,
            )| LogRecord {
                time_unix_nano,
                severity_number,
                service_name,
                body,
                host_name,
                attributes,
                trace_id,
                span_id,
            },
        )
}

fn any_batch() -> impl Strategy<Value = LogBatch> {
    prop::collection::vec(any_record(), 0..5).prop_map(|records| LogBatch { records })
}

/// One field as it stands on the wire, right or wrong.
#[derive(Clone, Debug)]
enum Field {
    Varint(u32, u64, usize),
    Fixed64(u32, u64),
    Bytes(u32, Vec<u8>),
    Message(u32, Vec<Field>),
    Group(u32, u32, Vec<Field>),
    Fixed32(u32, u32),
    Stray(u8),
}

impl Field {
    fn write(&self, out: &mut Vec<u8>) {
        let key = |out: &mut Vec<u8>, field: u32, wire_type: u32| {
            varint(out, u64::from(field << 3 | wire_type), 0);
        };
        match self {
            Self::Varint(field, value, padding) => {
                key(out, *field, 0);
                varint(out, *value, *padding);
            }
            Self::Fixed64(field, value) => {
                key(out, *field, 1);
                out.extend_from_slice(&value.to_le_bytes());
            }
            Self::Bytes(field, bytes) => {
                key(out, *field, 2);
                varint(out, bytes.len() as u64, 0);
                out.extend_from_slice(bytes);
            }
            Self::Message(field, fields) => {
                let mut bytes = Vec::new();
                fields.iter().for_each(|inner| inner.write(&mut bytes));
                Self::Bytes(*field, bytes).write(out);
            }
            Self::Group(field, end, fields) => {
                key(out, *field, 3);
                fields.iter().for_each(|inner| inner.write(out));
                key(out, *end, 4);
            }
            Self::Fixed32(field, value) => {
                key(out, *field, 5);
                out.extend_from_slice(&value.to_le_bytes());
            }
            Self::Stray(byte) => out.push(*byte),
        }
    }
}

/// A varint with `padding` bytes more than it needs.
fn varint(out: &mut Vec<u8>, mut value: u64, padding: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    if padding == 0 {
        return out.push(value as u8);
    }
    out.push(value as u8 | 0x80);
    out.extend(std::iter::repeat_n(0x80, padding - 1));
    out.push(0);
}

/// Mostly with the wire type that the record gives the field, and now and then with another.
fn any_field() -> impl Strategy<Value = Field> {
    let number = || prop_oneof![20 => 1..12u32, 1 => Just(0), 1 => 12..0x2000_0000u32];
    let padding = || prop_oneof![9 => Just(0usize), 1 => 1..4usize];
    let leaf = prop_oneof![
        4 => any::<u64>().prop_map(|value| Field::Fixed64(1, value)),
        4 => (any::<u64>(), padding()).prop_map(|(value, padding)| Field::Varint(2, value, padding)),
        8 => (3..9u32, ".{0,10}").prop_map(|(field, text)| Field::Bytes(field, text.into())),
        1 => (3..9u32, prop::collection::vec(any::<u8>(), 0..4))
            .prop_map(|(field, bytes)| Field::Bytes(field, bytes)),
        1 => (number(), any::<u64>(), padding())
            .prop_map(|(field, value, padding)| Field::Varint(field, value, padding)),
        1 => (number(), any::<u64>()).prop_map(|(field, value)| Field::Fixed64(field, value)),
        1 => (9..12u32, ".{0,10}").prop_map(|(field, text)| Field::Bytes(field, text.into())),
        1 => (number(), any::<u32>()).prop_map(|(field, value)| Field::Fixed32(field, value)),
    ];
    let leaf = prop_oneof![60 => leaf, 1 => any::<u8>().prop_map(Field::Stray)];
    leaf.prop_recursive(4, 16, 4, move |inner| {
        let inner = || prop::collection::vec(inner.clone(), 0..4);
        prop_oneof![
            6 => inner().prop_map(|fields| Field::Message(6, fields)),
            1 => (number(), inner()).prop_map(|(field, fields)| Field::Message(field, fields)),
            3 => (9..12u32, inner()).prop_map(|(field, fields)| Field::Group(field, field, fields)),
            1 => (number(), number(), inner())
                .prop_map(|(field, end, fields)| Field::Group(field, end, fields)),
        ]
    })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn valid_batches(batch in any_batch()) {
        let payload = batch.encode_to_vec();
        prop_assert_eq!(read(&payload), Ok(batch));
    }

    #[test]
    fn damaged_batches(
        batch in any_batch(),
        damage in any_damage(),
    ) {
        let mut payload = batch.encode_to_vec();
        damage.iter().for_each(|damage| damage.apply(&mut payload));
        agree(&payload)?;
    }

    /// Fields in any order, repeated, unknown, padded, in groups, and some of them wrong.
    #[test]
    fn batches_of_any_fields(
        records in prop::collection::vec(prop::collection::vec(any_field(), 0..8), 0..3),
        beside in prop::collection::vec(any_field(), 0..2),
    ) {
        let mut payload = Vec::new();
        for record in records {
            Field::Message(1, record).write(&mut payload);
        }
        agree(&payload)?;
        beside.iter().for_each(|field| field.write(&mut payload));
        agree(&payload)?;
    }

    #[test]
    fn random_bytes(payload in prop::collection::vec(any::<u8>(), 0..64)) {
        agree(&payload)?;
    }

    /// Cut anywhere, a batch ends in the middle of a value, or between two records.
    #[test]
    fn every_prefix_is_truncated_or_a_shorter_batch(batch in any_batch()) {
        let payload = batch.encode_to_vec();
        for len in 0..payload.len() {
            match read(&payload[..len]) {
                Ok(shorter) => prop_assert_eq!(
                    &shorter.records[..],
                    &batch.records[..shorter.records.len()]
                ),
                Err(reason) => prop_assert_eq!(reason, Reason::TruncatedPayload),
            }
        }
    }
}
