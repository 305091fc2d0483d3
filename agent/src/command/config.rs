//! `penstock config`.

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
        What::Example => print!("{}", config::EXAMPLE),
        What::Show { config } => {
            let loaded = config::load(config.as_deref())?;
            println!("# From {}.", loaded.source());
            print!("{}", config::show(&loaded.settings));
        }
    }
    Ok(())
}
