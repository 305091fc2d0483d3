//! Which kernel interface the shards get: as configured, or what the host allows; and where it is
//! said. That everything works over either is what the other end-to-end tests show, when they run
//! with PENSTOCK_TEST_FORBID=io_uring,bpf.

use penstock_proto::wire::AckStatus;
use penstock_tests::agent::client::{Answer, Connection, Datagrams, line_frame};
use penstock_tests::agent::config::{Config, Gate};
use penstock_tests::agent::forbid::{self, IO_URING};
use penstock_tests::agent::law::{Offered, drained};
use penstock_tests::agent::{Agent, Home, has_kernel_gate, stored};

const LOUD: &str = "NO IO_URING";

fn config(io: &'static str) -> Config {
    Config {
        top: io,
        ..Config::new(Gate::UserSpace)
    }
}

/// The status, the metric and the log agree; returns what they say.
fn io_of(agent: &Agent) -> String {
    let io = agent.status()["io"].as_str().expect("a word").to_owned();
    let build = agent.metrics().one("penstock_build_info", &[("io", &io)]);
    assert_eq!(build, 1, "{io}");
    let said = format!(" io=\"{io}\"");
    assert!(agent.log().contains(&said), "{said}:\n{}", agent.log());
    io
}

/// One line in, and it is stored; then a clean stop, whose log comes back.
fn takes_a_line(home: &Home, agent: Agent) -> String {
    let mut connection = Connection::open(agent.tcp());
    connection.send(&line_frame(1, 1, "one line"));
    assert_eq!(connection.answers(1), [Answer::durable(1, 1)]);
    drained(&agent, Gate::UserSpace, Offered::default());
    let log = agent.stop();
    assert_eq!(stored::read(&home.records()).len(), 1);
    log
}

#[test]
fn epoll_where_it_is_asked_for() {
    let home = Home::new();
    let agent = home.start(&config("io = \"epoll\""));
    assert_eq!(io_of(&agent), "epoll");
    let log = takes_a_line(&home, agent);
    assert!(!log.contains(LOUD), "{log}");
}

#[test]
fn io_uring_where_it_can_be_had() {
    if forbid::forbids(IO_URING) {
        // The next tests say what holds here.
        return println!("io_uring is forbidden in this run");
    }
    for io in ["", "io = \"auto\"", "io = \"io_uring\""] {
        let home = Home::new();
        let agent = home.start(&config(io));
        assert_eq!(io_of(&agent), "io_uring");
        let log = takes_a_line(&home, agent);
        assert!(!log.contains(LOUD), "{log}");
    }
}

/// A filter may refuse all of it or a single call: the agent runs, and says once what failed, why
/// and what would change it.
#[test]
fn auto_falls_back_to_epoll_loudly() {
    for (words, call) in [
        (&[IO_URING][..], "io_uring_setup"),
        (&["io_uring_enter"], "io_uring_enter"),
        (&["io_uring_register"], "io_uring_register"),
        // An older filter, which does not know the newer wait either.
        (&[IO_URING, "epoll_pwait2"], "io_uring_setup"),
    ] {
        let home = Home::that_forbids(words);
        let agent = home.start(&config(""));
        assert_eq!(io_of(&agent), "epoll", "{words:?}");
        let log = takes_a_line(&home, agent);
        let mut lines = log.lines().filter(|line| line.contains(LOUD));
        let loud = lines.next().unwrap_or_else(|| panic!("{words:?}:\n{log}"));
        // What the whole run forbids fails first.
        if !forbid::forbids(IO_URING) {
            assert!(loud.contains(call), "{words:?}: {loud}");
        }
        for part in ["WARN", "Operation not permitted", "seccomp", "epoll"] {
            assert!(loud.contains(part), "{words:?}, {part}: {loud}");
        }
        assert_eq!(lines.next(), None, "it is said once");
    }
}

/// The gate's socket filter and its drop counts are as exact over epoll: more datagrams than the
/// socket holds, alone and in bundles, on two shards.
#[test]
fn the_gate_in_the_kernel_counts_over_epoll_too() {
    const BUNDLES: u64 = 400;
    let test = "the_gate_in_the_kernel_counts_over_epoll_too";
    let gate = match has_kernel_gate(test) {
        true => Gate::Kernel,
        false => Gate::UserSpace,
    };
    let home = Home::new();
    let agent = home.start(&Config {
        top: "io = \"epoll\"",
        shards: 2,
        udp_receive_buffer: "256KiB",
        ..Config::new(gate)
    });
    assert_eq!(io_of(&agent), "epoll");
    let sender = Datagrams::open(agent.udp());
    // Where drops are counted by packet, a bundle would count as one.
    let len = if gate == Gate::Kernel { 20 } else { 1 };
    for number in 0..BUNDLES {
        let frame = |index| line_frame(0, 0, &format!("{number:06} {index:02}"));
        sender.send_bundle(&(0..len).map(frame).collect::<Vec<_>>());
        sender.send(b"no frame at all");
    }
    let offered = Offered {
        datagrams: BUNDLES * (len + 1),
        ..Offered::default()
    };
    let metrics = drained(&agent, gate, offered);
    let accepted = metrics.sum("penstock_accepted_records_total", &[]);
    assert!(accepted > 0, "all of {offered:?} were dropped");
    agent.stop();
    assert_eq!(stored::read(&home.records()).len() as u64, accepted);
}

#[test]
fn io_uring_that_is_required_and_forbidden_ends_with_69() {
    let ended = Home::that_forbids(&[IO_URING]).run_to_end(&config("io = \"io_uring\""), None);
    assert_eq!(ended.code, Some(69), "{ended:?}");
    let words = ended.last_words();
    assert_eq!(words.len(), 1, "{ended:?}");
    for part in [
        "io_uring_setup",
        "not permitted",
        "seccomp",
        "io = \"epoll\"",
    ] {
        assert!(words[0].contains(part), "{part}: {}", words[0]);
    }
}

fn numbered(sequence: u64) -> Vec<u8> {
    line_frame(7, sequence, &format!("line {sequence}"))
}

/// What one life wrote over one interface the next one finds over the other: the files are the same.
#[test]
fn a_journal_is_the_same_over_either() {
    let home = Home::new();
    let mut sequence = 0;
    for io in ["epoll", "auto", "epoll"] {
        let top = match io {
            "epoll" => "io = \"epoll\"",
            _ => "io = \"auto\"",
        };
        let agent = home.start(&config(top));
        let mut connection = Connection::open(agent.tcp());
        // What the life before took is known to this one.
        if sequence > 0 {
            connection.send(&numbered(sequence));
            let known = Answer {
                status: AckStatus::Duplicate,
                ..Answer::durable(7, sequence)
            };
            assert_eq!(connection.answers(1), [known]);
        }
        sequence += 1;
        connection.send(&numbered(sequence));
        assert_eq!(connection.answers(1), [Answer::durable(7, sequence)]);
        agent.kill();
    }
    let agent = home.start(&config(""));
    // A clean stop delivers what the journal holds.
    agent.stop();
    let records = stored::read(&home.records());
    let bodies = stored::bodies(&records);
    assert_eq!(bodies.len(), 3, "{bodies:?}");
    assert!(bodies.values().all(|times| *times == 1), "{bodies:?}");
}
