//! The settings as types: what the rest of the agent sees of the configuration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::decode::avro::plan::Mapping;
use crate::gate::policy::{GatePolicy, Prefix, Rate};
use crate::limits;
use crate::log::LogSettings;

/// All of it, checked: `config::load` and `config::builtin` are the only makers outside of tests.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub data_dir: PathBuf,
    pub shards: Shards,
    /// The kernel interface of the shards.
    pub io: IoMode,
    /// Who the agent becomes where root starts it.
    pub user: Option<String>,
    /// How long a stop may take, from the signal to the end of the process.
    pub stop_timeout: Duration,
    /// Ceiling of the agent's memory in bytes.
    pub memory_max: u64,
    pub log: LogSettings,
    pub admin: AdminSettings,
    pub journal: JournalSettings,
    /// By name, in the file's order; the index is the `ListenerId`.
    pub listeners: Vec<ListenerSettings>,
    pub gate: GateSettings,
    /// Who sends over TCP, and what each may; empty: nobody is limited.
    pub tenants: Vec<TenantSettings>,
    pub sinks: Vec<SinkSettings>,
    /// The folder of users' own writer schemas, if there is one.
    pub schemas_dir: Option<PathBuf>,
    /// What is said of them, in the file's order.
    pub schemas: Vec<SchemaSettings>,
}

impl Settings {
    /// Where a person's requests come in.
    pub fn admin_socket(&self) -> PathBuf {
        let own = || self.data_dir.join("control.sock");
        self.admin.socket.clone().unwrap_or_else(own)
    }

    /// How many shards to run on a host that gives this process `cores` cores.
    pub fn shard_count(&self, cores: u16) -> u16 {
        match self.shards {
            Shards::Count(count) => count,
            Shards::Auto => (1..=cores.clamp(1, limits::SHARDS_MAX))
                .rev()
                .find(|&count| {
                    limits::memory_needed(count, self.sinks.len()) <= self.memory_max
                        && limits::journal_needed(count) <= self.journal.max_size
                })
                .unwrap_or(1),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shards {
    /// One per core this process may run on, as far as `memory_max` and `journal.max_size` go:
    /// `Settings::shard_count` has the number.
    Auto,
    Count(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoMode {
    /// io_uring where it can be had, else epoll, loudly.
    Auto,
    /// io_uring, or exit 69.
    Uring,
    Epoll,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AdminSettings {
    pub address: SocketAddr,
    /// The control socket, where it is not `control.sock` in the data folder.
    pub socket: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct JournalSettings {
    /// Bytes of all shards' segments together.
    pub max_size: u64,
    /// What must stay free on the file system.
    pub min_free: MinFree,
    pub on_full: OnFull,
    pub sync: SyncMode,
    /// The longest time between a write and its sync, where `sync` is `Interval`.
    pub sync_interval: Duration,
    /// The longest time a record waits for others before its block is written.
    pub commit_interval: Duration,
    /// A block that holds this many bytes is written at once.
    pub commit_size: u64,
    /// Producers that have sent nothing for this long may be forgotten.
    pub producer_expiry: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MinFree {
    /// 0 to 90.
    Percent(f64),
    Bytes(u64),
}

/// What happens when the journal has no room for another segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// Senders are told to try later, until the sinks have caught up.
    Backpressure,
    /// The oldest segment goes, whether every sink has it or not.
    DropOldest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// An acknowledgement follows the fdatasync.
    Always,
    /// It follows the write; syncs come at an interval.
    Interval,
    /// It follows the write; nothing is synced before a restart.
    Never,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ListenerSettings {
    pub name: String,
    pub protocol: Protocol,
    pub address: SocketAddr,
    /// SO_RCVBUF in bytes; `None` leaves the kernel's own for TCP.
    pub receive_buffer: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Udp,
    Tcp,
}

impl Protocol {
    /// The scheme of a listener's address.
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct GateSettings {
    pub mode: GateMode,
    pub policy: GatePolicy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateMode {
    /// eBPF where it can be had, else the stand-in, loudly.
    Auto,
    /// eBPF, or exit 69.
    Required,
    /// The stand-in in user space.
    Off,
}

/// Who belongs to a tenant, and what it may have. `None` is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantSettings {
    /// `default` is everybody whom no other names, each producer by itself.
    pub name: String,
    pub sources: Vec<Prefix>,
    pub producers: Vec<u64>,
    /// 1 to 1,000.
    pub weight: u32,
    /// In frames.
    pub rate: Option<Rate>,
    pub bytes_in_flight: Option<u64>,
    /// Of each shard's journal: 1 to 100.
    pub journal_percent: Option<u8>,
}

impl TenantSettings {
    pub fn unlimited(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            sources: Vec::new(),
            producers: Vec::new(),
            weight: 1,
            rate: None,
            bytes_in_flight: None,
            journal_percent: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct SinkSettings {
    pub name: String,
    pub kind: SinkKind,
    /// Where a `penstock` sink forwards to: `HOST:PORT`, the first preferred. Empty for others.
    pub to: Vec<String>,
    pub format: FileFormat,
    pub compression: Compression,
    pub rotate_size: u64,
    pub rotate_age: Duration,
    /// Oldest sealed files are removed beyond this many bytes.
    pub keep_size: u64,
    /// Sealed files older than this are removed.
    pub keep_age: Duration,
    /// Where it is not, nothing is delivered, and the journal keeps what this sink has still to
    /// get.
    pub enabled: bool,
}

/// What the configuration says of one schema file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaSettings {
    /// The file's name without `.avsc`.
    pub name: String,
    pub mapping: Mapping,
    /// The id under which Confluent's registry has it.
    pub registry_id: Option<u32>,
}

/// Where a sink delivers to: the `type` of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkKind {
    /// Files under `DATA/records/`.
    File,
    /// Another Penstock, over TCP.
    Penstock,
}

/// What a file sink writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// Avro container files.
    Avro,
    /// One JSON object a line.
    Jsonl,
    /// Length-delimited `penstock.v1.StoredRecord` messages.
    Protobuf,
}

/// How an output file's blocks are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Zstd,
    /// With Avro only: nothing else has a way to frame it.
    Snappy,
    None,
}
