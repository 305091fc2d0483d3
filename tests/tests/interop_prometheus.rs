//! The metrics as other people's tools see them: `promtool check metrics` finds nothing to say, and
//! a real Prometheus server scrapes the admin address and answers queries about what it found.
//!
//! Without the tools (Debian: `apt-get install prometheus`) the tests skip and say so; with
//! `CI=true` in the environment a missing tool is a failure.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent_common::verdict::{KernelDrop, Verdict};
use penstock::admin::{self, AdminState, Condition, Readiness, Status, StatusSource};
use penstock::config::settings::ListenerSettings;
use penstock::metric::{
    ControlPublisher, JournalState, Registry, ShardPublisher, SinkCounts, SinkLabels,
};
use penstock::shard::counters::{ListenerCounters, Refusal, ShardCounters};
use penstock_proto::encoding::Encoding;
use penstock_proto::reason::Reason;
use tokio::sync::oneshot;

/// The longest that anything here is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn promtool_finds_nothing_to_say() {
    if !has_tools(&["promtool"]) {
        return;
    }
    let agent = Agent::start();
    let metrics = get(agent.address, "/metrics");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    let mut input = promtool.stdin.take().expect("piped");
    input.write_all(metrics.as_bytes()).expect("promtool reads");
    drop(input);
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}\nof\n{metrics}");
    assert_eq!(said, "", "of\n{metrics}");
    agent.stop();
}

#[test]
fn a_real_prometheus_scrapes_and_answers() {
    if !has_tools(&["prometheus", "timeout"]) {
        return;
    }
    let agent = Agent::start();
    let prometheus = Prometheus::start(agent.address);
    // What `Agent::start` published, asked for in Prometheus' own language.
    for (query, expected) in [
        ("up{job=\"penstock\"}", 1.0),
        (
            "sum(penstock_accepted_records_total{listener=\"apps\"})",
            1234.0,
        ),
        (
            "penstock_refused_frames_total{reason=\"payload_checksum\",listener=\"apps\"}",
            3.0,
        ),
        (
            "sum(penstock_gate_datagrams_total{listener=\"apps\"})",
            40.0,
        ),
        (
            "penstock_kernel_drops_total{reason=\"receive_buffer\"}",
            2.0,
        ),
        ("penstock_sink_lag_records{sink=\"files\"}", 34.0),
        ("penstock_journal_sync_duration_seconds_count", 2.0),
        (
            "penstock_journal_sync_duration_seconds_bucket{le=\"0.001\"}",
            1.0,
        ),
        ("penstock_shard_busy_seconds_total{shard=\"0\"}", 0.25),
        ("penstock_build_info{io=\"io_uring\",gate=\"kernel\"}", 1.0),
        // A series that nothing has counted yet is there all the same.
        ("penstock_acks_total{status=\"duplicate\"}", 0.0),
    ] {
        prometheus.wait_for(query, expected);
    }
    // Types and descriptions arrive too.
    let metadata = get(
        prometheus.address,
        "/api/v1/metadata?metric=penstock_ingest_duration_seconds",
    );
    let metadata: serde_json::Value = serde_json::from_str(&metadata).expect("JSON");
    let metadata = &metadata["data"]["penstock_ingest_duration_seconds"][0];
    assert_eq!(metadata["type"], "histogram", "{metadata}");
    assert_eq!(
        metadata["help"],
        "Time from a frame's receipt until it was durable."
    );
    drop(prometheus);
    agent.stop();
}

/// Whether the tools are there; in CI they must be.
fn has_tools(names: &[&str]) -> bool {
    let missing: Vec<_> = names
        .iter()
        .filter(|name| {
            Command::new(name)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_err()
        })
        .collect();
    if missing.is_empty() {
        return true;
    }
    let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!is_ci, "not installed, and needed in CI: {missing:?}");
    eprintln!("SKIPPED: {missing:?} not installed (Debian: apt-get install prometheus)");
    false
}

/// The admin server in this process, with some counts.
struct Agent {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<std::io::Result<()>>,
}

struct NoStatus;

impl StatusSource for NoStatus {
    fn refresh(&self) {}

    fn status(&self) -> Status {
        unreachable!("Prometheus asks for /metrics only")
    }
}

impl Agent {
    fn start() -> Self {
        let text = "[listeners.apps]\naddress = \"udp://127.0.0.1:0\"\n\
                    [listeners.stream]\naddress = \"tcp://127.0.0.1:0\"\n";
        let settings = penstock::config::parse("test", text).expect("right settings");
        let registry = Arc::new(Registry::new());
        count_something(&registry, &settings.listeners);
        let readiness = Arc::new(Readiness::default());
        readiness.set(Condition::ListenersBound, true);
        let state = AdminState {
            registry,
            readiness,
            source: Arc::new(NoStatus),
        };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let shutdown = async {
                    let _ = stopped.await;
                };
                let folder = tempfile::tempdir()?;
                let control = admin::bind_control(&folder.path().join("control.sock"))
                    .expect("the control socket");
                let (ask, _asked) = tokio::sync::mpsc::channel(1);
                admin::serve(listener, control, state, ask, shutdown).await
            })
        });
        Self {
            address,
            stop,
            thread,
        }
    }

    fn stop(self) {
        drop(self.stop);
        self.thread.join().expect("no panic").expect("no error");
    }
}

fn count_something(registry: &Arc<Registry>, listeners: &[ListenerSettings]) {
    let mut shard = ShardPublisher::new(registry, listeners, 0);
    let mut counters = ShardCounters {
        listeners: vec![ListenerCounters::default(); listeners.len()],
        busy_ns: 250_000_000,
        ..ShardCounters::default()
    };
    let apps = &mut counters.listeners[0];
    apps.accepted_records[Encoding::Protobuf.index()] = 1000;
    apps.accepted_records[Encoding::Json.index()] = 234;
    apps.refused_frames[Reason::PayloadChecksum.index()] = 3;
    shard.observe_sync(900_000);
    shard.observe_sync(1_100_000);
    shard.publish(&counters);

    let sinks = [SinkLabels {
        name: "files",
        error_reasons: &["write", "sync"],
        skip_reasons: &["dropped"],
    }];
    let mut control = ControlPublisher::new(registry, listeners, &sinks, "io_uring", "kernel");
    let mut verdicts = [0; Verdict::COUNT];
    verdicts[Verdict::Passed as usize] = 37;
    verdicts[Verdict::Malformed as usize] = 3;
    let mut drops = [0; KernelDrop::COUNT];
    drops[KernelDrop::ReceiveBuffer as usize] = 2;
    control.gate_attached(0, true);
    // Twice: totals are given, differences are added.
    for _ in 0..2 {
        control.gate_datagrams(0, &verdicts);
        control.kernel_drops(0, &drops);
        control.sink(
            0,
            &SinkCounts {
                records: 1200,
                lag_records: 34,
                lag_seconds: 0.5,
                errors: &[0, 1],
                skipped: &[5],
            },
        );
    }
    control.receive_buffer(0, 4096, 1 << 20);
    control.journal_limit(8 << 30);
    control.journal(&JournalState {
        refusing: [0; Refusal::COUNT],
        disk_free: 7 << 30,
        min_free: 1 << 30,
    });
}

/// A Prometheus server of our own on a port of its own, with its data in a folder of its own.
struct Prometheus {
    address: SocketAddr,
    /// `timeout`, which passes SIGTERM on, and which ends it should this process be killed.
    child: Child,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(target: SocketAddr) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("prometheus.yml");
        let text = format!(
            "scrape_configs:\n- job_name: penstock\n  scrape_interval: 1s\n  \
             scrape_timeout: 1s\n  static_configs:\n  - targets: ['{target}']\n"
        );
        std::fs::write(&config, text).expect("a file");
        let mut child = Command::new("timeout")
            .args(["--kill-after=5", "120", "prometheus"])
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg("--web.listen-address=127.0.0.1:0")
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("prometheus starts");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        let (sender, receiver) = mpsc::channel();
        // Reads to the end, so that the server never waits for its log.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let address = listening_address(&receiver);
        Self {
            address,
            child,
            _folder: folder,
        }
    }

    /// Asks until the query finds exactly this one value.
    fn wait_for(&self, query: &str, expected: f64) {
        let path = format!("/api/v1/query?query={}", percent_encode(query));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = get(self.address, &path);
            let answer: serde_json::Value = serde_json::from_str(&answer)
                .unwrap_or_else(|error| panic!("{query}: {error} in {answer}"));
            assert_eq!(answer["status"], "success", "{query}: {answer}");
            if let Some([found]) = answer["data"]["result"].as_array().map(Vec::as_slice) {
                let value = found["value"][1].as_str().expect("a value");
                if value.parse::<f64>().expect("a number") == expected {
                    return;
                }
            }
            assert!(
                Instant::now() < deadline,
                "{query} is not {expected}: {answer}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let pid = self.child.id().cast_signed();
        // SAFETY: `child` is not waited for yet, so the id is still its own; kill touches no memory.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let _ = self.child.wait();
    }
}

/// The server logs the address that the kernel gave it for port 0, and later that it is ready:
/// until then it answers 503.
fn listening_address(log: &mpsc::Receiver<String>) -> SocketAddr {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    let mut address = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(line) = log.recv_timeout(left) else {
            panic!("prometheus did not become ready:\n{}", seen.join("\n"));
        };
        if line.contains("Listening on") {
            address = line
                .rsplit_once("address=")
                .map(|(_, text)| text.to_owned());
        }
        if line.contains("ready to receive web requests") {
            let address = address.expect("it listens before it is ready");
            return address.trim().parse().expect("an address");
        }
        seen.push(line);
    }
}

/// One request; the answer's body. HTTP/1.0 keeps it in one piece.
fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    match answer.split_once("\r\n\r\n") {
        Some((_, body)) => body.to_owned(),
        None => panic!("no answer: {answer}"),
    }
}

fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b if b.is_ascii_alphanumeric() => char::from(b).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}
