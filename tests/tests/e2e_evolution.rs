//! Producers of several ages beside each other, and users' own schemas as they come and go.
//!
//! What user schemas' data look like is written by fastavro, so fingerprints and encodings are
//! somebody else's. Python is `PENSTOCK_PYTHON`, else `python3`; where it has no fastavro the test
//! says so and skips, and with `CI=true` that is a failure.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use penstock_proto::avro::SchemaVersion;
use penstock_proto::encoding::Encoding;
use penstock_proto::reason::Reason;
use penstock_proto::v1::{LogBatch, LogRecord};
use penstock_proto::wire::{AckStatus, write_frame};
use penstock_tests::agent::client::{Answer, Connection, avro, frame, header, hex, record};
use penstock_tests::agent::config::{Config, Gate};
use penstock_tests::agent::law::{Offered, drained};
use penstock_tests::agent::stored;
use penstock_tests::agent::{Agent, Home, penstock, wait_for};
use penstock_tests::netns::skip;
use prost::Message;
use serde_json::{Value, json};

const RECORDS: u64 = 5;
/// Two looks of half a second each, on a machine that others use too.
const PICKED_UP_MAX: Duration = Duration::from_secs(20);

/// Reads `{"schema", "records", "id"}` and prints, in hexadecimal, the fingerprint of the array and
/// the payload: with an id one record in Confluent's format, else a single-object encoded array.
const WRITER: &str = r#"
import io, json, sys
import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form
given = json.load(sys.stdin)
array = {"type": "array", "items": given["schema"]}
mark = bytes.fromhex(fingerprint(to_parsing_canonical_form(array), "CRC-64-AVRO"))
out = io.BytesIO()
if given["id"] is None:
    out.write(b"\xc3\x01" + mark)
    fastavro.schemaless_writer(out, fastavro.parse_schema(array), given["records"])
else:
    out.write(b"\x00" + given["id"].to_bytes(4, "big"))
    fastavro.schemaless_writer(out, fastavro.parse_schema(given["schema"]), given["records"][0])
print(mark.hex(), out.getvalue().hex())
"#;

fn python() -> String {
    std::env::var("PENSTOCK_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

fn has_fastavro(test: &str) -> bool {
    let probe = Command::new(python())
        .args(["-c", "import fastavro"])
        .stderr(Stdio::null())
        .status();
    let is_there = probe.is_ok_and(|status| status.success());
    if !is_there {
        skip(test, "this Python has no fastavro");
    }
    is_there
}

/// The fingerprint's bytes as they stand in a payload, and the payload.
fn written(schema: &Value, records: &Value, id: Option<u32>) -> (Vec<u8>, Vec<u8>) {
    let mut child = Command::new(python())
        .args(["-c", WRITER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start Python");
    let given = json!({"schema": schema, "records": records, "id": id});
    let mut stdin = child.stdin.take().expect("piped");
    stdin
        .write_all(given.to_string().as_bytes())
        .expect("write");
    drop(stdin);
    let output = child.wait_with_output().expect("Python ends");
    assert!(output.status.success(), "fastavro writes {schema}");
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    let (mark, payload) = printed.trim().split_once(' ').expect("two words");
    (hex::read(mark), hex::read(payload))
}

fn avro_frame(producer: u64, sequence: u64, records: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_frame(
        &mut bytes,
        header(Encoding::Avro, producer, sequence, records),
        payload,
    );
    bytes
}

fn batch(name: &str) -> Vec<LogRecord> {
    (0..RECORDS).map(|number| record(name, number)).collect()
}

/// A user's schema: version 3's fields under other names, and fields that a record has no place for.
fn order_schema() -> Value {
    json!({
        "type": "record", "name": "Order", "namespace": "shop", "fields": [
            {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            {"name": "level", "type": "int", "aliases": ["severity_number"]},
            {"name": "app", "type": "string"},
            {"name": "msg", "type": "string"},
            {"name": "tenant", "type": ["null", "string"], "default": null},
            {"name": "retries", "type": "long", "default": 0},
            {"name": "paid", "type": "boolean", "default": false},
            {"name": "ctx", "type": {"type": "record", "name": "Ctx", "fields": [
                {"name": "request", "type": "string"},
                {"name": "debug", "type": "string"}]}},
            {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []},
        ]
    })
}

const ORDER_SETTINGS: &str = r#"
[schemas.orders]
registry_id = 17
fields = { app = "service_name", msg = "body", "ctx.request" = "attribute", "ctx.debug" = "count" }
"#;

fn orders(count: u64) -> Value {
    let order = |n: u64| {
        json!({
            "ts": 1_795_178_701_000_000 + n, "level": 9, "app": "orders", "msg": format!("order {n}"),
            "tenant": if n % 2 == 0 { Value::Null } else { json!("acme") },
            "retries": n, "paid": true, "ctx": {"request": format!("r{n}"), "debug": "d"},
            "tags": ["a", "b"],
        })
    };
    (0..count).map(order).collect()
}

/// The same by hand: microseconds to nanoseconds, null says nothing, numbers and booleans as text,
/// what nests as JSON, and `ctx.debug` is counted.
fn stored_orders(count: u64) -> Vec<LogRecord> {
    let order = |n: u64| {
        let mut attributes: HashMap<String, String> = [
            ("retries", n.to_string()),
            ("paid", "true".to_owned()),
            ("ctx.request", format!("r{n}")),
            ("tags", r#"["a","b"]"#.to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        if n % 2 == 1 {
            attributes.insert("tenant".to_owned(), "acme".to_owned());
        }
        LogRecord {
            time_unix_nano: (1_795_178_701_000_000 + n) * 1000,
            severity_number: 9,
            service_name: "orders".to_owned(),
            body: format!("order {n}"),
            attributes,
            ..LogRecord::default()
        }
    };
    (0..count).map(order).collect()
}

/// A record of a later Protobuf version: fields 15 and 16 are nobody's yet.
#[derive(Clone, PartialEq, Message)]
struct LaterRecord {
    #[prost(fixed64, tag = "1")]
    time_unix_nano: u64,
    #[prost(string, tag = "4")]
    body: String,
    #[prost(string, tag = "15")]
    colour: String,
    #[prost(uint64, repeated, tag = "16")]
    numbers: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct LaterBatch {
    #[prost(message, repeated, tag = "1")]
    records: Vec<LaterRecord>,
}

fn later_payload() -> Vec<u8> {
    let records = (0..RECORDS).map(|n| LaterRecord {
        time_unix_nano: 100 + n,
        body: format!("later {n}"),
        colour: "teal".to_owned(),
        numbers: vec![n, 300],
    });
    LaterBatch {
        records: records.collect(),
    }
    .encode_to_vec()
}

/// The state that `/api/v1/status` gives a schema file, if it has it.
fn state(agent: &Agent, name: &str) -> Option<Value> {
    let status = agent.status();
    let files = status["schemas"].as_array().expect("an array");
    files.iter().find(|file| file["name"] == name).cloned()
}

fn refused(producer: u64, sequence: u64, reason: Reason) -> Answer {
    Answer {
        status: AckStatus::Refused,
        reason: reason as u8,
        ..Answer::durable(producer, sequence)
    }
}

/// Old producers, new ones and others' run side by side; what is stored is compared field by field.
#[test]
fn producers_of_every_age_and_schema_run_side_by_side() {
    if !has_fastavro("producers_of_every_age_and_schema_run_side_by_side") {
        return;
    }
    let home = Home::new();
    let schemas = home.path().join("schemas");
    fs::create_dir(&schemas).expect("a folder");
    fs::write(schemas.join("orders.avsc"), order_schema().to_string()).expect("write");
    let agent = home.start(&Config {
        schemas_dir: Some(schemas),
        more: ORDER_SETTINGS,
        ..Config::new(Gate::UserSpace)
    });

    let mut expected: HashMap<&str, Vec<LogRecord>> = HashMap::new();
    let mut frames = Vec::new();
    let count = RECORDS as u32;
    for (producer, version) in (1..).zip(SchemaVersion::ALL) {
        let name = version.label();
        let sent = batch(name);
        frames.push(avro_frame(producer, 1, count, &avro(version, &sent)));
        // What a version does not have is empty, by the schemas' defaults.
        let stored = sent.into_iter().map(|record| match version {
            SchemaVersion::V1 => LogRecord {
                host_name: String::new(),
                attributes: HashMap::new(),
                trace_id: Vec::new(),
                span_id: Vec::new(),
                ..record
            },
            SchemaVersion::V2 => LogRecord {
                trace_id: Vec::new(),
                span_id: Vec::new(),
                ..record
            },
            SchemaVersion::V3 => record,
        });
        expected.insert(name, stored.collect());
    }
    frames.push(frame(Encoding::Protobuf, 4, 1, &batch("protobuf")));
    expected.insert("protobuf", batch("protobuf"));

    // One field of each order is counted; of each later Protobuf record two (a repeated number that
    // is packed is one field).
    let (_, payload) = written(&order_schema(), &orders(RECORDS), None);
    frames.push(avro_frame(5, 1, count, &payload));
    let (_, single) = written(&order_schema(), &orders(1), Some(17));
    frames.push(avro_frame(6, 1, 1, &single));
    let mut all_orders = stored_orders(RECORDS);
    all_orders.extend(stored_orders(1));
    expected.insert("orders", all_orders);
    let mut later = Vec::new();
    let mut later_header = header(Encoding::Protobuf, 7, 1, count);
    later_header.priority = 0;
    write_frame(&mut later, later_header, &later_payload());
    frames.push(later);
    let known = (0..RECORDS).map(|n| LogRecord {
        time_unix_nano: 100 + n,
        body: format!("later {n}"),
        ..LogRecord::default()
    });
    expected.insert("", known.collect());
    let unmapped = (RECORDS + 1) + 2 * RECORDS;

    let mut connections: Vec<Connection> = frames
        .iter()
        .map(|frame| {
            let mut connection = Connection::open(agent.tcp());
            connection.send(frame);
            connection
        })
        .collect();
    for (producer, connection) in (1..).zip(&mut connections) {
        assert_eq!(connection.answers(1), [Answer::durable(producer, 1)]);
    }
    let metrics = drained(&agent, Gate::UserSpace, Offered::default());
    let listener = [("listener", "tcp")];
    assert_eq!(
        metrics.one("penstock_unmapped_fields_total", &listener),
        unmapped
    );
    assert_eq!(metrics.sum("penstock_refused_frames_total", &[]), 0);
    agent.stop();

    let stored = stored::read(&home.records());
    let total: usize = expected.values().map(Vec::len).sum();
    assert_eq!(stored.len(), total);
    for (service, mut records) in expected {
        let own = stored
            .iter()
            .filter(|each| each.record.service_name == service);
        let mut own: Vec<LogRecord> = own.map(|each| each.record.clone()).collect();
        // The two connections with orders are settled in any order.
        own.sort_by(|a, b| a.body.cmp(&b.body));
        records.sort_by(|a, b| a.body.cmp(&b.body));
        assert_eq!(own, records, "{service}");
    }
    assert_eq!(stored::cat(&home.data()).len(), total, "the journal's own");
    // What an old reader of Protobuf makes of a later producer's payload, by prost.
    let old = LogBatch::decode(later_payload().as_slice()).expect("prost reads it");
    assert_eq!(old.records[1].body, "later 1");
}

/// A file is added, others are broken or of no use, and it is removed while the sink lags.
#[test]
fn schemas_come_and_go_while_the_agent_runs() {
    if !has_fastavro("schemas_come_and_go_while_the_agent_runs") {
        return;
    }
    let home = Home::new();
    let schemas = home.path().join("schemas");
    fs::create_dir(&schemas).expect("a folder");
    let config = |more| Config {
        schemas_dir: Some(schemas.clone()),
        more,
        ..Config::new(Gate::UserSpace)
    };
    let agent = home.start(&config(
        "enabled = false\n[schemas.added]\nfields.msg = \"body\"\n",
    ));
    let added = json!({"type": "record", "name": "Added", "fields": [
        {"name": "when", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "msg", "type": "string"}]});
    let records = json!([{"when": 5, "msg": "one"}, {"when": 6, "msg": "two"}]);
    let (_, payload) = written(&added, &records, None);
    let mut connection = Connection::open(agent.tcp());
    connection.send(&avro_frame(1, 1, 2, &payload));
    assert_eq!(
        connection.answers(1),
        [refused(1, 1, Reason::UnknownSchema)]
    );

    let write = |name: &str, text: &str| fs::write(schemas.join(name), text).expect("write");
    write("added.avsc", &added.to_string());
    write(
        "broken.avsc",
        "{\n  \"type\": \"record\",\n  \"name\": 7\n}",
    );
    let endless = json!({"type": "record", "name": "Endless", "fields": [
        {"name": "again", "type": "Endless"}]});
    write("endless.avsc", &endless.to_string());
    let broken = wait_for("the files are picked up", PICKED_UP_MAX, || {
        state(&agent, "broken").filter(|_| state(&agent, "endless").is_some())
    });
    let reason = broken["reason"].as_str().expect("a reason");
    assert!(
        reason.contains("broken.avsc:3:11: a name is a number, no string"),
        "{reason}"
    );
    assert!(agent.log().contains("broken.avsc:3:11"), "{}", agent.log());
    let metrics = agent.metrics();
    for kind in ["usable", "unusable", "broken"] {
        assert_eq!(
            metrics.one("penstock_schemas", &[("state", kind)]),
            1,
            "{kind}"
        );
    }
    connection.send(&avro_frame(1, 2, 2, &payload));
    assert_eq!(connection.answers(1), [Answer::durable(1, 2)]);
    let (mark, _) = written(&added, &records, None);
    let kept = u64::from_le_bytes(mark.try_into().expect("8 bytes"));
    assert!(
        home.data()
            .join(format!("schemas/{kept:016x}.json"))
            .exists()
    );

    // A payload of the schema that has no values: nothing could be in it but a lie.
    let print = state(&agent, "endless").expect("listed")["fingerprint"].clone();
    let print = u64::from_str_radix(print.as_str().expect("text"), 16).expect("hexadecimal");
    let lie = [&[0xc3, 0x01][..], &print.to_le_bytes(), &[2, 0]].concat();
    connection.send(&avro_frame(1, 3, 1, &lie));
    assert_eq!(
        connection.answers(1),
        [refused(1, 3, Reason::UnusableSchema)]
    );

    fs::remove_file(schemas.join("added.avsc")).expect("remove");
    wait_for("the removal shows", PICKED_UP_MAX, || {
        state(&agent, "added").is_none().then_some(())
    });
    connection.send(&avro_frame(1, 4, 2, &payload));
    assert_eq!(
        connection.answers(1),
        [refused(1, 4, Reason::UnknownSchema)]
    );
    // Our own schemas were never touched.
    connection.send(&frame(Encoding::Avro, 1, 5, &[record("own", 1)]));
    assert_eq!(connection.answers(1), [Answer::durable(1, 5)]);
    assert_eq!(
        stored::cat(&home.data()).len(),
        3,
        "the journal reads by the kept copy"
    );
    agent.stop();
    assert_eq!(fs::read_dir(home.records()).map_or(0, Iterator::count), 0);

    // A later life, whose folder does not have the schema, delivers what was accepted by it.
    let agent = home.start(&config(""));
    wait_for("the backlog is delivered", PICKED_UP_MAX, || {
        (agent.metrics().sum("penstock_sink_records_total", &[]) == 3).then_some(())
    });
    agent.stop();
    let stored: Vec<LogRecord> = stored::read(&home.records())
        .into_iter()
        .map(|each| each.record)
        .collect();
    let expect = |milliseconds: u64, body: &str| LogRecord {
        time_unix_nano: milliseconds * 1_000_000,
        body: body.to_owned(),
        ..LogRecord::default()
    };
    assert_eq!(
        stored,
        [expect(5, "one"), expect(6, "two"), record("own", 1)]
    );
}

/// `penstock schema check` before a change, and its exit code.
#[test]
fn a_change_is_checked_before_it_is_made() {
    let home = Home::new();
    let write = |name: &str, fields: &str| {
        let path = home.path().join(name);
        let text = format!(r#"{{"type": "record", "name": "R", "fields": [{fields}]}}"#);
        fs::write(&path, text).expect("write");
        path.to_str().expect("UTF-8").to_owned()
    };
    write("r_v1.avsc", r#"{"name": "body", "type": "string"}"#);
    let right = write(
        "r_v2.avsc",
        r#"{"name": "body", "type": "string"}, {"name": "n", "type": "int", "default": 0}"#,
    );
    assert_eq!(
        penstock(&["schema", "check", &right]),
        "r_v1 -> r_v2: full\n"
    );
    let wrong = write("r_v3.avsc", r#"{"name": "body", "type": "int"}"#);
    let output = Command::new(penstock_tests::agent::binary())
        .args(["schema", "check", &wrong, "--against"])
        .arg(home.path().join("r_v1.avsc"))
        .output()
        .expect("run penstock");
    assert_eq!(output.status.code(), Some(78));
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(
        printed.contains("breaks backward with r_v1: body: string is written"),
        "{printed}"
    );
    let matrix = penstock(&["schema", "matrix", home.path().to_str().expect("UTF-8")]);
    assert!(matrix.contains("r_v2 -> r_v3: none"), "{matrix}");
}
