//! Three books of every lane side by side: the producer's, the agent's, the files'.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::Value;

use super::lane::{Lane, Protocol};
use crate::metrics_text::Metrics;
use crate::table::{Align, Table, grouped};

type Counts = BTreeMap<String, u64>;

/// The producer's book: what `--report json` prints.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sent {
    /// What the producer was given: it may refuse a record by itself, as one that no frame can carry.
    taken: u64,
    records: u64,
    acknowledged: u64,
    /// Records by reason.
    refused: Counts,
    frames: u64,
    bytes: u64,
    seconds: f64,
}

impl Sent {
    pub fn parse(report: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(report)?;
        let number = |name: &str| {
            value[name]
                .as_u64()
                .with_context(|| format!("no number {name}"))
        };
        Ok(Self {
            // `send` was given lines; `load` makes what it sends.
            taken: number("lines_read").or_else(|_| number("records_sent"))?,
            records: number("records_sent")?,
            acknowledged: number("records_acknowledged")?,
            refused: value["records_refused"]
                .as_object()
                .context("no records_refused")?
                .iter()
                .map(|(reason, count)| Some((reason.clone(), count.as_u64()?)))
                .collect::<Option<_>>()
                .context("records_refused holds something that is no number")?,
            frames: number("frames_sent")?,
            bytes: number("bytes_sent")?,
            seconds: value["seconds"].as_f64().context("no number seconds")?,
        })
    }
}

impl std::fmt::Display for Sent {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} records in {} frames, {:.1} MB, {:.1} s",
            grouped(self.records),
            grouped(self.frames),
            self.bytes as f64 / 1e6,
            self.seconds
        )
    }
}

/// The agent's book of one listener, from its metrics. `None`: it has no such series.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Datagrams by verdict.
    gate: Counts,
    /// Datagrams by reason; what comes before the gate left out.
    kernel_drops: Counts,
    received_datagrams: Option<u64>,
    received_frames: Option<u64>,
    accepted_frames: Option<u64>,
    accepted_records: Option<u64>,
    /// Frames by reason.
    refused_frames: Counts,
    /// Whether eBPF counts; without it nobody sees what the kernel drops.
    gate_attached: bool,
}

impl Seen {
    pub fn of(metrics: &Metrics, listener: &str) -> Self {
        let labels = [("listener", listener)];
        let count = |name: &str| metrics.count(name, &labels);
        let by = |name: &str, label: &str| metrics.counts_by(name, &labels, label);
        let mut kernel_drops = by("penstock_kernel_drops_total", "reason");
        kernel_drops.remove("checksum");
        Self {
            gate: by("penstock_gate_datagrams_total", "verdict"),
            kernel_drops,
            received_datagrams: count("penstock_received_datagrams_total"),
            received_frames: count("penstock_received_frames_total"),
            accepted_frames: count("penstock_accepted_frames_total"),
            accepted_records: count("penstock_accepted_records_total"),
            refused_frames: by("penstock_refused_frames_total", "reason"),
            gate_attached: count("penstock_gate_attached") == Some(1),
        }
    }
}

/// One lane, all three.
#[derive(Debug)]
pub struct Account<'a> {
    pub lane: &'a Lane,
    pub sent: Sent,
    pub seen: Seen,
    pub stored: u64,
}

impl Account<'_> {
    /// Datagrams that the gate passed and the kernel dropped all the same.
    fn dropped_datagrams(&self) -> u64 {
        total(&self.seen.kernel_drops)
    }

    /// Datagrams that the gate refused.
    fn gate_refused(&self) -> Counts {
        let mut refused = self.seen.gate.clone();
        refused.remove("passed");
        refused
    }

    /// Records that were sent over UDP and not stored. The three books say why in datagrams.
    fn missing(&self) -> u64 {
        self.sent.records.saturating_sub(self.stored)
    }

    /// The sums of this lane that do not agree.
    fn differences(&self) -> Vec<String> {
        let seen = &self.seen;
        let mut sums = Sums::of(self.lane.name);
        sums.equal(
            "frames received",
            seen.received_frames,
            "frames accepted or refused",
            seen.accepted_frames
                .map(|accepted| accepted + total(&seen.refused_frames)),
        );
        sums.equal(
            "records accepted",
            seen.accepted_records,
            "records stored",
            Some(self.stored),
        );
        match self.lane.protocol {
            Protocol::Tcp => self.compare_tcp(&mut sums),
            Protocol::Udp => self.compare_udp(&mut sums),
        }
        sums.differences
    }

    fn compare_tcp(&self, sums: &mut Sums) {
        sums.equal(
            "records given to the producer",
            Some(self.sent.taken),
            "records acknowledged or refused",
            Some(self.sent.acknowledged + total(&self.sent.refused)),
        );
        sums.equal(
            "records acknowledged",
            Some(self.sent.acknowledged),
            "records stored",
            Some(self.stored),
        );
    }

    fn compare_udp(&self, sums: &mut Sums) {
        let seen = &self.seen;
        sums.equal(
            "records given to the producer",
            Some(self.sent.taken),
            "records sent or refused by it",
            Some(self.sent.records + total(&self.sent.refused)),
        );
        let passed = seen.gate.get("passed").copied().unwrap_or(0);
        sums.equal(
            "datagrams sent",
            Some(self.sent.frames),
            "datagrams that the gate saw",
            Some(total(&seen.gate)),
        );
        sums.equal(
            "datagrams that the gate passed",
            Some(passed),
            "datagrams received or dropped by the kernel",
            seen.received_datagrams
                .map(|received| received + self.dropped_datagrams()),
        );
        sums.equal(
            "datagrams received",
            seen.received_datagrams,
            "frames received",
            seen.received_frames,
        );
        // Every missing datagram held at least one record, and where none is missing, no record is.
        let missing_datagrams =
            self.dropped_datagrams() + total(&self.gate_refused()) + total(&seen.refused_frames);
        if self.stored > self.sent.records
            || self.missing() < missing_datagrams
            || (missing_datagrams == 0 && self.missing() > 0)
        {
            sums.differences.push(format!(
                "{}: {} records sent and {} stored, with {} datagrams dropped or refused",
                self.lane.name,
                grouped(self.sent.records),
                grouped(self.stored),
                grouped(missing_datagrams)
            ));
        }
    }

    /// What was refused and what was lost over UDP. Both are counted in frames and datagrams; where
    /// only one of them happened, it accounts for all the records that are missing.
    fn udp_cells(&self) -> (String, String) {
        let mut frames = self.seen.refused_frames.clone();
        for (verdict, count) in self.gate_refused() {
            *frames.entry(verdict).or_default() += count;
        }
        let (refused, dropped) = (total(&frames), self.dropped_datagrams());
        let records_in = |is_only_cause: bool| match is_only_cause {
            true => format!("{} in ", grouped(self.missing())),
            false => String::new(),
        };
        let mut refused_cell = match refused {
            0 => "0".into(),
            _ => records_in(dropped == 0) + &by_reason(&frames, " frames"),
        };
        if total(&self.sent.refused) > 0 {
            refused_cell = format!(
                "{} by the producer; {refused_cell}",
                by_reason(&self.sent.refused, "")
            );
        }
        let lost_cell = match dropped {
            _ if !self.seen.gate_attached => "not counted".into(),
            0 => "0".into(),
            datagrams => format!(
                "{}{} datagrams",
                records_in(refused == 0),
                grouped(datagrams)
            ),
        };
        (refused_cell, lost_cell)
    }

    fn row(&self) -> Vec<String> {
        let is_udp = self.lane.protocol == Protocol::Udp;
        let (refused, lost) = if is_udp {
            self.udp_cells()
        } else {
            (by_reason(&self.sent.refused, ""), "-".into())
        };
        vec![
            self.lane.name.into(),
            grouped(self.sent.records),
            if is_udp {
                "-".into()
            } else {
                grouped(self.sent.acknowledged)
            },
            grouped(self.stored),
            refused,
            lost,
            grouped((self.stored as f64 / self.sent.seconds.max(0.001)) as u64),
            format!(
                "{:.1}",
                self.sent.bytes as f64 / self.sent.records.max(1) as f64
            ),
        ]
    }
}

/// The closing table. Records a second are stored ones by the producer's clock; bytes a record are
/// those on the wire.
pub fn table(accounts: &[Account<'_>]) -> Table {
    let mut table = Table::new(&[
        ("lane", Align::Left),
        ("sent", Align::Right),
        ("acknowledged", Align::Right),
        ("stored", Align::Right),
        ("refused", Align::Right),
        ("lost in the kernel", Align::Right),
        ("records/s", Align::Right),
        ("bytes/record", Align::Right),
    ]);
    for account in accounts {
        table.row(account.row());
    }
    table
}

/// Everything that does not agree: of each lane, and of all together.
pub fn differences(
    accounts: &[Account<'_>],
    metrics: &Metrics,
    stored_records: u64,
) -> Vec<String> {
    let mut differences: Vec<String> = accounts.iter().flat_map(Account::differences).collect();
    let mut sums = Sums::of("all lanes");
    let stored = Some(stored_records);
    sums.equal(
        "records in the files",
        stored,
        "records of the lanes in the files",
        Some(accounts.iter().map(|account| account.stored).sum()),
    );
    sums.equal(
        "records journalled",
        metrics.count("penstock_journal_appended_records_total", &[]),
        "records in the files",
        stored,
    );
    sums.equal(
        "records that the sink delivered",
        metrics.count("penstock_sink_records_total", &[]),
        "records in the files",
        stored,
    );
    differences.extend(sums.differences);
    differences
}

/// Equations, and those of them that do not hold.
struct Sums {
    of: &'static str,
    differences: Vec<String>,
}

impl Sums {
    fn of(of: &'static str) -> Self {
        Self {
            of,
            differences: Vec::new(),
        }
    }

    fn equal(&mut self, left_name: &str, left: Option<u64>, right_name: &str, right: Option<u64>) {
        if left.is_some() && left == right {
            return;
        }
        let shown = |number: Option<u64>| number.map_or("no".into(), grouped);
        self.differences.push(format!(
            "{}: {} {left_name}, {} {right_name}",
            self.of,
            shown(left),
            shown(right)
        ));
    }
}

fn total(counts: &Counts) -> u64 {
    counts.values().sum()
}

/// "0", "7 frames backpressure", or "7 frames: 5 bad_magic, 2 truncated".
fn by_reason(counts: &Counts, unit: &str) -> String {
    let reasons: Vec<(&String, u64)> = counts
        .iter()
        .map(|(reason, count)| (reason, *count))
        .filter(|(_, count)| *count > 0)
        .collect();
    match reasons.as_slice() {
        [] => "0".into(),
        [(reason, count)] => format!("{}{unit} {reason}", grouped(*count)),
        several => {
            let list: Vec<String> = several
                .iter()
                .map(|(reason, count)| format!("{} {reason}", grouped(*count)))
                .collect();
            format!("{}{unit}: {}", grouped(total(counts)), list.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lane::LANES;
    use super::*;

    fn counts(pairs: &[(&str, u64)]) -> Counts {
        pairs
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    }

    fn lane(name: &str) -> &'static Lane {
        LANES.iter().find(|lane| lane.name == name).unwrap()
    }

    fn tcp() -> Account<'static> {
        Account {
            lane: lane("tcp-protobuf"),
            sent: Sent {
                taken: 100,
                records: 100,
                acknowledged: 90,
                refused: counts(&[("backpressure", 10)]),
                frames: 10,
                bytes: 20_000,
                seconds: 0.5,
            },
            seen: Seen {
                received_frames: Some(11),
                accepted_frames: Some(9),
                accepted_records: Some(90),
                // One frame came twice: its acknowledgement was lost with a connection.
                refused_frames: counts(&[("backpressure", 1), ("duplicate", 1)]),
                ..Seen::default()
            },
            stored: 90,
        }
    }

    fn udp() -> Account<'static> {
        Account {
            lane: lane("udp-json"),
            sent: Sent {
                taken: 100,
                records: 100,
                frames: 20,
                bytes: 20_000,
                seconds: 0.5,
                ..Sent::default()
            },
            seen: Seen {
                gate: counts(&[("passed", 20)]),
                kernel_drops: counts(&[("receive_buffer", 4)]),
                received_datagrams: Some(16),
                received_frames: Some(16),
                accepted_frames: Some(16),
                accepted_records: Some(80),
                refused_frames: Counts::new(),
                gate_attached: true,
            },
            stored: 80,
        }
    }

    #[test]
    fn books_that_agree_have_no_differences() {
        assert_eq!(tcp().differences(), [""; 0]);
        assert_eq!(udp().differences(), [""; 0]);
    }

    #[test]
    fn an_acknowledged_record_that_is_not_stored_is_found() {
        let mut account = tcp();
        account.stored = 89;
        assert_eq!(
            account.differences(),
            [
                "tcp-protobuf: 90 records accepted, 89 records stored",
                "tcp-protobuf: 90 records acknowledged, 89 records stored",
            ]
        );
    }

    #[test]
    fn a_record_that_nobody_settled_is_found() {
        let mut account = tcp();
        account.sent.taken = 101;
        assert_eq!(
            account.differences(),
            [
                "tcp-protobuf: 101 records given to the producer, 100 records acknowledged or refused"
            ]
        );
    }

    #[test]
    fn a_line_that_no_datagram_can_carry_is_refused_by_the_producer() {
        let mut account = udp();
        account.sent.taken = 101;
        assert_eq!(account.differences().len(), 1);
        account.sent.refused = counts(&[("too_long", 1)]);
        assert_eq!(account.differences(), [""; 0]);
        assert_eq!(account.row()[4], "1 too_long by the producer; 0");
    }

    #[test]
    fn a_datagram_that_vanished_is_found_wherever_it_did() {
        let mut before_the_gate = udp();
        before_the_gate.sent.frames = 21;
        assert_eq!(
            before_the_gate.differences(),
            ["udp-json: 21 datagrams sent, 20 datagrams that the gate saw"]
        );

        let mut behind_it = udp();
        behind_it.seen.kernel_drops = counts(&[("receive_buffer", 3)]);
        assert_eq!(
            behind_it.differences(),
            [
                "udp-json: 20 datagrams that the gate passed, 19 datagrams received or dropped by the kernel"
            ]
        );

        let mut unparsed = udp();
        unparsed.seen.received_frames = Some(15);
        assert_eq!(
            unparsed.differences(),
            [
                "udp-json: 15 frames received, 16 frames accepted or refused",
                "udp-json: 16 datagrams received, 15 frames received",
            ]
        );
    }

    #[test]
    fn records_missing_without_a_missing_datagram_are_found() {
        let mut account = udp();
        account.sent.frames = 16;
        account.seen.gate = counts(&[("passed", 16)]);
        account.seen.kernel_drops = Counts::new();
        assert_eq!(
            account.differences(),
            ["udp-json: 100 records sent and 80 stored, with 0 datagrams dropped or refused"]
        );
    }

    #[test]
    fn a_series_that_is_missing_is_a_difference() {
        let mut account = udp();
        account.seen.received_datagrams = None;
        assert_eq!(account.differences().len(), 2);
    }

    #[test]
    fn the_whole_must_be_its_parts() {
        let text = "\
penstock_journal_appended_records_total{shard=\"0\"} 80
penstock_journal_appended_records_total{shard=\"1\"} 90
penstock_sink_records_total{sink=\"files\"} 171
";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(
            differences(&[tcp(), udp()], &metrics, 170),
            ["all lanes: 171 records that the sink delivered, 170 records in the files"]
        );
    }

    #[test]
    fn the_table_names_reasons_and_losses() {
        assert_eq!(
            tcp().row(),
            [
                "tcp-protobuf",
                "100",
                "90",
                "90",
                "10 backpressure",
                "-",
                "180",
                "200.0"
            ]
        );
        assert_eq!(
            udp().row(),
            [
                "udp-json",
                "100",
                "-",
                "80",
                "0",
                "20 in 4 datagrams",
                "160",
                "200.0"
            ]
        );
    }

    #[test]
    fn records_are_named_where_one_cause_explains_them_all() {
        let mut account = udp();
        account.seen.kernel_drops = Counts::new();
        account.seen.gate = counts(&[("passed", 18), ("malformed", 2)]);
        account.seen.received_datagrams = Some(18);
        account.seen.received_frames = Some(18);
        account.seen.refused_frames = counts(&[("backpressure", 2)]);
        assert_eq!(account.differences(), [""; 0]);
        let row = account.row();
        assert_eq!(row[4], "20 in 4 frames: 2 backpressure, 2 malformed");
        assert_eq!(row[5], "0");

        account.seen.kernel_drops = counts(&[("receive_buffer", 1)]);
        let row = account.row();
        assert_eq!(row[4], "4 frames: 2 backpressure, 2 malformed");
        assert_eq!(row[5], "1 datagrams");

        account.seen.gate_attached = false;
        assert_eq!(account.row()[5], "not counted");
    }

    #[test]
    fn a_listener_is_read_from_the_metrics() {
        let text = "\
penstock_gate_datagrams_total{listener=\"udp-json\",verdict=\"passed\"} 20
penstock_gate_datagrams_total{listener=\"udp-json\",verdict=\"malformed\"} 0
penstock_gate_attached{listener=\"udp-json\"} 1
penstock_kernel_drops_total{listener=\"udp-json\",reason=\"receive_buffer\"} 4
penstock_kernel_drops_total{listener=\"udp-json\",reason=\"checksum\"} 9
penstock_received_datagrams_total{listener=\"udp-json\"} 16
penstock_received_frames_total{listener=\"udp-json\"} 16
penstock_accepted_frames_total{listener=\"udp-json\",encoding=\"protobuf\"} 0
penstock_accepted_frames_total{listener=\"udp-json\",encoding=\"json\"} 16
penstock_accepted_records_total{listener=\"udp-json\",encoding=\"json\"} 80
penstock_refused_frames_total{listener=\"udp-json\",reason=\"truncated\"} 0
";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(Seen::of(&metrics, "udp-json"), udp().seen);
    }

    #[test]
    fn a_report_is_read() {
        let report = r#"{"records_sent": 100, "records_acknowledged": 90,
            "records_refused": {"backpressure": 10}, "frames_sent": 10, "bytes_sent": 20000,
            "seconds": 0.5, "records_per_second": 180.0}"#;
        assert_eq!(Sent::parse(report).unwrap(), tcp().sent);
        let with_lines = report.replacen('{', r#"{"lines_read": 101, "#, 1);
        assert_eq!(Sent::parse(&with_lines).unwrap().taken, 101);
        assert!(Sent::parse(r#"{"records_sent": 100}"#).is_err());
    }
}
