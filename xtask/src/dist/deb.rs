//! The Debian package: the staged tree, its changelog, and the control files, by dpkg-deb.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;

use super::stage::{BINARY, CONFIGURATION};
use super::tree::Tree;
use super::{Release, dependencies, packaging, read};
use crate::process;

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

pub fn make(release: &Release) -> anyhow::Result<PathBuf> {
    let root = release.output.join("deb");
    let tree = Tree::begin(&root)?;
    process::run(
        Command::new("cp")
            .args(["--archive", "--no-target-directory"])
            .args([&release.stage, &root]),
    )?;
    let date = process::capture(Command::new("date").args([
        "--utc",
        "--rfc-email",
        &format!("--date=@{}", release.epoch),
    ]))?;
    let changelog = changelog(&release.version, &maintainer(), date.trim());
    tree.gzipped("usr/share/doc/penstock/changelog", changelog)?;

    let files = tree.files()?;
    let md5sums = md5sums(&tree, &files)?;
    let depends = dependencies::of(&tree.path(BINARY), &release.output.join("shlibdeps"))?;
    let installed_size = installed_size(&tree, &files)?.to_string();
    let control = filled(
        &read(&packaging("deb/control"))?,
        &[
            ("@VERSION@", &release.version),
            ("@ARCHITECTURE@", &release.architecture),
            ("@MAINTAINER@", &maintainer()),
            ("@INSTALLED_SIZE@", &installed_size),
            ("@DEPENDS@", &depends),
        ],
    );
    tree.file("DEBIAN/control", 0o644, control)?;
    tree.file("DEBIAN/md5sums", 0o644, md5sums)?;
    tree.file("DEBIAN/conffiles", 0o644, format!("/{CONFIGURATION}\n"))?;
    for script in SCRIPTS {
        let from = packaging("deb").join(script);
        tree.copy(&format!("DEBIAN/{script}"), 0o755, &from)?;
    }

    let package = release.file_name("deb");
    process::run(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Zxz"])
            .arg(if release.quick { "-z0" } else { "-z6" })
            .arg("--build")
            .args([&root, &package])
            // Times beyond it are cut to it: no file is older than the sources.
            .env("SOURCE_DATE_EPOCH", release.epoch.to_string())
            .stdout(std::process::Stdio::null()),
    )?;
    for scratch in [&root, &release.output.join("shlibdeps")] {
        std::fs::remove_dir_all(scratch)
            .with_context(|| format!("cannot remove {}", scratch.display()))?;
    }
    Ok(package)
}

/// As Debian's tools take it: DEBFULLNAME and DEBEMAIL.
fn maintainer() -> String {
    let said = |name, otherwise: &str| std::env::var(name).unwrap_or_else(|_| otherwise.to_owned());
    let name = said("DEBFULLNAME", "Penstock maintainers");
    let address = said("DEBEMAIL", "penstock@localhost.localdomain");
    format!("{name} <{address}>")
}

fn changelog(version: &str, maintainer: &str, date: &str) -> String {
    format!(
        "penstock ({version}) unstable; urgency=medium\n\n  \
         * Built from the sources of this version; their history is the changelog.\n\n \
         -- {maintainer}  {date}\n"
    )
}

fn filled(template: &str, values: &[(&str, &str)]) -> String {
    let start = template.to_owned();
    values
        .iter()
        .fold(start, |text, (name, value)| text.replace(name, value))
}

/// What `dpkg --verify` compares; conffiles are not among them, as they may be changed.
fn md5sums(tree: &Tree, files: &[String]) -> anyhow::Result<String> {
    let files = files.iter().filter(|file| *file != CONFIGURATION);
    process::capture(
        Command::new("md5sum")
            .arg("--")
            .args(files)
            .current_dir(tree.path("")),
    )
}

/// In KiB, each file rounded up, as Debian's policy (5.6.20) describes it.
fn installed_size(tree: &Tree, files: &[String]) -> anyhow::Result<u64> {
    files.iter().try_fold(0, |sum, file| {
        let path = tree.path(file);
        let metadata = path
            .symlink_metadata()
            .with_context(|| format!("cannot look at {}", path.display()))?;
        Ok(sum + metadata.len().div_ceil(1024))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_control_file_is_filled() {
        let template = read(&packaging("deb/control")).expect("the control file");
        let names = ["@VERSION@", "@ARCHITECTURE@", "@MAINTAINER@"];
        let names = names.iter().chain(&["@INSTALLED_SIZE@", "@DEPENDS@"]);
        let values: Vec<(&str, &str)> = names.map(|name| (*name, "1")).collect();
        for (name, _) in &values {
            assert!(template.contains(name), "{name}");
        }
        assert!(!filled(&template, &values).contains('@'));
    }
}
