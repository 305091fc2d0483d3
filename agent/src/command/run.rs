//! `penstock run`: the agent in the foreground.

use std::io::IsTerminal;
use std::path::PathBuf;

use tracing_subscriber::EnvFilter;

use crate::config;
use crate::daemon;
use crate::exit::{Exit, Failure};

/// Run the agent in the foreground.
///
/// Reads /etc/penstock/penstock.toml unless told otherwise. Where that file is missing it takes
/// UDP and TCP frames on 127.0.0.1:4600, serves metrics and health on 127.0.0.1:4680, and keeps
/// its data under ./penstock-data.
///
/// SIGTERM and SIGINT stop it: nothing new is accepted, what was taken is synced, acknowledged and
/// delivered, and it exits with 0. A second signal ends it at once.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What is logged, to standard error: error, warn, info, debug or trace, or
    /// a list such as `warn,penstock::journal=debug`.
    #[arg(
        long,
        value_name = "FILTER",
        env = "PENSTOCK_LOG",
        default_value = "info"
    )]
    log: String,
}

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&arguments.log)
        .map_err(|error| Failure::new(Exit::Usage, format!("--log: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(has_colours())
        .init();
    let loaded = config::load(arguments.config.as_deref()).map_err(Failure::from)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), settings = %loaded.source(), "starting");
    daemon::run(loaded)
}

/// Colours are for eyes: a log file and a service manager's journal get none.
fn has_colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !unwanted
}
