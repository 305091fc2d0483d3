//! `/api/v1/status`: the agent at a glance. Fields are only ever added.

use std::net::SocketAddr;

use agent_common::keep::Keep;
use serde::Serialize;

use crate::gate::who::TopSource;
use crate::metric::ListenerCounts;
use crate::schema::registry::SchemaStatus;

/// Who knows how the agent stands: the control side implements it over what it shares with the
/// shards and the sinks.
pub trait StatusSource: Send + Sync {
    /// Publishes what is read rather than counted (the gate's maps, the sinks' marks, the sockets'
    /// buffers), so that an answer is of now. Called before each `/metrics` and `/api/v1/status`,
    /// on the control thread: it must not block.
    fn refresh(&self);

    fn status(&self) -> Status;
}

/// The agent now. Whether it is ready is added from `Readiness`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub version: &'static str,
    pub pid: u32,
    pub uptime_seconds: f64,
    /// The files that the configuration came from (`Loaded::source`).
    pub config: String,
    /// The words of `penstock_build_info`.
    pub io: String,
    pub gate: String,
    /// In the settings' order.
    pub listeners: Vec<ListenerStatus>,
    /// By shard.
    pub journal: Vec<JournalStatus>,
    pub sinks: Vec<SinkStatus>,
    /// How hard pressed each shard is, from 0 to 1.
    pub pressure: Vec<f64>,
    /// What is kept of each priority over UDP now.
    pub keep_sixteenths: KeepStatus,
    /// The files of `schemas_dir`, by name.
    pub schemas: Vec<SchemaStatus>,
    /// Who has sent the most datagrams, since the gate remembers them; the first is the noisiest.
    pub top_sources: Vec<TopSource>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ListenerStatus {
    pub name: String,
    /// `udp` or `tcp`.
    pub protocol: &'static str,
    /// As bound: where port 0 was configured, the port that the kernel gave.
    pub address: SocketAddr,
    /// Whether the gate runs in the kernel for this listener.
    pub gate_attached: bool,
    #[serde(flatten)]
    pub counts: ListenerCounts,
}

/// Sixteenths by priority: 16 is all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct KeepStatus {
    pub critical: u8,
    pub high: u8,
    pub normal: u8,
    pub background: u8,
}

impl KeepStatus {
    pub fn of(keep: Keep) -> Self {
        let [critical, high, normal, background] = keep.sixteenths();
        Self {
            critical,
            high,
            normal,
            background,
        }
    }
}

/// A shard's journal: positions in bytes, records since its first segment.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct JournalStatus {
    pub shard: u16,
    pub durable_bytes: u64,
    pub durable_records: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct SinkStatus {
    pub name: String,
    pub committed_records: u64,
    pub lag_records: u64,
    pub lag_seconds: f64,
}
