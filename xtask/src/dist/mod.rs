//! `cargo xtask dist`: the Debian package and the tarball.
//!
//! The binary is built (or given), its debug information is taken off into a file of its own, and
//! everything that is shipped is laid out under `target/dist/stage` once. The package is that tree
//! and its control files; the tarball is that tree with an install note. Both come out the same,
//! byte for byte, from the same binary and the same SOURCE_DATE_EPOCH, which is the last commit's
//! time where it is not given.

mod crates;
mod deb;
mod dependencies;
mod stage;
mod tarball;
mod tree;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::host::{self, Install, Need};
use crate::process::{self, which};
use crate::{build_ebpf, toolchain, workspace};

/// Build the Debian package and the tarball: target/dist/penstock_VERSION_ARCH.deb and .tar.gz.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The profile that the binary is built with; `dev` packages what `cargo build` has built.
    #[arg(long, default_value = "release")]
    profile: String,
    /// Package this binary rather than building one.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// The package's version, where it is not the workspace's.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    version: String,
    /// Where the results go.
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

pub const NEEDS: [Need; 3] = [
    Need {
        package: "binutils",
        why: "takes the debug information off the binary",
        is_there: || which("objcopy").is_some() && which("strip").is_some(),
    },
    Need {
        package: "dpkg-dev",
        why: "finds the libraries that the package depends on",
        is_there: || which("dpkg-shlibdeps").is_some(),
    },
    Need {
        package: "dpkg",
        why: "makes the package",
        is_there: || which("dpkg-deb").is_some(),
    },
];

/// What both results are made of.
struct Release {
    version: String,
    /// As Debian calls it: amd64.
    architecture: String,
    /// Seconds since 1970: the time of every file in the results.
    epoch: u64,
    /// The tree as it will lie on a host: usr/bin/penstock and so on.
    stage: PathBuf,
    output: PathBuf,
    /// xz at its quickest, for packages that only a test installs.
    quick: bool,
}

impl Release {
    fn file_name(&self, ending: &str) -> PathBuf {
        let (version, architecture) = (&self.version, &self.architecture);
        self.output
            .join(format!("penstock_{version}_{architecture}.{ending}"))
    }
}

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    host::ensure(&NEEDS, Install::No)?;
    ensure_version(&arguments.version)?;
    let built = match &arguments.binary {
        Some(binary) => binary.clone(),
        None => build(&arguments.profile)?,
    };
    let output = match arguments.output {
        Some(folder) => folder,
        None => workspace::target().join("dist"),
    };
    let release = Release {
        version: arguments.version,
        architecture: architecture()?,
        epoch: epoch()?,
        stage: output.join("stage"),
        output,
        quick: arguments.profile == "dev",
    };
    std::fs::create_dir_all(&release.output)
        .with_context(|| format!("cannot make {}", release.output.display()))?;
    stage::lay_out(&release, &built)?;
    let package = deb::make(&release)?;
    let tarball = tarball::make(&release)?;
    std::fs::remove_dir_all(&release.stage).context("cannot remove the staged tree")?;
    for result in [&package, &tarball, &release.file_name("debug")] {
        let len = result.metadata().map_or(0, |metadata| metadata.len());
        println!("{} ({len} bytes)", workspace::shown(result));
    }
    Ok(())
}

/// What Debian takes for a version without an epoch: it becomes part of file names.
fn ensure_version(version: &str) -> anyhow::Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".+~-".contains(&byte);
    let starts = version.starts_with(|first: char| first.is_ascii_digit());
    ensure!(
        starts && version.bytes().all(allowed),
        "{version} is no version: a digit, then letters, digits and . + ~ -"
    );
    Ok(())
}

fn build(profile: &str) -> anyhow::Result<PathBuf> {
    if toolchain::find().is_some() {
        build_ebpf::build(Install::No)?;
    } else if !workspace::ebpf_object().is_file() {
        eprintln!(
            "WITHOUT eBPF: there is no tool chain for it on this host, so the gate of this package \
             will run in user space.\n`cargo xtask build-ebpf` says how to get one."
        );
    }
    let arguments = ["build", "--package", "penstock", "--profile", profile];
    process::run(process::cargo().args(arguments))?;
    // Cargo's one exception: the profile `dev` writes to `debug`.
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(workspace::target().join(folder).join("penstock"))
}

fn architecture() -> anyhow::Result<String> {
    let printed = process::capture(Command::new("dpkg").arg("--print-architecture"))?;
    Ok(printed.trim().to_owned())
}

/// SOURCE_DATE_EPOCH (reproducible-builds.org), else the time of the last commit.
fn epoch() -> anyhow::Result<u64> {
    let given = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(given) => given,
        Err(_) => process::capture(
            Command::new("git")
                .args(["log", "-1", "--format=%ct"])
                .current_dir(workspace::root()),
        )
        .context("outside a git tree SOURCE_DATE_EPOCH must say the time of the sources")?,
    };
    let seconds = given.trim().parse();
    seconds.with_context(|| format!("SOURCE_DATE_EPOCH is {given}, and should be seconds"))
}

/// What packaging/ has.
fn packaging(path: &str) -> PathBuf {
    workspace::root().join("packaging").join(path)
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_debian_s() {
        for good in ["0.1.0", "1.2.3~rc1-1", "2+git20261120"] {
            ensure_version(good).expect(good);
        }
        for bad in ["", "v1", "1:2", "1/../2", "1 2"] {
            assert!(ensure_version(bad).is_err(), "{bad}");
        }
    }
}
