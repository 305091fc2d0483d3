//! A record as a JSON object with every field.

use super::escape::{Escapes, push_escaped};
use crate::sink::file::container::Stored;

pub(super) fn json_line(record: &Stored<'_>, line: &mut String) {
    line.push_str(&format!(
        "{{\"time_unix_nano\":\"{}\",\"severity_number\":{}",
        record.time_unix_nano, record.severity_number
    ));
    push_text_field("service_name", record.service_name, line);
    push_text_field("body", record.body, line);
    push_text_field("host_name", record.host_name, line);
    line.push_str(",\"attributes\":{");
    for (at, (key, value)) in record.attributes.iter().enumerate() {
        line.push_str(if at == 0 { "\"" } else { ",\"" });
        push_escaped(key, Escapes::Json, line);
        line.push_str("\":\"");
        push_escaped(value, Escapes::Json, line);
        line.push('"');
    }
    line.push_str("},\"trace_id\":\"");
    push_hex(record.trace_id, line);
    line.push_str("\",\"span_id\":\"");
    push_hex(record.span_id, line);
    line.push_str(&format!(
        "\",\"observed_time_unix_nano\":\"{}\"",
        record.observed_time_unix_nano
    ));
    push_text_field("listener", record.listener, line);
    push_text_field("peer_address", record.peer_address, line);
    if let Some(sixteenths) = record.keep_sixteenths {
        line.push_str(&format!(",\"keep_sixteenths\":{sixteenths}"));
    }
    line.push('}');
}

fn push_text_field(name: &str, value: &str, line: &mut String) {
    line.push_str(",\"");
    line.push_str(name);
    line.push_str("\":\"");
    push_escaped(value, Escapes::Json, line);
    line.push('"');
}

fn push_hex(bytes: &[u8], line: &mut String) {
    for byte in bytes {
        line.push_str(&format!("{byte:02x}"));
    }
}
