//! What the tests with other people's readers share: a journal of records that are hard to read, a
//! sink that writes them to a file, and what every reader must show.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use agent_common::frame::{FLAG_ZSTD, FrameHeader};
use penstock::config::settings::{Compression, FileFormat, SinkKind, SinkSettings};
use penstock::journal::feed::{JournalMarks, feed};
use penstock::journal::format::{
    BLOCK_ALIGN, BLOCK_HEADER_LEN, BlockHeader, ENTRY_ALIGN, ENTRY_HEADER_LEN, Envelope,
    SEGMENT_HEADER_LEN, SegmentHeader, segment_file_name, shard_folder_name,
};
use penstock::schema::table::Schemas;
use penstock::sink::SinkStats;
use penstock::sink::run::{SinkPlan, spawn};
use penstock_proto::encoding::Encoding;
use penstock_proto::v1::{LogBatch, LogRecord};
use penstock_proto::wire::write_frame;
use prost::Message;
use serde_json::{Value, json};

/// One entry of the journal.
pub struct Sent {
    pub envelope: Envelope,
    pub encoding: Encoding,
    /// The payload is zstd.
    pub zstd: bool,
    pub payload: Vec<u8>,
    pub records: Vec<LogRecord>,
}

fn protobuf(observed: u64, listener: u16, peer: Option<&str>, records: Vec<LogRecord>) -> Sent {
    let batch = LogBatch { records };
    Sent {
        envelope: Envelope {
            observed_time_unix_nano: observed,
            listener,
            keep_sixteenths: 16,
            deduplicated: false,
            peer: peer.map(|peer| peer.parse::<SocketAddr>().expect("an address")),
        },
        encoding: Encoding::Protobuf,
        zstd: false,
        payload: batch.encode_to_vec(),
        records: batch.records,
    }
}

/// As a sender with `--zstd` sends it.
fn compressed(sent: Sent) -> Sent {
    Sent {
        zstd: true,
        payload: zstd::bulk::compress(&sent.payload, 3).expect("compressed"),
        ..sent
    }
}

fn attributes(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    let owned = pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    owned.collect()
}

pub fn samples() -> Vec<Sent> {
    let full = LogRecord {
        time_unix_nano: 1_795_178_701_123_456_789,
        severity_number: 17,
        service_name: "checkout".to_owned(),
        body: "naïve café ☃ 🪵\tdone\nsecond line\u{0}\u{1b}[0m".to_owned(),
        host_name: "höst-1".to_owned(),
        attributes: attributes(&[
            ("", ""),
            ("k", "v"),
            ("größe", "10 µm"),
            ("json", "{\"a\":[1]}"),
        ]),
        trace_id: (0..16).collect(),
        span_id: vec![0xff; 8],
    };
    // Beyond a signed long or int: the same bits (schemas/README.md).
    let biggest = LogRecord {
        time_unix_nano: u64::MAX,
        severity_number: u32::MAX,
        ..LogRecord::default()
    };
    let big = LogRecord {
        time_unix_nano: i64::MAX as u64,
        severity_number: i32::MAX as u32,
        body: "x".repeat(300_000),
        ..LogRecord::default()
    };
    let many = |from: u64| {
        let numbered = (from..from + 400).map(|at| LogRecord {
            time_unix_nano: at,
            severity_number: (at % 24) as u32 + 1,
            body: format!("line {at} of many, long enough to fill more than one block"),
            attributes: (0..at % 12)
                .map(|n| (format!("key{n}"), format!("{at}")))
                .collect(),
            ..LogRecord::default()
        });
        numbered.collect::<Vec<_>>()
    };
    let json = Sent {
        encoding: Encoding::Json,
        payload: concat!(
            r#"{"time_unix_nano":"9007199254740993","severity_number":9,"body":"from \u004aSON \ud83e\udeb5","#,
            r#""service_name":"s","host_name":"h","attributes":{"a":"\u00e4"},"#,
            r#""trace_id":"000102030405060708090a0b0c0d0e0f","span_id":"ffffffffffffffff"}"#,
            "\n"
        )
        .as_bytes()
        .to_vec(),
        records: vec![LogRecord {
            // One more than doubles can tell from its neighbour.
            time_unix_nano: 9_007_199_254_740_993,
            severity_number: 9,
            service_name: "s".to_owned(),
            body: "from JSON 🪵".to_owned(),
            host_name: "h".to_owned(),
            attributes: attributes(&[("a", "ä")]),
            trace_id: (0..16).collect(),
            span_id: vec![0xff; 8],
        }],
        ..protobuf(3, 1, Some("[2001:db8::1]:514"), Vec::new())
    };
    vec![
        protobuf(
            1_795_178_702_000_000_001,
            0,
            Some("192.0.2.7:5140"),
            vec![full, LogRecord::default(), biggest],
        ),
        protobuf(2, 1, None, vec![big]),
        json,
        protobuf(4, 0, Some("192.0.2.8:1"), many(0)),
        compressed(protobuf(5, 0, Some("192.0.2.8:2"), many(400))),
    ]
}

const LISTENERS: [&str; 2] = ["apps", "edge"];

/// One segment, one block an entry; returns the durable position and the records before it.
fn write_journal(data_dir: &Path, sent: &[Sent]) -> (u64, u64) {
    let folder = data_dir.join("journal").join(shard_folder_name(0));
    std::fs::create_dir_all(&folder).expect("create the journal's folder");
    let header = SegmentHeader {
        shard: 0,
        number: 1,
        base: 0,
        records_before: 0,
        created_unix_nano: 0,
        predecessor: 0,
        salt: 7,
        listeners: LISTENERS.map(str::to_owned).to_vec(),
    };
    let mut page = [0; SEGMENT_HEADER_LEN];
    header.write(&mut page);
    let mut segment = page.to_vec();
    let (mut position, mut records_before) = (0, 0);
    for entry in sent {
        let records = entry.records.len() as u32;
        let mut frame = Vec::new();
        let frame_header = FrameHeader {
            encoding: entry.encoding as u8,
            flags: if entry.zstd { FLAG_ZSTD } else { 0 },
            priority: 2,
            payload_len: 0,
            records,
            producer: 0,
            sequence: 0,
            payload_crc: 0,
        };
        write_frame(&mut frame, frame_header, &entry.payload);
        let mut envelope = [0; ENTRY_HEADER_LEN];
        entry.envelope.write(frame.len(), &mut envelope);
        let mut block = vec![0; BLOCK_HEADER_LEN];
        block.extend_from_slice(&envelope);
        block.extend_from_slice(&frame);
        block.resize(block.len().next_multiple_of(ENTRY_ALIGN), 0);
        let header = BlockHeader {
            len: block.len() as u32,
            position,
            durable: position,
            segment: 1,
            records_before,
            entries: 1,
            records,
            salt: 7,
        };
        header.write(block.first_chunk_mut().expect("the header's room"));
        block.resize(block.len().next_multiple_of(BLOCK_ALIGN), 0);
        segment.extend_from_slice(&block);
        position = header.end_position();
        records_before += u64::from(records);
    }
    std::fs::write(folder.join(segment_file_name(1)), segment).expect("write the segment");
    (position, records_before)
}

/// What every reader must show, from what was sent; ids as hexadecimal, nanoseconds as text.
pub fn expected(sent: &[Sent]) -> Vec<Value> {
    let mut expected = Vec::new();
    for entry in sent {
        let peer = entry.envelope.peer;
        for record in &entry.records {
            let attributes: BTreeMap<_, _> = record.attributes.iter().collect();
            expected.push(json!({
                "time_unix_nano": record.time_unix_nano.to_string(),
                "severity_number": record.severity_number,
                "service_name": record.service_name,
                "body": record.body,
                "host_name": record.host_name,
                "attributes": attributes,
                "trace_id": hex(&record.trace_id),
                "span_id": hex(&record.span_id),
                "observed_time_unix_nano": entry.envelope.observed_time_unix_nano.to_string(),
                "listener": LISTENERS[usize::from(entry.envelope.listener)],
                "peer_address": peer.map(|peer| peer.to_string()).unwrap_or_default(),
            }));
        }
    }
    expected
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs the file sink over the journal until it has sealed everything; returns the one file.
pub fn run_sink(
    data_dir: &Path,
    (format, compression): (FileFormat, Compression),
    sent: &[Sent],
) -> PathBuf {
    let (durable, records) = write_journal(data_dir, sent);
    let marks = Arc::new(JournalMarks::new(durable, records));
    let (sender, receiver) = feed(&marks, 1);
    drop(sender);
    let settings = SinkSettings {
        name: "files".to_owned(),
        to: Vec::new(),
        kind: SinkKind::File,
        format,
        compression,
        rotate_size: 1 << 30,
        rotate_age: Duration::from_secs(3600),
        keep_size: 1 << 30,
        keep_age: Duration::from_secs(3600),
        enabled: true,
    };
    let thread = spawn(SinkPlan {
        settings,
        shard: 0,
        data_dir: data_dir.to_owned(),
        feed: receiver,
        schemas: Schemas::default(),
        stats: Arc::new(SinkStats::default()),
        lag: Arc::default(),
        stop: Arc::default(),
    });
    let ended = thread.expect("start the sink").join().expect("no panic");
    ended.expect("everything is delivered and sealed");
    let mut files = std::fs::read_dir(data_dir.join("records")).expect("the output folder");
    let path = files.next().expect("a file").expect("an entry").path();
    assert!(files.next().is_none(), "one file");
    path
}

/// Whether a command is there and ends well; `None` after saying that it is not, which with `CI=true`
/// is a failure. `packages` says what to install.
pub fn available(mut command: Command, packages: &str) -> Option<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let why = match command.output() {
        Ok(output) if output.status.success() => return Some(()),
        Ok(output) => {
            // A traceback's last line says what is missing.
            let errors = String::from_utf8_lossy(&output.stderr);
            errors.trim().lines().last().unwrap_or_default().to_owned()
        }
        Err(error) => error.to_string(),
    };
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{program} cannot do what CI must have ({packages}): {why}"
    );
    eprintln!("SKIPPED: {program} cannot read this here ({packages}): {why}");
    None
}

/// A Python that runs `probe`: `PENSTOCK_PYTHON`, else `python3`.
pub fn python(probe: &str, packages: &str) -> Option<String> {
    let python = std::env::var("PENSTOCK_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut command = Command::new(&python);
    command.args(["-c", probe]);
    available(command, packages).map(|()| python)
}

/// What a command prints, as lines; it must end well.
pub fn lines(command: &mut Command) -> Vec<String> {
    let output = command.output().expect("run it");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.split_terminator('\n').map(str::to_owned).collect()
}

/// Every record, one JSON value a line.
pub fn assert_read(lines: &[String], expected: &[Value], who: &str) {
    assert_eq!(lines.len(), expected.len(), "{who}");
    for (at, (line, expected)) in lines.iter().zip(expected).enumerate() {
        let read: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(&read, expected, "record {at}, {who}");
    }
}
