//! A shard's append-only segment files, layer by layer: `format` knows only bytes, `dedup` knows
//! which frames were taken before, `reader` reads segments for whoever lags behind, `writer` is the
//! worker's, `recovery` decides at start what is kept, `feed` hands durable blocks to the sinks.

pub mod dedup;
pub mod feed;
pub mod format;
pub mod reader;
pub mod recovery;
pub mod writer;

#[cfg(test)]
mod tests;
