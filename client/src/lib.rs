//! The Penstock producer as a library.
//!
//! [`Sender`] is what most programs want: it takes records, batches them into frames, sends them
//! over TCP, sends again what was not acknowledged, and says at the end what became of each.
//! Below it stand [`Producer`] (batches, drop policies, the spool) and [`exchange::Exchange`], the
//! protocol as a state machine without I/O: bytes in, bytes out, the time passed in. [`datagram::DatagramPacker`] packs records for UDP, where nothing is
//! acknowledged. `proto/PROTOCOL.md` is the protocol's description.
//!
//! `examples/send_lines.rs` is the shortest useful program, `examples/spooled.rs` one that survives
//! its own restart and its agent's. README.md is the guide.
#![forbid(unsafe_code)]

mod avro;
pub mod backoff;
pub mod batch;
pub mod compress;
pub mod datagram;
pub mod exchange;
pub mod options;
pub mod producer;
pub mod record;
pub mod report;
pub mod sender;
pub mod spool;
mod targets;
pub mod transport;
pub mod window;

pub use exchange::Exchange;
pub use options::{Options, Overflow};
pub use penstock_proto::avro::SchemaVersion;
pub use penstock_proto::encoding::Encoding;
pub use penstock_proto::v1::LogRecord;
pub use producer::{Demand, Producer, PushError};
pub use report::Report;
pub use sender::{SendError, Sender};
pub use spool::{SpoolError, SpoolOptions};
pub use transport::Transport;

/// A producer id for one life of a producer: random, and never 0, which is nobody.
pub fn random_producer_id() -> u64 {
    rand::random_range(1..=u64::MAX)
}
