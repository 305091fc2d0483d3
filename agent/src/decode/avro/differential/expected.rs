//! What `proto/RECORDS.md` says becomes of a value that apache-avro has read.

use std::collections::BTreeMap;

use apache_avro::types::Value as Avro;
use serde_json::{Map, Value, json};

use super::made::{OUR_NAMES, Types};
use crate::decode::avro::tests::Seen;
use crate::decode::json::severity;

/// A record, its attributes without order: of two with one key the later one holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected {
    fields: Seen,
    attributes: BTreeMap<String, Text>,
}

#[derive(Clone, Debug, PartialEq)]
enum Text {
    Plain(String),
    /// Compared as JSON, whatever its notation.
    Json(Value),
}

impl Expected {
    /// What was seen; attributes that are expected as JSON are read as JSON.
    pub fn of(seen: &Seen, expected: &Self) -> Self {
        let mut fields = seen.clone();
        let attributes = std::mem::take(&mut fields.attributes);
        let attributes = attributes.into_iter().map(|(key, text)| {
            let is_json = matches!(expected.attributes.get(&key), Some(Text::Json(_)));
            let text = match serde_json::from_str(&text) {
                Ok(value) if is_json => Text::Json(value),
                _ => Text::Plain(text),
            };
            (key, text)
        });
        Self {
            attributes: attributes.collect(),
            fields,
        }
    }
}

/// The record, and how many fields were counted instead of stored.
pub fn expected(schema: &Value, count_unmapped: bool, record: &Avro) -> (Expected, u64) {
    let types = Types::of(schema);
    let Avro::Record(values) = record else {
        panic!("{record:?} is no record");
    };
    let fields = schema["fields"].as_array().expect("fields");
    let roles = roles(fields, &types);
    let mut out = Expected::default();
    let mut unmapped = 0;
    for ((field, role), (name, value)) in fields.iter().zip(roles).zip(values) {
        assert_eq!(field["name"], name.as_str());
        let (kind, value) = branch(&field["type"], value, &types);
        if *value == Avro::Null {
            continue;
        }
        match role {
            Some(role) if suits(role, &kind) => out.take(role, name, &kind, value),
            _ if count_unmapped => unmapped += 1,
            _ => out.attribute(name, value),
        }
    }
    (out, unmapped)
}

/// Which of our fields each of the writer's fills.
fn roles(fields: &[Value], types: &Types) -> Vec<Option<&'static str>> {
    let mut roles: Vec<Option<&'static str>> = vec![None; fields.len()];
    let any_suits =
        |field: &Value, suits: &dyn Fn(&Value) -> bool| match resolved(&field["type"], types) {
            Value::Array(branches) => branches.iter().any(|it| suits(&resolved(it, types))),
            other => suits(&other),
        };
    for by_alias in [false, true] {
        for name in OUR_NAMES {
            let mut free = (0..fields.len()).filter(|i| roles[*i].is_none());
            let index = free.find(|i| {
                let called = match by_alias {
                    false => &fields[*i]["name"],
                    true => &fields[*i]["aliases"][0],
                };
                called == name && any_suits(&fields[*i], &|kind| suits(name, kind))
            });
            if let Some(index) = index.filter(|_| !roles.contains(&Some(name))) {
                roles[index] = Some(name);
            }
        }
    }
    if !roles.contains(&Some("time_unix_nano")) {
        let is_time = |kind: &Value| !kind["logicalType"].is_null();
        let time =
            (0..fields.len()).find(|i| roles[*i].is_none() && any_suits(&fields[*i], &is_time));
        if let Some(index) = time {
            roles[index] = Some("time_unix_nano");
        }
    }
    roles
}

fn resolved(kind: &Value, types: &Types) -> Value {
    let named = kind.as_str().and_then(|name| types.find(name));
    named.unwrap_or(kind).clone()
}

fn base(kind: &Value) -> &str {
    kind.as_str().or(kind["type"].as_str()).expect("a type")
}

fn suits(name: &str, kind: &Value) -> bool {
    let base = base(kind);
    match name {
        // apache-avro 0.21 leaves a `date` an int with a logical type, as all of these.
        "time_unix_nano" => base == "long" || base == "int",
        "severity_number" if base == "enum" => kind["symbols"][0] == "DEBUG",
        "severity_number" => {
            kind["logicalType"].is_null() && ["int", "long", "string"].contains(&base)
        }
        "attributes" => base == "map",
        "trace_id" | "span_id" => ["bytes", "string", "fixed"].contains(&base),
        _ => ["bytes", "string", "enum"].contains(&base),
    }
}

/// A union's branch, with the branch's type; anything else is itself.
fn branch<'v>(kind: &Value, value: &'v Avro, types: &Types) -> (Value, &'v Avro) {
    let kind = resolved(kind, types);
    match (&kind, value) {
        (Value::Array(branches), Avro::Union(index, value)) => {
            (resolved(&branches[*index as usize], types), value)
        }
        _ => (kind, value),
    }
}

impl Expected {
    fn take(&mut self, role: &str, name: &str, kind: &Value, value: &Avro) {
        match role {
            "time_unix_nano" => {
                let number = number(value).expect("a number");
                let unit = match kind["logicalType"].as_str().unwrap_or("nanos") {
                    "date" => 86_400_000_000_000,
                    logical if logical.ends_with("millis") => 1_000_000,
                    logical if logical.ends_with("micros") => 1_000,
                    _ => 1_i128,
                };
                let time = i128::from(number) * unit;
                match u64::try_from(time) {
                    _ if unit == 1 => self.fields.time_unix_nano = number as u64,
                    Ok(time) => self.fields.time_unix_nano = time,
                    Err(_) => self.attribute(name, value),
                }
            }
            "severity_number" => match value {
                Avro::String(word) => match severity::number_or_word(word) {
                    Some(number) => self.fields.severity_number = number,
                    None => self.attribute(name, value),
                },
                Avro::Enum(index, _) => self.fields.severity_number = [5, 9, 13][*index as usize],
                number_value => {
                    self.fields.severity_number = number(number_value).expect("a number") as u32;
                }
            },
            "attributes" => {
                let Avro::Map(entries) = value else {
                    panic!("{value:?} is no map");
                };
                for (key, value) in entries {
                    match value {
                        Avro::Null => {}
                        Avro::Union(_, value) if **value == Avro::Null => {}
                        value => self.attribute(key, value),
                    }
                }
            }
            "service_name" => self.fields.service_name = text(value),
            "body" => self.fields.body = text(value),
            "host_name" => self.fields.host_name = text(value),
            "trace_id" => self.fields.trace_id = bytes(value),
            "span_id" => self.fields.span_id = bytes(value),
            other => panic!("{other} is no field"),
        }
    }

    fn attribute(&mut self, name: &str, value: &Avro) {
        let text = match value {
            Avro::Union(_, value) => return self.attribute(name, value),
            Avro::String(text) | Avro::Enum(_, text) => Text::Plain(text.clone()),
            Avro::Bytes(bytes) | Avro::Fixed(_, bytes) => Text::Plain(hex(bytes)),
            value => match json(value) {
                Value::String(text) => Text::Plain(text),
                value => Text::Json(value),
            },
        };
        self.attributes.insert(name.to_owned(), text);
    }
}

fn text(value: &Avro) -> String {
    match value {
        Avro::String(text) | Avro::Enum(_, text) => text.clone(),
        Avro::Bytes(bytes) => String::from_utf8(bytes.clone()).expect("`slow` has looked"),
        other => panic!("{other:?} is no text"),
    }
}

fn bytes(value: &Avro) -> Vec<u8> {
    match value {
        Avro::String(text) => text.clone().into_bytes(),
        Avro::Bytes(bytes) | Avro::Fixed(_, bytes) => bytes.clone(),
        other => panic!("{other:?} has no bytes"),
    }
}

fn number(value: &Avro) -> Option<i64> {
    match *value {
        Avro::Int(value) | Avro::Date(value) => Some(value.into()),
        Avro::Long(value)
        | Avro::TimestampMillis(value)
        | Avro::TimestampMicros(value)
        | Avro::TimestampNanos(value)
        | Avro::LocalTimestampMillis(value)
        | Avro::LocalTimestampMicros(value)
        | Avro::LocalTimestampNanos(value) => Some(value),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn json(value: &Avro) -> Value {
    match value {
        Avro::Null => Value::Null,
        Avro::Boolean(value) => json!(value),
        // Of a float the digits that tell it from other floats, not from other doubles.
        Avro::Float(value) if value.is_finite() => {
            json!(value.to_string().parse::<f64>().expect("a number"))
        }
        Avro::Double(value) if value.is_finite() => json!(value),
        Avro::Float(value) => infinity((*value).into()),
        Avro::Double(value) => infinity(*value),
        Avro::String(text) | Avro::Enum(_, text) => json!(text),
        Avro::Bytes(bytes) | Avro::Fixed(_, bytes) => json!(hex(bytes)),
        Avro::Union(_, value) => json(value),
        Avro::Array(items) => items.iter().map(json).collect(),
        Avro::Map(entries) => {
            let entries = entries
                .iter()
                .map(|(key, value)| (key.clone(), json(value)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
        Avro::Record(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| (name.clone(), json(value)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        other => json!(number(other).unwrap_or_else(|| panic!("{other:?}"))),
    }
}

fn infinity(value: f64) -> Value {
    match value {
        f64::INFINITY => json!("Infinity"),
        f64::NEG_INFINITY => json!("-Infinity"),
        _ => json!("NaN"),
    }
}
