//! The blocking driver over real sockets, against an agent of a few lines.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use agent_common::frame::FrameHeader;
use penstock_client::{LogRecord, Options, PushError, SendError, Sender};
use penstock_proto::v1::LogBatch;
use penstock_proto::wire::{Ack, AckStatus, header_crc_matches};
use prost::Message;

/// What the agent does with its n-th connection.
#[derive(Clone, Copy)]
enum Behaviour {
    /// Stores, answers, until the client closes.
    Serve,
    /// Stores this many frames, answers none of them, closes.
    CloseUnanswered(usize),
    /// Reads nothing but what the kernel buffers, for this long, then serves.
    SlowStart(Duration),
}

/// Bound and dropped: connections are refused at once.
fn nobody_there() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// By sequence: status answered and bodies.
type Stored = BTreeMap<u64, Vec<String>>;

fn agent(behaviours: Vec<Behaviour>) -> (SocketAddr, JoinHandle<Stored>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let mut stored = Stored::new();
        for behaviour in behaviours {
            let (stream, _) = listener.accept().unwrap();
            let timeout = Some(Duration::from_secs(20));
            stream.set_read_timeout(timeout).unwrap();
            connection(stream, behaviour, &mut stored);
        }
        stored
    });
    (address, thread)
}

fn connection(mut stream: TcpStream, behaviour: Behaviour, stored: &mut Stored) {
    let unanswered = match behaviour {
        Behaviour::Serve => None,
        Behaviour::CloseUnanswered(frames) => Some(frames),
        Behaviour::SlowStart(wait) => {
            std::thread::sleep(wait);
            None
        }
    };
    let mut frames = 0;
    loop {
        let mut head = [0; 40];
        match stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return,
            Err(error) => panic!("{error}"),
        }
        assert!(header_crc_matches(&head));
        let header = FrameHeader::read(&head);
        let mut payload = vec![0; header.payload_len as usize];
        stream.read_exact(&mut payload).unwrap();
        assert_eq!(crc32c::crc32c(&payload), header.payload_crc);
        let batch = LogBatch::decode(payload.as_slice()).unwrap();
        assert_eq!(batch.records.len(), header.records as usize);
        let bodies: Vec<String> = batch.records.into_iter().map(|r| r.body).collect();
        let status = match stored.insert(header.sequence, bodies) {
            None => AckStatus::Durable,
            Some(_) => AckStatus::Duplicate,
        };
        frames += 1;
        match unanswered {
            Some(limit) if frames == limit => return,
            Some(_) => continue,
            None => {}
        }
        let ack = Ack {
            status,
            reason: 0,
            producer: header.producer,
            sequence: header.sequence,
            retry_after_ms: 0,
            count: 1,
        };
        // In two pieces: an answer may be cut anywhere.
        let bytes = ack.write();
        stream.write_all(&bytes[..13]).unwrap();
        stream.write_all(&bytes[13..]).unwrap();
    }
}

fn record(number: usize) -> LogRecord {
    LogRecord {
        body: format!("line {number}"),
        ..LogRecord::default()
    }
}

fn options() -> Options {
    Options {
        batch_records_max: 10,
        backoff_base: Duration::from_millis(5),
        ..Options::default()
    }
}

fn expected_bodies(records: usize) -> Vec<String> {
    (0..records)
        .map(|number| format!("line {number}"))
        .collect()
}

#[test]
fn records_arrive_in_order_and_are_acknowledged() {
    let (address, agent) = agent(vec![Behaviour::Serve]);
    let mut sender = Sender::new(address.to_string(), options());
    for number in 0..25_005 {
        sender.send(&record(number)).unwrap();
    }
    let report = sender.finish().unwrap();
    assert_eq!(
        (report.durable.records, report.durable.frames),
        (25_005, 2_501)
    );
    assert_eq!((report.resent.frames, report.stray_acks), (0, 0));
    let stored: Vec<String> = agent.join().unwrap().into_values().flatten().collect();
    assert_eq!(stored, expected_bodies(25_005));
}

#[test]
fn connections_that_close_unanswered_are_made_good() {
    let behaviours = vec![
        Behaviour::CloseUnanswered(1),
        Behaviour::CloseUnanswered(40),
        Behaviour::SlowStart(Duration::from_millis(50)),
    ];
    let (address, agent) = agent(behaviours);
    let mut sender = Sender::new(address.to_string(), options());
    for number in 0..2_000 {
        sender.send(&record(number)).unwrap();
    }
    let report = sender.finish().unwrap();
    assert_eq!(report.acknowledged().records, 2_000);
    assert_eq!(
        report.duplicate.frames, 40,
        "what was stored and not answered"
    );
    assert_eq!((report.connections, report.connections_lost), (3, 2));
    let stored: Vec<String> = agent.join().unwrap().into_values().flatten().collect();
    assert_eq!(stored, expected_bodies(2_000));
}

#[test]
fn nobody_there_ends_with_what_happened_and_how_much_is_left() {
    let address = nobody_there();
    let mut sender = Sender::new(
        address.to_string(),
        Options {
            give_up_after: Duration::from_millis(60),
            ..options()
        },
    );
    sender.send(&record(0)).unwrap();
    let error = sender.finish().unwrap_err();
    assert!(matches!(error, SendError::GaveUp { .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    let report = sender.report();
    assert_eq!((report.sent.records, report.unsettled.records), (0, 1));
}

#[test]
fn a_record_that_is_too_long_does_not_hold_up_the_others() {
    let (address, agent) = agent(vec![Behaviour::Serve]);
    let mut sender = Sender::new(address.to_string(), options());
    sender.send(&record(0)).unwrap();
    let long = LogRecord {
        body: "x".repeat(2 << 20),
        ..LogRecord::default()
    };
    let error = sender.send(&long).unwrap_err();
    assert!(matches!(
        error,
        SendError::NotTaken(PushError::TooLong { .. })
    ));
    sender.send(&record(1)).unwrap();
    let report = sender.finish().unwrap();
    assert_eq!((report.durable.records, report.records_too_long), (2, 1));
    let stored: Vec<String> = agent.join().unwrap().into_values().flatten().collect();
    assert_eq!(stored, expected_bodies(2));
}

#[allow(dead_code, reason = "its `main` is for the command line")]
#[path = "../examples/spooled.rs"]
mod spooled;

/// Runs `examples/spooled.rs` to its end: its exit code and what it said.
fn run_example(folder: &std::path::Path, targets: &[SocketAddr], input: &str) -> (u8, String) {
    let options = Options {
        give_up_after: Duration::from_millis(300),
        ..options()
    };
    let mut output = Vec::new();
    let targets = targets.iter().map(SocketAddr::to_string).collect();
    let folder = folder.to_str().unwrap();
    let code = spooled::run(folder, targets, options, input.as_bytes(), &mut output).unwrap();
    (code, String::from_utf8(output).unwrap())
}

#[test]
fn the_example_keeps_what_nobody_took_and_a_later_life_delivers_it() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = nobody_there();
    let (code, text) = run_example(folder.path(), &[nobody], "line 0\nline 1\n");
    assert_eq!(code, 69, "{text}");
    assert!(text.contains("0 records are on an agent's disk"), "{text}");

    let (address, agent) = agent(vec![Behaviour::Serve]);
    let (code, text) = run_example(folder.path(), &[nobody, address], "line 2\n");
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("2 records were left by an earlier life"),
        "{text}"
    );
    assert!(text.contains("3 records are on an agent's disk"), "{text}");
    let stored: Vec<String> = agent.join().unwrap().into_values().flatten().collect();
    assert_eq!(stored, expected_bodies(3));
}

#[test]
fn another_target_stands_in_for_one_that_is_not_there() {
    let nobody = nobody_there();
    let (address, agent) = agent(vec![Behaviour::Serve]);
    let targets = vec![nobody.to_string(), address.to_string()];
    let mut sender = Sender::with_targets(targets, options());
    for number in 0..100 {
        sender.send(&record(number)).unwrap();
    }
    let report = sender.finish().unwrap();
    assert_eq!((report.durable.records, report.failovers), (100, 1));
    let stored: Vec<String> = agent.join().unwrap().into_values().flatten().collect();
    assert_eq!(stored, expected_bodies(100));
}
