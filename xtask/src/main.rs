//! The project's commands: `cargo xtask COMMAND`. One file per command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod build_ebpf;
mod coverage;
mod crash;
mod demo;
mod dist;
mod host;
mod metrics_text;
mod outcome;
mod process;
mod run;
mod sim;
mod table;
mod test;
mod test_output;
mod toolchain;
mod workspace;

/// Penstock's project commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Arguments),
    Test(test::Arguments),
    BuildEbpf(build_ebpf::Arguments),
    Run(run::Arguments),
    Sim(sim::Arguments),
    Crash(crash::Arguments),
    Coverage(coverage::Arguments),
    Bench(bench::Arguments),
    Dist(dist::Arguments),
}

fn main() -> ExitCode {
    let outcome = match CommandLine::parse().command {
        Command::Demo(arguments) => demo::run(arguments),
        Command::Test(arguments) => test::run(arguments),
        Command::BuildEbpf(arguments) => build_ebpf::run(arguments),
        Command::Run(arguments) => run::run(arguments),
        Command::Sim(arguments) => sim::run(arguments),
        Command::Crash(arguments) => crash::run(arguments),
        Command::Coverage(arguments) => coverage::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::Dist(arguments) => dist::run(arguments),
    };
    outcome::exit_code(outcome)
}
