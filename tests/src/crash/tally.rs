//! How many rounds are run, and what came of them all.

use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::campaign::Setting;
use super::ledger::Verdict;

/// Rounds of one campaign: then it is compared, and another one begun.
const ROUNDS_PER_CAMPAIGN: u64 = 8;

/// What the environment asks for: `cargo xtask crash` sets it.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub rounds: u64,
    pub seed: u64,
    /// The agent's shards; each campaign's own choice where nothing is asked for.
    pub shards: Option<u16>,
}

impl Request {
    /// `rounds` where nothing is asked for.
    pub fn new(rounds: u64) -> Self {
        let asked = |name: &str| -> Option<u64> {
            let value = std::env::var(name).ok()?;
            Some(value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
        };
        Self {
            rounds: asked("PENSTOCK_CRASH_ROUNDS").unwrap_or(rounds),
            seed: asked("PENSTOCK_CRASH_SEED").unwrap_or(1),
            shards: asked("PENSTOCK_CRASH_SHARDS").map(|shards| shards as u16),
        }
    }

    pub fn setting(self) -> Setting {
        Setting {
            shards: self.shards,
            ..Setting::default()
        }
    }

    /// The campaigns: each one's number, its rounds, and its random numbers.
    pub fn campaigns(self) -> impl Iterator<Item = (u64, u64, StdRng)> {
        let count = self.rounds.div_ceil(ROUNDS_PER_CAMPAIGN);
        (0..count).map(move |number| {
            let done = number * ROUNDS_PER_CAMPAIGN;
            let rounds = ROUNDS_PER_CAMPAIGN.min(self.rounds - done);
            // Neighbouring seeds must not share campaigns.
            let seed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number;
            (number, rounds, StdRng::seed_from_u64(seed))
        })
    }
}

/// The sums of one kind of crash.
#[derive(Debug)]
pub struct Tally {
    kind: &'static str,
    request: Request,
    start: Instant,
    rounds: u64,
    kills: u64,
    faults_struck: u64,
    sum: Verdict,
}

impl Tally {
    pub fn new(kind: &'static str, request: Request) -> Self {
        Self {
            kind,
            request,
            start: Instant::now(),
            rounds: 0,
            kills: 0,
            faults_struck: 0,
            sum: Verdict::default(),
        }
    }

    /// A campaign is over. Panics with the seed where it is not as it must be.
    pub fn add(&mut self, rounds: u64, kills: u64, verdict: &Verdict) {
        self.rounds += rounds;
        self.kills += kills;
        self.sum.acknowledged += verdict.acknowledged;
        self.sum.lost += verdict.lost;
        self.sum.twice += verdict.twice;
        self.sum.strangers += verdict.strangers;
        if !verdict.is_exactly_once() {
            self.print();
            panic!(
                "PENSTOCK_CRASH_SEED={} (the order of events also depends on the timing): {verdict}",
                self.request.seed
            );
        }
    }

    pub fn struck(&mut self, faults: u64) {
        self.faults_struck += faults;
    }

    /// One line, which `cargo xtask crash` reads.
    pub fn print(&self) {
        let seconds = self.start.elapsed() + Duration::from_millis(50);
        println!(
            "CRASH kind={} seed={} rounds={} kills={} faults={} acknowledged={} lost={} twice={} \
             seconds={}.{}",
            self.kind,
            self.request.seed,
            self.rounds,
            self.kills,
            self.faults_struck,
            self.sum.acknowledged,
            self.sum.lost,
            self.sum.twice,
            seconds.as_secs(),
            seconds.subsec_millis() / 100,
        );
    }
}
