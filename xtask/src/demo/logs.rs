//! This host's own logs: what is readable under /var/log, the journal, the kernel's ring.
//!
//! Text files are shipped from where they are; what comes out of a program (zcat, dmesg,
//! journalctl) is put beside them under target/demo/logs. The whole is bounded.

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::process::which;
use crate::table::grouped;
use crate::workspace;

/// All lanes together ship this four times.
const BYTES_MAX: u64 = 50 << 20;
/// Fewer lines than this are next to none.
const LINES_FEW: u64 = 20_000;
/// Folders under /var/log are followed this deep.
const DEPTH_MAX: usize = 4;
const FILES_MAX: usize = 500;

/// What will be shipped.
#[derive(Debug, Default)]
pub struct Logs {
    pub files: Vec<PathBuf>,
    bytes: u64,
    lines: u64,
    /// Files that were left out, and why.
    binary: u64,
    unreadable: u64,
    beyond_bound: u64,
    generated_lines: u64,
}

impl std::fmt::Display for Logs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} files, {} lines, {:.1} MB",
            self.files.len(),
            grouped(self.lines),
            self.bytes as f64 / 1e6
        )?;
        let left_out = [
            (self.binary, "not text"),
            (self.unreadable, "not readable by this user"),
            (self.beyond_bound, "beyond 50 MB in all"),
        ];
        for (count, why) in left_out.into_iter().filter(|(count, _)| *count > 0) {
            write!(formatter, "; left out: {count} {why}")?;
        }
        if self.generated_lines > 0 {
            write!(
                formatter,
                "\nThis host has next to no logs of its own ({} lines): {} of them are generated.",
                grouped(self.lines - self.generated_lines),
                grouped(self.generated_lines)
            )?;
        }
        Ok(())
    }
}

/// Finds them; what has to be written goes to `folder`.
pub fn collect(folder: &Path) -> anyhow::Result<Logs> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut logs = Logs::default();
    logs.take_output(folder, "dmesg", &[]);
    logs.take_output(
        folder,
        "journalctl",
        &[
            "--no-pager",
            "--quiet",
            "--output=short-iso",
            "--lines=50000",
        ],
    );
    let mut found = Vec::new();
    walk(Path::new("/var/log"), 0, &mut found);
    found.sort();
    for file in found {
        logs.take_file(folder, &file);
    }
    if logs.lines < LINES_FEW {
        logs.generate(folder)?;
    }
    Ok(logs)
}

fn walk(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        // Symbolic links lead to what stands elsewhere, or round in circles.
        if kind.is_dir() && depth < DEPTH_MAX {
            walk(&entry.path(), depth + 1, found);
        } else if kind.is_file() && found.len() < FILES_MAX {
            found.push(entry.path());
        }
    }
}

impl Logs {
    fn take_file(&mut self, folder: &Path, file: &Path) {
        if file.extension().is_some_and(|extension| extension == "gz") {
            return self.take_compressed(folder, file);
        }
        let Ok(opened) = std::fs::File::open(file) else {
            self.unreadable += 1;
            return;
        };
        let left = BYTES_MAX - self.bytes;
        let mut content = Vec::new();
        if opened.take(left + 1).read_to_end(&mut content).is_err() {
            self.unreadable += 1;
        } else if content.is_empty() {
            // Nothing to ship.
        } else if content.contains(&0) {
            self.binary += 1;
        } else if content.len() as u64 > left {
            self.beyond_bound += 1;
        } else {
            self.add(file.to_owned(), &content);
        }
    }

    fn take_compressed(&mut self, folder: &Path, file: &Path) {
        let name = file
            .strip_prefix("/")
            .unwrap_or(file)
            .display()
            .to_string()
            .replace('/', "-");
        let mut command = Command::new("zcat");
        command.arg(file);
        self.take_from(&mut command, &folder.join(name.trim_end_matches(".gz")));
    }

    fn take_output(&mut self, folder: &Path, program: &str, arguments: &[&str]) {
        if which(program).is_some() {
            let mut command = Command::new(program);
            command.args(arguments);
            self.take_from(&mut command, &folder.join(format!("{program}.log")));
        }
    }

    /// Keeps what a program prints, up to the bound; a program that may not read says so to nobody.
    fn take_from(&mut self, command: &mut Command, to: &Path) {
        let left = BYTES_MAX - self.bytes;
        let mut content = Vec::new();
        let Ok(mut child) = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
        else {
            self.unreadable += 1;
            return;
        };
        let mut stdout = child
            .stdout
            .take()
            .expect("standard output is piped")
            .take(left + 1);
        let read = stdout.read_to_end(&mut content);
        // The pipe's end goes first: a program that has more to say ends by it.
        drop(stdout);
        let ended = child.wait();
        if content.len() as u64 > left {
            self.beyond_bound += 1;
        } else if content.contains(&0) {
            self.binary += 1;
        } else if read.is_ok() && !content.is_empty() {
            if std::fs::write(to, &content).is_ok() {
                self.add(to.to_owned(), &content);
            }
        } else if !ended.is_ok_and(|status| status.success()) {
            self.unreadable += 1;
        }
    }

    fn add(&mut self, file: PathBuf, content: &[u8]) {
        self.files.push(file);
        self.bytes += content.len() as u64;
        self.lines += content.split(|&byte| byte == b'\n').count() as u64
            - u64::from(content.ends_with(b"\n"));
    }

    fn generate(&mut self, folder: &Path) -> anyhow::Result<()> {
        const LINES: u64 = 100_000;
        let file = folder.join("generated.log");
        let text = generated(LINES);
        std::fs::write(&file, &text)
            .with_context(|| format!("cannot write {}", workspace::shown(&file)))?;
        self.add(file, text.as_bytes());
        self.generated_lines = LINES;
        Ok(())
    }
}

/// Lines such as a busy host writes: the same ones each time.
fn generated(lines: u64) -> String {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut text = String::new();
    for line in 0..lines {
        let second = line / 40;
        write!(
            text,
            "2026-03-14T{:02}:{:02}:{:02}.{:03}Z web-{} ",
            second / 3600 % 24,
            second / 60 % 60,
            second % 60,
            line % 40 * 25,
            random.below(4)
        )
        .expect("a String takes everything");
        let (a, b, c) = (random.below(256), random.below(65_536), random.below(3_000));
        let message = match random.below(6) {
            0..=2 => format!(
                "nginx[811]: 10.3.{}.{} \"GET /api/v1/orders/{b} HTTP/1.1\" 200 {} {c} ms",
                a / 16,
                a,
                b / 3 + 120
            ),
            3 => format!("sshd[{b}]: INFO Accepted publickey for deploy from 10.3.0.{a} port {b}"),
            4 => format!(
                "orders[77]: WARN slow query on orders_{a}: {c} ms, {b} rows — índice fehlt"
            ),
            _ => format!(
                "kernel: [{line:>8}.{b:06}] ERROR nvme0n1: I/O timeout, queue {}, retry {a}",
                a % 8
            ),
        };
        text.push_str(&message);
        text.push('\n');
    }
    text
}

/// xorshift64: enough to make lines differ.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_as_a_reader_sees_them() {
        let mut logs = Logs::default();
        logs.add("a".into(), b"one\ntwo\n");
        assert_eq!(logs.lines, 2);
        logs.add("b".into(), b"three\nhalf");
        assert_eq!((logs.lines, logs.bytes), (4, 18));
    }

    #[test]
    fn generated_lines_are_as_many_as_asked_for_and_differ() {
        let text = generated(1000);
        let lines: std::collections::BTreeSet<&str> = text.lines().collect();
        assert_eq!(text.lines().count(), 1000);
        assert_eq!(lines.len(), 1000);
    }
}
