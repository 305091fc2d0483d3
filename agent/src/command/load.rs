//! `penstock load`.

use crate::exit::Failure;

/// Generate load: at a rate or flat out.
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub fn run(_arguments: Arguments) -> Result<(), Failure> {
    Ok(())
}
