//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

/// The gate's benchmark: what it costs, and what it saves.
#[derive(Debug, clap::Parser)]
pub struct Options {
    /// How often each figure is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// How long each load lasts
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=30))]
    seconds: u16,
    /// Real log lines instead of generated ones
    #[arg(long, value_name = "FILE")]
    pub lines: Option<PathBuf>,
    /// Only these parts
    #[arg(long, value_enum, value_name = "PART")]
    only: Vec<Part>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    pub bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    Flood,
    Cost,
    Overload,
}

impl Options {
    pub fn rounds(&self) -> usize {
        self.rounds.into()
    }

    pub fn load_time(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    pub fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}
