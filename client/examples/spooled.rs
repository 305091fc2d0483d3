//! Sends each line of standard input as a log record, and loses none through a restart of this
//! program or of the agent: a spool keeps what is not acknowledged, and a second agent stands in for
//! the first.
//!
//! ```sh
//! tail -F app.log | cargo run -p penstock-client --example spooled -- \
//!     /var/spool/app-penstock 10.0.0.1:4600 10.0.0.2:4600
//! ```

use std::error::Error;
use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use penstock_client::{LogRecord, Options, Overflow, SendError, Sender, SpoolOptions};

const USAGE: &str = "spooled FOLDER HOST:PORT…";

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or(USAGE)?;
    let targets: Vec<String> = arguments.collect();
    if targets.is_empty() {
        return Err(USAGE.into());
    }
    let options = Options {
        // What this program wants when the spool is full: to go on, and lose the oldest.
        overflow: Overflow::DropOldest,
        failover_after: Duration::from_secs(5),
        give_up_after: Duration::from_secs(10),
        ..Options::default()
    };
    let code = run(
        &folder,
        targets,
        options,
        std::io::stdin().lock(),
        std::io::stdout(),
    )?;
    Ok(ExitCode::from(code))
}

/// Sends the lines of `input`; the exit code.
pub fn run(
    folder: &str,
    targets: Vec<String>,
    options: Options,
    input: impl BufRead,
    mut output: impl Write,
) -> Result<u8, Box<dyn Error>> {
    let spool = SpoolOptions {
        size_max: 256 << 20,
        ..SpoolOptions::new(folder)
    };
    // What an earlier life left is sent first. Two programs on one folder: the second one fails here.
    let mut sender = Sender::with_spool(targets, options, spool)?;
    let left = sender.report().recovered.records;
    writeln!(output, "{left} records were left by an earlier life")?;

    for line in input.lines() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let record = LogRecord {
            time_unix_nano: now.as_nanos() as u64,
            severity_number: 9, // INFO
            service_name: "spooled".to_owned(),
            body: line?,
            ..LogRecord::default()
        };
        // Takes the record into a batch. A program that must not lose this very record calls
        // `sender.persist()` before it goes on; here it is done once, at the end.
        match sender.send(&record) {
            Ok(()) => {}
            // The record fits no frame: it is counted, and the others go on.
            Err(SendError::NotTaken(error)) => writeln!(output, "not taken: {error}")?,
            Err(error) => return Err(error.into()),
        }
    }
    // From here on every line is on this disk, whatever happens.
    sender.persist()?;

    let outcome = sender.finish();
    let report = sender.report();
    let acknowledged = report.acknowledged().records;
    writeln!(output, "{acknowledged} records are on an agent's disk")?;
    for (reason, refused) in report.refused.iter() {
        writeln!(output, "{} records were refused: {reason}", refused.records)?;
    }
    let dropped = report.dropped_oldest.records;
    writeln!(output, "{dropped} records were dropped")?;
    match outcome {
        Ok(_) if report.records_lost() == 0 => Ok(0),
        Ok(_) => Ok(1),
        Err(error @ SendError::GaveUp { .. }) => {
            let unsettled = report.unsettled.records;
            writeln!(output, "{error}; {unsettled} records wait in the spool")?;
            Ok(69) // sysexits: unavailable
        }
        Err(error) => Err(error.into()),
    }
}
