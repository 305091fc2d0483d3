//! `penstock load`, as a child on its own core.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;

use super::GENERATOR_CORE;
use super::case::Case;

/// What of its report is looked at.
#[derive(Debug, Deserialize)]
pub struct Sent {
    pub records_sent: u64,
    pub frames_sent: u64,
    pub bytes_sent: u64,
    pub records_acknowledged: u64,
    pub frames_tried_later: u64,
    pub seconds: f64,
    pub ack_latency: Option<AckLatency>,
    /// The generator's own.
    pub cpu_seconds: f64,
}

#[derive(Debug, Deserialize)]
pub struct AckLatency {
    pub p50_seconds: f64,
    pub p99_seconds: f64,
}

pub struct Load<'a> {
    pub binary: &'a Path,
    pub case: Case,
    pub to: SocketAddr,
    pub time: Duration,
    pub acknowledge: bool,
    pub lines: Option<&'a Path>,
}

impl Load<'_> {
    /// Sends flat out until the time is over. The generator ends by itself: after the time and at
    /// most 10 s more for what is not acknowledged.
    pub fn run(&self) -> anyhow::Result<Sent> {
        let scheme = self.case.listener();
        let mut command = Command::new(self.binary);
        command
            .arg("load")
            .arg(format!("--to={scheme}://{}", self.to))
            .args(self.case.load_arguments())
            .arg("--rate=max")
            .arg(format!("--for={}ms", self.time.as_millis()))
            .arg(format!("--cpu={GENERATOR_CORE}"))
            .arg("--report=json")
            .stdin(Stdio::null());
        if !self.acknowledge && !self.case.is_udp() {
            command.arg("--no-ack");
        }
        if let Some(lines) = self.lines {
            command.arg("--lines").arg(lines);
        }
        let output = command.output().context("start penstock load")?;
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            bail!("penstock load: {}: {}", output.status, complaint.trim());
        }
        serde_json::from_slice(&output.stdout).context("the report of penstock load")
    }
}
