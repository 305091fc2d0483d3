//! Compressed frames in, files of every format out: with the real binary at both ends.

use std::collections::BTreeMap;
use std::fs;

use penstock_proto::encoding::Encoding;
use penstock_tests::agent::config::{Config, Gate};
use penstock_tests::agent::law::{Offered, drained};
use penstock_tests::agent::{Home, penstock, stored};

const LINES: usize = 3_000;

/// Lines that are not all alike, in files of their own: the file's name is the record's service.
fn log(home: &Home, name: &str) -> (String, Vec<String>) {
    let lines: Vec<String> = (0..LINES)
        .map(|at| {
            format!(
                "{name} line {at}: {:x} \"quoted\" \\ ünïcode",
                at * 2_654_435_761
            )
        })
        .collect();
    let path = home.path().join(format!("{name}.log"));
    fs::write(&path, lines.join("\n") + "\n").expect("write a log");
    (path.to_str().expect("UTF-8").to_owned(), lines)
}

fn round_trip(more: &'static str, ending: &str) {
    let home = Home::new();
    let agent = home.start(&Config {
        more,
        ..Config::new(Gate::UserSpace)
    });
    let to = format!("tcp://{}", agent.tcp());
    let mut expected = BTreeMap::new();
    let mut text_len = 0;
    for encoding in Encoding::ALL {
        for (zstd, how) in [("--zstd", "default"), ("--zstd=-5", "fast")] {
            let name = format!("{}-{how}", encoding.label());
            let (path, lines) = log(&home, &name);
            text_len += lines.iter().map(String::len).sum::<usize>();
            penstock(&[
                "send",
                "--to",
                &to,
                "--encoding",
                encoding.label(),
                zstd,
                &path,
            ]);
            expected.insert(name, lines);
        }
    }
    let metrics = drained(&agent, Gate::UserSpace, Offered::default());
    let received = metrics.one("penstock_received_bytes_total", &[("listener", "tcp")]);
    assert!(
        received < text_len as u64 * 6 / 10,
        "{received} bytes came for {text_len} bytes of text: compressed they are fewer"
    );
    agent.stop();
    for path in stored::files(&home.records()) {
        assert!(
            path.to_string_lossy().ends_with(ending),
            "{}",
            path.display()
        );
    }
    let stored = stored::read(&home.records());
    let mut bodies: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for each in &stored {
        let of_service = bodies.entry(each.record.service_name.clone()).or_default();
        of_service.push(each.record.body.clone());
    }
    assert_eq!(bodies, expected);
    assert_eq!(stored::cat(&home.records()), stored);
    assert_eq!(stored::cat(&home.data()), stored, "the journal's own");
}

#[test]
fn zstd_frames_become_avro_with_snappy() {
    round_trip("compression = \"snappy\"", ".avro");
}

#[test]
fn zstd_frames_become_json_lines() {
    round_trip("format = \"jsonl\"", ".jsonl.zst");
}

#[test]
fn zstd_frames_become_plain_protobuf() {
    round_trip("format = \"protobuf\"\ncompression = \"none\"", ".pb");
}

/// Good frames are taken and no hostile one is, compressed or not; over UDP too.
#[test]
fn load_compresses_and_hostile_compression_is_refused() {
    let home = Home::new();
    let agent = home.start(&Config::new(Gate::UserSpace));
    let mut datagrams = 0;
    for (to, more) in [
        (format!("tcp://{}", agent.tcp()), "--connections"),
        (format!("udp://{}", agent.udp()), "--sources"),
    ] {
        // It fails where a hostile frame was taken or a good one not settled.
        let report = penstock(&[
            "load",
            "--to",
            &to,
            "--zstd",
            "--rate",
            "20000",
            "--records",
            "20000",
            "--hostile",
            "30",
            more,
            "2",
            "--report",
            "json",
        ]);
        let report: serde_json::Value = serde_json::from_str(&report).expect("a report");
        assert_eq!(report["records_sent"], 20_000);
        if more == "--sources" {
            let hostile = report["hostile_frames_sent"].as_object().expect("counts");
            let hostile = hostile.values().filter_map(serde_json::Value::as_u64);
            datagrams = report["frames_sent"].as_u64().expect("a count") + hostile.sum::<u64>();
        }
    }
    let offered = Offered {
        datagrams,
        ..Offered::default()
    };
    let metrics = drained(&agent, Gate::UserSpace, offered);
    for listener in ["tcp", "udp"] {
        for reason in [
            "malformed_compression",
            "decompressed_too_long",
            "unknown_dictionary",
        ] {
            assert!(
                metrics.refused(listener, reason) > 0,
                "{listener}: {reason}"
            );
        }
        assert_eq!(metrics.refused(listener, "unsupported_compression"), 0);
    }
    agent.stop();
}
