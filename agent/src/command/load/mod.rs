//! `penstock load`: the load generator.
//!
//! `plan` reads the command line, `templates` encodes the payloads, `frames` decides which frame
//! comes next and `pacing` when; `tcp` and `udp` send. Nothing here is on the agent's data path.

use std::time::Duration;

use crate::command::target::ReportForm;
use crate::config::settings::Protocol;
use crate::exit::{Exit, Failure};

mod frames;
mod from;
mod hostile;
mod kernel;
mod latency;
mod lines;
mod pacing;
mod plan;
mod report;
mod tcp;
mod templates;
mod udp;
mod window;

pub use plan::Arguments;
use plan::Plan;
use report::Report;

/// How long a run waits at its end for what is not acknowledged.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let plan = Plan::new(&arguments)?;
    if let Some(cpu) = plan.cpu {
        let what = format!("stay on processor {cpu} (sched_setaffinity)");
        kernel::pin_to_cpu(cpu).map_err(|error| Failure::io(what, &error))?;
    }
    let (report, outcome) = execute(&plan)?;
    match arguments.report {
        ReportForm::Text => println!("{report}"),
        ReportForm::Json => {
            let json = serde_json::to_string(&report).expect("numbers and labels");
            println!("{json}");
        }
    }
    outcome
}

/// The run's report, and whether the run went as asked.
fn execute(plan: &Plan) -> Result<(Report, Result<(), Failure>), Failure> {
    let templates = templates::Templates::build(plan)?;
    let bytes_per_record = templates.record_len_mean();
    let mut frames = frames::Frames::new(plan, templates);
    let cpu_before = kernel::cpu_seconds();
    let (books, taken_ns) = match plan.target.protocol {
        Protocol::Tcp => tcp::run(plan, &mut frames)?,
        Protocol::Udp => udp::run(plan, &mut frames)?,
    };
    let report = Report::new(
        plan.target.to_string(),
        books,
        bytes_per_record,
        taken_ns as f64 / 1e9,
        kernel::cpu_seconds() - cpu_before,
    );
    let outcome = judge(plan, &report);
    Ok((report, outcome))
}

fn judge(plan: &Plan, report: &Report) -> Result<(), Failure> {
    let fail = |exit, message: String| Err(Failure::new(exit, message));
    if report.connections_lost > 0 {
        let message = format!("{} connections were lost", report.connections_lost);
        return fail(Exit::Unavailable, message);
    }
    if report.send_errors > 0 {
        let message = format!("nobody listens at {}: datagrams were refused", plan.target);
        return fail(Exit::Unavailable, message);
    }
    if let Some(records) = plan.records
        && report.records_sent < records
    {
        let sent = report.records_sent;
        let message = format!("time ran out after {sent} of {records} records (--for)");
        return fail(Exit::Unavailable, message);
    }
    if report.records_unsettled > 0 {
        let message = format!("{} records are unsettled", report.records_unsettled);
        return fail(Exit::Io, message);
    }
    if report.hostile_frames_accepted > 0 {
        let accepted = report.hostile_frames_accepted;
        return fail(Exit::Io, format!("{accepted} malformed frames were taken"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
