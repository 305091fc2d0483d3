//! The sinks' threads, started shard by shard and joined at the end.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crate::config::settings::Settings;
use crate::daemon::status::SinkView;
use crate::exit::{Exit, Failure};
use crate::journal::feed::{FeedSender, JournalMarks, feed};
use crate::limits;
use crate::schema::table::Schemas;
use crate::sink::run::{SinkPlan, hold, join_until, spawn};
use crate::sink::{SinkError, SinkLag, StopDeadline};

pub type SinkThread = JoinHandle<Result<(), SinkError>>;

/// The sinks' threads as they are started, shard by shard.
pub struct Sinks<'a> {
    settings: &'a Settings,
    data_dir: PathBuf,
    schemas: &'a Schemas,
    stop: &'a Arc<StopDeadline>,
    pub views: Vec<SinkView>,
    pub threads: Vec<(String, SinkThread)>,
}

impl<'a> Sinks<'a> {
    pub fn new(
        settings: &'a Settings,
        data_dir: &std::path::Path,
        schemas: &'a Schemas,
        stop: &'a Arc<StopDeadline>,
    ) -> Self {
        let views = settings
            .sinks
            .iter()
            .map(|sink| SinkView::new(&sink.name))
            .collect();
        Self {
            settings,
            data_dir: data_dir.to_owned(),
            schemas,
            stop,
            views,
            threads: Vec::new(),
        }
    }

    /// Starts each sink's thread for one shard, whose journal is recovered.
    pub fn start(
        &mut self,
        shard: u16,
        marks: &Arc<JournalMarks>,
    ) -> Result<Vec<FeedSender>, Failure> {
        let sinks = self.settings.sinks.len().max(1);
        // One block more than the queue holds is in the sink's hands.
        let queued = (limits::JOURNAL_BLOCKS_SHARED_MAX / sinks)
            .saturating_sub(1)
            .max(1);
        let mut senders = Vec::new();
        for (settings, view) in self.settings.sinks.iter().zip(&mut self.views) {
            let (sender, receiver) = feed(marks, queued);
            let lag = Arc::new(SinkLag::default());
            view.shards.push((
                Arc::clone(marks),
                Arc::clone(&sender.mark),
                Arc::clone(&lag),
            ));
            // Its end of the feed keeps the journal's segments, whether the sink runs or not.
            senders.push(sender);
            let plan = SinkPlan {
                settings: settings.clone(),
                shard,
                data_dir: self.data_dir.clone(),
                feed: receiver,
                schemas: self.schemas.clone(),
                stats: Arc::clone(&view.stats),
                lag,
                stop: Arc::clone(self.stop),
            };
            if !settings.enabled {
                hold(&plan).map_err(|error| {
                    Failure::new(Exit::Io, format!("sink {}: {error}", settings.name))
                })?;
                continue;
            }
            let thread = spawn(plan)
                .map_err(|error| Failure::io(format!("start sink {}", settings.name), &error))?;
            self.threads.push((settings.name.clone(), thread));
        }
        Ok(senders)
    }
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
