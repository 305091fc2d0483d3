//! How a life begins and ends: one clear line and an exit code where it cannot begin; whatever ends
//! it, what was acknowledged is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use penstock_proto::reason::Reason;
use penstock_proto::wire::AckStatus;
use penstock_tests::agent::client::{Answer, Connection, line_frame};
use penstock_tests::agent::config::{Config, Gate};
use penstock_tests::agent::forbid;
use penstock_tests::agent::law::{Offered, drained};
use penstock_tests::agent::{Agent, Ended, Home, stored, wait_for};
use penstock_tests::netns;

/// A user without rights: Debian's `nobody`.
const NOBODY: u32 = 65_534;

/// One line for the person at the terminal, which names each of `words`; and the exit code.
fn assert_refused(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    let [line] = ended.last_words()[..] else {
        panic!("not one line: {ended:?}");
    };
    for word in words {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
    assert!(!ended.log.contains("panicked"), "{ended:?}");
}

fn is_root() -> bool {
    // SAFETY: no arguments, and it cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn config() -> Config {
    Config::new(Gate::UserSpace)
}

// ---- it cannot begin ----

#[test]
fn a_port_in_use_ends_with_69() {
    let udp = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let udp_address = udp.local_addr().expect("an address").to_string();
    let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
    let tcp_address = tcp.local_addr().expect("an address").to_string();
    for (shards, gate) in [
        (1, Gate::UserSpace),
        (2, Gate::UserSpace),
        (1, Gate::Kernel),
    ] {
        let config = Config {
            shards,
            ..Config::new(gate)
        };
        let with_udp = Config {
            udp_address: udp_address.clone(),
            ..config.clone()
        };
        let ended = Home::new().run_to_end(&with_udp, None);
        assert_refused(&ended, 69, &["listener udp", &udp_address, "in use"]);
        let with_tcp = Config {
            tcp_address: tcp_address.clone(),
            ..config.clone()
        };
        let ended = Home::new().run_to_end(&with_tcp, None);
        assert_refused(&ended, 69, &["listener tcp", &tcp_address, "in use"]);
    }
    let with_admin = Config {
        admin_address: tcp_address.clone(),
        ..config()
    };
    let ended = Home::new().run_to_end(&with_admin, None);
    assert_refused(&ended, 69, &["admin", &tcp_address, "in use"]);
}

/// Even root cannot make a folder within a file.
#[test]
fn a_data_folder_that_cannot_be_made_ends_with_74() {
    let home = Home::new();
    let file = home.path().join("file");
    fs::write(&file, "in the way").expect("write a file");
    let data_dir = file.join("data");
    let config = Config {
        data_dir: Some(data_dir.clone()),
        ..config()
    };
    let ended = home.run_to_end(&config, None);
    assert_refused(&ended, 74, &["folder", data_dir.to_str().expect("UTF-8")]);
}

#[test]
fn a_data_folder_in_use_ends_with_75() {
    let home = Home::new();
    let agent = home.start(&config());
    let ended = home.run_to_end(&config(), None);
    let pid = agent.pid().to_string();
    let folder = home.data();
    assert_refused(
        &ended,
        75,
        &["in use", &pid, folder.to_str().expect("UTF-8")],
    );
    // The first one is unharmed, and its end frees the folder.
    let mut connection = Connection::open(agent.tcp());
    connection.send(&line_frame(1, 1, "still here"));
    assert_eq!(connection.answers(1), [Answer::durable(1, 1)]);
    agent.kill();
    home.start(&config()).stop();
    assert_eq!(stored::read(&home.records()).len(), 1);
}

#[test]
fn a_wrong_configuration_ends_with_78() {
    let config = Config {
        more: "colour = \"red\"",
        ..config()
    };
    let ended = Home::new().run_to_end(&config, None);
    assert_refused(&ended, 78, &["configuration"]);
    assert!(ended.log.contains("colour"), "{ended:?}");
    assert!(ended.log.contains("penstock.toml:"), "{ended:?}");
}

#[test]
fn a_missing_configuration_ends_with_66() {
    let home = Home::new();
    let file = home.path().join("missing.toml");
    let ended = home.run_file_to_end(&file);
    assert_refused(&ended, 66, &[file.to_str().expect("UTF-8")]);
}

/// A home that another user can enter, but not write into.
fn open_home() -> Home {
    let home = Home::new();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    home
}

#[test]
fn no_permission_ends_with_77() {
    if !is_root() {
        return netns::skip(
            "no_permission_ends_with_77",
            "it needs root, to become another",
        );
    }
    let home = open_home();
    let ended = home.run_to_end(&config(), Some(NOBODY));
    let folder = home.data();
    assert_refused(&ended, 77, &["ermission", folder.to_str().expect("UTF-8")]);
    // A folder that is there, but another's.
    fs::create_dir(home.data()).expect("create the folder");
    let ended = home.run_to_end(&config(), Some(NOBODY));
    assert_refused(&ended, 77, &["ermission", folder.to_str().expect("UTF-8")]);
}

/// Without the right to load eBPF the agent runs, and says once, loudly, what it does instead.
#[test]
fn no_ebpf_is_said_once() {
    if !is_root() {
        return netns::skip("no_ebpf_is_said_once", "it needs root, to become another");
    }
    let loud = "NO GATE IN THE KERNEL";
    // Where the run forbids eBPF, `Config` asks for it each time.
    let asked = usize::from(forbid::forbids(forbid::BPF));
    for (gate, times) in [(Gate::Kernel, 1), (Gate::UserSpace, asked)] {
        let home = open_home();
        fs::create_dir(home.data()).expect("create the folder");
        chown(home.data(), Some(NOBODY), Some(NOBODY)).expect("chown");
        let config = Config::new(gate);
        let agent = home.begin(&config, Some(NOBODY));
        assert_eq!(agent.status()["gate"], "user_space");
        let mut connection = Connection::open(agent.tcp());
        connection.send(&line_frame(1, 1, "without eBPF"));
        assert_eq!(connection.answers(1), [Answer::durable(1, 1)]);
        drained(&agent, Gate::UserSpace, Offered::default());
        let log = agent.stop();
        assert_eq!(log.matches(loud).count(), times, "{gate:?}:\n{log}");
        assert!(!log.contains('\u{1b}'), "no terminal, no colours:\n{log}");
        assert_eq!(stored::read(&home.records()).len(), 1);
    }
}

// ---- a full disk ----

/// On a disk without room for a segment the agent is not ready, says why, and tells senders to try
/// later; once there is room it takes and stores.
#[test]
fn a_full_disk_at_the_start_is_told_and_survived() {
    let test = "a_full_disk_at_the_start_is_told_and_survived";
    if !is_root() {
        return netns::skip(test, "it needs root, to mount a small disk");
    }
    // The mounts are this thread's own; the agents that it starts see them.
    thread::scope(|scope| {
        scope
            .spawn(full_disk)
            .join()
            .expect("the test's own thread")
    });
}

fn full_disk() {
    let home = Home::new();
    fs::create_dir(home.data()).expect("create the folder");
    // SAFETY: takes flags only, and changes this thread alone.
    let unshared = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    assert_eq!(unshared, 0, "{}", io::Error::last_os_error());
    mount(
        "none",
        Path::new("/"),
        "",
        libc::MS_REC | libc::MS_PRIVATE,
        "",
    );
    // A segment of the smallest journal is 8 MiB.
    mount("tmpfs", &home.data(), "tmpfs", 0, "size=4m");
    let agent = home.begin(&config(), None);
    wait_for("the log says why", Duration::from_secs(10), || {
        let log = agent.log();
        let told = log.contains("a segment: No space left on device");
        told.then_some(())
    });
    wait_for("/readyz says 503", Duration::from_secs(10), || {
        let (code, body) = agent.get("/readyz");
        (code == 503 && body.contains("journal_writable")).then_some(())
    });
    assert_eq!(agent.get("/healthz").0, 200);
    let mut connection = Connection::open(agent.tcp());
    for sequence in 1..=3 {
        connection.send(&line_frame(1, sequence, "no room"));
        let try_later = Answer {
            status: AckStatus::TryLater,
            reason: Reason::Backpressure as u8,
            ..Answer::durable(1, sequence)
        };
        assert_eq!(connection.answers(1), [try_later]);
    }

    mount("tmpfs", &home.data(), "tmpfs", libc::MS_REMOUNT, "size=64m");
    wait_for("/readyz says 200", Duration::from_secs(10), || {
        (agent.get("/readyz").0 == 200).then_some(())
    });
    connection.send(&line_frame(1, 4, "room"));
    assert_eq!(connection.answers(1), [Answer::durable(1, 4)]);
    let metrics = drained(&agent, Gate::UserSpace, Offered::default());
    assert_eq!(metrics.refused("tcp", "backpressure"), 3);
    agent.stop();
    let stored = stored::read(&home.records());
    assert_eq!(stored::bodies(&stored), BTreeMap::from([("room", 1)]));
    // A folder under a mount cannot be removed, and the home is about to be.
    let data = CString::new(home.data().as_os_str().as_bytes()).expect("no NUL");
    // SAFETY: a NUL-terminated string, alive for the call.
    let status = unsafe { libc::umount2(data.as_ptr(), libc::MNT_DETACH) };
    assert_eq!(status, 0, "umount: {}", io::Error::last_os_error());
}

fn mount(source: &str, target: &Path, kind: &str, flags: libc::c_ulong, data: &str) {
    let text = |text: &[u8]| CString::new(text).expect("no NUL");
    let (source, kind) = (text(source.as_bytes()), text(kind.as_bytes()));
    let (target, data) = (text(target.as_os_str().as_bytes()), text(data.as_bytes()));
    // SAFETY: four NUL-terminated strings, alive for the call.
    let status = unsafe {
        let data = data.as_ptr().cast();
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data)
    };
    assert_eq!(status, 0, "mount: {}", io::Error::last_os_error());
}

// ---- it ends under load ----

const SENDERS: u64 = 3;
/// Frames that a sender has in flight are at most two of these.
const TURN: u64 = 20;

fn body(producer: u64, sequence: u64) -> String {
    format!("{producer} {sequence}")
}

/// Sends each frame once, until the connection ends; returns what was acknowledged as durable.
fn send_until_the_end(to: SocketAddr, producer: u64, progress: &AtomicU64) -> BTreeSet<String> {
    let mut connection = Connection::open(to);
    let mut acknowledged = BTreeSet::new();
    let (mut sent, mut answered) = (0, 0);
    loop {
        let mut bytes = Vec::new();
        for _ in 0..TURN {
            sent += 1;
            bytes.extend(line_frame(producer, sent, &body(producer, sent)));
        }
        // After an error what the agent has said before can still be read.
        let _ = connection.stream().write_all(&bytes);
        while sent - answered > TURN {
            let Ok(Some(ack)) = connection.next_ack() else {
                return acknowledged;
            };
            for answer in Answer::all_of(&ack) {
                answered += 1;
                if answer.status == AckStatus::Durable {
                    acknowledged.insert(body(producer, answer.sequence));
                    progress.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Loads the agent with producers of this life's own, calls `end` in the middle of it, and returns what was acknowledged.
fn end_under_load(agent: Agent, life: u64, end: impl FnOnce(Agent)) -> BTreeSet<String> {
    let to = agent.tcp();
    let progress = AtomicU64::new(0);
    thread::scope(|scope| {
        let progress = &progress;
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| life * SENDERS + sender + 1)
            .map(|producer| scope.spawn(move || send_until_the_end(to, producer, progress)))
            .collect();
        wait_for("frames are acknowledged", Duration::from_secs(20), || {
            (progress.load(Ordering::Relaxed) >= 1_000).then_some(())
        });
        end(agent);
        let sets = senders
            .into_iter()
            .map(|each| each.join().expect("a sender"));
        sets.flatten().collect()
    })
}

/// Every acknowledged record is stored, and every record, as it was sent once, at most once.
fn assert_stored(home: &Home, acknowledged: &BTreeSet<String>) {
    let stored = stored::read(&home.records());
    let bodies = stored::bodies(&stored);
    for (body, times) in &bodies {
        assert_eq!(*times, 1, "{body:?} is stored {times} times");
    }
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|body| !bodies.contains_key(&***body))
        .collect();
    assert!(lost.is_empty(), "acknowledged and not stored: {lost:?}");
}

#[test]
fn sigterm_under_load_stores_what_was_acknowledged() {
    for gate in [Gate::Kernel, Gate::UserSpace] {
        let home = Home::new();
        let agent = home.start(&Config {
            shards: 2,
            ..Config::new(gate)
        });
        let acknowledged = end_under_load(agent, 0, |agent| {
            agent.stop();
        });
        assert_stored(&home, &acknowledged);
    }
}

#[test]
fn sigint_stops_too() {
    let home = Home::new();
    let agent = home.start(&config());
    let mut connection = Connection::open(agent.tcp());
    connection.send(&line_frame(1, 1, "one"));
    assert_eq!(connection.answers(1), [Answer::durable(1, 1)]);
    agent.signal(libc::SIGINT);
    assert_eq!(agent.end().code, Some(0));
    assert_eq!(stored::read(&home.records()).len(), 1);
}

/// A sink that cannot deliver holds the stop up; the second signal does not wait for it. What was
/// acknowledged is in the journal, and is delivered by the next life.
#[test]
fn a_second_sigterm_ends_at_once() {
    let home = Home::new();
    fs::create_dir(home.data()).expect("create the data folder");
    fs::write(home.records(), "in the way").expect("write a file");
    let agent = home.start(&config());
    let mut connection = Connection::open(agent.tcp());
    connection.send(&line_frame(1, 1, "one"));
    assert_eq!(connection.answers(1), [Answer::durable(1, 1)]);
    agent.signal(libc::SIGTERM);
    // The connection's end: the agent is in the middle of its stop, and waits for the sink.
    assert_eq!(connection.next_ack().expect("an end"), None);
    let since = Instant::now();
    agent.signal(libc::SIGTERM);
    let ended = agent.end();
    // What a shell calls the end by signal 15. Without the second signal the sink would be given
    // 30 seconds: the bound tells the two apart, and is no measure of speed.
    assert_eq!(ended.code, Some(128 + libc::SIGTERM), "{ended:?}");
    assert!(since.elapsed() < Duration::from_secs(15), "{ended:?}");

    fs::remove_file(home.records()).expect("remove the file");
    let agent = home.start(&config());
    let backlog = Offered {
        backlog: 1,
        ..Offered::default()
    };
    drained(&agent, Gate::UserSpace, backlog);
    agent.stop();
    assert_eq!(stored::read(&home.records()).len(), 1);
}

/// Three lives that end by SIGKILL under load, a fourth that delivers what they left, and a fifth
/// without anything to do.
#[test]
fn kill_9_under_load_loses_nothing_that_was_acknowledged() {
    let home = Home::new();
    let config = Config {
        shards: 2,
        // Long, so that most of the time there is something that is taken and not yet written.
        commit_interval: "50ms",
        ..config()
    };
    let mut acknowledged = BTreeSet::new();
    for life in 0..3 {
        let agent = home.start(&config);
        acknowledged.extend(end_under_load(agent, life, Agent::kill));
    }
    let agent = home.start(&config);
    wait_for("the backlog is delivered", Duration::from_secs(20), || {
        let labels = [("sink", "files")];
        let lag = agent.metrics().one("penstock_sink_lag_records", &labels);
        (lag == 0).then_some(())
    });
    agent.stop();
    assert_stored(&home, &acknowledged);

    let stored = stored::read(&home.records());
    home.start(&config).stop();
    assert_eq!(stored::read(&home.records()), stored);
}
