//! The tables and the JSON file.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use agent_common::verdict::Verdict;
use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::json;

use super::{Options, cost, flood, overload};
use crate::rig::host::Host;
use crate::rig::spread::Spread;
use crate::rig::{GENERATOR_CORE, RECEIVER_CORE};

/// Every measurement as it was taken; a part that did not run is empty.
#[derive(Default, Serialize)]
pub struct Report {
    pub flood: Vec<flood::Measurement>,
    pub cost: Vec<cost::Measurement>,
    pub overload: Vec<overload::Measurement>,
}

impl Report {
    pub fn markdown(&self, host: &Host, options: &Options) -> String {
        let lines = match &options.lines {
            Some(_) => "real log lines",
            None => "generated lines",
        };
        let mut out = format!(
            "# The gate\n\n{} cores, {}, Linux {}. {} rounds of {} s, contenders in turn, {lines}. \
             Senders on core {GENERATOR_CORE}, over loopback, where the kernel receives, gate \
             included, on the sender's core; the whole agent, one shard, on core {RECEIVER_CORE}. \
             Median (least–most).\n",
            host.cores,
            host.cpu,
            host.kernel,
            options.rounds(),
            options.load_time().as_secs(),
        );
        if host.is_busy() {
            put(&mut out, format_args!("\n{}\n", host.warning()));
        }
        self.put_flood(&mut out);
        self.put_cost(&mut out);
        self.put_overload(&mut out);
        out
    }

    fn put_flood(&self, out: &mut String) {
        if self.flood.is_empty() {
            return;
        }
        out.push_str(
            "\n## Flood\n\nA well-behaved sender at 50,000 frames/s, beside three that send flat \
             out: from denied addresses, beyond their limit, and garbage.\n\n\
             | | well-behaved frames lost, % | others, M datagrams/s | denied | rate_limited | \
             malformed | kernel drops | agent, % of a core |\n|---|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        for contender in flood::Contender::ALL {
            let of = |value: &dyn Fn(&flood::Measurement) -> f64, decimals| {
                let all = self.flood.iter().filter(|one| one.contender == contender);
                text(all.map(value), decimals)
            };
            let verdict = |verdict| of(&|one: &flood::Measurement| one.books.of(verdict) as f64, 0);
            let lost = |one: &flood::Measurement| {
                (one.good_sent - one.good_accepted) as f64 / one.good_sent as f64 * 100.0
            };
            put(
                out,
                format_args!(
                    "| {} | {} | {} | {} | {} | {} | {} | {} |\n",
                    contender.label(),
                    of(&lost, 3),
                    of(&|one| one.flood_frames_per_second / 1e6, 2),
                    verdict(Verdict::Denied),
                    verdict(Verdict::RateLimited),
                    verdict(Verdict::Malformed),
                    of(&|one| one.books.kernel_drops as f64, 0),
                    of(&|one| one.agent_core_share * 100.0, 1),
                ),
            );
        }
    }

    fn put_cost(&self, out: &mut String) {
        if self.cost.is_empty() {
            return;
        }
        out.push_str(
            "\n## Cost\n\nValid frames flat out, payloads of at most 1,432 bytes.\n\n\
             | gate | bundles | M records/s | M frames/s | agent, CPU s per million frames | \
             sender, CPU s per million frames |\n|---|---|--:|--:|--:|--:|\n",
        );
        for gso in [true, false] {
            for contender in cost::Contender::ALL {
                let of = |value: &dyn Fn(&cost::Measurement) -> f64, decimals| {
                    let all = self
                        .cost
                        .iter()
                        .filter(|one| one.contender == contender && one.gso == gso);
                    text(all.map(value), decimals)
                };
                put(
                    out,
                    format_args!(
                        "| {} | {} | {} | {} | {} | {} |\n",
                        contender.label(),
                        if gso { "GSO" } else { "single datagrams" },
                        of(&|one| one.records_per_second / 1e6, 2),
                        of(&|one| one.frames_per_second / 1e6, 3),
                        of(&|one| one.cpu_seconds_per_million_frames, 3),
                        of(&|one| one.sender_cpu_seconds_per_million_frames, 3),
                    ),
                );
            }
        }
    }

    fn put_overload(&self, out: &mut String) {
        if self.overload.is_empty() {
            return;
        }
        let offered = self
            .overload
            .iter()
            .map(|one| one.offered_records_per_second / 1e6);
        put(
            out,
            format_args!(
                "\n## Overload\n\n{} M records/s offered, twice what was taken above.\n\n\
                 | priority | frames sent | stored | % |\n|---|--:|--:|--:|\n",
                text(offered, 2)
            ),
        );
        for (priority, name) in ["critical", "high", "normal", "background"]
            .iter()
            .enumerate()
        {
            let of = |value: &dyn Fn(&overload::Measurement) -> f64, decimals| {
                text(self.overload.iter().map(value), decimals)
            };
            put(
                out,
                format_args!(
                    "| {name} | {} | {} | {} |\n",
                    of(&|one| one.sent[priority] as f64, 0),
                    of(&|one| one.stored[priority] as f64, 0),
                    of(
                        &|one| one.stored[priority] as f64 / one.sent[priority] as f64 * 100.0,
                        2
                    ),
                ),
            );
        }
        let shed = self
            .overload
            .iter()
            .map(|one| one.books.of(Verdict::Shed) as f64);
        let drops = self
            .overload
            .iter()
            .map(|one| one.books.kernel_drops as f64);
        let refused = self.overload.iter().map(|one| one.books.refused as f64);
        put(
            out,
            format_args!(
                "\nShed in the kernel: {}; in user space (bundles of which a part was kept): {}; \
                 dropped by a full receive buffer: {}. The sums agreed exactly in {} of {} runs.\n",
                text(shed, 0),
                text(refused, 0),
                text(drops, 0),
                self.overload.iter().filter(|one| one.is_exact).count(),
                self.overload.len(),
            ),
        );
    }

    pub fn write(&self, folder: &Path, markdown: &str, host: &Host) -> anyhow::Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let put = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))
        };
        put("gate.md", markdown)?;
        let all = json!({ "host": host, "measurements": self });
        put("gate.json", &format!("{all:#}\n"))
    }

    /// Fails where the sums do not agree: the other figures then are not to be trusted either.
    pub fn verdict(&self) -> anyhow::Result<()> {
        let inexact = self.overload.iter().filter(|one| !one.is_exact).count();
        ensure!(
            inexact == 0,
            "in {inexact} overloads the sums did not agree"
        );
        Ok(())
    }
}

fn text(values: impl Iterator<Item = f64>, decimals: usize) -> String {
    Spread::of(values).map_or("–".to_owned(), |spread| spread.text(1.0, decimals))
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes all");
}
