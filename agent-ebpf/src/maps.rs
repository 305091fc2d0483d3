//! The maps (layouts: `agent_common::layout`) and the constants that the loader sets.

use agent_common::connection::ConnectionVerdict;
use agent_common::keep::PRIORITIES;
use agent_common::layout::{
    BundleCount, KeepWords, LIMITS_MAX, LIMITS_OF_ALL, LISTENERS_MAX, LISTS_MAX,
    POLICIES as POLICIES_LEN, Policy, PrefixKey, SHARDS_MAX, SOCKETS_MAX, SOURCES_MAX, SocketSlot,
    Stray,
};
use agent_common::limit::{Limit, SourceState};
use agent_common::source::Source;
use agent_common::steer::SteeredBy;
use agent_common::verdict::{KernelDrop, Verdict};
use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::LpmTrie;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, ReusePortSockArray};

/// By socket cookie, which the kernel never gives out twice.
#[map]
pub static SOCKETS: HashMap<u64, SocketSlot> = HashMap::with_max_entries(SOCKETS_MAX, 0);

#[map]
pub static VERDICTS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(LISTENERS_MAX * Verdict::COUNT as u32, 0);

#[map]
pub static KERNEL_DROPS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(LISTENERS_MAX * KernelDrop::COUNT as u32, 0);

#[map]
pub static BUNDLES: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(LISTENERS_MAX * BundleCount::COUNT as u32, 0);

#[map]
pub static STRAYS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Stray::COUNT as u32, 0);

/// Filled when a listener's sockets are bound; the kernel takes a socket out when it is closed.
#[map]
pub static SHARD_SOCKETS: ReusePortSockArray =
    ReusePortSockArray::with_max_entries(LISTENERS_MAX * SHARDS_MAX, 0);

#[map]
pub static STEERED_SHARDS: Array<u32> = Array::with_max_entries(LISTENERS_MAX, 0);

#[map]
pub static STEERED: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(LISTENERS_MAX * SteeredBy::COUNT as u32, 0);

#[map]
pub static CONNECTIONS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(ConnectionVerdict::COUNT as u32, 0);
#[map]
pub static GENERATION: Array<u64> = Array::with_max_entries(1, 0);

#[map]
pub static POLICIES: Array<Policy> = Array::with_max_entries(POLICIES_LEN, 0);

/// Values are `ListEntry`.
#[map]
pub static LISTS: LpmTrie<PrefixKey, u32> = LpmTrie::with_max_entries(POLICIES_LEN * LISTS_MAX, 0);

#[map]
pub static LIMITS: LpmTrie<PrefixKey, Limit> =
    LpmTrie::with_max_entries(POLICIES_LEN * (LIMITS_MAX + LIMITS_OF_ALL), 0);

#[map]
pub static SOURCES: LruHashMap<Source, SourceState> = LruHashMap::with_max_entries(SOURCES_MAX, 0);

#[map]
pub static NEWCOMERS: Array<SourceState> = Array::with_max_entries(1, 0);

/// Written by the agent as memory, from whichever thread, without a call.
#[map]
pub static KEEP: Array<KeepWords> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub static TICKS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(LISTENERS_MAX * PRIORITIES as u32, 0);

/// Numbers of `enum skb_drop_reason` in the running kernel; 0, which is no reason in any kernel
/// (`SKB_NOT_DROPPED_YET`), where the kernel has no such reason.
#[unsafe(no_mangle)]
pub static REASON_RECEIVE_BUFFER: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static REASON_MEMORY: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static REASON_CHECKSUM: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static REASON_SOCKET_FILTER: Global<u32> = Global::new(0);

/// Byte offsets of fields of `struct sk_buff` and `struct skb_shared_info` in the running kernel.
#[unsafe(no_mangle)]
pub static SKB_LEN_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static SKB_DATA_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static SKB_HEAD_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static SKB_END_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static SKB_TRANSPORT_HEADER_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static SHARED_GSO_SIZE_OFFSET: Global<u32> = Global::new(0);
