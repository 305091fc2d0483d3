//! Nothing is lost in silence: after mixed traffic, and with a receive buffer that is far too
//! small, the sums of the conservation law agree to the datagram.

use std::thread;

use penstock_proto::reason::Reason;
use penstock_tests::agent::client::{Answer, Connection, Datagrams, critical_frame, line_frame};
use penstock_tests::agent::config::{Config, Gate};
use penstock_tests::agent::law::{Offered, drained};
use penstock_tests::agent::{Agent, Home, stored};
use penstock_tests::in_both_gates;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

in_both_gates!(
    mixed_traffic_on_one_shard,
    mixed_traffic_on_two_shards,
    kernel_drops_on_one_shard,
    kernel_drops_on_two_shards,
);

/// UDP sockets, and as many TCP connections, all at once.
const SENDERS: u64 = 6;
const MESSAGES_PER_SENDER: u64 = 300;

/// What one sender knows of its own traffic.
#[derive(Debug, Default)]
struct Books {
    datagrams: u64,
    /// Of those: in a message of which no datagram is a frame, so that the gate drops it whole.
    malformed: u64,
    refused: u64,
    bodies: Vec<String>,
}

impl Books {
    fn add(mut self, other: Self) -> Self {
        self.datagrams += other.datagrams;
        self.malformed += other.malformed;
        self.refused += other.refused;
        self.bodies.extend(other.bodies);
        self
    }
}

/// One datagram that the gate sees through, one that only the parser does, or a good one.
fn draw(random: &mut StdRng, sender: u64, books: &mut Books) -> (Vec<u8>, Kind) {
    let number = books.bodies.len();
    let body = format!("udp {sender:02} {number:06}");
    let mut frame = line_frame(0, 0, &body);
    match random.random_range(0..10) {
        0 | 1 => {
            frame[0] = b'X';
            (frame, Kind::NoFrame)
        }
        2 | 3 => {
            *frame.last_mut().expect("a payload") ^= 1;
            (frame, Kind::Damaged)
        }
        _ => {
            books.bodies.push(body);
            (frame, Kind::Good)
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    NoFrame,
    Damaged,
    Good,
}

/// Single datagrams and bundles of up to 64, good and bad.
fn send_datagrams(agent: &Agent, sender: u64) -> Books {
    let mut random = StdRng::seed_from_u64(sender);
    let socket = Datagrams::open(agent.udp());
    let mut books = Books::default();
    for message in 0..MESSAGES_PER_SENDER {
        let count = if message % 2 == 0 {
            1
        } else {
            random.random_range(2..=64)
        };
        let drawn: Vec<_> = (0..count)
            .map(|_| draw(&mut random, sender, &mut books))
            .collect();
        let of = |kind: Kind| drawn.iter().filter(|(_, each)| *each == kind).count() as u64;
        books.datagrams += count;
        if of(Kind::NoFrame) == count {
            books.malformed += count;
        } else {
            books.refused += of(Kind::NoFrame) + of(Kind::Damaged);
        }
        let datagrams: Vec<Vec<u8>> = drawn.into_iter().map(|(bytes, _)| bytes).collect();
        match &datagrams[..] {
            [one] => socket.send(one),
            bundle => socket.send_bundle(bundle),
        }
    }
    books
}

/// Good frames and damaged ones; each is answered.
fn send_frames(agent: &Agent, sender: u64) -> Books {
    let mut connection = Connection::open(agent.tcp());
    let producer = 1000 + sender;
    let mut books = Books::default();
    let mut expected = Vec::new();
    for sequence in 1..=MESSAGES_PER_SENDER {
        let body = format!("tcp {sender:02} {sequence:06}");
        let mut frame = line_frame(producer, sequence, &body);
        let mut answer = Answer::durable(producer, sequence);
        if sequence % 3 == 0 {
            *frame.last_mut().expect("a payload") ^= 1;
            answer.status = penstock_proto::wire::AckStatus::Refused;
            answer.reason = Reason::PayloadChecksum as u8;
            books.refused += 1;
        } else {
            books.bodies.push(body);
        }
        connection.send(&frame);
        expected.push(answer);
    }
    assert_eq!(connection.answers(expected.len()), expected);
    books
}

fn mixed_traffic_on_one_shard(gate: Gate) {
    mixed_traffic(gate, 1);
}

fn mixed_traffic_on_two_shards(gate: Gate) {
    mixed_traffic(gate, 2);
}

/// With buffers that hold all of it nothing is dropped, and every sum is known beforehand.
fn mixed_traffic(gate: Gate, shards: u16) {
    let home = Home::new();
    let agent = home.start(&Config {
        shards,
        ..Config::new(gate)
    });
    let (udp, tcp) = thread::scope(|scope| {
        let agent = &agent;
        let udp: Vec<_> = (0..SENDERS)
            .map(|sender| scope.spawn(move || send_datagrams(agent, sender)))
            .collect();
        let tcp: Vec<_> = (0..SENDERS)
            .map(|sender| scope.spawn(move || send_frames(agent, sender)))
            .collect();
        let sum = |threads: Vec<thread::ScopedJoinHandle<'_, Books>>| {
            let all = threads.into_iter().map(|each| each.join().expect("sender"));
            all.fold(Books::default(), Books::add)
        };
        (sum(udp), sum(tcp))
    });
    let offered = Offered {
        datagrams: udp.datagrams,
        ..Offered::default()
    };
    let metrics = drained(&agent, gate, offered);
    let one = |name: &str, listener: &str| metrics.sum(name, &[("listener", listener)]);
    assert_eq!(one("penstock_kernel_drops_total", "udp"), 0, "{udp:?}");
    let labels = [("listener", "udp"), ("verdict", "malformed")];
    let malformed = metrics.one("penstock_gate_datagrams_total", &labels);
    assert_eq!(malformed, udp.malformed);
    for (listener, books) in [("udp", &udp), ("tcp", &tcp)] {
        let refused = one("penstock_refused_frames_total", listener);
        assert_eq!(refused, books.refused, "{listener}");
        let accepted = one("penstock_accepted_records_total", listener);
        assert_eq!(accepted, books.bodies.len() as u64, "{listener}");
    }
    agent.stop();

    let stored = stored::read(&home.records());
    let mut found: Vec<&str> = stored.iter().map(|s| s.record.body.as_str()).collect();
    let mut sent: Vec<&str> = udp.bodies.iter().chain(&tcp.bodies).map(|b| &**b).collect();
    found.sort_unstable();
    sent.sort_unstable();
    assert_eq!(found, sent);
}

fn kernel_drops_on_one_shard(gate: Gate) {
    kernel_drops(gate, 1);
}

fn kernel_drops_on_two_shards(gate: Gate) {
    kernel_drops(gate, 2);
}

/// Flat out into the smallest receive buffer; for a while the agent is stopped, so that it is
/// certain to overflow however fast the agent is.
fn kernel_drops(gate: Gate, shards: u16) {
    const BURST: u64 = 4_000;
    let home = Home::new();
    let agent = home.start(&Config {
        shards,
        udp_receive_buffer: "64KiB",
        ..Config::new(gate)
    });
    let to = agent.udp();
    agent.signal(libc::SIGSTOP);
    let mut datagrams = flat_out(to, gate, BURST, 0);
    agent.signal(libc::SIGCONT);
    datagrams += flat_out(to, gate, BURST, BURST);

    let offered = Offered {
        datagrams,
        ..Offered::default()
    };
    let metrics = drained(&agent, gate, offered);
    let labels = [("listener", "udp"), ("reason", "receive_buffer")];
    let dropped = metrics.one("penstock_kernel_drops_total", &labels);
    assert!(dropped > 0, "a queue of 128 KiB held {datagrams} datagrams");
    let accepted = metrics.sum("penstock_accepted_records_total", &[]);
    assert!(accepted > 0, "all of {datagrams} datagrams were dropped");
    agent.stop();

    let stored = stored::read(&home.records());
    assert_eq!(stored.len() as u64, accepted);
    let bodies = stored::bodies(&stored);
    assert_eq!(bodies.len(), stored.len(), "no record is stored twice");
}

/// Every sender its own numbers from `first` on; returns how many datagrams were sent.
///
/// Where the gate is not in the kernel, drops are counted by packet: then no bundles are sent.
fn flat_out(to: std::net::SocketAddr, gate: Gate, count: u64, first: u64) -> u64 {
    const BUNDLE: u64 = 10;
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            scope.spawn(move || {
                let socket = Datagrams::open(to);
                // Of lesser priority they would be shed before the queue is full.
                let frame = |number| critical_frame(&format!("{sender:02} {number:06}"));
                let with_bundles = gate == Gate::Kernel && sender % 2 == 0;
                let step = if with_bundles { BUNDLE } else { 1 };
                for number in (first..first + count).step_by(step as usize) {
                    match with_bundles {
                        true => {
                            let bundle: Vec<_> = (number..number + BUNDLE).map(frame).collect();
                            socket.send_bundle(&bundle);
                        }
                        false => socket.send(&frame(number)),
                    }
                }
            });
        }
    });
    SENDERS * count
}
