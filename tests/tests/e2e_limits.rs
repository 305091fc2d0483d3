//! At the journal's limit, with a sink that cannot deliver, senders are told to try later; nothing
//! that was acknowledged is lost; and the agent goes on by itself once the sink can deliver again.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use penstock_proto::reason::Reason;
use penstock_proto::wire::AckStatus;
use penstock_tests::agent::client::{Answer, Connection, Datagrams, critical_frame, line_frame};
use penstock_tests::agent::config::{Config, Gate};
use penstock_tests::agent::law::{Offered, disagreements, drained};
use penstock_tests::agent::{Home, stored, wait_for};
use penstock_tests::in_both_gates;

in_both_gates!(the_journal_is_full_and_empties_again);

const PRODUCER: u64 = 9;
/// The smallest that one shard takes: segments of 8 MiB.
const JOURNAL_MAX_SIZE: &str = "32MiB";
/// More than the journal takes, in frames of 256 KiB.
const FRAMES: u64 = 160;
const BODY_LEN: usize = 256 << 10;

fn frame(sequence: u64) -> Vec<u8> {
    line_frame(PRODUCER, sequence, &body(sequence))
}

fn body(sequence: u64) -> String {
    let number = format!("{sequence} ");
    number.clone() + &"x".repeat(BODY_LEN - number.len())
}

/// Sends each frame, waits for its answer and returns the answers; ends behind the `refusals_max`th
/// that is told to try later, as the connection is then read once a second.
fn send_all(
    connection: &mut Connection,
    sequences: &[u64],
    mut refusals_max: usize,
) -> Vec<Answer> {
    let mut answers = Vec::new();
    for &sequence in sequences {
        connection.send(&frame(sequence));
        let answer = connection.answers(1)[0];
        answers.push(answer);
        refusals_max -= usize::from(answer.status == AckStatus::TryLater);
        if refusals_max == 0 {
            break;
        }
    }
    answers
}

fn the_journal_is_full_and_empties_again(gate: Gate) {
    let home = Home::new();
    // Where the sink's folder should be, there is a file: even root cannot write into it.
    fs::create_dir(home.data()).expect("create the data folder");
    fs::write(home.records(), "in the way").expect("write a file");
    let agent = home.start(&Config {
        journal_max_size: JOURNAL_MAX_SIZE,
        ..Config::new(gate)
    });
    let mut connection = Connection::open(agent.tcp());

    let all: Vec<u64> = (1..=FRAMES).collect();
    let answers = send_all(&mut connection, &all, 3);
    let later: Vec<u64> = answers
        .iter()
        .filter(|answer| **answer != Answer::durable(PRODUCER, answer.sequence))
        .map(|answer| answer.sequence)
        .collect();
    assert_eq!(later.len(), 3);
    let acknowledged = answers.len() as u64 - 3;
    for answer in answers.iter().filter(|each| later.contains(&each.sequence)) {
        let try_later = Answer {
            status: AckStatus::TryLater,
            reason: Reason::Backpressure as u8,
            ..Answer::durable(PRODUCER, answer.sequence)
        };
        assert_eq!(*answer, try_later);
    }
    // Two segments of 8 MiB at least, and no more than the limit itself.
    let bytes = acknowledged * BODY_LEN as u64;
    assert!((12 << 20..32 << 20).contains(&bytes), "{bytes} bytes taken");

    // The same for UDP, which has nobody to tell: refused and counted. What is critical is never
    // shed; everything else would be, at the journal's limit.
    let socket = Datagrams::open(agent.udp());
    for number in 0..10 {
        socket.send(&critical_frame(&format!("udp {number}")));
    }
    let offered = Offered {
        datagrams: 10,
        ..Offered::default()
    };
    let metrics = wait_for("the law holds", Duration::from_secs(10), || {
        let metrics = agent.metrics();
        disagreements(&metrics, gate, offered)
            .is_empty()
            .then_some(metrics)
    });
    assert_eq!(metrics.refused("tcp", "backpressure"), later.len() as u64);
    assert_eq!(metrics.refused("udp", "backpressure"), 10);
    let status = [("status", "try_later")];
    assert_eq!(
        metrics.one("penstock_acks_total", &status),
        later.len() as u64
    );
    let lag = metrics.one("penstock_sink_lag_records", &[("sink", "files")]);
    assert_eq!(lag, acknowledged);
    let used = metrics.one("penstock_journal_bytes", &[]);
    assert!(
        used <= metrics.one("penstock_journal_limit_bytes", &[]),
        "{used}"
    );
    assert!(metrics.sum("penstock_sink_errors_total", &[]) > 0);

    // The way is free: what waited is delivered, and the same connection is served again.
    fs::remove_file(home.records()).expect("remove the file");
    wait_for("the sink catches up", Duration::from_secs(20), || {
        let lag = agent
            .metrics()
            .one("penstock_sink_lag_records", &[("sink", "files")]);
        (lag == 0).then_some(())
    });
    wait_for("/readyz says 200", Duration::from_secs(20), || {
        (agent.get("/readyz").0 == 200).then_some(())
    });
    let mut resent: Vec<u64> = later.into_iter().chain(acknowledged + 4..=FRAMES).collect();
    let mut rounds = 0;
    while !resent.is_empty() {
        rounds += 1;
        assert!(
            rounds < 100,
            "{} frames are still to be taken",
            resent.len()
        );
        let answers = send_all(&mut connection, &resent, usize::MAX);
        let taken = |sequence: &u64| answers.contains(&Answer::durable(PRODUCER, *sequence));
        resent.retain(|sequence| !taken(sequence));
        std::thread::sleep(Duration::from_millis(100));
    }
    drained(&agent, gate, offered);
    agent.stop();

    let stored = stored::read(&home.records());
    let expected: BTreeMap<String, u64> = all.iter().map(|&n| (body(n), 1)).collect();
    let expected: BTreeMap<&str, u64> = expected.iter().map(|(b, n)| (&**b, *n)).collect();
    assert!(stored::bodies(&stored) == expected, "each frame once");
}
