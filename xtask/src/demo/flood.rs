//! The act with the flood: a well-behaved sender beside three that send all they can, first without
//! the gate in the kernel, then with it.
//!
//! The well-behaved sender's frames are Protobuf, those of the others Avro (from denied addresses),
//! JSON (beyond their limit) and garbage: so the agent's own counters tell them apart. All senders
//! stay on one core, as if they were other hosts: four that send all they can would leave the agent
//! none of two.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use super::agent::{Agent, free_port};
use crate::metrics_text::Metrics;
use crate::process::Background;
use crate::table::{Align, Table, grouped};

const SECONDS: u64 = 3;
const GOOD_FRAMES_PER_SECOND: u64 = 50_000;
/// A generator ends by itself: after its time, and the well-behaved one once it has sent all.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is queued when the last sender ends is taken within milliseconds.
const QUIET: Duration = Duration::from_millis(300);

const GATE_OFF: &str = "mode = \"off\"\n";
const GATE_ON: &str = "mode = \"required\"\n\
     deny = [\"127.66.0.0/16\"]\n\
     newcomers = { rate = \"1000/s\", burst = \"1000\" }\n\
     limits.\"127.77.0.0/16\" = { rate = \"100/s\", burst = \"100\" }\n";

const FLOODS: [&[&str]; 3] = [
    &["--encoding=avro", "--from=127.66.0.0/24", "--sources=16"],
    &["--encoding=json", "--from=127.77.0.0/24", "--sources=16"],
    &[
        "--hostile=100",
        "--hostile-reasons=bad_magic",
        "--from=127.88.0.0/24",
        "--sources=16",
    ],
];

pub fn act(binary: &Path, folder: &Path) -> anyhow::Result<()> {
    println!(
        "==> {} well-behaved frames a second beside three floods, for {SECONDS} s",
        grouped(GOOD_FRAMES_PER_SECOND)
    );
    let mut table = Table::new(&[
        ("gate", Align::Left),
        ("well-behaved", Align::Right),
        ("stored", Align::Right),
        ("lost", Align::Right),
        ("hostile", Align::Right),
        ("refused in the kernel", Align::Right),
        ("kernel drops", Align::Right),
    ]);
    let mut lost = 0;
    for (name, gate) in [("off", GATE_OFF), ("on", GATE_ON)] {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let seen = run(binary, &folder, gate)?;
        lost = seen.good_sent - seen.good_stored;
        table.row(vec![
            name.to_owned(),
            grouped(seen.good_sent),
            grouped(seen.good_stored),
            grouped(lost),
            grouped(seen.hostile_sent),
            grouped(if name == "on" { seen.refused } else { 0 }),
            grouped(seen.kernel_drops),
        ]);
        // A few gigabytes that nobody reads.
        std::fs::remove_dir_all(folder.join("data")).context("cannot remove the flood's data")?;
    }
    println!("\n{table}");
    match lost {
        0 => println!("With the gate on, the well-behaved sender lost nothing.\n"),
        lost if lost < GOOD_FRAMES_PER_SECOND * SECONDS / 100 => println!(
            "With the gate on, the well-behaved sender lost {lost} frames, each of them counted: \
             this host gave the agent too little time to read them.\n"
        ),
        lost => bail!("with the gate on the well-behaved sender lost {lost} frames"),
    }
    Ok(())
}

/// Datagrams, each one a frame or garbage.
struct Seen {
    good_sent: u64,
    good_stored: u64,
    hostile_sent: u64,
    /// By the gate, for whatever reason.
    refused: u64,
    kernel_drops: u64,
}

fn run(binary: &Path, folder: &Path, gate: &str) -> anyhow::Result<Seen> {
    let admin = free_port(Ipv4Addr::LOCALHOST)?;
    let agent = Agent::start_with(binary, folder, admin, &configuration(folder, admin, gate))?;
    let to = agent.address("apps")?;
    let mut floods = Vec::new();
    for (number, arguments) in FLOODS.iter().enumerate() {
        let time = format!("--for={SECONDS}s");
        let arguments = arguments.iter().copied().chain(["--rate=max", &time]);
        floods.push(Sender::start(
            binary,
            folder,
            &format!("flood-{number}"),
            to,
            arguments,
        )?);
    }
    let records = format!("--records={}", GOOD_FRAMES_PER_SECOND * SECONDS);
    let rate = format!("--rate={GOOD_FRAMES_PER_SECOND}");
    // Beside floods it may come late: it sends them all the same.
    let time = format!("--for={}s", 10 * SECONDS);
    let arguments = ["--encoding=protobuf", "--batch=1", &rate, &records, &time];
    let good_sent = Sender::start(binary, folder, "good", to, arguments)?.finish()?;
    let mut hostile_sent = 0;
    for flood in floods {
        hostile_sent += flood.finish()?;
    }
    let metrics = settled(&agent)?;
    let count = |name: &str, labels: &[(&str, &str)]| {
        let count = metrics.count(name, labels);
        count.with_context(|| format!("no {name}"))
    };
    let seen = Seen {
        good_sent,
        good_stored: count(
            "penstock_accepted_frames_total",
            &[("encoding", "protobuf")],
        )?,
        hostile_sent,
        refused: count("penstock_gate_datagrams_total", &[])?
            - count("penstock_gate_datagrams_total", &[("verdict", "passed")])?,
        kernel_drops: count("penstock_kernel_drops_total", &[])?,
    };
    agent.stop()?;
    Ok(seen)
}

/// The counters, once no datagram has moved for a while.
fn settled(agent: &Agent) -> anyhow::Result<Metrics> {
    let mut before = None;
    loop {
        let metrics = agent.metrics()?;
        let now = (
            metrics.count("penstock_received_datagrams_total", &[]),
            metrics.count("penstock_kernel_drops_total", &[]),
        );
        if before == Some(now) {
            return Ok(metrics);
        }
        before = Some(now);
        std::thread::sleep(QUIET);
    }
}

/// A `penstock load` that runs.
struct Sender {
    process: Background,
    report: std::path::PathBuf,
}

impl Sender {
    fn start<'a>(
        binary: &Path,
        folder: &Path,
        name: &str,
        to: SocketAddr,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> anyhow::Result<Self> {
        let report = folder.join(format!("{name}.json"));
        let output = std::fs::File::create(&report)
            .with_context(|| format!("cannot create {}", report.display()))?;
        let mut command = Command::new(binary);
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        command
            .args(["load", "--report=json", &format!("--to=udp://{to}")])
            .arg(format!("--cpu={}", cores - 1))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(Stdio::inherit());
        let process = Background::start(&mut command, "a sender of the flood")?;
        Ok(Self { process, report })
    }

    /// How many datagrams it sent.
    fn finish(mut self) -> anyhow::Result<u64> {
        match self.process.wait(PATIENCE)? {
            Some(status) if status.success() => {}
            Some(status) => bail!("a sender of the flood ended with {status}"),
            None => bail!("a sender of the flood did not end"),
        }
        let text = std::fs::read_to_string(&self.report)
            .with_context(|| format!("cannot read {}", self.report.display()))?;
        let report: Value = serde_json::from_str(&text).context("a sender's report")?;
        let frames = report["frames_sent"].as_u64().context("no frames_sent")?;
        let hostile = report["hostile_frames_sent"].as_object();
        let hostile = hostile.context("no hostile_frames_sent")?.values();
        Ok(frames + hostile.filter_map(Value::as_u64).sum::<u64>())
    }
}

fn configuration(folder: &Path, admin: SocketAddr, gate: &str) -> String {
    format!(
        "# Written by `cargo xtask demo`.\n\
         data_dir = \"{}\"\n\n\
         [admin]\naddress = \"{admin}\"\n\n\
         [journal]\nmax_size = \"2GiB\"\nmin_free = \"64MiB\"\non_full = \"drop_oldest\"\n\n\
         [listeners.apps]\naddress = \"udp://127.0.0.1:0\"\nreceive_buffer = \"16MiB\"\n\n\
         [sinks.files]\ntype = \"file\"\nenabled = false\n\n\
         [gate]\n{gate}",
        folder.join("data").display(),
    )
}
