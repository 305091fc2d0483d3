//! `penstock load`, as a child on its own core.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use serde::Deserialize;

use super::GENERATOR_CORE;

/// What of its report is looked at.
#[derive(Debug, Deserialize)]
pub struct Sent {
    pub records_sent: u64,
    pub frames_sent: u64,
    pub bytes_sent: u64,
    pub records_acknowledged: u64,
    pub frames_tried_later: u64,
    /// By reason.
    pub hostile_frames_sent: BTreeMap<String, u64>,
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

/// A generator that runs. It ends by itself: after its time and at most 10 s more for what is not
/// acknowledged.
pub struct Generator {
    child: Child,
}

impl Generator {
    /// `to`: `udp://` or `tcp://` and an address.
    pub fn start(
        binary: &Path,
        (scheme, to): (&str, SocketAddr),
        arguments: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>,
    ) -> anyhow::Result<Self> {
        let child = Command::new(binary)
            .arg("load")
            .arg(format!("--to={scheme}://{to}"))
            .args(arguments)
            .arg(format!("--cpu={GENERATOR_CORE}"))
            .arg("--report=json")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start penstock load")?;
        Ok(Self { child })
    }

    pub fn finish(self) -> anyhow::Result<Sent> {
        let output = self.child.wait_with_output().context("penstock load")?;
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            bail!("penstock load: {}: {}", output.status, complaint.trim());
        }
        serde_json::from_slice(&output.stdout).context("the report of penstock load")
    }
}
