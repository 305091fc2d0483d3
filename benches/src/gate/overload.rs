//! Twice what the journal takes, priorities mixed, over one listener.

use std::ffi::OsString;

use serde::Serialize;

use super::books::Books;
use super::stored;
use super::{Options, Stage};
use crate::rig::drain::drain;
use crate::rig::generator::Generator;

/// Of what is offered, in hundredths, by priority: what must arrive whole is well below half.
const SHARES: [(&str, u64); 4] = [
    ("critical", 10),
    ("high", 20),
    ("normal", 30),
    ("background", 40),
];

#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    pub offered_records_per_second: f64,
    /// Frames by priority.
    pub sent: [u64; 4],
    pub stored: [u64; 4],
    pub books: Books,
    /// All that was sent is stored, or stands under a verdict, a drop or a refusal.
    pub is_exact: bool,
}

pub fn run(stage: &Stage, options: &Options, capacity: f64) -> anyhow::Result<Vec<Measurement>> {
    let mut all = Vec::new();
    for round in 0..options.rounds() {
        let measured = measure(stage, options, capacity)?;
        let kept: Vec<String> = (0..4)
            .map(|priority| {
                let share = measured.stored[priority] as f64 / measured.sent[priority] as f64;
                format!("{} {:.2} %", SHARES[priority].0, share * 100.0)
            })
            .collect();
        eprintln!(
            "overload {}/{}  offered {:.2} M records/s, stored: {}",
            round + 1,
            options.rounds(),
            measured.offered_records_per_second / 1e6,
            kept.join(", "),
        );
        all.push(measured);
    }
    Ok(all)
}

fn measure(stage: &Stage, options: &Options, capacity: f64) -> anyhow::Result<Measurement> {
    let folder = tempfile::tempdir_in(&stage.data)?;
    let agent = stage.agent(folder.path(), "[gate]\nmode = \"required\"\n")?;
    let to = ("udp", agent.address("udp")?);
    let mut generators = Vec::new();
    for (priority, share) in SHARES {
        let rate = (2.0 * capacity) as u64 * share / 100;
        let mut arguments: Vec<OsString> = vec![
            "--encoding=protobuf".into(),
            "--payload-max=1432".into(),
            format!("--priority={priority}").into(),
            format!("--rate={rate}").into(),
            format!("--for={}s", options.load_time().as_secs()).into(),
        ];
        arguments.extend(stage.lines_arguments());
        generators.push(Generator::start(&stage.binary, to, arguments)?);
    }
    let mut sent = [0; 4];
    let mut offered_records_per_second = 0.0;
    for (generator, sent) in generators.into_iter().zip(&mut sent) {
        let report = generator.finish()?;
        *sent = report.frames_sent;
        offered_records_per_second += report.records_sent as f64 / report.seconds;
    }
    drain(&agent, &["listener=\"udp\""])?;
    let books = Books::read(&agent.samples()?)?;
    let is_law = books.check(sent.iter().sum(), true);
    if let Err(error) = &is_law {
        eprintln!("the sums do not agree: {error:#}");
    }
    agent.stop()?;
    let stored = stored::by_priority(&folder.path().join("data"))?;
    Ok(Measurement {
        offered_records_per_second,
        sent,
        stored,
        is_exact: is_law.is_ok() && stored.iter().sum::<u64>() == books.accepted,
        books,
    })
}
