//! What a person asks about the gate, answered on the control thread.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::daemon::agent::Agent;
use crate::daemon::gate_change::{self, LimitWords, List};
use crate::daemon::request::{Answer, Refused};
use crate::gate::policy::GatePolicy;
use crate::gate::rules::PolicyError;
use crate::gate::who::{TOP_MAX, Who};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum GateRequest {
    /// The policy in force and the configured one.
    Show,
    Allow {
        prefixes: Vec<String>,
    },
    Deny {
        prefixes: Vec<String>,
    },
    Limit {
        /// A prefix, `source_limit` or `newcomers`.
        sources: String,
        limit: LimitWords,
    },
    Keep {
        priority: String,
        ratio: String,
    },
    Remove {
        prefixes: Vec<String>,
    },
    /// Back to the configured policy.
    Reset,
    /// The noisiest sources, with rates since the last look.
    Top {
        by: TopBy,
        count: usize,
    },
    /// Refused datagrams sampled after this number; keeps sampling on for a while.
    Watch {
        after: u64,
    },
}

pub use crate::gate::who::TopBy;

/// What the configuration says of the gate, and what the last look at the sources saw.
#[derive(Clone, Debug)]
pub struct GateKnowledge {
    configured: GatePolicy,
    who: Who,
}

impl GateKnowledge {
    pub fn new(configured: &GatePolicy) -> Self {
        Self {
            configured: configured.clone(),
            who: Who::default(),
        }
    }
}

impl Agent {
    /// Takes a policy from the configuration, and with it what was changed while running is
    /// forgotten; an error leaves all as it was.
    pub fn configure_gate(&mut self, policy: &GatePolicy) -> Result<(), PolicyError> {
        self.shared.gate().apply(policy)?;
        self.gate.configured = policy.clone();
        Ok(())
    }

    pub(super) fn answer_gate(&mut self, request: GateRequest) -> Answer {
        match request {
            GateRequest::Show => Ok(json!({
                "gate": self.shared.gate_kind.label(),
                "config": self.shared.config(),
                "policy": gate_change::to_json(self.shared.gate().policy()),
                "configured": gate_change::to_json(&self.gate.configured),
            })),
            GateRequest::Allow { prefixes } => {
                self.change_gate(|policy| gate_change::list(policy, List::Allow, &prefixes))
            }
            GateRequest::Deny { prefixes } => {
                self.change_gate(|policy| gate_change::list(policy, List::Deny, &prefixes))
            }
            GateRequest::Limit { sources, limit } => {
                self.change_gate(|policy| gate_change::limit(policy, &sources, &limit))
            }
            GateRequest::Keep { priority, ratio } => {
                self.change_gate(|policy| gate_change::keep(policy, &priority, &ratio))
            }
            GateRequest::Remove { prefixes } => {
                self.change_gate(|policy| gate_change::remove(policy, &prefixes))
            }
            GateRequest::Reset => {
                let configured = self.gate.configured.clone();
                let is_changed = *self.shared.gate().policy() != configured;
                if is_changed {
                    self.configure_gate(&configured).map_err(refused)?;
                    tracing::info!("the gate on request: as the configuration says again");
                }
                Ok(json!({ "changes": [], "changed": is_changed, "differs": false }))
            }
            GateRequest::Top { by, count } => {
                let gate = self.shared.gate();
                let (sources, bits) = (gate.sources(), gate.source_bits());
                let count = count.min(TOP_MAX);
                let top = self.gate.who.top(&sources, bits, by, count, Instant::now());
                Ok(json!(top))
            }
            GateRequest::Watch { after } => {
                let name = |listener| self.shared.listener_name(listener);
                let watched = self.shared.gate().watch(after, name);
                Ok(json!(watched))
            }
        }
    }

    /// The policy changed on a copy, the copy applied, and only then taken.
    fn change_gate(
        &mut self,
        change: impl FnOnce(&mut GatePolicy) -> Result<Vec<String>, String>,
    ) -> Answer {
        let in_force = self.shared.gate().policy().clone();
        let mut wanted = in_force.clone();
        let changes = change(&mut wanted).map_err(Refused)?;
        let is_changed = wanted != in_force;
        if is_changed {
            let applied = self.shared.gate().apply(&wanted);
            applied.map_err(refused)?;
            for line in &changes {
                tracing::info!("the gate on request: {line}");
            }
        }
        Ok(json!({
            "changes": changes,
            "changed": is_changed,
            "differs": wanted != self.gate.configured,
        }))
    }
}

fn refused(error: PolicyError) -> Refused {
    Refused(format!("{error}; what held before still holds"))
}
