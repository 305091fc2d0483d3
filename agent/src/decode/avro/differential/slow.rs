//! Whether a datum is in order, as slowly and as simply as it can be said.

use serde_json::Value;

use super::made::Types;
use crate::limits::{AVRO_WIDTHLESS_VALUES_MAX, NESTING_MAX};

pub struct Slow<'s> {
    schema: &'s Value,
    types: Types,
    widthless: u32,
}

/// What is left behind a value, or what is wrong with it.
type Rest<'a> = Result<&'a [u8], &'static str>;

impl<'s> Slow<'s> {
    pub fn new(schema: &'s Value) -> Self {
        Self {
            schema,
            types: Types::of(schema),
            widthless: 0,
        }
    }

    /// An array of the schema's values, and nothing behind it.
    pub fn array(mut self, datum: &[u8]) -> Result<(), &'static str> {
        let schema = self.schema;
        let rest = self.blocks(datum, |slow, rest| {
            // The records are not counted as nested in the array.
            slow.value(schema, 0, rest)
        })?;
        match rest {
            [] => Ok(()),
            _ => Err("something behind it"),
        }
    }

    fn blocks<'a>(
        &mut self,
        mut rest: &'a [u8],
        mut item: impl FnMut(&mut Self, &'a [u8]) -> Rest<'a>,
    ) -> Rest<'a> {
        loop {
            let count;
            (count, rest) = long(rest)?;
            let mut end = None;
            if count == 0 {
                return Ok(rest);
            }
            if count < 0 {
                let size;
                (size, rest) = long(rest)?;
                let size = usize::try_from(size).map_err(|_| "a negative size")?;
                end = Some(
                    rest.len()
                        .checked_sub(size)
                        .ok_or("a block beyond the end")?,
                );
            }
            for _ in 0..count.checked_abs().ok_or("a count that has no opposite")? {
                let before = rest.len();
                rest = item(self, rest)?;
                if rest.len() == before && count.unsigned_abs() > AVRO_WIDTHLESS_VALUES_MAX.into() {
                    return Err("too many items of no bytes");
                }
            }
            if end.is_some_and(|end| end != rest.len()) {
                return Err("a block that does not end where it says");
            }
        }
    }

    fn value<'a>(&mut self, schema: &Value, depth: usize, rest: &'a [u8]) -> Rest<'a> {
        let before = rest.len();
        let kind = match schema {
            Value::Array(branches) => {
                let (index, rest) = long(rest)?;
                let index = usize::try_from(index).map_err(|_| "a negative index")?;
                let branch = branches.get(index).ok_or("an index beyond the branches")?;
                return self.value(branch, depth, rest);
            }
            Value::String(name) => match self.types.find(name).cloned() {
                Some(named) => return self.value(&named, depth, rest),
                None => name,
            },
            object => object["type"].as_str().expect("a type"),
        };
        if ["array", "map", "record"].contains(&kind) && depth == NESTING_MAX {
            return Err("too deep");
        }
        let rest = match kind {
            "null" => rest,
            "boolean" => match rest {
                [0 | 1, rest @ ..] => rest,
                _ => return Err("no boolean"),
            },
            "int" => {
                let (value, rest) = long(rest)?;
                i32::try_from(value).map_err(|_| "no int")?;
                rest
            }
            "long" => long(rest)?.1,
            "float" => rest.get(4..).ok_or("the end")?,
            "double" => rest.get(8..).ok_or("the end")?,
            "bytes" | "string" => {
                let (len, rest) = long(rest)?;
                let len = usize::try_from(len).map_err(|_| "a negative length")?;
                let (bytes, rest) = rest.split_at_checked(len).ok_or("the end")?;
                // Bytes that fill a text of ours must be text too: `expected` sees to these.
                if kind == "string" {
                    std::str::from_utf8(bytes).map_err(|_| "no text")?;
                }
                rest
            }
            "fixed" => {
                let size = schema["size"].as_u64().expect("a size") as usize;
                rest.get(size..).ok_or("the end")?
            }
            "enum" => {
                let (index, rest) = long(rest)?;
                let symbols = schema["symbols"].as_array().expect("symbols").len();
                match usize::try_from(index) {
                    Ok(index) if index < symbols => rest,
                    _ => return Err("no symbol"),
                }
            }
            "array" => self.blocks(rest, |slow, rest| {
                slow.value(&schema["items"], depth + 1, rest)
            })?,
            "map" => self.blocks(rest, |slow, rest| {
                let rest = slow.value(&Value::from("string"), depth + 1, rest)?;
                slow.value(&schema["values"], depth + 1, rest)
            })?,
            "record" => {
                let mut rest = rest;
                for field in schema["fields"].as_array().expect("fields") {
                    let is_text =
                        depth == 0 && TEXTS.contains(&field["name"].as_str().expect("a name"));
                    let from = rest;
                    rest = self.value(&field["type"], depth + 1, rest)?;
                    if is_text {
                        check_text(&field["type"], from)?;
                    }
                }
                rest
            }
            other => panic!("{other} is no type"),
        };
        // Of what stands in a record itself there are only as many as it has fields.
        let is_leaf = kind != "record" || schema["fields"] == Value::Array(Vec::new());
        if rest.len() == before && (depth == 0 || (depth > 1 && is_leaf)) {
            self.widthless += 1;
            if self.widthless > AVRO_WIDTHLESS_VALUES_MAX {
                return Err("too many values of no bytes");
            }
        }
        Ok(rest)
    }
}

const TEXTS: [&str; 3] = ["service_name", "body", "host_name"];

/// A text of ours that comes as bytes.
fn check_text(schema: &Value, mut at: &[u8]) -> Result<(), &'static str> {
    let mut schema = schema;
    if let Value::Array(branches) = schema {
        let index;
        (index, at) = long(at)?;
        schema = &branches[index as usize];
    }
    if schema == "bytes" {
        let (len, at) = long(at)?;
        std::str::from_utf8(&at[..len as usize]).map_err(|_| "no text")?;
    }
    Ok(())
}

fn long(bytes: &[u8]) -> Result<(i64, &[u8]), &'static str> {
    let mut value = 0_u128;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u128::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let value = u64::try_from(value).map_err(|_| "more than 64 bits")?;
            let half = (value / 2) as i64;
            let value = if value % 2 == 0 { half } else { -half - 1 };
            return Ok((value, &bytes[index + 1..]));
        }
    }
    Err("a number without end")
}
