//! `cargo xtask demo`: the whole of it in about a minute, on this host's own logs.
//!
//! The plan:
//! 1. See to what the host needs, build the eBPF object and the agent in release.
//! 2. Start the agent on loopback, with one listener per lane, so that every count can be told
//!    apart. A lane is a protocol, an encoding and a compression. As root the gate must attach, or the demo fails.
//! 3. Collect this host's logs and ship them through each lane, one lane after the other.
//! 4. Ten seconds of generated load: TCP flat out and UDP at a rate, at the same time.
//! 5. Wait until the sink has caught up, then read the agent's counters and stop it by SIGTERM.
//! 6. Read the files back with fastavro, which knows nothing of us, and count records per lane.
//! 7. Lay the three books side by side: what the producers say, what the agent says, what the files
//!    hold. Only where they agree for every lane is every record accounted for.
//! 8. Flood an agent, its gate off and then on, beside a sender that must lose nothing.
//! 9. Kill an agent twice while numbered lines come in, and find each line once in the files.
//!
//! Everything is written under target/demo, which is emptied first.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::build_ebpf;
use crate::host::{self, Install};
use crate::metrics_text::Metrics;
use crate::outcome::Unavailable;
use crate::process::{self, Background};
use crate::run::build_release;
use crate::table::grouped;
use crate::workspace;

mod account;
mod agent;
mod crash;
mod files;
mod flood;
mod http;
mod lane;
mod logs;

use account::{Account, Seen, Sent};
use agent::Agent;
use lane::{LANES, Lane, Protocol, Traffic};

/// Build everything, ship this host's own logs and ten seconds of load, and account for each record.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Seconds of generated load.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    load_seconds: u64,
}

/// How long the sink may take to catch up with the load.
const DRAIN_PATIENCE: Duration = Duration::from_secs(180);
/// How long one lane may take to ship the logs; they are at most 50 MB.
const SEND_PATIENCE: Duration = Duration::from_secs(180);

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let install = Install::if_root();
    println!("==> what this host needs");
    host::ensure(&[host::C_COMPILER, host::C_LIBRARY_HEADERS], install)?;
    let python = host::python(install)?;
    println!("==> build the eBPF object");
    let has_gate = build_gate(install)?;
    println!("==> build the agent (release)");
    let binary = build_release()?;

    let folder = workspace::target().join("demo");
    empty(&folder)?;
    println!("==> start the agent");
    let start = Instant::now();
    let mut agent = Agent::start(&binary, &folder, has_gate && process::is_root())?;
    println!("{}", agent.introduction());

    println!("==> collect this host's logs");
    let logs = logs::collect(&folder.join("logs"))?;
    println!("{logs}");

    let mut books = Vec::new();
    println!("==> ship them through every lane");
    for lane in LANES.iter().filter(|lane| lane.traffic == Traffic::Logs) {
        let sent = ship(&binary, &folder, &agent, lane, &logs.files)?;
        println!("  {:<17} {sent}", lane.name);
        books.push((lane, sent));
    }
    println!("==> {} s of generated load", arguments.load_seconds);
    books.extend(generate(
        &binary,
        &folder,
        &mut agent,
        arguments.load_seconds,
    )?);

    println!("==> let the sink catch up, stop the agent");
    let metrics = drain(&mut agent)?;
    let memory = agent.peak_memory_bytes();
    agent.stop()?;

    println!("==> read the files back");
    let records = folder.join("data/records");
    let stored = files::count(&python, &records)?;
    println!("{stored}");

    let accounts: Vec<Account> = books
        .iter()
        .map(|(lane, sent)| Account {
            lane,
            sent: sent.clone(),
            seen: Seen::of(&metrics, lane.name),
            stored: stored.of(lane.name),
        })
        .collect();
    println!("\n{}", account::table(&accounts));
    if let Some(bytes) = memory {
        println!(
            "The agent's memory peaked at {} MiB; from start to read back it took {} s.",
            bytes >> 20,
            start.elapsed().as_secs()
        );
    }
    let differences = account::differences(&accounts, &metrics, stored.records);
    if !differences.is_empty() {
        println!("NOT every record is accounted for:");
        for difference in &differences {
            println!("  {difference}");
        }
        println!(
            "The agent's log: {}",
            workspace::shown(&agent::log(&folder))
        );
        bail!("{} sums do not agree", differences.len());
    }
    println!("Every record accounted for.\n");

    if has_gate && process::is_root() {
        flood::act(&binary, &folder.join("flood"))?;
    } else {
        println!("==> no flood: without the gate in the kernel there is nothing to compare\n");
    }
    crash::act(&binary, &folder.join("crash"), &python)?;
    files::how_to_open(&python, &binary, &records, &stored);
    Ok(())
}

/// Whether there is an object to embed. A plain user without a tool chain sees the demo without.
fn build_gate(install: Install) -> anyhow::Result<bool> {
    match build_ebpf::build(install) {
        Ok(_) => Ok(true),
        Err(error) if process::is_root() || error.downcast_ref::<Unavailable>().is_none() => {
            Err(error)
        }
        Err(error) => {
            println!("{error:#}");
            println!(
                "Going on WITHOUT eBPF: the gate runs in user space and the kernel's drops are not counted."
            );
            Ok(false)
        }
    }
}

/// Removes what an earlier demo left.
fn empty(folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// Ships the logs through one lane with `penstock send`.
fn ship(
    binary: &Path,
    folder: &Path,
    agent: &Agent,
    lane: &Lane,
    logs: &[PathBuf],
) -> anyhow::Result<Sent> {
    let mut command = Command::new(binary);
    command
        .args(["send", "--to", &agent.url(lane)?])
        .args(lane.encoding_options())
        .args(["--report", "json"])
        .args(logs);
    let mut producer = Producer::start(command, folder, lane)?;
    producer.finish(SEND_PATIENCE)
}

/// Runs all load lanes at the same time, showing each second how far they are.
fn generate(
    binary: &Path,
    folder: &Path,
    agent: &mut Agent,
    seconds: u64,
) -> anyhow::Result<Vec<(&'static Lane, Sent)>> {
    let mut producers = Vec::new();
    for lane in LANES {
        let Traffic::Load {
            rate,
            connections,
            batch,
        } = lane.traffic
        else {
            continue;
        };
        let mut command = Command::new(binary);
        command
            .args(["load", "--to", &agent.url(lane)?])
            .args(lane.encoding_options())
            .args(["--rate", rate, "--for", &format!("{seconds}s")])
            .args(["--batch", batch, "--report", "json"]);
        if lane.protocol == Protocol::Tcp {
            command.args(["--connections", connections]);
        }
        producers.push((lane, Producer::start(command, folder, lane)?));
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_secs(1));
        agent.check()?;
        let metrics = agent.metrics()?;
        let taken: Vec<String> = producers
            .iter()
            .map(|(lane, _)| {
                let count = metrics
                    .count(
                        "penstock_accepted_records_total",
                        &[("listener", lane.name)],
                    )
                    .unwrap_or(0);
                format!("{} {}", lane.name, grouped(count))
            })
            .collect();
        println!(
            "  {:>3} s  accepted: {}",
            start.elapsed().as_secs(),
            taken.join(", ")
        );
    }
    let mut books = Vec::new();
    for (lane, mut producer) in producers {
        let sent = producer.finish(DRAIN_PATIENCE)?;
        println!("  {:<17} {sent}", lane.name);
        books.push((lane, sent));
    }
    Ok(books)
}

/// A running `penstock send` or `penstock load`; its report goes to a file beside its messages.
struct Producer {
    process: Background,
    name: &'static str,
    report: PathBuf,
    messages: PathBuf,
}

impl Producer {
    fn start(mut command: Command, folder: &Path, lane: &Lane) -> anyhow::Result<Self> {
        let report = folder.join(format!("{}.json", lane.name));
        let messages = folder.join(format!("{}.log", lane.name));
        let create = |path: &Path| {
            std::fs::File::create(path).with_context(|| format!("cannot create {}", path.display()))
        };
        command
            .stdin(Stdio::null())
            .stdout(create(&report)?)
            .stderr(create(&messages)?);
        Ok(Self {
            process: Background::start(&mut command, lane.name)?,
            name: lane.name,
            report,
            messages,
        })
    }

    fn finish(&mut self, patience: Duration) -> anyhow::Result<Sent> {
        let messages = || std::fs::read_to_string(&self.messages).unwrap_or_default();
        let Some(status) = self.process.wait(patience)? else {
            bail!(
                "the producer of {} did not end within {} s: {}",
                self.name,
                patience.as_secs(),
                messages().trim()
            );
        };
        // A producer ends with an error where a record was refused, or not settled. That is for the
        // books to say; only without a report there is nothing to lay beside the others.
        let report = std::fs::read_to_string(&self.report)
            .with_context(|| format!("cannot read {}", self.report.display()))?;
        if !status.success() {
            println!("  {}: {status}: {}", self.name, messages().trim());
        }
        Sent::parse(&report)
            .with_context(|| format!("the producer of {} left no report", self.name))
    }
}

/// Waits until what was accepted is durable and delivered, and nothing more comes in; then the
/// agent's counters are its last word.
fn drain(agent: &mut Agent) -> anyhow::Result<Metrics> {
    let deadline = Instant::now() + DRAIN_PATIENCE;
    let mut next_line = Instant::now() + Duration::from_secs(2);
    let mut before = None;
    loop {
        agent.check()?;
        let metrics = agent.metrics()?;
        let accepted = metrics.count("penstock_accepted_records_total", &[]);
        let lag = metrics.count("penstock_sink_lag_records", &[]);
        let received = metrics.count("penstock_received_datagrams_total", &[]);
        let journalled = metrics.count("penstock_journal_appended_records_total", &[]);
        let lost = metrics.count("penstock_journal_lost_records_total", &[]);
        let now = (accepted, received);
        let is_settled = lag == Some(0)
            && accepted == Some(journalled.unwrap_or(0) + lost.unwrap_or(0))
            && before == Some(now);
        if is_settled {
            return Ok(metrics);
        }
        before = Some(now);
        if Instant::now() >= deadline {
            bail!(
                "the agent did not come to rest within {} s: {accepted:?} records accepted, \
                 {journalled:?} journalled, {lag:?} not yet delivered",
                DRAIN_PATIENCE.as_secs()
            );
        }
        if Instant::now() >= next_line {
            println!(
                "  {} records not yet delivered",
                grouped(lag.unwrap_or_default())
            );
            next_line += Duration::from_secs(2);
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}
