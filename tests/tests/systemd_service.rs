//! The package's service under a booted systemd, from its installation to its removal: nothing that
//! was acknowledged is lost, whatever the service manager does to it.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use penstock_client::{LogRecord, Options, Sender};
use penstock_tests::agent::client::{Datagrams, line_frame};
use penstock_tests::agent::{stored, wait_for};
use penstock_tests::machine::{Machine, booted_or_skip, package};

const WAIT_MAX: Duration = Duration::from_secs(60);
const RECORDS: &str = "/var/lib/penstock/records";

/// Two listeners on two shards, so four sockets.
const CONFIG: &str = r#"
data_dir = "/var/lib/penstock"
shards = 2
[admin]
socket = "/run/penstock/control.sock"
[journal]
max_size = "128MiB"
min_free = "16MiB"
[listeners.udp]
address = "udp://127.0.0.1:4600"
receive_buffer = "16MiB"
[listeners.tcp]
address = "tcp://127.0.0.1:4600"
[sinks.files]
type = "file"
"#;

fn listeners() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 4600))
}

/// A machine whose service runs by `CONFIG`.
fn with_service(test: &'static str, body: impl FnOnce(&Machine) + Send + 'static) {
    booted_or_skip(test, move |machine| {
        machine.write("/etc/penstock/penstock.toml", CONFIG);
        package::install(machine, "0.1.0");
        assert_eq!(machine.service("ActiveState"), "active");
        body(machine);
    });
}

// ---- what comes in meanwhile ----

/// Producers that retry, a sender of datagrams that cannot, and a peer that only knocks.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    datagrams: Arc<AtomicU64>,
    producers: Vec<JoinHandle<u64>>,
    sender: JoinHandle<()>,
    knocker: JoinHandle<()>,
}

/// What was sent, all of it acknowledged where there are acknowledgements.
struct Sent {
    /// Records of each producer.
    producers: Vec<u64>,
    datagrams: u64,
}

fn tcp_body(producer: usize, number: u64) -> String {
    format!("tcp {producer} {number}")
}

fn udp_body(number: u64) -> String {
    format!("udp {number}")
}

impl Load {
    const PRODUCERS: usize = 2;

    /// Starts on threads of the caller's network namespace.
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let datagrams = Arc::new(AtomicU64::new(0));
        let producers = (0..Self::PRODUCERS).map(|producer| {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            thread::spawn(move || produce(producer, &stop, &acknowledged))
        });
        let load = Self {
            producers: producers.collect(),
            sender: {
                let (stop, datagrams) = (Arc::clone(&stop), Arc::clone(&datagrams));
                thread::spawn(move || send_datagrams(&stop, &datagrams))
            },
            knocker: {
                let stop = Arc::clone(&stop);
                thread::spawn(move || knock(&stop))
            },
            stop,
            acknowledged,
            datagrams,
        };
        load.flows();
        load
    }

    /// Waits until more has been sent and acknowledged.
    fn flows(&self) {
        for (what, counter, more) in [
            ("records are acknowledged", &self.acknowledged, 500),
            ("datagrams are sent", &self.datagrams, 200),
        ] {
            let now = counter.load(Ordering::Relaxed);
            wait_for(what, WAIT_MAX, || {
                (counter.load(Ordering::Relaxed) > now + more).then_some(())
            });
        }
    }

    fn end(self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        let producers = self.producers.into_iter();
        let producers = producers
            .map(|producer| producer.join().expect("all is acknowledged"))
            .collect();
        self.sender.join().expect("no datagram is turned away");
        self.knocker.join().expect("no connection is refused");
        Sent {
            producers,
            datagrams: self.datagrams.load(Ordering::Relaxed),
        }
    }
}

fn produce(producer: usize, stop: &AtomicBool, acknowledged: &AtomicU64) -> u64 {
    let options = Options {
        batch_records_max: 10,
        backoff_max: Duration::from_millis(100),
        give_up_after: WAIT_MAX,
        ..Options::default()
    };
    let mut sender = Sender::new(listeners().to_string(), options);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let record = LogRecord {
            body: tcp_body(producer, number),
            ..LogRecord::default()
        };
        sender.send(&record).expect("taken");
        number += 1;
        if number % 20 == 0 {
            thread::sleep(Duration::from_millis(5));
        }
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    let report = sender.finish().expect("settled");
    assert_eq!(report.acknowledged().records, number);
    number
}

/// A connected socket hears of it where nobody has the port (ICMP): `send` then fails.
fn send_datagrams(stop: &AtomicBool, sent: &AtomicU64) {
    let datagrams = Datagrams::open(listeners());
    while !stop.load(Ordering::Relaxed) {
        let number = sent.load(Ordering::Relaxed);
        datagrams.send(&line_frame(0, 0, &udp_body(number)));
        sent.store(number + 1, Ordering::Release);
        thread::sleep(Duration::from_micros(500));
    }
}

fn knock(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        TcpStream::connect_timeout(&listeners(), WAIT_MAX).expect("a connection is not refused");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Stops the service and counts what is stored, by body.
fn stored_after_stop(machine: &Machine) -> BTreeMap<String, usize> {
    machine.run(&["systemctl", "stop", "penstock"]);
    assert_eq!(machine.service("Result"), "success");
    let records = stored::read(&machine.path(RECORDS));
    let bodies = stored::bodies(&records);
    bodies
        .iter()
        .map(|(body, times)| ((*body).to_owned(), *times as usize))
        .collect()
}

/// Each acknowledged record once, and nothing twice.
fn assert_acknowledged_once(bodies: &BTreeMap<String, usize>, sent: &Sent, machine: &Machine) {
    for (producer, &records) in sent.producers.iter().enumerate() {
        for number in 0..records {
            let body = tcp_body(producer, number);
            let times = bodies.get(&body);
            assert_eq!(times, Some(&1), "{body:?}\n{}", machine.journal());
        }
    }
    let twice = bodies.iter().find(|(_, times)| **times != 1);
    assert_eq!(twice, None, "stored more than once");
}

fn missing_datagrams(bodies: &BTreeMap<String, usize>, numbers: std::ops::Range<u64>) -> Vec<u64> {
    numbers
        .filter(|&number| !bodies.contains_key(&udp_body(number)))
        .collect()
}

// ---- from installation to removal ----

#[test]
fn installs_starts_says_how_it_is_takes_a_line_stops_and_goes() {
    booted_or_skip(
        "installs_starts_says_how_it_is_takes_a_line_stops_and_goes",
        |machine| {
            // As it comes: with the package's own configuration.
            package::install(machine, "0.1.0");
            assert_eq!(machine.service("ActiveState"), "active");
            assert_eq!(machine.service("UnitFileState"), "enabled");
            let status = machine.service("StatusText");
            assert!(status.starts_with("Ready: "), "{status}");
            assert!(status.contains("io_uring, gate in the kernel"), "{status}");

            machine.run(&[
                "sh",
                "-c",
                "echo 'the first line' | penstock send --to tcp://127.0.0.1:4600 -",
            ]);
            machine.run(&["systemctl", "stop", "penstock"]);
            assert_eq!(machine.service("Result"), "success");
            assert_eq!(
                machine.service("NFileDescriptorStore"),
                "0",
                "a stop empties the store"
            );
            let printed = machine.run(&["penstock", "cat", RECORDS]);
            assert!(printed.contains("the first line"), "{printed}");

            machine.run(&["systemctl", "start", "penstock"]);
            machine.run(&["dpkg", "--remove", "penstock"]);
            assert_eq!(machine.service("ActiveState"), "inactive");
            assert!(!machine.has("/usr/bin/penstock"));
            assert!(
                machine.has(RECORDS),
                "what was stored is the administrator's"
            );
        },
    );
}

// ---- under load ----

#[test]
fn restarts_and_an_upgrade_under_load_lose_no_datagram_and_refuse_no_connection() {
    with_service(
        "restarts_and_an_upgrade_under_load_lose_no_datagram_and_refuse_no_connection",
        |machine| {
            assert_eq!(machine.service("NFileDescriptorStore"), "4");
            let load = Load::start();
            let first = machine.main_process();
            machine.run(&["systemctl", "restart", "penstock"]);
            load.flows();
            let second = machine.main_process();
            package::install(machine, "0.1.1");
            load.flows();
            let third = machine.main_process();
            assert!(first != second && second != third, "three lives");
            assert_eq!(machine.service("NFileDescriptorStore"), "4");
            let sent = load.end();

            let bodies = stored_after_stop(machine);
            assert_acknowledged_once(&bodies, &sent, machine);
            let missing = missing_datagrams(&bodies, 0..sent.datagrams);
            assert!(
                missing.is_empty(),
                "{missing:?} of {} datagrams",
                sent.datagrams
            );
        },
    );
}

#[test]
fn what_is_dropped_while_no_agent_runs_is_said() {
    with_service("what_is_dropped_while_no_agent_runs_is_said", |machine| {
        let config = CONFIG.replace("16MiB\"\n[listeners.tcp]", "64KiB\"\n[listeners.tcp]");
        assert_ne!(config, CONFIG);
        machine.write("/etc/penstock/penstock.toml", &config);
        edit(machine, "[Service]\nExecStartPre=/bin/sleep 2\n");
        let process = machine.main_process();
        machine.run(&["systemctl", "--no-block", "restart", "penstock"]);
        let path = format!("/proc/{process}");
        wait_for("the process is gone", WAIT_MAX, || {
            (!std::path::Path::new(&path).exists()).then_some(())
        });
        // Nobody reads, and the buffer holds a part of them.
        const DATAGRAMS: u64 = 500;
        let datagrams = Datagrams::open(listeners());
        for number in 0..DATAGRAMS {
            datagrams.send(&line_frame(0, 0, &udp_body(number)));
        }
        wait_for("the next life is ready", WAIT_MAX, || {
            (machine.service("ActiveState") == "active").then_some(())
        });
        let bodies = stored_after_stop(machine);
        let journal = machine.journal();
        let (before, _) = journal
            .split_once(" datagrams or bundles were dropped while no agent ran")
            .unwrap_or_else(|| panic!("nothing is said:\n{journal}"));
        let dropped = before.rsplit([' ', '\n']).next().expect("a word");
        let dropped: u64 = dropped.parse().expect("a number");
        let stored = bodies.len() as u64;
        assert!(
            stored > 0 && dropped > 0,
            "{stored} stored, {dropped} dropped"
        );
        assert_eq!(stored + dropped, DATAGRAMS);
    });
}

#[test]
fn kill_9_under_load_loses_nothing_acknowledged_and_no_datagram_that_came_after() {
    with_service(
        "kill_9_under_load_loses_nothing_acknowledged_and_no_datagram_that_came_after",
        |machine| {
            let load = Load::start();
            let process = machine.main_process();
            // SAFETY: no pointers; the process is the machine's own.
            assert_eq!(unsafe { libc::kill(process as i32, libc::SIGKILL) }, 0);
            let path = format!("/proc/{process}");
            wait_for("the process is gone", WAIT_MAX, || {
                (!std::path::Path::new(&path).exists()).then_some(())
            });
            // What comes from here on finds nobody, and waits.
            let gone_at = load.datagrams.load(Ordering::Acquire);
            wait_for("systemd has restarted it", WAIT_MAX, || {
                let is_up = machine.service("ActiveState") == "active";
                (is_up && machine.service("NRestarts") == "1").then_some(())
            });
            load.flows();
            let sent = load.end();

            let bodies = stored_after_stop(machine);
            assert_acknowledged_once(&bodies, &sent, machine);
            let missing = missing_datagrams(&bodies, gone_at + 1..sent.datagrams);
            assert!(
                missing.is_empty(),
                "{missing:?} of those from {gone_at} to {}",
                sent.datagrams
            );
        },
    );
}

#[test]
fn a_stop_under_load_stores_what_was_acknowledged() {
    with_service(
        "a_stop_under_load_stores_what_was_acknowledged",
        |machine| {
            let stop = AtomicBool::new(false);
            let acknowledged = thread::scope(|scope| {
                let producers: Vec<_> = (1..=2)
                    .map(|producer| {
                        let stop = &stop;
                        scope.spawn(move || send_until_the_end(producer, stop))
                    })
                    .collect();
                thread::sleep(Duration::from_millis(300));
                machine.run(&["systemctl", "stop", "penstock"]);
                stop.store(true, Ordering::Relaxed);
                let sets = producers.into_iter();
                sets.flat_map(|each| each.join().expect("a producer"))
                    .collect::<Vec<String>>()
            });
            assert_eq!(machine.service("Result"), "success");
            assert!(acknowledged.len() > 100, "{}", acknowledged.len());
            let records = stored::read(&machine.path(RECORDS));
            let bodies = stored::bodies(&records);
            for body in &acknowledged {
                assert_eq!(bodies.get(body.as_str()), Some(&1), "{body}");
            }
            // And the port is free: a stop that is no restart keeps nothing.
            let refused = TcpStream::connect(listeners()).map_err(|error| error.kind());
            assert_eq!(refused.err(), Some(std::io::ErrorKind::ConnectionRefused));
        },
    );
}

/// One frame after the other, each acknowledged, until the agent ends the connection.
fn send_until_the_end(producer: u64, stop: &AtomicBool) -> Vec<String> {
    use penstock_proto::wire::AckStatus;
    use penstock_tests::agent::client::{Answer, Connection};
    use std::io::Write;

    let mut connection = Connection::open(listeners());
    let mut acknowledged = Vec::new();
    for sequence in 1.. {
        let body = format!("{producer} {sequence}");
        // After an error what the agent has said before can still be read.
        let _ = connection
            .stream()
            .write_all(&line_frame(producer, sequence, &body));
        let Ok(Some(ack)) = connection.next_ack() else {
            break;
        };
        let durable = Answer::all_of(&ack).any(|answer| answer.status == AckStatus::Durable);
        if durable {
            acknowledged.push(body);
        }
        assert!(!stop.load(Ordering::Relaxed) || !durable, "it was stopped");
    }
    acknowledged
}

// ---- what only a service manager sees ----

/// A drop-in, as `systemctl edit` writes it.
fn edit(machine: &Machine, text: &str) {
    machine.write("/etc/systemd/system/penstock.service.d/test.conf", text);
    machine.run(&["systemctl", "daemon-reload"]);
    machine.run(&["systemctl", "restart", "penstock"]);
}

#[test]
fn a_stuck_shard_is_a_missed_beat_and_the_service_is_restarted() {
    with_service(
        "a_stuck_shard_is_a_missed_beat_and_the_service_is_restarted",
        |machine| {
            edit(machine, "[Service]\nWatchdogSec=2s\n");
            // Idle shards turn: three times the watchdog's time does nothing to them.
            thread::sleep(Duration::from_secs(6));
            assert_eq!(machine.service("NRestarts"), "0", "{}", machine.journal());

            let process = machine.main_process();
            let stuck = stop_thread(process, "shard-01");
            wait_for("the watchdog has struck", WAIT_MAX, || {
                has_ended(stuck).then_some(())
            });
            wait_for("systemd has restarted it", WAIT_MAX, || {
                let is_up = machine.service("ActiveState") == "active";
                (is_up && machine.service("NRestarts") == "1").then_some(())
            });
            let journal = machine.journal();
            assert!(journal.contains("the shard does not turn"), "{journal}");
            assert!(
                journal.contains("Failed with result 'watchdog'"),
                "{journal}"
            );
        },
    );
}

/// Stops one thread of a process, by name, as a debugger does; the others go on.
fn stop_thread(process: u32, name: &str) -> i32 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("its threads");
    let found = tasks.flatten().find(|task| {
        let comm = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        comm.trim() == name
    });
    let thread = found.expect("the thread").file_name();
    let thread: i32 = thread.to_string_lossy().parse().expect("a number");
    for request in [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT] {
        // SAFETY: neither request reads or writes this process's memory.
        let done = unsafe { libc::ptrace(request, thread, 0, 0) };
        assert_eq!(done, 0, "ptrace: {}", std::io::Error::last_os_error());
    }
    thread
}

/// A thread that is traced stays until its end has been told to who traces it.
fn has_ended(thread: i32) -> bool {
    let mut status = 0;
    // SAFETY: `status` is an int and outlives the call.
    let told = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL | libc::WNOHANG) };
    told == thread && (libc::WIFSIGNALED(status) || libc::WIFEXITED(status))
}

#[test]
fn a_wrong_configuration_is_not_tried_again_and_is_said_with_its_line() {
    with_service(
        "a_wrong_configuration_is_not_tried_again_and_is_said_with_its_line",
        |machine| {
            machine.write(
                "/etc/penstock/penstock.toml",
                &CONFIG.replace("min_free", "min_fre"),
            );
            let output = machine.output(&["systemctl", "restart", "penstock"]);
            assert!(!output.status.success());
            // RestartSec is half a second.
            thread::sleep(Duration::from_millis(1500));
            assert_eq!(machine.service("ActiveState"), "failed");
            assert_eq!(machine.service("ExecMainStatus"), "78");
            assert_eq!(machine.service("NRestarts"), "0");
            let journal = machine.journal();
            assert!(
                journal.contains("penstock.toml:8:1: min_fre is no key"),
                "{journal}"
            );

            machine.write("/etc/penstock/penstock.toml", CONFIG);
            machine.run(&["systemctl", "restart", "penstock"]);
            assert_eq!(machine.service("ActiveState"), "active");
        },
    );
}

#[test]
fn a_restart_with_other_listeners_keeps_what_stays_and_closes_the_rest() {
    with_service(
        "a_restart_with_other_listeners_keeps_what_stays_and_closes_the_rest",
        |machine| {
            let config = CONFIG.replace("tcp://127.0.0.1:4600", "tcp://127.0.0.1:4601");
            machine.write("/etc/penstock/penstock.toml", &config);
            machine.run(&["systemctl", "restart", "penstock"]);
            assert_eq!(machine.service("NFileDescriptorStore"), "4");
            let refused = TcpStream::connect(listeners()).map_err(|error| error.kind());
            assert_eq!(refused.err(), Some(std::io::ErrorKind::ConnectionRefused));
            TcpStream::connect("127.0.0.1:4601").expect("the new one listens");
            Datagrams::open(listeners()).send(&line_frame(0, 0, "still there"));

            // Fewer shards, then more: the first one's sockets stay.
            for (shards, sockets) in [(1, "2"), (2, "4")] {
                let config = config.replace("shards = 2", &format!("shards = {shards}"));
                machine.write("/etc/penstock/penstock.toml", &config);
                machine.run(&["systemctl", "restart", "penstock"]);
                assert_eq!(machine.service("NFileDescriptorStore"), sockets);
                TcpStream::connect("127.0.0.1:4601").expect("it listens");
            }

            // An address that another one is part of cannot be bound beside it.
            let config = config.replace("127.0.0.1:460", "0.0.0.0:460");
            machine.write("/etc/penstock/penstock.toml", &config);
            machine.run(&["systemctl", "restart", "penstock"]);
            assert_eq!(machine.service("NFileDescriptorStore"), "4");
            let bodies = stored_after_stop(machine);
            assert_eq!(bodies.get("still there"), Some(&1));
        },
    );
}

#[test]
fn the_sandbox_has_an_exposure_of_2_or_better() {
    with_service("the_sandbox_has_an_exposure_of_2_or_better", |machine| {
        // With eBPF and io_uring at work in it.
        let status = machine.service("StatusText");
        assert!(status.contains("io_uring, gate in the kernel"), "{status}");
        let unit = "/usr/lib/systemd/system/penstock.service";
        let printed = machine.run(&["systemd-analyze", "security", "--offline=true", unit]);
        let overall = printed
            .lines()
            .find(|line| line.contains("Overall exposure level"));
        let overall = overall.unwrap_or_else(|| panic!("{printed}"));
        let (_, figure) = overall.split_once("penstock.service: ").expect("a figure");
        let figure = figure.split(' ').next().expect("a word");
        let exposure: f64 = figure.parse().expect("a number");
        assert!(exposure <= 2.0, "{printed}");
    });
}
