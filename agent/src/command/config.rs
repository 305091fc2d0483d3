//! `penstock config`.

use std::io::Write;
use std::path::PathBuf;

use crate::config;
use crate::exit::Failure;

/// Print the commented example configuration, or the values in force.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Every key with its default and a word about it: a file to start from
    Example,
    /// The values in force, as a file that reads back to the same
    Show {
        /// The file; without one, /etc/penstock/penstock.toml, and where that is missing the
        /// built-in values
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.what {
        What::Example => print_text(config::EXAMPLE),
        What::Show { config } => {
            let loaded = config::load(config.as_deref())?;
            let shown = config::show(&loaded.settings);
            print_text(&format!("# From {}.\n{shown}", loaded.source()))
        }
    }
}

/// Text to standard output; whoever reads it may stop early (`| head`).
pub fn print_text(text: &str) -> Result<(), Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::io("write to standard output", &error))
        }
        _ => Ok(()),
    }
}
