//! `cargo xtask test`: everything that must hold, in one command. CI runs this and nothing else.
//!
//! The plan:
//! 1. What the host needs is looked for. Root gets what is missing installed; a plain user is told,
//!    and the tests that wanted it skip themselves with a line that starts `SKIPPED:`. Only the C
//!    compiler is indispensable. With CI=true in the environment a skip is the test's own failure.
//! 2. The eBPF object is built, before the agent that embeds it.
//! 3. Formatting, then clippy with warnings denied: of the workspace, and of the eBPF programs for
//!    their own target.
//! 4. The binary is built, for the tests that run it: PENSTOCK_BIN names it.
//! 5. All tests of the workspace: unit, simulation, interop, kernel, end to end.
//! 6. The end-to-end and crash tests once more, with every agent under a seccomp filter that refuses io_uring
//!    and eBPF: over epoll, with the gate in user space.
//! 7. The documentation is built with warnings denied.
//!
//! A step that fails does not keep later ones from running, unless they need its result. The last
//! line is `N passed, N failed, N skipped`. It counts tests; a step that failed without a failing
//! test counts as one failure, so that a run is good exactly where the line says `0 failed`.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::host::{self, Install};
use crate::outcome::Unavailable;
use crate::process;
use crate::table::{Align, Table};
use crate::test_output::{Counts, Reader};
use crate::toolchain::{self, Toolchain};
use crate::{build_ebpf, dist, workspace};

/// Run everything that must hold: format, lints, unit, simulation, interop, kernel, end-to-end.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only what needs no installing and little time: format, clippy, unit tests.
    #[arg(long)]
    quick: bool,
    /// Only tests whose name contains this; no format, lints or documentation.
    filter: Option<String>,
}

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut report = Report::default();
    let lints = arguments.filter.is_none();
    let everything = !arguments.quick;

    let mut environment = Environment::default();
    let mut toolchain = None;
    if everything {
        report.step("host needs", || host_needs(&mut environment))?;
        report.step("build-ebpf", || ebpf(&mut toolchain))?;
    }
    if lints {
        report.step("format", || {
            finished(process::cargo().args(["fmt", "--all", "--check"]))
        })?;
        report.step("clippy", || {
            finished(process::cargo().args([
                "clippy",
                "--quiet",
                "--workspace",
                "--exclude",
                "agent-ebpf",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ]))
        })?;
    }
    if lints && everything {
        report.step("clippy of the eBPF programs", || {
            ebpf_clippy(toolchain.as_ref())
        })?;
    }
    if everything {
        report.step("build the agent", || build_agent(&mut environment))?;
    }
    let mut counts = Counts::default();
    report.step("tests", || tests(&arguments, &environment, &mut counts))?;
    if everything {
        report.step(
            "end-to-end and crash tests without io_uring and eBPF",
            || tests_forbidden(&arguments, &environment, &mut counts),
        )?;
    }
    if lints && everything {
        report.step("documentation", || {
            finished(
                process::cargo()
                    .args(["doc", "--quiet", "--workspace", "--exclude", "agent-ebpf"])
                    .args(["--no-deps", "--document-private-items"])
                    // What documents an internal item may link to another: nobody publishes this.
                    .env(
                        "RUSTDOCFLAGS",
                        "-D warnings -A rustdoc::private_intra_doc_links",
                    ),
            )
        })?;
    }
    report.conclude(&counts)
}

/// What the steps before found, for the tests.
#[derive(Debug, Default)]
struct Environment {
    python: Option<PathBuf>,
    /// A folder for PATH, where Prometheus had to be unpacked.
    prometheus: Option<PathBuf>,
    binary: Option<PathBuf>,
    /// A root with a systemd that boots.
    debian: Option<PathBuf>,
}

impl Environment {
    fn apply(&self, command: &mut Command) {
        if let Some(python) = &self.python {
            command.env("PENSTOCK_PYTHON", python);
        }
        if let Some(binary) = &self.binary {
            command.env("PENSTOCK_BIN", binary);
        }
        if let Some(root) = &self.debian {
            command.env("PENSTOCK_DEBIAN_ROOT", root);
        }
        if let Some(folder) = &self.prometheus {
            let mut path = folder.clone().into_os_string();
            path.push(":");
            path.push(std::env::var_os("PATH").unwrap_or_default());
            command.env("PATH", path);
        }
    }
}

/// How a step ended.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    Passed,
    /// It ran and found fault, which it has printed.
    Failed,
    /// Tests failed, which are counted themselves.
    FailedTests,
    /// It could not run here; why.
    Skipped(String),
}

fn host_needs(environment: &mut Environment) -> anyhow::Result<Ending> {
    let install = Install::if_root();
    host::ensure(&[host::C_COMPILER, host::C_LIBRARY_HEADERS], install)?;
    let mut lacking = Vec::new();
    match host::python(install) {
        Ok(python) => environment.python = Some(python),
        Err(error) => lacking.push(("Python readers", error)),
    }
    match host::prometheus(install) {
        Ok(folder) => environment.prometheus = folder,
        Err(error) => lacking.push(("Prometheus", error)),
    }
    if let Err(error) = host::ensure(&[host::IPROUTE], install) {
        lacking.push(("iproute2", error));
    }
    if let Err(error) = host::ensure(&[host::ZSTD, host::JQ], install) {
        lacking.push(("zstd and jq", error));
    }
    if let Err(error) = host::ensure(&dist::NEEDS, install) {
        lacking.push(("Debian's packaging tools", error));
    }
    match host::debian_root(install) {
        Ok(root) => environment.debian = Some(root),
        Err(error) => lacking.push(("a Debian root", error)),
    }
    if lacking.is_empty() {
        return Ok(Ending::Passed);
    }
    let mut names = Vec::new();
    for (name, error) in lacking {
        println!("{error:#}");
        names.push(name);
    }
    Ok(Ending::Skipped(format!("without {}", names.join(", "))))
}

fn ebpf(found: &mut Option<Toolchain>) -> anyhow::Result<Ending> {
    match build_ebpf::build(Install::if_root()) {
        Ok(toolchain) => {
            *found = Some(toolchain);
            Ok(Ending::Passed)
        }
        Err(error) if error.downcast_ref::<Unavailable>().is_some() => {
            println!("{error:#}");
            Ok(Ending::Skipped("no tool chain for eBPF".into()))
        }
        Err(error) => {
            println!("{error:#}");
            Ok(Ending::Failed)
        }
    }
}

fn ebpf_clippy(toolchain: Option<&Toolchain>) -> anyhow::Result<Ending> {
    let Some(toolchain) = toolchain else {
        return Ok(Ending::Skipped("the object was not built".into()));
    };
    // Where it cannot be had, the step says so below.
    if let Err(error) = host::ensure(&[toolchain::DEBIAN_CLIPPY], Install::if_root()) {
        println!("{error:#}");
    }
    match build_ebpf::clippy(toolchain) {
        Some(mut command) => finished(&mut command),
        None => Ok(Ending::Skipped(format!(
            "{} has no clippy",
            toolchain.compiler.name
        ))),
    }
}

fn build_agent(environment: &mut Environment) -> anyhow::Result<Ending> {
    let ending = finished(process::cargo().args(["build", "--package", "penstock"]))?;
    if ending == Ending::Passed {
        environment.binary = Some(workspace::target().join("debug/penstock"));
    }
    Ok(ending)
}

fn tests(
    arguments: &Arguments,
    environment: &Environment,
    counts: &mut Counts,
) -> anyhow::Result<Ending> {
    let mut command = process::cargo();
    command.args(["test", "--workspace", "--exclude", "agent-ebpf"]);
    command.arg("--no-fail-fast");
    if arguments.quick {
        command.args(["--lib", "--bins"]);
    }
    counted(command, arguments, environment, counts)
}

/// The hosts that the default seccomp profiles of containers make: the tests' own helper
/// (`agent::forbid`) installs the filter in each agent that they start.
fn tests_forbidden(
    arguments: &Arguments,
    environment: &Environment,
    counts: &mut Counts,
) -> anyhow::Result<Ending> {
    let mut command = process::cargo();
    command.args(["test", "--package", "penstock-tests"]);
    command.args(["--test", "e2e_*", "--test", "crash_*"]);
    command.arg("--no-fail-fast");
    command.env("PENSTOCK_TEST_FORBID", "io_uring,bpf");
    counted(command, arguments, environment, counts)
}

/// Runs a `cargo test` and adds what it counts.
fn counted(
    mut command: Command,
    arguments: &Arguments,
    environment: &Environment,
    counts: &mut Counts,
) -> anyhow::Result<Ending> {
    // What passing tests print is asked for because a skip is such a line; `Reader` shows no other.
    command.args(["--", "--show-output"]);
    command.args(&arguments.filter);
    // Colours would stand in front of the words that `Reader` looks for.
    command.env("CARGO_TERM_COLOR", "never");
    environment.apply(&mut command);
    let mut reader = Reader::new();
    let status = process::stream_all(&mut command, |line| {
        if let Some(line) = reader.line(line) {
            println!("{line}");
        }
    })?;
    let found = reader.counts();
    let ending = match (found.failed, status.success()) {
        (0, true) => Ending::Passed,
        (0, false) => Ending::Failed,
        _ => Ending::FailedTests,
    };
    counts.add(found);
    Ok(ending)
}

fn finished(command: &mut Command) -> anyhow::Result<Ending> {
    Ok(match process::run(command) {
        Ok(()) => Ending::Passed,
        Err(error) => {
            println!("{error:#}");
            Ending::Failed
        }
    })
}

/// The steps so far.
#[derive(Debug, Default)]
struct Report {
    steps: Vec<(&'static str, Ending, Duration)>,
}

impl Report {
    /// Runs a step between two lines that say so. An error ends the whole command: nothing can be
    /// said about what follows.
    fn step(
        &mut self,
        name: &'static str,
        step: impl FnOnce() -> anyhow::Result<Ending>,
    ) -> anyhow::Result<()> {
        println!("==> {name}");
        let start = Instant::now();
        let ending = step()?;
        let took = start.elapsed();
        println!("<== {name}: {} in {}", word(&ending), seconds(took));
        self.steps.push((name, ending, took));
        Ok(())
    }

    fn conclude(self, counts: &Counts) -> anyhow::Result<()> {
        let mut table = Table::new(&[
            ("step", Align::Left),
            ("result", Align::Left),
            ("time", Align::Right),
            ("", Align::Left),
        ]);
        for (name, ending, took) in &self.steps {
            let note = match ending {
                Ending::Skipped(why) => why.clone(),
                _ => String::new(),
            };
            table.row(vec![
                (*name).into(),
                word(ending).into(),
                seconds(*took),
                note,
            ]);
        }
        println!("\n{table}");
        for skip in &counts.skips {
            println!("skipped: {skip}");
        }
        for failure in &counts.failures {
            println!("failed: {failure}");
        }
        let failed = self.failed(counts);
        println!(
            "{} passed, {failed} failed, {} skipped",
            counts.passed(),
            counts.skipped()
        );
        anyhow::ensure!(failed == 0, "not everything holds; see above");
        Ok(())
    }

    /// Failed tests, and one for each step that failed without one.
    fn failed(&self, counts: &Counts) -> u64 {
        let steps = self
            .steps
            .iter()
            .filter(|(_, ending, _)| *ending == Ending::Failed)
            .count();
        counts.failed + steps as u64
    }
}

fn word(ending: &Ending) -> &'static str {
    match ending {
        Ending::Passed => "passed",
        Ending::Failed | Ending::FailedTests => "FAILED",
        Ending::Skipped(_) => "skipped",
    }
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &'static str, ending: Ending) -> (&'static str, Ending, Duration) {
        (name, ending, Duration::ZERO)
    }

    #[test]
    fn a_step_that_fails_without_a_failing_test_counts_once() {
        let report = Report {
            steps: vec![
                step("format", Ending::Failed),
                step("clippy", Ending::Passed),
                step("tests", Ending::Failed),
            ],
        };
        // The tests did not compile: no harness ever printed a result.
        assert_eq!(report.failed(&Counts::default()), 2);
        let report = Report {
            steps: vec![
                step("format", Ending::Failed),
                step("tests", Ending::FailedTests),
                step("end-to-end tests", Ending::Failed),
            ],
        };
        let mut counts = Counts::default();
        counts.failed = 3;
        let failed = report.failed(&counts);
        assert_eq!(failed, 5, "three tests, the format, and what did not run");
    }

    #[test]
    fn a_skipped_step_is_no_failure() {
        let report = Report {
            steps: vec![step("build-ebpf", Ending::Skipped("no tool chain".into()))],
        };
        assert_eq!(report.failed(&Counts::default()), 0);
    }
}
