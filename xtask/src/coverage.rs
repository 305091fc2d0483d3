//! `cargo xtask coverage`: which lines the tests run, by folder.
//!
//! The plan: the compiler's own instrumentation (`-C instrument-coverage`) and LLVM's two programs,
//! nothing else. The tests and the agent's binary are built with it into a folder of their own and
//! run; each process leaves a profile; llvm-profdata merges them, llvm-cov says which line ran how
//! often. `--target` is given so that build scripts and macros, which run while compiling, are not
//! instrumented. The LLVM must be the compiler's: rustup's component llvm-tools has it, and so has
//! Debian under the same major version.
//!
//! Lines of test modules are left out, or they would flatter the result. A process that is killed
//! leaves no profile, so what only a killed agent ran counts as not run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::host::{self, Install, Need};
use crate::outcome::Unavailable;
use crate::process;
use crate::table::{Align, Table, grouped};
use crate::toolchain::Version;
use crate::workspace;

/// Measure line coverage per folder; fails below 90 % where records are parsed, kept and delivered.
#[derive(Debug, clap::Args)]
pub struct Arguments {}

/// The folders that must be covered, and how much of them.
const REQUIRED: [&str; 4] = [
    "agent/src/decode",
    "agent/src/journal",
    "agent/src/sink",
    "agent-common/src",
];
const REQUIRED_PERCENT: f64 = 90.0;

const DEBIAN_LLVM: Need = Need {
    package: "llvm-22",
    why: "llvm-profdata and llvm-cov, for compilers built on LLVM 22",
    is_there: || Path::new("/usr/lib/llvm-22/bin/llvm-cov").exists(),
};

pub fn run(_arguments: Arguments) -> anyhow::Result<()> {
    let llvm = Llvm::find()?;
    let python = host::python(Install::if_root())?;
    let folder = workspace::target().join("coverage");
    let profiles = folder.join("profiles");
    if profiles.exists() {
        std::fs::remove_dir_all(&profiles)
            .with_context(|| format!("cannot remove {}", profiles.display()))?;
    }
    std::fs::create_dir_all(&profiles)
        .with_context(|| format!("cannot make {}", profiles.display()))?;

    let cargo = |arguments: &[&str]| {
        let mut command = process::cargo();
        command
            .args(arguments)
            .args(["--target", &llvm.host])
            .env("CARGO_TARGET_DIR", &folder)
            .env("RUSTFLAGS", "-C instrument-coverage");
        command
    };
    let test = ["test", "--workspace", "--exclude", "agent-ebpf", "--tests"];
    let binary = folder.join(&llvm.host).join("debug/penstock");
    println!("==> build, instrumented");
    process::run(&mut cargo(&["build", "--package", "penstock"]))?;
    let mut objects = test_programs(
        cargo(&test)
            .args(["--no-run", "--message-format", "json-render-diagnostics"])
            .stderr(Stdio::inherit()),
    )?;
    println!("==> test");
    let tests = process::run(
        cargo(&test)
            .arg("--no-fail-fast")
            // %m lets runs of one program share a file; %p would leave one for each process.
            .env("LLVM_PROFILE_FILE", profiles.join("%8m.profraw"))
            .env("PENSTOCK_BIN", &binary)
            .env("PENSTOCK_PYTHON", &python),
    );
    objects.push(binary);

    println!("==> report");
    let merged = folder.join("merged.profdata");
    process::run(
        Command::new(&llvm.profdata)
            .args(["merge", "--sparse", "--output"])
            .arg(&merged)
            .arg(&profiles),
    )?;
    let mut export = Command::new(&llvm.cov);
    export.args(["export", "--format=lcov", "--instr-profile"]);
    export.arg(&merged);
    for object in &objects {
        export.arg("--object").arg(object);
    }
    let files = parse_lcov(&process::capture(&mut export)?);
    let folders = by_folder(&files, workspace::root(), &|file| {
        std::fs::read_to_string(file).ok()
    });
    let short = report(&folders);
    tests.context("the tests failed, so the figures above are not the whole truth")?;
    if !short.is_empty() {
        bail!("below {REQUIRED_PERCENT} %: {}", short.join(", "));
    }
    Ok(())
}

/// LLVM's programs for the compiler that builds the workspace.
struct Llvm {
    /// The compiler's own target.
    host: String,
    profdata: PathBuf,
    cov: PathBuf,
}

impl Llvm {
    fn find() -> anyhow::Result<Self> {
        let rustc = || {
            let mut command =
                Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
            command.current_dir(workspace::root());
            command
        };
        let text = process::capture(rustc().arg("-vV"))?;
        let version = Version::parse(&text).context("rustc -vV names no LLVM version")?;
        let host = text
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .context("rustc -vV names no host")?
            .to_owned();
        let sysroot = process::capture(rustc().args(["--print", "sysroot"]))?;
        let of_rustup = Path::new(sysroot.trim())
            .join("lib/rustlib")
            .join(&host)
            .join("bin");
        let of_debian = PathBuf::from(format!("/usr/lib/llvm-{}/bin", version.llvm));
        if !of_rustup.join("llvm-cov").exists() && !of_debian.join("llvm-cov").exists() {
            if version.llvm != 22 {
                return Err(Unavailable(format!(
                    "llvm-cov of LLVM {} is missing: rustup component add llvm-tools",
                    version.llvm
                ))
                .into());
            }
            host::ensure(&[DEBIAN_LLVM], Install::if_root())?;
        }
        let folder = if of_rustup.join("llvm-cov").exists() {
            of_rustup
        } else {
            of_debian
        };
        Ok(Self {
            host,
            profdata: folder.join("llvm-profdata"),
            cov: folder.join("llvm-cov"),
        })
    }
}

/// The programs that cargo says it built.
fn test_programs(command: &mut Command) -> anyhow::Result<Vec<PathBuf>> {
    let mut programs = Vec::new();
    let status = process::stream(command, |line| {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else {
            return;
        };
        if let Some(program) = message["executable"].as_str() {
            programs.push(PathBuf::from(program));
        }
    })?;
    process::ended_well(command, status)?;
    Ok(programs)
}

/// By file: by line: how often it ran.
type Files = BTreeMap<PathBuf, BTreeMap<u32, u64>>;

/// `SF:file`, then `DA:line,count` for each line with code, then `end_of_record`.
fn parse_lcov(text: &str) -> Files {
    let mut files = Files::new();
    let mut file = PathBuf::new();
    for line in text.lines() {
        if let Some(path) = line.strip_prefix("SF:") {
            file = path.into();
        } else if let Some(data) = line.strip_prefix("DA:") {
            let mut fields = data.split(',');
            let parsed = fields
                .next()
                .and_then(|field| field.parse().ok())
                .zip(fields.next().and_then(|field| field.parse::<u64>().ok()));
            if let Some((number, count)) = parsed {
                *files
                    .entry(file.clone())
                    .or_default()
                    .entry(number)
                    .or_default() += count;
            }
        }
    }
    files
}

/// Lines that ran, and lines there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lines {
    ran: u64,
    all: u64,
}

impl Lines {
    fn percent(self) -> f64 {
        100.0 * self.ran as f64 / self.all.max(1) as f64
    }
}

/// Sums of the files of this workspace by the folder they stand in; `source` reads a file.
fn by_folder(
    files: &Files,
    root: &Path,
    source: &dyn Fn(&Path) -> Option<String>,
) -> BTreeMap<String, Lines> {
    let mut folders = BTreeMap::<String, Lines>::new();
    for (file, lines) in files {
        let Ok(inside) = file.strip_prefix(root) else {
            continue;
        };
        let is_ours = !inside.starts_with("target") && !is_test_file(inside);
        let (true, Some(folder)) = (is_ours, inside.parent()) else {
            continue;
        };
        let Some(text) = source(file) else {
            continue;
        };
        let end = tests_start(&text);
        let sum = folders.entry(folder.display().to_string()).or_default();
        for (&number, &count) in lines {
            if number < end {
                sum.all += 1;
                sum.ran += u64::from(count > 0);
            }
        }
    }
    folders
}

fn is_test_file(inside: &Path) -> bool {
    inside.starts_with("tests")
        || inside.starts_with("benches")
        || inside.ends_with("tests.rs")
        || inside
            .components()
            .any(|component| component.as_os_str() == "tests")
}

/// The line on which a file's test module starts; tests stand at the end of a file.
fn tests_start(text: &str) -> u32 {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .windows(2)
        .position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod "))
        .map_or(u32::MAX, |index| index as u32 + 1)
}

/// Prints the table; the required folders that fall short come back.
fn report(folders: &BTreeMap<String, Lines>) -> Vec<String> {
    let mut table = Table::new(&[
        ("folder", Align::Left),
        ("lines", Align::Right),
        ("run", Align::Right),
        ("", Align::Right),
        ("required", Align::Right),
    ]);
    for (folder, lines) in folders {
        let required = REQUIRED.iter().any(|name| under(folder, name));
        table.row(vec![
            folder.clone(),
            grouped(lines.all),
            grouped(lines.ran),
            format!("{:.1} %", lines.percent()),
            if required {
                format!("{REQUIRED_PERCENT} %")
            } else {
                String::new()
            },
        ]);
    }
    println!("{table}");
    let all: BTreeSet<&String> = folders.keys().collect();
    REQUIRED
        .iter()
        .filter_map(|name| {
            let mut sum = Lines::default();
            for folder in all.iter().filter(|folder| under(folder, name)) {
                sum.ran += folders[*folder].ran;
                sum.all += folders[*folder].all;
            }
            (sum.percent() < REQUIRED_PERCENT)
                .then(|| format!("{name} with {:.1} %", sum.percent()))
        })
        .collect()
}

/// A folder and what stands in it.
fn under(folder: &str, name: &str) -> bool {
    Path::new(folder).starts_with(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LCOV: &str = "\
SF:/w/agent/src/decode/json.rs
FN:3,_RNv1
DA:3,5
DA:4,0
DA:9,7
LF:3
end_of_record
SF:/w/agent/src/decode/json.rs
DA:4,2
end_of_record
SF:/w/agent/src/main.rs
DA:1,0
end_of_record
SF:/rustc/library/core/src/lib.rs
DA:1,1
end_of_record
SF:/w/tests/src/lib.rs
DA:1,1
end_of_record
";

    #[test]
    fn lines_are_summed_by_folder_without_tests_and_strangers() {
        let source = |file: &Path| {
            Some(if file.ends_with("json.rs") {
                // The test module starts on line 7.
                "1\n2\n3\n4\n5\n6\n#[cfg(test)]\nmod tests {\n9\n}\n".to_owned()
            } else {
                "fn main() {}\n".to_owned()
            })
        };
        let folders = by_folder(&parse_lcov(LCOV), Path::new("/w"), &source);
        assert_eq!(
            folders,
            BTreeMap::from([
                ("agent/src".to_owned(), Lines { ran: 0, all: 1 }),
                ("agent/src/decode".to_owned(), Lines { ran: 2, all: 2 }),
            ])
        );
    }

    #[test]
    fn a_required_folder_without_lines_falls_short() {
        let folders = BTreeMap::from([
            ("agent/src/decode".to_owned(), Lines { ran: 95, all: 100 }),
            ("agent/src/journal".to_owned(), Lines { ran: 90, all: 100 }),
            (
                "agent/src/sink/file".to_owned(),
                Lines { ran: 89, all: 100 },
            ),
        ]);
        assert_eq!(
            report(&folders),
            ["agent/src/sink with 89.0 %", "agent-common/src with 0.0 %"]
        );
    }
}
