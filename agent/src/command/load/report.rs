//! What a run did, for people and for scripts.

use std::collections::BTreeMap;

use penstock_proto::reason::Reason;
use serde::Serialize;

use super::latency::Histogram;

/// The books of a run, kept while it runs.
#[derive(Default)]
pub struct Books {
    pub frames_sent: u64,
    pub records_sent: u64,
    pub bytes_sent: u64,
    pub frames_acknowledged: u64,
    pub records_acknowledged: u64,
    pub records_duplicate: u64,
    pub frames_refused: BTreeMap<&'static str, u64>,
    pub records_refused: BTreeMap<&'static str, u64>,
    pub frames_tried_later: u64,
    pub frames_unsettled: u64,
    pub records_unsettled: u64,
    /// By the reason that each was made to earn.
    pub hostile_sent: BTreeMap<&'static str, u64>,
    /// By the reason that the agent gave.
    pub hostile_refused: BTreeMap<&'static str, u64>,
    /// Taken although they must not be: a fault of the agent.
    pub hostile_accepted: u64,
    pub connections_lost: u64,
    pub stray_acks: u64,
    /// Datagrams that the kernel did not take, and were sent again.
    pub send_errors: u64,
    pub ack_latency: Histogram,
}

/// Counts one under a reason's label.
pub fn count(counts: &mut BTreeMap<&'static str, u64>, reason: u8, by: u64) {
    let label = Reason::from_wire(reason).map_or("unknown", Reason::label);
    *counts.entry(label).or_default() += by;
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub target: String,
    pub records_sent: u64,
    pub frames_sent: u64,
    pub bytes_sent: u64,
    pub records_acknowledged: u64,
    pub frames_acknowledged: u64,
    pub records_duplicate: u64,
    pub records_refused: BTreeMap<&'static str, u64>,
    pub frames_refused: BTreeMap<&'static str, u64>,
    pub frames_tried_later: u64,
    pub frames_unsettled: u64,
    pub records_unsettled: u64,
    pub hostile_frames_sent: BTreeMap<&'static str, u64>,
    pub hostile_frames_refused: BTreeMap<&'static str, u64>,
    pub hostile_frames_accepted: u64,
    pub connections_lost: u64,
    pub stray_acks: u64,
    pub send_errors: u64,
    /// From the first frame to the last byte or, with acknowledgements, the last answer.
    pub seconds: f64,
    pub records_per_second: f64,
    pub bytes_per_second: f64,
    /// Of a record in its payload.
    pub bytes_per_record: f64,
    /// From when a frame was due to when it was acknowledged.
    pub ack_latency: Option<Latency>,
    /// Of this process, both modes, while it sent.
    pub cpu_seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct Latency {
    pub p50_seconds: f64,
    pub p99_seconds: f64,
    pub p999_seconds: f64,
    pub max_seconds: f64,
}

impl Report {
    pub fn new(
        target: String,
        books: Books,
        bytes_per_record: f64,
        seconds: f64,
        cpu_seconds: f64,
    ) -> Self {
        let latency = &books.ack_latency;
        let quantile = |share| latency.quantile_ns(share) as f64 / 1e9;
        Self {
            target,
            ack_latency: (!latency.is_empty()).then(|| Latency {
                p50_seconds: quantile(0.5),
                p99_seconds: quantile(0.99),
                p999_seconds: quantile(0.999),
                max_seconds: latency.max_ns() as f64 / 1e9,
            }),
            records_per_second: books.records_sent as f64 / seconds,
            bytes_per_second: books.bytes_sent as f64 / seconds,
            records_sent: books.records_sent,
            frames_sent: books.frames_sent,
            bytes_sent: books.bytes_sent,
            records_acknowledged: books.records_acknowledged,
            frames_acknowledged: books.frames_acknowledged,
            records_duplicate: books.records_duplicate,
            records_refused: books.records_refused,
            frames_refused: books.frames_refused,
            frames_tried_later: books.frames_tried_later,
            frames_unsettled: books.frames_unsettled,
            records_unsettled: books.records_unsettled,
            hostile_frames_sent: books.hostile_sent,
            hostile_frames_refused: books.hostile_refused,
            hostile_frames_accepted: books.hostile_accepted,
            connections_lost: books.connections_lost,
            stray_acks: books.stray_acks,
            send_errors: books.send_errors,
            seconds,
            bytes_per_record,
            cpu_seconds,
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(out, "target          {}", self.target)?;
        writeln!(
            out,
            "sent            {} records in {} frames, {:.1} MB, {:.0} bytes a record",
            self.records_sent,
            self.frames_sent,
            self.bytes_sent as f64 / 1e6,
            self.bytes_per_record
        )?;
        writeln!(
            out,
            "rate            {:.0} records/s, {:.1} MB/s over {:.3} s",
            self.records_per_second,
            self.bytes_per_second / 1e6,
            self.seconds
        )?;
        writeln!(
            out,
            "acknowledged    {} records, duplicate {}, unsettled {}",
            self.records_acknowledged, self.records_duplicate, self.records_unsettled
        )?;
        list(out, "refused records", &self.records_refused)?;
        list(out, "hostile sent", &self.hostile_frames_sent)?;
        list(out, "hostile refused", &self.hostile_frames_refused)?;
        for (name, value) in [
            ("hostile ACCEPTED", self.hostile_frames_accepted),
            ("tried later", self.frames_tried_later),
            ("connections lost", self.connections_lost),
            ("stray acks", self.stray_acks),
            ("send errors", self.send_errors),
        ] {
            if value > 0 {
                writeln!(out, "{name:<15} {value}")?;
            }
        }
        if let Some(latency) = &self.ack_latency {
            writeln!(
                out,
                "ack latency     p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms",
                latency.p50_seconds * 1e3,
                latency.p99_seconds * 1e3,
                latency.p999_seconds * 1e3,
                latency.max_seconds * 1e3
            )?;
        }
        write!(out, "generator       {:.2} CPU seconds", self.cpu_seconds)
    }
}

fn list(
    out: &mut std::fmt::Formatter<'_>,
    name: &str,
    counts: &BTreeMap<&'static str, u64>,
) -> std::fmt::Result {
    if counts.is_empty() {
        return Ok(());
    }
    let parts: Vec<String> = counts
        .iter()
        .map(|(label, n)| format!("{label} {n}"))
        .collect();
    writeln!(out, "{name:<15} {}", parts.join(", "))
}
