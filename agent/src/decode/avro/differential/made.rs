//! Schemas and data made from a seed.

use serde_json::{Value, json};

/// Steele, Lea and Flood's SplitMix64.
pub struct Made {
    state: u64,
    named: u32,
    /// Names that later types may use.
    known: Vec<String>,
}

pub const OUR_NAMES: [&str; 8] = [
    "time_unix_nano",
    "severity_number",
    "service_name",
    "body",
    "host_name",
    "attributes",
    "trace_id",
    "span_id",
];
const OTHER_NAMES: [&str; 4] = ["when", "x", "y", "z"];

impl Made {
    pub fn new(seed: u64) -> Self {
        Self {
            state: seed,
            named: 0,
            known: Vec::new(),
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn name(&mut self, letter: char) -> String {
        self.named += 1;
        format!("{letter}{}", self.named)
    }

    /// A record's schema: some of our fields, with types that suit them or not, and others.
    pub fn schema(&mut self) -> Value {
        let mut names: Vec<&str> = OUR_NAMES.into_iter().chain(OTHER_NAMES).collect();
        let mut fields = Vec::new();
        for _ in 0..self.below(7) {
            let name = names.remove(self.below(names.len()));
            let kind = match self.below(3) {
                0 => self.kind(0),
                _ => self.suited(name),
            };
            let mut field = json!({"name": name, "type": kind});
            if self.below(4) == 0 {
                // A name that no other field has, nor will have.
                let alias = names.remove(self.below(names.len()));
                field["aliases"] = json!([alias]);
            }
            fields.push(field);
        }
        json!({"type": "record", "name": "R", "namespace": "made", "fields": fields})
    }

    /// The record as somebody else may write it, such that Avro's own rules resolve it to v3.
    pub fn relative_of_the_record(&mut self) -> Value {
        let mut fields = Vec::new();
        for (index, name) in OUR_NAMES.into_iter().enumerate() {
            if index >= 4 && self.below(3) == 0 {
                continue;
            }
            let kind = match name {
                "time_unix_nano" => self.pick(&["long", "int"]).into(),
                "severity_number" => "int".into(),
                "attributes" => json!({"type": "map", "values": "string"}),
                "trace_id" | "span_id" => "bytes".into(),
                _ => self.pick(&["string", "bytes"]).into(),
            };
            fields.push(json!({"name": name, "type": kind}));
        }
        for name in OTHER_NAMES {
            if self.below(2) == 0 {
                let kind = match self.below(2) {
                    0 => self.kind(1),
                    _ => json!(["null", self.pick(&["boolean", "double", "string"])]),
                };
                fields.push(json!({"name": name, "type": kind}));
                // The order is yet to change: no field may name what another defines.
                self.known.clear();
            }
        }
        for index in (1..fields.len()).rev() {
            let other = self.below(index + 1);
            fields.swap(index, other);
        }
        let name = "LogRecord";
        json!({"type": "record", "name": name, "namespace": "penstock", "fields": fields})
    }

    /// A type that a field of ours takes, perhaps beside others in a union.
    fn suited(&mut self, name: &str) -> Value {
        let kind = match name {
            "time_unix_nano" | "when" => self.time(),
            "severity_number" => match self.below(4) {
                0 => "int".into(),
                1 => "long".into(),
                2 => "string".into(),
                _ => self.enumeration(&["DEBUG", "INFO", "WARN"]),
            },
            "attributes" => {
                let values = self.pick(&["string", "string", "long", "bytes"]);
                match self.below(3) {
                    0 => json!({"type": "map", "values": ["null", values]}),
                    _ => json!({"type": "map", "values": values}),
                }
            }
            "trace_id" | "span_id" => match self.below(3) {
                0 => self.fixed(),
                1 => "string".into(),
                _ => "bytes".into(),
            },
            _ => match self.below(4) {
                0 => "bytes".into(),
                1 => self.enumeration(&["a", "b"]),
                _ => "string".into(),
            },
        };
        match self.below(5) {
            0 => json!(["null", kind]),
            1 => json!([kind, "null"]),
            2 => json!(["null", "boolean", kind, "double"]),
            _ => kind,
        }
    }

    fn time(&mut self) -> Value {
        let logical = self.pick(&[
            "timestamp-millis",
            "timestamp-micros",
            "timestamp-nanos",
            "local-timestamp-millis",
            "local-timestamp-micros",
            "local-timestamp-nanos",
            "date",
            "",
        ]);
        match logical {
            "" => self.pick(&["long", "int"]).into(),
            "date" => json!({"type": "int", "logicalType": "date"}),
            _ => json!({"type": "long", "logicalType": logical}),
        }
    }

    fn enumeration(&mut self, symbols: &[&str]) -> Value {
        let name = self.name('E');
        self.known.push(format!("made.{name}"));
        json!({"type": "enum", "name": name, "namespace": "made", "symbols": symbols})
    }

    fn fixed(&mut self) -> Value {
        let name = self.name('F');
        self.known.push(format!("made.{name}"));
        json!({"type": "fixed", "name": name, "namespace": "made", "size": self.below(9)})
    }

    fn kind(&mut self, depth: usize) -> Value {
        const PLAIN: [&str; 8] = [
            "null", "boolean", "int", "long", "float", "double", "bytes", "string",
        ];
        match self.below(if depth < 3 { 16 } else { 9 }) {
            0..8 => self.pick(&PLAIN).into(),
            8 => self.time(),
            9 => self.fixed(),
            10 => self.enumeration(&["a", "b", "c"]),
            11 => json!({"type": "array", "items": self.kind(depth + 1)}),
            12 => json!({"type": "map", "values": self.kind(depth + 1)}),
            13 if !self.known.is_empty() => {
                let known = self.known.clone();
                self.pick(&known).into()
            }
            14 => self.union(depth),
            _ => {
                let name = self.name('N');
                let fields: Vec<Value> = (0..self.below(4))
                    .map(|index| {
                        // The record may hold itself, where it need not.
                        let kind = match self.below(5) {
                            0 => json!(["null", name]),
                            1 => json!({"type": "array", "items": name}),
                            _ => self.kind(depth + 1),
                        };
                        json!({"name": format!("f{index}"), "type": kind})
                    })
                    .collect();
                self.known.push(format!("made.{name}"));
                json!({"type": "record", "name": name, "namespace": "made", "fields": fields})
            }
        }
    }

    /// The first branch always ends.
    fn union(&mut self, depth: usize) -> Value {
        let mut branches = vec![self.pick(&[json!("null"), json!("string")])];
        for plain in ["boolean", "long", "double", "bytes"] {
            if self.below(3) == 0 {
                branches.push(plain.into());
            }
        }
        if self.below(2) == 0 {
            branches.push(json!({"type": "array", "items": self.kind(depth + 1)}));
        }
        branches.push(self.fixed());
        branches.into()
    }

    /// A valid array of a few records, and how many there are.
    pub fn array(&mut self, schema: &Value) -> (Vec<u8>, usize) {
        let mut types = Types::default();
        types.gather(schema);
        let records = self.below(5);
        let mut out = Vec::new();
        self.blocks(records, &mut out, &mut |made, out| {
            made.value(schema, &types, 1, out);
        });
        (out, records)
    }

    /// Items in blocks of any size, some with their length in bytes.
    fn blocks(
        &mut self,
        mut items: usize,
        out: &mut Vec<u8>,
        item: &mut dyn FnMut(&mut Self, &mut Vec<u8>),
    ) {
        while items > 0 {
            let count = 1 + self.below(items);
            items -= count;
            let mut block = Vec::new();
            (0..count).for_each(|_| item(self, &mut block));
            if self.below(3) == 0 {
                long(-(count as i64), out);
                long(block.len() as i64, out);
            } else {
                long(count as i64, out);
            }
            out.extend(block);
        }
        out.push(0);
    }

    fn value(&mut self, schema: &Value, types: &Types, depth: usize, out: &mut Vec<u8>) {
        let kind = match schema {
            Value::Array(branches) => {
                let index = match depth > 5 {
                    true => 0,
                    false => self.below(branches.len()),
                };
                long(index as i64, out);
                return self.value(&branches[index], types, depth, out);
            }
            Value::String(name) => match types.find(name) {
                Some(named) => return self.value(named, types, depth, out),
                None => name,
            },
            object => object["type"].as_str().expect("a type"),
        };
        let few = |made: &mut Self| if depth > 5 { 0 } else { made.below(4) };
        match kind {
            "null" => {}
            "boolean" => out.push(self.below(2) as u8),
            "int" => {
                let value = self.number() as i32;
                long(value.into(), out);
            }
            "long" => {
                let value = self.number();
                long(value, out);
            }
            "float" => out.extend((self.number() as f32 / 8.0).to_le_bytes()),
            "double" => {
                let value = match self.below(8) {
                    0 => f64::from_bits(self.next()),
                    _ => self.number() as f64 / 64.0,
                };
                out.extend(value.to_le_bytes());
            }
            "bytes" | "string" => {
                let text = self.text();
                long(text.len() as i64, out);
                out.extend(text.bytes());
            }
            "fixed" => {
                let size = schema["size"].as_u64().expect("a size");
                out.extend((0..size).map(|_| self.next() as u8));
            }
            "enum" => {
                let symbols = schema["symbols"].as_array().expect("symbols");
                let index = self.below(symbols.len());
                long(index as i64, out);
            }
            "array" => {
                let items = few(self);
                self.blocks(items, out, &mut |made, out| {
                    made.value(&schema["items"], types, depth + 1, out);
                });
            }
            "map" => {
                let items = few(self);
                // Of two values with one key apache-avro keeps the last, were it null; with us null is
                // no attribute, and the one before stays. So keys differ where values may be null.
                let nullable = schema["values"].is_array();
                let mut keys = 0;
                self.blocks(items, out, &mut |made, out| {
                    let mut key = made.text();
                    if nullable {
                        keys += 1;
                        key.push_str(&keys.to_string());
                    }
                    long(key.len() as i64, out);
                    out.extend_from_slice(key.as_bytes());
                    made.value(&schema["values"], types, depth + 1, out);
                });
            }
            "record" => {
                for field in schema["fields"].as_array().expect("fields") {
                    self.value(&field["type"], types, depth + 1, out);
                }
            }
            other => panic!("{other} is no type"),
        }
    }

    fn number(&mut self) -> i64 {
        let number = self.next() as i64;
        match self.below(3) {
            0 => number,
            1 => number >> 33,
            _ => number % 100,
        }
    }

    fn text(&mut self) -> String {
        const PIECES: [&str; 10] = [
            "a", "b", "é", "🪵", "\"", "\\", "\n", "\u{1}", "warn", " 17 ",
        ];
        (0..self.below(5)).map(|_| self.pick(&PIECES)).collect()
    }
}

/// Named types by their full name.
#[derive(Default)]
pub struct Types {
    named: Vec<(String, Value)>,
}

impl Types {
    pub fn of(schema: &Value) -> Self {
        let mut types = Self::default();
        types.gather(schema);
        types
    }

    fn gather(&mut self, schema: &Value) {
        match schema {
            Value::Array(branches) => branches.iter().for_each(|it| self.gather(it)),
            Value::Object(object) => {
                if let Some(name) = object.get("name").and_then(Value::as_str) {
                    self.named.push((name.to_owned(), schema.clone()));
                }
                for member in ["items", "values"] {
                    if let Some(inner) = object.get(member) {
                        self.gather(inner);
                    }
                }
                let fields = object.get("fields").and_then(Value::as_array);
                for field in fields.into_iter().flatten() {
                    self.gather(&field["type"]);
                }
            }
            _ => {}
        }
    }

    /// All are of one namespace, and their names differ.
    pub fn find(&self, name: &str) -> Option<&Value> {
        let name = name.rsplit('.').next().expect("a last part");
        let mut named = self.named.iter();
        named
            .find(|(known, _)| known == name)
            .map(|(_, schema)| schema)
    }
}

pub fn long(value: i64, out: &mut Vec<u8>) {
    let mut rest = (value << 1 ^ value >> 63) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
