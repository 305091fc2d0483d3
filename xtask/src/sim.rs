//! `cargo xtask sim`: the seeded simulation, over as many seeds as there is time for.

use crate::process;

/// Run the simulation over many seeds; a failure prints its seed, and --seed replays it. At the end
/// stands how often each kind of trouble struck: a run in which none did proves nothing.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How many seeds to run, from 0.
    #[arg(long, default_value_t = 1000, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Run this one seed only, and print what it does.
    #[arg(long, value_name = "SEED", conflicts_with = "seeds")]
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
        .args(["seeds", "--", "--nocapture"]);
    match arguments.seed {
        Some(seed) => command.env("PENSTOCK_SIM_SEED", seed.to_string()),
        None => command.env("PENSTOCK_SIM_SEEDS", arguments.seeds.to_string()),
    };
    process::run(&mut command)
}
