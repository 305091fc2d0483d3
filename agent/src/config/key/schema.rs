//! What may be said of a schema and its fields.

use crate::config::document::Leaf;
use crate::config::mistake::Wrong;
use crate::decode::avro::plan::Target;

pub const TARGET_WORDS: [(&str, Target); 9] = [
    ("time_unix_nano", Target::TimeUnixNano),
    ("severity_number", Target::SeverityNumber),
    ("service_name", Target::ServiceName),
    ("body", Target::Body),
    ("host_name", Target::HostName),
    ("trace_id", Target::TraceId),
    ("span_id", Target::SpanId),
    ("attribute", Target::Attribute),
    ("count", Target::Count),
];

pub const UNMAPPED_WORDS: [(&str, bool); 2] = [("attribute", false), ("count", true)];

pub fn parse_registry_id(leaf: &Leaf) -> Result<u32, Wrong> {
    let given = match leaf {
        Leaf::Number(number) => match number.parse() {
            Ok(id) => return Ok(id),
            Err(_) => number.clone(),
        },
        Leaf::Text(text) => format!("\"{text}\""),
        Leaf::Flag(_) => "a boolean".to_owned(),
        Leaf::List(_) => "a list".to_owned(),
        Leaf::Other(what) => (*what).to_owned(),
    };
    Err(Wrong::new(
        format!("{given} is no id of a registry"),
        "write the number that the registry gave the schema, without quotes, as in 17",
    ))
}
