//! What a person asks of the running agent, over the control socket or by a signal: answered by the
//! control thread between two looks at everything else, one at a time.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::daemon::agent::Agent;
use crate::daemon::gate_requests::GateRequest;
use crate::daemon::reload::Asked;
use crate::log::{self, LogFilter, NoLevel};

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
    /// Log by this filter until the next reload, or say by which it logs.
    Log { level: Option<String> },
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
            Request::Log { level } => drop(reply.send(answer_log(level.as_deref()))),
        }
    }
}

/// `{"level": …}`, and where it was changed `"was"`.
fn answer_log(level: Option<&str>) -> Answer {
    let Some(level) = level else {
        return Ok(json!({ "level": log::level().map(|level| level.to_string()) }));
    };
    let level: LogFilter = level
        .parse()
        .map_err(|error: NoLevel| Refused(error.to_string()))?;
    let was = log::set_level(level.clone()).map(|was| was.to_string());
    tracing::info!(%level, was, "the log's level was changed by a request");
    Ok(json!({ "level": level.to_string(), "was": was }))
}
