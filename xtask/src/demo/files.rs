//! Reads the files back with readers that are not ours, and says how anybody can.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

use super::lane::LANES;
use crate::process;
use crate::table::grouped;
use crate::workspace;

const COUNT: &str = include_str!("count.py");

/// What the files hold.
#[derive(Debug)]
pub struct Stored {
    by_listener: BTreeMap<String, u64>,
    pub records: u64,
    decoded: u64,
    bytes: u64,
    files: Vec<PathBuf>,
}

impl Stored {
    pub fn of(&self, listener: &str) -> u64 {
        self.by_listener.get(listener).copied().unwrap_or(0)
    }
}

impl std::fmt::Display for Stored {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "fastavro read {} records in {} files, {:.1} MB ({:.1} bytes a record); {} of them \
             decoded field by field",
            grouped(self.records),
            self.files.len(),
            self.bytes as f64 / 1e6,
            self.bytes as f64 / self.records.max(1) as f64,
            grouped(self.decoded)
        )
    }
}

/// Counts the records of each lane in the sealed files of a folder.
pub fn count(python: &Path, folder: &Path) -> anyhow::Result<Stored> {
    let mut files = Vec::new();
    let mut open = Vec::new();
    find(folder, &mut files, &mut open)?;
    if !open.is_empty() {
        bail!(
            "the agent has stopped and left a file open: {}",
            open[0].display()
        );
    }
    files.sort();
    let mut command = Command::new(python);
    command
        .args(["-c", COUNT])
        .args(LANES.iter().map(|lane| lane.name))
        .arg("--")
        .args(&files)
        .stderr(Stdio::inherit());
    // Its progress goes to the terminal, its result to us.
    let mut result = String::new();
    let status = process::stream(&mut command, |line| result.push_str(line))?;
    if !status.success() {
        bail!("fastavro could not read the files back");
    }
    parse(&result, files).with_context(|| format!("the reader's result: {result}"))
}

fn parse(result: &str, files: Vec<PathBuf>) -> anyhow::Result<Stored> {
    let value: Value = serde_json::from_str(result)?;
    let number = |name: &str| {
        value[name]
            .as_u64()
            .with_context(|| format!("no number {name}"))
    };
    let by_listener = value["listeners"]
        .as_object()
        .context("no listeners")?
        .iter()
        .map(|(name, count)| Some((name.clone(), count.as_u64()?)))
        .collect::<Option<_>>()
        .context("a count is no number")?;
    Ok(Stored {
        by_listener,
        records: number("records")?,
        decoded: number("decoded")?,
        bytes: number("bytes")?,
        files,
    })
}

fn find(folder: &Path, files: &mut Vec<PathBuf>, open: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_dir() {
            find(&path, files, open)?;
        } else if extension == Some("avro") {
            files.push(path);
        } else if extension == Some("open") {
            open.push(path);
        }
    }
    Ok(())
}

/// The last lines: where the files are, and commands that were tried and work here.
pub fn how_to_open(python: &Path, binary: &Path, folder: &Path, stored: &Stored) {
    // Files are sorted by time: the first holds this host's own logs.
    let Some(first) = stored.files.first() else {
        return;
    };
    let (binary, python) = (workspace::shown(binary), workspace::shown(python));
    let (file, folder) = (workspace::shown(first), workspace::shown(folder));
    println!("The files are in {folder}. These commands open them:");
    println!("  {binary} cat {folder} | less");
    println!(
        "  {python} -c \"import fastavro; \
         [print(r['listener'], r['body']) for r in fastavro.reader(open('{file}', 'rb'))]\" | less"
    );
    let question = |from: &str| {
        format!(
            "{python} -c \"import duckdb; [print(*row) for row in duckdb.execute(\\\"SELECT \
             listener, count(*), avg(length(body)) FROM {from} GROUP BY ALL\\\").fetchall()]\""
        )
    };
    let avro = question(&format!("read_avro('{folder}/*.avro')"));
    let json = format!(
        "{binary} cat --format json {file} | {}",
        question("read_ndjson('/dev/stdin')")
    );
    if works(&avro) {
        println!("  {avro}");
    } else if works(&json) {
        println!("  {json}");
        println!(
            "  (through JSON, because DuckDB's Avro reader is an extension that it could not fetch \
             here)"
        );
    } else {
        println!(
            "  (DuckDB could not read them here: its Avro reader is an extension that it could not \
             fetch)"
        );
    }
}

/// Whether a shell runs this to the end within half a minute.
fn works(line: &str) -> bool {
    Command::new("timeout")
        .args(["30", "sh", "-c", line])
        .current_dir(workspace::root())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
