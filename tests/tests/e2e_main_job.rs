//! The main job: log batches from the socket to files, over each protocol and in each encoding.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_common::frame::FrameHeader;
use penstock_client::{Options, SchemaVersion, Sender};
use penstock_proto::encoding::Encoding;
use penstock_proto::v1::LogRecord;
use penstock_proto::wire::write_frame;
use penstock_tests::agent::client::{
    Answer, Connection, Datagrams, as_of, avro, frame, header, line_frame, record,
};
use penstock_tests::agent::config::{Config, Gate};
use penstock_tests::agent::law::{Offered, drained};
use penstock_tests::agent::stored::{self, StoredRecord};
use penstock_tests::agent::{Home, binary, penstock};
use penstock_tests::in_both_gates;

const FRAMES: u64 = 20;
const RECORDS_PER_FRAME: u64 = 3;

in_both_gates!(
    tcp_frames_are_stored,
    udp_frames_are_stored,
    avro_frames_of_each_version_are_stored
);

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970").as_nanos() as u64
}

/// The records of frame `sequence`.
fn batch(sender: &str, sequence: u64) -> Vec<LogRecord> {
    let first = sequence * RECORDS_PER_FRAME;
    (first..first + RECORDS_PER_FRAME)
        .map(|number| record(sender, number))
        .collect()
}

fn all_of(sender: &str) -> Vec<LogRecord> {
    (1..=FRAMES).flat_map(|n| batch(sender, n)).collect()
}

/// What the files hold of each sender: exactly its records, in its order, with the envelope.
fn check(stored: &[StoredRecord], listener: &str, senders: &[(String, String)], from_ns: u64) {
    let until_ns = now_ns();
    assert_eq!(
        stored.len() as u64,
        senders.len() as u64 * FRAMES * RECORDS_PER_FRAME
    );
    for (sender, peer_address) in senders {
        let own: Vec<&StoredRecord> = stored
            .iter()
            .filter(|each| each.record.service_name == *sender)
            .collect();
        let records: Vec<LogRecord> = own.iter().map(|each| each.record.clone()).collect();
        assert_eq!(records, all_of(sender));
        for each in own {
            assert_eq!(each.listener, listener);
            assert_eq!(each.peer_address, *peer_address);
            let observed = each.observed_time_unix_nano;
            assert!(from_ns <= observed && observed <= until_ns, "{observed}");
        }
    }
}

fn tcp_frames_are_stored(gate: Gate) {
    let home = Home::new();
    let agent = home.start(&Config::new(gate));
    let from_ns = now_ns();
    let mut senders = Vec::new();
    for (producer, encoding) in (1..).zip(Encoding::ALL) {
        let mut connection = Connection::open(agent.tcp());
        let name = format!("tcp-{}", encoding.label());
        for sequence in 1..=FRAMES {
            connection.send(&frame(
                encoding,
                producer,
                sequence,
                &batch(&name, sequence),
            ));
        }
        let expected: Vec<Answer> = (1..=FRAMES)
            .map(|sequence| Answer::durable(producer, sequence))
            .collect();
        assert_eq!(connection.answers(FRAMES as usize), expected);
        senders.push((name, connection.local().to_string()));
    }
    let metrics = drained(&agent, gate, Offered::default());
    for encoding in Encoding::ALL {
        let labels = [("listener", "tcp"), ("encoding", encoding.label())];
        let frames = metrics.one("penstock_accepted_frames_total", &labels);
        let records = metrics.one("penstock_accepted_records_total", &labels);
        assert_eq!((frames, records), (FRAMES, FRAMES * RECORDS_PER_FRAME));
    }
    let acks = metrics.one("penstock_acks_total", &[("status", "durable")]);
    assert_eq!(acks, Encoding::COUNT as u64 * FRAMES);
    agent.stop();
    let stored = stored::read(&home.records());
    check(&stored, "tcp", &senders, from_ns);
    assert_eq!(stored::cat(&home.records()), stored);
    assert_eq!(stored::cat(&home.data()), stored, "the journal's own");
}

fn udp_frames_are_stored(gate: Gate) {
    let home = Home::new();
    let agent = home.start(&Config::new(gate));
    let from_ns = now_ns();
    let mut senders = Vec::new();
    for (producer, encoding) in (1..).zip(Encoding::ALL) {
        let socket = Datagrams::open(agent.udp());
        let name = format!("udp-{}", encoding.label());
        for sequence in 1..=FRAMES {
            socket.send(&frame(
                encoding,
                producer,
                sequence,
                &batch(&name, sequence),
            ));
        }
        senders.push((name, socket.local().to_string()));
    }
    let offered = Offered {
        datagrams: Encoding::COUNT as u64 * FRAMES,
        ..Offered::default()
    };
    let metrics = drained(&agent, gate, offered);
    let gaps = metrics.one("penstock_sequence_gap_frames_total", &[("listener", "udp")]);
    assert_eq!(gaps, 0);
    agent.stop();
    let stored = stored::read(&home.records());
    check(&stored, "udp", &senders, from_ns);
    assert_eq!(stored::cat(&home.records()), stored);
}

/// Old producers and new ones side by side, over both protocols: by the client's encoder, and by
/// the tests' own, whose blocks are others.
fn avro_frames_of_each_version_are_stored(gate: Gate) {
    let home = Home::new();
    let agent = home.start(&Config::new(gate));
    let mut expected = Vec::new();
    for (producer, schema) in (1..).zip(SchemaVersion::ALL) {
        let name = format!("avro-{}", schema.label());
        let records = batch(&name, producer);
        let header = FrameHeader {
            flags: 0,
            ..header(Encoding::Avro, producer, 1, records.len() as u32)
        };
        let mut datagram = Vec::new();
        write_frame(&mut datagram, header, &avro(schema, &records));
        Datagrams::open(agent.udp()).send(&datagram);

        let options = Options {
            encoding: Encoding::Avro,
            schema,
            ..Options::default()
        };
        let mut sender = Sender::new(&*agent.tcp().to_string(), options);
        for record in &records {
            sender.send(record).expect("the agent takes it");
        }
        let report = sender.finish().expect("all are settled");
        assert_eq!(report.acknowledged().records, RECORDS_PER_FRAME);
        expected.extend(records.into_iter().map(|record| as_of(schema, record)));
    }
    let offered = Offered {
        datagrams: SchemaVersion::ALL.len() as u64,
        ..Offered::default()
    };
    let metrics = drained(&agent, gate, offered);
    for listener in ["tcp", "udp"] {
        let labels = [("listener", listener), ("encoding", "avro")];
        let records = metrics.one("penstock_accepted_records_total", &labels);
        assert_eq!(records, expected.len() as u64);
    }
    agent.stop();
    let stored = stored::read(&home.records());
    for listener in ["tcp", "udp"] {
        let of_listener = stored.iter().filter(|each| each.listener == listener);
        let mut seen: Vec<LogRecord> = of_listener.map(|each| each.record.clone()).collect();
        seen.sort_by(|a, b| {
            (&a.service_name, a.time_unix_nano).cmp(&(&b.service_name, b.time_unix_nano))
        });
        assert_eq!(seen, expected);
    }
    assert_eq!(stored::cat(&home.records()), stored);
}

/// `penstock send` from a file: each line a record, each acknowledged over TCP.
#[test]
fn a_file_is_sent() {
    let home = Home::new();
    let agent = home.start(&Config::new(Gate::UserSpace));
    let file = home.path().join("checkout.log");
    let lines: Vec<String> = (0..700).map(|n| format!("line {n} of the file")).collect();
    fs::write(&file, lines.join("\n")).expect("write the lines");
    let file = file.to_str().expect("UTF-8");
    for (scheme, address, encoding) in [
        ("tcp", agent.tcp(), "protobuf"),
        ("tcp", agent.tcp(), "json"),
        ("udp", agent.udp(), "protobuf"),
    ] {
        let to = format!("{scheme}://{address}");
        let arguments = ["send", "--to", &to, "--encoding", encoding];
        let report = penstock(&[&arguments[..], &["--report", "json", file]].concat());
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!(report["records_sent"], 700);
        let acknowledged = if scheme == "tcp" { 700 } else { 0 };
        assert_eq!(report["records_acknowledged"], acknowledged);
    }
    // How many datagrams 700 lines take is the client's choice; the agent's count is compared with
    // what was sent in the tests that build their own frames.
    let metrics =
        penstock_tests::agent::wait_for("all are stored", Duration::from_secs(10), || {
            let metrics = agent.metrics();
            (metrics.sum("penstock_sink_records_total", &[]) == 2100).then_some(metrics)
        });
    assert_eq!(metrics.sum("penstock_refused_frames_total", &[]), 0);
    agent.stop();
    let stored = stored::read(&home.records());
    for (listener, times) in [("tcp", 2), ("udp", 1)] {
        let bodies: Vec<&str> = stored
            .iter()
            .filter(|each| each.listener == listener)
            .map(|each| each.record.body.as_str())
            .collect();
        let sent: Vec<&str> = std::iter::repeat_n(&lines, times)
            .flatten()
            .map(String::as_str)
            .collect();
        assert_eq!(bodies, sent);
    }
    assert!(
        stored
            .iter()
            .all(|each| each.record.service_name == "checkout")
    );
}

/// `penstock cat -f` on the data folder prints a record that comes after it was started.
#[test]
fn cat_follows() {
    let home = Home::new();
    let agent = home.start(&Config::new(Gate::UserSpace));
    let mut connection = Connection::open(agent.tcp());
    connection.send(&line_frame(1, 1, "before"));
    connection.answers(1);
    let mut cat = Command::new(binary())
        .args(["cat", "-f", "--format", "json"])
        .arg(home.data())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start penstock cat");
    let (lines, printed) = mpsc::channel();
    let out = BufReader::new(cat.stdout.take().expect("piped"));
    let reader = std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            let _ = lines.send(line);
        }
    });
    let next_body = || {
        let line = printed.recv_timeout(Duration::from_secs(10));
        let value: serde_json::Value =
            serde_json::from_str(&line.expect("a line soon")).expect("JSON");
        value["body"].as_str().expect("text").to_owned()
    };
    assert_eq!(next_body(), "before");
    connection.send(&line_frame(1, 2, "after"));
    connection.answers(1);
    assert_eq!(next_body(), "after");
    cat.kill().expect("stop penstock cat");
    cat.wait().expect("wait for penstock cat");
    reader.join().expect("the reader");
    agent.stop();
}
