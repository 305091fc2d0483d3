//! `penstock cat`.

use crate::exit::Failure;

/// Print records from journal segments or sink files, in order.
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub fn run(_arguments: Arguments) -> Result<(), Failure> {
    Ok(())
}
