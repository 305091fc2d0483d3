//! The sinks: a thread for each sink and each journal, started, changed and taken away while the
//! shards write.
//!
//! ```text
//! Gone ─▶ Feeding ─────────▶ Running ─▶ Leaving ─▶ Vacant: the thread has ended ─▶ Feeding | Gone
//!         the shard has the             the thread seals and ends
//!         sink's mark                  Held: as Running, for one that is not enabled
//! ```
//!
//! A journal lets no segment go that a mark among its feeds does not cover, so the order is: the
//! mark first, set to where the sink's cursor stands; the thread once the shard has it; and when
//! a sink begins anew, one mark in the place of the other in one step.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::config::settings::{Settings, SinkSettings};
use crate::daemon::status::SinkView;
use crate::exit::{Exit, Failure};
use crate::journal::feed::{FeedSender, JournalMarks, SinkMark, feed};
use crate::limits;
use crate::schema::table::Schemas;
use crate::shard::orders::{Done, Orders, What};
use crate::sink::run::{SinkPlan, hold, join_until, spawn};
use crate::sink::{SinkError, SinkLag, SinkStats, StopDeadline};

pub type SinkThread = JoinHandle<Result<(), SinkError>>;

/// How long a sink that a reload changes or removes may take to seal what it has delivered. What it
/// has not sealed then is undone by whoever comes next, and delivered again.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// All sinks of this life, in the order in which they came; a name keeps its place.
pub struct Sinks {
    data_dir: PathBuf,
    schemas: Schemas,
    journals: Vec<Journal>,
    all: Vec<Known>,
}

/// One shard's journal, or one that a shard has left behind.
struct Journal {
    shard: u16,
    marks: Arc<JournalMarks>,
    /// `None`: nobody writes it any more.
    orders: Option<Arc<Orders>>,
}

struct Known {
    name: String,
    /// `None`: a reload has taken it away.
    wanted: Option<SinkSettings>,
    stats: Arc<SinkStats>,
    /// One for each journal.
    lanes: Vec<Lane>,
}

/// One sink on one journal.
struct Lane {
    shard: u16,
    /// What it runs by, or is about to.
    settings: SinkSettings,
    marks: Arc<JournalMarks>,
    mark: Arc<SinkMark>,
    lag: Arc<SinkLag>,
    state: State,
}

enum State {
    /// The shard is told of the mark; then the thread starts.
    Feeding {
        plan: Box<SinkPlan>,
        done: Option<Done>,
    },
    Running {
        thread: SinkThread,
        stop: Arc<StopDeadline>,
    },
    Held,
    Leaving {
        thread: SinkThread,
    },
    /// It could not start; its mark keeps the journal.
    Failed,
    /// Its mark keeps the journal until there is another, or none is wanted.
    Vacant,
    Gone,
}

/// A thread and what ends it, for the stop.
pub struct Stopping {
    pub name: String,
    pub thread: SinkThread,
    pub stop: Option<Arc<StopDeadline>>,
}

impl Sinks {
    pub fn new(settings: &Settings, data_dir: &std::path::Path, schemas: &Schemas) -> Self {
        let known = |sink: &SinkSettings| Known {
            name: sink.name.clone(),
            wanted: Some(sink.clone()),
            stats: Arc::default(),
            lanes: Vec::new(),
        };
        Self {
            data_dir: data_dir.to_owned(),
            schemas: schemas.clone(),
            journals: Vec::new(),
            all: settings.sinks.iter().map(known).collect(),
        }
    }

    /// Starts each sink's thread for one journal, which is recovered; the writer gets the feeds.
    pub fn start(
        &mut self,
        shard: u16,
        marks: &Arc<JournalMarks>,
        orders: Option<&Arc<Orders>>,
    ) -> Result<Vec<FeedSender>, Failure> {
        let blocks = self.blocks_queued();
        self.journals.push(Journal {
            shard,
            marks: Arc::clone(marks),
            orders: orders.cloned(),
        });
        let mut senders = Vec::new();
        for known in &mut self.all {
            let Some(settings) = known.wanted.clone() else {
                continue;
            };
            let (sender, plan) = prepare(
                &settings,
                (shard, marks, blocks),
                (&self.data_dir, &self.schemas, &known.stats),
            );
            // Its end of the feed keeps the journal's segments, whether the sink runs or not.
            let (mark, lag) = (Arc::clone(&sender.mark), Arc::clone(&plan.lag));
            senders.push(sender);
            let name = &settings.name;
            let state = begin(plan).map_err(|error| match error {
                BeginError::Hold(error) => Failure::new(Exit::Io, format!("sink {name}: {error}")),
                BeginError::Spawn(error) => Failure::io(format!("start sink {name}"), &error),
            })?;
            known.lanes.push(Lane {
                shard,
                settings,
                marks: Arc::clone(marks),
                mark,
                lag,
                state,
            });
        }
        Ok(senders)
    }

    /// Blocks that one sink's feed of one shard may hold; one block more is in the sink's hands. (The
    /// writer gives none away while less than half of its blocks is free: `journal/writer/commit.rs`.)
    fn blocks_queued(&self) -> usize {
        let sinks = self.wanted().count().max(1);
        (limits::JOURNAL_BLOCKS_SHARED_MAX / sinks)
            .saturating_sub(1)
            .max(1)
    }

    fn wanted(&self) -> impl Iterator<Item = &SinkSettings> {
        self.all.iter().filter_map(|known| known.wanted.as_ref())
    }

    /// How many names there would be with these.
    pub fn names_with(&self, more: &[&SinkSettings]) -> usize {
        let is_new = |sink: &&&SinkSettings| !self.all.iter().any(|known| known.name == sink.name);
        self.all.len() + more.iter().filter(is_new).count()
    }

    /// From here on this is what is wanted of a sink, new or not; `tend` brings it about.
    pub fn want(&mut self, settings: &SinkSettings) {
        match self
            .all
            .iter_mut()
            .find(|known| known.name == settings.name)
        {
            Some(known) => known.wanted = Some(settings.clone()),
            None => self.all.push(Known {
                name: settings.name.clone(),
                wanted: Some(settings.clone()),
                stats: Arc::default(),
                lanes: Vec::new(),
            }),
        }
    }

    /// The sink no longer holds the journal. Its cursors and its output stay on the disk.
    pub fn remove(&mut self, name: &str) {
        if let Some(known) = self.all.iter_mut().find(|known| known.name == name) {
            known.wanted = None;
        }
    }

    /// Goes on with what waits for a thread or a shard; says whether anything moved.
    pub fn tend(&mut self) -> bool {
        let blocks = self.blocks_queued();
        let mut moved = false;
        for known in &mut self.all {
            if let Some(settings) = &known.wanted {
                for journal in &self.journals {
                    if !known.lanes.iter().any(|lane| lane.shard == journal.shard) {
                        known.lanes.push(Lane {
                            shard: journal.shard,
                            settings: settings.clone(),
                            marks: Arc::clone(&journal.marks),
                            mark: Arc::default(),
                            lag: Arc::default(),
                            state: State::Gone,
                        });
                    }
                }
            }
            for lane in &mut known.lanes {
                let Some(journal) = self.journals.iter().find(|one| one.shard == lane.shard) else {
                    continue;
                };
                let wanted = known.wanted.as_ref();
                let context = (&*self.data_dir, &self.schemas, &known.stats);
                while lane.step(journal, wanted, blocks, context) {
                    moved = true;
                }
            }
            known
                .lanes
                .retain(|lane| known.wanted.is_some() || !matches!(lane.state, State::Gone));
        }
        moved
    }

    /// What is not over yet, in words.
    pub fn unfinished(&self) -> Vec<String> {
        let mut all = Vec::new();
        for known in &self.all {
            let is_under_way = |lane: &Lane| match &lane.state {
                State::Feeding { .. } | State::Leaving { .. } | State::Vacant => true,
                State::Running { .. } | State::Held => {
                    known.wanted.as_ref() != Some(&lane.settings)
                }
                State::Failed => false,
                State::Gone => known.wanted.is_some(),
            };
            let is_changing = |journal: &Journal| {
                let lane = known.lanes.iter().find(|lane| lane.shard == journal.shard);
                lane.map_or(known.wanted.is_some(), is_under_way)
            };
            if self.journals.iter().any(is_changing) {
                all.push(format!("sinks.{}: still changing", known.name));
            }
        }
        all
    }

    /// Every sink has all of this journal, which gets no more: those that come later do not want it.
    pub fn forget_journal(&mut self, shard: u16) {
        self.journals.retain(|journal| journal.shard != shard);
    }

    /// How far each sink has a journal; `None` where one is not there yet.
    pub fn marks_of(&self, shard: u16) -> Option<Vec<Arc<SinkMark>>> {
        let wanted = self.all.iter().filter(|known| known.wanted.is_some());
        let mark = |known: &Known| {
            let lane = known.lanes.iter().find(|lane| lane.shard == shard)?;
            let is_there = !matches!(lane.state, State::Gone);
            is_there.then(|| Arc::clone(&lane.mark))
        };
        wanted.map(mark).collect()
    }

    /// For the admin side: every sink of this life, in a fixed order.
    pub fn views(&self) -> Vec<SinkView> {
        let view = |known: &Known| SinkView {
            name: known.name.clone(),
            is_wanted: known.wanted.is_some(),
            stats: Arc::clone(&known.stats),
            shards: match known.wanted {
                Some(_) => known.lanes.iter().map(Lane::view).collect(),
                None => Vec::new(),
            },
        };
        self.all.iter().map(view).collect()
    }

    /// All threads, for the stop.
    pub fn take_threads(&mut self) -> Vec<Stopping> {
        let mut threads = Vec::new();
        for known in &mut self.all {
            for lane in known.lanes.drain(..) {
                let name = known.name.clone();
                match lane.state {
                    State::Running { thread, stop } => threads.push(Stopping {
                        name,
                        thread,
                        stop: Some(stop),
                    }),
                    // It has its deadline.
                    State::Leaving { thread } => threads.push(Stopping {
                        name,
                        thread,
                        stop: None,
                    }),
                    State::Feeding { .. }
                    | State::Held
                    | State::Failed
                    | State::Vacant
                    | State::Gone => {}
                }
            }
        }
        threads
    }
}

impl Lane {
    fn view(&self) -> (Arc<JournalMarks>, Arc<SinkMark>, Arc<SinkLag>) {
        (
            Arc::clone(&self.marks),
            Arc::clone(&self.mark),
            Arc::clone(&self.lag),
        )
    }

    /// One step towards what is wanted; `false` where there is none to take now.
    fn step(
        &mut self,
        journal: &Journal,
        wanted: Option<&SinkSettings>,
        blocks: usize,
        context: (&std::path::Path, &Schemas, &Arc<SinkStats>),
    ) -> bool {
        let state = std::mem::replace(&mut self.state, State::Gone);
        let is_as_wanted = wanted == Some(&self.settings);
        let (next, moved) = match state {
            State::Running { thread, stop } if !is_as_wanted => {
                stop.leave(Instant::now() + LEAVE_MAX);
                (State::Leaving { thread }, true)
            }
            State::Leaving { thread } if thread.is_finished() => {
                let (sink, shard) = (&self.settings.name, self.shard);
                match thread.join() {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(
                        %sink, shard,
                        "ended at its last commit, what came after it is delivered again: {error}"
                    ),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
                (State::Vacant, true)
            }
            State::Held | State::Failed if !is_as_wanted => (State::Vacant, true),
            State::Vacant => match wanted {
                Some(settings) => (self.feed(journal, settings, true, blocks, context), true),
                None => {
                    if let Some(orders) = &journal.orders {
                        orders.give(What::Feed {
                            remove: Some(Arc::clone(&self.mark)),
                            add: None,
                        });
                    }
                    (State::Gone, true)
                }
            },
            State::Gone => match wanted {
                Some(settings) => (self.feed(journal, settings, false, blocks, context), true),
                None => (State::Gone, false),
            },
            State::Feeding { plan, done } if done.as_ref().is_none_or(Done::is_set) => {
                let state = begin(*plan).unwrap_or_else(|error| {
                    let (sink, shard) = (&self.settings.name, self.shard);
                    let error: &dyn std::error::Error = match &error {
                        BeginError::Hold(error) => error,
                        BeginError::Spawn(error) => error,
                    };
                    tracing::error!(%sink, shard, "cannot start, the journal is kept for it: {error}");
                    State::Failed
                });
                (state, true)
            }
            other => (other, false),
        };
        self.state = next;
        moved
    }

    /// Gives the shard this sink's mark, in the place of the one before or beside the others.
    fn feed(
        &mut self,
        journal: &Journal,
        settings: &SinkSettings,
        replaces: bool,
        blocks: usize,
        context: (&std::path::Path, &Schemas, &Arc<SinkStats>),
    ) -> State {
        let of = (self.shard, &journal.marks, blocks);
        let (sender, plan) = prepare(settings, of, context);
        // Until the thread says better: where the cursor stands, or the oldest segment.
        if let Err(error) = hold(&plan) {
            let (sink, shard) = (&settings.name, self.shard);
            tracing::error!(%sink, shard, "the whole journal is kept for it: {error}");
        }
        let before = std::mem::replace(&mut self.mark, Arc::clone(&sender.mark));
        self.lag = Arc::clone(&plan.lag);
        self.settings = settings.clone();
        let done = journal.orders.as_ref().map(|orders| {
            orders.give(What::Feed {
                remove: replaces.then_some(before),
                add: Some(sender),
            })
        });
        State::Feeding {
            plan: Box::new(plan),
            done,
        }
    }
}

/// Both ends of a sink's feed, its own in the plan of its thread.
fn prepare(
    settings: &SinkSettings,
    (shard, marks, blocks): (u16, &Arc<JournalMarks>, usize),
    (data_dir, schemas, stats): (&std::path::Path, &Schemas, &Arc<SinkStats>),
) -> (FeedSender, SinkPlan) {
    let (sender, receiver) = feed(marks, blocks);
    let plan = SinkPlan {
        settings: settings.clone(),
        shard,
        data_dir: data_dir.to_owned(),
        feed: receiver,
        schemas: schemas.clone(),
        stats: Arc::clone(stats),
        lag: Arc::default(),
        stop: Arc::default(),
    };
    (sender, plan)
}

enum BeginError {
    Hold(SinkError),
    Spawn(std::io::Error),
}

/// The thread, or what stands in for it where the sink is not enabled.
fn begin(plan: SinkPlan) -> Result<State, BeginError> {
    if !plan.settings.enabled {
        hold(&plan).map_err(BeginError::Hold)?;
        return Ok(State::Held);
    }
    let stop = Arc::clone(&plan.stop);
    let thread = spawn(plan).map_err(BeginError::Spawn)?;
    Ok(State::Running { thread, stop })
}

/// Waits for one sink; what it could not deliver stays in the journal.
pub fn join_sink(name: &str, thread: SinkThread, deadline: Instant) -> Result<(), Failure> {
    match join_until(thread, deadline) {
        Some(Ok(Ok(()))) => Ok(()),
        Some(Ok(Err(error))) => Err(Failure::new(
            Exit::Io,
            format!("sink {name}: {error}; the journal keeps the rest"),
        )),
        Some(Err(panic)) => std::panic::resume_unwind(panic),
        None => Err(Failure::new(
            Exit::Io,
            format!("sink {name} hangs in its output; the journal keeps what it did not deliver"),
        )),
    }
}
