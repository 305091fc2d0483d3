//! How the data of one writer schema become records: compiled once, walked for each payload.

/// Where a writer's field goes, if not by its name or alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    TimeUnixNano,
    SeverityNumber,
    ServiceName,
    Body,
    HostName,
    TraceId,
    SpanId,
    /// An attribute under the field's own name.
    Attribute,
    /// Not stored, but counted.
    Count,
}

/// What the configuration says about a schema's fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// By the field's path in the writer's schema, its parts joined by dots.
    pub fields: Vec<(String, Target)>,
    /// Fields that have no place are counted in `unmapped_fields_total` instead of becoming
    /// attributes.
    pub count_unmapped: bool,
}

/// A writer schema's way into records.
#[derive(Debug)]
pub struct Plan {}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error("the schema is no record and no array of records")]
    NoRecord,
}

impl Plan {
    pub fn compile(_: &apache_avro::Schema, _: &Mapping) -> Result<Self, CompileError> {
        Ok(Self {})
    }
    pub fn of_array(&self) -> Self {
        Self {}
    }
}
