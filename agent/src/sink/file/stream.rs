//! Records one behind the other, as JSON lines or length-delimited Protobuf: the block is its records
//! and nothing else, or one zstd frame around them. So a file is a stream that any tool of the
//! format reads, plain or through `zstdcat`.

use std::io;

use crate::config::settings::Compression;
use crate::record::{EnvelopeView, RecordView};
use crate::sink::file::attributes::Span;
use crate::sink::file::compress::Zstd;
use crate::sink::file::encoder::BLOCK_LEN;
use crate::sink::file::{jsonl, protobuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Jsonl,
    Protobuf,
}

/// Collects records into blocks; all buffers are used again.
pub struct StreamEncoder {
    form: Form,
    out: Vec<u8>,
    /// The encoded fields that all records of one entry share: the envelope's.
    envelope: Vec<u8>,
    /// Where the attributes of one record stand in `out`.
    spans: Vec<Span>,
    zstd: Option<Zstd>,
    compressed: Vec<u8>,
}

impl StreamEncoder {
    pub fn new(form: Form, compression: Compression) -> io::Result<Self> {
        let zstd = match compression {
            Compression::None => None,
            Compression::Zstd => Some(Zstd::new()?),
            Compression::Snappy => unreachable!("the configuration has snappy with avro only"),
        };
        Ok(Self {
            form,
            out: Vec::with_capacity(BLOCK_LEN + BLOCK_LEN / 4),
            envelope: Vec::with_capacity(256),
            spans: Vec::with_capacity(64),
            zstd,
            compressed: Vec::new(),
        })
    }

    /// No record takes no bytes: a line has its line feed, a message its length.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.out.len() >= BLOCK_LEN
    }

    pub fn clear(&mut self) {
        self.out.clear();
    }

    pub fn begin_entry(&mut self, envelope: &EnvelopeView<'_>) {
        self.envelope.clear();
        match self.form {
            Form::Jsonl => jsonl::push_envelope(envelope, &mut self.envelope),
            Form::Protobuf => protobuf::push_envelope(envelope, &mut self.envelope),
        }
    }

    pub fn push(&mut self, record: &RecordView<'_>) {
        let (out, spans) = (&mut self.out, &mut self.spans);
        match self.form {
            Form::Jsonl => jsonl::push(record, &self.envelope, spans, out),
            Form::Protobuf => protobuf::push(record, &self.envelope, spans, out),
        }
    }

    /// Ends the block, which holds at least one record.
    pub fn finish(&mut self) -> io::Result<&[u8]> {
        assert!(!self.is_empty(), "a block without records");
        let Some(zstd) = &mut self.zstd else {
            // What is handed out stays in place until the next record: the block's end is
            // remembered by swapping, not by a copy.
            std::mem::swap(&mut self.out, &mut self.compressed);
            self.out.clear();
            return Ok(&self.compressed);
        };
        let end = zstd.compress(&self.out, &mut self.compressed, 0)?;
        self.out.clear();
        Ok(&self.compressed[..end])
    }
}
