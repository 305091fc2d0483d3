//! The gate's benchmark, in three parts: `flood` (hostile senders beside a well-behaved one, gate on
//! and off), `cost` (the accepted path, on against off), `overload` (twice what the journal takes,
//! priorities mixed). Each part measures its contenders in turn, round after round.

use anyhow::Context;

mod books;
mod cost;
mod flood;
mod options;
mod overload;
mod report;
mod stored;

use crate::rig;
use crate::rig::host::Host;
pub use options::{Options, Part};
use report::Report;

pub fn run(options: &Options) -> anyhow::Result<()> {
    let stage = Stage::new(options)?;
    stage.host.print();
    let mut report = Report::default();
    // Before the overload: it says what twice is twice of.
    if options.wants(Part::Cost) || options.wants(Part::Overload) {
        report.cost = cost::run(&stage, options)?;
    }
    if options.wants(Part::Flood) {
        report.flood = flood::run(&stage, options)?;
    }
    if options.wants(Part::Overload) {
        let capacity = cost::capacity(&report.cost).context("no capacity was measured")?;
        report.overload = overload::run(&stage, options, capacity)?;
    }
    let text = report.markdown(&stage.host, options);
    let out = rig::results_folder();
    report.write(&out, &text, &stage.host)?;
    println!("{text}");
    println!("Written to {}", out.display());
    report.verdict()
}

/// What all measurements have in common.
struct Stage {
    binary: std::path::PathBuf,
    /// On the disk that holds target/: a journal in memory would measure another thing.
    data: tempfile::TempDir,
    host: Host,
    lines: Option<std::path::PathBuf>,
    journal_max: u64,
}

impl Stage {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let folder = rig::target_folder().join("bench").join("gate");
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let data = tempfile::tempdir_in(&folder).context("make a folder for the data")?;
        let host = Host::look(data.path())?;
        Ok(Self {
            binary: rig::binary()?,
            journal_max: host.journal_max()?,
            data,
            host,
            lines: options.lines.clone(),
        })
    }

    /// An agent whose gate is as `gate` says, with one UDP listener and a sink that does not run:
    /// what is stored stays in the journal, to be counted.
    fn agent(&self, folder: &std::path::Path, gate: &str) -> anyhow::Result<rig::agent::Agent> {
        let tables = format!(
            "[journal]\nmax_size = \"{}MiB\"\nmin_free = \"1GiB\"\n\
             [listeners.udp]\naddress = \"udp://127.0.0.1:0\"\nreceive_buffer = \"16MiB\"\n\
             [sinks.files]\ntype = \"file\"\nenabled = false\n{gate}",
            self.journal_max >> 20,
        );
        rig::agent::Agent::start(&rig::agent::Plan {
            binary: &self.binary,
            folder,
            io: "auto",
            tables,
        })
    }

    /// `--lines FILE`, where one was given.
    fn lines_arguments(&self) -> Vec<std::ffi::OsString> {
        match &self.lines {
            Some(file) => vec!["--lines".into(), file.into()],
            None => Vec::new(),
        }
    }
}
