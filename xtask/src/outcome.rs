//! How a command ends: 0, 1 for a failure that has been reported, 69 where the host lacks something.

use std::process::ExitCode;

/// EX_UNAVAILABLE of sysexits.h: something needed is not there.
const UNAVAILABLE: u8 = 69;

/// The host lacks something that this command cannot install; the message names it and the
/// commands that would.
#[derive(Debug)]
pub struct Unavailable(pub String);

impl std::fmt::Display for Unavailable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

pub fn exit_code(outcome: anyhow::Result<()>) -> ExitCode {
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    eprintln!("xtask: {error:#}");
    if error.downcast_ref::<Unavailable>().is_some() {
        ExitCode::from(UNAVAILABLE)
    } else {
        ExitCode::FAILURE
    }
}
