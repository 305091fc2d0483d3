//! What a worker is given at its start.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::config::settings::Protocol;
use crate::gate::StandIn;
use crate::gate::source_connections::SourceConnections;
use crate::journal::writer::JournalPlan;
use crate::schema::table::Schemas;
use crate::shard::counters::ShardCounters;
use crate::shard::handover::Handover;
use crate::shard::op::{ListenerId, Socket};
use crate::shard::orders::Orders;
use crate::shard::regulation::Regulation;

/// What one worker needs to know; plain data.
pub struct Plan {
    pub shard: u16,
    /// The index is the `ListenerId`.
    pub listeners: Vec<ListenerPlan>,
    pub journal: JournalPlan,
    pub schemas: Schemas,
    pub connections_max: usize,
    /// Bytes of frames cut in two by a buffer's end, all connections together; no less than one frame.
    pub carry_bytes_max: usize,
    /// How connections get to the shard that owns their producer; `None` where there is one shard.
    pub handover: Option<Handover>,
    /// All shards'.
    pub source_connections: Arc<SourceConnections>,
    /// What is kept of each priority, and who may have what.
    pub regulation: Regulation,
    /// Receive buffers of each pool: how many leases the fence can have out.
    pub tcp_buffers: usize,
    pub udp_buffers: usize,
    /// Set by another thread, which then wakes the worker.
    pub stop: Arc<AtomicBool>,
    /// What changes while it runs.
    pub orders: Arc<Orders>,
    pub observer: Box<dyn Observe + Send>,
}

/// One listener, as this shard sees it.
#[derive(Clone)]
pub struct ListenerPlan {
    pub name: String,
    pub protocol: Protocol,
    /// Bound, and for TCP listening.
    pub socket: Socket,
    pub payload_len_max: u32,
    /// Where the gate is not in the kernel, the worker judges each bundle itself.
    pub stand_in: Option<StandIn>,
}

/// Who looks at a shard's counts. Called on the shard's thread, once per wake-up.
pub trait Observe {
    fn publish(&mut self, counters: &ShardCounters);
    /// The next listener is served, or one whose protocol may be another now: before the first
    /// `publish` that counts for it.
    fn listen(&mut self, listener: ListenerId, plan: &ListenerPlan);
    /// A journal sync took this long.
    fn sync(&mut self, ns: u64);
    /// The oldest frame of a group commit became durable this long after its receipt.
    fn ingest(&mut self, ns: u64);
}

/// Nobody looks.
impl Observe for () {
    fn publish(&mut self, _: &ShardCounters) {}
    fn listen(&mut self, _: ListenerId, _: &ListenerPlan) {}
    fn sync(&mut self, _: u64) {}
    fn ingest(&mut self, _: u64) {}
}
