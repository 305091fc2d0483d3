//! What a person asks of the running agent, over the control socket or by a signal: answered by the
//! control thread between two looks at everything else, one at a time.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::daemon::agent::Agent;
use crate::daemon::gate_requests::GateRequest;
use crate::daemon::reload::Asked;

/// The closed list of requests.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Read the configuration again and apply what has changed.
    Reload,
    /// Only say what that would be.
    PlanReload,
    /// What `penstock gate` asks.
    Gate(GateRequest),
}

/// Why nothing was changed, in one line or more, for a person.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(pub String);

pub type Answer = Result<Value, Refused>;

/// A request and where its answer goes.
#[derive(Debug)]
pub struct Ask {
    pub request: Request,
    pub reply: oneshot::Sender<Answer>,
}

impl Agent {
    /// Answers a request, at once or, for a reload, when it is over.
    pub fn ask(&mut self, ask: Ask) {
        let Ask { request, reply } = ask;
        let dry_run = matches!(request, Request::PlanReload);
        match request {
            Request::Reload | Request::PlanReload => self.ask_reload(Asked {
                reply: Some(reply),
                dry_run,
            }),
            // A client that has gone wants no answer.
            Request::Gate(request) => drop(reply.send(self.answer_gate(request))),
        }
    }
}
