//! The end-to-end benchmark, in the order in which a run meets its parts: `options`, `case` (what is sent to whom), `contender` (one measurement), `bare` (the
//! receiver that only counts), `figures`, `report`. What it shares with others is `rig`.

use std::collections::BTreeMap;

use anyhow::Context;

use crate::rig::host::Host;
use crate::rig::target_folder;

mod bare;
mod case;
mod contender;
mod figures;
mod options;
mod report;

use case::{CASES, Case, Contender};
use contender::Stage;
use figures::Figures;
pub use options::Options;
use report::Report;

/// Everything, in rounds: each round measures every contender of every case once, so that what
/// drifts on the machine meets all of them alike.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let binary = crate::rig::binary()?;
    let out = target_folder().join("bench").join("ingest");
    std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    // On the disk that holds target/: a journal in memory would measure another thing.
    let data = tempfile::tempdir_in(&out).context("make a folder for the data")?;
    let host = Host::look(data.path())?;
    host.print();
    let stage = Stage {
        binary,
        data: data.path().to_owned(),
        load_time: options.load_time(),
        catch_up_time: options.catch_up_time(),
        lines: options.lines.clone(),
        journal_max: host.journal_max()?,
    };
    let mut figures: BTreeMap<(Case, Contender), Figures> = BTreeMap::new();
    let cases: Vec<Case> = CASES
        .into_iter()
        .filter(|case| options.wants(*case))
        .collect();
    anyhow::ensure!(!cases.is_empty(), "--only names no case");
    let contenders = options.contenders();
    for round in 0..options.rounds() {
        for &case in &cases {
            for turn in 0..contenders.len() {
                // Each round begins with another contender.
                let contender = contenders[(turn + round) % contenders.len()];
                // Once a case is enough: nothing else runs while the sink catches up.
                let catch_up = matches!(contender, Contender::SinkIdle(_)) && round == 0;
                let measured = stage
                    .measure(case, contender, catch_up)
                    .with_context(|| format!("{}, {}", case.label(), contender.label()))?;
                eprintln!(
                    "round {}/{}  {:<26} {:<19} {}",
                    round + 1,
                    options.rounds(),
                    case.label(),
                    contender.label(),
                    measured.summary(),
                );
                let all = figures.entry((case, contender)).or_default();
                all.measurements.push(measured);
            }
        }
    }
    let report = Report::new(host, options, figures);
    report.write(&out)?;
    println!("{}", report.markdown());
    println!("Written to {}", out.display());
    report.verdict()
}
