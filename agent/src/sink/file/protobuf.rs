//! Stored records as length-delimited Protobuf: each message `penstock.v1.StoredRecord` behind its
//! length, a varint, as `parseDelimitedFrom` and its relatives read them. Written by hand straight
//! from the views; fields at their defaults are left out, as proto3 does.

use crate::record::{EnvelopeView, RecordView};
use crate::sink::file::attributes::{Span, has_equal_keys, keep_last_of_equal_keys};

/// Keys of the message's fields: the number, and the wire type in the lowest three bits. All are
/// below 128: one byte each.
mod key {
    const FIXED64: u8 = 1;
    const VARINT: u8 = 0;
    const BYTES: u8 = 2;
    pub const TIME_UNIX_NANO: u8 = 1 << 3 | FIXED64;
    pub const SEVERITY_NUMBER: u8 = 2 << 3 | VARINT;
    pub const SERVICE_NAME: u8 = 3 << 3 | BYTES;
    pub const BODY: u8 = 4 << 3 | BYTES;
    pub const HOST_NAME: u8 = 5 << 3 | BYTES;
    pub const ATTRIBUTES: u8 = 6 << 3 | BYTES;
    pub const TRACE_ID: u8 = 7 << 3 | BYTES;
    pub const SPAN_ID: u8 = 8 << 3 | BYTES;
    pub const OBSERVED_TIME_UNIX_NANO: u8 = 9 << 3 | FIXED64;
    pub const LISTENER: u8 = 10 << 3 | BYTES;
    pub const PEER_ADDRESS: u8 = 11 << 3 | BYTES;
    /// Of an attribute's entry.
    pub const ENTRY_KEY: u8 = 1 << 3 | BYTES;
    pub const ENTRY_VALUE: u8 = 2 << 3 | BYTES;
}

/// Most records take from 128 bytes to 16 KiB, and so a length of two bytes: that much is left free
/// before a record, whose length is known when it is written.
const LENGTH_LEN_USUAL: usize = 2;

/// The fields that are the same for all records of an entry.
pub fn push_envelope(envelope: &EnvelopeView<'_>, out: &mut Vec<u8>) {
    push_fixed64(
        key::OBSERVED_TIME_UNIX_NANO,
        envelope.observed_time_unix_nano,
        out,
    );
    push_bytes(key::LISTENER, envelope.listener.as_bytes(), out);
    push_bytes(key::PEER_ADDRESS, envelope.peer_address.as_bytes(), out);
}

/// One message with its length.
pub fn push(record: &RecordView<'_>, envelope: &[u8], spans: &mut Vec<Span>, out: &mut Vec<u8>) {
    let length_at = out.len();
    out.extend_from_slice(&[0; LENGTH_LEN_USUAL]);
    let from = out.len();
    push_fixed64(key::TIME_UNIX_NANO, record.time_unix_nano, out);
    if record.severity_number != 0 {
        out.push(key::SEVERITY_NUMBER);
        push_varint(record.severity_number.into(), out);
    }
    push_bytes(key::SERVICE_NAME, record.service_name.as_bytes(), out);
    push_bytes(key::BODY, record.body.as_bytes(), out);
    push_bytes(key::HOST_NAME, record.host_name.as_bytes(), out);
    push_attributes(record, spans, out);
    push_bytes(key::TRACE_ID, record.trace_id, out);
    push_bytes(key::SPAN_ID, record.span_id, out);
    out.extend_from_slice(envelope);

    let len = out.len() - from;
    let (length, length_len) = varint(len as u64);
    if length_len != LENGTH_LEN_USUAL {
        let wanted = length_at + length_len;
        if length_len > LENGTH_LEN_USUAL {
            out.resize(wanted + len, 0);
        }
        out.copy_within(from..from + len, wanted);
        out.truncate(wanted + len);
    }
    out[length_at..][..length_len].copy_from_slice(&length[..length_len]);
}

fn push_attributes(record: &RecordView<'_>, spans: &mut Vec<Span>, out: &mut Vec<u8>) {
    let from = out.len();
    spans.clear();
    for (entry_key, value) in &record.attributes {
        let start = out.len();
        out.push(key::ATTRIBUTES);
        push_varint((field_len(entry_key) + field_len(value)) as u64, out);
        push_bytes(key::ENTRY_KEY, entry_key.as_bytes(), out);
        let key_end = out.len();
        push_bytes(key::ENTRY_VALUE, value.as_bytes(), out);
        spans.push(Span {
            start: start as u32,
            key_start: (key_end - entry_key.len()) as u32,
            key_end: key_end as u32,
            end: out.len() as u32,
        });
    }
    if has_equal_keys(out, spans) {
        keep_last_of_equal_keys(out, spans);
        let mut at = from;
        for span in spans {
            out.copy_within(span.start as usize..span.end as usize, at);
            at += (span.end - span.start) as usize;
        }
        out.truncate(at);
    }
}

/// What `push_bytes` appends for a text.
fn field_len(text: &str) -> usize {
    match text.len() {
        0 => 0,
        len => 1 + varint(len as u64).1 + len,
    }
}

fn push_fixed64(key: u8, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        out.push(key);
        out.extend_from_slice(&value.to_le_bytes());
    }
}

#[inline]
fn push_bytes(key: u8, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        out.reserve(1 + VARINT_LEN_MAX + bytes.len());
        out.push(key);
        push_varint(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    }
}

const VARINT_LEN_MAX: usize = 10;

fn push_varint(value: u64, out: &mut Vec<u8>) {
    let (bytes, len) = varint(value);
    out.extend_from_slice(&bytes[..len]);
}

/// Seven bits a byte, the low ones first; and how many bytes that is.
#[inline]
fn varint(mut value: u64) -> ([u8; VARINT_LEN_MAX], usize) {
    let mut bytes = [0; VARINT_LEN_MAX];
    let mut len = 0;
    while value >= 0x80 {
        bytes[len] = value as u8 | 0x80;
        value >>= 7;
        len += 1;
    }
    bytes[len] = value as u8;
    (bytes, len + 1)
}
