//! Lines over TCP, until they are acknowledged.

use std::time::Duration;

use penstock_client::{Options, PushError, SendError, Sender, SpoolError, SpoolOptions};

use super::lines::{Line, Splitter};
use super::{Arguments, Input, Reason, Recorder, Summary, recorder};
use crate::exit::{Exit, Failure};

const CHUNK_LEN: usize = 64 << 10;
/// The longest wait for the agent or the input before a stalled agent is looked for.
const ROUND_MAX: Duration = Duration::from_millis(500);
/// `--batch` decides how large a frame is, up to this.
const BATCH_BYTES_MAX: usize = 256 << 10;

pub fn send(
    arguments: &Arguments,
    inputs: Vec<Input>,
    summary: &mut Summary,
) -> Result<(), Failure> {
    let defaults = Options::default();
    let options = Options {
        encoding: arguments.encoding,
        schema: arguments.schema.unwrap_or_default(),
        zstd_level: arguments.zstd,
        batch_records_max: arguments.batch,
        batch_bytes_max: BATCH_BYTES_MAX,
        overflow: arguments.on_full.into(),
        give_up_after: arguments.timeout,
        connect_timeout: defaults.connect_timeout.min(arguments.timeout),
        ..defaults
    };
    let targets = arguments.to.iter();
    let targets = targets.map(|to| to.host_and_port.clone()).collect();
    let mut sender = match &arguments.spool {
        None => Sender::with_targets(targets, options),
        Some(folder) => Sender::with_spool(targets, options, SpoolOptions::new(folder))
            .map_err(|error| describe(error.into()))?,
    };
    let read = send_inputs(arguments, inputs, &mut sender, summary);
    let sent = match &read {
        Err(failure) if failure.exit == Exit::Unavailable => Ok(()),
        // What was read before an input failed is still sent and waited for.
        _ => sender.finish().map(|_| ()).map_err(describe),
    };
    // Whatever went wrong, what was read is in the spool for the next run.
    let kept = match arguments.spool.is_some() {
        true => sender.persist().map_err(describe),
        false => Ok(()),
    };
    settle(&sender, summary);
    read.and(sent).and(kept)
}

fn send_inputs(
    arguments: &Arguments,
    inputs: Vec<Input>,
    sender: &mut Sender,
    summary: &mut Summary,
) -> Result<(), Failure> {
    let mut chunk = vec![0; CHUNK_LEN];
    for mut input in inputs {
        let recorder = recorder(arguments, &input);
        let mut splitter = Splitter::default();
        loop {
            // Acknowledgements are read while the input is silent, and a batch is closed in time.
            let ready = sender
                .advance(Some(input.source.as_fd()), ROUND_MAX)
                .map_err(describe)?;
            // With a spool there is no need to give up before it is full, or the input at its end.
            if arguments.spool.is_none() {
                sender.give_up_if_stalled().map_err(describe)?;
            }
            if !ready {
                continue;
            }
            let len = input.read(&mut chunk)?;
            if len == 0 {
                break;
            }
            splitter.feed(&chunk[..len], |line| {
                send_line(sender, &recorder, line, summary)
            })?;
        }
        splitter.finish(|line| send_line(sender, &recorder, line, summary))?;
    }
    Ok(())
}

fn send_line(
    sender: &mut Sender,
    recorder: &Recorder,
    line: Line<'_>,
    summary: &mut Summary,
) -> Result<(), Failure> {
    summary.lines_read += 1;
    let Line::Text(text) = line else {
        summary.refuse(Reason::TooLong.label(), 1);
        return Ok(());
    };
    match sender.send(&recorder.record(text, summary)) {
        // The producer's books count it.
        Err(SendError::NotTaken(PushError::TooLong { .. })) => Ok(()),
        outcome => outcome.map_err(describe),
    }
}

fn settle(sender: &Sender, summary: &mut Summary) {
    let report = sender.report();
    summary.records_sent = report.sent.records;
    summary.records_acknowledged = report.acknowledged().records;
    summary.records_duplicate = report.duplicate.records;
    summary.records_unsettled = report.unsettled.records;
    summary.records_dropped = report.records_dropped_newest + report.dropped_oldest.records;
    summary.records_recovered = report.recovered.records;
    summary.frames_sent = report.sent.frames;
    summary.frames_resent = report.resent.frames;
    summary.bytes_sent = report.bytes_sent;
    summary.refuse(Reason::TooLong.label(), report.records_too_long);
    for (label, tally) in report.refused.iter() {
        summary.refuse(label, tally.records);
    }
}

fn describe(error: SendError) -> Failure {
    let exit = match error {
        SendError::GaveUp { .. } => Exit::Unavailable,
        SendError::Spool(SpoolError::InUse { .. }) => Exit::InUse,
        SendError::Wait(_) | SendError::Spool(_) => Exit::Io,
        SendError::NotTaken(_) => Exit::Software,
    };
    Failure::new(exit, error.to_string())
}
