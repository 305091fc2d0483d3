//! `cargo xtask bench`: the benchmarks, each with what it needs built first.

use clap::ValueEnum;

use crate::host::Install;
use crate::run::build_release;
use crate::{build_ebpf, process};

/// Run one of the benchmarks on this host: `cargo xtask bench gate -- --rounds 5`.
///
/// benches/README.md says what each one measures. Results go to benches/results/.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    benchmark: Benchmark,
    /// Arguments for the benchmark itself.
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Benchmark {
    /// What the gate costs on the accepted path, and what it saves under a flood and an overload.
    Gate,
    /// From the load generator over loopback to the disk.
    Ingest,
}

impl Benchmark {
    const fn name(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Ingest => "ingest",
        }
    }
}

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    build_ebpf::build(Install::if_root())?;
    build_release()?;
    process::run(
        process::cargo()
            .args(["bench", "--package", "penstock-benches", "--bench"])
            .arg(arguments.benchmark.name())
            .arg("--")
            .args(arguments.arguments),
    )
}
