//! How the data of one writer schema become records: compiled once, walked for each payload.

use apache_avro::Schema;

use super::compile;
use super::node::{Children, NameSpan, NodeId, Nodes};

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

/// Why a schema's data cannot become records.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error("the schema is no record and no array of records")]
    NoRecord,
    #[error("the record holds itself: no value of it can end")]
    Endless,
    #[error(
        "the schema has more types, fields and symbols than {}, or more than {} bytes of names",
        crate::limits::AVRO_NODES_MAX,
        crate::limits::AVRO_NAMES_LEN_MAX
    )]
    TooLarge,
    #[error("the schema's names: {0}")]
    Names(String),
    #[error("the mapping names {0}, which is no field of the schema")]
    NoField(String),
    #[error("{path} is {found}, which {target:?} cannot take")]
    CannotTake {
        path: String,
        found: String,
        target: Target,
    },
    #[error("two fields are mapped to {0:?}")]
    Twice(Target),
}

/// A writer schema's way into records.
#[derive(Debug)]
pub struct Plan {
    /// What a payload holds.
    pub(super) shape: Shape,
    pub(super) program: std::sync::Arc<Program>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// An array of records.
    Array,
    /// One record.
    Record,
}

/// How one record is read.
#[derive(Debug)]
pub(super) struct Program {
    /// One step for each of the writer's fields, in the writer's order.
    pub steps: Vec<Step>,
    /// Where a union's branches begin among the steps.
    pub branches: Vec<u32>,
    /// Severity numbers of an enum's symbols.
    pub severities: Vec<u32>,
    pub nodes: Nodes,
    /// The fewest bytes that a record takes.
    pub width_min: u64,
    /// Some step may push an attribute to the scratch.
    pub uses_scratch: bool,
}

/// A record's fields that hold text, and those that hold an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    ServiceName,
    Body,
    HostName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Id {
    Trace,
    Span,
}

/// Nanoseconds in a unit of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Nanosecond,
    Microsecond,
    Millisecond,
    Day,
}

impl Unit {
    pub const fn nanoseconds(self) -> u64 {
        match self {
            Self::Nanosecond => 1,
            Self::Microsecond => 1_000,
            Self::Millisecond => 1_000_000,
            Self::Day => 86_400_000_000_000,
        }
    }
}

/// What is done with the next value of the datum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A long in nanoseconds: its 64 bits.
    TimeNanoseconds,
    /// A long or an int (`is_int`) in another unit, and the name under which it becomes an
    /// attribute where the time is none that a record can hold.
    Time {
        unit: Unit,
        is_int: bool,
        name: NameSpan,
    },
    SeverityInt,
    SeverityLong,
    /// Symbols whose numbers stand in `Program::severities`.
    SeverityEnum(Children),
    /// A word or a number; another text becomes an attribute.
    SeverityText(NameSpan),
    Text(Text),
    TextEnum(Text, Children),
    Id(Id),
    IdText(Id),
    IdFixed(Id, u32),
    /// A map from string to string, which is read again where it stands: the record's only source
    /// of attributes.
    Attributes,
    /// A map whose entries become attributes.
    Entries(NodeId),
    /// A value that becomes an attribute.
    Attribute {
        name: NameSpan,
        node: NodeId,
    },
    /// A value that is counted.
    Count(NodeId),
    /// A union's index: its branches begin at these steps.
    Branch(Children),
    /// The end of a branch.
    Jump(u32),
}

impl Plan {
    /// Resolves a writer's schema, a record or an array of records, to the record.
    pub fn compile(writer: &Schema, mapping: &Mapping) -> Result<Self, CompileError> {
        let (shape, program) = compile::compile(writer, mapping)?;
        Ok(Self {
            shape,
            program: std::sync::Arc::new(program),
        })
    }

    /// The plan of payloads that hold an array of what this one's hold one of.
    pub fn of_array(&self) -> Self {
        Self {
            shape: Shape::Array,
            program: std::sync::Arc::clone(&self.program),
        }
    }
}
