//! What the figures were measured on.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, bail};
use serde::Serialize;

/// Above this the machine has other work, and the figures are of a busy machine.
const LOAD_QUIET_MAX: f64 = 0.5;
/// What the journals of one measurement may take at most.
const JOURNAL_MAX: u64 = 32 << 30;
/// Less is not worth a run: flat out, a journal grows by 1 to 2 GB/s.
const JOURNAL_MIN: u64 = 4 << 30;

#[derive(Debug, Serialize)]
pub struct Host {
    pub cores: usize,
    pub cpu: String,
    pub kernel: String,
    /// Of the last minute, before the first measurement.
    pub load_average: f64,
    pub free_bytes: u64,
}

impl Host {
    pub fn look(data: &Path) -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism()?.get();
        if cores < 2 {
            bail!("this needs two cores, one for the generator and one for the receiver");
        }
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
        let cpuinfo = read("/proc/cpuinfo")?;
        let model = cpuinfo
            .lines()
            .find(|line| line.starts_with("model name") || line.starts_with("CPU part"))
            .and_then(|line| line.split_once(':'))
            .map_or("unknown", |(_, model)| model.trim());
        let load = read("/proc/loadavg")?;
        let first = load.split(' ').next().context("an empty /proc/loadavg")?;
        Ok(Self {
            cores,
            cpu: model.to_owned(),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load_average: first.parse().context("the load average is no number")?,
            free_bytes: free_bytes(data)?,
        })
    }

    pub fn is_busy(&self) -> bool {
        self.load_average > LOAD_QUIET_MAX
    }

    pub fn print(&self) {
        eprintln!(
            "{} cores, {}, Linux {}, load average {:.2}",
            self.cores, self.cpu, self.kernel, self.load_average
        );
        if self.is_busy() {
            eprintln!("{}", self.warning());
        }
    }

    pub fn warning(&self) -> String {
        format!(
            "WARNING: the load average was {:.2} at the start: these are figures of a busy \
             machine, not to be quoted.",
            self.load_average
        )
    }

    /// How large a journal may grow: half of what is free, within bounds.
    pub fn journal_max(&self) -> anyhow::Result<u64> {
        let bytes = (self.free_bytes / 2).min(JOURNAL_MAX);
        if bytes < JOURNAL_MIN {
            bail!(
                "{} MiB are free beside target/: this needs {} MiB",
                self.free_bytes >> 20,
                (2 * JOURNAL_MIN) >> 20
            );
        }
        Ok(bytes)
    }
}

fn free_bytes(path: &Path) -> anyhow::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all zeroes is a valid statvfs.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a string that ends in 0, and a struct that the call fills; both outlive it.
    match unsafe { libc::statvfs(path.as_ptr(), &mut stat) } {
        0 => Ok(stat.f_bavail * stat.f_frsize),
        _ => Err(std::io::Error::last_os_error()).context("statvfs"),
    }
}
