//! `cargo xtask run`: build in release and run the agent in the foreground.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context;

use crate::host::Install;
use crate::process;
use crate::toolchain;
use crate::{build_ebpf, workspace};

/// Build the agent in release and run it in the foreground: `cargo xtask run -- -c FILE`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Arguments for `penstock run`.
    #[arg(last = true)]
    arguments: Vec<String>,
}

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    if toolchain::find().is_some() {
        build_ebpf::build(Install::No)?;
    } else {
        eprintln!(
            "WITHOUT eBPF: there is no tool chain for it on this host, so the gate will run in \
             user space.\n`cargo xtask build-ebpf` says how to get one."
        );
    }
    let binary = build_release()?;
    let error = Command::new(&binary)
        .arg("run")
        .args(arguments.arguments)
        .exec();
    Err(error).with_context(|| format!("cannot start {}", workspace::shown(&binary)))
}

/// The agent in release, with the eBPF object that is there.
pub fn build_release() -> anyhow::Result<std::path::PathBuf> {
    process::run(process::cargo().args(["build", "--release", "--package", "penstock"]))?;
    Ok(workspace::target().join("release/penstock"))
}
