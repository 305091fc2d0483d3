//! `penstock send`: lines become records, and are sent until they are acknowledged.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use penstock_client::{LogRecord, Overflow};
use penstock_proto::avro::SchemaVersion;
use penstock_proto::encoding::Encoding;
use penstock_proto::reason::Reason;
use serde::Serialize;

use crate::command::target::{self, ReportForm, Target};
use crate::config::settings::Protocol;
use crate::exit::{Exit, Failure};

mod lines;
mod tcp;
mod udp;

/// Send lines as log records: batched, and over TCP retried until they are on the agent's disk.
///
/// Each line becomes a record: the line is its body, the time is now, the host is this one, the
/// service is the file's name without its ending, or "stdin". Bytes that are not UTF-8 are
/// replaced and counted.
///
/// Over TCP a line counts as acknowledged when the agent has synced it to disk. Over UDP nothing
/// is acknowledged and nothing is sent twice.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  A file, and what is piped in:
    penstock send --to tcp://127.0.0.1:4600 /var/log/dpkg.log
    journalctl -f | penstock send --to tcp://127.0.0.1:4600 --service journal
  A severity (OpenTelemetry's numbers: 5 debug, 9 info, 13 warning, 17 error, 21 fatal):
    echo 'disk is on fire' | penstock send --to tcp://127.0.0.1:4600 --severity 21
  Two agents, and a folder that keeps what neither took:
    penstock send --to tcp://a:4600 --to tcp://b:4600 --spool /var/spool/app app.log
  For scripts:
    penstock send --to udp://127.0.0.1:4600 --report json /var/log/*.log

The last line on standard error says how many lines were read and what became of the records.
Exit codes: 0 everything was acknowledged (UDP: sent) · 64 usage · 66 no such file · 69 the agent \
was not there, or silent for longer than --timeout (with --spool a later run sends the rest) · 74 \
reading or the spool failed, or records were refused or dropped · 75 the spool is in use")]
pub struct Arguments {
    /// Where to: tcp://HOST:PORT or udp://HOST:PORT. Given several times, over TCP: the first is
    /// preferred, the others stand in for it while it settles nothing
    #[arg(long, value_name = "TARGET", required = true)]
    to: Vec<Target>,
    /// protobuf, avro or json
    #[arg(long, default_value = "protobuf", value_parser = target::encoding)]
    encoding: Encoding,
    /// Version of the Avro schema: v1, v2 or v3 [default: v3]
    #[arg(long, value_name = "VERSION", value_parser = target::schema)]
    schema: Option<SchemaVersion>,
    /// Compress payloads with zstd, at level 3 or the one given
    #[arg(long, value_name = "LEVEL", num_args = 0..=1, require_equals = true,
          default_missing_value = "3", allow_hyphen_values = true,
          value_parser = target::zstd_level)]
    zstd: Option<i32>,
    /// Service name of the records [default: the file's name without its ending, or stdin]
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Severity number, 1 to 24; 0 is unspecified
    #[arg(long, value_name = "N", default_value_t = 9,
          value_parser = clap::value_parser!(u32).range(0..=24))]
    severity: u32,
    /// Records per frame, at most
    #[arg(long, value_name = "N", default_value_t = 500,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// Give up when records wait and the agent has settled none for so long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = target::duration)]
    timeout: Duration,
    /// Keep what is not acknowledged in this folder: a later run with the same folder sends it.
    /// TCP only; one run at a time
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,
    /// What becomes of a line for which there is no room, in memory or in the spool
    #[arg(long, value_enum, default_value_t = OnFull::Wait)]
    on_full: OnFull,
    /// Longest UDP payload in bytes, where one record needs no more [default: 1432; IPv6 1412]
    #[arg(long, value_name = "BYTES")]
    payload_max: Option<usize>,
    /// Also print a JSON object on standard output
    #[arg(long, value_enum, default_value_t = ReportForm::Text)]
    report: ReportForm,
    /// Files to read; none or - is standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// `Overflow`, as a word of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnFull {
    /// The input waits.
    Wait,
    /// The line is dropped, and counted.
    DropNewest,
    /// The oldest that were never sent are dropped, and counted.
    DropOldest,
}

impl From<OnFull> for Overflow {
    fn from(on_full: OnFull) -> Self {
        match on_full {
            OnFull::Wait => Self::Wait,
            OnFull::DropNewest => Self::DropNewest,
            OnFull::DropOldest => Self::DropOldest,
        }
    }
}

/// What was read and what became of it.
#[derive(Debug, Default, Serialize)]
struct Summary {
    target: String,
    lines_read: u64,
    /// Lines whose bytes were not UTF-8, and stand in their records with replacements.
    lines_not_utf8: u64,
    records_sent: u64,
    /// Durable at the agent; 0 over UDP, which has no acknowledgements.
    records_acknowledged: u64,
    /// Of those: durable already when they were sent again.
    records_duplicate: u64,
    /// By reason; `too_long` also counts lines that no frame could carry and were not sent.
    records_refused: BTreeMap<&'static str, u64>,
    records_unsettled: u64,
    /// Dropped for lack of room (`--on-full`).
    records_dropped: u64,
    /// Left by an earlier run in the spool, and sent by this one.
    records_recovered: u64,
    frames_sent: u64,
    frames_resent: u64,
    bytes_sent: u64,
    seconds: f64,
}

impl Summary {
    fn refuse(&mut self, label: &'static str, records: u64) {
        if records > 0 {
            *self.records_refused.entry(label).or_default() += records;
        }
    }

    fn records_refused_total(&self) -> u64 {
        self.records_refused.values().sum()
    }

    fn line(&self, protocol: Protocol) -> String {
        let mut line = format!(
            "{} lines read, {} records sent",
            self.lines_read, self.records_sent
        );
        match protocol {
            Protocol::Tcp => line += &format!(", {} acknowledged", self.records_acknowledged),
            Protocol::Udp => line += ", none acknowledged (UDP has no acknowledgements)",
        }
        match self.records_refused.is_empty() {
            true => line += ", 0 refused",
            false => {
                let reasons: Vec<String> = self
                    .records_refused
                    .iter()
                    .map(|(label, records)| format!("{label} {records}"))
                    .collect();
                line += &format!(", refused: {}", reasons.join(", "));
            }
        }
        for (name, records) in [
            ("unsettled", self.records_unsettled),
            ("dropped", self.records_dropped),
            ("left by an earlier run", self.records_recovered),
            ("lines not UTF-8", self.lines_not_utf8),
        ] {
            if records > 0 {
                line += &format!(", {records} {name}");
            }
        }
        line
    }
}

/// One input, opened before the first record is sent.
struct Input {
    name: String,
    service_name: String,
    source: Source,
}

enum Source {
    File(File),
    Stdin(io::Stdin),
}

impl Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::File(file) => file.as_fd(),
            Self::Stdin(stdin) => stdin.as_fd(),
        }
    }
}

impl Input {
    fn open(path: &Path, service: Option<&str>) -> Result<Self, Failure> {
        let name = path.display().to_string();
        if path == Path::new("-") {
            return Ok(Self {
                name: "standard input".into(),
                service_name: service.unwrap_or("stdin").to_owned(),
                source: Source::Stdin(io::stdin()),
            });
        }
        let file = File::open(path).map_err(|e| Failure::io(format!("open {name}"), &e))?;
        let is_folder = file.metadata().is_ok_and(|metadata| metadata.is_dir());
        if is_folder {
            let message = format!("open {name}: a folder; name the files in it");
            return Err(Failure::new(Exit::NoInput, message));
        }
        let stem = path.file_stem().map(|stem| stem.to_string_lossy());
        Ok(Self {
            service_name: match (service, stem) {
                (Some(service), _) => service.to_owned(),
                (None, Some(stem)) => stem.into_owned(),
                (None, None) => name.clone(),
            },
            name,
            source: Source::File(file),
        })
    }

    /// Reads what is there; 0 is the end.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        loop {
            let result = match &mut self.source {
                Source::File(file) => file.read(buffer),
                Source::Stdin(stdin) => stdin.lock().read(buffer),
            };
            match result {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => {
                    return result.map_err(|error| {
                        Failure::new(Exit::Io, format!("read {}: {error}", self.name))
                    });
                }
            }
        }
    }
}

/// Makes records of lines.
struct Recorder {
    blank: LogRecord,
}

impl Recorder {
    fn record(&self, line: &[u8], summary: &mut Summary) -> LogRecord {
        let body = String::from_utf8_lossy(line);
        if matches!(body, std::borrow::Cow::Owned(_)) {
            summary.lines_not_utf8 += 1;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        LogRecord {
            // A clock before 1970 is no clock: 0 is "unknown".
            time_unix_nano: now.map_or(0, |since| since.as_nanos() as u64),
            body: body.into_owned(),
            ..self.blank.clone()
        }
    }
}

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    target::schema_for(arguments.encoding, arguments.schema)?;
    let stdin = [PathBuf::from("-")];
    let paths = match arguments.files.as_slice() {
        [] => &stdin[..],
        files => files,
    };
    let service = arguments.service.as_deref();
    let inputs: Vec<Input> = paths
        .iter()
        .map(|path| Input::open(path, service))
        .collect::<Result<_, _>>()?;

    let start = Instant::now();
    let targets: Vec<String> = arguments.to.iter().map(Target::to_string).collect();
    let mut summary = Summary {
        target: targets.join(","),
        ..Summary::default()
    };
    let protocol = protocol(&arguments)?;
    let outcome = match protocol {
        Protocol::Tcp => tcp::send(&arguments, inputs, &mut summary),
        Protocol::Udp => udp::send(&arguments, inputs, &mut summary),
    };
    summary.seconds = start.elapsed().as_secs_f64();

    if arguments.report == ReportForm::Json {
        println!(
            "{}",
            serde_json::to_string(&summary).expect("numbers and labels")
        );
    }
    eprintln!("penstock: {}", summary.line(protocol));
    outcome?;
    match (summary.records_refused_total(), summary.records_dropped) {
        (0, 0) => Ok(()),
        (0, dropped) => Err(Failure::new(
            Exit::Io,
            format!("{dropped} records were dropped for lack of room"),
        )),
        (refused, _) => Err(Failure::new(
            Exit::Io,
            format!("{refused} records were refused"),
        )),
    }
}

/// The protocol of all targets; several targets and a spool need answers, so TCP.
fn protocol(arguments: &Arguments) -> Result<Protocol, Failure> {
    let all_tcp = arguments.to.iter().all(|to| to.protocol == Protocol::Tcp);
    let usage = |message: &str| Err(Failure::new(Exit::Usage, message.to_owned()));
    match all_tcp {
        true => Ok(Protocol::Tcp),
        false if arguments.to.len() > 1 => usage("several targets are for tcp:// only"),
        false if arguments.spool.is_some() => usage("--spool is for tcp:// only"),
        false if arguments.on_full != OnFull::Wait => usage("--on-full is for tcp:// only"),
        false => Ok(Protocol::Udp),
    }
}

fn recorder(arguments: &Arguments, input: &Input) -> Recorder {
    Recorder {
        blank: LogRecord {
            severity_number: arguments.severity,
            service_name: input.service_name.clone(),
            host_name: host_name(),
            ..LogRecord::default()
        },
    }
}

/// This host's name, as the kernel has it; empty where /proc is not mounted.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim_end().to_owned()
}

#[cfg(test)]
mod tests;
