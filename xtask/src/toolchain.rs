//! Finds a tool chain that can build eBPF: a Rust compiler whose unstable options may be used, the
//! source of `core` that belongs to it, and bpf-linker built on the same LLVM.
//!
//! Two kinds are looked for, in this order:
//! - Debian's `rustc-web` with `rust-web-src`. It is a stable compiler; RUSTC_BOOTSTRAP=1 opens its
//!   unstable options. It is first because its parts match each other and apt-get can install it.
//! - a nightly of rustup with the component rust-src.
//!
//! bpf-linker is taken from `target/tools`, else from PATH, else built there by `cargo install`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::host::{self, Install, Need};
use crate::outcome::Unavailable;
use crate::process::{self, which};
use crate::workspace;

/// The LLVM of Debian's rustc-web; bpf-linker's own feature has the same number.
const DEBIAN_LLVM: u32 = 22;
/// The version that was tried. Its default feature wants a newer LLVM than Debian's.
const BPF_LINKER_VERSION: &str = "0.13.0";

/// What Debian has for it. The versions of the compiler and its LLVM belong together.
const DEBIAN_NEEDS: [Need; 4] = [
    Need {
        package: "rustc-web",
        why: "a Rust compiler whose sources Debian has too (rustup's stable has none here)",
        is_there: || debian().is_some_and(|compiler| compiler.llvm == DEBIAN_LLVM),
    },
    Need {
        package: "cargo-web",
        why: "the cargo that belongs to it",
        is_there: || process::is_executable(Path::new(DEBIAN_CARGO)),
    },
    Need {
        package: "rust-web-src",
        why: "the source of Rust's core library, built for the kernel's target",
        is_there: || debian().is_some_and(|compiler| compiler.has_source()),
    },
    Need {
        package: "llvm-22-dev",
        why: "the LLVM that bpf-linker is built on; the same as the compiler's",
        is_there: || llvm_config(DEBIAN_LLVM).exists(),
    },
];

/// What lints the programs; the object is built without it.
pub const DEBIAN_CLIPPY: Need = Need {
    package: "rust-web-clippy",
    why: "lints the eBPF programs with the compiler that builds them",
    is_there: || debian().is_none() || process::is_executable(Path::new("/usr/bin/cargo-clippy")),
};

const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// Ready to build eBPF.
#[derive(Debug)]
pub struct Toolchain {
    pub compiler: Compiler,
    pub linker: PathBuf,
}

/// A compiler, and where its parts are.
#[derive(Debug)]
pub struct Compiler {
    pub name: String,
    pub cargo: PathBuf,
    pub rustc: PathBuf,
    /// Whether RUSTC_BOOTSTRAP=1 is needed, because it is a stable one.
    pub is_stable: bool,
    sysroot: PathBuf,
    release: String,
    llvm: u32,
}

impl Compiler {
    fn has_source(&self) -> bool {
        self.sysroot
            .join("lib/rustlib/src/rust/library/core/src/lib.rs")
            .exists()
    }

    /// Its cargo.
    pub fn cargo_command(&self) -> Command {
        self.command(&self.cargo)
    }

    /// Its `cargo clippy`, by its own path: cargo would take the first `cargo-clippy` in PATH, and
    /// that one belongs to the compiler that built us. `None` where it has none.
    pub fn clippy_command(&self) -> Option<Command> {
        let program = self.rustc.with_file_name("cargo-clippy");
        process::is_executable(&program).then(|| {
            let mut command = self.command(&program);
            command.env("CARGO", &self.cargo);
            command
        })
    }

    /// With nothing in the environment of the cargo and the compiler that built us.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(workspace::root());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            // Where crates come from and where they are kept is the user's choice.
            let is_kept = text == "CARGO_HOME"
                || text.starts_with("CARGO_HTTP_")
                || text.starts_with("CARGO_NET_")
                || text.starts_with("CARGO_REGISTR");
            if text.starts_with("CARGO") && !is_kept {
                command.env_remove(&name);
            }
        }
        for name in [
            "LD_LIBRARY_PATH",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTC_WRAPPER",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
        ] {
            command.env_remove(name);
        }
        command.env("RUSTC", &self.rustc);
        if self.is_stable {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }
}

impl std::fmt::Display for Toolchain {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} ({}, LLVM {}) and {}",
            self.compiler.name,
            self.compiler.release,
            self.compiler.llvm,
            workspace::shown(&self.linker)
        )
    }
}

/// The tool chain that is there, without installing anything.
pub fn find() -> Option<Toolchain> {
    Some(Toolchain {
        compiler: compiler()?,
        linker: linker()?,
    })
}

/// The tool chain, installed where that is allowed and possible.
pub fn ensure(install: Install) -> anyhow::Result<Toolchain> {
    if let Some(found) = find() {
        return Ok(found);
    }
    if install == Install::No {
        return Err(Unavailable(by_hand()).into());
    }
    if compiler().is_none() {
        println!("No tool chain for eBPF on this host.");
        host::ensure(&DEBIAN_NEEDS, install)
            .map_err(|error| error.context(Unavailable(by_hand())))?;
    }
    let compiler = compiler().ok_or_else(|| Unavailable(by_hand()))?;
    let linker = match linker() {
        Some(linker) => linker,
        None => install_linker(&compiler)?,
    };
    Ok(Toolchain { compiler, linker })
}

/// The commands that make a tool chain, for a host on which we cannot.
pub fn by_hand() -> String {
    let packages: Vec<&str> = DEBIAN_NEEDS.iter().map(|need| need.package).collect();
    let tools = workspace::shown(&workspace::tools());
    format!(
        "no tool chain for eBPF is complete on this host. Either, as root on Debian 12:\n  \
         apt-get update\n  \
         apt-get install --no-install-recommends {}\n  \
         PATH=/usr/lib/llvm-{DEBIAN_LLVM}/bin:$PATH cargo install --root {tools} bpf-linker \
         --version {BPF_LINKER_VERSION} --no-default-features --features llvm-{DEBIAN_LLVM}\n\
         or with rustup:\n  \
         rustup toolchain install nightly --component rust-src\n  \
         cargo install --root {tools} bpf-linker\n\
         and then again: cargo xtask build-ebpf",
        packages.join(" ")
    )
}

fn compiler() -> Option<Compiler> {
    debian()
        .filter(|compiler| {
            compiler.llvm == DEBIAN_LLVM
                && compiler.has_source()
                && process::is_executable(&compiler.cargo)
        })
        .or_else(nightly)
}

fn debian() -> Option<Compiler> {
    described(
        "Debian's rustc-web",
        DEBIAN_CARGO.into(),
        DEBIAN_RUSTC.into(),
        true,
    )
}

/// The first nightly of rustup that has the library's source.
fn nightly() -> Option<Compiler> {
    let list = process::capture(Command::new("rustup").args(["toolchain", "list"])).ok()?;
    list.lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with("nightly"))
        .find_map(|name| {
            let which = |program: &str| {
                process::capture(Command::new("rustup").args([
                    "which",
                    "--toolchain",
                    name,
                    program,
                ]))
                .ok()
                .map(|path| PathBuf::from(path.trim()))
            };
            described(
                &format!("rustup's {name}"),
                which("cargo")?,
                which("rustc")?,
                false,
            )
            .filter(Compiler::has_source)
        })
}

/// Asks the compiler what it is. `None` where it is not there or does not run.
fn described(name: &str, cargo: PathBuf, rustc: PathBuf, is_stable: bool) -> Option<Compiler> {
    let ask = |arguments: &[&str]| {
        process::capture(
            Command::new(&rustc)
                .args(arguments)
                .env_remove("LD_LIBRARY_PATH"),
        )
        .ok()
    };
    let version = Version::parse(&ask(&["-vV"])?)?;
    Some(Compiler {
        name: name.to_owned(),
        sysroot: ask(&["--print", "sysroot"])?.trim().into(),
        cargo,
        rustc,
        is_stable,
        release: version.release,
        llvm: version.llvm,
    })
}

/// What `rustc -vV` says of itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Version {
    pub release: String,
    /// LLVM's major version.
    pub llvm: u32,
}

impl Version {
    pub fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        Some(Self {
            release: field("release: ")?.trim().to_owned(),
            llvm: field("LLVM version: ")?
                .trim()
                .split('.')
                .next()?
                .parse()
                .ok()?,
        })
    }
}

fn linker() -> Option<PathBuf> {
    Some(workspace::tools().join("bin/bpf-linker"))
        .filter(|linker| process::is_executable(linker))
        .or_else(|| which("bpf-linker"))
}

fn llvm_config(major: u32) -> PathBuf {
    format!("/usr/lib/llvm-{major}/bin/llvm-config").into()
}

/// Half a minute on two cores; once.
fn install_linker(compiler: &Compiler) -> anyhow::Result<PathBuf> {
    let llvm_config = llvm_config(compiler.llvm);
    if !llvm_config.exists() {
        return Err(Unavailable(by_hand()).into());
    }
    println!(
        "Building bpf-linker {BPF_LINKER_VERSION} into {}: it links eBPF objects with the \
         compiler's own LLVM.",
        workspace::shown(&workspace::tools())
    );
    // With another llvm-config first in PATH it would link against that LLVM and fail.
    let mut path = llvm_config
        .parent()
        .expect("llvm-config stands in a folder")
        .as_os_str()
        .to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = process::cargo();
    command
        .args(["install", "--quiet", "--root"])
        .arg(workspace::tools())
        .args(["bpf-linker", "--version", BPF_LINKER_VERSION])
        .args(["--no-default-features", "--features"])
        .arg(format!("llvm-{}", compiler.llvm))
        .env("CARGO_TARGET_DIR", workspace::tools().join("build"))
        .env("PATH", path);
    process::run(&mut command)
        .map_err(|error| Unavailable(format!("bpf-linker does not build: {error:#}")))?;
    Ok(workspace::tools().join("bin/bpf-linker"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_says_its_version() {
        let text = "\
rustc 1.96.0 (ac68faa20 2026-05-25)
binary: rustc
commit-hash: unknown
host: x86_64-unknown-linux-gnu
release: 1.96.0
LLVM version: 22.1.8
";
        assert_eq!(
            Version::parse(text),
            Some(Version {
                release: "1.96.0".into(),
                llvm: 22
            })
        );
        assert_eq!(Version::parse("rustc 1.63.0\n"), None);
    }
}
