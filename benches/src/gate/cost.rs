//! The accepted path: valid frames flat out, with the gate in the kernel and without.

use std::ffi::OsString;

use serde::Serialize;

use super::books::Books;
use super::{Options, Stage};
use crate::rig::drain::drain;
use crate::rig::generator::Generator;
use crate::rig::process;
use crate::rig::spread::Spread;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Contender {
    /// The stand-in judges in user space.
    Off,
    /// In the kernel, with nothing configured.
    On,
    /// In the kernel, with lists and limits that every source is looked up in and none strikes.
    OnWithLimits,
}

impl Contender {
    pub const ALL: [Self; 3] = [Self::Off, Self::On, Self::OnWithLimits];

    pub const fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::OnWithLimits => "on, lists and limits",
        }
    }

    fn configuration(self) -> String {
        // Nothing is shed here: that is the overload's part.
        match self {
            Self::Off => "[gate]\nmode = \"off\"\n".to_owned(),
            Self::On => "[gate]\nmode = \"required\"\n".to_owned(),
            Self::OnWithLimits => {
                let denied: Vec<String> = (0..256).map(|n| format!("\"10.{n}.0.0/16\"")).collect();
                let endless = "{ rate = \"1000000000/s\", burst = \"1000000000\" }";
                format!(
                    "[gate]\nmode = \"required\"\ndeny = [{}]\nsource_limit = {endless}\n\
                     newcomers = {endless}\nlimits.\"127.0.0.0/8\" = {endless}\n",
                    denied.join(", ")
                )
            }
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    pub contender: Contender,
    /// Whether each datagram came alone: then the gate runs once for each.
    pub gso: bool,
    pub records_per_second: f64,
    pub frames_per_second: f64,
    /// Of the agent.
    pub cpu_seconds_per_million_frames: f64,
    /// Of the generator, on whose core the kernel receives over loopback, gate included.
    pub sender_cpu_seconds_per_million_frames: f64,
    pub books: Books,
}

pub fn run(stage: &Stage, options: &Options) -> anyhow::Result<Vec<Measurement>> {
    let mut all = Vec::new();
    for round in 0..options.rounds() {
        for gso in [true, false] {
            for turn in 0..Contender::ALL.len() {
                let contender = Contender::ALL[(turn + round) % Contender::ALL.len()];
                let measured = measure(stage, options, contender, gso)?;
                eprintln!(
                    "cost {}/{}  gso {gso:<5}  {:<20} {:.3} M frames/s, agent {:.3} and sender \
                     {:.3} CPU s per million",
                    round + 1,
                    options.rounds(),
                    contender.label(),
                    measured.frames_per_second / 1e6,
                    measured.cpu_seconds_per_million_frames,
                    measured.sender_cpu_seconds_per_million_frames,
                );
                all.push(measured);
            }
        }
    }
    Ok(all)
}

fn measure(
    stage: &Stage,
    options: &Options,
    contender: Contender,
    gso: bool,
) -> anyhow::Result<Measurement> {
    let folder = tempfile::tempdir_in(&stage.data)?;
    let agent = stage.agent(folder.path(), &contender.configuration())?;
    let cpu_before = process::cpu_seconds(agent.pid(), "")?;
    let mut arguments: Vec<OsString> = vec![
        "--encoding=protobuf".into(),
        "--payload-max=1432".into(),
        // Never shed: the gate's own cost is the question here.
        "--priority=critical".into(),
        "--rate=max".into(),
        format!("--for={}s", options.load_time().as_secs()).into(),
        format!("--gso={}", if gso { "on" } else { "off" }).into(),
    ];
    arguments.extend(stage.lines_arguments());
    let to = ("udp", agent.address("udp")?);
    let sent = Generator::start(&stage.binary, to, arguments)?.finish()?;
    drain(&agent, &["listener=\"udp\""])?;
    let cpu = process::cpu_seconds(agent.pid(), "")? - cpu_before;
    let samples = agent.samples()?;
    let books = Books::read(&samples)?;
    if contender != Contender::Off {
        books.check(sent.frames_sent, true)?;
    }
    let records = samples.sum("penstock_accepted_records_total", &["listener=\"udp\""])?;
    let accepted = books.accepted as f64;
    Ok(Measurement {
        contender,
        gso,
        records_per_second: records as f64 / sent.seconds,
        frames_per_second: accepted / sent.seconds,
        cpu_seconds_per_million_frames: cpu / (accepted / 1e6),
        sender_cpu_seconds_per_million_frames: sent.cpu_seconds / (sent.frames_sent as f64 / 1e6),
        books,
    })
}

/// What one shard takes of a flood that comes in bundles, in records a second, with the gate on.
pub fn capacity(all: &[Measurement]) -> Option<f64> {
    let on = all
        .iter()
        .filter(|one| one.gso && one.contender == Contender::On);
    Spread::of(on.map(|one| one.records_per_second)).map(|spread| spread.median)
}
