//! The conservation law, read from `/metrics` (DESIGN: exact once drained).

use std::time::{Duration, Instant};

use agent_common::verdict::Verdict;

use super::Agent;
use super::config::Gate;
use super::metrics::Metrics;

/// How long the agent may take to work off what was sent.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// What one life was offered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offered {
    /// Datagrams sent to the listener `udp`.
    pub datagrams: u64,
    /// Records that the journal held undelivered when this life began.
    pub backlog: u64,
}

/// Waits until everything that was offered is accounted for, and the sink has it; panics with the
/// sums that disagree.
///
/// The agent's counts are read one after the other while it works, so a sum may be off by what is
/// on its way; what is still off after `DRAIN_MAX` is lost in silence.
pub fn drained(agent: &Agent, gate: Gate, offered: Offered) -> Metrics {
    let deadline = Instant::now() + DRAIN_MAX;
    loop {
        let metrics = agent.metrics();
        let mut broken = disagreements(&metrics, gate, offered);
        let lag = metrics.sum("penstock_sink_lag_records", &[]);
        if lag > 0 {
            broken.push(format!("the sink lags by {lag} records"));
        }
        if broken.is_empty() {
            return metrics;
        }
        assert!(
            Instant::now() < deadline,
            "not accounted for after {DRAIN_MAX:?}, {offered:?}:\n{}\n{}{}{}{}",
            broken.join("\n"),
            metrics.shown("penstock_gate_datagrams_total"),
            metrics.shown("penstock_kernel_drops_total"),
            metrics.shown("penstock_received_datagrams_total"),
            metrics.shown("penstock_refused_frames_total"),
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The sums that do not agree.
pub fn disagreements(metrics: &Metrics, gate: Gate, offered: Offered) -> Vec<String> {
    let mut broken = Vec::new();
    let mut equal = |what: &str, left: u64, right: u64| {
        if left != right {
            broken.push(format!("{what}: {left} and {right}"));
        }
    };

    let udp = [("listener", "udp")];
    let with = |key, value| [("listener", "udp"), (key, value)];
    let judged = metrics.sum("penstock_gate_datagrams_total", &udp);
    let passed = Verdict::Passed.label();
    let passed = metrics.one("penstock_gate_datagrams_total", &with("verdict", passed));
    let received = metrics.one("penstock_received_datagrams_total", &udp);
    let drops = |reason| metrics.one("penstock_kernel_drops_total", &with("reason", reason));
    let dropped = drops("receive_buffer") + drops("memory");
    match gate {
        Gate::Kernel => {
            equal("sent, and given a verdict", offered.datagrams, judged);
            equal(
                "passed, and received or dropped",
                passed,
                received + dropped,
            );
        }
        // The stand-in judges what the kernel has handed over: its drops come before the verdict.
        Gate::UserSpace => {
            equal(
                "sent, and judged or dropped",
                offered.datagrams,
                judged + dropped,
            );
            equal("passed, and received", passed, received);
        }
    }

    for listener in ["udp", "tcp"] {
        let labels = [("listener", listener)];
        let accepted = metrics.sum("penstock_accepted_frames_total", &labels);
        let refused = metrics.sum("penstock_refused_frames_total", &labels);
        let frames = metrics.one("penstock_received_frames_total", &labels);
        equal(
            &format!("{listener}: frames, and accepted or refused"),
            frames,
            accepted + refused,
        );
    }
    let datagrams = metrics.one("penstock_received_frames_total", &udp);
    equal("datagrams, and their frames", received, datagrams);

    let accepted = metrics.sum("penstock_accepted_records_total", &[]);
    let appended = metrics.one("penstock_journal_appended_records_total", &[]);
    let lost = metrics.sum("penstock_journal_lost_records_total", &[]);
    equal(
        "accepted, and journalled or lost",
        accepted,
        appended + lost,
    );
    let delivered = metrics.one("penstock_sink_records_total", &[("sink", "files")]);
    let lag = metrics.one("penstock_sink_lag_records", &[("sink", "files")]);
    let skipped = metrics.sum("penstock_sink_skipped_records_total", &[("sink", "files")]);
    equal(
        "journalled, and delivered, lagging or skipped",
        appended + offered.backlog,
        delivered + lag + skipped,
    );
    broken
}
