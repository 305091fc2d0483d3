//! Reads JSON lines and length-delimited Protobuf back, plain or in zstd frames: for `penstock cat`,
//! which must cope with a file that is being written, and with a damaged one. Off the data path:
//! serde_json and prost do the work.

use std::fs::File;
use std::io::Read;

use penstock_proto::v1::StoredRecord;
use prost::Message;
use serde::Deserialize;
use zstd::zstd_safe;
use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;

use crate::sink::file::container::{BLOCK_LEN_MAX, ContainerError, Next, Stored};
use crate::sink::file::read::{ZSTD_MAGIC, read_range};
use crate::sink::file::stream::Form;

/// How much is read at first; doubled, up to `BLOCK_LEN_MAX`, for a frame or a record that is longer.
const PIECE_LEN: usize = 256 << 10;

pub struct StreamReader {
    file: File,
    form: Form,
    in_frames: bool,
    /// Where the next frame or record begins.
    offset: u64,
    raw: Vec<u8>,
    plain: Vec<u8>,
    records: Vec<StoredRecord>,
}

/// What the records of some bytes came to.
struct Parsed {
    /// Bytes of whole records.
    len: usize,
    /// What is wrong with the record behind them, and how long it is.
    damaged: Option<(usize, &'static str)>,
}

impl StreamReader {
    pub fn new(file: File, form: Form, in_frames: bool) -> Self {
        Self {
            file,
            form,
            in_frames,
            offset: 0,
            raw: Vec::new(),
            plain: Vec::new(),
            records: Vec::new(),
        }
    }

    pub fn read_next(&mut self) -> Result<Next<'_>, ContainerError> {
        if self.in_frames {
            self.next_frame()
        } else {
            self.next_piece()
        }
    }

    /// Records as they stand in the file.
    fn next_piece(&mut self) -> Result<Next<'_>, ContainerError> {
        let mut len = PIECE_LEN;
        loop {
            read_range(&self.file, self.offset, len, &mut self.raw)?;
            if self.raw.is_empty() {
                return Ok(Next::End);
            }
            self.records.clear();
            let parsed = parse(self.form, &self.raw, &mut self.records);
            if parsed.len > 0 {
                self.offset += parsed.len as u64;
                return Ok(Next::Records(self.shown()));
            }
            if let Some((damaged_len, what)) = parsed.damaged {
                let offset = self.offset;
                self.offset += damaged_len as u64;
                return Err(ContainerError::Damaged { offset, what });
            }
            if self.raw.len() < len {
                return Ok(Next::Partial);
            }
            len *= 2;
            if len as u64 > BLOCK_LEN_MAX {
                let offset = self.offset;
                // Where it ends nobody knows.
                self.offset = u64::MAX;
                let what = "a record that is too long to be one";
                return Err(ContainerError::Damaged { offset, what });
            }
        }
    }

    /// The records of one zstd frame.
    fn next_frame(&mut self) -> Result<Next<'_>, ContainerError> {
        let frame_len = loop {
            match self.frame_len()? {
                Frame::End => return Ok(Next::End),
                Frame::Partial => return Ok(Next::Partial),
                Frame::Damaged(what) => return self.damaged(what),
                // A skippable frame holds no records, and is passed over.
                Frame::Whole(len) if !self.raw.starts_with(&ZSTD_MAGIC) => {
                    self.offset += len as u64;
                }
                Frame::Whole(len) => break len,
            }
        };
        self.plain.clear();
        // The limit is one byte more than is allowed, so that more is noticed.
        let decoded = zstd::stream::read::Decoder::with_buffer(&self.raw[..frame_len])
            .and_then(|decoder| decoder.take(BLOCK_LEN_MAX + 1).read_to_end(&mut self.plain));
        if decoded.is_err() || self.plain.len() as u64 > BLOCK_LEN_MAX {
            return self.damaged("it cannot be decompressed");
        }
        self.records.clear();
        let parsed = parse(self.form, &self.plain, &mut self.records);
        if parsed.len < self.plain.len() {
            return self.damaged("its records are not what the format says");
        }
        self.offset += frame_len as u64;
        Ok(Next::Records(self.shown()))
    }

    /// The frame at the reader's place, read into `raw`.
    fn frame_len(&mut self) -> Result<Frame, ContainerError> {
        let mut len = PIECE_LEN;
        loop {
            read_range(&self.file, self.offset, len, &mut self.raw)?;
            if self.raw.is_empty() {
                return Ok(Frame::End);
            }
            let at_end = self.raw.len() < len;
            let cut = 0usize.wrapping_sub(ZSTD_ErrorCode::ZSTD_error_srcSize_wrong as usize);
            match zstd_safe::find_frame_compressed_size(&self.raw) {
                Ok(len) => return Ok(Frame::Whole(len)),
                Err(code) if code == cut && at_end => return Ok(Frame::Partial),
                Err(code) if code == cut && (len as u64) < BLOCK_LEN_MAX => len *= 2,
                Err(_) => return Ok(Frame::Damaged("no zstd frame begins here")),
            }
        }
    }

    /// Moves to the next frame's magic, or to the end.
    fn damaged<T>(&mut self, what: &'static str) -> Result<T, ContainerError> {
        let offset = self.offset;
        let mut at = offset + 1;
        loop {
            read_range(&self.file, at, 1 << 20, &mut self.raw)?;
            if let Some(found) = memchr::memmem::find(&self.raw, &ZSTD_MAGIC) {
                self.offset = at + found as u64;
                break;
            }
            if self.raw.len() < ZSTD_MAGIC.len() {
                self.offset = at + self.raw.len() as u64;
                break;
            }
            // A magic may begin in this piece's last bytes.
            at += (self.raw.len() - (ZSTD_MAGIC.len() - 1)) as u64;
        }
        Err(ContainerError::Damaged { offset, what })
    }

    fn shown(&self) -> Vec<Stored<'_>> {
        self.records.iter().map(stored).collect()
    }
}

enum Frame {
    Whole(usize),
    Partial,
    End,
    Damaged(&'static str),
}

/// Reads the whole records that `bytes` begin with.
fn parse(form: Form, bytes: &[u8], records: &mut Vec<StoredRecord>) -> Parsed {
    let next = match form {
        Form::Jsonl => next_line,
        Form::Protobuf => next_message,
    };
    let mut len = 0;
    loop {
        match next(&bytes[len..]) {
            Found::Record(record_len, record) => {
                records.push(*record);
                len += record_len;
            }
            Found::Blank(blank_len) => len += blank_len,
            Found::Cut => return Parsed { len, damaged: None },
            Found::Damaged(damaged_len, what) => {
                return Parsed {
                    len,
                    damaged: Some((damaged_len, what)),
                };
            }
        }
    }
}

/// What some bytes begin with.
enum Found {
    Record(usize, Box<StoredRecord>),
    /// An empty line.
    Blank(usize),
    /// Part of a record, or nothing.
    Cut,
    Damaged(usize, &'static str),
}

fn next_line(bytes: &[u8]) -> Found {
    let Some(end) = memchr::memchr(b'\n', bytes) else {
        return Found::Cut;
    };
    let (line, len) = (&bytes[..end], end + 1);
    if line.trim_ascii().is_empty() {
        return Found::Blank(len);
    }
    let read = serde_json::from_slice::<Line>(line).ok();
    match read.and_then(Line::into_record) {
        Some(record) => Found::Record(len, Box::new(record)),
        None => Found::Damaged(len, "a line that is no stored record"),
    }
}

fn next_message(bytes: &[u8]) -> Found {
    let mut rest = bytes;
    let Ok(message_len) = prost::decode_length_delimiter(&mut rest) else {
        // Ten bytes hold any varint.
        return match bytes.len() < 10 {
            true => Found::Cut,
            false => Found::Damaged(bytes.len(), "no length of a message"),
        };
    };
    let prefix_len = bytes.len() - rest.len();
    if message_len as u64 > BLOCK_LEN_MAX {
        return Found::Damaged(bytes.len(), "a length that cannot be");
    }
    let Some(message) = rest.get(..message_len) else {
        return Found::Cut;
    };
    let len = prefix_len + message_len;
    match StoredRecord::decode(message) {
        Ok(record) => Found::Record(len, Box::new(record)),
        Err(_) => Found::Damaged(len, "a message that is no stored record"),
    }
}

/// A line as the sink writes it; readers take nanoseconds as a number too.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct Line {
    time_unix_nano: Nanoseconds,
    severity_number: u32,
    service_name: String,
    body: String,
    host_name: String,
    attributes: std::collections::HashMap<String, String>,
    trace_id: String,
    span_id: String,
    observed_time_unix_nano: Nanoseconds,
    listener: String,
    peer_address: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Nanoseconds {
    Number(u64),
    Text(String),
}

impl Default for Nanoseconds {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl Nanoseconds {
    fn read(self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Text(text) => text.parse().ok(),
        }
    }
}

impl Line {
    fn into_record(self) -> Option<StoredRecord> {
        Some(StoredRecord {
            time_unix_nano: self.time_unix_nano.read()?,
            severity_number: self.severity_number,
            service_name: self.service_name,
            body: self.body,
            host_name: self.host_name,
            attributes: self.attributes,
            trace_id: unhex(&self.trace_id)?,
            span_id: unhex(&self.span_id)?,
            observed_time_unix_nano: self.observed_time_unix_nano.read()?,
            listener: self.listener,
            peer_address: self.peer_address,
        })
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some((digit(*high)? << 4 | digit(*low)?) as u8),
            _ => None,
        })
        .collect()
}

/// Attributes come out of a map: in the order of their keys.
fn stored(record: &StoredRecord) -> Stored<'_> {
    let attributes = record.attributes.iter();
    let mut attributes: Vec<_> = attributes.map(|(k, v)| (k.as_str(), v.as_str())).collect();
    attributes.sort_unstable();
    Stored {
        time_unix_nano: record.time_unix_nano,
        severity_number: record.severity_number,
        service_name: &record.service_name,
        body: &record.body,
        host_name: &record.host_name,
        attributes,
        trace_id: &record.trace_id,
        span_id: &record.span_id,
        observed_time_unix_nano: record.observed_time_unix_nano,
        listener: &record.listener,
        peer_address: &record.peer_address,
        keep_sixteenths: None,
    }
}
