//! Every capacity, in one place, derived from each other; the relations hold at compile time.

use agent_common::frame::{FRAME_HEADER_LEN, UDP_PAYLOAD_LEN_MAX};

use crate::journal::dedup::snapshot::{PART_HEADER_LEN, PRODUCER_LEN_MAX};
use crate::journal::format::{BLOCK_ALIGN, BLOCK_HEADER_LEN, ENTRY_HEADER_LEN};

/// Requests to the control thread that wait; further ones wait with their connections, of which
/// there are as few.
pub const CONTROL_REQUESTS: usize = 8;

/// Errors or warnings from one place in the code that are logged before more of them are counted and
/// summed up, once a minute. A configuration with a hint for each of some listeners stays below.
pub const LOG_REPEATS_MAX: u32 = 20;
/// Places in the code that are told apart in this; there are about 60.
pub const LOG_KINDS_MAX: usize = 256;
/// What a summary quotes, in bytes.
pub const LOG_TEXT_LEN_MAX: usize = 200;
/// The longest value of a field that journald is sent, in bytes: a dozen of them are half of what a
/// datagram may have (net.core.wmem_default, 208 KiB).
pub const LOG_VALUE_LEN_MAX: usize = 8 << 10;

/// The longest answer on the control socket: both policies of `penstock gate show` with as many IPv6
/// prefixes as fit, some 45 bytes each.
pub const CONTROL_ANSWER_LEN_MAX: usize = 4 << 20;

/// The longest payload taken over TCP, in bytes (DESIGN: 1 MiB by default).
pub const TCP_PAYLOAD_LEN_MAX: usize = 1 << 20;
/// The longest frame there is.
pub const FRAME_LEN_MAX: usize = FRAME_HEADER_LEN + TCP_PAYLOAD_LEN_MAX;

/// A journal block holds the longest frame with its envelope, in whole pages.
pub const JOURNAL_BLOCK_LEN: usize =
    (BLOCK_HEADER_LEN + ENTRY_HEADER_LEN + FRAME_LEN_MAX).next_multiple_of(BLOCK_ALIGN);
/// Journal blocks of a shard: 16 MiB and one for the next segment's header page. At 1 GB/s that is
/// 16 ms of a stalled disk.
pub const JOURNAL_BLOCKS: usize = 17;
/// Blocks that sinks may hold at once; the others are the writer's, so that a sink that falls
/// behind never takes the journal's memory: it reads from disk instead.
pub const JOURNAL_BLOCKS_SHARED_MAX: usize = JOURNAL_BLOCKS / 2;
/// A segment's length in bytes of blocks, which are preallocated: an eighth of what the shard's
/// journal may take, so that retention works in steps of that, within these bounds. At 1 GB/s the
/// longest one is filled in a quarter of a second; the shortest one holds eight of the longest
/// frames.
pub const SEGMENT_LEN_MAX: u64 = 256 << 20;
pub const SEGMENT_LEN_MIN: u64 = 8 << 20;

/// The length of the segments of a shard whose journal may take `size_max` bytes.
pub const fn segment_len(size_max: u64) -> u64 {
    let wanted = size_max / 8 / BLOCK_ALIGN as u64 * BLOCK_ALIGN as u64;
    if wanted < SEGMENT_LEN_MIN {
        SEGMENT_LEN_MIN
    } else if wanted > SEGMENT_LEN_MAX {
        SEGMENT_LEN_MAX
    } else {
        wanted
    }
}

/// Producers that a shard remembers at the most: as many as it has connections, each of which speaks
/// for one.
pub const PRODUCERS_MAX: usize = CONNECTIONS_MAX;
/// What one costs in memory: its window of 1,024 checksums and a bit for each, its id, its times,
/// and its place in an index of twice as many places.
pub const PRODUCER_MEMORY: usize = 4352;

/// The producers of a shard with segments of this length: so many that a snapshot of all of them,
/// each with a full window, fills a quarter of a segment at the most.
pub const fn producers_max(segment_len: u64) -> usize {
    const HEADERS: usize = BLOCK_HEADER_LEN + ENTRY_HEADER_LEN + PART_HEADER_LEN;
    const PER_BLOCK: usize = (JOURNAL_BLOCK_LEN - HEADERS) / PRODUCER_LEN_MAX;
    let pages = (segment_len / 4 / BLOCK_ALIGN as u64) as usize * BLOCK_ALIGN;
    let rest = (pages % JOURNAL_BLOCK_LEN).saturating_sub(HEADERS) / PRODUCER_LEN_MAX;
    let all = pages / JOURNAL_BLOCK_LEN * PER_BLOCK + rest;
    if all < PRODUCERS_MAX {
        all
    } else {
        PRODUCERS_MAX
    }
}

/// Configured tenants, the default one not counted; the prefixes and the producers that each names.
pub const TENANTS_MAX: usize = 64;
pub const TENANT_SOURCES_MAX: usize = 256;
pub const TENANT_PRODUCERS_MAX: usize = 1024;
/// Producers of the default tenant that a shard tells apart: those that are connected, and as many
/// that were and whose limits are not settled yet. 192 bytes each, and nothing without tenants.
pub const TENANT_SLOTS: usize = 2 * CONNECTIONS_MAX;

/// Segments that a shard needs to make progress: the one being written, its successor, made ahead
/// so that a switch does not wait for the disk, and one that a sink is reading; and their headers.
pub const SHARD_SEGMENTS_MIN: u64 = 4;

/// TCP receive buffers of a shard: 64 × 128 KiB = 8 MiB.
pub const TCP_BUFFER_LEN: usize = 128 << 10;
pub const TCP_BUFFERS: usize = 64;

/// What io_uring puts before a datagram in a multishot recvmsg buffer: `io_uring_recvmsg_out`
/// (16 bytes), a socket address (28, padded to 32) and room for control messages (64).
pub const UDP_BUFFER_PREFIX_LEN: usize = 16 + UDP_NAME_LEN + UDP_CONTROL_LEN;
pub const UDP_NAME_LEN: usize = 32;
pub const UDP_CONTROL_LEN: usize = 64;
/// A bundle is at most 65,535 bytes; with the prefix it must fit one buffer or it is truncated.
pub const UDP_BUFFER_LEN: usize = (UDP_BUFFER_PREFIX_LEN + (1 << 16)).next_multiple_of(4096);
/// UDP receive buffers of a shard: 128 × 68 KiB = 8.5 MiB. A bundle fills one, but so does a lone
/// datagram: flat out without GSO, 32 ran dry 12,000 times in two seconds, and 128 twice.
pub const UDP_BUFFERS: usize = 128;

/// Without io_uring: what one wait takes at most, so that no listener keeps the others waiting.
/// Datagram buffers that one recvmmsg fills: 32 × 68 KiB is about what a core's cache holds until
/// they are parsed, and a syscall's price is spread thin enough.
pub const UDP_BATCH: usize = 32;
/// Connections that one listener accepts.
pub const ACCEPT_BATCH: usize = 64;
/// Sockets that epoll_wait tells of; it begins with the others the next time.
pub const EPOLL_EVENTS_MAX: usize = 256;
/// Threads for the journal's files: one that syncs, one that makes the next segment, one that
/// removes, and at least one that writes. Their stacks are part of `SHARD_TABLES_MEMORY`'s
/// allowance.
pub const FILE_THREADS: usize = 4;
pub const FILE_THREAD_STACK_LEN: usize = 128 << 10;

/// Acknowledgements are sent from buffers of 128 acknowledgements each.
pub const SEND_BUFFER_LEN: usize = 4096;
pub const SEND_BUFFERS: usize = 256;

/// Connections of a shard, all listeners together.
pub const CONNECTIONS_MAX: usize = 4096;
/// Connections of a TCP listener's socket that the kernel completes before the shard accepts them;
/// net.core.somaxconn (4,096 by default since 5.4) is the host's bound on it.
pub const LISTEN_BACKLOG: u16 = 4096;
/// Frames of one producer that may be unsettled at once (PROTOCOL.md).
pub const OUTSTANDING_FRAMES_MAX: usize = 1024;
/// Acknowledgements that may wait for one connection: a peer that does not read them is closed.
pub const ACKS_WAITING_MAX: usize = OUTSTANDING_FRAMES_MAX;
/// Bytes of frames cut in two by a buffer's end, all connections of a shard together.
pub const CARRY_BYTES_MAX: usize = 32 << 20;

/// Prefixes that the gate's lists hold together, and prefixes with a limit of their own.
pub const GATE_PREFIXES_MAX: usize = agent_common::layout::LISTS_MAX as usize;
pub const GATE_LIMITS_MAX: usize = agent_common::layout::LIMITS_MAX as usize;
/// Configured listeners; a listener's index is a u16 in the journal and a slot in the gate's maps.
pub const LISTENERS_MAX: usize = 64;
/// A listener's or sink's name, in bytes.
pub const NAME_LEN_MAX: usize = 32;
/// Names that listeners may have had in one life of the agent, those of now among them: a name keeps
/// its id, in the journal and in the gate's maps, for as long as the process lives. As many as a
/// segment's header page holds.
pub const LISTENER_NAMES_MAX: usize = 120;
/// The same for sinks, whose counters stay.
pub const SINK_NAMES_MAX: usize = 120;
/// Orders that may wait for one shard: a reload gives at most two for each listener that is left and
/// each that comes, two for each sink of either kind, and one for the rest.
pub const SHARD_ORDERS_MAX: usize = 2 * (2 * LISTENERS_MAX + 2 * SINKS_MAX) + 1;
/// The longest payload that a decoder is handed.
pub const PAYLOAD_LEN_MAX: usize = TCP_PAYLOAD_LEN_MAX;
/// Text of one JSON line whose escapes are undone: never longer than it was with them.
pub const JSON_UNESCAPED_LEN_MAX: usize = PAYLOAD_LEN_MAX;
/// Attributes of one JSON line: none takes fewer than the 5 bytes of `"":0,`.
pub const JSON_ATTRIBUTES_MAX: usize = PAYLOAD_LEN_MAX / 5;
/// Text of one Avro record that does not stand in its payload: numbers, and what nests, as JSON.
pub const AVRO_TEXT_LEN_MAX: usize = PAYLOAD_LEN_MAX;
/// Names of one writer schema's fields and symbols, which stand before that text.
pub const AVRO_NAMES_LEN_MAX: usize = 64 << 10;
/// Types, fields, branches and symbols of one writer schema.
pub const AVRO_NODES_MAX: usize = 4096;
/// Values of an Avro payload that take no bytes (null, empty records): as many as it has bytes at
/// most. Of these a few bytes could promise any number.
pub const AVRO_WIDTHLESS_VALUES_MAX: u32 = PAYLOAD_LEN_MAX as u32;
/// A decoder's scratch, which JSON and Avro share.
pub const SCRATCH_TEXT_LEN_MAX: usize = AVRO_NAMES_LEN_MAX + AVRO_TEXT_LEN_MAX;
/// zstd's decompression context: 94 KiB in version 1.5.7; a unit test holds the bound.
pub const DECOMPRESSOR_CONTEXT_MEMORY: u64 = 192 << 10;
/// What a decoder brings with it: its scratch for text, the attributes of the longest JSON line (8
/// bytes for a key and 8 for a value), the longest payload decompressed, and the context for that.
pub const DECODER_MEMORY: u64 = (SCRATCH_TEXT_LEN_MAX + 16 * JSON_ATTRIBUTES_MAX + PAYLOAD_LEN_MAX)
    as u64
    + DECOMPRESSOR_CONTEXT_MEMORY;
/// Configured sinks: each costs `SINK_SHARD_MEMORY` a shard and reads every block once more.
pub const SINKS_MAX: usize = 16;
/// Worker threads; a shard's number is a metric label and part of its folder's name.
pub const SHARDS_MAX: u16 = 256;
/// A configuration file, in bytes, and how many may stand in `conf.d`.
pub const CONFIG_FILE_LEN_MAX: u64 = 1 << 20;
pub const CONFIG_FILES_MAX: usize = 256;
/// Nesting that a payload may have (JSON objects and arrays, Protobuf groups, Avro records, arrays
/// and maps).
pub const NESTING_MAX: usize = 32;

/// Users' schema files, and the longest one in bytes. A schema of 256 KiB has thousands of fields.
pub const SCHEMA_FILES_MAX: usize = 256;
pub const SCHEMA_FILE_LEN_MAX: u64 = 256 << 10;
/// A kept schema's file has the schema's text and its mapping.
pub const SCHEMA_KEPT_FILE_LEN_MAX: u64 = 2 * SCHEMA_FILE_LEN_MAX;
/// Brackets that may stand within each other in a schema file; a record in a record takes three.
pub const SCHEMA_NESTING_MAX: usize = 96;
/// A schema file's name without its ending, in bytes.
pub const SCHEMA_NAME_LEN_MAX: usize = 128;
/// Schemas kept in the data folder for what may still stand in the journal, and the bytes of their
/// text, which stands in memory with plans of about its size.
pub const SCHEMAS_KEPT_MAX: usize = 1024;
pub const SCHEMAS_KEPT_LEN_MAX: usize = 4 << 20;

/// Memory of one shard: its pools, its decoder, and an allowance for its tables (connection slots,
/// waiting acknowledgements, dedup windows, counters).
pub const SHARD_MEMORY: u64 = (JOURNAL_BLOCKS * JOURNAL_BLOCK_LEN
    + TCP_BUFFERS * TCP_BUFFER_LEN
    + UDP_BUFFERS * UDP_BUFFER_LEN
    + SEND_BUFFERS * SEND_BUFFER_LEN
    + CARRY_BYTES_MAX) as u64
    + DECODER_MEMORY
    + SHARD_TABLES_MEMORY;
/// What a shard keeps beside its pools: the dedup windows, 17 MiB, and an allowance for connections,
/// waiting acknowledgements and counters.
pub const SHARD_TABLES_MEMORY: u64 = (PRODUCERS_MAX * PRODUCER_MEMORY) as u64 + (8 << 20);
/// Memory of one sink on one shard: a block read from disk, its decoder, and an allowance for what
/// it encodes.
pub const SINK_SHARD_MEMORY: u64 = JOURNAL_BLOCK_LEN as u64 + DECODER_MEMORY + SINK_CODEC_MEMORY;
/// Allowance for one sink's open block, the same compressed, and the compressor: the longest record
/// makes a block of up to 6 MiB of JSON (a control character takes six bytes there), and a usual
/// block has 128 KiB.
pub const SINK_CODEC_MEMORY: u64 = 8 << 20;
/// Frames that a forwarding sink holds until they are answered: what a file sink's encoded block and
/// codec would take.
pub const FORWARD_BYTES_MAX: usize = JOURNAL_BLOCK_LEN + SINK_CODEC_MEMORY as usize / 2;
/// Targets of one forwarding sink.
pub const FORWARD_TARGETS_MAX: usize = 8;
/// Allowance for what does not depend on the shards: code, stacks, the control thread, metrics.
pub const PROCESS_MEMORY: u64 = 16 << 20;

/// What the agent may come to use, in bytes: the sum that `memory_max` must cover. Socket receive
/// buffers are the kernel's memory and stand beside it.
pub const fn memory_needed(shards: u16, sinks: usize) -> u64 {
    PROCESS_MEMORY + shards as u64 * (SHARD_MEMORY + sinks as u64 * SINK_SHARD_MEMORY)
}

/// Descriptors of a shard beside its connections and listening sockets: its ring, eventfd, segments
/// (the one written, its successor, those being removed) and folder.
pub const SHARD_FILES: u64 = 16;
/// Descriptors of a sink on a shard: what it reads, what it writes, its folder and its cursor.
pub const SINK_SHARD_FILES: u64 = 8;
/// Descriptors of the process: standard ones, runtimes, the gate's maps and programs, admin
/// connections.
pub const PROCESS_FILES: u64 = 192;

/// Open files that the agent may come to have, with every connection slot taken.
pub const fn open_files_needed(shards: u16, listeners: usize, sinks: usize) -> u64 {
    let connections = CONNECTIONS_MAX as u64;
    let of_shard = SHARD_FILES + listeners as u64 + sinks as u64 * SINK_SHARD_FILES;
    PROCESS_FILES + shards as u64 * (connections + of_shard)
}

/// Memory of the journal's blocks in bytes, which is registered with the kernel and so locked.
pub const fn locked_memory_needed(shards: u16) -> u64 {
    shards as u64 * (JOURNAL_BLOCKS * JOURNAL_BLOCK_LEN) as u64
}

/// What `shards` shards need of `journal.max_size`, in bytes.
pub const fn journal_needed(shards: u16) -> u64 {
    shards as u64 * SHARD_SEGMENTS_MIN * SEGMENT_LEN_MIN
}

const _: () = {
    assert!(TENANT_SLOTS + TENANTS_MAX < u16::MAX as usize);
    assert!(JOURNAL_BLOCK_LEN >= BLOCK_HEADER_LEN + ENTRY_HEADER_LEN + FRAME_LEN_MAX);
    assert!(4 * JOURNAL_BLOCK_LEN as u64 <= SEGMENT_LEN_MIN);
    assert!(UDP_PAYLOAD_LEN_MAX as usize <= TCP_PAYLOAD_LEN_MAX);
    // serde_json, by which the schema library reads, ends at 128.
    assert!(SCHEMA_NESTING_MAX < 128);
    assert!(SCHEMAS_KEPT_MAX >= SCHEMA_FILES_MAX);
    assert!(2 * SCHEMAS_KEPT_LEN_MAX as u64 <= PROCESS_MEMORY);
    // The JSON decoder keeps offsets in 31 bits, and open brackets in a u64.
    assert!(PAYLOAD_LEN_MAX < 1 << 31 && NESTING_MAX <= 64);
    assert!(SCRATCH_TEXT_LEN_MAX >= JSON_UNESCAPED_LEN_MAX && SCRATCH_TEXT_LEN_MAX < 1 << 31);
    assert!(TCP_BUFFERS.is_power_of_two() && UDP_BUFFERS.is_power_of_two());
    // The shortest segment still lets a shard serve a few hundred producers.
    assert!(producers_max(SEGMENT_LEN_MIN) >= 256);
    assert!(producers_max(SEGMENT_LEN_MAX) == PRODUCERS_MAX);
    assert!(UDP_BATCH <= UDP_BUFFERS);
    assert!(CARRY_BYTES_MAX >= FRAME_LEN_MAX);
    assert!(FORWARD_BYTES_MAX >= 2 * FRAME_LEN_MAX);
    assert!(FORWARD_BYTES_MAX as u64 <= SINK_SHARD_MEMORY - JOURNAL_BLOCK_LEN as u64);
    // The gate's counts have a place for each listener.
    assert!(LISTENER_NAMES_MAX == agent_common::layout::LISTENERS_MAX as usize);
    // The listener table stands in the segment's header page.
    assert!(LISTENER_NAMES_MAX * (1 + NAME_LEN_MAX) + 66 + 4 <= BLOCK_ALIGN);
    assert!(LISTENERS_MAX <= LISTENER_NAMES_MAX && SINKS_MAX <= SINK_NAMES_MAX);
};
