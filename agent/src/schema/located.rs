//! JSON whose values know where they stand, so that a mistake in a schema file has a line.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::limits::SCHEMA_NESTING_MAX;

/// A value and the offset of its first byte in the file.
#[derive(Clone, Debug)]
pub struct Json {
    pub at: usize,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    Null,
    Flag(bool),
    /// As it is written.
    Number(String),
    Text(String),
    List(Vec<Json>),
    /// In the file's order.
    Object(Vec<(String, Json)>),
}

/// What is wrong with a schema file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Bytes from the file's start.
    pub at: usize,
    pub message: String,
}

impl Broken {
    pub fn new(at: usize, message: impl Into<String>) -> Self {
        Self {
            at,
            message: message.into(),
        }
    }
}

impl Json {
    /// Reads a whole file. An object that has a key twice is refused: which of the two holds is
    /// each reader's own choice.
    pub fn parse(text: &str) -> Result<Self, Broken> {
        let raw: &RawValue = serde_json::from_str(text).map_err(|error| syntax(text, &error))?;
        read(text, raw, 0)
    }

    pub fn member(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Object(members) => members.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// For messages: what kind of value this is.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Flag(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "an array",
            Value::Object(_) => "an object",
        }
    }
}

/// Lines and columns of `error` as an offset; both count from 1, the columns in bytes.
fn syntax(text: &str, error: &serde_json::Error) -> Broken {
    let before: usize = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum();
    let at = (before + error.column().saturating_sub(1)).min(text.len());
    let message = error.to_string();
    // The place is told beside the message, not in it.
    let message = message.split(" at line ").next().unwrap_or_default();
    Broken::new(at, format!("this is no JSON: {message}"))
}

fn read(text: &str, raw: &RawValue, depth: usize) -> Result<Json, Broken> {
    let written = raw.get();
    // `raw` is borrowed from `text`, so the difference of their addresses is its place in it.
    let at = written.as_ptr().addr() - text.as_ptr().addr();
    if depth > SCHEMA_NESTING_MAX {
        let message = format!("nested deeper than {SCHEMA_NESTING_MAX} brackets");
        return Err(Broken::new(at, message));
    }
    let failed = |error: serde_json::Error| Broken::new(at, format!("this is no JSON: {error}"));
    let value = match written.as_bytes().first() {
        Some(b'{') => {
            let Members(members) = serde_json::from_str(written).map_err(failed)?;
            let mut object: Vec<(String, Json)> = Vec::with_capacity(members.len());
            for (key, raw) in members {
                let value = read(text, raw, depth + 1)?;
                if object.iter().any(|(known, _)| *known == key) {
                    return Err(Broken::new(value.at, format!("\"{key}\" is given twice")));
                }
                object.push((key, value));
            }
            Value::Object(object)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(written).map_err(failed)?;
            let items = items.into_iter().map(|raw| read(text, raw, depth + 1));
            Value::List(items.collect::<Result<_, _>>()?)
        }
        Some(b'"') => Value::Text(serde_json::from_str(written).map_err(failed)?),
        Some(b't' | b'f') => Value::Flag(written == "true"),
        Some(b'n') => Value::Null,
        _ => Value::Number(written.to_owned()),
    };
    Ok(Json { at, value })
}

/// An object's members in the file's order, twice given ones included.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members<'de>, M::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_know_where_they_stand() {
        let text = "{\n  \"a\": [1, {\"b\": \"ä\"}],\n  \"c\": null }";
        let json = Json::parse(text).expect("JSON");
        assert_eq!(json.at, 0);
        let list = json.member("a").expect("a");
        assert_eq!(&text[list.at..list.at + 3], "[1,");
        let Value::List(items) = &list.value else {
            panic!("{list:?}");
        };
        let b = items[1].member("b").expect("b");
        assert_eq!(&text[b.at..b.at + 4], "\"ä\"");
        assert_eq!(b.text(), Some("ä"));
        assert!(text[json.member("c").expect("c").at..].starts_with("null"));
    }

    #[test]
    fn broken_json_has_its_place() {
        for (text, at) in [
            ("{\"a\": 1,\n \"b\" 2}", 14),
            ("{\"a\": 1, \"a\": 2}", 14),
            ("[1] x", 4),
        ] {
            let broken = Json::parse(text).expect_err(text);
            assert_eq!(broken.at, at, "{text}: {}", broken.message);
        }
        assert!(Json::parse("").is_err());
    }

    #[test]
    fn nesting_ends() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Json::parse(&nested(SCHEMA_NESTING_MAX)).is_ok());
        let deep = Json::parse(&nested(SCHEMA_NESTING_MAX + 2)).expect_err("too deep");
        assert!(deep.message.contains("nested deeper"), "{}", deep.message);
        assert!(Json::parse(&nested(100_000)).is_err());
    }
}
