//! The act with the kill: a million numbered lines, `kill -9` twice in the middle of them, and each
//! line stands once in the files.

use std::io::{BufWriter, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use super::agent::{Agent, free_port};
use crate::process;
use crate::table::{Align, Table, grouped};
use crate::workspace;

const COUNT: &str = include_str!("crash.py");

/// How many lines are sent, and how many at once: 250,000 a second, so that there is a middle to
/// kill in.
const LINES: u64 = 1_000_000;
const LINES_AT_ONCE: u64 = 2_500;
const PAUSE: Duration = Duration::from_millis(10);
/// When the agent is killed, each time after its start.
const KILL_AFTER: [Duration; 2] = [Duration::from_millis(1300), Duration::from_millis(900)];
/// Not 127.0.0.1, where connections begin: while the agent is down, one that goes out could be given
/// the very port that it asks for, and meet itself.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 46, 80, 1);
const PORT_PATIENCE: Duration = Duration::from_secs(10);

pub fn act(binary: &Path, folder: &Path, python: &Path) -> anyhow::Result<()> {
    println!(
        "==> kill -9 the agent twice while {} lines come in",
        grouped(LINES)
    );
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let admin = free_port(Ipv4Addr::LOCALHOST)?;
    let listener = free_port(ADDRESS)?;
    let configuration = configuration(folder, admin, listener);
    let start = || Agent::start_with(binary, folder, admin, &configuration);

    let mut agent = start()?;
    let report = std::thread::scope(|scope| {
        let producer = scope.spawn(|| send(binary, listener));
        for after in KILL_AFTER {
            std::thread::sleep(after);
            agent.kill();
            wait_until_free(listener)?;
            agent = start()?;
        }
        let report = producer.join().expect("the producer's thread ends");
        agent.stop()?;
        report
    })?;
    let stored = count(python, &folder.join("data/records"))?;

    let report: Value = serde_json::from_str(&report)
        .with_context(|| format!("the producer's report: {report}"))?;
    let number = |value: &Value, name: &str| {
        let number = value[name].as_u64();
        number.with_context(|| format!("no number {name}"))
    };
    let acknowledged = number(&report, "records_acknowledged")?;
    let (records, lines) = (number(&stored, "records")?, number(&stored, "lines")?);
    let mut table = Table::new(&[
        ("kill -9", Align::Right),
        ("lines", Align::Right),
        ("acknowledged", Align::Right),
        ("frames sent again", Align::Right),
        ("stored", Align::Right),
        ("missing", Align::Right),
        ("stored twice", Align::Right),
    ]);
    table.row(vec![
        KILL_AFTER.len().to_string(),
        grouped(LINES),
        grouped(acknowledged),
        grouped(number(&report, "frames_resent")?),
        grouped(records),
        grouped(LINES.saturating_sub(lines)),
        grouped(number(&stored, "twice")?),
    ]);
    println!("\n{table}");
    if acknowledged != LINES || records != LINES || lines != LINES {
        bail!("acknowledged, stored and each once: these are not the same");
    }
    println!("Acknowledged = stored, each once.\n");
    Ok(())
}

/// Sends the lines, and sends again what is not acknowledged, until all is; the report.
fn send(binary: &Path, to: SocketAddr) -> anyhow::Result<String> {
    let mut command = Command::new(binary);
    command
        .args(["send", "--to", &format!("tcp://{to}")])
        .args(["--service", "crash", "--report", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", process::shown(&command)))?;
    let lines = child.stdin.take().expect("standard input is piped");
    let written = write_lines(lines);
    let output = child.wait_with_output().context("cannot wait for `send`")?;
    written.context("cannot hand lines to `send`")?;
    if !output.status.success() {
        bail!("{} ended with {}", process::shown(&command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn write_lines(lines: impl Write) -> std::io::Result<()> {
    let mut lines = BufWriter::new(lines);
    for number in 0..LINES {
        writeln!(lines, "line {number} of those that a kill -9 does not take")?;
        if number % LINES_AT_ONCE == 0 {
            lines.flush()?;
            std::thread::sleep(PAUSE);
        }
    }
    lines.flush()
}

/// The kernel takes the rings of a killed process apart in its own time, and the listening sockets
/// stand in them as long.
fn wait_until_free(address: SocketAddr) -> anyhow::Result<()> {
    let deadline = Instant::now() + PORT_PATIENCE;
    while let Err(error) = TcpListener::bind(address) {
        if Instant::now() >= deadline {
            bail!("{address} is not free again after the kill: {error}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// How often each line stands in the files, by fastavro.
fn count(python: &Path, records: &Path) -> anyhow::Result<Value> {
    let result = process::capture(
        Command::new(python)
            .args(["-c", COUNT, &LINES.to_string()])
            .arg(records),
    )?;
    serde_json::from_str(&result).with_context(|| {
        format!(
            "the reader's result on {}: {result}",
            workspace::shown(records)
        )
    })
}

fn configuration(folder: &Path, admin: SocketAddr, listener: SocketAddr) -> String {
    format!(
        "# Written by `cargo xtask demo`.\n\
         data_dir = \"{}\"\n\n\
         [admin]\naddress = \"{admin}\"\n\n\
         [journal]\nmax_size = \"1GiB\"\nmin_free = \"64MiB\"\n\n\
         [gate]\nmode = \"off\"\n\n\
         [listeners.crash]\naddress = \"tcp://{listener}\"\n\n\
         [sinks.files]\n\
         type = \"file\"\n\
         rotate = {{ size = \"1MiB\", age = \"5m\" }}\n",
        folder.join("data").display(),
    )
}
