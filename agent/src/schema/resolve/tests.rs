use apache_avro::schema_compatibility::SchemaCompatibility;
use proptest::prelude::*;

use super::*;

fn model(text: &str) -> Model {
    Model::parse(text).unwrap_or_else(|broken| panic!("{text}: {broken:?}"))
}

/// A record `R` with these fields.
fn record(fields: &str) -> Model {
    model(&format!(
        r#"{{"type": "record", "name": "R", "fields": [{fields}]}}"#
    ))
}

/// `path: what` of each break.
fn breaks(writer: &Model, reader: &Model) -> Vec<String> {
    let found = resolve(writer, reader).breaks;
    let lines = found.iter().map(|d| format!("{}: {}", d.path, d.what));
    lines.collect()
}

#[test]
fn a_field_may_be_added_with_a_default_and_left_out() {
    let old = record(r#"{"name": "a", "type": "int"}"#);
    let new =
        record(r#"{"name": "b", "type": "int", "default": 1}, {"name": "a", "type": "long"}"#);
    let bare = record(r#"{"name": "a", "type": "int"}, {"name": "c", "type": "int"}"#);
    assert!(breaks(&old, &new).is_empty());
    assert_eq!(
        breaks(&new, &old),
        ["a: long is written, the reader takes int"]
    );
    assert!(breaks(&bare, &old).is_empty());
    assert_eq!(
        breaks(&old, &bare),
        ["c: the reader wants it, nobody wrote it, and it has no default"]
    );
}

#[test]
fn aliases_of_the_reader_find_the_writer_s_names() {
    let old = record(r#"{"name": "a", "type": "int"}"#);
    let renamed = model(
        r#"{"type": "record", "name": "S", "aliases": ["R"], "fields": [
            {"name": "b", "aliases": ["a"], "type": "int"}]}"#,
    );
    assert!(breaks(&old, &renamed).is_empty());
    assert_eq!(
        breaks(&renamed, &old),
        [": record S is written, the reader takes record R"]
    );
}

#[test]
fn unions_by_branches() {
    let plain = record(r#"{"name": "a", "type": "string"}"#);
    let optional = record(r#"{"name": "a", "type": ["null", "string"]}"#);
    assert!(breaks(&plain, &optional).is_empty());
    assert_eq!(
        breaks(&optional, &plain),
        ["a: null is written, the reader takes string"]
    );
    let wide = record(r#"{"name": "a", "type": ["null", "string", "int"]}"#);
    assert_eq!(
        breaks(&wide, &optional),
        ["a: int is written, the reader takes union of null, string"]
    );
}

#[test]
fn enums_need_each_symbol_or_a_default() {
    let with = |symbols: &str, more: &str| {
        record(&format!(
            r#"{{"name": "e", "type": {{"type": "enum", "name": "E", "symbols": [{symbols}]{more}}}}}"#
        ))
    };
    let old = with(r#""A""#, "");
    let new = with(r#""A", "B""#, "");
    let tolerant = with(r#""A""#, r#", "default": "A""#);
    assert!(breaks(&old, &new).is_empty());
    assert_eq!(
        breaks(&new, &old),
        ["e: the reader's enum E has no B and no default"]
    );
    assert!(breaks(&new, &tolerant).is_empty());
}

#[test]
fn a_logical_type_is_a_note_and_no_break() {
    let in_unit = |unit: &str| {
        record(&format!(
            r#"{{"name": "t", "type": {{"type": "long", "logicalType": "timestamp-{unit}"}}}}"#
        ))
    };
    let found = resolve(&in_unit("millis"), &in_unit("micros"));
    assert!(found.can_read());
    assert_eq!(found.notes.len(), 1);
    assert_eq!(found.notes[0].path, "t");
    let same = resolve(&in_unit("millis"), &in_unit("millis"));
    assert_eq!(same, Resolution::default());
}

#[test]
fn a_type_that_contains_itself_is_walked_once_and_its_differences_are_found() {
    let node = |value: &str| {
        model(&format!(
            r#"{{"type": "record", "name": "Node", "fields": [
                {{"name": "next", "type": ["null", "Node"]}},
                {{"name": "value", "type": "{value}"}}]}}"#
        ))
    };
    assert!(breaks(&node("int"), &node("long")).is_empty());
    assert_eq!(
        breaks(&node("string"), &node("int")),
        ["value: string is written, the reader takes int"]
    );
}

/// Each type refers to the one before; only the last field is in both records, so that the walk
/// meets the last type first and has all of the chain before it.
#[test]
fn a_long_chain_of_references_does_not_grow_the_stack() {
    const LEN: usize = 3000;
    let chain = |prefix: &str, inmost: &str| {
        let field = |n: usize| {
            let inner = match n {
                0 => inmost.to_owned(),
                _ => format!("\"C{}\"", n - 1),
            };
            format!(
                r#"{{"name": "{prefix}{n}", "default": null, "type": ["null", {{"type": "record",
                    "name": "C{n}", "fields": [{{"name": "x", "type": {inner}}}]}}]}}"#
            )
        };
        let mut fields: Vec<String> = (0..LEN).map(field).collect();
        fields.push(format!(r#"{{"name": "last", "type": "C{}"}}"#, LEN - 1));
        record(&fields.join(","))
    };
    let (writer, reader) = (chain("w", "\"long\""), chain("r", "\"int\""));
    let run = std::thread::Builder::new().stack_size(256 << 10);
    let found = run.spawn(move || breaks(&writer, &reader));
    let found = found.expect("a thread").join().expect("no overflow");
    assert_eq!(found.len(), 1);
    assert!(found[0].ends_with(".x: long is written, the reader takes int"));
}

#[test]
fn nested_paths() {
    let old = record(
        r#"{"name": "m", "type": {"type": "map", "values": {"type": "array", "items": "long"}}}"#,
    );
    let new = record(
        r#"{"name": "m", "type": {"type": "map", "values": {"type": "array", "items": "int"}}}"#,
    );
    assert_eq!(
        breaks(&old, &new),
        ["m{}[]: long is written, the reader takes int"]
    );
}

/// Schemas within what the library's own check is exact about: it looks at a reader's union as a
/// whole where the specification takes the first branch that matches, and knows no aliases.
fn schema() -> impl Strategy<Value = String> {
    let primitive = prop_oneof![
        Just("\"null\""),
        Just("\"boolean\""),
        Just("\"int\""),
        Just("\"long\""),
        Just("\"float\""),
        Just("\"double\""),
        Just("\"bytes\""),
        Just("\"string\""),
    ]
    .prop_map(str::to_owned);
    primitive.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            inner
                .clone()
                .prop_map(|items| format!(r#"{{"type": "array", "items": {items}}}"#)),
            inner.prop_map(|values| format!(r#"{{"type": "map", "values": {values}}}"#)),
        ]
    })
}

fn fields() -> impl Strategy<Value = String> {
    let field = (0..4usize, schema(), any::<bool>());
    proptest::collection::vec(field, 0..4).prop_map(|fields| {
        let mut taken = HashSet::new();
        let fields: Vec<String> = fields
            .into_iter()
            .filter(|(name, ..)| taken.insert(*name))
            .map(|(name, schema, optional)| match optional {
                true if schema != "\"null\"" => {
                    format!(r#"{{"name": "f{name}", "type": ["null", {schema}], "default": null}}"#)
                }
                _ => format!(r#"{{"name": "f{name}", "type": {schema}}}"#),
            })
            .collect();
        format!(
            r#"{{"type": "record", "name": "R", "fields": [{}]}}"#,
            fields.join(", ")
        )
    })
}

proptest! {
    /// Two records of random fields: ours and the library's check agree on every pair.
    #[test]
    fn the_library_agrees(writer in fields(), reader in fields()) {
        let parse = |text: &str| apache_avro::Schema::parse_str(text).expect("a schema");
        let theirs = SchemaCompatibility::can_read(&parse(&writer), &parse(&reader));
        let ours = resolve(&model(&writer), &model(&reader));
        prop_assert_eq!(ours.can_read(), theirs.is_ok(), "{:?} {:?}", ours, theirs);
    }
}
