//! JSON lines and length-delimited Protobuf that the sink wrote, read by `zstdcat | jq`, DuckDB and
//! protobuf for Python: somebody else's reader must see what was sent.
//!
//! Python is `PENSTOCK_PYTHON`, else `python3`. Where a reader is missing the test says so and skips;
//! with `CI=true` that is a failure.

use std::path::Path;
use std::process::Command;

use penstock::config::settings::{Compression, FileFormat};
use penstock_tests::interop::{
    Sent, assert_read, available, expected, lines, python, run_sink, samples,
};
use prost::Message;
use serde_json::Value;

#[test]
fn jq_reads_json_lines() {
    let mut probe = Command::new("sh");
    probe.args(["-c", "jq --version && zstdcat --version"]);
    if available(probe, "apt-get install zstd jq").is_none() {
        return;
    }
    for (compression, program, ending) in [
        (Compression::None, "cat", ".jsonl"),
        (Compression::Zstd, "zstdcat", ".jsonl.zst"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let sent = samples();
        let path = run_sink(folder.path(), (FileFormat::Jsonl, compression), &sent);
        assert!(
            path.to_string_lossy().ends_with(ending),
            "{}",
            path.display()
        );
        let mut pipe = Command::new("sh");
        // A pipe ends with its last program's code.
        pipe.args([
            "-c",
            "set -e; \"$0\" \"$1\" > \"$1.plain\"; jq -c . \"$1.plain\"",
            program,
        ])
        .arg(&path);
        assert_read(&lines(&mut pipe), &expected(&sent), ending);
    }
}

/// Each column as DuckDB has it, ids and nanoseconds as text.
const DUCKDB: &str = r#"
import json, sys, duckdb
columns = {
    "time_unix_nano": "UBIGINT", "severity_number": "UINTEGER", "service_name": "VARCHAR",
    "body": "VARCHAR", "host_name": "VARCHAR", "attributes": "MAP(VARCHAR, VARCHAR)",
    "trace_id": "VARCHAR", "span_id": "VARCHAR", "observed_time_unix_nano": "UBIGINT",
    "listener": "VARCHAR", "peer_address": "VARCHAR",
}
rows = duckdb.sql(f"SELECT * FROM read_ndjson('{sys.argv[1]}', columns = {columns})")
for row in rows.fetchall():
    record = dict(zip(columns, row))
    for name in ["time_unix_nano", "observed_time_unix_nano"]:
        record[name] = str(record[name])
    print(json.dumps(record))
"#;

/// As it stands, with no word about columns.
const DUCKDB_GUESSES: &str = r#"
import json, sys, duckdb
query = f"SELECT listener, count(*), sum(length(body)) FROM '{sys.argv[1]}' GROUP BY ALL ORDER BY ALL"
print(json.dumps([list(map(str, row)) for row in duckdb.sql(query).fetchall()]))
"#;

#[test]
fn duckdb_reads_json_lines() {
    let probe = "import duckdb; duckdb.sql('SELECT 1').fetchall()";
    let Some(python) = python(probe, "pip install duckdb") else {
        return;
    };
    for compression in [Compression::None, Compression::Zstd] {
        let folder = tempfile::tempdir().expect("a folder");
        let sent = samples();
        let path = run_sink(folder.path(), (FileFormat::Jsonl, compression), &sent);
        let run = |script: &str| lines(Command::new(&python).args(["-c", script]).arg(&path));
        let expected = expected(&sent);
        assert_read(&run(DUCKDB), &expected, "DuckDB");
        assert_eq!(run(DUCKDB_GUESSES), [by_listener(&expected)]);
    }
}

fn by_listener(expected: &[Value]) -> String {
    let rows = ["apps", "edge"].map(|listener| {
        let of_it = expected
            .iter()
            .filter(|record| record["listener"] == listener);
        let bodies = of_it.map(|record| record["body"].as_str().expect("text"));
        let characters = |body: &str| body.chars().count();
        let count = bodies.clone().count();
        let sum: usize = bodies.map(characters).sum();
        format!(r#"["{listener}", "{count}", "{sum}"]"#)
    });
    format!("[{}]", rows.join(", "))
}

/// Reads the stream with the official package and the descriptor of `logs.proto`.
const PROTOBUF: &str = r#"
import io, json, sys
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, proto
files = descriptor_pb2.FileDescriptorSet.FromString(open(sys.argv[2], "rb").read())
pool = descriptor_pool.DescriptorPool()
for file in files.file:
    pool.Add(file)
Record = message_factory.GetMessageClass(pool.FindMessageTypeByName("penstock.v1.StoredRecord"))
data = open(sys.argv[1], "rb").read()
if sys.argv[1].endswith(".zst"):
    try:
        import compression.zstd as zstd
    except ImportError:
        try:
            import backports.zstd as zstd
        except ImportError:
            import zstandard
            data = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
            zstd = None
    if zstd:
        data = zstd.decompress(data)
stream = io.BytesIO(data)
while (record := proto.parse_length_prefixed(Record, stream)) is not None:
    shown = {}
    for field in Record.DESCRIPTOR.fields:
        value = getattr(record, field.name)
        if field.name.endswith("_unix_nano"):
            value = str(value)
        elif field.name == "attributes":
            value = dict(value)
        elif isinstance(value, bytes):
            value = value.hex()
        shown[field.name] = value
    print(json.dumps(shown))
"#;

#[test]
fn protobuf_for_python_reads_the_delimited_stream() {
    let probe = "from google.protobuf import proto; proto.parse_length_prefixed; \
                 import fastavro; fastavro.writer(__import__('io').BytesIO(), 'long', [1], codec='zstandard')";
    let Some(python) = python(probe, "pip install protobuf 'fastavro[zstandard]'") else {
        return;
    };
    for compression in [Compression::None, Compression::Zstd] {
        let folder = tempfile::tempdir().expect("a folder");
        let sent: Vec<Sent> = samples();
        let path = run_sink(folder.path(), (FileFormat::Protobuf, compression), &sent);
        let descriptor = folder.path().join("logs.binpb");
        let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
        let files = protox::compile(["penstock/v1/logs.proto"], [proto]).expect("a schema");
        std::fs::write(&descriptor, files.encode_to_vec()).expect("write");
        let mut command = Command::new(&python);
        command.args(["-c", PROTOBUF]).arg(&path).arg(&descriptor);
        assert_read(
            &lines(&mut command),
            &expected(&sent),
            "protobuf for Python",
        );
    }
}
