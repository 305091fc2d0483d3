//! Sends each line of standard input as a log record and waits until all are on disk.
//!
//! ```sh
//! journalctl --no-pager | cargo run -p penstock-client --example send_lines -- 127.0.0.1:4600
//! ```

use std::io::BufRead;
use std::time::{SystemTime, UNIX_EPOCH};

use penstock_client::{LogRecord, Options, SendError, Sender};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:4600".to_owned());
    let mut sender = Sender::new(target, Options::default());

    for line in std::io::stdin().lock().lines() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let record = LogRecord {
            time_unix_nano: now.as_nanos() as u64,
            severity_number: 9, // INFO
            service_name: "send_lines".to_owned(),
            body: line?,
            ..LogRecord::default()
        };
        // Waits where the agent is slower than we are; fails where it stays silent.
        sender.send(&record)?;
    }

    match sender.finish() {
        Ok(report) => {
            println!("{} records are on disk", report.acknowledged().records);
            for (reason, refused) in report.refused.iter() {
                println!("{} records were refused: {reason}", refused.records);
            }
            Ok(())
        }
        Err(error @ SendError::GaveUp { .. }) => {
            let unsettled = sender.report().unsettled.records;
            Err(format!("{error}; {unsettled} records are unsettled").into())
        }
        Err(error) => Err(error.into()),
    }
}
