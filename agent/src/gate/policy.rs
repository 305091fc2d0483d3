//! What the gate is told: plain data, as the configuration or a person at the control socket gives
//! it. `Gate::apply` turns it into maps, or refuses it and keeps what holds.

use std::net::IpAddr;

use agent_common::frame::PRIORITY_MAX;

/// Ratios are in sixteenths: all of it.
pub const KEEP_ALL: u8 = 16;

/// An address with the number of its leading bits that count: 0 to 32, or to 128. The bits behind
/// them are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    pub address: IpAddr,
    pub len: u8,
}

/// A token bucket: what comes in for good, and how much may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Per second; at least 1.
    pub sustained: u64,
    /// At least 1.
    pub burst: u64,
}

/// What one source may send. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceLimit {
    pub datagrams: Option<Rate>,
    pub bytes: Option<Rate>,
    /// New TCP connections.
    pub connections: Option<Rate>,
}

/// Everything a person can set about the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatePolicy {
    /// Longest prefix wins; with entries here what no list names is denied.
    pub allow: Vec<Prefix>,
    pub deny: Vec<Prefix>,
    /// For every source that no prefix of `limits` holds.
    pub source_limit: SourceLimit,
    /// Each source within the prefix has this limit of its own; the longest prefix wins.
    pub limits: Vec<(Prefix, SourceLimit)>,
    /// How many leading bits make a source: 1 to 32 and 1 to 128.
    pub source_prefix_v4: u8,
    pub source_prefix_v6: u8,
    /// What all sources that are not known yet may send together, where a limit holds.
    pub newcomers: SourceLimit,
    /// The most that is kept of each priority, in sixteenths: sampling. Pressure only lowers it.
    pub keep: [u8; PRIORITY_MAX as usize + 1],
    /// Connections that one source may have at once over TCP.
    pub connections_max: Option<u32>,
}

impl Default for GatePolicy {
    /// No list, no limit, nothing sampled.
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            deny: Vec::new(),
            source_limit: SourceLimit::default(),
            limits: Vec::new(),
            source_prefix_v4: 32,
            source_prefix_v6: 64,
            newcomers: SourceLimit::default(),
            keep: [KEEP_ALL; PRIORITY_MAX as usize + 1],
            connections_max: None,
        }
    }
}
