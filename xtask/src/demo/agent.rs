//! The agent that the demo runs: its configuration, its life, its admin address.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use super::http;
use super::lane::{LANES, Lane, Protocol};
use crate::metrics_text::Metrics;
use crate::process::{self, Background};
use crate::workspace;

const READY_PATIENCE: Duration = Duration::from_secs(20);
/// A stop drains, syncs and seals; the agent has its own, shorter deadline.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

pub struct Agent {
    process: Background,
    admin: SocketAddr,
    log: PathBuf,
    ready_after: Duration,
    status: Value,
}

/// Where the agent writes its own messages.
pub fn log(folder: &Path) -> PathBuf {
    folder.join("agent.log")
}

impl Agent {
    /// Starts it and waits until it is ready. `must_have_gate`: it fails where eBPF does not attach.
    pub fn start(binary: &Path, folder: &Path, must_have_gate: bool) -> anyhow::Result<Self> {
        let admin = free_port(Ipv4Addr::LOCALHOST)?;
        let configuration = configuration(
            &folder.join("data"),
            admin,
            must_have_gate,
            journal_max_size(free_bytes(folder)?)?,
        );
        Self::start_with(binary, folder, admin, &configuration)
    }

    /// The same with a configuration of the caller's, which names this admin address.
    pub fn start_with(
        binary: &Path,
        folder: &Path,
        admin: SocketAddr,
        text: &str,
    ) -> anyhow::Result<Self> {
        let configuration = folder.join("penstock.toml");
        std::fs::write(&configuration, text)
            .with_context(|| format!("cannot write {}", configuration.display()))?;
        let log = log(folder);
        let output = std::fs::File::create(&log)
            .with_context(|| format!("cannot create {}", log.display()))?;
        let start = Instant::now();
        let process = Background::start(
            Command::new(binary)
                .args(["run", "-c"])
                .arg(&configuration)
                .env("NO_COLOR", "1")
                .stdin(Stdio::null())
                .stdout(output.try_clone()?)
                .stderr(output),
            "the agent",
        )?;
        let mut agent = Self {
            process,
            admin,
            log,
            ready_after: Duration::ZERO,
            status: Value::Null,
        };
        agent.wait_until_ready(start)?;
        agent.status = agent.ask_status()?;
        Ok(agent)
    }

    fn wait_until_ready(&mut self, start: Instant) -> anyhow::Result<()> {
        loop {
            self.check()?;
            if let Ok(answer) = http::get(self.admin, "/readyz")
                && answer.status == 200
            {
                self.ready_after = start.elapsed();
                return Ok(());
            }
            if start.elapsed() > READY_PATIENCE {
                bail!(
                    "the agent was not ready within {} s:\n{}",
                    READY_PATIENCE.as_secs(),
                    self.last_words()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn ask_status(&self) -> anyhow::Result<Value> {
        let answer = http::get(self.admin, "/api/v1/status")?;
        if answer.status != 200 {
            bail!("/api/v1/status answers {}: {}", answer.status, answer.body);
        }
        serde_json::from_str(&answer.body)
            .with_context(|| format!("/api/v1/status is no JSON: {}", answer.body))
    }

    /// A few lines for whoever watches.
    pub fn introduction(&self) -> String {
        format!(
            "process {}, ready after {} ms, http://{}/metrics\n{}",
            self.process.id(),
            self.ready_after.as_millis(),
            self.admin,
            self.last_words()
        )
    }

    /// Where a lane's producer sends to: the agent chose the port.
    pub fn url(&self, lane: &Lane) -> anyhow::Result<String> {
        let address = self.address(lane.name)?;
        Ok(format!("{}://{address}", lane.protocol.label()))
    }

    /// Where a listener is bound.
    pub fn address(&self, listener: &str) -> anyhow::Result<SocketAddr> {
        bound_address(&self.status, listener).with_context(|| {
            format!(
                "no address of {listener} in /api/v1/status: {}",
                self.status
            )
        })
    }

    pub fn metrics(&self) -> anyhow::Result<Metrics> {
        let answer = http::get(self.admin, "/metrics")?;
        if answer.status != 200 {
            bail!("/metrics answers {}", answer.status);
        }
        Metrics::parse(&answer.body).context("/metrics")
    }

    /// An error where it has ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.process.ended()? {
            bail!("the agent ended with {status}:\n{}", self.last_words());
        }
        Ok(())
    }

    /// The most memory it ever held, from /proc; `None` where /proc does not say.
    pub fn peak_memory_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib << 10)
    }

    /// SIGKILL.
    pub fn kill(self) {
        // Dropping a program that runs kills it and waits for its end.
        drop(self.process);
    }

    /// SIGTERM; it must end with 0.
    pub fn stop(self) -> anyhow::Result<()> {
        let start = Instant::now();
        let log = self.log;
        let status = self.process.terminate(STOP_PATIENCE)?;
        if !status.success() {
            bail!(
                "the agent ended with {status} after SIGTERM:\n{}",
                tail(&log)
            );
        }
        println!("stopped in {} ms", start.elapsed().as_millis());
        Ok(())
    }

    fn last_words(&self) -> String {
        tail(&self.log)
    }
}

/// The end of a log, indented.
fn tail(log: &Path) -> String {
    const LINES: usize = 12;
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let mut end = format!("  {}:", workspace::shown(log));
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        end.push_str("\n    ");
        end.push_str(line);
    }
    end
}

/// A port that was free a moment ago. The admin address must be known before anything can be asked.
pub fn free_port(address: Ipv4Addr) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((address, 0))
        .with_context(|| format!("cannot bind a port on {address}"))?;
    Ok(listener.local_addr()?)
}

/// Bytes that this user may still write where a folder is.
fn free_bytes(folder: &Path) -> anyhow::Result<u64> {
    let text = process::capture(
        Command::new("df")
            .args(["--block-size=1", "--output=avail"])
            .arg(folder),
    )?;
    text.lines()
        .last()
        .and_then(|line| line.trim().parse().ok())
        .with_context(|| format!("df says no number: {text:?}"))
}

/// What the journal may hold: the agent's default, or less on a small disk. The load writes some
/// 8 GB, and the files take a fifth of that; when the journal is full, TCP producers are told to try
/// later.
fn journal_max_size(free: u64) -> anyhow::Result<u64> {
    const DEFAULT: u64 = 8 << 30;
    const LEAST: u64 = 2 << 30;
    let size = (free / 2).min(DEFAULT);
    if size < LEAST {
        bail!(
            "the demo needs 4 GiB of free disk under {}, and there are {} MiB",
            workspace::shown(&workspace::target()),
            free >> 20
        );
    }
    Ok(size)
}

/// Every lane has a listener of its own; port 0 lets the kernel choose.
fn configuration(
    data: &Path,
    admin: SocketAddr,
    must_have_gate: bool,
    journal_max_size: u64,
) -> String {
    let mut text = format!(
        "# Written by `cargo xtask demo`.\n\
         data_dir = \"{}\"\n\n\
         [admin]\naddress = \"{admin}\"\n\n\
         [journal]\nmax_size = \"{}MiB\"\nmin_free = \"1GiB\"\n\n\
         [gate]\nmode = \"{}\"\n\n\
         [sinks.files]\n\
         type = \"file\"\n\
         format = \"avro\"\n\
         compression = \"zstd\"\n\
         rotate = {{ size = \"64MiB\", age = \"5m\" }}\n\
         keep = {{ size = \"50GiB\", age = \"7d\" }}\n",
        data.display(),
        journal_max_size >> 20,
        if must_have_gate { "required" } else { "auto" },
    );
    for lane in LANES {
        let protocol = lane.protocol.label();
        write!(
            text,
            "\n[listeners.{}]\naddress = \"{protocol}://127.0.0.1:0\"\n",
            lane.name
        )
        .expect("a String takes everything");
        if lane.protocol == Protocol::Udp {
            text.push_str("receive_buffer = \"16MiB\"\n");
        }
    }
    text
}

/// The address that a listener is bound to.
fn bound_address(status: &Value, listener: &str) -> Option<SocketAddr> {
    status["listeners"]
        .as_array()?
        .iter()
        .find(|entry| entry["name"] == listener)?["address"]
        .as_str()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_disk_gets_a_small_journal() {
        assert_eq!(journal_max_size(100 << 30).unwrap(), 8 << 30);
        assert_eq!(journal_max_size(6 << 30).unwrap(), 3 << 30);
        assert!(journal_max_size((4 << 30) - 1).is_err());
    }

    #[test]
    fn a_listener_is_found_by_its_name() {
        let status = serde_json::json!({"listeners": [
            {"name": "tcp-json", "protocol": "tcp", "address": "127.0.0.1:4001"},
            {"name": "udp-json", "protocol": "udp", "address": "127.0.0.1:4002"},
        ]});
        assert_eq!(
            bound_address(&status, "udp-json"),
            Some("127.0.0.1:4002".parse().unwrap())
        );
        assert_eq!(bound_address(&status, "udp"), None);
        assert_eq!(bound_address(&Value::Null, "udp"), None);
    }
}
