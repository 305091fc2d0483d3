//! A reload loses no datagram, no acknowledged record and no connection of what stays; what is wrong
//! changes nothing; what needs a restart is named.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use penstock_proto::wire::AckStatus;
use penstock_tests::agent::client::{Answer, Connection, Datagrams, line_frame};
use penstock_tests::agent::config::{Config, Gate};
use penstock_tests::agent::law::{Offered, drained};
use penstock_tests::agent::{Agent, Home, binary, stored, wait_for};
use penstock_tests::in_both_gates;
use penstock_tests::netns::skip;

in_both_gates!(
    under_load_nothing_is_lost_of_what_stays,
    a_listener_that_goes_is_run_dry,
);

const WAIT: Duration = Duration::from_secs(20);

fn file(home: &Home) -> PathBuf {
    home.path().join("penstock.toml")
}

fn write(home: &Home, config: &Config) {
    fs::write(file(home), config.text(&home.data())).expect("write the configuration");
}

fn ask(home: &Home, more: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("reload").args(more).arg("-c").arg(file(home));
    command.output().expect("run penstock reload")
}

fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// Reloads with this configuration; returns what the command said changed.
fn reload(home: &Home, config: &Config) -> String {
    write(home, config);
    let (code, said, complaint) = told(&ask(home, &[]));
    assert_eq!(code, Some(0), "{said}{complaint}");
    assert!(!said.contains("under way"), "{said}");
    said
}

fn successful(agent: &Agent) -> u64 {
    let metrics = agent.metrics();
    metrics.one("penstock_config_last_reload_successful", &[])
}

/// The bodies in one sink's files, each with how often it is there.
fn bodies_of(home: &Home, sink: &str) -> std::collections::BTreeMap<String, u64> {
    let mut counts = std::collections::BTreeMap::new();
    for path in stored::files(&home.records()) {
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if !name.contains(&format!("-{sink}-s")) {
            continue;
        }
        for record in stored::cat(&path) {
            *counts.entry(record.record.body).or_default() += 1;
        }
    }
    counts
}

/// One connection through all reloads: frames are sent and each is acknowledged as durable.
fn send_frames(agent: &Agent, producer: u64, stop: &AtomicBool) -> Vec<String> {
    const BATCH: u64 = 16;
    let mut connection = Connection::open(agent.tcp());
    let mut bodies = Vec::new();
    let mut sequence = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut expected = Vec::new();
        for _ in 0..BATCH {
            sequence += 1;
            let body = format!("tcp {producer} {sequence:06}");
            connection.send(&line_frame(producer, sequence, &body));
            bodies.push(body);
            expected.push(Answer::durable(producer, sequence));
        }
        assert_eq!(connection.answers(expected.len()), expected);
    }
    bodies
}

fn send_datagrams(agent: &Agent, sent: &AtomicU64, stop: &AtomicBool) {
    let socket = Datagrams::open(agent.udp());
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..8 {
            let number = sent.fetch_add(1, Ordering::Relaxed);
            socket.send(&line_frame(0, 0, &format!("udp {number:07}")));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

const SINKS: &str = "[sinks.second]\ntype = \"file\"\nformat = \"jsonl\"\ncompression = \"none\"\n";

/// What the file says, reload after reload: after the two sinks, what comes, goes and changes.
fn steps() -> Vec<(String, &'static str, &'static str)> {
    let udp2 = "[listeners.udp2]\naddress = \"udp://127.0.0.1:0\"\n";
    let tcp2 = "[listeners.tcp2]\naddress = \"tcp://127.0.0.1:0\"\n";
    let third = "[sinks.third]\ntype = \"file\"\nformat = \"protobuf\"\n";
    let seconds = |size: &str, format: &str, enabled: bool| {
        format!(
            "[sinks.second]\ntype = \"file\"\nformat = \"{format}\"\nenabled = {enabled}\n\
             rotate = {{ size = \"{size}\", age = \"5m\" }}\n"
        )
    };
    vec![
        (format!("{SINKS}{udp2}"), "5ms", "16MiB"),
        (format!("{SINKS}{udp2}{tcp2}"), "3ms", "8MiB"),
        (
            format!("{}{tcp2}", seconds("2MiB", "jsonl", true)),
            "3ms",
            "16MiB",
        ),
        (
            format!("{}{third}{udp2}", seconds("2MiB", "avro", true)),
            "5ms",
            "16MiB",
        ),
        (
            format!("{}{third}", seconds("2MiB", "avro", false)),
            "5ms",
            "16MiB",
        ),
        (seconds("1MiB", "jsonl", true), "2ms", "4MiB"),
        (format!("{SINKS}{tcp2}{udp2}"), "5ms", "16MiB"),
        (SINKS.to_owned(), "5ms", "16MiB"),
    ]
}

fn under_load_nothing_is_lost_of_what_stays(gate: Gate) {
    let home = Home::new();
    let base = Config {
        shards: 2,
        journal_max_size: "512MiB",
        ..Config::new(gate)
    };
    let with = |(more, commit_interval, buffer): &(String, &'static str, &'static str)| Config {
        // The agent's life is shorter than this text's need be.
        more: String::leak(more.clone()),
        commit_interval,
        udp_receive_buffer: buffer,
        ..base.clone()
    };
    let agent = home.start(&with(&(SINKS.to_owned(), "5ms", "16MiB")));
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let acknowledged: Vec<String> = thread::scope(|scope| {
        let (agent, stop, sent) = (&agent, &stop, &sent);
        let producers: Vec<_> = (101..105)
            .map(|producer| scope.spawn(move || send_frames(agent, producer, stop)))
            .collect();
        scope.spawn(move || send_datagrams(agent, sent, stop));
        // A reload that fails must end the load, or the test would wait for ever.
        let stopping = StopAtEnd(stop);
        for step in steps() {
            let before = sent.load(Ordering::Relaxed);
            let said = reload(&home, &with(&step));
            assert!(said.contains("in force"), "{said}");
            wait_for("datagrams go on", WAIT, || {
                (sent.load(Ordering::Relaxed) > before + 100).then_some(())
            });
        }
        drop(stopping);
        let all = producers
            .into_iter()
            .map(|each| each.join().expect("a producer"));
        all.flatten().collect()
    });
    let sent = sent.into_inner();
    let metrics = drained(
        &agent,
        gate,
        Offered {
            datagrams: sent,
            backlog: 0,
        },
    );
    // Of the connections that stayed, none was closed by the agent.
    for reason in [
        "listener_removed",
        "stopping",
        "peer_error",
        "handover_full",
    ] {
        let labels = [("listener", "tcp"), ("reason", reason)];
        assert_eq!(
            metrics.one("penstock_connections_closed_total", &labels),
            0,
            "{reason}"
        );
    }
    let dropped = metrics.sum("penstock_kernel_drops_total", &[("listener", "udp")]);
    let accepted = metrics.sum("penstock_accepted_frames_total", &[("listener", "udp")]);
    assert_eq!(
        accepted + dropped,
        sent,
        "each datagram is stored or was dropped, counted"
    );
    let log = agent.stop();
    assert!(!log.contains("panicked"), "{log}");

    for sink in ["files", "second"] {
        let bodies = bodies_of(&home, sink);
        let twice: Vec<_> = bodies.iter().filter(|(_, times)| **times != 1).collect();
        assert!(
            twice.is_empty(),
            "{sink} has these more than once: {twice:?}"
        );
        let missing: Vec<_> = acknowledged
            .iter()
            .filter(|body| !bodies.contains_key(*body))
            .collect();
        assert!(
            missing.is_empty(),
            "{sink} lacks {} acknowledged",
            missing.len()
        );
        let datagrams = bodies
            .keys()
            .filter(|body| body.starts_with("udp "))
            .count() as u64;
        assert_eq!(datagrams, accepted, "{sink}: accepted, and stored");
        assert_eq!(bodies.len() as u64, acknowledged.len() as u64 + accepted);
    }
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What was sent before is taken and counted; a connection gets its answers and then the end.
fn a_listener_that_goes_is_run_dry(gate: Gate) {
    let home = Home::new();
    let base = Config::new(gate);
    let more = "[listeners.udp2]\naddress = \"udp://127.0.0.1:0\"\nreceive_buffer = \"16MiB\"\n\
                [listeners.tcp2]\naddress = \"tcp://127.0.0.1:0\"\n";
    let agent = home.start(&Config {
        more,
        ..base.clone()
    });
    const DATAGRAMS: u64 = 500;
    let datagrams = Datagrams::open(agent.address("udp2"));
    let mut leaving = Connection::open(agent.address("tcp2"));
    let mut staying = Connection::open(agent.tcp());
    leaving.send(&line_frame(7, 1, "leaving"));
    assert_eq!(leaving.answers(1), [Answer::durable(7, 1)]);
    for number in 0..DATAGRAMS {
        datagrams.send(&line_frame(0, 0, &format!("{number}")));
    }
    let said = reload(&home, &base);
    assert!(said.contains("listeners.udp2: removed\n"), "{said}");
    assert!(said.contains("listeners.tcp2: removed\n"), "{said}");
    let end = leaving.next_ack().expect("no reset");
    assert_eq!(end, None, "the end of the stream, and nothing after it");
    staying.send(&line_frame(8, 1, "staying"));
    assert_eq!(staying.answers(1), [Answer::durable(8, 1)]);

    // The counts of a listener that is gone stay, and are complete.
    let metrics = agent.metrics();
    let verdicts = metrics.sum("penstock_gate_datagrams_total", &[("listener", "udp2")]);
    let drops = metrics.sum("penstock_kernel_drops_total", &[("listener", "udp2")]);
    let received = metrics.one("penstock_received_datagrams_total", &[("listener", "udp2")]);
    assert_eq!(verdicts, DATAGRAMS);
    assert_eq!(
        received + drops,
        DATAGRAMS,
        "all of them came before the gate was closing"
    );
    let closed = [("listener", "tcp2"), ("reason", "listener_removed")];
    assert_eq!(metrics.one("penstock_connections_closed_total", &closed), 1);
    let attached = metrics.one("penstock_gate_attached", &[("listener", "udp2")]);
    assert_eq!(attached, 0);

    // It comes back, with its counts; entries of both lives bear its name.
    reload(
        &home,
        &Config {
            more,
            ..base.clone()
        },
    );
    Datagrams::open(agent.address("udp2")).send(&line_frame(0, 0, "again"));
    wait_for("one more datagram", WAIT, || {
        let labels = [("listener", "udp2")];
        let now = agent
            .metrics()
            .one("penstock_received_datagrams_total", &labels);
        (now == received + 1).then_some(())
    });
    agent.stop();
    let records = stored::read(&home.records());
    let of = |listener: &str| {
        records
            .iter()
            .filter(|each| each.listener == listener)
            .count()
    };
    assert_eq!(of("udp2") as u64, received + 1);
    assert_eq!((of("tcp2"), of("tcp")), (1, 1));
}

#[test]
fn an_invalid_file_changes_nothing_and_says_where() {
    let home = Home::new();
    let config = Config::new(Gate::UserSpace);
    let agent = home.start(&config);
    assert_eq!(successful(&agent), 1);
    let wrong = Config {
        more: "[listeners.more]\naddress = \"tcp://127.0.0.1:0\"\nreceive_bufer = \"1MiB\"\n",
        commit_interval: "5",
        ..config.clone()
    };
    write(&home, &wrong);
    let check = Command::new(binary())
        .arg("check")
        .arg(file(&home))
        .output();
    let (_, checked, _) = told(&check.expect("run penstock check"));
    let (code, said, complaint) = told(&ask(&home, &[]));
    assert_eq!((code, said.as_str()), (Some(78), ""), "{complaint}");
    assert!(
        complaint.starts_with("penstock: nothing was changed\n"),
        "{complaint}"
    );
    assert!(
        checked.contains("receive_bufer") && checked.contains("commit_interval"),
        "{checked}"
    );
    for line in checked.lines().filter(|line| !line.is_empty()) {
        assert!(complaint.contains(line), "{line} in {complaint}");
    }
    assert_eq!(successful(&agent), 0);
    let names = |agent: &Agent| {
        let status = agent.status();
        let listeners = status["listeners"].as_array().expect("an array").iter();
        let names = listeners.map(|each| each["name"].as_str().expect("a name").to_owned());
        names.collect::<BTreeSet<_>>()
    };
    let both = BTreeSet::from(["tcp".to_owned(), "udp".to_owned()]);
    assert_eq!(names(&agent), both);

    // By the signal too, in both directions.
    write(&home, &config);
    agent.signal(libc::SIGHUP);
    wait_for("a reload by SIGHUP", WAIT, || {
        (successful(&agent) == 1).then_some(())
    });
    write(&home, &wrong);
    agent.signal(libc::SIGHUP);
    wait_for("a reload refused", WAIT, || {
        (successful(&agent) == 0).then_some(())
    });
    assert!(agent.log().contains("receive_bufer"));
    let more = Config {
        more: "[listeners.more]\naddress = \"tcp://127.0.0.1:0\"\n",
        ..config.clone()
    };
    write(&home, &more);
    agent.signal(libc::SIGHUP);
    wait_for("a listener by SIGHUP", WAIT, || {
        names(&agent).contains("more").then_some(())
    });
    let mut connection = Connection::open(agent.address("more"));
    connection.send(&line_frame(5, 1, "to the new one"));
    assert_eq!(connection.answers(1), [Answer::durable(5, 1)]);
    agent.stop();
}

#[test]
fn a_port_in_use_leaves_everything_as_it_was() {
    let home = Home::new();
    let config = Config {
        shards: 2,
        ..Config::new(Gate::Kernel)
    };
    let agent = home.start(&config);
    let before = agent.address("udp");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let more = format!(
        "[listeners.fine]\naddress = \"udp://127.0.0.1:0\"\n\
         [listeners.taken]\naddress = \"tcp://127.0.0.1:{port}\"\n[sinks.second]\ntype = \"file\"\n"
    );
    write(
        &home,
        &Config {
            more: String::leak(more),
            udp_receive_buffer: "8MiB",
            ..config.clone()
        },
    );
    let (code, said, complaint) = told(&ask(&home, &[]));
    assert_eq!(code, Some(69), "{said}{complaint}");
    assert!(
        complaint.contains(&format!(
            "listener taken: cannot listen on tcp://127.0.0.1:{port}"
        )),
        "{complaint}"
    );
    assert_eq!(successful(&agent), 0);
    let status = agent.status();
    let count = |what: &str| status[what].as_array().expect("an array").len();
    assert_eq!((count("listeners"), count("sinks")), (2, 1), "{status}");
    assert_eq!(agent.address("udp"), before);
    let mut connection = Connection::open(agent.tcp());
    connection.send(&line_frame(5, 1, "as before"));
    assert_eq!(connection.answers(1)[0].status, AckStatus::Durable);

    // Once the port is free the same file is put in force.
    drop(taken);
    let (code, said, complaint) = told(&ask(&home, &[]));
    assert_eq!(code, Some(0), "{complaint}");
    assert!(said.contains("listeners.taken: added"), "{said}");
    let mut connection = Connection::open(agent.address("taken"));
    connection.send(&line_frame(6, 1, "by the new one"));
    assert_eq!(connection.answers(1), [Answer::durable(6, 1)]);
    agent.stop();
}

#[test]
fn what_needs_a_restart_is_named_and_a_dry_run_changes_nothing() {
    let home = Home::new();
    let config = Config::new(Gate::UserSpace);
    let agent = home.start(&config);
    let other = Config {
        shards: 2,
        journal_max_size: "128MiB",
        more: "[listeners.more]\naddress = \"tcp://127.0.0.1:0\"\n",
        ..config.clone()
    };
    write(&home, &other);
    let (code, dry, _) = told(&ask(&home, &["--dry-run"]));
    assert_eq!(code, Some(0));
    assert!(
        dry.contains("listeners.more: added, tcp://127.0.0.1:0\n"),
        "{dry}"
    );
    assert!(dry.contains("nothing was changed (--dry-run)"), "{dry}");
    assert_eq!(
        agent.status()["listeners"]
            .as_array()
            .expect("an array")
            .len(),
        2
    );
    for _ in 0..2 {
        let (code, said, _) = told(&ask(&home, &[]));
        assert_eq!(code, Some(0));
        for key in ["shards", "journal.max_size"] {
            let line = format!("{key}: changed in the file, needs a restart\n");
            assert!(said.contains(&line), "{said}");
        }
    }
    assert!(
        agent
            .log()
            .contains("needs a restart: shards, journal.max_size")
    );
    assert_eq!(successful(&agent), 1);
    agent.stop();
}

#[test]
fn a_sink_that_comes_begins_at_the_oldest_record_and_one_that_goes_holds_nothing() {
    let home = Home::new();
    let config = Config::new(Gate::UserSpace);
    let agent = home.start(&config);
    let mut connection = Connection::open(agent.tcp());
    connection.send(&line_frame(3, 1, "before"));
    assert_eq!(connection.answers(1), [Answer::durable(3, 1)]);
    let second = Config {
        more: "[sinks.second]\ntype = \"file\"\n",
        ..config.clone()
    };
    reload(&home, &second);
    connection.send(&line_frame(3, 2, "between"));
    assert_eq!(connection.answers(1), [Answer::durable(3, 2)]);
    let delivered = |agent: &Agent| {
        let labels = [("sink", "second")];
        agent.metrics().one("penstock_sink_records_total", &labels)
    };
    wait_for("the journal's records", WAIT, || {
        (delivered(&agent) == 2).then_some(())
    });
    reload(&home, &config);
    connection.send(&line_frame(3, 3, "after"));
    assert_eq!(connection.answers(1), [Answer::durable(3, 3)]);
    let lag = agent
        .metrics()
        .one("penstock_sink_lag_records", &[("sink", "second")]);
    assert_eq!(lag, 0, "it is gone, and lags behind nothing");
    // It comes back where it was: what it missed is delivered, what it has is not again.
    reload(&home, &second);
    wait_for("what it missed", WAIT, || {
        (delivered(&agent) == 3).then_some(())
    });
    agent.stop();
    let bodies = bodies_of(&home, "second");
    let expected = ["after", "before", "between"].map(|body| (body.to_owned(), 1));
    assert_eq!(bodies.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn without_an_agent_or_a_permission_the_exit_code_says_so() {
    let home = Home::new();
    write(&home, &Config::new(Gate::UserSpace));
    let (code, _, complaint) = told(&ask(&home, &[]));
    assert_eq!(code, Some(69), "{complaint}");
    assert!(complaint.contains("control.sock"), "{complaint}");

    // SAFETY: no arguments, no effects.
    if unsafe { libc::geteuid() } != 0 {
        return skip(
            "without_an_agent_or_a_permission",
            "another user takes root",
        );
    }
    let agent = home.start(&Config::new(Gate::UserSpace));
    let program = Path::new("/tmp").join(format!("penstock-{}", std::process::id()));
    fs::copy(binary(), &program).expect("copy the binary");
    let mut command = Command::new(&program);
    command
        .arg("reload")
        .arg("--socket")
        .arg(home.data().join("control.sock"));
    let output = command.uid(65534).gid(65534).output();
    fs::remove_file(&program).expect("remove the copy");
    let (code, _, complaint) = told(&output.expect("run penstock reload"));
    assert_eq!(code, Some(77), "{complaint}");
    agent.stop();
}
