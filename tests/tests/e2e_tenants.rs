//! Tenants over TCP: a greedy producer takes nothing from a modest one, weights hold, a rate slows
//! down and does not starve; and what was told to come later is stored once.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use penstock_proto::reason::Reason;
use penstock_proto::wire::AckStatus;
use penstock_tests::agent::client::{Answer, Connection, line_frame};
use penstock_tests::agent::config::{Config, Gate};
use penstock_tests::agent::law::{Offered, drained};
use penstock_tests::agent::{Agent, Home, stored, wait_for};

const GREEDY: u64 = 0x11;
const MODEST: u64 = 0x22;
const BODY_LEN: usize = 256 << 10;

fn body(producer: u64, sequence: u64) -> String {
    let number = format!("{producer} {sequence} ");
    number.clone() + &"x".repeat(BODY_LEN - number.len())
}

fn frame(producer: u64, sequence: u64) -> Vec<u8> {
    line_frame(producer, sequence, &body(producer, sequence))
}

/// One shard's journal of 64 MiB: seven segments of 8 MiB, six of which are room.
const ROOM: u64 = 6 * (8 << 20);

/// A home where no sink can deliver, and the agent in it.
fn blocked(more: &'static str) -> (Home, Agent) {
    let home = Home::new();
    fs::create_dir(home.data()).expect("create the data folder");
    fs::write(home.records(), "in the way").expect("write a file");
    let agent = home.start(&Config {
        more,
        ..Config::new(Gate::UserSpace)
    });
    (home, agent)
}

/// Sends a frame and waits for its answer.
fn offer(connection: &mut Connection, producer: u64, sequence: u64) -> Answer {
    connection.send(&frame(producer, sequence));
    connection.answers(1)[0]
}

fn waits(producer: u64, sequence: u64) -> Answer {
    Answer {
        status: AckStatus::TryLater,
        reason: Reason::TenantShare as u8,
        ..Answer::durable(producer, sequence)
    }
}

/// The way is free: everything that is not settled is sent until it is.
fn deliver_rest(home: &Home, connection: &mut Connection, producer: u64, sequences: &[u64]) {
    let is_file = fs::metadata(home.records()).is_ok_and(|found| found.is_file());
    if is_file {
        fs::remove_file(home.records()).expect("remove the file");
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    for &sequence in sequences {
        while offer(connection, producer, sequence) != Answer::durable(producer, sequence) {
            assert!(
                Instant::now() < deadline,
                "{producer} {sequence} is starved"
            );
            thread::sleep(Duration::from_millis(200));
        }
    }
}

#[test]
fn a_greedy_producer_takes_nothing_from_a_modest_one() {
    let (home, agent) = blocked("[tenants.default]\nweight = 1\n");
    let mut greedy = Connection::open(agent.tcp());
    let mut taken = 0;
    let told = loop {
        let answer = offer(&mut greedy, GREEDY, taken + 1);
        if answer != Answer::durable(GREEDY, taken + 1) {
            break answer;
        }
        taken += 1;
    };
    assert_eq!(told, waits(GREEDY, taken + 1));
    // Alone it has what is dealt out, which is seven eighths; a frame is a little more than its body.
    let bytes = taken * BODY_LEN as u64;
    let dealt = ROOM / 8 * 7;
    assert!(
        (dealt - (1 << 20)..=dealt).contains(&bytes),
        "{bytes} of {dealt}"
    );

    let mut modest = Connection::open(agent.tcp());
    for sequence in 1..=12 {
        let answer = offer(&mut modest, MODEST, sequence);
        assert_eq!(answer, Answer::durable(MODEST, sequence));
    }
    assert_eq!(
        offer(&mut greedy, GREEDY, taken + 1),
        waits(GREEDY, taken + 1)
    );
    let metrics = agent.metrics();
    let limited = [("tenant", "default"), ("limit", "weight")];
    assert_eq!(
        metrics.one("penstock_tenant_limited_frames_total", &limited),
        2
    );
    assert_eq!(metrics.refused("tcp", "tenant_share"), 2);

    deliver_rest(&home, &mut greedy, GREEDY, &[taken + 1, taken + 2]);
    drained(&agent, Gate::UserSpace, Offered::default());
    agent.stop();
    let stored = stored::read(&home.records());
    let all = (1..=taken + 2).map(|n| body(GREEDY, n));
    let all: Vec<String> = all.chain((1..=12).map(|n| body(MODEST, n))).collect();
    let expected: BTreeMap<&str, u64> = all.iter().map(|body| (&**body, 1)).collect();
    assert!(stored::bodies(&stored) == expected, "each frame once");
}

#[test]
fn weights_hold_to_a_frame_where_room_is_short() {
    let (_home, agent) = blocked(
        "[tenants.heavy]\nproducers = [\"0x11\"]\nweight = 3\n\
         [tenants.light]\nproducers = [\"0x22\"]\n",
    );
    let producers = [GREEDY, MODEST];
    let mut connections = producers.map(|_| Connection::open(agent.tcp()));
    let mut taken = [0_u64; 2];
    let mut told = [false; 2];
    while told != [true; 2] {
        for at in 0..2 {
            // One that was told to wait would be read a second later: it has what it may have.
            if told[at] {
                continue;
            }
            let answer = offer(&mut connections[at], producers[at], taken[at] + 1);
            match answer.status {
                AckStatus::Durable => taken[at] += 1,
                _ => {
                    assert_eq!(answer, waits(producers[at], taken[at] + 1));
                    told[at] = true;
                }
            }
        }
    }
    let dealt = ROOM / 8 * 7 / BODY_LEN as u64;
    let [heavy, light] = taken;
    assert!(
        (dealt * 3 / 4 - 2..=dealt * 3 / 4).contains(&heavy),
        "{taken:?} of {dealt}"
    );
    assert!(
        (dealt / 4 - 2..=dealt / 4).contains(&light),
        "{taken:?} of {dealt}"
    );
}

#[test]
fn a_rate_slows_down_and_starves_nobody() {
    const FRAMES: u64 = 300;
    let home = Home::new();
    let agent = home.start(&Config {
        more: "[tenants.slow]\nsources = [\"127.0.0.0/8\"]\nrate = \"200/s\"\nburst = \"50\"\n",
        ..Config::new(Gate::UserSpace)
    });
    let text = |sequence: u64| format!("slow {sequence}");
    let began = Instant::now();
    let mut connection = Connection::open(agent.tcp());
    let mut unsettled: Vec<u64> = (1..=FRAMES).collect();
    let mut told = 0;
    while !unsettled.is_empty() {
        for &sequence in &unsettled {
            connection.send(&line_frame(GREEDY, sequence, &text(sequence)));
        }
        let answers = connection.answers(unsettled.len());
        for answer in &answers {
            match answer.status {
                AckStatus::Durable => unsettled.retain(|sequence| *sequence != answer.sequence),
                _ => {
                    let limited = (AckStatus::TryLater, Reason::RateLimited as u8);
                    assert_eq!((answer.status, answer.reason), limited);
                    told += 1;
                }
            }
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{unsettled:?} starve"
        );
    }
    // The burst, and the rate: 250 frames behind it take a second and a quarter at the least.
    assert!(
        began.elapsed() >= Duration::from_millis(1_250),
        "{:?}",
        began.elapsed()
    );
    let metrics = wait_for("the counts are published", Duration::from_secs(10), || {
        let metrics = agent.metrics();
        (metrics.refused("tcp", "rate_limited") == told).then_some(metrics)
    });
    let limited = [("tenant", "slow"), ("limit", "rate")];
    assert_eq!(
        metrics.one("penstock_tenant_limited_frames_total", &limited),
        told
    );
    drained(&agent, Gate::UserSpace, Offered::default());
    agent.stop();
    let stored = stored::read(&home.records());
    let all: Vec<String> = (1..=FRAMES).map(text).collect();
    let expected: BTreeMap<&str, u64> = all.iter().map(|body| (&**body, 1)).collect();
    assert!(stored::bodies(&stored) == expected, "each frame once");
}
