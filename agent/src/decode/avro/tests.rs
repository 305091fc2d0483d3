//! The rules of `proto/RECORDS.md`, on data written by hand.

use std::sync::Arc;

use penstock_proto::avro::SchemaVersion;
use penstock_proto::reason::Reason;
use serde_json::{Value, json};

use super::plan::{CompileError, Mapping, Plan, Target};
use super::writer::WriterSchema;
use super::*;
use crate::limits::{AVRO_WIDTHLESS_VALUES_MAX, NESTING_MAX, PAYLOAD_LEN_MAX};
use crate::schema::builtin::LOG_RECORDS;

/// A record as the tests compare it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub time_unix_nano: u64,
    pub severity_number: u32,
    pub service_name: String,
    pub body: String,
    pub host_name: String,
    pub attributes: Vec<(String, String)>,
    pub trace_id: Vec<u8>,
    pub span_id: Vec<u8>,
}

pub(super) fn owned(view: &RecordView<'_>) -> Seen {
    assert_eq!(view.attributes.iter().count(), view.attributes.len());
    Seen {
        time_unix_nano: view.time_unix_nano,
        severity_number: view.severity_number,
        service_name: view.service_name.to_owned(),
        body: view.body.to_owned(),
        host_name: view.host_name.to_owned(),
        attributes: owned_pairs(view.attributes.iter()),
        trace_id: view.trace_id.to_owned(),
        span_id: view.span_id.to_owned(),
    }
}

fn owned_pairs<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(String, String)> {
    pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// The records of a datum, by way of a payload; and how many fields had no place.
pub(super) fn read(plan: &Plan, datum: &[u8]) -> Result<(Vec<Seen>, u64), Reason> {
    let plan = Plan {
        shape: plan.shape,
        program: Arc::clone(&plan.program),
    };
    let mut table = SchemaTable::default();
    table.by_registry_id.insert(7, Known::Plan(Arc::new(plan)));
    let payload = [&[0, 0, 0, 0, 7], datum].concat();
    let mut seen = Vec::new();
    let mut scratch = Scratch::new();
    let found = for_each(&table, &mut scratch, &payload, |view| {
        seen.push(owned(view))
    })?;
    assert_eq!(found.records as usize, seen.len());
    Ok((seen, found.unmapped_fields))
}

fn plan_of(fields: Value, mapping: &Mapping) -> Result<Plan, CompileError> {
    let schema = json!({"type": "record", "name": "R", "fields": fields});
    let schema = WriterSchema::parse(&schema.to_string()).expect("a schema");
    Plan::compile(schema.schema(), mapping)
}

/// The one record of a datum.
fn read_one(fields: Value, mapping: &Mapping, datum: &[&[u8]]) -> Result<Seen, Reason> {
    let plan = plan_of(fields, mapping).expect("a plan");
    read(&plan, &datum.concat()).map(|(mut seen, _)| {
        assert_eq!(seen.len(), 1);
        seen.remove(0)
    })
}

fn mapped(fields: &[(&str, Target)]) -> Mapping {
    let fields = fields.iter().map(|&(path, to)| (path.to_owned(), to));
    Mapping {
        fields: fields.collect(),
        count_unmapped: false,
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    owned_pairs(pairs.iter().copied())
}

/// The attributes of a record that is nothing else.
fn attributes(fields: Value, datum: &[&[u8]]) -> Result<Vec<(String, String)>, Reason> {
    let seen = read_one(fields, &Mapping::default(), datum)?;
    let expected = Seen {
        attributes: seen.attributes.clone(),
        ..Seen::default()
    };
    assert_eq!(seen, expected);
    Ok(seen.attributes)
}

#[test]
fn our_own_schemas_are_known_by_the_fingerprints_that_producers_write() {
    let table = SchemaTable::builtin();
    assert_eq!(table.by_fingerprint.len(), 6);
    for (version, text) in SchemaVersion::ALL.into_iter().zip(LOG_RECORDS) {
        let schema = WriterSchema::parse(text).unwrap();
        assert_eq!(schema.array_fingerprint(), version.array_fingerprint());
        for fingerprint in [schema.fingerprint(), schema.array_fingerprint()] {
            assert!(table.by_fingerprint.contains_key(&fingerprint));
        }
    }
    // As fastavro 1.13.1 has them, in the order of the wire.
    let v1 = 0xd0f9_e775_3155_5d48_u64.swap_bytes();
    assert!(table.by_fingerprint.contains_key(&v1));
}

#[test]
fn a_payload_names_its_schema() {
    let table = SchemaTable::builtin();
    let read = |payload: &[u8]| for_each(&table, &mut Scratch::new(), payload, |_| ());
    let marked = |fingerprint: u64, datum: &[u8]| {
        [&[0xc3, 1], &fingerprint.to_le_bytes()[..], datum].concat()
    };
    let array = SchemaVersion::V1.array_fingerprint();
    let one = WriterSchema::parse(LOG_RECORDS[0]).unwrap().fingerprint();
    let found = |records| {
        Ok(Found {
            records,
            unmapped_fields: 0,
        })
    };
    assert_eq!(read(&marked(array, &[0])), found(0));
    assert_eq!(read(&marked(array, &[2, 0, 0, 0, 0, 0])), found(1));
    assert_eq!(read(&marked(one, &[0, 0, 0, 0])), found(1));
    // Something behind the datum.
    assert_eq!(read(&marked(one, &[0; 5])), Err(Reason::MalformedPayload));
    assert_eq!(read(&marked(1, &[0])), Err(Reason::UnknownSchema));
    assert_eq!(read(&[0, 0, 0, 0, 1, 0]), Err(Reason::UnknownSchema));
    let whole = marked(array, &[0]);
    for len in 0..whole.len() {
        assert_eq!(read(&whole[..len]), Err(Reason::TruncatedPayload), "{len}");
    }
    for payload in [&[0xc3, 0][..], &[1], &[0xc4, 1], b"{}"] {
        assert_eq!(read(payload), Err(Reason::MalformedPayload));
    }
    assert_eq!(read(&[0, 0, 0, 0]), Err(Reason::TruncatedPayload));

    let mut table = SchemaTable::default();
    table.by_registry_id.insert(0x0102_0304, Known::Unusable);
    let verdict = for_each(&table, &mut Scratch::new(), &[0, 1, 2, 3, 4], |_| ());
    assert_eq!(verdict, Err(Reason::UnusableSchema));
}

#[test]
fn fields_go_by_configuration_then_name_then_alias() {
    let string = |name: &str| json!({"name": name, "type": "string"});
    let fields = json!([
        string("body"),
        {"name": "text", "type": "string", "aliases": ["service_name", "body"]},
        {"name": "h", "type": "string", "aliases": ["host_name"]},
    ]);
    let datum: [&[u8]; 3] = [b"\x02a", b"\x02b", b"\x02c"];
    let seen = read_one(fields.clone(), &Mapping::default(), &datum).unwrap();
    let expected = Seen {
        body: "a".into(),
        service_name: "b".into(),
        host_name: "c".into(),
        ..Seen::default()
    };
    assert_eq!(seen, expected);
    let mapping = mapped(&[("h", Target::Body), ("text", Target::Attribute)]);
    let seen = read_one(fields, &mapping, &datum).unwrap();
    let expected = Seen {
        body: "c".into(),
        attributes: pairs(&[("body", "a"), ("text", "b")]),
        ..Seen::default()
    };
    assert_eq!(seen, expected);
}

#[test]
fn promotions_that_the_record_can_take() {
    let seen = read_one(
        json!([
            {"name": "time_unix_nano", "type": "int"},
            {"name": "severity_number", "type": "long"},
            {"name": "body", "type": "bytes"},
            {"name": "service_name", "type": {"type": "enum", "name": "E", "symbols": ["a", "b"]}},
            {"name": "trace_id", "type": "string"},
            {"name": "span_id", "type": {"type": "fixed", "name": "F", "size": 2}},
        ]),
        &Mapping::default(),
        &[&[14], &[34], b"\x04hi", &[2], b"\x02t", b"sp"],
    );
    let expected = Seen {
        time_unix_nano: 7,
        severity_number: 17,
        body: "hi".into(),
        service_name: "b".into(),
        trace_id: b"t".into(),
        span_id: b"sp".into(),
        ..Seen::default()
    };
    assert_eq!(seen, Ok(expected));
    let body = json!([{"name": "body", "type": "bytes"}]);
    let verdict = read_one(body, &Mapping::default(), &[&[2, 0xff]]);
    assert_eq!(verdict, Err(Reason::InvalidUtf8));
}

#[test]
fn timestamps_become_the_time_in_their_unit() {
    for (logical, base, value, nanoseconds) in [
        ("timestamp-millis", "long", 3, 3_000_000),
        ("timestamp-micros", "long", 3, 3_000),
        ("timestamp-nanos", "long", 3, 3),
        ("local-timestamp-millis", "long", 3, 3_000_000),
        ("local-timestamp-micros", "long", 3, 3_000),
        ("local-timestamp-nanos", "long", 3, 3),
        ("date", "int", 3, 259_200_000_000_000_u64),
    ] {
        let stamp = json!({"type": base, "logicalType": logical});
        for kind in [stamp.clone(), json!(["null", stamp])] {
            let index: &[u8] = if kind.is_array() { &[2] } else { &[] };
            let fields = json!([
                {"name": "count", "type": "long"},
                {"name": "when", "type": kind},
                {"name": "later", "type": stamp},
            ]);
            let datum = [&[2], index, &[2 * value], &[10]];
            let seen = read_one(fields, &Mapping::default(), &datum).unwrap();
            assert_eq!(seen.time_unix_nano, nanoseconds, "{logical}");
            let rest = pairs(&[("count", "1"), ("later", "5")]);
            assert_eq!(seen.attributes, rest, "the first of several");
        }
    }
    // A field of the record's name stands before them.
    let fields = json!([
        {"name": "when", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "time_unix_nano", "type": "long"},
    ]);
    let seen = read_one(fields, &Mapping::default(), &[&[2], &[4]]).unwrap();
    assert_eq!(seen.time_unix_nano, 2);
    assert_eq!(seen.attributes, pairs(&[("when", "1")]));
}

#[test]
fn times_that_a_record_cannot_hold_become_attributes() {
    let fields = json!([
        {"name": "when", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ]);
    // -1, and 2^63 - 1 milliseconds.
    for (datum, text) in [
        (&[1][..], "-1"),
        (
            b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            "9223372036854775807",
        ),
    ] {
        assert_eq!(
            attributes(fields.clone(), &[datum]),
            Ok(pairs(&[("when", text)]))
        );
    }
}

#[test]
fn negative_numbers_are_unsigned_ones_with_the_same_bits() {
    let fields = json!([
        {"name": "time_unix_nano", "type": "long"},
        {"name": "severity_number", "type": "int"},
    ]);
    let seen = read_one(fields, &Mapping::default(), &[&[1], &[3]]).unwrap();
    assert_eq!(seen.time_unix_nano, u64::MAX);
    assert_eq!(seen.severity_number, u32::MAX - 1);
}

#[test]
fn severities_as_words() {
    let level = |kind: Value| json!([{"name": "level", "type": kind}]);
    let mapping = mapped(&[("level", Target::SeverityNumber)]);
    let words = json!({"type": "enum", "name": "L", "symbols": ["DEBUG", "WARN"]});
    let seen = read_one(level(words), &mapping, &[&[2]]).unwrap();
    assert_eq!(seen.severity_number, 13);
    let seen = read_one(level(json!("string")), &mapping, &[b"\x0aerror"]).unwrap();
    assert_eq!(seen.severity_number, 17);
    let seen = read_one(level(json!("string")), &mapping, &[b"\x08loud"]).unwrap();
    assert_eq!(seen.attributes, pairs(&[("level", "loud")]));
    let others = json!({"type": "enum", "name": "L", "symbols": ["WARN", "LOUD"]});
    let error = plan_of(level(others), &mapping).unwrap_err();
    assert!(matches!(error, CompileError::CannotTake { .. }), "{error}");
}

#[test]
fn unions_with_null_in_either_order_and_others() {
    let body = |branches: Value| json!([{"name": "body", "type": branches}]);
    for (branches, datum, expected) in [
        (json!(["null", "string"]), &[&[0][..]][..], ""),
        (json!(["null", "string"]), &[b"\x02\x02x"], "x"),
        (json!(["string", "null"]), &[b"\x00\x02x"], "x"),
        (json!(["string", "null"]), &[&[2]], ""),
    ] {
        let seen = read_one(body(branches), &Mapping::default(), datum).unwrap();
        let expected = Seen {
            body: expected.into(),
            ..Seen::default()
        };
        assert_eq!(seen, expected);
    }
    // A branch that the field cannot take becomes an attribute.
    let branches = json!(["long", "string", "null"]);
    let seen = read_one(body(branches.clone()), &Mapping::default(), &[b"\x02\x02x"]).unwrap();
    assert_eq!((&*seen.body, seen.attributes), ("x", vec![]));
    let numbers = attributes(body(branches.clone()), &[&[0, 14]]);
    assert_eq!(numbers, Ok(pairs(&[("body", "7")])));
    for index in [1, 6] {
        let verdict = read_one(body(branches.clone()), &Mapping::default(), &[&[index]]);
        assert_eq!(verdict, Err(Reason::MalformedPayload));
    }
}

#[test]
fn scalars_become_text() {
    let kinds = json!([
        {"name": "n", "type": "null"},
        {"name": "b", "type": "boolean"},
        {"name": "i", "type": "int"},
        {"name": "l", "type": "long"},
        {"name": "f", "type": "float"},
        {"name": "d", "type": "double"},
        {"name": "s", "type": "string"},
        {"name": "y", "type": "bytes"},
        {"name": "x", "type": {"type": "fixed", "name": "F", "size": 2}},
        {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
        {"name": "u", "type": ["null", "long"]},
        {"name": "v", "type": ["null", "long"]},
        {"name": "w", "type": {"type": "fixed", "name": "W", "size": 16, "logicalType": "uuid"}},
        {"name": "z", "type": "double"},
    ]);
    let datum: [&[u8]; 13] = [
        &[1],
        &[0x7f],
        &[1],
        &1.5_f32.to_le_bytes(),
        &1e300_f64.to_le_bytes(),
        "\x06é\u{1}".as_bytes(),
        b"\x04\x00\xff",
        b"\x01\xab",
        &[2],
        &[0],
        &[2, 20],
        &[0x11; 16],
        &f64::NEG_INFINITY.to_le_bytes(),
    ];
    let expected = pairs(&[
        ("b", "true"),
        ("i", "-64"),
        ("l", "-1"),
        ("f", "1.5"),
        ("d", "1e300"),
        ("s", "é\u{1}"),
        ("y", "00ff"),
        ("x", "01ab"),
        ("e", "B"),
        ("v", "10"),
        ("w", "11111111111111111111111111111111"),
        ("z", "-Infinity"),
    ]);
    assert_eq!(attributes(kinds, &datum), Ok(expected));
}

#[test]
fn what_nests_becomes_json() {
    let fields = json!([{"name": "r", "type": {"type": "record", "name": "Inner", "fields": [
        {"name": "a", "type": {"type": "array", "items": ["null", "double", "Inner"]}},
        {"name": "m", "type": {"type": "map", "values": "bytes"}},
        {"name": "t", "type": "string"},
    ]}}]);
    let inner_empty: &[u8] = &[0, 0, 0];
    let datum: [&[u8]; 7] = [
        // Two items, then one more of four bytes with its length, then the end.
        &[4, 0, 2],
        &f64::NAN.to_le_bytes(),
        &[1, 8, 4],
        inner_empty,
        &[0],
        b"\x02\x02k\x04\x01\x02\x00",
        b"\x10\"\\\n\r\t\x01\x7f/",
    ];
    let text = r#"{"a":[null,"NaN",{"a":[],"m":{},"t":""}],"m":{"k":"0102"},"t":"\"\\\n\r\t\u0001"#;
    let expected = format!("{text}\u{7f}/\"}}");
    let seen = attributes(fields, &datum).unwrap();
    assert_eq!(seen, pairs(&[("r", &expected)]));
    let parsed: Value = serde_json::from_str(&seen[0].1).expect("JSON");
    assert_eq!(parsed["t"], "\"\\\n\r\t\u{1}\u{7f}/");
}

#[test]
fn entries_of_our_own_attributes_and_of_others_maps() {
    let map =
        |values: Value| json!([{"name": "attributes", "type": {"type": "map", "values": values}}]);
    let datum: &[u8] = b"\x02\x02a\x02b\x01\x08\x02c\x02d\x00";
    let expected = Ok(pairs(&[("a", "b"), ("c", "d")]));
    assert_eq!(attributes(map(json!("string")), &[datum]), expected);
    // The same, where something else is an attribute too.
    let mut beside = map(json!("string"));
    beside
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "n", "type": "int"}));
    let expected = Ok(pairs(&[("a", "b"), ("c", "d"), ("n", "1")]));
    assert_eq!(attributes(beside, &[datum, &[2]]), expected);
    let datum: &[u8] = b"\x04\x02a\x00\x02b\x02\x0a\x00";
    let expected = Ok(pairs(&[("b", "5")]));
    assert_eq!(attributes(map(json!(["null", "long"])), &[datum]), expected);
    // A map of another name is JSON, as all that nests.
    let other = json!([{"name": "tags", "type": {"type": "map", "values": "string"}}]);
    let expected = Ok(pairs(&[("tags", r#"{"a":"b"}"#)]));
    assert_eq!(attributes(other, &[b"\x02\x02a\x02b\x00"]), expected);
}

#[test]
fn a_mapping_reaches_into_records() {
    let fields = json!([{"name": "meta", "type": ["null", {"type": "record", "name": "M", "fields": [
        {"name": "host", "type": "string"},
        {"name": "port", "type": "int"},
        {"name": "deep", "type": {"type": "record", "name": "D", "fields": [
            {"name": "msg", "type": "string"},
        ]}},
    ]}]}]);
    let mapping = mapped(&[
        ("meta.host", Target::HostName),
        ("meta.deep.msg", Target::Body),
    ]);
    let seen = read_one(fields.clone(), &mapping, &[b"\x02\x02h\x14\x02m"]).unwrap();
    let expected = Seen {
        host_name: "h".into(),
        body: "m".into(),
        attributes: pairs(&[("meta.port", "10")]),
        ..Seen::default()
    };
    assert_eq!(seen, expected);
    assert_eq!(read_one(fields, &mapping, &[&[0]]), Ok(Seen::default()));
}

#[test]
fn fields_that_are_counted_are_not_stored() {
    let fields = json!([
        {"name": "a", "type": "int"},
        {"name": "b", "type": ["null", "string"]},
        {"name": "c", "type": {"type": "array", "items": "string"}},
        {"name": "body", "type": "string"},
    ]);
    let mut mapping = mapped(&[("a", Target::Attribute)]);
    mapping.count_unmapped = true;
    let plan = plan_of(fields, &mapping).unwrap().of_array();
    let datum = [
        &b"\x04\x02\x02\x02b\x02\x02c\x00\x02x"[..],
        b"\x04\x00\x00\x02y\x00",
    ]
    .concat();
    let (seen, unmapped) = read(&plan, &datum).unwrap();
    // Two of the first record, and of the second, whose b is null, one.
    assert_eq!(unmapped, 3);
    let bodies: Vec<_> = seen
        .iter()
        .map(|seen| (&*seen.body, &seen.attributes))
        .collect();
    assert_eq!(
        bodies,
        [("x", &pairs(&[("a", "1")])), ("y", &pairs(&[("a", "2")]))]
    );
}

#[test]
fn schemas_that_cannot_be_mapped() {
    let compile = |schema: Value, mapping: &Mapping| {
        let schema = WriterSchema::parse(&schema.to_string()).expect("a schema");
        Plan::compile(schema.schema(), mapping).err()
    };
    let none = Mapping::default();
    for schema in [
        json!("string"),
        json!({"type": "array", "items": "long"}),
        json!({"type": "map", "values": "long"}),
        json!(["null", {"type": "record", "name": "R", "fields": []}]),
    ] {
        assert_eq!(compile(schema, &none), Some(CompileError::NoRecord));
    }
    let endless = json!({"type": "record", "name": "R", "fields": [
        {"name": "a", "type": "string"},
        {"name": "r", "type": "R"},
    ]});
    assert_eq!(compile(endless, &none), Some(CompileError::Endless));
    let symbols: Vec<String> = (0..5000).map(|n| format!("S{n}")).collect();
    let fields = json!([{"name": "e", "type": {"type": "enum", "name": "E", "symbols": symbols}}]);
    let large = json!({"type": "record", "name": "R", "fields": fields});
    assert_eq!(compile(large, &none), Some(CompileError::TooLarge));

    let plain = json!([{"name": "a", "type": "double"}, {"name": "b", "type": "string"}]);
    let error = |fields: &[(&str, Target)]| plan_of(plain.clone(), &mapped(fields)).unwrap_err();
    let absent = CompileError::NoField("c".into());
    assert_eq!(error(&[("c", Target::Count)]), absent);
    let absent = CompileError::NoField("a.b".into());
    assert_eq!(error(&[("a.b", Target::Count)]), absent);
    let twice = CompileError::Twice(Target::Body);
    assert_eq!(error(&[("a", Target::Body), ("b", Target::Body)]), twice);
    let cannot = error(&[("a", Target::Body)]);
    assert!(matches!(cannot, CompileError::CannotTake { path, .. } if path == "a"));
}

#[test]
fn data_nest_to_the_limit() {
    // {"n": {"n": … null}}: the record, and as many inside.
    let fields = json!([{"name": "n", "type": ["null", "R"]}]);
    for (mapping, is_counted) in [
        (Mapping::default(), false),
        (
            Mapping {
                count_unmapped: true,
                ..Mapping::default()
            },
            true,
        ),
    ] {
        let plan = plan_of(fields.clone(), &mapping).unwrap();
        let nested = |depth: usize| [vec![2; depth - 1], vec![0]].concat();
        assert!(read(&plan, &nested(NESTING_MAX)).is_ok(), "{is_counted}");
        let verdict = read(&plan, &nested(NESTING_MAX + 1));
        assert_eq!(verdict, Err(Reason::TooDeep));
        assert_eq!(read(&plan, &vec![2; 1 << 20]), Err(Reason::TooDeep));
    }
}

#[test]
fn values_of_no_bytes_are_bounded() {
    let nulls = json!([{"name": "n", "type": {"type": "array", "items": "null"}}]);
    let count = |count: i64| {
        let mut out = Vec::new();
        let mut rest = (count << 1) as u64;
        while rest >= 0x80 {
            out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
        out.push(0);
        out
    };
    let few = attributes(nulls.clone(), &[&count(3)]);
    assert_eq!(few, Ok(pairs(&[("n", "[null,null,null]")])));
    let counted = Mapping {
        count_unmapped: true,
        ..Mapping::default()
    };
    let plan = plan_of(nulls.clone(), &counted).unwrap();
    let most = i64::from(AVRO_WIDTHLESS_VALUES_MAX);
    assert_eq!(read(&plan, &count(most)).map(|(_, fields)| fields), Ok(1));
    for many in [most + 1, i64::MAX / 2] {
        assert_eq!(read(&plan, &count(many)), Err(Reason::MalformedPayload));
    }
    // As text they fill the scratch first.
    let text = attributes(nulls, &[&count(most)]);
    assert_eq!(text, Err(Reason::TooLong));
    // Records of no bytes, in the batch itself.
    let empty = plan_of(json!([]), &Mapping::default()).unwrap().of_array();
    assert_eq!(read(&empty, &count(5)).map(|(seen, _)| seen.len()), Ok(5));
    assert_eq!(
        read(&empty, &count(i64::MAX / 2)),
        Err(Reason::MalformedPayload)
    );
}

#[test]
fn huge_counts_and_negative_sizes_are_refused() {
    let strings = json!([{"name": "n", "type": {"type": "array", "items": "string"}}]);
    let verdict = |datum: &[u8]| attributes(strings.clone(), &[datum]).err();
    // 2^62 items.
    let huge = b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01";
    assert_eq!(verdict(huge), Some(Reason::TruncatedPayload));
    // -1 items in -1 bytes; in 1 byte, of which there are 2.
    assert_eq!(verdict(&[1, 1, 0, 0]), Some(Reason::MalformedPayload));
    assert_eq!(
        verdict(b"\x01\x02\x02x\x00"),
        Some(Reason::MalformedPayload)
    );
    assert_eq!(verdict(b"\x01\x04\x02x\x00"), None);
    // A string of -1 bytes.
    assert_eq!(verdict(&[2, 1, 0]), Some(Reason::MalformedPayload));
}

#[test]
fn the_scratch_is_filled_and_never_grown() {
    // Each byte is two digits, each control character six characters; beside them stands `[""]`.
    let fields = json!([
        {"name": "a", "type": "bytes"},
        {"name": "b", "type": {"type": "array", "items": "string"}},
    ]);
    let plan = plan_of(fields, &Mapping::default()).unwrap();
    let table = SchemaTable {
        by_registry_id: [(1, Known::Plan(Arc::new(plan)))].into(),
        ..SchemaTable::default()
    };
    let len = |len: usize| {
        let mut out = Vec::new();
        let mut rest = len << 1;
        while rest >= 0x80 {
            out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
        out
    };
    let mut scratch = Scratch::new();
    let capacity = scratch.unescaped.capacity();
    let half = PAYLOAD_LEN_MAX / 2;
    for (bytes, controls, expected) in [
        (half - 2, 0, Ok(1)),
        (half - 1, 0, Err(Reason::TooLong)),
        (half + 1, 0, Err(Reason::TooLong)),
        (0, PAYLOAD_LEN_MAX / 6 - 2, Ok(1)),
        (0, PAYLOAD_LEN_MAX / 6 + 1, Err(Reason::TooLong)),
        (half / 2, PAYLOAD_LEN_MAX / 12 + 1, Err(Reason::TooLong)),
    ] {
        let payload = [
            &[0, 0, 0, 0, 1][..],
            &len(bytes),
            &vec![0xff; bytes],
            &[2],
            &len(controls),
            &vec![1; controls],
            &[0],
        ]
        .concat();
        let found = for_each(&table, &mut scratch, &payload, |_| ());
        assert_eq!(
            found.map(|found| found.records),
            expected,
            "{bytes} {controls}"
        );
        assert_eq!(scratch.unescaped.capacity(), capacity);
    }
}
