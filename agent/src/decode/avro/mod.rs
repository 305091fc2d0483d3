//! Avro, in place.

pub mod plan;
