//! `cargo xtask sim`: the seeded simulation, over as many seeds as there is time for.

use crate::process;

/// Run the simulation over many seeds; a failure prints its seed, and --seed replays it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed; with `--seeds 1` the only one.
    #[arg(long)]
    seed: Option<u64>,
}

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut command = process::cargo();
    command
        .args([
            "test",
            "--package",
            "penstock-tests",
            "--test",
            "simulation",
        ])
        .args(["--", "--nocapture"])
        .env("PENSTOCK_SIM_SEEDS", arguments.seeds.to_string());
    if let Some(seed) = arguments.seed {
        command.env("PENSTOCK_SIM_SEED", seed.to_string());
    }
    process::run(&mut command)
}
