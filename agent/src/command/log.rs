//! `penstock log`.

use super::ask::Target;
use super::config::print_text;
use crate::daemon::request::Request;
use crate::exit::Failure;
use crate::log::LogFilter;

/// Show or change what the running agent logs, over its control socket.
///
/// What is set holds until the next reload, which brings back the configuration's log.level, or
/// until the agent ends.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// error, warn, info, debug, trace or off, or a list such as `warn,penstock::journal=debug`;
    /// without it, what is in force is printed
    level: Option<LogFilter>,
    #[command(flatten)]
    agent: Target,
}

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let level = arguments.level.map(|level| level.to_string());
    let answer = arguments.agent.ask(&Request::Log { level })?;
    let text = |name: &str| answer[name].as_str().map(str::to_owned);
    let level = text("level").unwrap_or_else(|| "unknown".to_owned());
    match text("was") {
        Some(was) => print_text(&format!("{level} (was {was})\n")),
        None => print_text(&format!("{level}\n")),
    }
}
