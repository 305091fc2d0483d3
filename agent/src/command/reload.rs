//! `penstock reload`.

use std::path::{Path, PathBuf};

use super::ask::ask;
use super::config::print_text;
use crate::config::{self, LoadError};
use crate::daemon::reload::report::Report;
use crate::daemon::request::Request;
use crate::exit::{Exit, Failure};

/// Have the running agent read its configuration again, and say what that changed.
///
/// The agent reads the file that it was started with, and the conf.d beside it. Listeners, limits,
/// sinks and schemas change without losing a datagram or a connection where they stay; what needs a
/// restart is named. What `penstock gate` changed gives way to what the file says.
///
/// Ends with 0 where everything that can be changed is; 78 with each mistake and its line where the
/// file is wrong, and 69, 74 or 77 where a step failed (a port in use): then nothing was changed. 69
/// where no agent answers, 77 where this user may not ask it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The running agent's configuration file, for where its control socket is; without one,
    /// /etc/penstock/penstock.toml, and where that is missing the built-in settings
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The control socket itself
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// Only say what would be changed
    #[arg(long)]
    dry_run: bool,
}

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let request = match arguments.dry_run {
        true => Request::PlanReload,
        false => Request::Reload,
    };
    let answer = match &arguments.socket {
        Some(socket) => ask(socket, &request)?,
        None => ask_by_file(arguments.config.as_deref(), &request)?,
    };
    let report: Report = serde_json::from_value(answer).map_err(|error| {
        let why = format!("the agent's answer: {error}: is it of another version?");
        Failure::new(Exit::Unavailable, why)
    })?;
    print_text(&report.text())?;
    match (report.error, Exit::of(report.exit)) {
        (None, _) => Ok(()),
        (Some(error), exit) => Err(Failure::new(
            exit.unwrap_or(Exit::Software),
            format!("nothing was changed\n{error}"),
        )),
    }
}

/// A file that is wrong still says, as a rule, where the agent's socket is: it must hear of the reload
/// that failed. Where it does not, or nobody answers there, the mistakes are the answer.
fn ask_by_file(file: Option<&Path>, request: &Request) -> Result<serde_json::Value, Failure> {
    let mistakes = match config::load(file) {
        Ok(loaded) => return ask(&loaded.settings.admin_socket(), request),
        Err(error @ LoadError::Mistakes(_)) => Failure::from(error),
        Err(error) => return Err(error.into()),
    };
    match config::socket_despite_mistakes(file) {
        Some(socket) => ask(&socket, request).map_err(|unheard| {
            let message = format!("{mistakes}\n(no agent was told: {unheard})");
            mistakes.with(message)
        }),
        None => Err(mistakes),
    }
}
