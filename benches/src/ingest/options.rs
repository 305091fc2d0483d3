//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use super::case::{CONTENDERS, Case, Contender, Io};

/// The end-to-end benchmark: `penstock load` on one core, the agent on another.
#[derive(Debug, clap::Parser)]
pub struct Options {
    /// How often each figure is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// How long each load lasts
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=30))]
    seconds: u16,
    /// One round of one second: to see that it runs, not to quote
    #[arg(long)]
    quick: bool,
    /// Real log lines instead of generated ones
    #[arg(long, value_name = "FILE")]
    pub lines: Option<PathBuf>,
    /// Only the cases whose name has this in it
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// The agent's kernel interface; with both, in turn within each round
    #[arg(long, value_enum, value_delimiter = ',', default_value = "io_uring")]
    io: Vec<Io>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Options {
    pub fn rounds(&self) -> usize {
        if self.quick { 1 } else { self.rounds.into() }
    }

    pub fn load_time(&self) -> Duration {
        Duration::from_secs(if self.quick { 1 } else { self.seconds.into() })
    }

    /// How long a sink may catch up; its rate is steady long before it is through.
    pub fn catch_up_time(&self) -> Duration {
        Duration::from_secs(if self.quick { 4 } else { 12 })
    }

    pub fn wants(&self, case: Case) -> bool {
        let label = case.label().to_lowercase();
        let only = self.only.as_ref();
        only.is_none_or(|text| label.contains(&text.to_lowercase()))
    }

    pub fn contenders(&self) -> Vec<Contender> {
        let wanted = |contender: &Contender| match contender {
            Contender::Bare => true,
            Contender::SinkIdle(io) | Contender::SinkRunning(io) => self.io.contains(io),
        };
        CONTENDERS.into_iter().filter(wanted).collect()
    }
}
