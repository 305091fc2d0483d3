//! The table and the JSON file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::json;

use super::case::{CASES, CONTENDERS, Case, Contender};
use super::contender::{CatchUp, Measurement};
use super::figures::Figures;
use super::options::Options;
use crate::rig::host::Host;
use crate::rig::{GENERATOR_CORE, RECEIVER_CORE};

const MIB: f64 = (1 << 20) as f64;

pub struct Report {
    host: Host,
    setting: String,
    figures: BTreeMap<(Case, Contender), Figures>,
}

impl Report {
    pub fn new(
        host: Host,
        options: &Options,
        figures: BTreeMap<(Case, Contender), Figures>,
    ) -> Self {
        let lines = match &options.lines {
            Some(path) => format!("the lines of {}", path.display()),
            None => "generated lines".to_owned(),
        };
        let setting = format!(
            "{} rounds of {} s, flat out, {lines}. Load on core {GENERATOR_CORE}; on core \
             {RECEIVER_CORE} the bare receiver, or the whole agent with one shard, its sink's \
             thread included. Median (least–most).",
            options.rounds(),
            options.load_time().as_secs(),
        );
        Self {
            host,
            setting,
            figures,
        }
    }

    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let put = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))
        };
        put("ingest.md", &self.markdown())?;
        put("ingest.json", &self.json())
    }

    /// Every measurement as it was taken.
    fn json(&self) -> String {
        let rows = self.figures.iter().map(|((case, contender), figures)| {
            json!({
                "case": case,
                "contender": contender,
                "measurements": figures.measurements,
            })
        });
        let rows: Vec<_> = rows.collect();
        let all = json!({ "host": self.host, "setting": self.setting, "figures": rows });
        format!("{all:#}\n")
    }

    pub fn markdown(&self) -> String {
        let host = &self.host;
        let mut out = format!(
            "{} cores, {}, Linux {}, load average {:.2} at the start.\n{}\n\n",
            host.cores, host.cpu, host.kernel, host.load_average, self.setting
        );
        if host.is_busy() {
            out += &format!("**{}**\n\n", host.warning());
        }
        out += "| case | receiver | M records/s | MB/s | % of bare | CPU s per M | ack p50 ms | \
                ack p99 ms | peak MiB | ready ms | UDP lost % | losses |\n\
                |---|---|---|---|---|---|---|---|---|---|---|---|\n";
        for case in CASES {
            for contender in CONTENDERS {
                if let Some(figures) = self.figures.get(&(case, contender)) {
                    out += &self.row(case, contender, figures);
                }
            }
        }
        out.push('\n');
        for case in CASES {
            for sentence in self.sentences(case) {
                out += &format!("- {}: {sentence}\n", case.label());
            }
        }
        out
    }

    fn row(&self, case: Case, contender: Contender, figures: &Figures) -> String {
        let cell = |value: &dyn Fn(&Measurement) -> Option<f64>, unit: f64, decimals: usize| {
            let spread = figures.spread(value);
            spread.map_or_else(String::new, |spread| spread.text(unit, decimals))
        };
        let cells = [
            case.label().to_owned(),
            contender.label().to_owned(),
            cell(&|one| Some(one.records_per_second), 1e6, 2),
            cell(&|one| Some(one.bytes_per_second), 1e6, 0),
            self.share(case, contender),
            cell(&|one| Some(one.cpu_seconds_per_million), 1.0, 3),
            cell(&|one| one.agent.as_ref()?.ack_p50_ms, 1.0, 1),
            cell(&|one| one.agent.as_ref()?.ack_p99_ms, 1.0, 1),
            cell(
                &|one| Some(one.agent.as_ref()?.memory_peak_bytes as f64),
                MIB,
                0,
            ),
            cell(&|one| Some(one.agent.as_ref()?.start_to_ready_ms), 1.0, 0),
            cell(&|one| Some(one.udp?.lost_percent()), 1.0, 2),
            losses(figures),
        ];
        format!("| {} |\n", cells.join(" | "))
    }

    /// Of the bare receiver's bytes/s, by the medians.
    fn share(&self, case: Case, contender: Contender) -> String {
        let median = |contender| {
            let figures = self.figures.get(&(case, contender))?;
            let spread = figures.spread(|one| Some(one.bytes_per_second))?;
            Some(spread.median)
        };
        match (median(contender), median(Contender::Bare)) {
            (Some(mine), Some(bare)) => format!("{:.0}", mine / bare * 100.0),
            _ => String::new(),
        }
    }

    /// What has no column.
    fn sentences(&self, case: Case) -> Vec<String> {
        let mut out = Vec::new();
        for contender in CONTENDERS {
            let Some(figures) = self.figures.get(&(case, contender)) else {
                continue;
            };
            let generator = figures.spread(|one| Some(one.generator_share));
            let agent = |value: &dyn Fn(&Measurement) -> Option<f64>| figures.spread(value);
            let shard = agent(&|one| Some(one.agent.as_ref()?.shard_cpu_share));
            let exhausted = agent(&|one| Some(one.agent.as_ref()?.receive_pool_exhausted as f64));
            let sink = agent(&|one| Some(one.agent.as_ref()?.sink_records_per_second));
            let mut parts = Vec::new();
            if let Some(share) = generator {
                let percent = share.median * 100.0;
                parts.push(format!("the generator used {percent:.0} % of its core"));
            }
            if let Some(share) = shard {
                let percent = share.median * 100.0;
                parts.push(format!("the shard {percent:.0} % of the agent's CPU time"));
            }
            if let (Contender::SinkRunning(_), Some(sink)) = (contender, sink) {
                let text = sink.text(1e6, 2);
                parts.push(format!("the sink delivered {text} M records/s meanwhile"));
            }
            if let Some(exhausted) = exhausted
                && exhausted.max > 0.0
            {
                let text = exhausted.text(1.0, 0);
                parts.push(format!("receive buffers ran out {text} times"));
            }
            out.push(format!("{}: {}.", contender.label(), parts.join("; ")));
            let detached = figures.measurements.iter().any(|one| {
                let agent = one.agent.as_ref();
                agent.is_some_and(|agent| !agent.gate_attached)
            });
            if detached {
                out.push(format!(
                    "{}: the gate was NOT in the kernel.",
                    contender.label()
                ));
            }
            let mut caught_up = figures.measurements.iter().filter_map(|one| one.catch_up);
            if let Some(catch_up) = caught_up.next() {
                out.push(catch_up_sentence(&catch_up));
            }
        }
        out
    }

    /// Fails where a loss was not counted: the other figures then are not to be trusted either.
    pub fn verdict(&self) -> anyhow::Result<()> {
        let mut measurements = self.figures.values().flat_map(|all| &all.measurements);
        let uncounted = measurements.find(|one| {
            let udp = one.udp.and_then(|udp| udp.every_loss_counted());
            udp == Some(false)
        });
        let books = uncounted.and_then(|one| one.udp);
        ensure!(books.is_none(), "not every loss was counted: {books:?}");
        Ok(())
    }
}

fn losses(figures: &Figures) -> String {
    let mut verdicts = figures.measurements.iter().filter_map(|one| {
        let udp = one.udp?;
        udp.every_loss_counted()
    });
    match verdicts.next() {
        None => String::new(),
        Some(first) if first && verdicts.all(|each| each) => "every loss counted".to_owned(),
        Some(_) => "NOT every loss counted".to_owned(),
    }
}

fn catch_up_sentence(catch_up: &CatchUp) -> String {
    let rest = match catch_up.lag_records {
        0 => "until nothing was left".to_owned(),
        lag => format!("until the time was over, with {lag} records left"),
    };
    format!(
        "sink idle, then the sink alone after a restart: {:.2} M records/s from disk, {:.2} CPU s \
         per million, {rest}.",
        catch_up.records_per_second / 1e6,
        catch_up.cpu_seconds_per_million
    )
}
