//! `penstock config`.

use crate::exit::Failure;

/// Print the commented example configuration, or the values in force.
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub fn run(_arguments: Arguments) -> Result<(), Failure> {
    Ok(())
}
