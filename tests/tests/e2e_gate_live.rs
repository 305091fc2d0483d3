//! `penstock gate` against a running agent: what it changes holds from the next datagram on, what it
//! is refused changes nothing, and what it shows is what happened.

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use agent_common::frame::FrameHeader;
use penstock_proto::wire::write_frame;
use penstock_tests::agent::config::{Config, Gate};
use penstock_tests::agent::{Agent, Home, binary, wait_for};
use penstock_tests::in_both_gates;
use serde_json::Value;

in_both_gates!(
    a_denied_prefix_lets_nothing_in_until_it_is_removed,
    a_limit_holds_for_the_source_it_names,
    a_kept_ratio_is_exact,
    a_refused_change_changes_nothing,
    top_names_the_noisiest_source,
    watch_shows_who_and_why,
    sizes_are_counted_whatever_the_verdict,
);

const WAIT: Duration = Duration::from_secs(10);

/// `penstock gate ARGUMENTS` against the agent in `home`.
fn gate(home: &Home, arguments: &[&str]) -> Output {
    let file = home.path().join("penstock.toml");
    let mut command = Command::new(binary());
    command.arg("gate").args(arguments).arg("-c").arg(file);
    command.stdin(Stdio::null()).output().expect("run penstock")
}

/// The same, and it must end with 0.
fn done(home: &Home, arguments: &[&str]) -> String {
    let output = gate(home, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "gate {arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn show(home: &Home) -> Value {
    serde_json::from_str(&done(home, &["show", "--json"])).expect("JSON")
}

/// A frame of one JSON record.
fn frame(priority: u8, sequence: u64) -> Vec<u8> {
    let header = FrameHeader {
        encoding: 3,
        flags: 0,
        priority,
        payload_len: 0,
        records: 1,
        producer: 0,
        sequence,
        payload_crc: 0,
    };
    let mut bytes = Vec::new();
    write_frame(&mut bytes, header, b"{\"body\":\"x\"}\n");
    bytes
}

/// A sender with an address of its own.
fn from(address: &str, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).expect("an address of 127.0.0.0/8");
    socket.connect(to).expect("connect");
    socket
}

fn verdicts(agent: &Agent, verdict: &str) -> u64 {
    let labels = [("listener", "udp"), ("verdict", verdict)];
    agent
        .metrics()
        .one("penstock_gate_datagrams_total", &labels)
}

fn accepted(agent: &Agent) -> u64 {
    let labels = [("listener", "udp")];
    agent
        .metrics()
        .sum("penstock_accepted_frames_total", &labels)
}

/// Waits until a count is what was sent.
fn until(what: &str, expected: u64, mut count: impl FnMut() -> u64) {
    let mut last = 0;
    let what = format!("{what} of {expected}");
    wait_for(&what, WAIT, || {
        last = count();
        assert!(last <= expected, "{what}: {last}");
        (last == expected).then_some(())
    });
}

fn a_denied_prefix_lets_nothing_in_until_it_is_removed(place: Gate) {
    let home = Home::new();
    let agent = home.start(&Config::new(place));
    let (bad, good) = (
        from("127.9.0.1", agent.udp()),
        from("127.8.0.1", agent.udp()),
    );
    let send = |socket: &UdpSocket, frames: u64| {
        for sequence in 1..=frames {
            socket.send(&frame(2, sequence)).expect("send");
        }
    };
    send(&bad, 5);
    until("accepted", 5, || accepted(&agent));

    let said = done(&home, &["deny", "127.9.0.0/16"]);
    assert!(said.contains("deny 127.9.0.0/16: added"), "{said}");
    assert!(said.contains("until the next reload"), "{said}");
    send(&bad, 20);
    send(&good, 3);
    until("denied", 20, || verdicts(&agent, "denied"));
    until("accepted", 8, || accepted(&agent));
    assert!(done(&home, &["show"]).contains("+ 127.9.0.0/16"));

    // An exception within it.
    done(&home, &["allow", "127.9.0.1"]);
    send(&bad, 2);
    until("accepted", 10, || accepted(&agent));
    // With an allow list, what no list names is denied.
    send(&good, 4);
    until("denied", 24, || verdicts(&agent, "denied"));

    let said = done(&home, &["remove", "127.9.0.1", "127.9.0.0/16"]);
    assert!(said.contains("is what the configuration says"), "{said}");
    send(&bad, 6);
    send(&good, 1);
    until("accepted", 17, || accepted(&agent));
    assert_eq!(verdicts(&agent, "denied"), 24);
    agent.stop();
}

fn a_limit_holds_for_the_source_it_names(place: Gate) {
    let home = Home::new();
    let agent = home.start(&Config::new(place));
    let (one, other) = (
        from("127.9.0.1", agent.udp()),
        from("127.8.0.1", agent.udp()),
    );
    // One an hour would be 0/s: one a second, and ten at once. Newcomers get as much, together.
    done(&home, &["limit", "127.9.0.0/16", "1/s", "10"]);
    for sequence in 1..=200 {
        one.send(&frame(2, sequence)).expect("send");
        other.send(&frame(2, sequence)).expect("send");
    }
    let all = || verdicts(&agent, "passed") + verdicts(&agent, "rate_limited");
    until("passed and limited", 400, all);
    let limited = verdicts(&agent, "rate_limited");
    // What a slow machine takes for it lets one more through each second, and a burst of newcomers'
    // and of one's own is twenty.
    assert!((150..=190).contains(&limited), "{limited}");
    done(&home, &["remove", "127.9.0.0/16"]);
    for sequence in 201..=300 {
        one.send(&frame(2, sequence)).expect("send");
    }
    until("passed", 500 - limited, || verdicts(&agent, "passed"));
    agent.stop();
}

fn a_kept_ratio_is_exact(place: Gate) {
    let home = Home::new();
    let agent = home.start(&Config::new(place));
    done(&home, &["keep", "background", "25%"]);
    let socket = from("127.9.0.1", agent.udp());
    for sequence in 1..=160 {
        socket.send(&frame(3, sequence)).expect("send");
        socket.send(&frame(1, sequence)).expect("send");
    }
    until("shed", 120, || verdicts(&agent, "shed"));
    until("accepted", 200, || accepted(&agent));
    let shown = show(&home);
    assert_eq!(shown["policy"]["keep"]["background"], "4/16");
    assert_eq!(shown["configured"]["keep"]["background"], "16/16");
    let said = done(&home, &["reset"]);
    assert!(said.contains("is what the configuration says"), "{said}");
    assert_eq!(show(&home)["policy"], shown["configured"]);
    agent.stop();
}

fn a_refused_change_changes_nothing(place: Gate) {
    let home = Home::new();
    let mut config = Config::new(place);
    config.gate_more = "deny = [\"192.0.2.0/24\"]";
    let agent = home.start(&config);
    let before = show(&home);
    assert_eq!(before["policy"]["deny"][0], "192.0.2.0/24");
    for (arguments, words) in [
        (&["deny", "10.0.0.1/8"][..], "did you mean \"10.0.0.0/8\"?"),
        (
            &["deny", "198.51.100.0/24", "nonsense"],
            "\"nonsense\" is no prefix",
        ),
        (&["allow", "192.0.2.0/24"], "is in gate.deny"),
        (&["limit", "10.0.0.0/8", "50k/s"], "add burst"),
        (&["limit", "10.0.0.0/8", "0/s", "1"], "limit of zero"),
        (&["keep", "normal", "30%"], "\"4/16\" (25%)"),
        (&["remove", "198.51.100.0/24"], "is in no list"),
    ] {
        let output = gate(&home, arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{arguments:?}: {errors}");
        assert!(errors.contains(words), "{arguments:?}: {errors}");
        assert_eq!(show(&home), before, "{arguments:?}");
    }
    agent.stop();
    // Nobody answers any more.
    let output = gate(&home, &["show"]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
}

fn top_names_the_noisiest_source(place: Gate) {
    let home = Home::new();
    let agent = home.start(&Config::new(place));
    done(&home, &["deny", "127.9.0.3"]);
    let socket = |last: u8| from(&format!("127.9.0.{last}"), agent.udp());
    for (last, count) in [(1, 5), (2, 60), (3, 20)] {
        let socket = socket(last);
        for sequence in 1..=count {
            socket.send(&frame(2, sequence)).expect("send");
        }
    }
    until("passed", 65, || verdicts(&agent, "passed"));
    until("denied", 20, || verdicts(&agent, "denied"));
    let top = |by: &str| -> Value {
        let arguments = [
            "top",
            "--json",
            "--interval",
            "100ms",
            "--by",
            by,
            "-n",
            "3",
        ];
        serde_json::from_str(&done(&home, &arguments)).expect("JSON")
    };
    let by_datagrams = top("datagrams");
    let source = |top: &Value, at: usize| top["sources"][at]["source"].clone();
    assert_eq!(source(&by_datagrams, 0), "127.9.0.2", "{by_datagrams}");
    assert_eq!(by_datagrams["sources"][0]["datagrams"], 60);
    // 40 bytes of header and 13 of payload.
    assert_eq!(by_datagrams["sources"][0]["bytes"], 60 * 53);
    assert_eq!(by_datagrams["known"], 3);
    let by_refused = top("refused");
    assert_eq!(source(&by_refused, 0), "127.9.0.3", "{by_refused}");
    assert_eq!(by_refused["sources"][0]["refused"], 20);
    assert_eq!(by_refused["sources"][1]["refused"], 0);
    let status = agent.status();
    assert_eq!(status["top_sources"][0]["source"], "127.9.0.2", "{status}");
    agent.stop();
}

fn watch_shows_who_and_why(place: Gate) {
    let home = Home::new();
    let agent = home.start(&Config::new(place));
    done(&home, &["deny", "127.9.0.9"]);
    let mut command = Command::new(binary());
    command.args(["gate", "watch", "--json", "-n", "2", "--for", "20s", "-c"]);
    command.arg(home.path().join("penstock.toml"));
    let watch = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("run penstock");
    let malformed = from("127.9.0.1", agent.udp());
    let mut frame = frame(2, 77);
    frame[4] = 200;
    // Watching begins some time after the command does.
    let mut sent = 0;
    let mut watch = Some(watch);
    let output = wait_for("two samples", Duration::from_secs(20), || {
        malformed.send(&frame).expect("send");
        malformed.send(b"GET / HTTP/1.1\r\n\x1b[2J").expect("send");
        sent += 2;
        std::thread::sleep(Duration::from_millis(20));
        let ended = watch
            .as_mut()
            .expect("once")
            .try_wait()
            .expect("wait")
            .is_some();
        ended.then(|| {
            watch
                .take()
                .expect("once")
                .wait_with_output()
                .expect("output")
        })
    });
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let samples: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .filter(|line| line["left_out"].is_null())
        .collect();
    assert_eq!(samples.len(), 2, "{text}");
    for sample in &samples {
        assert_eq!(sample["source"], "127.9.0.1");
        assert_eq!(sample["listener"], "udp");
        assert_eq!(sample["verdict"], "malformed");
    }
    let of = |fault: &str| samples.iter().find(|sample| sample["fault"] == fault);
    let encoding = of("encoding").expect("an unknown encoding");
    assert_eq!(encoding["header"]["encoding"], 200);
    assert_eq!(encoding["header"]["sequence"], 77);
    assert_eq!(encoding["len"], 53);
    let short = of("truncated").expect("no header");
    assert_eq!(short["head"], "GET / HTTP/1.1\\r\\n\\x1b[2J");
    until("malformed", sent, || verdicts(&agent, "malformed"));
    agent.stop();
}

fn sizes_are_counted_whatever_the_verdict(place: Gate) {
    let home = Home::new();
    let agent = home.start(&Config::new(place));
    let socket = from("127.9.0.1", agent.udp());
    // Up to 64 bytes: a frame and three that are none; up to 128: two; beyond 32,768: one.
    for len in [10, 20, 64, 65, 128, 40_000] {
        socket.send(&vec![b'x'; len]).expect("send");
    }
    socket.send(&frame(2, 1)).expect("send");
    let bucket = |le: &str| {
        let labels = [("listener", "udp"), ("le", le)];
        agent
            .metrics()
            .one("penstock_datagram_size_bytes_bucket", &labels)
    };
    until("datagrams", 7, || bucket("+Inf"));
    assert_eq!((bucket("64"), bucket("128"), bucket("32768")), (4, 6, 6));
    let labels = [("listener", "udp")];
    let sum = agent
        .metrics()
        .one("penstock_datagram_size_bytes_sum", &labels);
    assert_eq!(sum, 10 + 20 + 64 + 65 + 128 + 40_000 + 53);
    agent.stop();
}

/// Whom the socket's file does not let in gets 77 and a word about it.
#[test]
fn without_permission_it_ends_with_77() {
    let home = Home::new();
    let agent = home.start(&Config::new(Gate::UserSpace));
    // SAFETY: takes nothing and returns a number.
    if unsafe { libc::geteuid() } != 0 {
        penstock_tests::netns::skip(
            "e2e_gate_live::without_permission",
            "only root may become another user",
        );
        return;
    }
    let open = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    };
    open(home.path());
    open(&home.data());
    // Another user may not be let into the folder where the binary was built.
    let program = home.path().join("penstock");
    std::fs::copy(binary(), &program).expect("copy the binary");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(program).args(["gate", "show", "--socket"]);
    let output = command
        .arg(home.data().join("control.sock"))
        .output()
        .expect("setpriv");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{errors}");
    assert!(errors.contains("may ask"), "{errors}");
    agent.stop();
}
