//! The name, type, unit, labels and description of every metric: what the outside relies on.

use metrics::Unit;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric, without the values of its labels.
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: Unit,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

const fn counter(
    name: &'static str,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Family {
    Family {
        name,
        kind: Kind::Counter,
        unit,
        labels,
        help,
    }
}

const fn gauge(
    name: &'static str,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Family {
    Family {
        name,
        kind: Kind::Gauge,
        unit,
        labels,
        help,
    }
}

const fn histogram(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        labels: &[],
        help,
    }
}

pub static GATE_DATAGRAMS: Family = counter(
    "penstock_gate_datagrams_total",
    Unit::Count,
    &["listener", "verdict"],
    "Datagrams that reached the gate, by its verdict; the sum over all verdicts is what arrived.",
);
pub static GATE_CONNECTIONS: Family = counter(
    "penstock_gate_connections_total",
    Unit::Count,
    &["listener", "verdict"],
    "Attempts to open a TCP connection, by the gate's verdict. In the kernel an attempt is a SYN: one \
     that is dropped comes again as the client's next try.",
);
pub static GATE_ATTACHED: Family = gauge(
    "penstock_gate_attached",
    Unit::Count,
    &["listener"],
    "1 where the gate runs in the kernel, 0 where its stand-in in user space gives the verdicts.",
);
pub static DATAGRAM_SIZE: Family = Family {
    name: "penstock_datagram_size_bytes",
    kind: Kind::Histogram,
    unit: Unit::Bytes,
    labels: &["listener"],
    help: "Sizes of the datagrams that reached the gate, without their UDP headers, whatever their \
           verdict.",
};
pub static KERNEL_DROPS: Family = counter(
    "penstock_kernel_drops_total",
    Unit::Count,
    &["listener", "reason"],
    "Datagrams that the kernel dropped for a listener's sockets, by reason.",
);
pub static RECEIVED_DATAGRAMS: Family = counter(
    "penstock_received_datagrams_total",
    Unit::Count,
    &["listener"],
    "Datagrams read from the listener's sockets.",
);
pub static RECEIVED_BYTES: Family = counter(
    "penstock_received_bytes_total",
    Unit::Bytes,
    &["listener"],
    "Bytes of payload read from the listener's sockets.",
);
pub static RECEIVED_FRAMES: Family = counter(
    "penstock_received_frames_total",
    Unit::Count,
    &["listener"],
    "Frames found in what was read: the accepted and the refused ones.",
);
pub static ACCEPTED_FRAMES: Family = counter(
    "penstock_accepted_frames_total",
    Unit::Count,
    &["listener", "encoding"],
    "Frames whose every record was valid and went to the journal.",
);
pub static ACCEPTED_RECORDS: Family = counter(
    "penstock_accepted_records_total",
    Unit::Count,
    &["listener", "encoding"],
    "Records of the accepted frames.",
);
pub static REFUSED_FRAMES: Family = counter(
    "penstock_refused_frames_total",
    Unit::Count,
    &["listener", "reason"],
    "Frames that were not taken, by reason.",
);
pub static SEQUENCE_GAP_FRAMES: Family = counter(
    "penstock_sequence_gap_frames_total",
    Unit::Count,
    &["listener"],
    "Frames that the producers' sequences say were sent and that never came.",
);
pub static UNMAPPED_FIELDS: Family = counter(
    "penstock_unmapped_fields_total",
    Unit::Count,
    &["listener"],
    "Fields of accepted records that have no place in a record and were not stored.",
);
pub static RECEIVE_BUFFER_USED: Family = gauge(
    "penstock_receive_buffer_used_bytes",
    Unit::Bytes,
    &["listener"],
    "Kernel memory that datagrams waiting in the listener's sockets use.",
);
pub static RECEIVE_BUFFER_LIMIT: Family = gauge(
    "penstock_receive_buffer_limit_bytes",
    Unit::Bytes,
    &["listener"],
    "Kernel memory that the listener's sockets may use for waiting datagrams.",
);
pub static RECEIVE_POOL_EXHAUSTED: Family = counter(
    "penstock_receive_pool_exhausted_total",
    Unit::Count,
    &["shard"],
    "Times that a receive ended because all buffers of its pool were out.",
);
pub static CONNECTIONS: Family = gauge(
    "penstock_connections",
    Unit::Count,
    &["listener"],
    "Connections that are open.",
);
pub static CONNECTIONS_CLOSED: Family = counter(
    "penstock_connections_closed_total",
    Unit::Count,
    &["listener", "reason"],
    "Connections that ended, by reason.",
);
pub static SHARD_BUSY_SECONDS: Family = counter(
    "penstock_shard_busy_seconds_total",
    Unit::Seconds,
    &["shard"],
    "Time that a shard did not spend waiting.",
);
pub static JOURNAL_BYTES: Family = gauge(
    "penstock_journal_bytes",
    Unit::Bytes,
    &[],
    "Preallocated bytes of the segments that exist.",
);
pub static JOURNAL_LIMIT_BYTES: Family = gauge(
    "penstock_journal_limit_bytes",
    Unit::Bytes,
    &[],
    "What the segments may come to (journal.max_size).",
);
pub static JOURNAL_APPENDED_RECORDS: Family = counter(
    "penstock_journal_appended_records_total",
    Unit::Count,
    &[],
    "Records that became durable.",
);
pub static JOURNAL_LOST_RECORDS: Family = counter(
    "penstock_journal_lost_records_total",
    Unit::Count,
    &["reason"],
    "Accepted records that never became durable, by reason; none of them was acknowledged.",
);
pub static JOURNAL_SEGMENT_ERRORS: Family = counter(
    "penstock_journal_segment_errors_total",
    Unit::Count,
    &["call"],
    "Calls on the journal's segments that failed, by call; they are tried again.",
);
pub static JOURNAL_REFUSING_SHARDS: Family = gauge(
    "penstock_journal_refusing_shards",
    Unit::Count,
    &["cause"],
    "Shards whose journal takes nothing now, by cause.",
);
pub static JOURNAL_DISK_FREE_BYTES: Family = gauge(
    "penstock_journal_disk_free_bytes",
    Unit::Bytes,
    &[],
    "What is free on the file system of the data folder.",
);
pub static JOURNAL_MIN_FREE_BYTES: Family = gauge(
    "penstock_journal_min_free_bytes",
    Unit::Bytes,
    &[],
    "What is to stay free there (journal.min_free).",
);
pub static JOURNAL_SYNC_DURATION: Family = histogram(
    "penstock_journal_sync_duration_seconds",
    "Time that an fdatasync of a segment took.",
);
pub static INGEST_DURATION: Family = histogram(
    "penstock_ingest_duration_seconds",
    "Time from a frame's receipt until it was durable.",
);
pub static ACKS: Family = counter(
    "penstock_acks_total",
    Unit::Count,
    &["status"],
    "Frames that were answered, by status.",
);
pub static PRESSURE: Family = gauge(
    "penstock_pressure_ratio",
    Unit::Count,
    &["shard"],
    "How hard pressed a shard is, from 0 to 1: what is shed follows the highest (OPERATING.md).",
);
pub static GATE_KEEP: Family = gauge(
    "penstock_gate_keep_ratio",
    Unit::Count,
    &["priority"],
    "What is kept of each priority over UDP now: the lower of the configured ratio and of what \
     pressure leaves.",
);
pub static TENANT_LIMITED_FRAMES: Family = counter(
    "penstock_tenant_limited_frames_total",
    Unit::Count,
    &["tenant", "limit"],
    "New frames over TCP that were told to come later, by tenant and by the limit it had reached.",
);
pub static TENANT_CROWDED_PRODUCERS: Family = counter(
    "penstock_tenant_crowded_producers_total",
    Unit::Count,
    &["shard"],
    "Connections whose producer found no place of its own and shares the limits of all such.",
);
pub static SINK_RECORDS: Family = counter(
    "penstock_sink_records_total",
    Unit::Count,
    &["sink"],
    "Records that a sink delivered and committed.",
);
pub static SINK_LAG_RECORDS: Family = gauge(
    "penstock_sink_lag_records",
    Unit::Count,
    &["sink"],
    "Durable records that a sink has not yet committed.",
);
pub static SINK_LAG_SECONDS: Family = gauge(
    "penstock_sink_lag_seconds",
    Unit::Seconds,
    &["sink"],
    "Age of the oldest durable record that a sink has not yet committed; 0 where there is none.",
);
pub static SINK_ERRORS: Family = counter(
    "penstock_sink_errors_total",
    Unit::Count,
    &["sink", "reason"],
    "Attempts of a sink that failed, by reason; it tries again.",
);
pub static SINK_SKIPPED_RECORDS: Family = counter(
    "penstock_sink_skipped_records_total",
    Unit::Count,
    &["sink", "reason"],
    "Durable records that a sink will never deliver, by reason: dropped undelivered to make room \
     (journal.on_full), unreadable in the journal, or refused where they were forwarded to.",
);
pub static SCHEMAS: Family = gauge(
    "penstock_schemas",
    Unit::Count,
    &["state"],
    "Files of schemas_dir: usable, unusable (no records can be made of their data) or broken.",
);
pub static LOG_SUPPRESSED: Family = counter(
    "penstock_log_suppressed_total",
    Unit::Count,
    &["level"],
    "Errors and warnings of the agent's own log that were counted and summed up, not logged.",
);
pub static CONFIG_LAST_RELOAD_SUCCESSFUL: Family = gauge(
    "penstock_config_last_reload_successful",
    Unit::Count,
    &[],
    "1 where the configuration read last is in force, 0 where it was refused.",
);
pub static CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP: Family = gauge(
    "penstock_config_last_reload_success_timestamp_seconds",
    Unit::Seconds,
    &[],
    "When a configuration was last put in force, in seconds since 1970; the start counts.",
);
pub static BUILD_INFO: Family = gauge(
    "penstock_build_info",
    Unit::Count,
    &["version", "io", "gate"],
    "1; the labels say which version runs, over which kernel interface, and where the gate is.",
);

/// The families whose series stand in the exporter's registry.
pub static RECORDED: [&Family; 40] = [
    &GATE_DATAGRAMS,
    &GATE_CONNECTIONS,
    &GATE_ATTACHED,
    &KERNEL_DROPS,
    &RECEIVED_DATAGRAMS,
    &RECEIVED_BYTES,
    &RECEIVED_FRAMES,
    &ACCEPTED_FRAMES,
    &ACCEPTED_RECORDS,
    &REFUSED_FRAMES,
    &SEQUENCE_GAP_FRAMES,
    &UNMAPPED_FIELDS,
    &RECEIVE_BUFFER_USED,
    &RECEIVE_BUFFER_LIMIT,
    &RECEIVE_POOL_EXHAUSTED,
    &CONNECTIONS,
    &CONNECTIONS_CLOSED,
    &JOURNAL_BYTES,
    &JOURNAL_LIMIT_BYTES,
    &JOURNAL_APPENDED_RECORDS,
    &JOURNAL_LOST_RECORDS,
    &JOURNAL_SEGMENT_ERRORS,
    &JOURNAL_REFUSING_SHARDS,
    &JOURNAL_DISK_FREE_BYTES,
    &JOURNAL_MIN_FREE_BYTES,
    &ACKS,
    &PRESSURE,
    &GATE_KEEP,
    &TENANT_LIMITED_FRAMES,
    &TENANT_CROWDED_PRODUCERS,
    &SINK_RECORDS,
    &SINK_LAG_RECORDS,
    &SINK_LAG_SECONDS,
    &SINK_ERRORS,
    &SINK_SKIPPED_RECORDS,
    &SCHEMAS,
    &LOG_SUPPRESSED,
    &CONFIG_LAST_RELOAD_SUCCESSFUL,
    &CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP,
    &BUILD_INFO,
];
