//! One agent: one shard, everything on the receiver's core, its data in a folder of its own.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use super::samples::Samples;
use super::{RECEIVER_CORE, core_set, http};

/// A start that takes longer has failed.
const START_TIME_MAX: Duration = Duration::from_secs(10);
const READY_POLL: Duration = Duration::from_millis(2);
/// A clean stop without a sink: what is queued, synced.
const STOP_TIME_MAX: Duration = Duration::from_secs(20);

pub struct Plan<'a> {
    pub binary: &'a Path,
    /// Kept from one start to the next.
    pub folder: &'a Path,
    /// The value of `io`: the kernel interface of its shard.
    pub io: &'a str,
    /// Everything but that, the data folder, the shards and the admin address.
    pub tables: String,
}

pub struct Agent {
    child: Child,
    log: PathBuf,
    pub admin: SocketAddr,
    /// From the start of the process to the first "ready".
    pub start_to_ready: Duration,
    status: Value,
}

impl Agent {
    pub fn start(plan: &Plan<'_>) -> anyhow::Result<Self> {
        let admin = free_address()?;
        let config = plan.folder.join("penstock.toml");
        fs::write(&config, configuration(plan, admin)).context("write the configuration")?;
        let log = plan.folder.join("log");
        let mut command = Command::new(plan.binary);
        command
            .args(["run", "--log=warn", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        // SAFETY: between fork and exec the closure makes one system call on its own stack.
        unsafe { command.pre_exec(|| core_set::confine(RECEIVER_CORE)) };
        let started = Instant::now();
        let child = command.spawn().context("start penstock run")?;
        let mut this = Self {
            child,
            log,
            admin,
            start_to_ready: Duration::ZERO,
            status: Value::Null,
        };
        while http::get(admin, "/readyz").is_err() {
            if this.child.try_wait()?.is_some() || started.elapsed() > START_TIME_MAX {
                bail!("the agent did not become ready: {}", this.log());
            }
            std::thread::sleep(READY_POLL);
        }
        this.start_to_ready = started.elapsed();
        this.status = serde_json::from_str(&http::get(admin, "/api/v1/status")?)?;
        Ok(this)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said so far: warnings and errors.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Where a listener is bound, by its name.
    pub fn address(&self, listener: &str) -> anyhow::Result<SocketAddr> {
        let address = &self.listener(listener)?["address"];
        let text = address.as_str().context("an address is text")?;
        Ok(text.parse()?)
    }

    pub fn gate_attached(&self, listener: &str) -> anyhow::Result<bool> {
        Ok(self.listener(listener)?["gate_attached"] == true)
    }

    fn listener(&self, name: &str) -> anyhow::Result<&Value> {
        let listeners = self.status["listeners"].as_array();
        let found = listeners.and_then(|all| all.iter().find(|each| each["name"] == name));
        found.with_context(|| format!("no listener {name} in {}", self.status))
    }

    pub fn samples(&self) -> anyhow::Result<Samples> {
        Samples::scrape(self.admin)
    }

    /// A clean stop; what is not delivered stays in the journal.
    pub fn stop(mut self) -> anyhow::Result<()> {
        // SAFETY: no pointers; the child has not been waited for, so its id is still its own.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let until = Instant::now() + STOP_TIME_MAX;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                anyhow::ensure!(
                    status.success(),
                    "the agent ended with {status}: {}",
                    self.log()
                );
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!(
            "the agent did not stop within {STOP_TIME_MAX:?}: {}",
            self.log()
        )
    }
}

/// What was measured is read by then, and its data goes: there is nothing to wait for.
impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(plan: &Plan<'_>, admin: SocketAddr) -> String {
    let (data, tables) = (plan.folder.join("data"), &plan.tables);
    format!(
        "data_dir = \"{}\"\nshards = 1\nio = \"{}\"\n[admin]\naddress = \"{admin}\"\n{tables}",
        data.display(),
        plan.io,
    )
}

/// The agent says where its listeners are on its admin address, so that one must be known before.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
