//! The layouts of the gate's maps, as the programs and the loader both see them.
//!
//! ```text
//!  SOCKETS          hash     socket cookie → SocketSlot
//!  VERDICTS         per CPU  u64 per listener × Verdict
//!  KERNEL_DROPS     per CPU  u64 per listener × KernelDrop
//!  BUNDLES          per CPU  u64 per listener × BundleCount
//!  STRAYS           per CPU  u64 per Stray
//!  SHARD_SOCKETS    sockets  listener × shard → UDP socket, for sk_reuseport
//!  STEERED_SHARDS   array    u32 per listener: its shards, 0 where nothing is steered
//!  STEERED          per CPU  u64 per listener × SteeredBy
//!  CONNECTIONS      per CPU  u64 per listener × ConnectionVerdict
//! ```

use crate::connection::ConnectionVerdict;
use crate::steer::SteeredBy;
use crate::verdict::{KernelDrop, Verdict};

/// Sockets that the gate can guard: one per UDP listener and shard (limits: 64 listeners).
pub const SOCKETS_MAX: u32 = 4096;

/// Listeners and shards that the steering maps have room for.
pub const LISTENERS_MAX: u32 = 64;
pub const SHARDS_MAX: u32 = 256;

/// The socket takes nothing more: each of its datagrams is counted as `closing` and dropped.
pub const SOCKET_CLOSING: u32 = 1 << 0;

/// What the gate knows of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SocketSlot {
    /// Index of the listener that the socket belongs to.
    pub listener: u32,
    /// The listener's limit in bytes.
    pub payload_len_max: u32,
    /// `SOCKET_CLOSING` or 0.
    pub flags: u32,
    /// 0; keeps the size a multiple of 8, as the kernel rounds values anyway.
    pub reserved: u32,
}

/// Counts of bundles (skbs), for tests and for hosts where drops are counted per skb only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum BundleCount {
    /// Bundles that the filter looked at.
    Judged = 0,
    /// Of these, bundles that the filter dropped.
    Dropped = 1,
}

impl BundleCount {
    pub const COUNT: usize = 2;
}

/// What should not happen; counted apart, and logged the first time on each CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stray {
    /// Bundles of a socket that carries the filter but is not in `SOCKETS`: passed.
    UnknownSocket = 0,
    /// Bundles of more than `BUNDLE_DATAGRAMS_MAX` datagrams.
    LongBundle = 1,
    /// Datagrams dropped for one of our sockets for a reason that is no `KernelDrop`.
    OtherDrop = 2,
}

impl Stray {
    pub const COUNT: usize = 3;
}

/// Index of a verdict's count in `VERDICTS`.
#[inline(always)]
pub const fn verdict_index(listener: u32, verdict: Verdict) -> u32 {
    listener * Verdict::COUNT as u32 + verdict as u32
}

/// Index of a drop's count in `KERNEL_DROPS`.
#[inline(always)]
pub const fn drop_index(listener: u32, drop: KernelDrop) -> u32 {
    listener * KernelDrop::COUNT as u32 + drop as u32
}

/// Index of a bundle count in `BUNDLES`.
#[inline(always)]
pub const fn bundle_index(listener: u32, count: BundleCount) -> u32 {
    listener * BundleCount::COUNT as u32 + count as u32
}

/// Index of a shard's socket in `SHARD_SOCKETS`.
#[inline(always)]
pub const fn shard_socket_index(listener: u32, shard: u16) -> u32 {
    listener * SHARDS_MAX + shard as u32
}

/// Index of a count of steered bundles in `STEERED`.
#[inline(always)]
pub const fn steered_index(listener: u32, by: SteeredBy) -> u32 {
    listener * SteeredBy::COUNT as u32 + by as u32
}

/// Index of a verdict's count in `CONNECTIONS`.
#[inline(always)]
pub const fn connection_index(listener: u32, verdict: ConnectionVerdict) -> u32 {
    listener * ConnectionVerdict::COUNT as u32 + verdict as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_has_a_place_of_its_own() {
        let indices = |per_listener: usize| (0..3 * per_listener as u32).collect::<Vec<_>>();
        let listeners = || 0..3;
        let verdicts = listeners().flat_map(|l| Verdict::ALL.map(|v| verdict_index(l, v)));
        assert_eq!(verdicts.collect::<Vec<_>>(), indices(6));
        let drops = listeners().flat_map(|l| KernelDrop::ALL.map(|d| drop_index(l, d)));
        assert_eq!(drops.collect::<Vec<_>>(), indices(3));
        let bundles = [BundleCount::Judged, BundleCount::Dropped];
        let bundles = listeners().flat_map(|l| bundles.map(|b| bundle_index(l, b)));
        assert_eq!(bundles.collect::<Vec<_>>(), indices(2));
        let steered = listeners().flat_map(|l| SteeredBy::ALL.map(|by| steered_index(l, by)));
        assert_eq!(steered.collect::<Vec<_>>(), indices(3));
        let connections = listeners()
            .flat_map(|l| ConnectionVerdict::ALL.map(|verdict| connection_index(l, verdict)));
        assert_eq!(connections.collect::<Vec<_>>(), indices(4));
        let sockets = listeners().flat_map(|l| (0..256).map(move |s| shard_socket_index(l, s)));
        assert_eq!(sockets.collect::<Vec<_>>(), indices(256));
    }

    #[test]
    fn a_slot_has_no_padding() {
        assert_eq!(size_of::<SocketSlot>(), 4 * size_of::<u32>());
    }
}
