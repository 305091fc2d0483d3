//! `penstock check`.

use crate::exit::Failure;

/// Check a configuration file: every mistake with its line and what would be right.
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub fn run(_arguments: Arguments) -> Result<(), Failure> {
    Ok(())
}
