//! What a producer may be told; every wait and every buffer has a bound here.

use std::time::Duration;

use penstock_proto::avro::SchemaVersion;
use penstock_proto::encoding::Encoding;

/// The longest payload an agent takes over TCP unless it is configured otherwise.
pub const PAYLOAD_LEN_MAX: usize = 1 << 20;

/// What becomes of a record for which there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// It is not taken: `push` says so, and [`crate::Sender::send`] waits.
    #[default]
    Wait,
    /// It is dropped, and counted.
    DropNewest,
    /// The oldest that can be dropped make room for it, and are counted. In memory these are frames
    /// that were never begun; what an agent may have is kept until an answer comes, and where all
    /// that is held is such, the new record is dropped. With a spool it is the oldest segment.
    DropOldest,
}

/// How a producer batches, waits and retries.
#[derive(Clone, Debug)]
pub struct Options {
    pub encoding: Encoding,
    /// What Avro is written with.
    pub schema: SchemaVersion,
    /// Compress payloads with zstd at this level; a batch that gains nothing is sent as it is. The
    /// limits hold for payloads before they are compressed.
    pub zstd_level: Option<i32>,
    /// 0 critical, 1 high, 2 normal, 3 background.
    pub priority: u8,
    /// A frame is closed at this many records.
    pub batch_records_max: u32,
    /// A frame is closed before it would pass this many payload bytes; a record longer than that
    /// goes alone.
    pub batch_bytes_max: usize,
    /// A frame is closed when its first record has waited this long.
    pub linger: Duration,
    /// The longest payload; a single record beyond it is not taken.
    pub payload_len_max: usize,
    /// Bytes of frames and records held in memory until they are settled; at least twice
    /// `payload_len_max` (less is raised to that).
    pub buffer_bytes_max: usize,
    pub overflow: Overflow,
    /// How long to wait for one address to take a connection.
    pub connect_timeout: Duration,
    /// A connection on which frames wait and no acknowledgement came for this long is given up.
    pub ack_timeout: Duration,
    /// Between reconnects: a random part of `backoff_base` doubled per failure, up to
    /// `backoff_max`.
    pub backoff_base: Duration,
    pub backoff_max: Duration,
    /// The longest retry-after that is believed.
    pub retry_after_max: Duration,
    /// With several targets: one that has settled nothing for this long although frames wait is left
    /// for the next, whether it cannot be reached, is silent or only says "try later". Where no
    /// frame may be at it already, a target that cannot be reached is left at once: then nothing
    /// can come to be stored at two agents.
    pub failover_after: Duration,
    /// How long to stay with another target before the first is looked at again.
    pub return_after: Duration,
    /// [`crate::Sender`] gives up when records wait and nothing was settled for this long.
    pub give_up_after: Duration,
    /// Seeds the jitter, for tests; `None` takes it from the system. The producer id is always
    /// the system's: two lives with one id would be taken for one.
    pub jitter_seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            encoding: Encoding::Protobuf,
            schema: SchemaVersion::V3,
            zstd_level: None,
            priority: 2,
            batch_records_max: 500,
            batch_bytes_max: 64 << 10,
            linger: Duration::from_millis(100),
            payload_len_max: PAYLOAD_LEN_MAX,
            buffer_bytes_max: 16 << 20,
            overflow: Overflow::Wait,
            connect_timeout: Duration::from_secs(5),
            ack_timeout: Duration::from_secs(30),
            backoff_base: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            retry_after_max: Duration::from_secs(60),
            failover_after: Duration::from_secs(10),
            return_after: Duration::from_secs(60),
            give_up_after: Duration::from_secs(30),
            jitter_seed: None,
        }
    }
}
