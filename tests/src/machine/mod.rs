//! A Debian with a systemd of its own, booted in namespaces of the test's own in about a second:
//! what a service manager does to the agent is done by the real one.
//!
//! The machine shares the kernel with the host, and the network namespace with the test: what it
//! listens on, the test's own sockets reach on 127.0.0.1. What it writes is in memory and goes with
//! it. It ends with the test, however that ends.

pub mod package;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::agent::wait_for;
use crate::netns;

/// A boot takes about a second; two cores shared by others take longer.
const BOOT_MAX: Duration = Duration::from_secs(60);
const SCRIPT: &str = include_str!("boot.sh");

/// A booted machine.
pub struct Machine {
    /// Outside of the machine; its death is the machine's.
    child: Child,
    /// The machine's process 1, as the host knows it.
    init: u32,
    cgroup: PathBuf,
    folder: TempDir,
}

/// Runs `body` with a booted machine. Where there can be none the test is skipped and says so; in CI
/// that is a failure.
pub fn booted_or_skip(test: &'static str, body: impl FnOnce(&Machine) + Send + 'static) {
    if !netns::privileged_or_skip(test) {
        return;
    }
    let (lower, cgroups) = match (debian_root(), cgroups()) {
        (Ok(lower), Ok(cgroups)) => (lower, cgroups),
        (Err(why), _) | (_, Err(why)) => return netns::skip(test, &why),
    };
    netns::run(move || {
        let machine = Machine::boot(&lower, &cgroups);
        body(&machine);
    })
    .expect("a network namespace");
}

/// The root that `cargo xtask` has made.
fn debian_root() -> Result<PathBuf, String> {
    let named = std::env::var_os("PENSTOCK_DEBIAN_ROOT").map(PathBuf::from);
    let root =
        named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debian"));
    match root.join("lib/systemd/systemd").exists() {
        true => root.canonicalize().map_err(|error| error.to_string()),
        false => Err(format!(
            "there is no Debian root at {} (`cargo xtask test` makes it)",
            root.display()
        )),
    }
}

/// Where the host has mounted its control groups, version 2.
fn cgroups() -> Result<PathBuf, String> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read the mounts");
    let mounts = mounts.lines().map(|line| line.split(' '));
    let mut found = mounts.filter_map(|mut fields| Some((fields.nth(1)?, fields.next()?)));
    let found = found.find(|(_, kind)| *kind == "cgroup2");
    found
        .map(|(at, _)| at.into())
        .ok_or_else(|| "the host has mounted no cgroup2".to_owned())
}

impl Machine {
    fn boot(lower: &Path, cgroups: &Path) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = TempDir::with_prefix("penstock-machine-").expect("a temporary folder");
        let script = folder.path().join("boot.sh");
        let root = folder.path().join("machine");
        fs::write(&script, SCRIPT).expect("write the script");
        fs::create_dir(&root).expect("make a folder");
        let cgroup = cgroups.join(format!("penstock-test-{}-{number}", std::process::id()));
        fs::create_dir(&cgroup).expect("make a control group");
        let log = fs::File::create(folder.path().join("boot.log")).expect("create the log");
        let mut command = Command::new("sh");
        command.arg(&script).arg("outside").arg(&cgroup);
        command.arg(lower).arg(&root).current_dir("/");
        command.stdin(Stdio::null());
        command
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe. The
        // machine must not outlive a test that is killed.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let child = command.spawn().expect("start the machine");
        let mut machine = Self {
            child,
            init: 0,
            cgroup,
            folder,
        };
        machine.init = wait_for("the machine has a process 1", BOOT_MAX, || {
            machine.assert_alive();
            machine.find_init()
        });
        wait_for("the machine has booted", BOOT_MAX, || {
            machine.assert_alive();
            let said = machine.output(&["systemctl", "is-system-running"]).stdout;
            matches!(said.trim_ascii(), b"running" | b"degraded").then_some(())
        });
        machine
    }

    fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().expect("wait") {
            let log = fs::read_to_string(self.folder.path().join("boot.log")).unwrap_or_default();
            panic!("the machine ended with {status} while it booted:\n{log}");
        }
    }

    /// Once it is systemd: before, it is a shell that is still mounting.
    fn find_init(&self) -> Option<u32> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        let init: u32 = children.split_whitespace().next()?.parse().ok()?;
        let name = fs::read_to_string(format!("/proc/{init}/comm")).ok()?;
        (name.trim() == "systemd").then_some(init)
    }

    /// Runs a program as the machine's root and waits for its end.
    pub fn output(&self, arguments: &[&str]) -> Output {
        Command::new("nsenter")
            .arg("--target")
            .arg(self.init.to_string())
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"])
            .args(["--root", "--wd", "--"])
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("SYSTEMD_PAGER", "")
            .stdin(Stdio::null())
            .output()
            .expect("run nsenter")
    }

    /// The same, which must end well; what it wrote to standard output.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{arguments:?} ended with {}:\n{said}{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            self.journal(),
        );
        said
    }

    /// A path of the machine, as the test sees it.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    pub fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    pub fn write(&self, path: &str, content: &str) {
        let inside = self.path(path);
        fs::create_dir_all(inside.parent().expect("a folder")).expect("make a folder");
        fs::write(inside, content).unwrap_or_else(|error| panic!("write {path}: {error}"));
    }

    /// What systemd says of the service.
    pub fn service(&self, property: &str) -> String {
        let said = self.run(&["systemctl", "show", "--value", "-p", property, "penstock"]);
        said.trim().to_owned()
    }

    /// The service's main process, as the host knows it.
    pub fn main_process(&self) -> u32 {
        let inside = self.service("MainPID");
        assert_ne!(inside, "0", "the service does not run:\n{}", self.journal());
        let status = |id: &str| fs::read_to_string(format!("/proc/{id}/status")).ok();
        let processes = fs::read_to_string(
            self.cgroup
                .join("system.slice/penstock.service/cgroup.procs"),
        );
        let processes = processes.expect("the service's control group");
        let is_main = |id: &&str| {
            let status = status(id).unwrap_or_default();
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            ids.and_then(|ids| ids.split_whitespace().last()) == Some(&inside)
        };
        let found = processes.lines().find(is_main);
        found
            .and_then(|id| id.parse().ok())
            .expect("the main process")
    }

    /// The service's log, with what systemd says of it.
    pub fn journal(&self) -> String {
        let output = self.output(&["journalctl", "--unit=penstock", "--no-pager", "-o", "cat"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the service's journal:\n{}", self.journal());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Processes leave a control group a moment after their end.
        for _ in 0..200 {
            remove_group(&self.cgroup);
            if !self.cgroup.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("{} is still in use", self.cgroup.display());
    }
}

/// A control group goes with its last process and its last child.
fn remove_group(group: &Path) {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_group(&entry.path());
    }
    let _ = fs::remove_dir(group);
}
