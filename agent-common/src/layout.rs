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
//!
//!  GENERATION       array    u64: which policy is in force (its lowest 24 bits)
//!  POLICIES         array    Policy, by the generation's lowest bit
//!  LISTS            trie     PrefixKey → ListEntry
//!  LIMITS           trie     PrefixKey → Limit
//!  SOURCES          LRU      Source, masked → SourceState
//!  NEWCOMERS        array    one SourceState
//!  KEEP             array    one KeepWords, mapped into the agent's memory
//!  TICKS            per CPU  u64 per listener × priority: raw messages so far
//! ```
//!
//! A policy is replaced as a whole: the next generation's entries are written beside the current
//! one's, whose number is part of every key, then `GENERATION` is set, and only once no program runs
//! any more that can have read the old number are the old entries removed. What sources have used
//! up stays, whatever the generation.

use crate::connection::ConnectionVerdict;
use crate::keep::{Keep, PRIORITIES};
use crate::limit::Limit;
use crate::source::{FAMILY_V4, Source};
use crate::steer::SteeredBy;
use crate::verdict::{KernelDrop, Verdict};

/// Listeners that the counts have places for: all that can have a name in one life of the agent
/// (its `limits.rs`), so that one can be added to a running one.
pub const LISTENERS_MAX: u32 = 120;

/// Sockets that the gate can guard: one per UDP listener and shard (limits: 64 listeners).
pub const SOCKETS_MAX: u32 = 4096;

/// Shards that the steering maps have room for.
pub const SHARDS_MAX: u32 = 256;
/// Prefixes of both lists of one policy: the blocks of a published blocklist (some thousands), and
/// as many again. An entry is some 100 bytes of kernel memory, taken when it is written.
pub const LISTS_MAX: u32 = 16_384;
/// Prefixes with a limit of their own: networks that a person names.
pub const LIMITS_MAX: u32 = 1024;
/// What every source may send stands in `LIMITS` as well: a prefix without bits, of each family.
pub const LIMITS_OF_ALL: u32 = 3;
/// The tries hold two policies while one replaces the other.
pub const POLICIES: u32 = 2;
/// Sources that are remembered: more than the hosts that one host can take logs from. Some 120 bytes
/// of kernel memory each (8 MiB), taken when the map is made.
pub const SOURCES_MAX: u32 = 65_536;

/// The socket takes nothing more: each of its datagrams is counted as `closing` and dropped.
pub const SOCKET_CLOSING: u32 = 1 << 0;
/// Its datagrams are syslog messages, not frames.
pub const SOCKET_SYSLOG: u32 = 1 << 1;

/// What the gate knows of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SocketSlot {
    /// Index of the listener that the socket belongs to.
    pub listener: u32,
    /// The listener's limit of a frame's payload, in bytes.
    pub payload_len_max: u32,
    /// `SOCKET_CLOSING`, `SOCKET_SYSLOG`.
    pub flags: u32,
    /// 0; keeps the size a multiple of 8, as the kernel rounds values anyway.
    pub reserved: u32,
}

/// What holds of a policy without a look into the tries; replaced as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Policy {
    /// Its number, at most `GENERATION_MAX`: part of each of its keys.
    pub generation: u32,
    /// `POLICY_LISTS`, `POLICY_ALLOW`, `POLICY_LIMITS`.
    pub flags: u32,
    /// What of an address makes a source.
    pub mask_v4: [u32; 4],
    pub mask_v6: [u32; 4],
    /// For all sources together that are not known yet.
    pub newcomers: Limit,
}

/// `LISTS` has entries.
pub const POLICY_LISTS: u32 = 1 << 0;
/// `LISTS` has entries that allow: what no entry names is denied.
pub const POLICY_ALLOW: u32 = 1 << 1;
/// `LIMITS` has entries, of which the shortest (no bits at all) are for every source.
pub const POLICY_LIMITS: u32 = 1 << 2;

/// Generations begin again at 0 behind it: a key has 24 bits for one.
pub const GENERATION_MAX: u32 = (1 << 24) - 1;

impl Policy {
    /// No list, no limit: what maps hold that nobody has written.
    pub const EMPTY: Self = Self {
        generation: 0,
        flags: 0,
        mask_v4: [0; 4],
        mask_v6: [0; 4],
        newcomers: Limit::NONE,
    };

    /// The key of an address in `LISTS` and `LIMITS`, with all of its bits.
    #[inline(always)]
    pub const fn key(&self, source: &Source) -> PrefixKey {
        PrefixKey::new(self.generation, source)
    }

    /// The part of an address that makes a source.
    #[inline(always)]
    pub const fn holder(&self, source: &Source) -> Source {
        source.masked(if source.family == FAMILY_V4 {
            &self.mask_v4
        } else {
            &self.mask_v6
        })
    }
}

/// The data of a key of `LISTS` and `LIMITS`; its prefix length counts `PREFIX_HEAD_BITS` for the
/// head, which always matches as a whole, and then the address's bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PrefixKey {
    /// Generation and family: ::/0 names no IPv4 address.
    pub head: u32,
    pub words: [u32; 4],
}

pub const PREFIX_HEAD_BITS: u32 = 32;

impl PrefixKey {
    #[inline(always)]
    pub const fn new(generation: u32, source: &Source) -> Self {
        Self {
            head: generation << 8 | source.family,
            words: source.words,
        }
    }
}

/// What a list says of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ListEntry {
    Allow = 1,
    Deny = 2,
}

/// The ratios in force are the lower ones of both. Each is written as one word, by whoever it
/// belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct KeepWords {
    /// What is configured.
    pub ceiling: Keep,
    /// What pressure leaves of it.
    pub pressure: Keep,
}

/// Counts of bundles (skbs), for tests and for hosts where drops are counted per skb only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum BundleCount {
    /// Bundles that the filter looked at.
    Judged = 0,
    /// Of these, bundles that the filter dropped.
    Dropped = 1,
    /// Of these, bundles that were charged to a source only after several CPUs had wanted to change
    /// its word at once, and so may have passed where its bucket was empty (`bucket::Bucket::take`).
    Contended = 2,
}

impl BundleCount {
    pub const COUNT: usize = 3;
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

/// Index of a count of raw messages in `TICKS`.
#[inline(always)]
pub const fn tick_index(listener: u32, priority: u8) -> u32 {
    listener * PRIORITIES as u32 + priority as u32
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
        let bundles = [
            BundleCount::Judged,
            BundleCount::Dropped,
            BundleCount::Contended,
        ];
        let bundles = listeners().flat_map(|l| bundles.map(|b| bundle_index(l, b)));
        assert_eq!(bundles.collect::<Vec<_>>(), indices(3));
        let steered = listeners().flat_map(|l| SteeredBy::ALL.map(|by| steered_index(l, by)));
        assert_eq!(steered.collect::<Vec<_>>(), indices(3));
        let connections = listeners()
            .flat_map(|l| ConnectionVerdict::ALL.map(|verdict| connection_index(l, verdict)));
        assert_eq!(connections.collect::<Vec<_>>(), indices(4));
        let sockets = listeners().flat_map(|l| (0..256).map(move |s| shard_socket_index(l, s)));
        assert_eq!(sockets.collect::<Vec<_>>(), indices(256));
        let ticks = listeners().flat_map(|l| [0, 1, 2, 3].map(|p| tick_index(l, p)));
        assert_eq!(ticks.collect::<Vec<_>>(), indices(4));
    }

    #[test]
    fn a_slot_has_no_padding() {
        assert_eq!(size_of::<SocketSlot>(), 4 * size_of::<u32>());
    }

    /// The kernel compares keys and the loader copies values byte by byte.
    #[test]
    fn keys_and_values_have_no_padding() {
        assert_eq!(size_of::<PrefixKey>(), 5 * 4);
        assert_eq!(size_of::<Source>(), 5 * 4);
        assert_eq!(size_of::<Limit>(), 3 * 3 * 8);
        assert_eq!(size_of::<Policy>(), 10 * 4 + size_of::<Limit>());
        assert_eq!(size_of::<KeepWords>(), 8);
        assert_eq!(size_of::<crate::limit::SourceState>(), 4 * 8);
    }
}
