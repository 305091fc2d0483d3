//! `penstock run`.

use crate::exit::Failure;

/// Run the agent in the foreground.
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub fn run(_arguments: Arguments) -> Result<(), Failure> {
    Ok(())
}
