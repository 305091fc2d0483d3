//! What stands on the wire, for the agent, the client and the tests: frames and acknowledgements
//! (`PROTOCOL.md`), and the generated Protobuf messages, which are also the slow reference decoder.

pub mod avro;
pub mod checksum;
pub mod encoding;
pub mod reason;
pub mod wire;

/// Generated from `penstock/v1/logs.proto`.
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/penstock.v1.rs"));
}
