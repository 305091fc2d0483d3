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

/// The writer's schema, as it is embedded in each file.
pub const STORED_SCHEMA: &str = include_str!("../../../../schemas/stored_record.avsc");
pub const CONTAINER_MAGIC: [u8; 4] = *b"Obj\x01";
pub const SYNC_MARKER_LEN: usize = 16;
pub const CODEC_NULL: &str = "null";
pub const CODEC_ZSTANDARD: &str = "zstandard";

/// A block is ended when it holds this many bytes of encoded records. On real log lines zstd level 1
/// made of blocks of 64, 128, 256 and 1024 KiB files 7.2, 7.5, 7.8 and 8.0 times
/// smaller, and was fastest at 128 KiB; damage to a file costs one block, and a reader holds one.
pub const BLOCK_LEN: usize = 128 << 10;
/// Levels above 1 cost more time than the disk they save is worth on the ingest path.
const ZSTD_LEVEL: i32 = 1;
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
    compressor: Option<Compressor>,
}

struct Compressor {
    context: zstd::bulk::Compressor<'static>,
    /// `PREFIX_LEN` free bytes, then the compressed block.
    out: Vec<u8>,
}

/// A buffer and how far it is filled; the first `PREFIX_LEN` bytes stay free.
struct Out {
    bytes: Vec<u8>,
    at: usize,
}

/// One attribute in the buffer.
#[derive(Clone, Copy)]
struct Span {
    start: u32,
    key_start: u32,
    key_end: u32,
    end: u32,
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

    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.bytes[self.at..][..bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    #[inline]
    fn text(&mut self, bytes: &[u8]) {
        self.long(bytes.len() as i64);
        self.bytes(bytes);
    }
}

impl BlockEncoder {
    pub fn new(compression: Compression) -> io::Result<Self> {
        let compressor = match compression {
            Compression::None => None,
            Compression::Zstd => {
                let mut context = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
                // Four bytes a block, and readers notice damage.
                context.include_checksum(true)?;
                Some(Compressor {
                    context,
                    out: Vec::new(),
                })
            }
        };
        Ok(Self {
            out: Out {
                bytes: vec![0; PREFIX_LEN + BLOCK_LEN + BLOCK_LEN / 4],
                at: PREFIX_LEN,
            },
            records: 0,
            envelope: Vec::with_capacity(256),
            spans: Vec::with_capacity(64),
            compressor,
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
        let (bytes, end) = match &mut self.compressor {
            None => (&mut self.out.bytes, raw_end),
            Some(compressor) => {
                let raw = &self.out.bytes[PREFIX_LEN..raw_end];
                let room = PREFIX_LEN + zstd::zstd_safe::compress_bound(raw.len());
                if compressor.out.len() < room {
                    compressor.out.resize(room, 0);
                }
                let len = compressor
                    .context
                    .compress_to_buffer(raw, &mut compressor.out[PREFIX_LEN..])?;
                (&mut compressor.out, PREFIX_LEN + len)
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

fn key(bytes: &[u8], span: Span) -> &[u8] {
    &bytes[span.key_start as usize..span.key_end as usize]
}

/// Pairs up to eight are compared one by one; beyond that, where a stranger could make it costly,
/// they are sorted by key and then by place.
fn has_equal_keys(bytes: &[u8], spans: &mut [Span]) -> bool {
    if spans.len() <= 8 {
        return spans.iter().enumerate().any(|(at, &span)| {
            let rest = &spans[at + 1..];
            rest.iter()
                .any(|&other| key(bytes, other) == key(bytes, span))
        });
    }
    sort_by_key(bytes, spans);
    spans
        .windows(2)
        .any(|pair| key(bytes, pair[0]) == key(bytes, pair[1]))
}

fn sort_by_key(bytes: &[u8], spans: &mut [Span]) {
    spans.sort_unstable_by(|&a, &b| key(bytes, a).cmp(key(bytes, b)).then(a.start.cmp(&b.start)));
}

/// Of pairs with one key the last holds. The others move together, behind a smaller count.
#[cold]
fn drop_earlier_of_equal_keys(out: &mut Out, map_start: usize, spans: &mut Vec<Span>) {
    sort_by_key(&out.bytes, spans);
    let mut kept = 0;
    for at in 0..spans.len() {
        let span = spans[at];
        let superseded = spans
            .get(at + 1)
            .is_some_and(|&next| key(&out.bytes, next) == key(&out.bytes, span));
        if !superseded {
            spans[kept] = span;
            kept += 1;
        }
    }
    spans.truncate(kept);
    spans.sort_unstable_by_key(|span| span.start);
    // The new count is no longer than the old one: nothing is overwritten before it has moved.
    out.at = map_start;
    out.long(kept as i64);
    for span in spans {
        let (start, end) = (span.start as usize, span.end as usize);
        out.bytes.copy_within(start..end, out.at);
        out.at += end - start;
    }
}
