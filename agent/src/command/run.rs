//! `penstock run`: the agent in the foreground.

use std::path::PathBuf;

use crate::config;
use crate::daemon;
use crate::exit::Failure;
use crate::log::{self, LogFilter};

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
    /// What is logged: error, warn, info, debug, trace or off, or a list such as
    /// `warn,penstock::journal=debug`; without it, what log.level in the configuration says
    #[arg(long, value_name = "FILTER", env = "PENSTOCK_LOG")]
    log: Option<LogFilter>,
}

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let loaded = config::load(arguments.config.as_deref()).map_err(Failure::from)?;
    log::start(&loaded.settings.log, arguments.log)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), settings = %loaded.source(), "starting");
    let outcome = daemon::run(loaded);
    log::finish();
    outcome
}
