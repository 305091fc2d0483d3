//! Reads Avro object container files of stored records back: for `penstock cat`, which must cope
//! with a file that is being written, and with a damaged one.
//!
//! It knows one schema, `schemas/stored_record.avsc`, and the codecs that the sink writes. For
//! everything else there are real Avro readers.

use std::fs::File;
use std::io::{self, Read};

use crate::sink::file::avro::{
    CODEC_NULL, CODEC_SNAPPY, CODEC_ZSTANDARD, CONTAINER_MAGIC, STORED_SCHEMA, SYNC_MARKER_LEN,
};
use crate::sink::file::compress::{SNAPPY_CRC_LEN, snappy_crc};
use crate::sink::file::read::read_range;

/// The longest file header: the schema and room for other writers' metadata.
const HEADER_LEN_MAX: usize = 64 << 10;
/// The longest block, compressed and not. The sink's own are far shorter: they end at the first
/// record beyond `encoder::BLOCK_LEN`, and a record is no longer than a payload.
pub(crate) const BLOCK_LEN_MAX: u64 = 64 << 20;
/// A block's two longs.
const BLOCK_PREFIX_LEN_MAX: usize = 20;

/// Why a file, or the rest of it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    #[error("read: {0}")]
    Io(#[from] io::Error),
    #[error("not an Avro object container file")]
    NotAvro,
    #[error(
        "neither its name nor its first bytes say what it holds (.avro, .jsonl, .jsonl.zst, .pb, .pb.zst)"
    )]
    UnknownKind,
    #[error("the file's header is cut short")]
    HeaderCut,
    #[error("records of another schema ({0}); this command reads penstock.StoredRecord")]
    OtherSchema(String),
    #[error("codec {0} is not one that Penstock writes (null, zstandard, snappy)")]
    OtherCodec(String),
    /// The block at this offset cannot be read; the reader has moved on to the next one that it can
    /// find: behind the next sync marker, at the next zstd frame, behind the line or the message.
    #[error("the block at byte {offset} is damaged: {what}")]
    Damaged { offset: u64, what: &'static str },
}

/// One stored record, as it stands in a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored<'a> {
    pub time_unix_nano: u64,
    pub severity_number: u32,
    pub service_name: &'a str,
    pub body: &'a str,
    pub host_name: &'a str,
    pub attributes: Vec<(&'a str, &'a str)>,
    pub trace_id: &'a [u8],
    pub span_id: &'a [u8],
    pub observed_time_unix_nano: u64,
    pub listener: &'a str,
    pub peer_address: &'a str,
    /// How many of sixteen like it were kept when it was taken: known of the journal's entries only.
    pub keep_sixteenths: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Codec {
    Null,
    Zstandard,
    Snappy,
}

/// A file and how far it was read.
pub struct ContainerReader {
    file: File,
    codec: Codec,
    marker: [u8; SYNC_MARKER_LEN],
    /// Where the next block begins.
    offset: u64,
    raw: Vec<u8>,
    block: Vec<u8>,
}

/// What the file has at the reader's place.
#[derive(Debug)]
pub enum Next<'a> {
    /// A block's records, all of them whole.
    Records(Vec<Stored<'a>>),
    /// The file's end.
    End,
    /// The file ends within a block: it is being written, or was cut.
    Partial,
}

impl ContainerReader {
    pub fn open(file: File) -> Result<Self, ContainerError> {
        let mut bytes = Vec::new();
        read_range(&file, 0, HEADER_LEN_MAX, &mut bytes)?;
        let mut at = Bytes(&bytes);
        let magic = at.take(CONTAINER_MAGIC.len());
        if magic != Some(&CONTAINER_MAGIC) {
            let begun = CONTAINER_MAGIC.starts_with(&bytes);
            return Err(if begun {
                ContainerError::HeaderCut
            } else {
                ContainerError::NotAvro
            });
        }
        let metadata = at.map(Bytes::bytes).ok_or(ContainerError::HeaderCut)?;
        let marker = at.take(SYNC_MARKER_LEN).ok_or(ContainerError::HeaderCut)?;
        let value = |wanted: &str| {
            let found = metadata.iter().rev().find(|(key, _)| *key == wanted);
            found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
        };
        check_schema(&value("avro.schema").unwrap_or_default())?;
        let codec = match value("avro.codec").as_deref() {
            None | Some(CODEC_NULL) => Codec::Null,
            Some(CODEC_ZSTANDARD) => Codec::Zstandard,
            Some(CODEC_SNAPPY) => Codec::Snappy,
            Some(other) => return Err(ContainerError::OtherCodec(other.to_owned())),
        };
        let marker = marker.try_into().expect("taken at this length");
        let offset = (bytes.len() - at.0.len()) as u64;
        Ok(Self {
            file,
            codec,
            marker,
            offset,
            raw: bytes,
            block: Vec::new(),
        })
    }

    /// The next block.
    pub fn read_next(&mut self) -> Result<Next<'_>, ContainerError> {
        let offset = self.offset;
        read_range(&self.file, offset, BLOCK_PREFIX_LEN_MAX, &mut self.raw)?;
        if self.raw.is_empty() {
            return Ok(Next::End);
        }
        let mut at = Bytes(&self.raw);
        let (Some(count), Some(size)) = (at.long(), at.long()) else {
            // Twenty bytes hold any two longs.
            if self.raw.len() < BLOCK_PREFIX_LEN_MAX {
                return Ok(Next::Partial);
            }
            return self.damaged("no block begins here");
        };
        let (Ok(count), Ok(size)) = (u64::try_from(count), u64::try_from(size)) else {
            return self.damaged("a negative length");
        };
        if size > BLOCK_LEN_MAX {
            return self.damaged("a length that cannot be");
        }
        let data = offset + (self.raw.len() - at.0.len()) as u64;
        let len = size as usize;
        read_range(&self.file, data, len + SYNC_MARKER_LEN, &mut self.raw)?;
        if self.raw.len() < len + SYNC_MARKER_LEN {
            return Ok(Next::Partial);
        }
        if self.raw[len..] != self.marker {
            return self.damaged("no sync marker at its end");
        }
        self.raw.truncate(len);
        match self.codec {
            Codec::Null => std::mem::swap(&mut self.raw, &mut self.block),
            Codec::Zstandard => {
                self.block.clear();
                // The limit is one byte more than is allowed, so that more is noticed.
                let decoded =
                    zstd::stream::read::Decoder::with_buffer(&self.raw[..]).and_then(|decoder| {
                        decoder.take(BLOCK_LEN_MAX + 1).read_to_end(&mut self.block)
                    });
                if decoded.is_err() || self.block.len() as u64 > BLOCK_LEN_MAX {
                    return self.damaged("it cannot be decompressed");
                }
            }
            Codec::Snappy => {
                if unsnap(&self.raw, &mut self.block).is_none() {
                    return self.damaged("it cannot be decompressed");
                }
            }
        }
        // A record is at least its eleven fields' lengths.
        if count > self.block.len() as u64 || read_records(&self.block, count).is_none() {
            return self.damaged("its records are not what the schema says");
        }
        self.offset = data + size + SYNC_MARKER_LEN as u64;
        let records = read_records(&self.block, count);
        Ok(Next::Records(
            records.expect("read the same way just before"),
        ))
    }

    /// Moves behind the next sync marker, or to the end.
    fn damaged<T>(&mut self, what: &'static str) -> Result<T, ContainerError> {
        let offset = self.offset;
        let mut at = offset;
        loop {
            read_range(&self.file, at, 1 << 20, &mut self.raw)?;
            if let Some(found) = memchr::memmem::find(&self.raw, &self.marker) {
                self.offset = at + (found + SYNC_MARKER_LEN) as u64;
                break;
            }
            if self.raw.len() < SYNC_MARKER_LEN {
                self.offset = at + self.raw.len() as u64;
                break;
            }
            // A marker may begin in this piece's last bytes.
            at += (self.raw.len() - (SYNC_MARKER_LEN - 1)) as u64;
        }
        Err(ContainerError::Damaged { offset, what })
    }
}

/// A block of codec `snappy`: the raw format, and the CRC-32 of what was compressed.
fn unsnap(block: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (data, crc) = block.split_at_checked(block.len().checked_sub(SNAPPY_CRC_LEN)?)?;
    let len = snap::raw::decompress_len(data).ok()?;
    if len as u64 > BLOCK_LEN_MAX {
        return None;
    }
    out.resize(len, 0);
    let written = snap::raw::Decoder::new().decompress(data, out).ok()?;
    (written == len && crc == snappy_crc(out).to_be_bytes()).then_some(())
}

/// The schema must say the same as ours, but for documentation and defaults.
fn check_schema(schema: &str) -> Result<(), ContainerError> {
    fn bare(value: &serde_json::Value) -> serde_json::Value {
        use serde_json::Value;
        match value {
            Value::Object(object) => Value::Object(
                object
                    .iter()
                    .filter(|(key, _)| !matches!(key.as_str(), "doc" | "default" | "aliases"))
                    .map(|(key, value)| (key.clone(), bare(value)))
                    .collect(),
            ),
            Value::Array(items) => Value::Array(items.iter().map(bare).collect()),
            other => other.clone(),
        }
    }
    let parsed: serde_json::Value =
        serde_json::from_str(schema).map_err(|_| ContainerError::NotAvro)?;
    let ours: serde_json::Value =
        serde_json::from_str(STORED_SCHEMA).expect("our own schema is JSON");
    if bare(&parsed) == bare(&ours) {
        return Ok(());
    }
    let name = match (parsed["namespace"].as_str(), parsed["name"].as_str()) {
        (Some(namespace), Some(name)) => format!("{namespace}.{name}"),
        (None, Some(name)) => name.to_owned(),
        (_, None) => "without a name".to_owned(),
    };
    Err(ContainerError::OtherSchema(name))
}

fn read_records(block: &[u8], count: u64) -> Option<Vec<Stored<'_>>> {
    let mut at = Bytes(block);
    let mut records = Vec::new();
    for _ in 0..count {
        records.push(Stored {
            time_unix_nano: at.long()? as u64,
            severity_number: i32::try_from(at.long()?).ok()? as u32,
            service_name: at.text()?,
            body: at.text()?,
            host_name: at.text()?,
            attributes: at.map(Bytes::text)?,
            trace_id: at.bytes()?,
            span_id: at.bytes()?,
            observed_time_unix_nano: at.long()? as u64,
            listener: at.text()?,
            peer_address: at.text()?,
            keep_sixteenths: None,
        });
    }
    at.0.is_empty().then_some(records)
}

/// What is left of some bytes.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn long(&mut self) -> Option<i64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.long()?).ok()?;
        self.take(len)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// Blocks of pairs up to an empty block; a negative count is followed by the block's length.
    fn map<T>(
        &mut self,
        mut value: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<(&'a str, T)>> {
        let mut pairs = Vec::new();
        loop {
            let count = self.long()?;
            if count == 0 {
                return Some(pairs);
            }
            if count < 0 {
                self.long()?;
            }
            for _ in 0..count.unsigned_abs() {
                pairs.push((self.text()?, value(self)?));
            }
        }
    }
}
