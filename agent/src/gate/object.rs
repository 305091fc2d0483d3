//! The eBPF object, as `agent/build.rs` found it.

/// The bytes of `penstock-gate.o`, aligned as an ELF parser needs them; `None` in a build that was
/// made before `cargo xtask build-ebpf`.
#[cfg(gate_object)]
pub static OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(
    env!("OUT_DIR"),
    "/penstock-gate.o"
)));
#[cfg(not(gate_object))]
pub static OBJECT: Option<&[u8]> = None;

/// Names within the object; `tests/tests/gate_object.rs` holds it to them.
pub const FILTER: &str = "penstock_filter";
pub const KERNEL_DROPS: &str = "penstock_kernel_drops";
pub const CONNECTIONS: &str = "penstock_connections";
pub const STEER: &str = "penstock_steer";
pub const PROGRAMS: [&str; 4] = [FILTER, KERNEL_DROPS, CONNECTIONS, STEER];
/// The tracepoint that `KERNEL_DROPS` is attached to.
pub const TRACEPOINT: &str = "kfree_skb";

pub mod map {
    pub const SOCKETS: &str = "SOCKETS";
    pub const VERDICTS: &str = "VERDICTS";
    pub const KERNEL_DROPS: &str = "KERNEL_DROPS";
    pub const BUNDLES: &str = "BUNDLES";
    pub const STRAYS: &str = "STRAYS";
    pub const CONNECTIONS: &str = "CONNECTIONS";
    pub const SHARD_SOCKETS: &str = "SHARD_SOCKETS";
    pub const STEERED_SHARDS: &str = "STEERED_SHARDS";
    pub const STEERED: &str = "STEERED";
    pub const GENERATION: &str = "GENERATION";
    pub const POLICIES: &str = "POLICIES";
    pub const LISTS: &str = "LISTS";
    pub const LIMITS: &str = "LIMITS";
    pub const SOURCES: &str = "SOURCES";
    pub const NEWCOMERS: &str = "NEWCOMERS";
    pub const KEEP: &str = "KEEP";
    pub const TICKS: &str = "TICKS";
    pub const WHO: &str = "WHO";
    pub const SIZES: &str = "SIZES";
    pub const WATCH: &str = "WATCH";
    pub const WATCH_TURN: &str = "WATCH_TURN";
    pub const REFUSED: &str = "REFUSED";
}
