//! Sends each line of standard input as a log record, and loses none through a restart of this
//! program or of the agent: a spool keeps what is not acknowledged, and a second agent stands in for
//! the first.
//!
//! ```sh
//! tail -F app.log | cargo run -p penstock-client --example spooled -- \
//!     /var/spool/app-penstock 10.0.0.1:4600 10.0.0.2:4600
//! ```

use std::io::BufRead;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use penstock_client::{LogRecord, Options, Overflow, SendError, Sender, SpoolOptions};

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("spooled FOLDER HOST:PORT…")?;
    let targets: Vec<String> = arguments.collect();
    if targets.is_empty() {
        return Err("spooled FOLDER HOST:PORT…".into());
    }

    let options = Options {
        // What this program wants when the spool is full: to go on, and lose the oldest.
        overflow: Overflow::DropOldest,
        failover_after: Duration::from_secs(5),
        give_up_after: Duration::from_secs(10),
        ..Options::default()
    };
    let spool = SpoolOptions {
        size_max: 256 << 20,
        ..SpoolOptions::new(folder)
    };
    // What an earlier life left is sent first. Two programs on one folder: the second one fails here.
    let mut sender = Sender::with_spool(targets, options, spool)?;
    let recovered = sender.report().recovered.records;
    println!("{recovered} records were left by an earlier life");

    for line in std::io::stdin().lock().lines() {
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
            Err(SendError::NotTaken(error)) => eprintln!("not taken: {error}"),
            Err(error) => return Err(error.into()),
        }
    }
    // From here on every line is on this disk, whatever happens.
    sender.persist()?;

    let outcome = sender.finish();
    let report = sender.report();
    println!(
        "{} records are on an agent's disk",
        report.acknowledged().records
    );
    for (reason, refused) in report.refused.iter() {
        println!("{} records were refused: {reason}", refused.records);
    }
    println!("{} records were dropped", report.dropped_oldest.records);
    match outcome {
        Ok(_) if report.records_lost() == 0 => Ok(ExitCode::SUCCESS),
        Ok(_) => Ok(ExitCode::FAILURE),
        Err(error @ SendError::GaveUp { .. }) => {
            let unsettled = report.unsettled.records;
            eprintln!("{error}; {unsettled} records wait in the spool for the next start");
            Ok(ExitCode::from(69)) // sysexits: unavailable
        }
        Err(error) => Err(error.into()),
    }
}
