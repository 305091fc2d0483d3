//! `cargo xtask crash`: the real binary is killed, loses power, and meets failing and full disks,
//! as many times as there is time for; what was acknowledged is then compared with what is stored.

use anyhow::{Context, bail};

use crate::process;
use crate::table::{Align, Table, grouped};

/// Kill the agent, cut its power, let its disk fail; compare what was acknowledged with what is stored.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How many rounds of each kind. A round is some load and a crash or two.
    #[arg(long, default_value_t = 50, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// This kind only.
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Seeds what is random in the tests; the timing is not theirs, so a run is never quite the same.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// The agent's shards; without it one to three, and now and then another number than before.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4))]
    shards: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// kill -9.
    Kill,
    /// The power goes: a disk that forgets what was not synced.
    Power,
    /// The disk fails, fills up and stalls; then a crash.
    Disk,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Kill, Self::Power, Self::Disk];

    fn test(self) -> &'static str {
        match self {
            Self::Kill => "crash_kill",
            Self::Power => "crash_power",
            Self::Disk => "crash_disk",
        }
    }
}

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => fresh_seed()?,
    };
    // The tests run the binary that stands beside them.
    process::run(process::cargo().args(["build", "--quiet", "--package", "penstock"]))?;
    let mut table = Table::new(&[
        ("crash", Align::Left),
        ("seed", Align::Right),
        ("rounds", Align::Right),
        ("kills", Align::Right),
        ("faults", Align::Right),
        ("acknowledged", Align::Right),
        ("lost", Align::Right),
        ("twice", Align::Right),
        ("seconds", Align::Right),
    ]);
    let mut failed = Vec::new();
    for kind in Kind::ALL {
        if arguments.kind.is_some_and(|wanted| wanted != kind) {
            continue;
        }
        let mut command = process::cargo();
        command
            .args(["test", "--quiet", "--package", "penstock-tests"])
            .args(["--test", kind.test(), "rounds", "--", "--nocapture"])
            .env("PENSTOCK_CRASH_ROUNDS", arguments.rounds.to_string())
            .env("PENSTOCK_CRASH_SEED", seed.to_string());
        if let Some(shards) = arguments.shards {
            command.env("PENSTOCK_CRASH_SHARDS", shards.to_string());
        }
        let mut summary = None;
        let status = process::stream_all(&mut command, |line| match sums(line) {
            Some(sums) => summary = Some(sums),
            None => println!("{line}"),
        })?;
        match summary {
            Some(cells) => table.row(cells),
            None if status.success() => println!("{}: nothing was run", kind.test()),
            None => {}
        }
        if !status.success() {
            failed.push(kind.test());
        }
    }
    println!("\n{table}");
    if !failed.is_empty() {
        bail!("failed: {} (seed {seed})", failed.join(", "));
    }
    Ok(())
}

/// A run that nobody asked a seed for is another one each time, and says which.
fn fresh_seed() -> anyhow::Result<u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Ok(u64::from(now.context("the clock")?.subsec_nanos()))
}

/// The cells of a test's line `CRASH kind=… seed=… …`, which the test harness may have begun.
fn sums(line: &str) -> Option<Vec<String>> {
    let (_, line) = line.split_once("CRASH ")?;
    let names = [
        "kind",
        "seed",
        "rounds",
        "kills",
        "faults",
        "acknowledged",
        "lost",
        "twice",
        "seconds",
    ];
    let mut words = line.split(' ');
    let cell = |name: &str| {
        let value = words.next()?.strip_prefix(name)?.strip_prefix('=')?;
        Some(match (name, value.parse()) {
            ("kind" | "seed", _) | (_, Err(_)) => value.to_owned(),
            (_, Ok(number)) => grouped(number),
        })
    };
    names.into_iter().map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_sums_is_found_behind_what_the_harness_wrote() {
        let line = "test rounds ... CRASH kind=power seed=1234567 rounds=8 kills=11 faults=0 \
                    acknowledged=93700 lost=0 twice=324 seconds=3.9";
        let cells = [
            "power", "1234567", "8", "11", "0", "93,700", "0", "324", "3.9",
        ];
        assert_eq!(sums(line).unwrap(), cells);
        assert_eq!(sums("test rounds ... ok"), None);
        assert_eq!(sums("CRASH kind=power"), None);
    }
}
