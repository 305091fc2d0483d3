//! `penstock send`.

use crate::exit::Failure;

/// Send lines as log records, retried until they are acknowledged.
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub fn run(_arguments: Arguments) -> Result<(), Failure> {
    Ok(())
}
