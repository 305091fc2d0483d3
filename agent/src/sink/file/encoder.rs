//! One seam for all formats: records go in, blocks of bytes as they are to stand in a file come out.
//!
//! A file is a beginning and blocks. A format's block can be read by itself once the beginning is
//! known, and a commit ends at a block's end: so whatever the format, a file that is cut to its
//! committed length is whole.

use std::io;

use crate::config::settings::{Compression, FileFormat};
use crate::record::{EnvelopeView, RecordView};
use crate::sink::file::avro::{self, SYNC_MARKER_LEN};
use crate::sink::file::stream::{Form, StreamEncoder};

/// A block is ended when it holds this many bytes of encoded records. On real log lines zstd level 1
/// made of blocks of 64, 128, 256 and 512 KiB files 7.5, 7.8, 7.9 and 8.1 times smaller, and was
/// fastest at 128 KiB; damage to a file costs one block, and a reader holds one.
pub const BLOCK_LEN: usize = 128 << 10;

/// What encodes the records of a sink, by its settings.
pub enum Encoder {
    Avro(avro::BlockEncoder),
    Stream(StreamEncoder),
}

impl Encoder {
    pub fn new(format: FileFormat, compression: Compression) -> io::Result<Self> {
        let form = match format {
            FileFormat::Avro => return avro::BlockEncoder::new(compression).map(Self::Avro),
            FileFormat::Jsonl => Form::Jsonl,
            FileFormat::Protobuf => Form::Protobuf,
        };
        StreamEncoder::new(form, compression).map(Self::Stream)
    }

    pub fn is_empty(&self) -> bool {
        match self {
            Self::Avro(encoder) => encoder.is_empty(),
            Self::Stream(encoder) => encoder.is_empty(),
        }
    }

    pub fn is_full(&self) -> bool {
        match self {
            Self::Avro(encoder) => encoder.is_full(),
            Self::Stream(encoder) => encoder.is_full(),
        }
    }

    /// Forgets the records of the open block.
    pub fn clear(&mut self) {
        match self {
            Self::Avro(encoder) => encoder.clear(),
            Self::Stream(encoder) => encoder.clear(),
        }
    }

    /// The records pushed from here on came with this envelope.
    pub fn begin_entry(&mut self, envelope: &EnvelopeView<'_>) {
        match self {
            Self::Avro(encoder) => encoder.begin_entry(envelope),
            Self::Stream(encoder) => encoder.begin_entry(envelope),
        }
    }

    #[inline]
    pub fn push(&mut self, record: &RecordView<'_>) {
        match self {
            Self::Avro(encoder) => encoder.push(record),
            Self::Stream(encoder) => encoder.push(record),
        }
    }

    /// Ends the block, which holds at least one record.
    pub fn finish(&mut self, marker: &[u8; SYNC_MARKER_LEN]) -> io::Result<&[u8]> {
        match self {
            Self::Avro(encoder) => encoder.finish(marker),
            Self::Stream(encoder) => encoder.finish(),
        }
    }
}

/// A file's first bytes; only Avro has any. They end with the marker.
pub fn file_header(
    format: FileFormat,
    compression: Compression,
    marker: &[u8; SYNC_MARKER_LEN],
) -> Vec<u8> {
    match format {
        FileFormat::Avro => avro::file_header(compression, marker),
        FileFormat::Jsonl | FileFormat::Protobuf => Vec::new(),
    }
}
