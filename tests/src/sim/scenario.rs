//! A run: from one seed a world, one or several lives of an agent in it, each ended by a stop, a
//! `kill -9` or a power cut, and after each the question what is on the disk.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::check::{self, DurableIndex};
use super::hop::{self, HopOutcome, HopSetup};
use super::kernel::{Struck, Trace};
use super::life::Life;
use super::setup::{End, Setup};
use super::sinks::check_delivered;

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Equal only for runs that did the same in the same order.
    pub digest: u64,
    pub lives: usize,
    pub turns: u64,
    pub frames: usize,
    pub acknowledged: usize,
    pub stored: usize,
    pub lost_records: u64,
    /// Listeners that were left by all shards, and names that all came to know.
    pub listeners_left: u64,
    pub listeners_named: u64,
    pub struck: Struck,
}

/// Runs a setup to its end; panics where a promise is broken.
pub fn run(setup: &Setup, trace: Option<Trace>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut life = Life::first(setup, trace);
    for (number, end) in setup.lives.iter().enumerate() {
        let power_lost = match *end {
            End::Settled => {
                life.until_settled();
                life.stop();
                true
            }
            End::StopAfter(turns) => {
                life.live(turns);
                life.stop();
                true
            }
            End::KillAfter(turns) => {
                life.live(turns);
                false
            }
            End::PowerLossAfter(turns) => {
                life.live(turns);
                true
            }
        };
        outcome.add_life(&life);
        if number + 1 == setup.lives.len() {
            outcome.close(&mut life);
            break;
        }
        let images = life.end(power_lost);
        life.restart(&images);
    }
    outcome
}

/// The end of a life that has settled and stopped, and is a run's last: what came of it all?
pub fn finish(mut life: Life) -> Outcome {
    let mut outcome = Outcome::default();
    outcome.add_life(&life);
    outcome.close(&mut life);
    outcome
}

impl Outcome {
    /// The sum over runs.
    pub fn add(&mut self, other: &Self) {
        self.lives += other.lives;
        self.turns += other.turns;
        self.frames += other.frames;
        self.acknowledged += other.acknowledged;
        self.stored += other.stored;
        self.lost_records += other.lost_records;
        self.listeners_left += other.listeners_left;
        self.listeners_named += other.listeners_named;
        self.struck.add(&other.struck);
    }

    pub fn add_life(&mut self, life: &Life) {
        self.lives += 1;
        self.turns += life.turns;
        if let Some(reloads) = &life.reloads {
            self.listeners_left += reloads.left;
            self.listeners_named += reloads.named;
        }
        let counters = life.all_counters();
        let lost = counters.iter().flat_map(|shard| shard.journal_lost_records);
        self.lost_records += lost.sum::<u64>();
    }

    /// A last look, as a restart after a power cut would have it. How often each frame was offered to
    /// the sinks.
    pub fn close(&mut self, life: &mut Life) -> Vec<u32> {
        let images = life.end(true);
        life.drop_agent();
        let indices = &life.last_look(&images);
        check::check_indices(indices, &life.world().book);
        let chains: Vec<_> = indices.iter().map(DurableIndex::chain).collect();
        let stored = |number| {
            let each = indices.iter().zip(&chains);
            each.map(|(index, chain)| index.stored_in(chain, number))
                .sum::<u32>()
        };
        let world = life.world();
        for producer in &world.producers {
            producer.check(&world.book, &stored);
        }
        let lines = world.book.lines();
        self.digest = world.digest();
        self.frames = lines.len();
        self.acknowledged = lines.iter().filter(|line| line.acknowledged).count();
        self.stored = (0..lines.len()).filter(|&n| stored(n) > 0).count();
        self.struck = world.struck;
        self.struck.resent = lines.iter().filter(|line| line.sent > 1).count() as u64;
        // What a failed sync has left at the very end may be found whole by a later start, and is
        // delivered only then.
        let delivered = |number| {
            let each = indices.iter().zip(&chains).zip(&world.ports);
            each.map(|((index, chain), port)| index.stored_before(chain, number, port.committed()))
                .sum()
        };
        let delivered: Vec<u32> = (0..lines.len()).map(delivered).collect();
        let times = |number: usize| delivered[number];
        check_delivered(&life.files, life.setup().file_sinks, &world.book, times);
        delivered
    }
}

/// A run that broke a promise.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    /// The last events before it.
    pub trace: Vec<String>,
}

/// Runs a setup and catches what it breaks.
pub fn try_run(setup: &Setup) -> Result<Outcome, Failure> {
    catch(|trace| run(setup, Some(trace)))
}

/// The same for two agents.
pub fn try_hop(setup: &HopSetup) -> Result<HopOutcome, Failure> {
    catch(|trace| hop::run(setup, Some(trace)))
}

fn catch<T>(attempt: impl FnOnce(Trace) -> T) -> Result<T, Failure> {
    let trace: Trace = Rc::new(RefCell::new(VecDeque::new()));
    let keep = Rc::clone(&trace);
    let attempt = std::panic::AssertUnwindSafe(|| attempt(keep));
    std::panic::catch_unwind(attempt).map_err(|panic| Failure {
        message: panic_message(panic.as_ref()),
        trace: trace.borrow().iter().cloned().collect(),
    })
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
