//! One measurement of one contender.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde::Serialize;

use super::bare::Bare;
use super::case::{Case, Contender, Io};
use crate::rig::agent::{Agent, Plan};
use crate::rig::drain::drain;
use crate::rig::generator::{Generator, Sent};
use crate::rig::process;

/// How often a sink that catches up is looked at.
const CATCH_UP_POLL: Duration = Duration::from_millis(50);
/// Fewer commits than this (each is 64 MiB of journal) say nothing of a rate.
const CATCH_UP_COMMITS_MIN: usize = 4;

/// What all measurements have in common.
pub struct Stage {
    pub binary: PathBuf,
    pub data: PathBuf,
    pub load_time: Duration,
    pub catch_up_time: Duration,
    pub lines: Option<PathBuf>,
    pub journal_max: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// TCP to the agent: acknowledged; UDP: accepted; bare receiver: arrived.
    pub records_per_second: f64,
    /// What the receiver was handed.
    pub bytes_per_second: f64,
    /// Of the receiver: the whole agent, its sink included.
    pub cpu_seconds_per_million: f64,
    /// Of the generator's core, how much it used: near 1 it may be what limits.
    pub generator_share: f64,
    pub agent: Option<AgentFigures>,
    pub udp: Option<UdpBooks>,
    pub catch_up: Option<CatchUp>,
}

#[derive(Clone, Debug, Serialize)]
pub struct AgentFigures {
    pub ack_p50_ms: Option<f64>,
    pub ack_p99_ms: Option<f64>,
    pub memory_peak_bytes: u64,
    pub start_to_ready_ms: f64,
    pub gate_attached: bool,
    /// Of all its CPU time, how much was the shard's.
    pub shard_cpu_share: f64,
    /// Delivered by the sink while the load lasted, per second.
    pub sink_records_per_second: f64,
    pub receive_pool_exhausted: u64,
}

/// Where each datagram went, each one a frame.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct UdpBooks {
    pub sent: u64,
    pub accepted: u64,
    /// Only of the agent: the bare receiver cannot tell.
    pub counted: Option<UdpLosses>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct UdpLosses {
    /// By the socket, for lack of room.
    pub kernel_drops: u64,
    /// In the gate, or by the shard.
    pub refused: u64,
}

impl UdpBooks {
    pub fn lost_percent(&self) -> f64 {
        (self.sent - self.accepted.min(self.sent)) as f64 / self.sent as f64 * 100.0
    }

    /// What was sent and not accepted stands in a counter, to the last datagram.
    pub fn every_loss_counted(&self) -> Option<bool> {
        let counted = self.counted?;
        Some(self.sent == self.accepted + counted.kernel_drops + counted.refused)
    }
}

/// A sink that has the core to itself, reading from disk.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CatchUp {
    pub records_per_second: f64,
    pub cpu_seconds_per_million: f64,
    /// Still to be delivered when the time was over.
    pub lag_records: u64,
}

impl Measurement {
    /// For the line that shows progress.
    pub fn summary(&self) -> String {
        let mut text = format!(
            "{:>6.2} M records/s {:>8.1} MB/s",
            self.records_per_second / 1e6,
            self.bytes_per_second / 1e6
        );
        if let Some(udp) = &self.udp {
            text += &format!("  {:.2} % lost", udp.lost_percent());
            match udp.every_loss_counted() {
                Some(true) => text += ", every loss counted",
                Some(false) => text += &format!(", NOT EVERY LOSS COUNTED: {udp:?}"),
                None => {}
            }
        }
        if let Some(catch_up) = &self.catch_up {
            let millions = catch_up.records_per_second / 1e6;
            text += &format!("  then the sink {millions:.2} M records/s");
        }
        text
    }
}

impl Stage {
    /// The agent's configuration, but for where it lives.
    fn tables(&self, sink: bool) -> String {
        format!(
            "[journal]\nmax_size = \"{}MiB\"\nmin_free = \"1GiB\"\n\
             [listeners.udp]\naddress = \"udp://127.0.0.1:0\"\n\
             [listeners.tcp]\naddress = \"tcp://127.0.0.1:0\"\n\
             [sinks.files]\ntype = \"file\"\nenabled = {sink}\n",
            self.journal_max >> 20,
        )
    }

    /// `catch_up`: afterwards the sink alone is timed.
    pub fn measure(
        &self,
        case: Case,
        contender: Contender,
        catch_up: bool,
    ) -> anyhow::Result<Measurement> {
        match contender {
            Contender::Bare => self.bare(case),
            Contender::SinkIdle(io) => self.agent(case, io, false, catch_up),
            Contender::SinkRunning(io) => self.agent(case, io, true, false),
        }
    }

    fn load(
        &self,
        case: Case,
        to: std::net::SocketAddr,
        acknowledge: bool,
    ) -> anyhow::Result<Sent> {
        let scheme = case.listener();
        let mut arguments: Vec<OsString> = case.load_arguments().iter().map(Into::into).collect();
        arguments.push("--rate=max".into());
        arguments.push(format!("--for={}ms", self.load_time.as_millis()).into());
        if !acknowledge && !case.is_udp() {
            arguments.push("--no-ack".into());
        }
        if let Some(lines) = &self.lines {
            arguments.extend(["--lines".into(), lines.into()]);
        }
        Generator::start(&self.binary, (scheme, to), arguments)?.finish()
    }

    fn bare(&self, case: Case) -> anyhow::Result<Measurement> {
        let bare = Bare::start(case)?;
        let sent = self.load(case, bare.address, false)?;
        let counted = bare.finish()?;
        let udp = case.is_udp().then_some(UdpBooks {
            sent: sent.frames_sent,
            accepted: counted.datagrams,
            counted: None,
        });
        ensure!(
            case.is_udp() || counted.bytes == sent.bytes_sent,
            "{} bytes were sent and {} came",
            sent.bytes_sent,
            counted.bytes
        );
        let arrived = counted.bytes as f64 / sent.bytes_sent as f64;
        let records = sent.records_sent as f64 * arrived;
        Ok(Measurement {
            records_per_second: records / sent.seconds,
            bytes_per_second: counted.bytes as f64 / sent.seconds,
            cpu_seconds_per_million: counted.cpu_seconds / (records / 1e6),
            generator_share: sent.cpu_seconds / sent.seconds,
            agent: None,
            udp,
            catch_up: None,
        })
    }

    fn agent(&self, case: Case, io: Io, sink: bool, catch_up: bool) -> anyhow::Result<Measurement> {
        let folder = tempfile::tempdir_in(&self.data)?;
        let mut plan = Plan {
            binary: &self.binary,
            folder: folder.path(),
            io: io.word(),
            tables: self.tables(sink),
        };
        let agent = Agent::start(&plan)?;
        let listener = case.listener();
        let label = format!("listener=\"{listener}\"");
        let labels = [label.as_str()];

        let before = agent.samples()?;
        let cpu_before = process::cpu_seconds(agent.pid(), "")?;
        let shard_before = process::cpu_seconds(agent.pid(), "shard-")?;
        let sent = self.load(case, agent.address(listener)?, true)?;
        let sink_after = agent.samples()?.sum("penstock_sink_records_total", &[])?;
        if case.is_udp() {
            drain(&agent, &labels)?;
        }
        let cpu = process::cpu_seconds(agent.pid(), "")? - cpu_before;
        let shard_cpu = process::cpu_seconds(agent.pid(), "shard-")? - shard_before;
        let after = agent.samples()?;
        let grown = |name: &str, labels: &[&str]| -> anyhow::Result<u64> {
            Ok(after.sum(name, labels)? - before.sum(name, labels)?)
        };

        let bytes = grown("penstock_received_bytes_total", &labels)?;
        let accepted = grown("penstock_accepted_records_total", &labels)?;
        let lost = grown("penstock_journal_lost_records_total", &[])?;
        ensure!(
            lost == 0,
            "the journal lost {lost} records: {}",
            agent.log()
        );
        let records = if case.is_udp() {
            accepted
        } else {
            sent.records_acknowledged
        };
        ensure!(records > 0, "nothing arrived: {}", agent.log());
        ensure!(
            sent.frames_tried_later == 0,
            "the journal was full: less --seconds, or more room beside target/"
        );
        let udp = match case.is_udp() {
            true => Some(udp_books(&sent, &grown, &label)?),
            false => None,
        };
        let latency = sent.ack_latency.as_ref();
        let figures = AgentFigures {
            ack_p50_ms: latency.map(|latency| latency.p50_seconds * 1e3),
            ack_p99_ms: latency.map(|latency| latency.p99_seconds * 1e3),
            memory_peak_bytes: process::memory_peak(agent.pid())?,
            start_to_ready_ms: agent.start_to_ready.as_secs_f64() * 1e3,
            gate_attached: agent.gate_attached("udp")?,
            shard_cpu_share: shard_cpu / cpu,
            sink_records_per_second: sink_after as f64 / sent.seconds,
            receive_pool_exhausted: grown("penstock_receive_pool_exhausted_total", &[])?,
        };
        let catch_up = match catch_up {
            true => {
                agent.stop()?;
                plan.tables = self.tables(true);
                self.catch_up(&plan)?
            }
            false => None,
        };
        Ok(Measurement {
            records_per_second: records as f64 / sent.seconds,
            bytes_per_second: bytes as f64 / sent.seconds,
            cpu_seconds_per_million: cpu / (records as f64 / 1e6),
            generator_share: sent.cpu_seconds / sent.seconds,
            agent: Some(figures),
            udp,
            catch_up,
        })
    }

    /// Starts the agent again, with its sink, and looks how fast that delivers: from one commit to
    /// another, so that neither the start nor a commit cut off by the clock counts. `None` where
    /// there was too little to deliver.
    fn catch_up(&self, plan: &Plan<'_>) -> anyhow::Result<Option<CatchUp>> {
        let agent = Agent::start(plan)?;
        let began = Instant::now();
        let mut commits: Vec<Seen> = Vec::new();
        let mut lag = u64::MAX;
        while began.elapsed() < self.catch_up_time && lag > 0 {
            std::thread::sleep(CATCH_UP_POLL);
            let samples = agent.samples()?;
            lag = samples.sum("penstock_sink_lag_records", &[])?;
            let seen = Seen {
                records: samples.sum("penstock_sink_records_total", &[])?,
                cpu: process::cpu_seconds(agent.pid(), "sink-")?,
                at: Instant::now(),
            };
            if seen.records > commits.last().map_or(0, |last| last.records) {
                commits.push(seen);
            }
        }
        if lag == 0 {
            // The last commit waited for more, which did not come.
            commits.pop();
        }
        let (Some(first), Some(last)) = (commits.first(), commits.last()) else {
            return Ok(None);
        };
        if commits.len() < CATCH_UP_COMMITS_MIN {
            return Ok(None);
        }
        let records = (last.records - first.records) as f64;
        Ok(Some(CatchUp {
            records_per_second: records / (last.at - first.at).as_secs_f64(),
            cpu_seconds_per_million: (last.cpu - first.cpu) / (records / 1e6),
            lag_records: lag,
        }))
    }
}

#[derive(Clone, Copy)]
struct Seen {
    records: u64,
    cpu: f64,
    at: Instant,
}

fn udp_books(
    sent: &Sent,
    grown: &impl Fn(&str, &[&str]) -> anyhow::Result<u64>,
    label: &str,
) -> anyhow::Result<UdpBooks> {
    let gate = |verdict: &str| grown("penstock_gate_datagrams_total", &[label, verdict]);
    let arrived = grown("penstock_gate_datagrams_total", &[label])?;
    let refused_at_gate = arrived - gate("verdict=\"passed\"")?;
    let refused_by_shard = grown("penstock_refused_frames_total", &[label])?;
    Ok(UdpBooks {
        sent: sent.frames_sent,
        accepted: grown("penstock_accepted_frames_total", &[label])?,
        counted: Some(UdpLosses {
            kernel_drops: grown("penstock_kernel_drops_total", &[label])?,
            refused: refused_at_gate + refused_by_shard,
        }),
    })
}
