//! What the agent's counters say of one run, and whether they add up.

use std::collections::BTreeMap;

use agent_common::verdict::Verdict;
use anyhow::ensure;
use serde::Serialize;

use crate::rig::samples::Samples;

/// Datagrams of the listener `udp`, each one a frame or meant to be none.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Books {
    /// By verdict.
    pub verdicts: BTreeMap<&'static str, u64>,
    pub kernel_drops: u64,
    pub received: u64,
    pub accepted: u64,
    pub refused: u64,
}

impl Books {
    pub fn read(samples: &Samples) -> anyhow::Result<Self> {
        let count = |name: &str| samples.sum(name, &["listener=\"udp\""]);
        let mut verdicts = BTreeMap::new();
        for verdict in Verdict::ALL {
            let label = format!("verdict=\"{}\"", verdict.label());
            let labels = ["listener=\"udp\"", label.as_str()];
            let datagrams = samples.sum("penstock_gate_datagrams_total", &labels)?;
            verdicts.insert(verdict.label(), datagrams);
        }
        Ok(Self {
            verdicts,
            kernel_drops: count("penstock_kernel_drops_total")?,
            received: count("penstock_received_datagrams_total")?,
            accepted: count("penstock_accepted_frames_total")?,
            refused: count("penstock_refused_frames_total")?,
        })
    }

    pub fn arrived(&self) -> u64 {
        self.verdicts.values().sum()
    }

    pub fn of(&self, verdict: Verdict) -> u64 {
        self.verdicts[verdict.label()]
    }

    /// The conservation law, once nothing moves any more. Without the gate in the kernel its drops
    /// come before the verdict.
    pub fn check(&self, sent: u64, in_kernel: bool) -> anyhow::Result<()> {
        let passed = self.of(Verdict::Passed);
        let (arrived, taken) = match in_kernel {
            true => (self.arrived(), self.received + self.kernel_drops),
            false => (self.arrived() + self.kernel_drops, self.received),
        };
        ensure!(
            arrived == sent,
            "{sent} were sent and {arrived} arrived: {self:?}"
        );
        let judged = if in_kernel { passed } else { self.arrived() };
        ensure!(
            judged == taken,
            "{judged} judged and {taken} taken: {self:?}"
        );
        ensure!(
            passed - if in_kernel { self.kernel_drops } else { 0 } == self.accepted + self.refused,
            "what passed is neither accepted nor refused: {self:?}"
        );
        Ok(())
    }
}
