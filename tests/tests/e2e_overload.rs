//! More is offered than the journal takes, priorities mixed: what matters most arrives whole, what is
//! left out is left out in order of priority, the sums agree to the datagram, and each entry says by
//! which ratio its like were kept.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use penstock_proto::encoding::Encoding;
use penstock_proto::wire::write_frame;
use penstock_tests::agent::client::{Datagrams, header, line, payload};
use penstock_tests::agent::config::{Config, Gate};
use penstock_tests::agent::law::{Offered, disagreements, drained};
use penstock_tests::agent::{Home, penstock, stored, wait_for};
use penstock_tests::in_both_gates;

in_both_gates!(what_matters_most_arrives_whole);

/// Of 100 frames in a row, how many are of each priority: critical, high, normal, background.
const MIX: [u64; 4] = [4, 6, 40, 50];
const BODY_LEN: usize = 16 << 10;
/// 75 MiB; the journal has 64 MiB, of which 48 are room.
const FRAMES: u64 = 4_800;

fn body(priority: u8, sequence: u64) -> String {
    let number = format!("{priority} {sequence} ");
    number.clone() + &"x".repeat(BODY_LEN - number.len())
}

fn frame(priority: u8, sequence: u64) -> Vec<u8> {
    let mut header = header(Encoding::Protobuf, 0x70 + u64::from(priority), sequence, 1);
    header.priority = priority;
    let payload = payload(Encoding::Protobuf, &[line(body(priority, sequence))]);
    let mut bytes = Vec::new();
    write_frame(&mut bytes, header, &payload);
    bytes
}

fn what_matters_most_arrives_whole(gate: Gate) {
    let home = Home::new();
    // No sink can deliver: what the journal has room for is all it takes.
    fs::create_dir(home.data()).expect("create the data folder");
    fs::write(home.records(), "in the way").expect("write a file");
    let agent = home.start(&Config::new(gate));
    let socket = Datagrams::open(agent.udp());
    let mut sequences = [0_u64; 4];
    for number in 0..FRAMES {
        // In the order of the mix's shares, so that each stretch has all four.
        let place = number * 37 % 100;
        let priority = match place {
            place if place < MIX[0] => 0,
            place if place < MIX[0] + MIX[1] => 1,
            place if place < MIX[0] + MIX[1] + MIX[2] => 2,
            _ => 3,
        };
        sequences[priority] += 1;
        socket.send(&frame(priority as u8, sequences[priority]));
        if number % 32 == 31 {
            // What is sent is judged before more is: the host's speed is not the subject.
            let sent = number + 1;
            wait_for("the gate sees it", Duration::from_secs(20), || {
                let metrics = agent.metrics();
                let offered = Offered {
                    datagrams: sent,
                    ..Offered::default()
                };
                disagreements(&metrics, gate, offered)
                    .is_empty()
                    .then_some(())
            });
        }
    }
    let offered = Offered {
        datagrams: FRAMES,
        ..Offered::default()
    };
    let metrics = agent.metrics();
    assert!(disagreements(&metrics, gate, offered).is_empty());
    let udp = |name: &str| metrics.sum(name, &[("listener", "udp")]);
    let labels = [("listener", "udp"), ("verdict", "shed")];
    let shed =
        metrics.one("penstock_gate_datagrams_total", &labels) + metrics.refused("udp", "shed");
    assert_eq!(udp("penstock_kernel_drops_total"), 0);
    assert_eq!(
        metrics.refused("udp", "backpressure"),
        0,
        "the room never ran out"
    );
    let accepted = udp("penstock_accepted_records_total");
    assert_eq!(accepted + shed, FRAMES);

    // Each entry has its ratio; of those below 16 there are some, and never of what is critical.
    let journal = home.data().join("journal");
    let printed = penstock(&["cat", "--format", "json", &journal.display().to_string()]);
    let mut kept: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for line in printed.lines() {
        let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let priority = record["body"].as_str().expect("a body")[..1]
            .parse()
            .expect("a digit");
        let ratio = record["keep_sixteenths"].as_u64().expect("a ratio");
        *kept.entry((priority, ratio)).or_default() += 1;
    }
    let sampled = |priority: u64| kept.keys().any(|key| key.0 == priority && key.1 < 16);
    assert!(
        !sampled(0) && !sampled(1) && sampled(2) && sampled(3),
        "{kept:?}"
    );

    fs::remove_file(home.records()).expect("remove the file");
    drained(&agent, gate, offered);
    agent.stop();
    let stored = stored::read(&home.records());
    let bodies = stored::bodies(&stored);
    let of = |priority: usize| {
        let start = format!("{priority} ");
        bodies
            .keys()
            .filter(|body| body.starts_with(&start))
            .count() as u64
    };
    assert_eq!(stored.len() as u64, accepted);
    assert_eq!(
        [of(0), of(1)],
        sequences[..2],
        "critical and high arrive whole"
    );
    let ratio = |priority: usize| of(priority) as f64 / sequences[priority] as f64;
    assert!(
        ratio(3) < ratio(2) && ratio(2) < 1.0,
        "{} and {}",
        ratio(3),
        ratio(2)
    );
}
