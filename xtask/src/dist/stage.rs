//! Everything that is shipped, where it lies on a host.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use super::tree::Tree;
use super::{Release, crates, packaging, read};
use crate::process;
use crate::workspace;

pub const BINARY: &str = "usr/bin/penstock";
pub const CONFIGURATION: &str = "etc/penstock/penstock.toml";
const DOCUMENTS: &str = "usr/share/doc/penstock";
/// What the packaged configuration says otherwise than the example does: the unit gives the agent
/// a folder under /run, where the control socket is not among the data.
const SOCKET_IN_EXAMPLE: &str = "# socket = \"/run/penstock/control.sock\"";
const SOCKET: &str = "socket = \"/run/penstock/control.sock\"";
const DATA_DIR: &str = "data_dir = \"/var/lib/penstock\"";

pub fn lay_out(release: &Release, built: &Path) -> anyhow::Result<()> {
    let tree = Tree::begin(&release.stage)?;
    binary(release, &tree, built)?;
    configuration(&tree)?;
    system(&tree)?;
    generated(&tree, built)?;
    documents(&tree)
}

/// The binary without its debug information, which goes into a file that gdb and the agent's own
/// backtraces find as /usr/lib/debug/usr/bin/penstock.debug.
fn binary(release: &Release, tree: &Tree, built: &Path) -> anyhow::Result<()> {
    tree.copy(BINARY, 0o755, built)?;
    let shipped = tree.path(BINARY);
    let debug = tree.path("penstock.debug");
    let link = format!("--add-gnu-debuglink={}", debug.display());
    process::run(
        Command::new("objcopy")
            .arg("--only-keep-debug")
            .args([&shipped, &debug]),
    )?;
    process::run(
        Command::new("strip")
            .args(["--remove-section=.comment", "--remove-section=.note"])
            .arg(&shipped),
    )?;
    process::run(Command::new("objcopy").arg(link).arg(&shipped))?;
    let kept = release.file_name("debug");
    std::fs::rename(&debug, &kept).with_context(|| format!("cannot write {}", kept.display()))
}

/// The commented example with what a service needs.
fn configuration(tree: &Tree) -> anyhow::Result<()> {
    let example = read(&workspace::root().join("agent/penstock.example.toml"))?;
    tree.file(CONFIGURATION, 0o644, packaged_configuration(&example)?)?;
    tree.folder("etc/penstock/conf.d")?;
    tree.folder("etc/penstock/schemas")?;
    Ok(())
}

fn packaged_configuration(example: &str) -> anyhow::Result<String> {
    let count = |line: &str| example.lines().filter(|found| *found == line).count();
    for line in [SOCKET_IN_EXAMPLE, DATA_DIR] {
        ensure!(
            count(line) == 1,
            "the example configuration should have this line once: {line}"
        );
    }
    Ok(example.replace(SOCKET_IN_EXAMPLE, SOCKET))
}

/// What systemd reads.
fn system(tree: &Tree) -> anyhow::Result<()> {
    let units = packaging("systemd");
    let entries =
        std::fs::read_dir(&units).with_context(|| format!("cannot read {}", units.display()))?;
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".service") || name.ends_with(".socket") {
            let path = format!("usr/lib/systemd/system/{name}");
            tree.copy(&path, 0o644, &units.join(&name))?;
        }
    }
    ensure!(
        tree.path("usr/lib/systemd/system/penstock.service")
            .is_file(),
        "packaging/systemd has no penstock.service"
    );
    let sysusers = packaging("sysusers/penstock.conf");
    tree.copy("usr/lib/sysusers.d/penstock.conf", 0o644, &sysusers)
}

/// What the binary says of its own command line.
fn generated(tree: &Tree, built: &Path) -> anyhow::Result<()> {
    let made = tree.folder("generated")?;
    for what in ["man", "completions"] {
        let folder = made.join(what);
        process::run(Command::new(built).args(["generate", what]).arg(folder))?;
    }
    for entry in std::fs::read_dir(made.join("man")).context("cannot list the man pages")? {
        let page = entry?.path();
        let name = page.file_name().unwrap_or_default().to_string_lossy();
        let section = name.rsplit('.').next().unwrap_or_default();
        let path = format!("usr/share/man/man{section}/{name}");
        tree.gzipped(&path, read(&page)?)?;
    }
    for (from, to) in [
        ("penstock.bash", "bash-completion/completions/penstock"),
        ("_penstock", "zsh/vendor-completions/_penstock"),
        ("penstock.fish", "fish/vendor_completions.d/penstock.fish"),
    ] {
        let completions = made.join("completions").join(from);
        tree.copy(&format!("usr/share/{to}"), 0o644, &completions)?;
    }
    std::fs::remove_dir_all(made).context("cannot remove what was generated")
}

fn documents(tree: &Tree) -> anyhow::Result<()> {
    let copyright = packaging("deb/copyright");
    tree.copy(&format!("{DOCUMENTS}/copyright"), 0o644, &copyright)?;
    tree.gzipped(&format!("{DOCUMENTS}/crates.txt"), crates::licences()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packaged_configuration_is_the_example_with_its_socket_under_run() {
        let example = format!("{DATA_DIR}\n[admin]\n{SOCKET_IN_EXAMPLE}\n");
        let packaged = packaged_configuration(&example).expect("both lines are there");
        assert_eq!(packaged, format!("{DATA_DIR}\n[admin]\n{SOCKET}\n"));
        assert!(packaged_configuration(DATA_DIR).is_err(), "no such line");
    }
}
