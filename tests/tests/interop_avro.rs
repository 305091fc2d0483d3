//! Avro files that the sink wrote, read by fastavro: somebody else's reader must see what was sent.
//!
//! Python is `PENSTOCK_PYTHON`, else `python3`. Where it has no fastavro the test says so and skips;
//! with `CI=true` that is a failure. DuckDB reads Avro with an extension that it fetches from its
//! own server, not from a package registry: it is not tested here.

use std::path::Path;
use std::process::Command;

use penstock::config::settings::{Compression, FileFormat};
use penstock::decode::{Checked, Decoder, Payload};
use penstock::record::RecordView;
use penstock::schema::table::Schemas;
use penstock_proto::avro::SchemaVersion;
use penstock_proto::encoding::Encoding;
use penstock_proto::v1::LogRecord;
use penstock_tests::agent::client::{as_of, hex, record};
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

/// Writes records as producers send them: for each version of our schema the payload of an array,
/// in hexadecimal, on a line of its own. What a version does not have is left out.
const WRITER: &str = r#"
import io, json, sys
import fastavro
from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form
records = json.load(sys.stdin)
for record in records:
    record["time_unix_nano"] = int(record["time_unix_nano"])
    for name in ("trace_id", "span_id"):
        record[name] = bytes.fromhex(record[name])
for path in sys.argv[1:]:
    with open(path) as file:
        schema = {"type": "array", "items": json.load(file)}
    name = fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO")
    names = [field["name"] for field in schema["items"]["fields"]]
    out = io.BytesIO()
    written = [{name: record[name] for name in names} for record in records]
    fastavro.schemaless_writer(out, parse_schema(schema), written)
    print("c301" + name + out.getvalue().hex())
"#;

/// The other way round: what fastavro writes, by the schemas as they stand in `schemas/`, with the
/// fingerprints that it gives them.
#[test]
fn the_agent_reads_what_fastavro_wrote() {
    let Some(python) = python(PROBE, "pip install 'fastavro[snappy,zstandard]'") else {
        return;
    };
    let records: Vec<LogRecord> = (0..50).map(|number| record("fastavro", number)).collect();
    let lines: Vec<Value> = records
        .iter()
        .map(|record| {
            json!({
                "time_unix_nano": record.time_unix_nano.to_string(),
                "severity_number": record.severity_number,
                "service_name": record.service_name,
                "body": record.body,
                "host_name": record.host_name,
                "attributes": record.attributes,
                "trace_id": hex::write(&record.trace_id),
                "span_id": hex::write(&record.span_id),
            })
        })
        .collect();
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas");
    let folder = tempfile::tempdir().expect("a folder");
    let input = folder.path().join("records.json");
    std::fs::write(&input, json!(lines).to_string()).expect("write the records");
    let output = Command::new(&python)
        .args(["-c", WRITER])
        .args((1..=3).map(|version| schemas.join(format!("log_record_v{version}.avsc"))))
        .stdin(std::fs::File::open(&input).expect("open the records"))
        .output()
        .expect("run Python");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let payloads = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(payloads.lines().count(), 3);

    let mut decoder = Decoder::new(&Schemas::default());
    for (payload, schema) in payloads.lines().zip(SchemaVersion::ALL) {
        let payload = hex::read(payload);
        let payload = Payload::plain(Encoding::Avro, &payload);
        let checked = decoder.validate(&payload, records.len() as u32);
        assert_eq!(checked, Ok(Checked::default()), "{schema:?}");
        let mut read = Vec::new();
        let count = decoder.for_each(&payload, |view| read.push(owned(view)));
        assert_eq!(count, Ok(records.len() as u32));
        let expected = records.iter().cloned().map(|record| as_of(schema, record));
        assert_eq!(read, expected.collect::<Vec<_>>(), "{schema:?}");
    }
}

fn owned(view: &RecordView<'_>) -> LogRecord {
    LogRecord {
        time_unix_nano: view.time_unix_nano,
        severity_number: view.severity_number,
        service_name: view.service_name.to_owned(),
        body: view.body.to_owned(),
        host_name: view.host_name.to_owned(),
        attributes: view
            .attributes
            .iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        trace_id: view.trace_id.to_owned(),
        span_id: view.span_id.to_owned(),
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
