//! Records as Avro, written by hand straight from the views: `schemas/stored_record.avsc` in the
//! blocks of an object container file (Avro 1.12, "Object Container Files").
//!
//! ```text
//! file:  ├ "Obj" 01 ┼ metadata map ┼ sync marker ┼ block ┼ block ┼ …
//! block: ├ records (long) ┼ bytes (long) ┼ the records, maybe compressed ┼ sync marker ┤
//! ```
//! All buffers are reused: nothing is allocated per record.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;

use crate::config::settings::Compression;
use crate::record::{EnvelopeView, RecordView};
use crate::sink::file::attributes::{Span, has_equal_keys, keep_last_of_equal_keys};
use crate::sink::file::compress::{Snappy, Zstd};
use crate::sink::file::encoder::BLOCK_LEN;

/// The writer's schema, as it is embedded in each file.
pub const STORED_SCHEMA: &str = include_str!("../../../../schemas/stored_record.avsc");
pub const CONTAINER_MAGIC: [u8; 4] = *b"Obj\x01";
pub const SYNC_MARKER_LEN: usize = 16;
pub const CODEC_NULL: &str = "null";
pub const CODEC_ZSTANDARD: &str = "zstandard";
pub const CODEC_SNAPPY: &str = "snappy";

/// Room before a block's records for its two longs, at most ten bytes each.
const PREFIX_LEN: usize = 20;
/// The longest varint of a 64-bit number.
const LONG_LEN_MAX: usize = 10;

/// Sixteen bytes that no record holds but by a chance of 2^-128. The hasher's keys are the
/// process's secret, so that a sender cannot put a marker into a record.
pub fn new_sync_marker() -> [u8; SYNC_MARKER_LEN] {
    let mut marker = [0; SYNC_MARKER_LEN];
    for half in marker.chunks_exact_mut(8) {
        half.copy_from_slice(&RandomState::new().build_hasher().finish().to_le_bytes());
    }
    marker
}

/// A file's first bytes: magic, metadata (schema and codec), sync marker.
pub fn file_header(compression: Compression, marker: &[u8; SYNC_MARKER_LEN]) -> Vec<u8> {
    let codec = match compression {
        Compression::Zstd => CODEC_ZSTANDARD,
        Compression::Snappy => CODEC_SNAPPY,
        Compression::None => CODEC_NULL,
    };
    let mut header = CONTAINER_MAGIC.to_vec();
    let pairs = [("avro.schema", STORED_SCHEMA), ("avro.codec", codec)];
    push_long(&mut header, pairs.len() as i64);
    for (key, value) in pairs {
        for text in [key, value] {
            push_long(&mut header, text.len() as i64);
            header.extend_from_slice(text.as_bytes());
        }
    }
    push_long(&mut header, 0);
    header.extend_from_slice(marker);
    header
}

fn push_long(out: &mut Vec<u8>, value: i64) {
    let mut bytes = [0; LONG_LEN_MAX];
    let len = write_long(&mut bytes, value);
    out.extend_from_slice(&bytes[..len]);
}

/// Zigzag, then seven bits a byte, the low ones first. Returns how many bytes it wrote.
#[inline]
fn write_long(out: &mut [u8; LONG_LEN_MAX], value: i64) -> usize {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    let mut len = 0;
    while rest >= 0x80 {
        out[len] = rest as u8 | 0x80;
        rest >>= 7;
        len += 1;
    }
    out[len] = rest as u8;
    len + 1
}

/// Collects records into blocks.
pub struct BlockEncoder {
    out: Out,
    records: u64,
    /// The encoded fields that all records of one entry share: the envelope's.
    envelope: Vec<u8>,
    /// Where the attributes of one record stand in `out`.
    spans: Vec<Span>,
    codec: Codec,
    /// `PREFIX_LEN` free bytes, then the compressed block; empty where nothing is compressed.
    compressed: Vec<u8>,
}

enum Codec {
    Null,
    Zstandard(Zstd),
    Snappy(Snappy),
}

/// A buffer and how far it is filled; the first `PREFIX_LEN` bytes stay free.
struct Out {
    bytes: Vec<u8>,
    at: usize,
}

impl Out {
    /// Room for `len` more bytes. Grows only for a record longer than all before it.
    #[inline]
    fn reserve(&mut self, len: usize) {
        if self.bytes.len() - self.at < len {
            self.grow(len);
        }
    }

    #[cold]
    fn grow(&mut self, len: usize) {
        let wanted = (self.at + len).max(self.bytes.len() + BLOCK_LEN / 2);
        self.bytes.resize(wanted, 0);
    }

    /// `reserve` made room for it.
    #[inline]
    fn long(&mut self, value: i64) {
        let out = self.bytes[self.at..]
            .first_chunk_mut()
            .expect("reserve leaves room for a whole long");
        self.at += write_long(out, value);
    }

    /// Most texts of a record are short, and a call of `memcpy` costs more than the copy: up to 32
    /// bytes are copied as two words that may overlap.
    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        let len = bytes.len();
        let out = &mut self.bytes[self.at..][..len];
        match len {
            0..4 => {
                for (out, byte) in out.iter_mut().zip(bytes) {
                    *out = *byte;
                }
            }
            4..8 => copy_ends::<4>(out, bytes),
            8..16 => copy_ends::<8>(out, bytes),
            16..=32 => copy_ends::<16>(out, bytes),
            _ => out.copy_from_slice(bytes),
        }
        self.at += len;
    }

    #[inline]
    fn text(&mut self, bytes: &[u8]) {
        self.long(bytes.len() as i64);
        self.bytes(bytes);
    }
}

/// Copies `N` to `2 N` bytes: the first `N` and the last `N`.
#[inline]
fn copy_ends<const N: usize>(out: &mut [u8], bytes: &[u8]) {
    *out.first_chunk_mut::<N>().expect("as long as `bytes`") =
        *bytes.first_chunk().expect("at least N bytes");
    *out.last_chunk_mut::<N>().expect("as long as `bytes`") =
        *bytes.last_chunk().expect("at least N bytes");
}

impl BlockEncoder {
    pub fn new(compression: Compression) -> io::Result<Self> {
        let codec = match compression {
            Compression::None => Codec::Null,
            Compression::Zstd => Codec::Zstandard(Zstd::new()?),
            Compression::Snappy => Codec::Snappy(Snappy::default()),
        };
        Ok(Self {
            out: Out {
                bytes: vec![0; PREFIX_LEN + BLOCK_LEN + BLOCK_LEN / 4],
                at: PREFIX_LEN,
            },
            records: 0,
            envelope: Vec::with_capacity(256),
            spans: Vec::with_capacity(64),
            codec,
            compressed: Vec::new(),
        })
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    pub fn is_full(&self) -> bool {
        self.out.at - PREFIX_LEN >= BLOCK_LEN
    }

    /// Forgets the records of the open block.
    pub fn clear(&mut self) {
        self.out.at = PREFIX_LEN;
        self.records = 0;
    }

    /// The records pushed from here on came with this envelope.
    pub fn begin_entry(&mut self, envelope: &EnvelopeView<'_>) {
        self.envelope.clear();
        push_long(&mut self.envelope, envelope.observed_time_unix_nano as i64);
        for text in [envelope.listener, envelope.peer_address] {
            push_long(&mut self.envelope, text.len() as i64);
            self.envelope.extend_from_slice(text.as_bytes());
        }
    }

    /// Adds one record: the fields in the schema's order.
    pub fn push(&mut self, record: &RecordView<'_>) {
        let out = &mut self.out;
        let texts = record.service_name.len() + record.body.len() + record.host_name.len();
        out.reserve(6 * LONG_LEN_MAX + texts);
        out.long(record.time_unix_nano as i64);
        // The same 32 bits (schemas/README.md).
        out.long(i64::from(record.severity_number as i32));
        out.text(record.service_name.as_bytes());
        out.text(record.body.as_bytes());
        out.text(record.host_name.as_bytes());
        self.push_attributes(record);
        let out = &mut self.out;
        let ids = record.trace_id.len() + record.span_id.len();
        out.reserve(3 * LONG_LEN_MAX + ids + self.envelope.len());
        out.text(record.trace_id);
        out.text(record.span_id);
        out.bytes(&self.envelope);
        self.records += 1;
    }

    /// A map is one block of pairs and an empty one: `count, (key, value)…, 0`.
    fn push_attributes(&mut self, record: &RecordView<'_>) {
        let out = &mut self.out;
        let count = record.attributes.len();
        if count == 0 {
            out.reserve(LONG_LEN_MAX);
            return out.long(0);
        }
        let map_start = out.at;
        out.reserve(LONG_LEN_MAX);
        out.long(count as i64);
        self.spans.clear();
        for (key, value) in record.attributes.iter() {
            out.reserve(2 * LONG_LEN_MAX + key.len() + value.len());
            let start = out.at;
            out.text(key.as_bytes());
            let key_end = out.at;
            out.text(value.as_bytes());
            self.spans.push(Span {
                start: start as u32,
                key_start: (key_end - key.len()) as u32,
                key_end: key_end as u32,
                end: out.at as u32,
            });
        }
        assert!(
            self.spans.len() == count,
            "{count} attributes announced, {} given",
            self.spans.len()
        );
        if has_equal_keys(&out.bytes, &mut self.spans) {
            drop_earlier_of_equal_keys(out, map_start, &mut self.spans);
        }
        out.reserve(LONG_LEN_MAX);
        out.long(0);
    }

    /// Ends the block, which holds at least one record: its bytes as they are to stand in the file.
    pub fn finish(&mut self, marker: &[u8; SYNC_MARKER_LEN]) -> io::Result<&[u8]> {
        assert!(!self.is_empty(), "a block without records");
        let records = std::mem::take(&mut self.records);
        let raw_end = std::mem::replace(&mut self.out.at, PREFIX_LEN);
        let raw = &self.out.bytes[PREFIX_LEN..raw_end];
        let compressed = &mut self.compressed;
        let (bytes, end) = match &mut self.codec {
            Codec::Null => (&mut self.out.bytes, raw_end),
            Codec::Zstandard(zstd) => {
                let end = zstd.compress(raw, compressed, PREFIX_LEN)?;
                (compressed, end)
            }
            Codec::Snappy(snappy) => {
                let end = snappy.compress(raw, compressed, PREFIX_LEN)?;
                (compressed, end)
            }
        };
        if bytes.len() < end + SYNC_MARKER_LEN {
            bytes.resize(end + SYNC_MARKER_LEN, 0);
        }
        bytes[end..][..SYNC_MARKER_LEN].copy_from_slice(marker);
        let (mut count, mut size) = ([0; LONG_LEN_MAX], [0; LONG_LEN_MAX]);
        let count_len = write_long(&mut count, records as i64);
        let size_len = write_long(&mut size, (end - PREFIX_LEN) as i64);
        let start = PREFIX_LEN - count_len - size_len;
        bytes[start..][..count_len].copy_from_slice(&count[..count_len]);
        bytes[start + count_len..PREFIX_LEN].copy_from_slice(&size[..size_len]);
        Ok(&bytes[start..end + SYNC_MARKER_LEN])
    }
}

/// The pairs that hold move together, behind a smaller count.
#[cold]
fn drop_earlier_of_equal_keys(out: &mut Out, map_start: usize, spans: &mut Vec<Span>) {
    keep_last_of_equal_keys(&out.bytes, spans);
    // The new count is no longer than the old one: nothing is overwritten before it has moved.
    out.at = map_start;
    out.long(spans.len() as i64);
    for span in spans {
        let (start, end) = (span.start as usize, span.end as usize);
        out.bytes.copy_within(start..end, out.at);
        out.at += end - start;
    }
}
