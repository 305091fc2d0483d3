//! What makes a run: the sizes, the troubles and the people of a world, by hand or from a seed.

use std::time::Duration;

use penstock::config::settings::TenantSettings;
use penstock::gate::policy::Rate;
use penstock::limits::CARRY_BYTES_MAX;
use penstock_client::{Encoding, Overflow};

use super::client::ClientPlan;
use super::kernel::{Faults, Lie, Mishap, Pace, Sizes};
use super::producer::{ProducerPlan, SenderPlan};
use super::rng::Rng;
use super::wire::WireFaults;

/// The listeners of every simulated agent.
pub const TCP: u16 = 0;
pub const UDP: u16 = 1;

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All is sent and settled, then a stop.
    Settled,
    /// A stop under load, after so many turns.
    StopAfter(u64),
    /// The process is gone, the kernel goes on.
    KillAfter(u64),
    /// The power is gone.
    PowerLossAfter(u64),
}

/// All that makes a run.
#[derive(Clone, Debug)]
pub struct Setup {
    pub seed: u64,
    pub sizes: Sizes,
    pub pace: Pace,
    pub faults: Faults,
    pub mishaps: Vec<Mishap>,
    pub lie: Option<Lie>,
    pub blocks: usize,
    pub block_len: usize,
    pub segment_len: u64,
    pub size_max: u64,
    pub commit_interval: Duration,
    pub commit_size: usize,
    pub connections_max: usize,
    pub carry_bytes_max: usize,
    /// A lone shard looks at each connection's first header, as several do.
    pub peek: bool,
    /// The gate is the worker's.
    pub stand_in: bool,
    /// Shards of each life in turn; the last goes for all that follow.
    pub shards: Vec<u16>,
    /// A sink that only looks at what it is offered follows, and lets segments go.
    pub model_sink: bool,
    /// File sinks that follow.
    pub file_sinks: usize,
    /// When a file sink's file is full.
    pub rotate_size: u64,
    pub rotate_age: Duration,
    /// How long sinks may go on after a stop that is not the last; `None`: until all is delivered.
    pub drain: Option<Duration>,
    pub producers: Vec<ProducerPlan>,
    pub senders: Vec<SenderPlan>,
    /// Whose producers are whose over TCP, and what each may have.
    pub tenants: Vec<TenantSettings>,
    /// Producers of the client library.
    pub clients: Vec<ClientPlan>,
    /// A sink hands everything over to another agent.
    pub forward: bool,
    /// Listeners are left and served again, and named.
    pub reloads: bool,
    pub lives: Vec<End>,
}

impl Setup {
    /// A calm world with room for everything and nobody in it.
    pub fn calm(seed: u64) -> Self {
        Self {
            seed,
            sizes: Sizes::default(),
            pace: Pace::default(),
            faults: Faults::default(),
            mishaps: Vec::new(),
            lie: None,
            blocks: 8,
            block_len: 32 << 10,
            segment_len: 512 << 10,
            size_max: 1 << 30,
            commit_interval: Duration::from_millis(1),
            commit_size: 32 << 10,
            connections_max: 16,
            carry_bytes_max: CARRY_BYTES_MAX,
            peek: false,
            stand_in: false,
            shards: vec![1],
            model_sink: false,
            file_sinks: 0,
            rotate_size: 16 << 10,
            rotate_age: Duration::from_secs(60),
            drain: None,
            producers: Vec::new(),
            senders: Vec::new(),
            tenants: Vec::new(),
            clients: Vec::new(),
            forward: false,
            reloads: false,
            lives: vec![End::Settled],
        }
    }

    /// Shards of a life.
    pub fn shards_of(&self, life: usize) -> u16 {
        self.shards[life.min(self.shards.len() - 1)]
    }

    /// Everything from the seed.
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut setup = Self::calm(seed);
        setup.blocks = rng.size(4..=10);
        setup.block_len = rng.pick(&[16 << 10, 20 << 10, 32 << 10]);
        setup.segment_len = (setup.block_len * rng.size(4..=12)) as u64;
        setup.file_sinks = rng.pick(&[0, 0, 1, 1, 1, 2]);
        setup.model_sink = setup.file_sinks == 0 && rng.chance(300);
        if setup.file_sinks + usize::from(setup.model_sink) > 0 && rng.chance(400) {
            // The real one has room for eight segments: no less than five, page and all.
            setup.size_max = (setup.segment_len + (4 << 10)) * rng.between(5..=7);
        }
        setup.commit_interval = Duration::from_micros(rng.between(0..=5_000));
        setup.stand_in = rng.chance(500);
        setup.peek = rng.chance(300);
        setup.commit_size = rng.pick(&[1, 4 << 10, 32 << 10]);
        setup.connections_max = rng.size(2..=12);
        setup.sizes = Sizes {
            tcp_buffers: rng.pick(&[1, 2, 4, 16]),
            tcp_buffer_len: rng.pick(&[512, 2048, 8192]),
            udp_buffers: rng.pick(&[1, 2, 8]),
            udp_buffer_len: 20 << 10,
            send_buffers: rng.pick(&[1, 2, 8]),
            socket_send_len: rng.pick(&[48, 320, 8192]),
            udp_queue_max: rng.pick(&[4, 64]),
        };
        setup.rotate_size = rng.pick(&[2 << 10, 16 << 10, 1 << 20]);
        setup.rotate_age = rng.pick(&[Duration::from_secs(3), Duration::from_secs(600)]);
        if rng.chance(300) {
            setup.drain = Some(Duration::from_millis(rng.between(0..=3_000)));
        }
        setup.shards = vec![rng.pick(&[1, 1, 1, 2, 3])];
        if setup.shards[0] > 1 && rng.chance(500) {
            let others = [rng.pick(&[1, 2, 3]), rng.pick(&[1, 2, 3])];
            setup.shards.extend(others);
        }
        setup.faults = random_faults(&mut rng);
        if rng.chance(300) {
            // Each commit waits for the disk: blocks run out while bytes go on arriving.
            setup.pace.disk = (2_000_000, 9_000_000);
        }
        let troubled = setup.faults.until_ns > 0;
        for index in 0..rng.between(1..=4) {
            setup
                .producers
                .push(random_producer(&mut rng, index, troubled));
        }
        for index in 0..rng.between(0..=2) {
            setup.senders.push(SenderPlan {
                listener: UDP,
                id: 0xd000 + index,
                frames: rng.between(10..=80) as u32,
                bundle_max: rng.pick(&[1, 4, 10]),
                bad_per_mille: rng.pick(&[0, 200, 900]),
                cut_per_mille: 50,
                payload_len_max: rng.pick(&[100, 1432]),
                pause_ns_max: rng.pick(&[100_000, 2_000_000]),
            });
        }
        for _ in 0..rng.between(0..=2) {
            let turns = rng.between(1..=400);
            let end = rng.pick(&[
                End::KillAfter(turns),
                End::PowerLossAfter(turns),
                End::PowerLossAfter(turns),
                End::StopAfter(turns),
            ]);
            setup.lives.insert(0, end);
        }
        for index in 0..rng.pick(&[0, 0, 1, 2]) {
            setup.clients.push(random_client(&mut rng, index));
        }
        if rng.chance(400) {
            setup.tenants = random_tenants(&mut rng);
        }
        setup
    }
}

/// A default for everybody, and a tenant that has two of the producers.
fn random_tenants(rng: &mut Rng) -> Vec<TenantSettings> {
    let mut one = |tenant: TenantSettings| TenantSettings {
        weight: rng.pick(&[1, 3]),
        rate: rng.pick(&[
            None,
            Some(Rate {
                sustained: 200,
                burst: 20,
            }),
            Some(Rate {
                sustained: 5_000,
                burst: 50,
            }),
        ]),
        bytes_in_flight: rng.pick(&[None, Some(1), Some(20_000)]),
        journal_percent: rng.pick(&[None, None, Some(20)]),
        ..tenant
    };
    let named = TenantSettings {
        producers: vec![0xa001, 0xc000],
        ..TenantSettings::unlimited("named")
    };
    vec![one(TenantSettings::unlimited("default")), one(named)]
}

fn random_faults(rng: &mut Rng) -> Faults {
    let network = rng.chance(600);
    let disk = rng.chance(600);
    let per_mille = |rng: &mut Rng, on: bool, most: u64| {
        if on { rng.between(0..=most) as u32 } else { 0 }
    };
    Faults {
        write_error: per_mille(rng, disk, 20),
        write_short: per_mille(rng, disk, 20),
        sync_error: per_mille(rng, disk, 30),
        open_error: per_mille(rng, disk, 100),
        allocate_error: per_mille(rng, disk, 200),
        folder_error: per_mille(rng, disk, 100),
        disk_late: per_mille(rng, disk, 50),
        accept_error: per_mille(rng, network, 100),
        multishot_ends: per_mille(rng, network, 100),
        send_partial: per_mille(rng, network, 500),
        send_error: per_mille(rng, network, 20),
        wake_for_nothing: per_mille(rng, network || disk, 100),
        send_buffer_refused: per_mille(rng, network, 200),
        file_write_error: per_mille(rng, disk, 60),
        file_sync_error: per_mille(rng, disk, 60),
        file_name_error: per_mille(rng, disk, 60),
        full_ns: window(rng, disk),
        stall_ns: window(rng, disk),
        until_ns: if network || disk {
            rng.between(10_000_000..=3_000_000_000)
        } else {
            0
        },
    }
}

/// A time within a life's first second in which the disk is in trouble.
fn window(rng: &mut Rng, on: bool) -> Option<(u64, u64)> {
    if !on || !rng.chance(300) {
        return None;
    }
    let from = rng.between(0..=300_000_000);
    Some((from, from + rng.between(1_000_000..=1_500_000_000)))
}

fn random_client(rng: &mut Rng, index: u64) -> ClientPlan {
    ClientPlan {
        listener: TCP,
        id: 0xc000 + index,
        records: rng.between(1..=300) as u32,
        encoding: rng.pick(&[Encoding::Protobuf, Encoding::Json]),
        overflow: rng.pick(&[Overflow::Wait, Overflow::DropNewest, Overflow::DropOldest]),
        buffer_bytes_max: rng.pick(&[0, 2 << 10, 1 << 20]),
        batch_records_max: rng.pick(&[1, 5, 50]),
        body_len_max: rng.pick(&[0, 60, 200]),
        burst_max: rng.pick(&[1, 8, 40]),
        pause_ns_max: rng.pick(&[50_000, 1_000_000, 10_000_000]),
        faults: WireFaults {
            cut: rng.pick(&[0, 10, 50]),
            refused: rng.pick(&[0, 300]),
        },
    }
}

fn random_producer(rng: &mut Rng, index: u64, troubled: bool) -> ProducerPlan {
    let anonymous = rng.chance(100);
    let clumsy = troubled && rng.chance(500);
    ProducerPlan {
        agent: 0,
        listener: TCP,
        id: if anonymous { 0 } else { 0xa000 + index },
        frames: rng.between(1..=100) as u32,
        window: rng.pick(&[4, 32, 1024]),
        records_max: rng.pick(&[1, 5, 20]),
        body_len_max: rng.pick(&[0, 40, 300]),
        json_per_mille: rng.pick(&[0, 500, 1000]),
        bad_per_mille: rng.pick(&[0, 50, 300]),
        reset_per_mille: if clumsy { rng.pick(&[0, 10, 50]) } else { 0 },
        half_close_per_mille: if clumsy { rng.pick(&[0, 10, 50]) } else { 0 },
        deaf: false,
        burst_max: rng.pick(&[1, 8, 40]),
        pause_ns_max: rng.pick(&[50_000, 1_000_000, 10_000_000]),
        script: Vec::new(),
        pieces: Vec::new(),
    }
}
