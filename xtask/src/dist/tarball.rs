//! The tarball: the staged tree and a note on how to install it by hand.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;

use super::tree::Tree;
use super::{Release, packaging};
use crate::process;

pub fn make(release: &Release) -> anyhow::Result<PathBuf> {
    let name = format!("penstock-{}-{}", release.version, release.architecture);
    let root = release.output.join(&name);
    let tree = Tree::begin(&root)?;
    process::run(
        Command::new("cp")
            .args(["--archive", "--no-target-directory"])
            .args([&release.stage, &root]),
    )?;
    tree.copy("INSTALL.md", 0o644, &packaging("INSTALL.md"))?;

    let plain = release.file_name("tar");
    process::run(
        Command::new("tar")
            .args(["--create", "--format=ustar", "--sort=name"])
            .args(["--owner=root:0", "--group=root:0"])
            .arg(format!("--mtime=@{}", release.epoch))
            .arg("--file")
            .arg(&plain)
            .arg("--directory")
            .arg(&release.output)
            .arg(&name),
    )?;
    let level = if release.quick { "-1nf" } else { "-9nf" };
    process::run(Command::new("gzip").arg(level).arg(&plain))?;
    std::fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    Ok(release.file_name("tar.gz"))
}
