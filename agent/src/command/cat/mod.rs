//! `penstock cat`: records from journal segments or sink files.
//!
//! Each path becomes a source; a source prints what is there and can be asked again for what came
//! since. Damage is reported on standard error and stepped over.

mod escape;
mod files;
mod inputs;
mod journal;
mod json;
mod printer;
#[cfg(test)]
mod tests;
mod text;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use crate::exit::{Exit, Failure};
use inputs::Source;
use printer::Printer;

/// Print records from journal segments or sink files, in order.
///
/// A PATH is a sink file (.avro, .jsonl, .pb, compressed or not, sealed or .open), a folder of them, a journal segment (.segment), a
/// shard's folder, or a data folder: then its journal is printed, all shards together, in the
/// order in which the agent observed them (to within one block).
///
/// Text shows time (the observed one where a record has none), severity, service, host, body and
/// attributes. JSON is one object a line with every field; nanoseconds are strings, because readers
/// with double precision lose digits, and trace and span ids are hexadecimal. Control characters
/// are escaped in both. What is damaged is reported on standard error; the exit code is then 74.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Go on with what is written from now on, and with new files in a folder
    #[arg(short, long)]
    follow: bool,
    /// How to print a record
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Files or folders, printed in this order
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Json,
    Text,
}

/// How long `--follow` waits before it looks again.
const POLL: Duration = Duration::from_millis(200);

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    match print_all(&arguments, out, io::stderr().lock()) {
        // Whoever reads has enough.
        Err(Stop::Closed) => Ok(()),
        Err(Stop::Failed(failure)) => Err(failure),
        Ok(0) => Ok(()),
        Ok(problems) => Err(Failure::new(
            Exit::Io,
            format!("{problems} places could not be read"),
        )),
    }
}

/// Why printing ends early.
#[derive(Debug)]
enum Stop {
    /// The reader of our output is gone.
    Closed,
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Prints; returns how many places could not be read.
fn print_all<W: Write, E: Write>(arguments: &Arguments, out: W, notes: E) -> Result<u64, Stop> {
    let mut printer = Printer {
        out,
        notes,
        format: arguments.format,
        problems: 0,
        line: String::new(),
    };
    let mut sources = Vec::new();
    for path in &arguments.paths {
        sources.push(Source::of(path)?);
    }
    for source in &mut sources {
        source.print(&mut printer, false)?;
        printer.flush()?;
    }
    if !arguments.follow {
        return Ok(printer.problems);
    }
    // Until the reader of our output is gone, or somebody interrupts.
    loop {
        std::thread::sleep(POLL);
        for source in &mut sources {
            source.print(&mut printer, true)?;
        }
        printer.flush()?;
    }
}
