//! A reload: the files that the agent was started with are read again, and what has changed is put in
//! force while everything else goes on.
//!
//! ```text
//! asked ─▶ read, on a thread of its own ─▶ plan ─▶ prepare ─▶ carry out ─▶ wait ─▶ answer
//!            │ wrong: 78                            │ a step fails
//!            ▼                                      ▼
//!          nothing is changed, and the metric is 0
//! ```
//!
//! *Prepare* is everything that can fail: new sockets are made, guarded and bound, the gate's lists
//! and limits are laid into its maps, which it does whole or not at all. If any of it fails what was
//! prepared is closed again and the reload has changed nothing. *Carry out* cannot fail: sockets
//! are handed to the shards, those that go are run dry, sinks end at a commit and begin anew. What
//! takes long (a connection that must be drained, a sink that hangs in its output) goes on behind
//! the answer, which names it.
//!
//! One reload at a time; others wait, `limits::CONTROL_REQUESTS` of them.

pub mod plan;
mod prepare;
pub mod report;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use self::plan::{Change, Plan};
use self::prepare::Prepared;
use self::report::{Outcome, Report};
use crate::config::{self, LoadError, Loaded};
use crate::daemon::agent::Agent;
use crate::daemon::request::{Answer, Refused};
use crate::exit::{Exit, Failure};
use crate::limits::{CONTROL_REQUESTS, SHARD_ORDERS_MAX};
use crate::log;
use crate::schema;

/// How long an answer waits for what the shards and the sinks do: within what the control socket
/// gives a connection (10 s).
const ANSWER_WAIT: Duration = Duration::from_secs(7);

/// Who asked, and for what.
pub struct Asked {
    /// `None`: a signal, whose answer is the log.
    pub reply: Option<oneshot::Sender<Answer>>,
    pub dry_run: bool,
}

/// The reload that is under way, and those that wait.
#[derive(Default)]
pub struct Reloads {
    waiting: VecDeque<Asked>,
    now: Option<(Asked, Stage)>,
}

enum Stage {
    Reading(JoinHandle<Result<Fresh, Failure>>),
    /// Shards take what they were told before: it is a moment.
    Planned {
        report: Report,
        plan: Box<Plan>,
        until: Instant,
    },
    Settling {
        report: Report,
        until: Instant,
    },
}

/// What was read, and what is said of it.
struct Fresh {
    loaded: Loaded,
    warnings: Vec<String>,
}

/// The file that `loaded` came from; `None` where there was none.
pub fn main_file(loaded: &Loaded) -> Option<PathBuf> {
    loaded.files.first().cloned()
}

fn read(path: Option<PathBuf>) -> Result<Fresh, Failure> {
    let loaded = match config::load(path.as_deref()) {
        Ok(loaded) => loaded,
        // As `penstock check` prints them.
        Err(LoadError::Mistakes(mistakes)) => {
            return Err(Failure::new(Exit::Config, mistakes.to_string()));
        }
        Err(error) => return Err(error.into()),
    };
    // As at a start: a schema that is wrong costs no other, and no reload. (What the host will not
    // give a socket is said where it is asked for, with the capabilities that are kept for it.)
    let schemas = schema::check::mistakes(&loaded.settings, &loaded.files);
    let warnings = schemas.iter().map(|mistake| mistake.to_string()).collect();
    Ok(Fresh { loaded, warnings })
}

impl Agent {
    /// Begins a reload, or lets it wait for the one under way.
    pub fn ask_reload(&mut self, asked: Asked) {
        if self.reloads.waiting.len() >= CONTROL_REQUESTS {
            if let Some(reply) = asked.reply {
                let why = format!("{CONTROL_REQUESTS} reloads wait already");
                let _ = reply.send(Err(Refused(why)));
            }
            // A signal's reload is one of those that wait.
            return;
        }
        self.reloads.waiting.push_back(asked);
        self.advance_reload();
    }

    pub fn is_reloading(&self) -> bool {
        self.reloads.now.is_some()
    }

    /// Whether `tend` has something to look at soon.
    pub fn is_changing(&self) -> bool {
        self.reloads.now.is_some() || !self.unfinished().is_empty()
    }

    /// Goes on with what was begun.
    pub fn tend(&mut self) {
        self.shared.tend_listeners(&mut self.store, &self.orders);
        if self.sinks.tend() {
            self.shared.show_sinks(self.sinks.views());
        }
        self.advance_reload();
    }

    fn unfinished(&self) -> Vec<String> {
        let mut all = self.shared.listeners().unfinished();
        all.extend(self.sinks.unfinished());
        all
    }

    fn advance_reload(&mut self) {
        loop {
            let Some((asked, stage)) = self.reloads.now.take() else {
                let Some(asked) = self.reloads.waiting.pop_front() else {
                    return;
                };
                let path = self.config_file.clone();
                let reading = tokio::task::spawn_blocking(move || read(path));
                self.reloads.now = Some((asked, Stage::Reading(reading)));
                return;
            };
            match self.step(&asked, stage) {
                Step::Wait(stage) => {
                    self.reloads.now = Some((asked, stage));
                    return;
                }
                Step::GoOn(stage) => self.reloads.now = Some((asked, stage)),
                Step::Over(report) => self.end_reload(asked, report),
            }
        }
    }

    fn step(&mut self, asked: &Asked, stage: Stage) -> Step {
        match stage {
            Stage::Reading(reading) if !reading.is_finished() => {
                Step::Wait(Stage::Reading(reading))
            }
            Stage::Reading(reading) => match futures_now(reading) {
                Ok(fresh) => self.plan(asked, fresh),
                Err(failure) => Step::Over(refused(Outcome::Invalid, failure)),
            },
            Stage::Planned {
                report,
                plan,
                until,
            } => {
                let is_idle = self.orders.iter().all(|one| one.room() == SHARD_ORDERS_MAX);
                if !is_idle && Instant::now() < until {
                    return Step::Wait(Stage::Planned {
                        report,
                        plan,
                        until,
                    });
                }
                if !is_idle {
                    let why = "a shard has not taken the orders of the reload before: it is stuck";
                    return Step::Over(Report {
                        outcome: Outcome::Failed,
                        error: Some(why.to_owned()),
                        exit: Exit::Unavailable as u8,
                        ..report
                    });
                }
                match self.change(*plan) {
                    Ok(()) => {
                        let until = Instant::now() + ANSWER_WAIT;
                        Step::GoOn(Stage::Settling { report, until })
                    }
                    Err(failure) => Step::Over(Report {
                        warnings: report.warnings,
                        source: report.source,
                        ..refused(Outcome::Failed, failure)
                    }),
                }
            }
            Stage::Settling { report, until } => {
                let unfinished = self.unfinished();
                if !unfinished.is_empty() && Instant::now() < until {
                    return Step::Wait(Stage::Settling { report, until });
                }
                Step::Over(Report {
                    unfinished,
                    ..report
                })
            }
        }
    }

    fn plan(&self, asked: &Asked, fresh: Fresh) -> Step {
        let Fresh { loaded, warnings } = fresh;
        let source = loaded.source();
        let mut in_force = self.settings.clone();
        // Where `penstock gate` has changed it, the file's word is a change.
        in_force.gate.policy = self.shared.gate().policy().clone();
        let plan = match plan::plan(&in_force, &loaded.settings, self.orders.len() as u16) {
            Ok(plan) => plan,
            Err(impossible) => {
                let failure = Failure::new(Exit::Config, impossible.to_string());
                return Step::Over(Report {
                    warnings,
                    source,
                    ..refused(Outcome::Failed, failure)
                });
            }
        };
        let report = Report {
            source,
            changes: plan.changes.iter().map(Change::to_string).collect(),
            restart: plan.restart.clone(),
            warnings,
            ..Report::default()
        };
        if asked.dry_run {
            return Step::Over(Report {
                outcome: Outcome::Planned,
                ..report
            });
        }
        Step::GoOn(Stage::Planned {
            report,
            plan: Box::new(plan),
            until: Instant::now() + Duration::from_secs(1),
        })
    }

    /// Prepares everything that can fail, then carries it out.
    fn change(&mut self, plan: Plan) -> Result<(), Failure> {
        let prepared = self.prepare(&plan)?;
        self.carry_out(&plan, prepared);
        // What needs a restart of it is in the plan already.
        let _ = log::apply(&plan.settings.log);
        self.settings = plan.settings;
        self.tend_changes();
        Ok(())
    }

    fn carry_out(&mut self, plan: &Plan, prepared: Prepared) {
        // What is new first: nobody is to find neither.
        self.take_listeners(&plan.changes, prepared);
        for change in &plan.changes {
            match change {
                Change::AddListener(_)
                | Change::RemoveListener(_)
                | Change::MoveListener { .. } => {}
                // Laid into the maps when it was prepared.
                Change::Gate(_) => {}
                // Below, for every reload.
                Change::Log(_) => {}
                Change::ReceiveBuffer { listener, bytes } => {
                    self.set_receive_buffer(listener, *bytes);
                }
                Change::AddSink(sink) | Change::ChangeSink { to: sink, .. } => {
                    self.sinks.want(sink);
                }
                Change::RemoveSink(name) => self.sinks.remove(name),
                Change::Schemas { folder, schemas } => {
                    self.schemas.reconfigure(folder.clone(), schemas.clone());
                }
                Change::MinFree => self.disk.set_min_free(plan.settings.journal.min_free),
                Change::Tune { tuning, .. } => {
                    self.stop_timeout = tuning.stop_timeout;
                    for orders in &self.orders {
                        // Nothing waits for it: it is in force at the shard's next turn.
                        let _ = orders.give(crate::shard::orders::What::Tune(*tuning));
                    }
                }
            }
        }
    }

    fn tend_changes(&mut self) {
        self.shared.tend_listeners(&mut self.store, &self.orders);
        self.sinks.tend();
        self.shared.show_sinks(self.sinks.views());
    }

    fn end_reload(&mut self, asked: Asked, report: Report) {
        if !asked.dry_run {
            let source = report.is_successful().then_some(report.source.as_str());
            self.shared.show_reload(source);
            say(&report);
        }
        if let Some(reply) = asked.reply {
            // A client that has gone wants no answer.
            let _ = reply.send(Ok(json!(report)));
        }
    }
}

enum Step {
    Wait(Stage),
    GoOn(Stage),
    Over(Report),
}

/// The outcome of a task that has finished.
fn futures_now<T: Send + 'static>(task: JoinHandle<Result<T, Failure>>) -> Result<T, Failure> {
    use std::task::{Context, Poll, Waker};
    let mut task = std::pin::pin!(task);
    match task.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(outcome)) => outcome,
        Poll::Ready(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
        Poll::Pending => unreachable!("it has finished"),
    }
}

fn refused(outcome: Outcome, failure: Failure) -> Report {
    Report {
        outcome,
        error: Some(failure.message),
        exit: failure.exit as u8,
        ..Report::default()
    }
}

fn say(report: &Report) {
    for warning in &report.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(error) = &report.error {
        tracing::error!("reload: nothing was changed: {error}");
        return;
    }
    for change in &report.changes {
        tracing::info!("reload: {change}");
    }
    if !report.restart.is_empty() {
        let keys = report.restart.join(", ");
        tracing::warn!("reload: changed in the file, needs a restart: {keys}");
    }
    for line in &report.unfinished {
        tracing::warn!("reload: under way: {line}");
    }
    tracing::info!(settings = %report.source, changes = report.changes.len(), "reloaded");
}
