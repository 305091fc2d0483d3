//! What the running agent is and holds, as /proc shows it: whom it became, and which capabilities
//! each of its threads has.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use penstock_tests::agent::client::{Answer, Connection, Datagrams, line_frame};
use penstock_tests::agent::config::{Config, Gate};
use penstock_tests::agent::law::{Offered, drained};
use penstock_tests::agent::{Agent, Ended, Home, has_kernel_gate, stored};
use penstock_tests::netns;

/// User and group `nobody` and `nogroup`, as Debian numbers them.
const NOBODY: u32 = 65_534;
/// Bits of linux/capability.h.
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;

fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// The fields of /proc/PID/task/TID/status of each thread, by the thread's name.
fn threads(agent: &Agent) -> Vec<(String, BTreeMap<String, String>)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid())).expect("a process");
    tasks
        .map(|task| {
            let path = task.expect("a thread").path().join("status");
            let status = fs::read_to_string(path).expect("its status");
            let fields = status.lines().filter_map(|line| line.split_once(':'));
            let fields = fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
            let fields: BTreeMap<String, String> = fields.collect();
            (fields["Name"].clone(), fields)
        })
        .collect()
}

/// Each thread is `user` in that group alone, holds nothing in force, can gain nothing, and is
/// permitted nothing; but for the control thread, which is permitted `kept`.
fn assert_holds(agent: &Agent, user: u32, kept: u64) {
    let threads = threads(agent);
    let named = |prefix: &str| threads.iter().any(|(name, _)| name.starts_with(prefix));
    assert!(named("shard-00") && named("shard-01") && named("sink-files-00"));
    for (name, fields) in &threads {
        let bits = |set: &str| u64::from_str_radix(&fields[set], 16).expect("hexadecimal");
        let ids = format!("{user}\t{user}\t{user}\t{user}");
        if user != 0 {
            assert_eq!(fields["Uid"], ids, "{name}");
            assert_eq!(fields["Gid"], ids, "{name}");
            assert_eq!(fields["Groups"], "", "{name}");
        }
        assert_eq!(fields["NoNewPrivs"], "1", "{name}");
        assert_eq!(bits("CapEff"), 0, "{name}");
        assert_eq!(bits("CapInh"), 0, "{name}");
        assert_eq!(bits("CapAmb"), 0, "{name}");
        let is_control = fields["Pid"] == agent.pid().to_string();
        let expected = if is_control { kept } else { 0 };
        assert_eq!(bits("CapPrm"), expected, "{name}");
    }
}

/// A home that others may enter.
fn open_home() -> Home {
    let home = Home::new();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    home
}

fn chown_all(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).expect("chown");
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder") {
            chown_all(&entry.expect("an entry").path(), user);
        }
    }
}

fn owners(path: &Path, found: &mut BTreeMap<u32, usize>) {
    *found
        .entry(path.metadata().expect("there").uid())
        .or_default() += 1;
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder") {
            owners(&entry.expect("an entry").path(), found);
        }
    }
}

fn takes_and_stores(home: &Home, agent: Agent, gate: Gate) {
    let mut connection = Connection::open(agent.tcp());
    connection.send(&line_frame(1, 1, "over TCP"));
    assert_eq!(connection.answers(1), [Answer::durable(1, 1)]);
    let datagrams = Datagrams::open(agent.udp());
    datagrams.send(&line_frame(2, 1, "over UDP"));
    let offered = Offered {
        datagrams: 1,
        ..Offered::default()
    };
    drained(&agent, gate, offered);
    agent.stop();
    assert_eq!(stored::read(&home.records()).len(), 2);
}

fn config(gate: Gate) -> Config {
    Config {
        shards: 2,
        ..Config::new(gate)
    }
}

/// Started as root with `user`: the gate is in the kernel, a low port is bound, and nothing of root
/// is left, on any thread, nor in the data folder.
#[test]
fn root_becomes_its_user() {
    let test = "e2e_privilege::root_becomes_its_user";
    if !is_root() {
        return netns::skip(test, "it needs root");
    }
    // Says by itself what is missing.
    if !has_kernel_gate(test) {
        return;
    }
    let outcome = netns::run(|| {
        let home = open_home();
        let agent = home.start(&Config {
            // In a namespace of its own nobody else has it.
            udp_address: "127.0.0.1:514".to_owned(),
            top: "user = \"nobody\"",
            ..config(Gate::Kernel)
        });
        assert_eq!(agent.status()["gate"], "kernel");
        assert_holds(&agent, NOBODY, NET_BIND_SERVICE | NET_ADMIN);
        let mut found = BTreeMap::new();
        owners(&home.data(), &mut found);
        assert_eq!(found.keys().collect::<Vec<_>>(), [&NOBODY], "{found:?}");
        takes_and_stores(&home, agent, Gate::Kernel);
    });
    outcome.expect("a network namespace");
}

/// What no listener needs is not kept.
#[test]
fn what_a_reload_does_not_need_is_given_up() {
    let test = "e2e_privilege::what_a_reload_does_not_need";
    if !is_root() {
        return netns::skip(test, "it needs root, which has what can be given up");
    }
    for user in ["user = \"nobody\"", ""] {
        let home = open_home();
        let agent = home.start(&Config {
            // No more than any host gives without CAP_NET_ADMIN.
            udp_receive_buffer: "64KiB",
            top: user,
            ..config(Gate::UserSpace)
        });
        assert_holds(&agent, if user.is_empty() { 0 } else { NOBODY }, 0);
        takes_and_stores(&home, agent, Gate::UserSpace);
    }
}

/// A second life of the same folder; one that root has left there is refused with what to do, and
/// taken once that is done.
#[test]
fn a_folder_of_roots_is_refused_with_what_to_do() {
    if !is_root() {
        return netns::skip("e2e_privilege::a_folder_of_roots", "it needs root");
    }
    let home = open_home();
    home.start(&config(Gate::UserSpace)).stop();
    let with_user = Config {
        top: "user = \"nobody\"",
        ..config(Gate::UserSpace)
    };
    let data = home.data();
    let data = data.to_str().expect("UTF-8");
    let chown = format!("`chown -R nobody: {data}`");
    let ended = home.run_to_end(&with_user, None);
    assert_refused(&ended, 77, &[data, "belongs to user 0", &chown]);
    // The folder alone is not enough.
    std::os::unix::fs::chown(data, Some(NOBODY), Some(NOBODY)).expect("chown");
    let ended = home.run_to_end(&with_user, None);
    assert_refused(&ended, 77, &[data, "belongs to user 0", &chown]);
    chown_all(&home.data(), NOBODY);
    for _ in 0..2 {
        let agent = home.start(&with_user);
        assert_holds(&agent, NOBODY, 0x1000);
        agent.stop();
    }
}

#[test]
fn a_folder_that_the_user_is_not_let_into_is_named() {
    if !is_root() {
        return netns::skip("e2e_privilege::not_let_into", "it needs root");
    }
    let home = Home::new();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).expect("chmod");
    let config = Config {
        top: "user = \"nobody\"",
        ..config(Gate::UserSpace)
    };
    let ended = home.run_to_end(&config, None);
    let data = home.data();
    assert_refused(
        &ended,
        77,
        &[data.to_str().expect("UTF-8"), "nobody must be let into"],
    );
}

#[test]
fn a_user_that_cannot_be_is_refused() {
    let home = open_home();
    let config = |top| Config {
        top,
        ..config(Gate::UserSpace)
    };
    let ended = home.run_to_end(&config("user = \"no-such-user\""), None);
    assert_refused(&ended, 78, &["no-such-user", "useradd"]);
    let ended = home.run_to_end(&config("user = \"root\""), None);
    assert_refused(&ended, 78, &["unprivileged"]);
    if !is_root() {
        return netns::skip("e2e_privilege::a_user_that_cannot_be", "it needs root");
    }
    // Not root, and another.
    let ended = home.run_to_end(&config("user = \"daemon\""), Some(NOBODY));
    assert_refused(&ended, 77, &["only root", "65534", "daemon"]);
    // Not root, but that user already.
    fs::create_dir(home.data()).expect("create the folder");
    chown(home.data(), Some(NOBODY), Some(NOBODY)).expect("chown");
    let agent = home.begin(&config("user = \"nobody\""), Some(NOBODY));
    agent.stop();
}

/// A sanity check of the tests' own picture of the host.
#[test]
fn nobody_is_who_these_tests_think() {
    let name = CString::new(Path::new("nobody").as_os_str().as_bytes()).expect("no NUL");
    // SAFETY: a NUL-terminated name; the entry is read before anything else asks for one.
    let entry = unsafe { libc::getpwnam(name.as_ptr()) };
    assert!(!entry.is_null());
    // SAFETY: not null, so it points at the C library's entry.
    assert_eq!(unsafe { (*entry).pw_uid }, NOBODY);
}

fn assert_refused(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    let [line] = ended.last_words()[..] else {
        panic!("one line: {ended:?}");
    };
    for word in words {
        assert!(line.contains(word), "{word:?} is missing in {line:?}");
    }
}
