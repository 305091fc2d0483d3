//! What a schema is called on the wire: the CRC-64-AVRO of its parsing canonical form.
//!
//! Both by Avro 1.12, "Parsing Canonical Form for Schemas" and "Schema Fingerprints". The form is
//! made from the schema's JSON itself, so that nothing hangs on what a parser keeps of it.

use serde_json::{Map, Value};

/// CRC-64-AVRO of nothing, and the polynomial.
const EMPTY: u64 = 0xc15d_213a_a4d7_a795;

static TABLE: [u64; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (EMPTY & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

/// The 64-bit Rabin fingerprint of the specification.
pub fn crc64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(EMPTY, |crc, byte| {
        (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)]
    })
}

/// The parsing canonical form of a schema that a parser has accepted.
pub fn canonical_form(schema: &Value) -> String {
    let mut out = String::new();
    write(schema, "", &mut out);
    out
}

/// The canonical form of an array whose items have the given one.
pub fn array_of(canonical_item: &str) -> String {
    format!(r#"{{"type":"array","items":{canonical_item}}}"#)
}

fn write(schema: &Value, namespace: &str, out: &mut String) {
    match schema {
        Value::String(name) => quote(&full_name(name, namespace), out),
        Value::Array(branches) => list(branches, out, |branch, out| write(branch, namespace, out)),
        Value::Object(object) => write_object(object, namespace, out),
        // No schema; a parser has refused it.
        other => out.push_str(&other.to_string()),
    }
}

fn write_object(object: &Map<String, Value>, namespace: &str, out: &mut String) {
    let kind = match &object["type"] {
        Value::String(kind) => kind.as_str(),
        // {"type": {…}}: the inner one is the schema.
        inner => return write(inner, namespace, out),
    };
    match kind {
        "record" | "error" | "enum" | "fixed" => write_named(kind, object, namespace, out),
        "array" | "map" => {
            let member = if kind == "array" { "items" } else { "values" };
            out.push_str(r#"{"type":""#);
            out.push_str(kind);
            out.push_str(r#"",""#);
            out.push_str(member);
            out.push_str(r#"":"#);
            write(&object[member], namespace, out);
            out.push('}');
        }
        // [PRIMITIVES]: {"type": "int", …} is "int".
        name => quote(&full_name(name, namespace), out),
    }
}

/// \[FULLNAMES\], \[STRIP\] and \[ORDER\]: name, type, fields, symbols, size.
fn write_named(kind: &str, object: &Map<String, Value>, namespace: &str, out: &mut String) {
    let name = object.get("name").and_then(Value::as_str).unwrap_or("");
    let own = object.get("namespace").and_then(Value::as_str);
    let full_name = full_name(name, own.unwrap_or(namespace));
    let namespace = full_name.rsplit_once('.').map_or("", |(space, _)| space);
    out.push_str(r#"{"name":"#);
    quote(&full_name, out);
    out.push_str(r#","type":""#);
    out.push_str(kind);
    out.push('"');
    match kind {
        "enum" => {
            out.push_str(r#","symbols":"#);
            let symbols = object.get("symbols").and_then(Value::as_array);
            list(symbols.map_or(&[], Vec::as_slice), out, |symbol, out| {
                quote(symbol.as_str().unwrap_or(""), out);
            });
        }
        "fixed" => {
            // [INTEGERS]: a size in quotes loses them, and its leading zeros.
            let size = match &object["size"] {
                Value::String(digits) => digits.parse().unwrap_or(0),
                number => number.as_u64().unwrap_or(0),
            };
            out.push_str(r#","size":"#);
            out.push_str(&size.to_string());
        }
        _ => {
            out.push_str(r#","fields":"#);
            let fields = object.get("fields").and_then(Value::as_array);
            list(fields.map_or(&[], Vec::as_slice), out, |field, out| {
                out.push_str(r#"{"name":"#);
                quote(field["name"].as_str().unwrap_or(""), out);
                out.push_str(r#","type":"#);
                write(&field["type"], namespace, out);
                out.push('}');
            });
        }
    }
    out.push('}');
}

fn list(values: &[Value], out: &mut String, each: impl Fn(&Value, &mut String)) {
    out.push('[');
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        each(value, out);
    }
    out.push(']');
}

/// Names and symbols are letters, digits, `_` and dots: nothing needs an escape (\[STRINGS\]).
fn quote(text: &str, out: &mut String) {
    out.push('"');
    out.push_str(text);
    out.push('"');
}

/// Primitives have no namespace, nor does a name that has dots take one.
fn full_name(name: &str, namespace: &str) -> String {
    const PRIMITIVES: [&str; 8] = [
        "null", "boolean", "int", "long", "float", "double", "bytes", "string",
    ];
    if namespace.is_empty() || name.contains('.') || PRIMITIVES.contains(&name) {
        name.to_owned()
    } else {
        format!("{namespace}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Canonical forms and fingerprints (in the order of the wire) are fastavro's, 1.13.1.
    #[test]
    fn forms_and_fingerprints_are_fastavros() {
        let schema = serde_json::json!(
            {"type":"record","namespace":"a.b","name":"R","doc":"d","aliases":["Q"],"fields":[
             {"name":"t","type":{"type":"long","logicalType":"timestamp-micros"},"default":0},
             {"name":"e","type":{"type":"enum","name":"E","symbols":["A","B"],"default":"A"}},
             {"name":"f","type":{"type":"fixed","name":"c.F","size":12,"logicalType":"duration"}},
             {"name":"g","type":["null","E","c.F",{"type":"map","values":"R"}],"default":null},
             {"name":"h","type":{"type":"array","items":{"type":"record","name":"I","namespace":"",
               "fields":[{"name":"x","type":{"type":"string"}}]}},"order":"ignore"}]}
        );
        let form = canonical_form(&schema);
        assert_eq!(
            form,
            concat!(
                r#"{"name":"a.b.R","type":"record","fields":[{"name":"t","type":"long"},"#,
                r#"{"name":"e","type":{"name":"a.b.E","type":"enum","symbols":["A","B"]}},"#,
                r#"{"name":"f","type":{"name":"c.F","type":"fixed","size":12}},"#,
                r#"{"name":"g","type":["null","a.b.E","c.F",{"type":"map","values":"a.b.R"}]},"#,
                r#"{"name":"h","type":{"type":"array","items":{"name":"I","type":"record","#,
                r#""fields":[{"name":"x","type":"string"}]}}}]}"#
            )
        );
        assert_eq!(
            crc64(form.as_bytes()),
            0x6c4c_24f3_8ed0_fbb0_u64.swap_bytes()
        );
    }

    /// The specification names the fingerprint of `"null"`; `"int"` is fastavro's.
    #[test]
    fn fingerprints_of_primitives() {
        assert_eq!(crc64(br#""null""#), 0x63dd_24e7_cc25_8f8a);
        assert_eq!(crc64(br#""int""#), 0x8f5c_393f_1ad5_7572_u64.swap_bytes());
    }
}
