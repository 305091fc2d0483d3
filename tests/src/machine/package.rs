//! The Debian package around the binary under test.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use super::Machine;
use crate::agent::binary;

/// `cargo xtask dist` around the binary under test; made once in the life of this process.
fn made(version: &str) -> PathBuf {
    static MADE: Mutex<Vec<(String, PathBuf)>> = Mutex::new(Vec::new());
    let mut all = MADE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((_, path)) = all.iter().find(|(made, _)| made == version) {
        return path.clone();
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = workspace.join("target/dist/machine");
    fs::create_dir_all(&output).expect("make a folder");
    // Other test processes make packages too; the lock goes with the file.
    let lock = File::create(output.join("lock")).expect("create the lock");
    // SAFETY: no pointers; the descriptor is open.
    assert_eq!(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) }, 0);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = Command::new(cargo)
        .args(["xtask", "dist", "--profile", "dev", "--version", version])
        .arg("--binary")
        .arg(binary())
        .arg("--output")
        .arg(&output)
        .current_dir(&workspace)
        .output()
        .expect("run cargo");
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let entries = fs::read_dir(&output).expect("read the folder").flatten();
    let begin = format!("penstock_{version}_");
    let package = entries.map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&begin) && name.ends_with(".deb")
    });
    let package = package.expect("a package");
    all.push((version.to_owned(), package.clone()));
    package
}

/// Installs the package, as an administrator does who has downloaded it and keeps what is configured.
/// The service starts, or, on an upgrade, restarts.
pub fn install(machine: &Machine, version: &str) {
    let inside = format!("/root/penstock_{version}.deb");
    fs::copy(made(version), machine.path(&inside)).expect("copy the package");
    machine.run(&["dpkg", "--force-confold", "--install", &inside]);
}
