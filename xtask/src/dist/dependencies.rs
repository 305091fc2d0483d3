//! The Debian packages whose libraries the binary wants, by dpkg-shlibdeps.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::process;

/// `libc6 (>= 2.34), libgcc-s1 (>= 4.2)`.
pub fn of(binary: &Path, scratch: &Path) -> anyhow::Result<String> {
    // dpkg-shlibdeps wants to stand in a source package; this much of one is enough.
    let debian = scratch.join("debian");
    std::fs::create_dir_all(&debian).context("cannot make a folder for dpkg-shlibdeps")?;
    let control = "Source: penstock\n\nPackage: penstock\nArchitecture: any\n";
    std::fs::write(debian.join("control"), control).context("cannot write for dpkg-shlibdeps")?;
    let binary = std::path::absolute(binary).context("cannot find the binary")?;
    let printed = process::capture(
        Command::new("dpkg-shlibdeps")
            .arg("-O")
            .arg(binary)
            .current_dir(scratch),
    )?;
    match printed.trim().strip_prefix("shlibs:Depends=") {
        Some(depends) if !depends.is_empty() => Ok(depends.to_owned()),
        _ => bail!("dpkg-shlibdeps found no library at all: {printed}"),
    }
}
