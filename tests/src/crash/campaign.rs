//! One data folder, the lives of the agent in it, and the producers that outlive them all.

use std::net::{SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use super::disk::Disk;
use super::disk::cut::Survival;
use super::ledger::{self, Verdict};
use super::producer::Crowd;
use crate::agent::config::{Config, Gate};
use crate::agent::{Agent, Home, wait_for};

const PRODUCERS: usize = 3;
const SHARDS: RangeInclusive<u16> = 1..=3;
/// The agent's port: the protocol's, below those that the kernel hands out by itself.
const PORT: u16 = 4600;
/// How soon records must be acknowledged again once nothing is wrong any more. A segment that failed
/// is followed by another after a second.
const RECOVERY_MAX: Duration = Duration::from_secs(20);

const PORT_FREE_MAX: Duration = Duration::from_secs(10);

/// What the log says where something is gone that was promised: never the result of a crash alone.
const ALARMS: [&str; 3] = ["DAMAGED", "set aside", "panicked"];

/// How the sink's files may be bounded: sealed many times in a life, a few times, never.
const ROTATIONS: [&str; 3] = [
    "rotate = { size = \"64KiB\", age = \"5m\" }",
    "rotate = { size = \"1MiB\", age = \"1s\" }",
    "rotate = { size = \"256MiB\", age = \"5m\" }",
];

/// What a campaign asks of the agent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setting {
    /// The campaign's own choice where there is none.
    pub shards: Option<u16>,
    /// More lines of `[journal]`.
    pub journal: &'static str,
    /// Which of `ROTATIONS`; the campaign's own choice where there is none.
    pub rotation: Option<usize>,
}

pub struct Campaign {
    number: u64,
    home: Home,
    config: Config,
    records: PathBuf,
    /// Another number of shards may come with a life.
    reshards: bool,
    agent: Option<Agent>,
    crowd: Crowd,
    /// What was wrong on the way.
    faults: Vec<String>,
    pub kills: u64,
}

impl Campaign {
    /// Starts the agent with its data under `folder`, and the producers.
    pub fn start(number: u64, folder: Option<&Path>, random: &mut StdRng) -> Self {
        Self::start_with(number, folder, &Setting::default(), random)
    }

    pub fn start_with(
        number: u64,
        folder: Option<&Path>,
        setting: &Setting,
        random: &mut StdRng,
    ) -> Self {
        let home = Home::new();
        let data = folder.map_or(home.data(), |folder| folder.join(format!("data-{number}")));
        let shards = random.random_range(SHARDS);
        let rotation = random.random_range(0..ROTATIONS.len());
        let shards = setting.shards.unwrap_or(shards);
        let rotation = setting.rotation.unwrap_or(rotation);
        let config = Config {
            shards,
            tcp_address: address().to_string(),
            // Room for the segments of so many shards.
            journal_max_size: "128MiB",
            data_dir: Some(data.clone()),
            journal: setting.journal,
            more: ROTATIONS[rotation],
            ..Config::new(Gate::UserSpace)
        };
        let agent = home.start(&config);
        let to = config.tcp_address.parse().expect("our own address");
        let crowd = Crowd::start(number, PRODUCERS, to, random.random());
        Self {
            number,
            home,
            config,
            records: data.join("records"),
            reshards: setting.shards.is_none(),
            agent: Some(agent),
            crowd,
            faults: Vec::new(),
            kills: 0,
        }
    }

    fn agent(&mut self) -> &mut Agent {
        self.agent.as_mut().expect("between two calls one runs")
    }

    /// Lets them work for a time from nothing to `at_most`.
    pub fn work(&self, at_most: Duration, random: &mut StdRng) {
        std::thread::sleep(random.random_range(Duration::ZERO..=at_most));
    }

    /// Kills the agent and starts it anew; one time in four once more before it is ready, so that
    /// recovery itself is cut short.
    pub fn kill(&mut self, random: &mut StdRng) {
        self.end_life();
        while random.random_bool(0.25) {
            self.choose_shards(random);
            let agent = self.home.launch(&self.config);
            self.agent = Some(agent);
            self.work(Duration::from_millis(150), random);
            self.end_life();
        }
        self.choose_shards(random);
        self.begin_life();
    }

    /// The same with the power.
    pub fn cut(&mut self, disk: &Disk, random: &mut StdRng) {
        self.end_life_with(disk, Survival::random(random), random);
        while random.random_bool(0.25) {
            self.choose_shards(random);
            let agent = self.home.launch(&self.config);
            self.agent = Some(agent);
            self.work(Duration::from_millis(150), random);
            self.end_life_with(disk, Survival::random(random), random);
        }
        self.choose_shards(random);
        self.begin_life();
    }

    /// The power goes, and of what was not synced this much survives.
    pub fn cut_to(&mut self, disk: &Disk, survival: Survival, random: &mut StdRng) {
        self.end_life_with(disk, survival, random);
        self.begin_life();
    }

    fn end_life(&mut self) {
        let agent = self.agent.take().expect("between two calls one runs");
        agent.kill();
        self.after_life();
    }

    fn end_life_with(&mut self, disk: &Disk, survival: Survival, random: &mut StdRng) {
        let agent = self.agent.take().expect("between two calls one runs");
        disk.freeze();
        agent.signal(libc::SIGKILL);
        disk.power_off();
        let ended = agent.end();
        assert_eq!(ended.signal, Some(libc::SIGKILL), "{}", ended.log);
        disk.cut(survival, random);
        self.after_life();
    }

    fn after_life(&mut self) {
        self.kills += 1;
        self.look_at_files();
        // The kernel takes the ring of a killed process apart in its own time, and the listening
        // socket stands in it as long.
        let address = &self.config.tcp_address;
        wait_for("the killed agent's port is free", PORT_FREE_MAX, || {
            TcpListener::bind(address).ok()
        });
    }

    /// One life in five has another number of shards than the one before.
    fn choose_shards(&mut self, random: &mut StdRng) {
        if self.reshards && random.random_bool(0.2) {
            self.config.shards = random.random_range(SHARDS);
        }
    }

    fn begin_life(&mut self) {
        self.agent = Some(self.home.start(&self.config));
    }

    fn look_at_files(&mut self) {
        let unreadable = ledger::unreadable(&self.records).into_iter();
        let after = self.kills;
        let faults = unreadable.map(|what| format!("after crash {after}: {what}"));
        self.faults.extend(faults);
    }

    /// Waits until records were acknowledged by the agent that runs: a trouble that is over must not
    /// need a restart.
    pub fn progress(&mut self) {
        let before = self.crowd.settled();
        let deadline = Instant::now() + RECOVERY_MAX;
        // More than can have been on its way.
        while self.crowd.settled() < before + 1000 {
            if Instant::now() >= deadline {
                let fault = format!("no records are acknowledged for {RECOVERY_MAX:?}");
                self.faults.push(fault);
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Notes it where the agent has ended by itself; it is started again.
    pub fn must_be_alive(&mut self, after: &str) {
        if let Some(ended) = self.agent().has_ended() {
            let log = self.agent().log();
            let fault = format!("the agent ended with {ended} after {after}:\n{log}");
            self.faults.push(fault);
            self.begin_life();
        }
    }

    /// Lets the producers come to an end, stops the agent and compares.
    pub fn finish(mut self) -> Verdict {
        let sent = self.crowd.finish();
        let agent = self.agent.take().expect("between two calls one runs");
        agent.stop();
        let mut verdict = ledger::compare(self.number, &sent, &self.records);
        verdict.faults.append(&mut self.faults);
        verdict.setting = format!(
            "{} shards at last, {}",
            self.config.shards, self.config.more
        );
        for log in self.home.logs() {
            let alarms = log
                .lines()
                .filter(|line| ALARMS.iter().any(|words| line.contains(words)));
            verdict.faults.extend(alarms.map(str::to_owned));
        }
        let _ = std::fs::remove_dir_all(self.records.parent().expect("within the data folder"));
        verdict
    }
}

/// An address of this host's loopback network that is this campaign's alone. The port outlives the
/// agent's lives, so it cannot be one that the kernel hands out: a connection that goes out meanwhile
/// might be given it.
fn address() -> SocketAddr {
    static CAMPAIGNS: AtomicU32 = AtomicU32::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let own = CAMPAIGNS.fetch_add(1, Ordering::Relaxed) % 254 + 1;
    SocketAddr::from(([127, high, low, own as u8], PORT))
}
