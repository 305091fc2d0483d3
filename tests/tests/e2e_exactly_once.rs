//! Exactly once at the door: whatever a producer sends again, and whatever happens to the agent in
//! between, each frame is stored once, and each answer has the status that PROTOCOL.md gives it.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_proto::reason::Reason;
use penstock_proto::wire::AckStatus;
use penstock_tests::agent::client::{Answer, Connection, line_frame};
use penstock_tests::agent::config::{Config, Gate};
use penstock_tests::agent::{Home, stored, wait_for};

fn config() -> Config {
    Config::new(Gate::UserSpace)
}

fn body(producer: u64, sequence: u64) -> String {
    format!("{producer}:{sequence}")
}

fn send(connection: &mut Connection, producer: u64, sequences: impl IntoIterator<Item = u64>) {
    for sequence in sequences {
        let frame = line_frame(producer, sequence, &body(producer, sequence));
        connection.send(&frame);
    }
}

fn answer(producer: u64, sequence: u64, status: AckStatus, reason: Option<Reason>) -> Answer {
    Answer {
        producer,
        sequence,
        status,
        reason: reason.map_or(0, |reason| reason as u8),
    }
}

/// Sends these on a connection of their own and holds that all are answered so.
fn all_answered(agent: &penstock_tests::agent::Agent, producer: u64, last: u64, status: AckStatus) {
    let mut connection = Connection::open(agent.tcp());
    send(&mut connection, producer, 1..=last);
    let expected: Vec<Answer> = (1..=last)
        .map(|sequence| answer(producer, sequence, status, None))
        .collect();
    assert_eq!(connection.answers(last as usize), expected);
}

/// Each of these frames once and nothing else.
fn check_stored(home: &Home, producers: &[(u64, u64)]) {
    let records = stored::read(&home.records());
    let found: BTreeMap<String, u64> = stored::bodies(&records)
        .into_iter()
        .map(|(body, count)| (body.to_owned(), count))
        .collect();
    let expected: BTreeMap<String, u64> = producers
        .iter()
        .flat_map(|(producer, last)| (1..=*last).map(|sequence| (body(*producer, sequence), 1)))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn a_retry_is_stored_once_on_other_connections_and_after_a_kill() {
    let home = Home::new();
    let agent = home.start(&config());
    all_answered(&agent, 7, 10, AckStatus::Durable);
    all_answered(&agent, 7, 10, AckStatus::Duplicate);
    let metrics = agent.metrics();
    assert_eq!(metrics.refused("tcp", "duplicate"), 10);
    let labels = [("listener", "tcp")];
    assert_eq!(metrics.sum("penstock_received_frames_total", &labels), 20);
    assert_eq!(metrics.sum("penstock_accepted_frames_total", &labels), 10);
    assert_eq!(
        metrics.sum("penstock_acks_total", &[("status", "duplicate")]),
        10
    );
    agent.kill();
    let agent = home.start(&config());
    all_answered(&agent, 7, 10, AckStatus::Duplicate);
    all_answered(&agent, 8, 3, AckStatus::Durable);
    agent.stop();
    // A stop and a start without a frame in between change nothing.
    let agent = home.start(&config());
    all_answered(&agent, 8, 3, AckStatus::Duplicate);
    agent.stop();
    check_stored(&home, &[(7, 10), (8, 3)]);
}

#[test]
fn frames_killed_before_their_answer_are_stored_once() {
    const FRAMES: u64 = 300;
    let home = Home::new();
    for round in 1..=3 {
        let agent = home.start(&config());
        let mut connection = Connection::open(agent.tcp());
        send(&mut connection, 7, 1..=FRAMES);
        if round > 1 {
            // Some of them are on disk and some are not: nobody knows which.
            connection.answers(round as usize * 20);
        }
        agent.kill();
    }
    let agent = home.start(&config());
    let mut connection = Connection::open(agent.tcp());
    send(&mut connection, 7, 1..=FRAMES);
    for answer in connection.answers(FRAMES as usize) {
        let settled = [AckStatus::Durable, AckStatus::Duplicate];
        assert!(settled.contains(&answer.status), "{answer:?}");
    }
    agent.stop();
    check_stored(&home, &[(7, FRAMES)]);
}

#[test]
fn another_frame_under_a_taken_sequence_and_one_below_the_window_are_refused() {
    let home = Home::new();
    let agent = home.start(&config());
    let mut connection = Connection::open(agent.tcp());
    let mut answered = |sequence: u64, body: &str| {
        connection.send(&line_frame(7, sequence, body));
        let answer = connection.answers(1)[0];
        assert_eq!((answer.producer, answer.sequence), (7, sequence));
        (answer.status, Reason::from_wire(answer.reason))
    };
    let refused = |reason| (AckStatus::Refused, Some(reason));
    let durable = (AckStatus::Durable, None);
    assert_eq!(answered(5, "five"), durable);
    assert_eq!(answered(5, "FIVE"), refused(Reason::SequenceConflict));
    assert_eq!(answered(5, "five"), (AckStatus::Duplicate, None));
    // Never taken, and within the window.
    assert_eq!(answered(1, "one"), durable);
    assert_eq!(answered(1024, "far"), durable);
    assert_eq!(answered(2, "two"), durable);
    assert_eq!(answered(1025, "farther"), durable);
    // 1 falls out of the window; 2 stands in it.
    assert_eq!(answered(1, "one"), refused(Reason::SequenceTooOld));
    assert_eq!(answered(2, "two"), (AckStatus::Duplicate, None));
    // It leaves no trace.
    assert_eq!(answered(5, "five"), (AckStatus::Duplicate, None));
    let metrics = agent.metrics();
    assert_eq!(metrics.refused("tcp", "sequence_conflict"), 1);
    assert_eq!(metrics.refused("tcp", "sequence_too_old"), 1);
    agent.stop();
    let records = stored::read(&home.records());
    let bodies: Vec<&str> = stored::bodies(&records).into_keys().collect();
    assert_eq!(bodies, ["far", "farther", "five", "one", "two"]);
}

#[test]
fn a_refused_frame_leaves_its_sequence_free() {
    let home = Home::new();
    let agent = home.start(&config());
    let mut connection = Connection::open(agent.tcp());
    let good = line_frame(7, 1, "good");
    let mut damaged = good.clone();
    *damaged.last_mut().expect("a payload") ^= 1;
    connection.send(&damaged);
    let refused = answer(7, 1, AckStatus::Refused, Some(Reason::PayloadChecksum));
    assert_eq!(connection.answers(1), [refused]);
    connection.send(&good);
    assert_eq!(connection.answers(1), [Answer::durable(7, 1)]);
    agent.stop();
}

#[test]
fn one_producer_too_many_is_told_to_try_later() {
    // Segments of 8 MiB: a quarter of one holds 247 + 245 full windows (`limits::producers_max`).
    const PRODUCERS_MAX: u64 = 492;
    let home = Home::new();
    let config = Config {
        journal_max_size: "32MiB",
        ..config()
    };
    let agent = home.start(&config);
    let address = agent.tcp();
    let mut connections: Vec<Connection> = (1..=PRODUCERS_MAX)
        .map(|producer| {
            let mut connection = Connection::open(address);
            send(&mut connection, producer, [1]);
            connection
        })
        .collect();
    for (producer, connection) in (1..).zip(&mut connections) {
        assert_eq!(connection.answers(1), [Answer::durable(producer, 1)]);
    }
    let one_more = |address| {
        let mut connection = Connection::open(address);
        send(&mut connection, PRODUCERS_MAX + 1, [1]);
        let ack = connection.next_ack().expect("an answer").expect("no end");
        let reason = Reason::from_wire(ack.reason);
        assert_eq!(
            (ack.status, reason, ack.retry_after_ms),
            (AckStatus::TryLater, Some(Reason::TooManyProducers), 10_000)
        );
    };
    one_more(address);
    assert_eq!(agent.metrics().refused("tcp", "too_many_producers"), 1);
    // Those who are known go on.
    send(&mut connections[0], 1, [2]);
    assert_eq!(connections[0].answers(1), [Answer::durable(1, 2)]);
    drop(connections);
    agent.kill();
    let agent = home.start(&config);
    one_more(agent.tcp());
    all_answered(&agent, PRODUCERS_MAX, 1, AckStatus::Duplicate);
    agent.stop();
}

#[test]
fn written_is_said_where_nothing_is_synced_yet_and_duplicate_once_it_is() {
    let home = Home::new();
    let config = Config {
        journal: "sync = \"interval\"\nsync_interval = \"500ms\"",
        ..config()
    };
    let agent = home.start(&config);
    let mut connection = Connection::open(agent.tcp());
    // The first sync is due at once, and is under way when the second frame is written.
    send(&mut connection, 7, [1]);
    assert_eq!(
        connection.answers(1),
        [answer(7, 1, AckStatus::Written, None)]
    );
    send(&mut connection, 7, [2]);
    assert_eq!(
        connection.answers(1),
        [answer(7, 2, AckStatus::Written, None)]
    );
    let statuses = |connection: &mut Connection| {
        send(connection, 7, [2]);
        connection.answers(1)[0].status
    };
    wait_for("the sync", Duration::from_secs(10), || {
        match statuses(&mut connection) {
            AckStatus::Written => None,
            AckStatus::Duplicate => Some(()),
            status => panic!("{status:?}"),
        }
    });
    agent.kill();
    let agent = home.start(&config);
    all_answered(&agent, 7, 2, AckStatus::Duplicate);
    agent.stop();
    check_stored(&home, &[(7, 2)]);
}

#[test]
fn without_syncs_a_kill_loses_nothing_and_nothing_is_called_durable() {
    let home = Home::new();
    let config = Config {
        journal: "sync = \"never\"",
        ..config()
    };
    let agent = home.start(&config);
    all_answered(&agent, 7, 50, AckStatus::Written);
    all_answered(&agent, 7, 50, AckStatus::Written);
    let metrics = agent.metrics();
    let syncs = "penstock_journal_sync_duration_seconds_count";
    assert_eq!(metrics.sum(syncs, &[]), 0);
    agent.kill();
    // Recovery syncs what it keeps.
    let agent = home.start(&config);
    all_answered(&agent, 7, 50, AckStatus::Duplicate);
    agent.stop();
    check_stored(&home, &[(7, 50)]);
}

/// Of two shards, the second owns 1, 3 and 6 (where `dedup::owner`'s product has its highest bit set),
/// and the first the others.
const PRODUCERS: [u64; 7] = [1, 2, 3, 4, 5, 6, 7];

#[test]
fn with_several_shards_a_producer_meets_its_windows_on_every_connection() {
    let home = Home::new();
    let config = Config {
        shards: 2,
        journal_max_size: "128MiB",
        ..config()
    };
    let agent = home.start(&config);
    for producer in PRODUCERS {
        all_answered(&agent, producer, 20, AckStatus::Durable);
        // The kernel spreads connections over the shards' sockets.
        for _ in 0..4 {
            all_answered(&agent, producer, 20, AckStatus::Duplicate);
        }
    }
    // A header in two pieces is waited for.
    let address = agent.tcp();
    for _ in 0..4 {
        let frame = line_frame(1, 1, &body(1, 1));
        let mut connection = Connection::open(address);
        connection.send(&frame[..17]);
        std::thread::sleep(Duration::from_millis(30));
        connection.send(&frame[17..]);
        let duplicate = answer(1, 1, AckStatus::Duplicate, None);
        assert_eq!(connection.answers(1), [duplicate]);
    }
    // Who says less than a header and leaves is not forgotten.
    let mut connection = Connection::open(address);
    connection.send(b"PNS1");
    connection.shutdown();
    assert_eq!(connection.next_ack().expect("an end in time"), None);
    wait_for(
        "all connections are closed",
        Duration::from_secs(10),
        || {
            let open = agent.metrics().sum("penstock_connections", &[]);
            (open == 0).then_some(())
        },
    );
    agent.stop();
    check_stored(&home, &PRODUCERS.map(|producer| (producer, 20)));
}

#[test]
fn windows_move_with_their_producers_when_the_number_of_shards_changes() {
    let home = Home::new();
    let shards = |shards| Config {
        shards,
        journal_max_size: "128MiB",
        ..config()
    };
    let mut last = 0;
    for count in [1, 2, 1, 3, 2] {
        let agent = home.start(&shards(count));
        for producer in PRODUCERS {
            let mut connection = Connection::open(agent.tcp());
            send(&mut connection, producer, 1..=last + 5);
            let expected: Vec<Answer> = (1..=last + 5)
                .map(|sequence| {
                    let status = match sequence <= last {
                        true => AckStatus::Duplicate,
                        false => AckStatus::Durable,
                    };
                    answer(producer, sequence, status, None)
                })
                .collect();
            assert_eq!(
                connection.answers(expected.len()),
                expected,
                "{count} shards"
            );
        }
        last += 5;
        // Killed as often as stopped: what moved must have been durable by itself.
        match last % 2 {
            0 => drop(agent.stop()),
            _ => agent.kill(),
        }
    }
    // The journals of the shards that are gone are delivered, and then nothing of them is left but
    // the page that says which positions they gave out.
    let agent = home.start(&shards(1));
    for shard in ["shard-01", "shard-02"] {
        let folder = home.data().join("journal").join(shard);
        wait_for("the journal is let go", Duration::from_secs(10), || {
            let entries = std::fs::read_dir(&folder).expect("the folder");
            let sizes = entries.map(|entry| entry.ok()?.metadata().ok().map(|file| file.len()));
            (sizes.collect::<Option<Vec<u64>>>()? == [4096]).then_some(())
        });
    }
    agent.stop();
    // They go on from there where they are back.
    let agent = home.start(&shards(3));
    for producer in PRODUCERS {
        all_answered(&agent, producer, last, AckStatus::Duplicate);
        let mut connection = Connection::open(agent.tcp());
        send(&mut connection, producer, [last + 1]);
        let durable = Answer::durable(producer, last + 1);
        assert_eq!(connection.answers(1), [durable]);
    }
    agent.stop();
    check_stored(&home, &PRODUCERS.map(|producer| (producer, last + 1)));
}
