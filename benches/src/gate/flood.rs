//! Hostile senders flat out beside a well-behaved one.
//!
//! Each kind of frame has an encoding of its own, by which the agent's counters tell them apart:
//! the well-behaved sender's is Protobuf, what comes from denied addresses is Avro, what comes
//! beyond a limit is JSON, and garbage has none.

use std::ffi::OsString;

use anyhow::ensure;
use serde::Serialize;

use super::books::Books;
use super::{Options, Stage};
use crate::rig::agent::Agent;
use crate::rig::drain::drain;
use crate::rig::generator::Generator;
use crate::rig::process;

/// What the well-behaved sender sends: one record a frame.
const GOOD_FRAMES_PER_SECOND: u64 = 50_000;

const GATE_ON: &str = "[gate]\nmode = \"required\"\ndeny = [\"127.66.0.0/16\"]\n\
     newcomers = { rate = \"1000/s\", burst = \"1000\" }\n\
     limits.\"127.77.0.0/16\" = { rate = \"100/s\", burst = \"100\" }\n";
/// As an agent without a gate would be: nothing denied or limited, malformed frames refused after
/// the copy, nothing shed.
const GATE_OFF: &str = "[gate]\nmode = \"off\"\n";

/// The floods: whose, and what `penstock load` is told of them.
const FLOODS: [(&str, &[&str]); 3] = [
    (
        "denied",
        &["--encoding=avro", "--from=127.66.0.0/24", "--sources=64"],
    ),
    (
        "beyond their limit",
        &["--encoding=json", "--from=127.77.0.0/24", "--sources=64"],
    ),
    (
        "garbage",
        &[
            "--hostile=100",
            "--hostile-reasons=bad_magic",
            "--from=127.88.0.0/24",
            "--sources=64",
        ],
    ),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Contender {
    /// The well-behaved sender alone, gate on: what the agent's process takes for it.
    Quiet,
    GateOn,
    GateOff,
}

impl Contender {
    pub const ALL: [Self; 3] = [Self::Quiet, Self::GateOn, Self::GateOff];

    pub const fn label(self) -> &'static str {
        match self {
            Self::Quiet => "no flood, gate on",
            Self::GateOn => "flood, gate on",
            Self::GateOff => "flood, gate off",
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    pub contender: Contender,
    pub good_sent: u64,
    pub good_accepted: u64,
    pub flood_sent: u64,
    pub flood_frames_per_second: f64,
    /// Of the agent's process, as a share of one core while the load lasted.
    pub agent_core_share: f64,
    pub books: Books,
}

pub fn run(stage: &Stage, options: &Options) -> anyhow::Result<Vec<Measurement>> {
    let mut all = Vec::new();
    for round in 0..options.rounds() {
        for turn in 0..Contender::ALL.len() {
            let contender = Contender::ALL[(turn + round) % Contender::ALL.len()];
            let measured = measure(stage, options, contender)?;
            eprintln!(
                "flood {}/{}  {:<18} {} of {} well-behaved frames stored, {:.2} M others/s, \
                 {:.1} % of a core",
                round + 1,
                options.rounds(),
                contender.label(),
                measured.good_accepted,
                measured.good_sent,
                measured.flood_frames_per_second / 1e6,
                measured.agent_core_share * 100.0,
            );
            all.push(measured);
        }
    }
    Ok(all)
}

fn measure(stage: &Stage, options: &Options, contender: Contender) -> anyhow::Result<Measurement> {
    let folder = tempfile::tempdir_in(&stage.data)?;
    let gate = match contender {
        Contender::Quiet | Contender::GateOn => GATE_ON,
        Contender::GateOff => GATE_OFF,
    };
    let agent = stage.agent(folder.path(), gate)?;
    let to = ("udp", agent.address("udp")?);
    let seconds = options.load_time().as_secs();
    let time = format!("--for={seconds}s");
    let cpu_before = process::cpu_seconds(agent.pid(), "")?;
    let mut floods = Vec::new();
    if contender != Contender::Quiet {
        for (_, arguments) in FLOODS {
            let arguments = arguments
                .iter()
                .copied()
                .chain(["--rate=max", time.as_str()]);
            floods.push(Generator::start(&stage.binary, to, arguments)?);
        }
    }
    let mut arguments: Vec<OsString> = vec![
        "--encoding=protobuf".into(),
        "--batch=1".into(),
        format!("--rate={GOOD_FRAMES_PER_SECOND}").into(),
        format!("--records={}", GOOD_FRAMES_PER_SECOND * seconds).into(),
        // Beside floods it may come late: it sends them all the same.
        format!("--for={}s", 3 * seconds).into(),
    ];
    arguments.extend(stage.lines_arguments());
    let good = Generator::start(&stage.binary, to, arguments)?.finish()?;
    let mut flood_sent = 0;
    let mut flood_frames_per_second = 0.0;
    for flood in floods {
        let sent = flood.finish()?;
        let hostile: u64 = sent.hostile_frames_sent.values().sum();
        flood_sent += sent.frames_sent + hostile;
        flood_frames_per_second += (sent.frames_sent + hostile) as f64 / sent.seconds;
    }
    let cpu = process::cpu_seconds(agent.pid(), "")? - cpu_before;
    finish(
        &agent,
        Measurement {
            contender,
            good_sent: good.frames_sent,
            good_accepted: 0,
            flood_sent,
            flood_frames_per_second,
            agent_core_share: cpu / good.seconds.max(seconds as f64),
            books: Books::default(),
        },
    )
}

fn finish(agent: &Agent, mut measured: Measurement) -> anyhow::Result<Measurement> {
    drain(agent, &["listener=\"udp\""])?;
    let samples = agent.samples()?;
    let labels = ["listener=\"udp\"", "encoding=\"protobuf\""];
    measured.good_accepted = samples.sum("penstock_accepted_frames_total", &labels)?;
    measured.books = Books::read(&samples)?;
    let in_kernel = measured.contender != Contender::GateOff;
    ensure!(
        in_kernel == agent.gate_attached("udp")?,
        "the gate is not where it was asked for: {}",
        agent.log()
    );
    if in_kernel {
        measured
            .books
            .check(measured.good_sent + measured.flood_sent, true)?;
    }
    Ok(measured)
}
