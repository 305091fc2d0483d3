//! Starting other programs: said before they start, waited for, and stopped only by their own id.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::workspace;

/// Cargo as it called us, in the workspace's root.
pub fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(workspace::root());
    command
}

/// A command as a person would type it.
pub fn shown(command: &Command) -> String {
    let mut words = vec![shown_program(command.get_program().as_ref())];
    words.extend(
        command
            .get_args()
            .map(|argument| quoted(&argument.to_string_lossy())),
    );
    words.join(" ")
}

fn shown_program(program: &Path) -> String {
    match (program.file_name(), program.is_absolute()) {
        (Some(name), true) if name == "cargo" => "cargo".into(),
        _ => workspace::shown(program),
    }
}

fn quoted(word: &str) -> String {
    let plain =
        |character: char| character.is_ascii_alphanumeric() || "-_./=:,+@%".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Runs to the end with the terminal as its own; anything but 0 is an error that names it.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    ended_well(command, status)
}

/// Runs to the end and hands back what it wrote to standard output.
pub fn capture(command: &mut Command) -> anyhow::Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!(
            "{} ended with {status}: {}",
            shown(command),
            String::from_utf8_lossy(&stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Runs to the end and hands each line of standard output to `on_line`.
pub fn stream(command: &mut Command, on_line: impl FnMut(&str)) -> anyhow::Result<ExitStatus> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    let stdout = child.stdout.take().expect("standard output is piped");
    lines(stdout, command, on_line)?;
    child
        .wait()
        .with_context(|| format!("cannot wait for {}", shown(command)))
}

/// The same with standard output and standard error together, in the order in which they were
/// written.
pub fn stream_all(command: &mut Command, on_line: impl FnMut(&str)) -> anyhow::Result<ExitStatus> {
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let both = writer.try_clone().context("cannot copy a pipe's end")?;
    let mut child = command
        .stdout(writer)
        .stderr(both)
        .spawn()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    // The command keeps copies of the pipe's ends for another start; the pipe ends without them.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    lines(reader, command, on_line)?;
    child
        .wait()
        .with_context(|| format!("cannot wait for {}", shown(command)))
}

fn lines(
    reader: impl std::io::Read,
    command: &Command,
    mut on_line: impl FnMut(&str),
) -> anyhow::Result<()> {
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.with_context(|| format!("cannot read from {}", shown(command)))?;
        on_line(&String::from_utf8_lossy(&line));
    }
    Ok(())
}

/// `Ok` where the command ended with 0.
pub fn ended_well(command: &Command, status: ExitStatus) -> anyhow::Result<()> {
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// The program's path where a shell would find it.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| is_executable(file))
}

pub fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing, touches no memory and always succeeds.
    unsafe { libc::geteuid() == 0 }
}

/// A program that runs until it is told to stop. It does not outlive us: the kernel sends it
/// SIGTERM when the thread that started it ends, and dropping it kills it.
#[derive(Debug)]
pub struct Background {
    child: Child,
    name: String,
}

impl Background {
    /// Call from the main thread: the kernel watches the thread, not the process.
    pub fn start(command: &mut Command, name: &str) -> anyhow::Result<Self> {
        // SAFETY: between fork and exec only prctl is called, which is a plain system call:
        // nothing is allocated and no lock is taken.
        unsafe {
            command.pre_exec(|| {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) == 0 {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                }
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", shown(command)))?;
        Ok(Self {
            child,
            name: name.to_owned(),
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("cannot wait for {}", self.name))
    }

    /// SIGTERM, then at most `patience` until it has ended.
    pub fn terminate(mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let id = self.child.id() as libc::pid_t;
        // SAFETY: kill touches no memory. The id is our child's: it is not reaped before the wait
        // below, so the kernel cannot have given it to another process.
        let result = unsafe { libc::kill(id, libc::SIGTERM) };
        if result != 0 {
            bail!(
                "cannot send SIGTERM to {}: {}",
                self.name,
                std::io::Error::last_os_error()
            );
        }
        match self.wait(patience)? {
            Some(status) => Ok(status),
            None => bail!(
                "{} did not end within {} s of SIGTERM and was killed",
                self.name,
                patience.as_secs()
            ),
        }
    }

    /// At most `patience` until it ends by itself.
    pub fn wait(&mut self, patience: Duration) -> anyhow::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // An error here means that it has ended in between; there is nobody left to tell.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        let mut command = Command::new("pip");
        command.args(["install", "fastavro[zstandard]", "it's", "--find=/a/b"]);
        assert_eq!(
            shown(&command),
            r"pip install 'fastavro[zstandard]' 'it'\''s' --find=/a/b"
        );
    }

    #[test]
    fn a_background_program_ends_on_sigterm() {
        let sleep = Background::start(Command::new("sleep").arg("600"), "sleep").unwrap();
        let status = sleep.terminate(Duration::from_secs(10)).unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(libc::SIGTERM)
        );
    }

    #[test]
    fn both_outputs_come_in_the_order_in_which_they_were_written() {
        let script = "echo one; echo two >&2; printf three";
        let mut lines = Vec::new();
        let status = stream_all(Command::new("sh").args(["-c", script]), |line| {
            lines.push(line.to_owned());
        });
        assert!(status.unwrap().success());
        assert_eq!(lines, ["one", "two", "three"]);
    }

    #[test]
    fn a_failing_command_is_named() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert!(error.to_string().starts_with("sh -c 'exit 3' ended with"));
    }
}
