//! The parsing canonical form of a schema and its fingerprint (Avro's specification, "Parsing
//! Canonical Form for Schemas" and "Schema Fingerprints").

use std::collections::HashSet;

use super::model::{Model, Named, NamedKind, Shape, Type};

/// What the specification calls EMPTY: the fingerprint of no bytes, and the polynomial.
const EMPTY: u64 = 0xc15d_213a_a4d7_a795;

const TABLE: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut bits = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            bits = (bits >> 1) ^ if bits & 1 == 1 { EMPTY } else { 0 };
            bit += 1;
        }
        table[byte] = bits;
        byte += 1;
    }
    table
};

/// CRC-64-AVRO.
pub fn fingerprint(canonical: &str) -> u64 {
    canonical.bytes().fold(EMPTY, |bits, byte| {
        (bits >> 8) ^ TABLE[usize::from(bits as u8 ^ byte)]
    })
}

/// The two fingerprints under which a file's records may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprints {
    pub record: u64,
    /// Of the array of it: what a frame's payload is.
    pub array: u64,
}

impl Fingerprints {
    /// Of a model whose root is a record or an array of one.
    pub fn of(model: &Model) -> Self {
        let items = match &model.root.shape {
            Shape::Array(items) => items,
            _ => &model.root,
        };
        let record = write(items, &model.named);
        Self {
            array: fingerprint(&format!("{{\"type\":\"array\",\"items\":{record}}}")),
            record: fingerprint(&record),
        }
    }
}

/// The canonical form. Names have no character that JSON escapes.
pub fn canonical(model: &Model) -> String {
    write(&model.root, &model.named)
}

fn write(schema: &Type, named: &[Named]) -> String {
    let mut writer = Writer {
        named,
        written: HashSet::new(),
        out: String::new(),
    };
    writer.schema(schema);
    writer.out
}

struct Writer<'a> {
    named: &'a [Named],
    written: HashSet<usize>,
    out: String,
}

impl Writer<'_> {
    fn schema(&mut self, schema: &Type) {
        match &schema.shape {
            Shape::Primitive(primitive) => self.quoted(primitive.word()),
            Shape::Array(items) => {
                self.out.push_str("{\"type\":\"array\",\"items\":");
                self.schema(items);
                self.out.push('}');
            }
            Shape::Map(values) => {
                self.out.push_str("{\"type\":\"map\",\"values\":");
                self.schema(values);
                self.out.push('}');
            }
            Shape::Union(branches) => self.list(branches, |writer, branch| writer.schema(branch)),
            Shape::Named(index) => self.named(*index),
        }
    }

    /// In full where it first stands, by its name from there on.
    fn named(&mut self, index: usize) {
        let Named { name, kind, .. } = &self.named[index];
        if !self.written.insert(index) {
            self.quoted(name);
            return;
        }
        self.out.push_str("{\"name\":");
        self.quoted(name);
        match kind {
            NamedKind::Record(fields) => {
                self.out.push_str(",\"type\":\"record\",\"fields\":");
                self.list(fields, |writer, field| {
                    writer.out.push_str("{\"name\":");
                    writer.quoted(&field.name);
                    writer.out.push_str(",\"type\":");
                    writer.schema(&field.schema);
                    writer.out.push('}');
                });
            }
            NamedKind::Enum { symbols, .. } => {
                self.out.push_str(",\"type\":\"enum\",\"symbols\":");
                self.list(symbols, |writer, symbol| writer.quoted(symbol));
            }
            NamedKind::Fixed(size) => {
                self.out.push_str(",\"type\":\"fixed\",\"size\":");
                self.out.push_str(&size.to_string());
            }
        }
        self.out.push('}');
    }

    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.out.push('[');
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                self.out.push(',');
            }
            write(self, item);
        }
        self.out.push(']');
    }

    fn quoted(&mut self, text: &str) {
        self.out.push('"');
        self.out.push_str(text);
        self.out.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical_of(text: &str) -> String {
        canonical(&Model::parse(text).expect(text))
    }

    /// From the test data of Avro's own implementations (share/test/data/schema-tests.txt).
    #[test]
    fn avro_s_own_examples() {
        let cases: [(&str, &str, i64); 6] = [
            ("\"null\"", "\"null\"", 7_195_948_357_588_979_594),
            (
                "{\"type\":\"boolean\"}",
                "\"boolean\"",
                -6_970_731_678_124_411_036,
            ),
            ("\"int\"", "\"int\"", 8_247_732_601_305_521_295),
            (
                "{\"type\":\"long\"}",
                "\"long\"",
                -3_434_872_931_120_570_953,
            ),
            ("\"string\"", "\"string\"", -8_142_146_995_180_207_161),
            (
                "[ \"int\"  ]",
                "[\"int\"]",
                -5_232_228_896_498_058_493,
            ),
        ];
        for (text, form, value) in cases {
            assert_eq!(canonical_of(text), form);
            assert_eq!(fingerprint(form) as i64, value, "{form}");
        }
    }

    #[test]
    fn what_is_no_part_of_parsing_is_left_out() {
        let text = r#"{
            "doc": "d", "aliases": ["B"], "namespace": "x.y", "name": "R", "type": "record", "fields": [
                {"default": 1, "name": "t", "type": {"type": "long", "logicalType": "timestamp-micros"}},
                {"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}},
                {"name": "e", "order": "ignore", "type": {"type": "enum", "name": "E", "symbols": ["A"], "default": "A"}},
                {"name": "f", "type": {"type": "fixed", "name": "z.F", "size": 3}},
                {"name": "again", "type": ["null", "E", "z.F", "R"]}
            ]}"#;
        // By hand, rule by rule of the specification.
        let expected = concat!(
            r#"{"name":"x.y.R","type":"record","fields":["#,
            r#"{"name":"t","type":"long"},{"name":"d","type":"bytes"},"#,
            r#"{"name":"e","type":{"name":"x.y.E","type":"enum","symbols":["A"]}},"#,
            r#"{"name":"f","type":{"name":"z.F","type":"fixed","size":3}},"#,
            r#"{"name":"again","type":["null","x.y.E","z.F","x.y.R"]}]}"#
        );
        assert_eq!(canonical_of(text), expected);
    }

    /// Where a schema has no logical types and no inherited namespace, apache-avro agrees.
    #[test]
    fn our_own_schemas_have_the_fingerprints_of_another_implementation() {
        for text in [
            include_str!("../../../schemas/log_record_v1.avsc"),
            include_str!("../../../schemas/log_record_v2.avsc"),
            include_str!("../../../schemas/log_record_v3.avsc"),
            include_str!("../../../schemas/stored_record.avsc"),
        ] {
            let array = format!("{{\"type\": \"array\", \"items\": {text}}}");
            let theirs = |text: &str| {
                let schema = apache_avro::Schema::parse_str(text).expect("a schema");
                let print = schema.fingerprint::<apache_avro::rabin::Rabin>();
                u64::from_le_bytes(print.bytes.try_into().expect("8 bytes"))
            };
            let ours = Fingerprints::of(&Model::parse(text).expect("a schema"));
            assert_eq!(ours.record, theirs(text));
            assert_eq!(ours.array, theirs(&array));
            assert_eq!(ours, Fingerprints::of(&Model::parse(&array).expect("a schema")));
        }
    }
}
