//! The real binary, as a test starts, watches and stops it.
//!
//! A [`Home`] is a folder with a configuration, the data and the log of each life; an [`Agent`] is
//! one life. Nothing outlives its value: a dropped agent is killed and waited for, a dropped home
//! removed. Every wait ends.

pub mod client;
pub mod config;
pub mod forbid;
pub mod http;
pub mod law;
pub mod metrics;
pub mod stored;

use std::cell::Cell;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::netns;
use config::{Config, Gate};
use metrics::Metrics;

/// A start takes about 0.3 s, most of it the verifier's; two cores shared by others take longer.
const START_MAX: Duration = Duration::from_secs(20);
/// A stop waits for the disk and the sinks; the agent's own bound on sinks is 32 s.
const STOP_MAX: Duration = Duration::from_secs(40);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The binary under test: `PENSTOCK_BIN`, else the one that was built beside this test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("PENSTOCK_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("this test has a path");
    // target/PROFILE/deps/TEST
    let profile = test.ancestors().nth(2).expect("deps and its profile");
    let path = profile.join("penstock");
    assert!(
        path.exists(),
        "{} is missing: run `cargo build` first (PENSTOCK_BIN names another binary)",
        path.display()
    );
    path
}

/// Runs a command of the binary to its end and returns what it wrote to standard output.
pub fn penstock(arguments: &[&str]) -> String {
    let output = Command::new(binary())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("run penstock");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "penstock {arguments:?} ended with {}: {errors}",
        output.status
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Polls until `look` finds something; panics with `what` after `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        thread::sleep(LOOK_AGAIN);
    }
}

/// Whether the binary, run by this user on this host, has its gate in the kernel. Where it has not
/// the test is skipped and says so; with `CI=true` that is a failure. Where this run forbids eBPF
/// the gate must be the stand-in: that is asserted, and it is no skip.
pub fn has_kernel_gate(test: &str) -> bool {
    static GATE: OnceLock<String> = OnceLock::new();
    let gate = GATE.get_or_init(|| {
        let home = Home::new();
        let agent = home.start(&Config::new(Gate::Kernel));
        let gate = agent.status()["gate"].clone();
        agent.stop();
        gate.as_str().expect("a word").to_owned()
    });
    let is_there = gate == "kernel";
    if forbid::forbids(forbid::BPF) {
        assert_eq!(gate, "user_space", "{test}: this run forbids eBPF");
        println!("{test}: eBPF is forbidden in this run, the stand-in is asserted instead");
    } else if !is_there {
        netns::skip(test, "the agent has no gate in the kernel here");
    }
    is_there
}

/// One test for each place of the gate: `subject(gate)` is run as `subject::kernel_gate` and
/// `subject::user_space_gate`. Where this run forbids eBPF, the former asks for a gate in the kernel
/// all the same, and what must hold is what holds of the stand-in.
#[macro_export]
macro_rules! in_both_gates {
    ($($subject:ident),* $(,)?) => {$(
        mod $subject {
            use penstock_tests::agent::{config::Gate, forbid, has_kernel_gate};

            #[test]
            fn kernel_gate() {
                if has_kernel_gate(concat!(stringify!($subject), "::kernel_gate")) {
                    super::$subject(Gate::Kernel);
                } else if forbid::forbids(forbid::BPF) {
                    super::$subject(Gate::UserSpace);
                }
            }

            #[test]
            fn user_space_gate() {
                super::$subject(Gate::UserSpace);
            }
        }
    )*};
}

/// A folder of one test's own.
pub struct Home {
    folder: TempDir,
    lives: Cell<u32>,
    /// What its agents may not call, beside what the whole run forbids.
    forbidden: Vec<&'static str>,
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Home {
    pub fn new() -> Self {
        Self {
            folder: TempDir::with_prefix("penstock-e2e-").expect("a temporary folder"),
            lives: Cell::new(0),
            forbidden: Vec::new(),
        }
    }

    /// A host that forbids these; the words are those of [`forbid`].
    pub fn that_forbids(words: &[&'static str]) -> Self {
        Self {
            forbidden: words.to_vec(),
            ..Self::new()
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where the agent keeps its data, unless the configuration says otherwise.
    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    pub fn records(&self) -> PathBuf {
        self.data().join("records")
    }

    /// What each life wrote to standard error, in order.
    pub fn logs(&self) -> impl Iterator<Item = String> {
        let paths = (1..=self.lives.get()).map(|life| self.log_path(life));
        paths.map(|path| fs::read_to_string(path).expect("read the log"))
    }

    fn log_path(&self, life: u32) -> PathBuf {
        self.path().join(format!("log-{life}"))
    }

    /// Starts the agent and waits until it is ready.
    pub fn start(&self, config: &Config) -> Agent {
        let agent = self.begin(config, None);
        wait_for("/readyz says 200", START_MAX, || {
            (agent.get("/readyz").0 == 200).then_some(())
        });
        agent
    }

    /// Starts the agent, as another user if one is given, and waits until it serves the admin
    /// address; ready or not.
    pub fn begin(&self, config: &Config, user: Option<u32>) -> Agent {
        let mut agent = self.spawn(config, user);
        agent.admin = wait_for("the log says \"ready\"", START_MAX, || {
            if let Some(status) = agent.child.try_wait().expect("wait") {
                panic!("the agent ended with {status}:\n{}", agent.log());
            }
            admin_address(&agent.log())
        });
        agent
    }

    /// Starts an agent and waits for nothing: it may be killed before it is ready.
    pub fn launch(&self, config: &Config) -> Agent {
        self.spawn(config, None)
    }

    /// Runs an agent that is expected to end by itself.
    pub fn run_to_end(&self, config: &Config, user: Option<u32>) -> Ended {
        let mut agent = self.spawn(config, user);
        let status = agent.wait(START_MAX);
        Ended::new(status, agent.log())
    }

    /// The same with a configuration file that the test wrote, or did not.
    pub fn run_file_to_end(&self, file: &Path) -> Ended {
        let mut agent = self.spawn_with(file, None);
        let status = agent.wait(START_MAX);
        Ended::new(status, agent.log())
    }

    fn spawn(&self, config: &Config, user: Option<u32>) -> Agent {
        let file = self.path().join("penstock.toml");
        fs::write(&file, config.text(&self.data())).expect("write the configuration");
        self.spawn_with(&file, user)
    }

    fn spawn_with(&self, file: &Path, user: Option<u32>) -> Agent {
        self.lives.set(self.lives.get() + 1);
        let log_path = self.log_path(self.lives.get());
        let log = File::create(&log_path).expect("create the log");
        let mut program = binary();
        if user.is_some() {
            // Another user may not be let into the folder where the binary was built.
            program = self.path().join("penstock");
            fs::copy(binary(), &program).expect("copy the binary");
        }
        let mut command = Command::new(program);
        command.args(["run", "--log", "info", "-c"]).arg(file);
        command.env_remove("PENSTOCK_LOG").current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(log);
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let filter = forbid::filter(&self.forbidden);
        // SAFETY: between fork and exec only prctl and seccomp are called, which are
        // async-signal-safe. The agent must not outlive a test that is killed.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                forbid::install(filter.as_ref())
            });
        }
        let child = command.spawn().expect("start the agent");
        Agent {
            child,
            log_path,
            admin: SocketAddr::from(([0, 0, 0, 0], 0)),
        }
    }
}

/// The admin address was configured with port 0, so that no two tests can clash; the log's line
/// "ready" has the port that it became.
fn admin_address(log: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|line| line.contains(" ready "))?;
    let (_, address) = line.split_once("admin=")?;
    Some(address.parse().expect("an address at the line's end"))
}

/// A running agent.
pub struct Agent {
    child: Child,
    log_path: PathBuf,
    admin: SocketAddr,
}

/// How a life ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code, where no signal ended it.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// Standard error.
    pub log: String,
}

impl Ended {
    fn new(status: ExitStatus, log: String) -> Self {
        Self {
            code: status.code(),
            signal: status.signal(),
            log,
        }
    }

    /// The lines that are not the log's: what the person at the terminal is told at the end.
    pub fn last_words(&self) -> Vec<&str> {
        let lines = self.log.lines();
        lines
            .filter(|line| line.starts_with("penstock: "))
            .collect()
    }
}

impl Agent {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it serves /metrics and the others.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// How it ended, if it did without being asked to.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait")
    }

    /// What it wrote to standard error until now.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log_path).expect("read the log")
    }

    /// Status code and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        http::get(self.admin, path)
            .unwrap_or_else(|error| panic!("GET {path}: {error}\n{}", self.log()))
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.get("/api/v1/status").1).expect("JSON")
    }

    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.get("/metrics").1)
    }

    /// Where a listener is bound.
    pub fn address(&self, listener: &str) -> SocketAddr {
        let status = self.status();
        let listeners = status["listeners"].as_array().expect("an array");
        let found = listeners.iter().find(|each| each["name"] == listener);
        let address = found.and_then(|each| each["address"].as_str());
        address.expect("a listener").parse().expect("an address")
    }

    pub fn udp(&self) -> SocketAddr {
        self.address("udp")
    }

    pub fn tcp(&self) -> SocketAddr {
        self.address("tcp")
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: no pointers. The child is not waited for yet, so the id is still its own.
        let sent = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(sent, 0, "signal {signal} to the agent");
    }

    /// SIGTERM; the life must end with 0.
    pub fn stop(self) -> String {
        self.signal(libc::SIGTERM);
        let ended = self.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.log
    }

    /// SIGKILL.
    pub fn kill(self) {
        self.signal(libc::SIGKILL);
        assert_eq!(self.end().signal, Some(libc::SIGKILL));
    }

    /// Waits for its end, which something has brought about.
    pub fn end(mut self) -> Ended {
        let status = self.wait(STOP_MAX);
        Ended::new(status, self.log())
    }

    fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the agent still runs after {limit:?}:\n{}",
                self.log()
            );
            thread::sleep(LOOK_AGAIN);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            if thread::panicking() {
                eprintln!("the agent's log:\n{}", self.log());
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
