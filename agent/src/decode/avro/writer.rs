//! A writer's schema from its text: its names on the wire, and its plans.

use apache_avro::Schema;
use serde_json::Value;

use super::fingerprint::{array_of, canonical_form, crc64};
use super::plan::{CompileError, Mapping, Plan};

/// A schema that parses.
#[derive(Clone, Debug)]
pub struct WriterSchema {
    schema: Schema,
    canonical: String,
}

/// Why a text is no schema.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    #[error("no JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("no Avro schema: {0}")]
    Schema(String),
}

impl WriterSchema {
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut value: Value = serde_json::from_str(text)?;
        drop_logical_types(&mut value);
        let schema = Schema::parse(&value);
        let schema = schema.map_err(|error| ParseError::Schema(error.to_string()))?;
        Ok(Self {
            canonical: canonical_form(&value),
            schema,
        })
    }

    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Avro's parsing canonical form.
    pub fn canonical_form(&self) -> &str {
        &self.canonical
    }

    /// The CRC-64-AVRO of the canonical form.
    pub fn fingerprint(&self) -> u64 {
        crc64(self.canonical.as_bytes())
    }

    /// The fingerprint of an array whose items are of this schema.
    pub fn array_fingerprint(&self) -> u64 {
        crc64(array_of(&self.canonical).as_bytes())
    }

    /// The plans of the payloads that this schema's data come in, each under its fingerprint. Of a
    /// record these are two: one of it, and an array of them.
    pub fn plans(&self, mapping: &Mapping) -> Result<Vec<(u64, Plan)>, CompileError> {
        let plan = Plan::compile(&self.schema, mapping)?;
        Ok(match self.schema {
            Schema::Array(_) => vec![(self.fingerprint(), plan)],
            _ => vec![
                (self.array_fingerprint(), plan.of_array()),
                (self.fingerprint(), plan),
            ],
        })
    }
}

/// Leaves of the logical types those that say when something happened. The others do not change
/// how a value is encoded, and a parser that knows them forgets what they annotate: a `uuid` may be
/// a string or 16 bytes, a `duration` has a name that others may use.
fn drop_logical_types(schema: &mut Value) {
    const KEPT: [&str; 7] = [
        "timestamp-millis",
        "timestamp-micros",
        "timestamp-nanos",
        "local-timestamp-millis",
        "local-timestamp-micros",
        "local-timestamp-nanos",
        "date",
    ];
    match schema {
        Value::Array(branches) => branches.iter_mut().for_each(drop_logical_types),
        Value::Object(object) => {
            let logical = object.get("logicalType").and_then(Value::as_str);
            if logical.is_some_and(|logical| !KEPT.contains(&logical)) {
                object.remove("logicalType");
            }
            for member in ["type", "items", "values"] {
                if let Some(inner) = object.get_mut(member) {
                    drop_logical_types(inner);
                }
            }
            if let Some(Value::Array(fields)) = object.get_mut("fields") {
                fields.iter_mut().for_each(drop_logical_types);
            }
        }
        _ => {}
    }
}
