//! `cargo xtask build-ebpf`: the gate's object, for the agent's build to embed.
//!
//! Cargo rebuilds it only when an input changed. The result is copied to its fixed place only when
//! its bytes differ, because the agent's build looks at that file's time of change.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::host::{self, Install};
use crate::process;
use crate::toolchain::{self, Toolchain};
use crate::workspace;

const TARGET: &str = "bpfel-unknown-none";
const PROFILE: &str = "ebpf";

/// Build the eBPF object that the agent embeds: target/ebpf/penstock-gate.o.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Install a missing tool chain with apt-get (as root) and cargo.
    #[arg(long)]
    install: bool,
}

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let install = if arguments.install {
        Install::Yes
    } else {
        Install::No
    };
    build(install).map(|_| ())
}

/// Builds it with whichever tool chain there is, and says with which.
pub fn build(install: Install) -> anyhow::Result<Toolchain> {
    host::ensure(&[host::C_COMPILER], install)?;
    let toolchain = toolchain::ensure(install)?;
    println!("eBPF object with {toolchain}");
    let cargo = toolchain.compiler.cargo_command();
    process::run(of_the_gate(cargo, &toolchain, "build").arg("--quiet")).with_context(|| {
        format!(
            "the eBPF object does not build. If the linker complains of LLVM: {} must be built on \
             the compiler's LLVM or a newer one",
            workspace::shown(&toolchain.linker)
        )
    })?;
    let built = folder().join(TARGET).join(PROFILE).join("penstock-gate");
    let object = workspace::ebpf_object();
    let changed = copy_if_different(&built, &object)?;
    println!(
        "{} ({} bytes{})",
        workspace::shown(&object),
        object.metadata().map_or(0, |metadata| metadata.len()),
        if changed { "" } else { ", unchanged" }
    );
    Ok(toolchain)
}

/// Clippy of the programs, for their own target; the rest of the workspace is linted with its own
/// compiler. `None` where the tool chain has no clippy.
pub fn clippy(toolchain: &Toolchain) -> Option<Command> {
    let clippy = toolchain.compiler.clippy_command()?;
    let mut command = of_the_gate(clippy, toolchain, "clippy");
    command.args(["--quiet", "--no-deps", "--", "-D", "warnings"]);
    Some(command)
}

/// `core` is built along, since no tool chain has it ready-made for this target.
fn of_the_gate(mut cargo: Command, toolchain: &Toolchain, subcommand: &str) -> Command {
    cargo
        .args([subcommand, "--package", "agent-ebpf", "--profile", PROFILE])
        .args(["-Z", "build-std=core", "--target", TARGET])
        .env("CARGO_TARGET_DIR", folder())
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&toolchain.linker));
    cargo
}

/// A folder of its own: this compiler is another than the workspace's, and the two would throw
/// each other's work away.
fn folder() -> PathBuf {
    workspace::target().join("ebpf-build")
}

/// Cargo separates these flags by the unit separator, so that a path may have blanks.
///
/// `--btf`: the filter calls `bpf_loop`, for which the kernel wants the functions' types. `v3` is
/// the instruction set with 32-bit jumps and atomic compare-and-swap: Linux 5.12 and later.
fn rustflags(linker: &Path) -> String {
    let linker = format!("-Clinker={}", linker.display());
    [&linker, "-Clink-arg=--btf", "-Ctarget-cpu=v3"].join("\x1f")
}

/// Whether `to` had other bytes, or none. Renamed into place, so that a build that runs beside us
/// never embeds half of it.
fn copy_if_different(from: &Path, to: &Path) -> anyhow::Result<bool> {
    let new = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if std::fs::read(to).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let half = to.with_extension("new");
    std::fs::write(&half, new).with_context(|| format!("cannot write {}", half.display()))?;
    std::fs::rename(&half, to).with_context(|| format!("cannot rename to {}", to.display()))?;
    Ok(true)
}
