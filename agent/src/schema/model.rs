//! An Avro schema as the specification speaks of it, each part with its place in the file.
//!
//! The library's own tree is what plans are compiled from; it keeps no places, nor whether a UUID
//! stands in a string or in 16 bytes. What depends on these (messages, resolution) goes by this
//! tree instead.

use super::located::{Broken, Json, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Primitive {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
}

const PRIMITIVES: [(&str, Primitive); 8] = [
    ("null", Primitive::Null),
    ("boolean", Primitive::Boolean),
    ("int", Primitive::Int),
    ("long", Primitive::Long),
    ("float", Primitive::Float),
    ("double", Primitive::Double),
    ("bytes", Primitive::Bytes),
    ("string", Primitive::String),
];

impl Primitive {
    pub fn word(self) -> &'static str {
        let found = PRIMITIVES.iter().find(|(_, known)| *known == self);
        found.expect("the table has all").0
    }
}

/// A type where it is used.
#[derive(Clone, Debug)]
pub struct Type {
    pub at: usize,
    pub shape: Shape,
    /// What the bytes mean; resolution ignores it.
    pub logical: Option<String>,
}

#[derive(Clone, Debug)]
pub enum Shape {
    Primitive(Primitive),
    Array(Box<Type>),
    Map(Box<Type>),
    Union(Vec<Type>),
    /// An index into `Model::named`: so a type may contain itself.
    Named(usize),
}

#[derive(Clone, Debug)]
pub struct Named {
    pub at: usize,
    /// With its namespace.
    pub name: String,
    /// With their namespaces.
    pub aliases: Vec<String>,
    pub kind: NamedKind,
}

#[derive(Clone, Debug)]
pub enum NamedKind {
    Record(Vec<Field>),
    Enum {
        symbols: Vec<String>,
        default: Option<String>,
    },
    Fixed(u64),
}

#[derive(Clone, Debug)]
pub struct Field {
    pub at: usize,
    pub name: String,
    pub aliases: Vec<String>,
    pub schema: Type,
    pub has_default: bool,
}

/// A whole schema.
#[derive(Clone, Debug)]
pub struct Model {
    pub root: Type,
    pub named: Vec<Named>,
}

impl Model {
    pub fn parse(text: &str) -> Result<Self, Broken> {
        let json = Json::parse(text)?;
        let mut parser = Parser { named: Vec::new() };
        let root = parser.schema(&json, "")?;
        Ok(Self {
            root,
            named: parser.named,
        })
    }

    /// The record that the schema is, or is an array of.
    pub fn record(&self) -> Option<&Named> {
        let shape = match &self.root.shape {
            Shape::Array(items) => &items.shape,
            shape => shape,
        };
        match shape {
            Shape::Named(index) => {
                Some(&self.named[*index]).filter(|named| matches!(named.kind, NamedKind::Record(_)))
            }
            _ => None,
        }
    }

    pub fn is_array(&self) -> bool {
        matches!(self.root.shape, Shape::Array(_))
    }

    /// A field by its path from the record: names joined by dots, through unions with null.
    pub fn has_field(&self, path: &str) -> bool {
        self.field_names(path).is_ok()
    }

    /// `Err` with the names that stand where the path leaves the schema.
    pub fn field_names(&self, path: &str) -> Result<(), Vec<&str>> {
        let mut record = self.record();
        for part in path.split('.') {
            let Some(NamedKind::Record(fields)) = record.map(|named| &named.kind) else {
                return Err(Vec::new());
            };
            let Some(field) = fields.iter().find(|field| field.name == part) else {
                return Err(fields.iter().map(|field| field.name.as_str()).collect());
            };
            record = self.record_in(&field.schema);
        }
        Ok(())
    }

    /// The record that a field holds, if it holds one.
    fn record_in(&self, schema: &Type) -> Option<&Named> {
        match &schema.shape {
            Shape::Named(index) => Some(&self.named[*index]),
            Shape::Union(branches) => {
                let mut records = branches.iter().filter_map(|branch| self.record_in(branch));
                records.find(|named| matches!(named.kind, NamedKind::Record(_)))
            }
            _ => None,
        }
    }
}

struct Parser {
    named: Vec<Named>,
}

impl Parser {
    fn schema(&mut self, json: &Json, namespace: &str) -> Result<Type, Broken> {
        match &json.value {
            Value::Text(word) => self.reference(json.at, word, namespace),
            Value::List(branches) => self.union(json.at, branches, namespace),
            Value::Object(_) => self.object(json, namespace),
            _ => Err(Broken::new(
                json.at,
                format!(
                    "{} is no schema: a type's name, an object with \"type\", or an array of schemas is",
                    json.kind()
                ),
            )),
        }
    }

    fn reference(&self, at: usize, word: &str, namespace: &str) -> Result<Type, Broken> {
        let primitive = PRIMITIVES.iter().find(|(known, _)| *known == word);
        let shape = match primitive {
            Some((_, primitive)) => Shape::Primitive(*primitive),
            None => {
                let name = full_name(word, namespace);
                let found = self.named.iter().position(|named| named.name == name);
                Shape::Named(found.ok_or_else(|| self.unknown(at, word))?)
            }
        };
        Ok(Type {
            at,
            shape,
            logical: None,
        })
    }

    fn unknown(&self, at: usize, word: &str) -> Broken {
        let known = self.named.iter().map(|named| named.name.as_str());
        let words: Vec<&str> = PRIMITIVES
            .iter()
            .map(|(word, _)| *word)
            .chain(["record", "enum", "array", "map", "fixed"])
            .chain(known)
            .collect();
        let help = match crate::config::nearest(word, &words) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => "a type is defined before it is used, and named with its namespace".to_owned(),
        };
        Broken::new(at, format!("no type is called \"{word}\" here: {help}"))
    }

    fn union(&mut self, at: usize, branches: &[Json], namespace: &str) -> Result<Type, Broken> {
        let mut types: Vec<Type> = Vec::new();
        for json in branches {
            let branch = self.schema(json, namespace)?;
            if matches!(branch.shape, Shape::Union(_)) {
                return Err(Broken::new(json.at, "a union stands directly in a union"));
            }
            let same = |other: &Type| match (&other.shape, &branch.shape) {
                (Shape::Primitive(a), Shape::Primitive(b)) => a == b,
                (Shape::Array(_), Shape::Array(_)) | (Shape::Map(_), Shape::Map(_)) => true,
                (Shape::Named(a), Shape::Named(b)) => a == b,
                _ => false,
            };
            if types.iter().any(same) {
                let message = "the union has this type twice: nobody could tell the two apart";
                return Err(Broken::new(json.at, message));
            }
            types.push(branch);
        }
        if types.is_empty() {
            return Err(Broken::new(at, "an empty union has no value"));
        }
        Ok(Type {
            at,
            shape: Shape::Union(types),
            logical: None,
        })
    }

    fn object(&mut self, json: &Json, namespace: &str) -> Result<Type, Broken> {
        let kind = json
            .member("type")
            .ok_or_else(|| Broken::new(json.at, "an object without \"type\" is no schema"))?;
        let logical = json.member("logicalType").and_then(Json::text);
        let shape = match kind.text() {
            Some("record" | "enum" | "fixed") => self.named(json, kind, namespace)?,
            Some("array") => {
                let items = member(json, "items", "an array")?;
                Shape::Array(Box::new(self.schema(items, namespace)?))
            }
            Some("map") => {
                let values = member(json, "values", "a map")?;
                Shape::Map(Box::new(self.schema(values, namespace)?))
            }
            _ => self.schema(kind, namespace)?.shape,
        };
        Ok(Type {
            at: json.at,
            shape,
            logical: logical.map(str::to_owned),
        })
    }

    fn named(&mut self, json: &Json, kind: &Json, namespace: &str) -> Result<Shape, Broken> {
        let kind = kind.text().unwrap_or_default();
        let given = member(json, "name", &format!("a type that is {kind}"))?;
        let given_name = string(given, "a name")?;
        let own = match json.member("namespace") {
            Some(own) => string(own, "a namespace")?,
            None => namespace,
        };
        let name = full_name(given_name, own);
        if !name.split('.').all(is_name) {
            return Err(Broken::new(given.at, not_a_name(&name)));
        }
        if PRIMITIVES.iter().any(|(word, _)| *word == name) {
            let message = format!("\"{name}\" is a type of Avro's own");
            return Err(Broken::new(given.at, message));
        }
        if self.named.iter().any(|named| named.name == name) {
            let message = format!("\"{name}\" is defined twice");
            return Err(Broken::new(given.at, message));
        }
        let namespace = name.rsplit_once('.').map_or("", |(namespace, _)| namespace);
        let aliases = names(json.member("aliases"))?
            .iter()
            .map(|alias| full_name(alias, namespace))
            .collect();
        // Known before its fields are read, as they may speak of it.
        let index = self.named.len();
        self.named.push(Named {
            at: given.at,
            name: name.clone(),
            aliases,
            kind: NamedKind::Record(Vec::new()),
        });
        self.named[index].kind = match kind {
            "record" => NamedKind::Record(self.fields(json, namespace)?),
            "enum" => symbols(json)?,
            _ => {
                let size = member(json, "size", "a fixed")?;
                let bytes = match &size.value {
                    Value::Number(number) => number.parse().ok(),
                    _ => None,
                };
                NamedKind::Fixed(bytes.ok_or_else(|| {
                    Broken::new(size.at, "a size is a number of bytes, without a fraction")
                })?)
            }
        };
        Ok(Shape::Named(index))
    }

    fn fields(&mut self, json: &Json, namespace: &str) -> Result<Vec<Field>, Broken> {
        let list = member(json, "fields", "a record")?;
        let Value::List(items) = &list.value else {
            let message = format!("\"fields\" is {}, where an array is wanted", list.kind());
            return Err(Broken::new(list.at, message));
        };
        let mut fields: Vec<Field> = Vec::new();
        for item in items {
            let given = member(item, "name", "a field")?;
            let name = string(given, "a field's name")?;
            if !is_name(name) {
                return Err(Broken::new(given.at, not_a_name(name)));
            }
            if fields.iter().any(|field| field.name == name) {
                let message = format!("the record has two fields \"{name}\"");
                return Err(Broken::new(given.at, message));
            }
            let schema = self.schema(member(item, "type", "a field")?, namespace)?;
            let default = item.member("default");
            if let Some(default) = default {
                self.default(&schema, default)?;
            }
            fields.push(Field {
                at: given.at,
                name: name.to_owned(),
                aliases: names(item.member("aliases"))?,
                schema,
                has_default: default.is_some(),
            });
        }
        Ok(fields)
    }

    /// A default is a value of the field's type, in JSON; of a union's, since Avro 1.12, any branch.
    fn default(&self, schema: &Type, json: &Json) -> Result<(), Broken> {
        if self.is_value(schema, json) {
            return Ok(());
        }
        let wanted = self.word(schema);
        let message = format!("the default is {}, which is no {wanted}", json.kind());
        Err(Broken::new(json.at, message))
    }

    fn is_value(&self, schema: &Type, json: &Json) -> bool {
        let in_range = |min: i64, max: i64| match &json.value {
            Value::Number(number) => number.parse().is_ok_and(|n: i64| (min..=max).contains(&n)),
            _ => false,
        };
        match &schema.shape {
            Shape::Primitive(primitive) => match primitive {
                Primitive::Null => matches!(json.value, Value::Null),
                Primitive::Boolean => matches!(json.value, Value::Flag(_)),
                Primitive::Int => in_range(i32::MIN.into(), i32::MAX.into()),
                Primitive::Long => in_range(i64::MIN, i64::MAX),
                Primitive::Float | Primitive::Double => matches!(json.value, Value::Number(_)),
                Primitive::Bytes => json.text().is_some_and(|text| is_bytes(text, None)),
                Primitive::String => json.text().is_some(),
            },
            Shape::Array(items) => match &json.value {
                Value::List(values) => values.iter().all(|value| self.is_value(items, value)),
                _ => false,
            },
            Shape::Map(values) => match &json.value {
                Value::Object(members) => members.iter().all(|(_, v)| self.is_value(values, v)),
                _ => false,
            },
            Shape::Union(branches) => branches.iter().any(|branch| self.is_value(branch, json)),
            Shape::Named(index) => match &self.named[*index].kind {
                NamedKind::Record(fields) => {
                    fields.iter().all(|field| {
                        let given = json.member(&field.name);
                        given.map_or(field.has_default, |value| {
                            self.is_value(&field.schema, value)
                        })
                    }) && matches!(json.value, Value::Object(_))
                }
                NamedKind::Enum { symbols, .. } => json
                    .text()
                    .is_some_and(|text| symbols.iter().any(|symbol| symbol == text)),
                NamedKind::Fixed(size) => {
                    json.text().is_some_and(|text| is_bytes(text, Some(*size)))
                }
            },
        }
    }

    fn word(&self, schema: &Type) -> String {
        type_word(schema, &self.named)
    }
}

impl Model {
    /// The type in a few words, for messages.
    pub fn word(&self, schema: &Type) -> String {
        type_word(schema, &self.named)
    }
}

fn type_word(schema: &Type, named: &[Named]) -> String {
    match &schema.shape {
        Shape::Primitive(primitive) => primitive.word().to_owned(),
        Shape::Array(items) => format!("array of {}", type_word(items, named)),
        Shape::Map(values) => format!("map of {}", type_word(values, named)),
        Shape::Union(branches) => {
            let words: Vec<String> = branches.iter().map(|b| type_word(b, named)).collect();
            format!("union of {}", words.join(", "))
        }
        Shape::Named(index) => {
            let Named { name, kind, .. } = &named[*index];
            match kind {
                NamedKind::Record(_) => format!("record {name}"),
                NamedKind::Enum { .. } => format!("enum {name}"),
                NamedKind::Fixed(size) => format!("fixed {name} of {size} bytes"),
            }
        }
    }
}

fn symbols(json: &Json) -> Result<NamedKind, Broken> {
    let list = member(json, "symbols", "an enum")?;
    let symbols = names(Some(list))?;
    for (at, symbol) in symbols.iter().enumerate() {
        if !is_name(symbol) {
            return Err(Broken::new(list.at, not_a_name(symbol)));
        }
        if symbols[..at].contains(symbol) {
            let message = format!("the enum has \"{symbol}\" twice");
            return Err(Broken::new(list.at, message));
        }
    }
    let default = match json.member("default") {
        None => None,
        Some(given) => {
            let symbol = string(given, "an enum's default")?;
            if !symbols.iter().any(|known| known == symbol) {
                let message = format!("the default \"{symbol}\" is none of the enum's symbols");
                return Err(Broken::new(given.at, message));
            }
            Some(symbol.to_owned())
        }
    };
    Ok(NamedKind::Enum { symbols, default })
}

fn member<'a>(json: &'a Json, key: &str, whose: &str) -> Result<&'a Json, Broken> {
    let missing = || Broken::new(json.at, format!("{whose} has no \"{key}\""));
    json.member(key).ok_or_else(missing)
}

fn string<'a>(json: &'a Json, what: &str) -> Result<&'a str, Broken> {
    let wrong = || Broken::new(json.at, format!("{what} is {}, no string", json.kind()));
    json.text().ok_or_else(wrong)
}

/// An array of strings, or nothing.
fn names(json: Option<&Json>) -> Result<Vec<String>, Broken> {
    let Some(json) = json else {
        return Ok(Vec::new());
    };
    let Value::List(items) = &json.value else {
        let message = format!("{}, where an array of strings is wanted", json.kind());
        return Err(Broken::new(json.at, message));
    };
    let items = items.iter().map(|item| string(item, "a name"));
    items.map(|item| item.map(str::to_owned)).collect()
}

/// A name with a dot has its namespace in it.
fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}.{name}")
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn not_a_name(name: &str) -> String {
    format!("\"{name}\" is no name: A to Z, a to z, _ and, but for the first, 0 to 9 make one")
}

/// Bytes in JSON are characters up to U+00FF.
fn is_bytes(text: &str, len: Option<u64>) -> bool {
    text.chars().all(|c| u32::from(c) <= 0xff)
        && len.is_none_or(|len| text.chars().count() as u64 == len)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text that stands where the mistake is, and the message.
    fn broken(text: &str) -> (String, String) {
        let broken = Model::parse(text).expect_err(text);
        let line = text[broken.at..].lines().next().unwrap_or_default();
        (line.to_owned(), broken.message)
    }

    #[test]
    fn mistakes_stand_where_they_are_made() {
        let record = |fields: &str| {
            format!("{{\"type\": \"record\", \"name\": \"R\", \"fields\": [\n{fields}\n]}}")
        };
        let cases = [
            (
                record("{\"name\": \"a\", \"type\": \"strin\"}"),
                "\"strin\"}",
                "did you mean \"string\"?",
            ),
            (
                record("{\"name\": \"a-b\", \"type\": \"int\"}"),
                "\"a-b\"",
                "is no name",
            ),
            (record("{\"name\": \"a\"}"), "{\"name\"", "no \"type\""),
            (
                record("{\"name\": \"a\", \"type\": \"int\", \"default\": \"1\"}"),
                "\"1\"}",
                "no int",
            ),
            (
                record("{\"name\": \"a\", \"type\": [\"null\", \"null\"]}"),
                "\"null\"]}",
                "twice",
            ),
            (
                record(
                    "{\"name\": \"a\", \"type\": {\"type\": \"fixed\", \"name\": \"F\", \"size\": -1}}",
                ),
                "-1}}",
                "number of bytes",
            ),
            (
                record(
                    "{\"name\": \"a\", \"type\": \"int\"}, {\"name\": \"a\", \"type\": \"int\"}",
                ),
                "\"a\", \"type\": \"int\"}",
                "two fields \"a\"",
            ),
            (
                record(
                    "{\"name\": \"a\", \"type\": {\"type\": \"enum\", \"name\": \"E\", \"symbols\": [\"A\"], \"default\": \"B\"}}",
                ),
                "\"B\"}}",
                "none of the enum's symbols",
            ),
        ];
        for (text, at, message) in cases {
            let (line, found) = broken(&text);
            assert!(line.starts_with(at), "{text}: at {line}");
            assert!(found.contains(message), "{text}: {found}");
        }
    }

    #[test]
    fn a_recursive_record_and_its_fields() {
        let model = Model::parse(
            r#"{"type": "array", "items": {"type": "record", "name": "a.Node", "fields": [
                {"name": "value", "type": "string", "default": "x"},
                {"name": "next", "type": ["null", "Node"], "default": null}
            ]}}"#,
        )
        .expect("a schema");
        assert!(model.is_array());
        assert_eq!(model.record().expect("a record").name, "a.Node");
        assert!(model.has_field("next.next.value"));
        assert_eq!(
            model.field_names("next.valu"),
            Err(vec!["value", "next"]),
            "what may stand there"
        );
        assert_eq!(model.field_names("value.x"), Err(vec![]));
    }
}
