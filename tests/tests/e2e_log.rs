//! The agent's own log: its formats, and its level while it runs.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use penstock_tests::agent::config::{Config, Gate};
use penstock_tests::agent::{Home, binary, wait_for};
use penstock_tests::mount::{self, Tmpfs};

const PATIENCE: Duration = Duration::from_secs(20);

fn config(more: &'static str) -> Config {
    Config {
        more,
        ..Config::new(Gate::UserSpace)
    }
}

/// `penstock log` to the agent of this home.
fn log(home: &Home, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(binary())
        .arg("log")
        .args(arguments)
        .arg("--socket")
        .arg(home.data().join("control.sock"))
        .output()
        .expect("run penstock");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).expect("text"))
}

#[test]
fn the_level_changes_while_the_agent_runs() {
    let home = Home::new();
    let agent = home.start(&config(""));
    let metrics = agent.metrics();
    for level in ["error", "warn"] {
        // There from the start.
        assert_eq!(
            metrics.one("penstock_log_suppressed_total", &[("level", level)]),
            0
        );
    }
    assert_eq!(log(&home, &[]), (Some(0), "info\n".into()));
    assert_eq!(log(&home, &["warn"]), (Some(0), "warn (was info)\n".into()));
    assert_eq!(log(&home, &[]), (Some(0), "warn\n".into()));
    let (code, said) = log(&home, &["loud"]);
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("\"loud\" is no level"), "{said}");
    let ended = agent.stop();
    assert!(ended.contains(" ready "), "said at info, before:\n{ended}");
    assert!(!ended.contains("stopped"), "said at info, after:\n{ended}");

    // Without an agent there is an answer too.
    let (code, said) = log(&home, &["info"]);
    assert_eq!(code, Some(69), "{said}");
}

#[test]
fn json_is_one_object_a_line() {
    let home = Home::new();
    let agent = home.launch(&config("[log]\nformat = \"json\"\n"));
    let ready = wait_for("the log says \"ready\"", PATIENCE, || {
        let text = agent.log();
        let lines = text.lines().filter(|line| line.ends_with('}'));
        lines
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line)
                    .unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .find(|line| line["message"] == "ready")
    });
    assert_eq!(ready["level"], "INFO");
    assert_eq!(ready["shards"], 1);
    assert!(
        ready["admin"]
            .as_str()
            .expect("a field")
            .starts_with("127.0.0.1:")
    );
    assert!(ready["timestamp"].is_string());
    assert!(
        ready["target"]
            .as_str()
            .expect("a field")
            .starts_with("penstock::")
    );
    agent.stop();
}

/// With a socket of the test's own where journald's is, in a mount namespace.
#[test]
fn journald_gets_each_event_with_its_fields() {
    mount::private_or_skip("journald_gets_each_event_with_its_fields", || {
        let _run = Tmpfs::mount(Path::new("/run"), "16m");
        std::fs::create_dir_all("/run/systemd/journal").expect("a folder");
        let journald = UnixDatagram::bind("/run/systemd/journal/socket").expect("bound");
        journald
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout");

        let home = Home::new();
        let agent = home.launch(&config("[log]\nformat = \"journald\"\n"));
        let mut buffer = vec![0; 1 << 18];
        let ready = loop {
            let len = journald.recv(&mut buffer).expect("an entry in time");
            let fields = fields(&buffer[..len]);
            if fields["MESSAGE"].starts_with("ready ") {
                break fields;
            }
        };
        assert_eq!(ready["PRIORITY"], "6");
        assert_eq!(ready["SYSLOG_IDENTIFIER"], "penstock");
        assert_eq!(ready["PENSTOCK_SHARDS"], "1");
        let admin = format!(" admin={}", ready["PENSTOCK_ADMIN"]);
        assert!(
            ready["MESSAGE"].contains(&admin),
            "for whoever reads journalctl: {ready:?}"
        );
        assert_eq!(agent.log(), "", "nothing goes to standard error");
        agent.stop();
    });
}

/// systemd.io/JOURNAL_NATIVE_PROTOCOL: a name, a newline, the length, the value, a newline.
fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while !entry.is_empty() {
        let end = entry
            .iter()
            .position(|&byte| byte == b'\n')
            .expect("a name");
        let (name, rest) = (&entry[..end], &entry[end + 1..]);
        let (len, rest) = rest.split_first_chunk().expect("a length");
        let (value, rest) = rest.split_at(u64::from_le_bytes(*len) as usize);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        fields.insert(text(name), text(value));
        entry = &rest[1..];
    }
    fields
}
