//! What the host has and lacks: a table of needs, and one way to meet them.
//!
//! A need is a Debian package, the proof that it is there, and why it is wanted. Root on a Debian
//! gets what is missing by apt-get, told before; anybody else gets the commands to type. Python
//! packages go into `target/python`, and programs that would start a service when installed are
//! unpacked into `target/tools`. Nothing else on the host is written.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::outcome::Unavailable;
use crate::process::{self, which};
use crate::workspace;

/// One thing a command cannot do without.
#[derive(Clone, Copy)]
pub struct Need {
    pub package: &'static str,
    pub why: &'static str,
    pub is_there: fn() -> bool,
}

pub const C_COMPILER: Need = Need {
    package: "gcc",
    why: "links Rust programs and builds zstd's C library",
    is_there: || which("cc").is_some(),
};

pub const C_LIBRARY_HEADERS: Need = Need {
    package: "libc6-dev",
    why: "the C library's headers, for the same",
    is_there: || {
        succeeds(Command::new("cc").args([
            "-fsyntax-only",
            "-include",
            "stdio.h",
            "-xc",
            "/dev/null",
        ]))
    },
};

const PYTHON: Need = Need {
    package: "python3",
    why: "runs fastavro and DuckDB, the independent readers of our files",
    is_there: || which("python3").is_some(),
};

const PYTHON_VENV: Need = Need {
    package: "python3-venv",
    why: "keeps the Python packages in target/python",
    is_there: || succeeds(Command::new("python3").args(["-c", "import venv, ensurepip"])),
};

pub const ZSTD: Need = Need {
    package: "zstd",
    why: "zstdcat, which undoes our compressed JSON lines",
    is_there: || which("zstdcat").is_some(),
};

pub const JQ: Need = Need {
    package: "jq",
    why: "reads our JSON lines without our code",
    is_there: || which("jq").is_some(),
};

pub const IPROUTE: Need = Need {
    package: "iproute2",
    why: "makes the network namespaces of the kernel tests",
    is_there: || which("ip").is_some(),
};

/// Whether a command is there and ends with 0; what it says is nobody's business.
fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether missing things may be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Install {
    /// By root, with apt-get.
    Yes,
    No,
}

impl Install {
    /// What `demo` and `test` do: root installs, a plain user is told.
    pub fn if_root() -> Self {
        if process::is_root() {
            Self::Yes
        } else {
            Self::No
        }
    }
}

/// Meets all needs, or says with the exact commands what is missing.
pub fn ensure(needs: &[Need], install: Install) -> anyhow::Result<()> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    println!("Missing on this host:");
    for need in &missing {
        println!("  {:<18} {}", need.package, need.why);
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let by_hand = format!(
        "  sudo apt-get update\n  sudo apt-get install --no-install-recommends {}",
        packages.join(" ")
    );
    if install == Install::No || !process::is_root() || which("apt-get").is_none() {
        return Err(Unavailable(format!(
            "packages are missing; as root on Debian:\n{by_hand}"
        ))
        .into());
    }
    println!("Installing them with apt-get, because this runs as root. This can take minutes.");
    apt_install(&packages).map_err(|error| {
        Unavailable(format!(
            "apt-get could not install them ({error:#}); by hand:\n{by_hand}"
        ))
    })?;
    let still: Vec<&str> = self::missing(needs)
        .iter()
        .map(|need| need.package)
        .collect();
    if !still.is_empty() {
        return Err(Unavailable(format!(
            "apt-get installed {0}, and what it is wanted for is still not there: this release of \
             the distribution has a {0} that is too old or different",
            still.join(" ")
        ))
        .into());
    }
    Ok(())
}

fn missing(needs: &[Need]) -> Vec<Need> {
    needs
        .iter()
        .filter(|need| !(need.is_there)())
        .copied()
        .collect()
}

/// Apt's lists are refreshed once in the life of this process.
fn apt_update() -> anyhow::Result<()> {
    static UPDATED: OnceLock<()> = OnceLock::new();
    if UPDATED.get().is_none() {
        process::run(Command::new("apt-get").args(["update", "-qq"]))?;
        UPDATED.get_or_init(|| ());
    }
    Ok(())
}

fn apt_install(packages: &[&str]) -> anyhow::Result<()> {
    apt_update()?;
    process::run(
        Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            // A line for each package says nothing new; errors go to standard error.
            .stdout(Stdio::null()),
    )
}

/// The folder with `prometheus` and `promtool`; `None` where a shell finds them anyway.
///
/// Debian's package is unpacked and not installed: installing it starts a server on port 9090.
pub fn prometheus(install: Install) -> anyhow::Result<Option<PathBuf>> {
    if which("prometheus").is_some() && which("promtool").is_some() {
        return Ok(None);
    }
    let unpacked = workspace::tools().join("prometheus");
    let programs = unpacked.join("usr/bin");
    if process::is_executable(&programs.join("prometheus")) {
        return Ok(Some(programs));
    }
    println!("Missing on this host:");
    println!(
        "  {:<18} a real server to scrape the agent, and promtool to check its metrics",
        "prometheus"
    );
    let shown = workspace::shown(&unpacked);
    let by_hand = format!(
        "  sudo apt-get update\n  mkdir -p {shown} && cd {shown}\n  apt-get download prometheus && dpkg-deb -x prometheus_*.deb ."
    );
    if install == Install::No || which("apt-get").is_none() {
        return Err(Unavailable(format!("prometheus is missing:\n{by_hand}")).into());
    }
    println!("Unpacking Debian's package into {shown}: nothing is installed, no service starts.");
    unpack("prometheus", &unpacked).map_err(|error| {
        Unavailable(format!(
            "prometheus could not be unpacked ({error:#}); by hand:\n{by_hand}"
        ))
    })?;
    Ok(Some(programs))
}

fn unpack(package: &str, folder: &std::path::Path) -> anyhow::Result<()> {
    if process::is_root() {
        apt_update()?;
    }
    std::fs::create_dir_all(folder)?;
    process::run(
        Command::new("apt-get")
            .args(["download", "-qq", package])
            .current_dir(folder),
    )?;
    let archive = std::fs::read_dir(folder)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| anyhow::anyhow!("apt-get download left no .deb file"))?;
    process::run(Command::new("dpkg-deb").arg("-x").arg(archive).arg(folder))
}

/// Python packages that read our files and our frames without our code.
const PYTHON_PACKAGES: [&str; 3] = ["fastavro[snappy,zstandard]", "duckdb", "protobuf"];
const PYTHON_PROOF: &str = "
import fastavro, duckdb, google.protobuf
try: import compression.zstd
except ImportError:
    try: import backports.zstd
    except ImportError: import zstandard
import io
fastavro.writer(io.BytesIO(), 'long', [1], codec='snappy')
";

/// A Python with fastavro, duckdb and protobuf, in `target/python`.
pub fn python(install: Install) -> anyhow::Result<PathBuf> {
    let folder = workspace::target().join("python");
    let python = folder.join("bin/python");
    let proven = || succeeds(Command::new(&python).args(["-c", PYTHON_PROOF]));
    if proven() {
        return Ok(python);
    }
    ensure(&[PYTHON, PYTHON_VENV], install)?;
    let shown = workspace::shown(&folder);
    println!(
        "Installing into {shown}: {}, to read the files without our code.",
        PYTHON_PACKAGES.join(", ")
    );
    let make = || -> anyhow::Result<()> {
        process::run(
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(&folder),
        )?;
        process::run(
            Command::new(&python)
                .args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                ])
                .args(PYTHON_PACKAGES),
        )
    };
    make().map_err(|error| {
        let packages: Vec<String> = PYTHON_PACKAGES.map(|name| format!("'{name}'")).into();
        Unavailable(format!(
            "the Python packages could not be installed ({error:#}); by hand:\n  \
             python3 -m venv --clear {shown}\n  {shown}/bin/python -m pip install {}",
            packages.join(" ")
        ))
    })?;
    if !proven() {
        return Err(Unavailable(format!(
            "{shown} was made, but it cannot import fastavro, duckdb, protobuf and zstandard, or has no snappy"
        ))
        .into());
    }
    Ok(python)
}

const DEBOOTSTRAP: Need = Need {
    package: "debootstrap",
    why: "makes a clean root of this distribution, in which the package is installed and run",
    is_there: || which("debootstrap").is_some(),
};

/// A clean root of this host's own distribution, with systemd and little else, in `target/debian`. It
/// takes half a minute and 240 MB; tests boot it under an overlay and never change it.
pub fn debian_root(install: Install) -> anyhow::Result<PathBuf> {
    let root = workspace::target().join("debian");
    if root.join("lib/systemd/systemd").exists() {
        return Ok(root);
    }
    ensure(&[DEBOOTSTRAP], install)?;
    if !process::is_root() {
        return Err(Unavailable("debootstrap needs root".into()).into());
    }
    let (release, mirror) = release_and_mirror()?;
    println!(
        "Making {}: {release}, by debootstrap from the mirror that apt uses here.",
        workspace::shown(&root)
    );
    let unfinished = workspace::target().join("debian.unfinished");
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished)?;
    }
    std::fs::create_dir_all(&unfinished)?;
    let made = process::run(
        Command::new("debootstrap")
            .args(["--variant=minbase", "--include=systemd,systemd-sysv"])
            .args([&release, &unfinished.display().to_string(), &mirror])
            .stdin(Stdio::null())
            // A line for each package says nothing new; errors go to standard error.
            .stdout(Stdio::null()),
    );
    made.map_err(|error| {
        Unavailable(format!(
            "debootstrap could not make {} ({error:#}); its log is in debootstrap/ there",
            workspace::shown(&unfinished)
        ))
    })?;
    std::fs::rename(&unfinished, &root)?;
    Ok(root)
}

/// This host's release, and the mirror from which apt gets it.
fn release_and_mirror() -> anyhow::Result<(String, String)> {
    let about = std::fs::read_to_string("/etc/os-release")?;
    let release = about
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .ok_or_else(|| Unavailable("/etc/os-release names no VERSION_CODENAME".into()))?;
    let sources = process::capture(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(RELEASE) $(COMPONENT) $(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    let mirror = mirror_of(&sources, release)
        .ok_or_else(|| Unavailable(format!("apt has no source for {release}'s component main")))?;
    Ok((release.to_owned(), mirror.to_owned()))
}

/// From lines of release, component and address.
fn mirror_of<'a>(sources: &'a str, release: &str) -> Option<&'a str> {
    let begin = format!("{release} main ");
    sources.lines().find_map(|line| line.strip_prefix(&begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_the_release_itself() {
        let sources = "bookworm-updates main http://one.example/debian/\n\
                       nodistro main http://two.example/\n\
                       bookworm main http://three.example/debian/\n";
        assert_eq!(
            mirror_of(sources, "bookworm"),
            Some("http://three.example/debian/")
        );
        assert_eq!(mirror_of(sources, "trixie"), None);
    }
}
