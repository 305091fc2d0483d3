//! `penstock journal`: looks at journals without an agent.

mod survey;
#[cfg(test)]
mod tests;
mod text;

use std::path::{Path, PathBuf};

use super::config::print_text;
use crate::exit::{Exit, Failure};
use survey::Survey;

/// Look at a journal on disk, without an agent.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Say what a journal holds, what is damaged, and what a start would do about it.
    ///
    /// Shows each segment with its positions, records and times; each place at which no whole block
    /// stands, by its case; and each sink's cursor and lag. Nothing is changed, and nothing is opened
    /// for writing; beside a running agent the last blocks may be on their way and look torn.
    ///
    /// Ends with 0 where nothing that was acknowledged is missing (the torn tail that a crash leaves
    /// is no damage), 65 where acknowledged bytes are damaged or missing, or a cursor is, 66 where
    /// there is no journal, 74 where it cannot be read.
    Check {
        /// A data folder, its journal folder, or one shard's folder
        dir: PathBuf,
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Json,
    Text,
}

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let What::Check { dir, format } = arguments.what;
    check(&dir, format)
}

/// Prints what stands in `dir`; damage is a failure.
pub fn check(dir: &Path, format: Format) -> Result<(), Failure> {
    let (text, failure) = look(dir, format)?;
    print_text(&text)?;
    failure.map_or(Ok(()), Err)
}

/// What there is to say, and whether it is damage.
fn look(dir: &Path, format: Format) -> Result<(String, Option<Failure>), Failure> {
    let survey = Survey::of(dir)?;
    let text = match format {
        Format::Text => text::show(&survey),
        Format::Json => survey.to_json(),
    };
    let count = survey.problems.len();
    let message = format!("{}: {count} problems", dir.display());
    Ok((text, (count > 0).then(|| Failure::new(Exit::Data, message))))
}
