//! The command line: one file per subcommand, each with its arguments and a `run`.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::exit::{Exit, Failure};

mod ask;
mod cat;
mod check;
mod config;
mod gate;
mod generate;
mod healthcheck;
mod journal;
mod load;
mod log;
mod reload;
mod run;
mod schema;
mod send;
mod target;

/// A log-ingestion agent that loses nothing in silence.
///
/// Everything that arrives is stored or refused by a named reason, and counted; what is
/// acknowledged is synced to disk.
#[derive(Debug, Parser)]
#[command(name = "penstock", version, max_term_width = 100)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Reload(reload::Arguments),
    Check(check::Arguments),
    Config(config::Arguments),
    Send(send::Arguments),
    Cat(cat::Arguments),
    Load(load::Arguments),
    Journal(journal::Arguments),
    Schema(schema::Arguments),
    Gate(gate::Arguments),
    Log(log::Arguments),
    Healthcheck(healthcheck::Arguments),
    #[command(hide = true)]
    Generate(generate::Arguments),
}

/// Whether the binary takes this command line, its name first; nothing is run. For the tests of what
/// the documents and the packages write.
pub fn parses<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
    match CommandLine::try_parse_from(words) {
        Err(error) if error.use_stderr() => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Runs the command that the process was called with.
pub fn main() -> ExitCode {
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        Err(error) => {
            // Help and version are answers, not mistakes.
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Ok
            };
            // A closed pipe behind `--help` is not worth a second message.
            let _ = error.print();
            return exit.into();
        }
    };
    let outcome = match command_line.command {
        Command::Run(arguments) => run::run(arguments),
        Command::Reload(arguments) => reload::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Config(arguments) => config::run(arguments),
        Command::Send(arguments) => send::run(arguments),
        Command::Cat(arguments) => cat::run(arguments),
        Command::Load(arguments) => load::run(arguments),
        Command::Journal(arguments) => journal::run(arguments),
        Command::Schema(arguments) => schema::run(arguments),
        Command::Gate(arguments) => gate::run(arguments),
        Command::Log(arguments) => log::run(arguments),
        Command::Healthcheck(arguments) => healthcheck::run(arguments),
        Command::Generate(arguments) => generate::run(arguments, CommandLine::command()),
    };
    match outcome {
        Ok(()) => Exit::Ok.into(),
        Err(Failure { exit, message }) => {
            eprintln!("penstock: {message}");
            exit.into()
        }
    }
}
