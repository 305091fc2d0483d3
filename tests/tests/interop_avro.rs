//! Avro files that the sink wrote, read by fastavro: somebody else's reader must see what was sent.
//!
//! Python is `PENSTOCK_PYTHON`, else `python3`. Where it has no fastavro the test says so and skips;
//! with `CI=true` that is a failure. DuckDB reads Avro with an extension that it fetches from its
//! own server, not from a package registry: it is not tested here.

use std::process::Command;

use penstock::config::settings::{Compression, FileFormat};
use penstock_tests::interop::{assert_read, expected, lines, python, run_sink, samples};
use serde_json::{Value, json};

/// Whether this Python can read the files at all: it writes and reads some in memory.
const PROBE: &str = r#"
import io, fastavro
for codec in ["zstandard", "snappy"]:
    file = io.BytesIO()
    fastavro.writer(file, "long", [1], codec=codec)
    file.seek(0)
    assert list(fastavro.reader(file)) == [1]
"#;

/// Prints one JSON object a record: numbers as decimal text, bytes as hexadecimal, texts as they are.
const READER: &str = r#"
import json, sys
import fastavro
with open(sys.argv[1], "rb") as file:
    reader = fastavro.reader(file)
    print(json.dumps({"codec": reader.codec, "schema": reader.writer_schema["name"]}))
    for record in reader:
        for name, value in record.items():
            if isinstance(value, int):
                record[name] = str(value)
            elif isinstance(value, bytes):
                record[name] = value.hex()
        print(json.dumps(record))
"#;

#[test]
fn fastavro_reads_what_the_sink_wrote() {
    let Some(python) = python(PROBE, "pip install 'fastavro[snappy,zstandard]'") else {
        return;
    };
    for (compression, codec) in [
        (Compression::None, "null"),
        (Compression::Zstd, "zstandard"),
        (Compression::Snappy, "snappy"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let sent = samples();
        let path = run_sink(folder.path(), (FileFormat::Avro, compression), &sent);
        let mut lines = lines(Command::new(&python).args(["-c", READER]).arg(&path));
        let first: Value = serde_json::from_str(&lines.remove(0)).expect("JSON");
        assert_eq!(
            first,
            json!({"codec": codec, "schema": "penstock.StoredRecord"})
        );
        assert_read(&lines, &as_avro(expected(&sent)), codec);
    }
}

/// Avro has no unsigned numbers: the same bits, signed (schemas/README.md); the script prints all
/// numbers as text.
fn as_avro(mut expected: Vec<Value>) -> Vec<Value> {
    for record in &mut expected {
        let severity = record["severity_number"].as_u64().expect("a number") as u32;
        record["severity_number"] = json!((severity as i32).to_string());
        for name in ["time_unix_nano", "observed_time_unix_nano"] {
            let nanoseconds: u64 = record[name]
                .as_str()
                .expect("text")
                .parse()
                .expect("digits");
            record[name] = json!((nanoseconds as i64).to_string());
        }
    }
    expected
}
