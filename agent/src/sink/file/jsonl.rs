//! Stored records as JSON lines, written by hand straight from the views.
//!
//! Every line has every field, in the order and under the names of `schemas/stored_record.avsc`, so
//! that readers which guess columns from the first lines guess right. Nanoseconds are strings:
//! readers with double precision would lose digits. Ids are hexadecimal. Escaped is what RFC 8259
//! wants escaped, in serde_json's spelling, and no more.

use crate::record::{EnvelopeView, RecordView};
use crate::sink::file::attributes::{Span, has_equal_keys, keep_last_of_equal_keys};

/// The end of a line: the fields that are the same for all records of an entry.
pub fn push_envelope(envelope: &EnvelopeView<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"observed_time_unix_nano\":\"");
    push_number(envelope.observed_time_unix_nano, out);
    out.extend_from_slice(b"\",\"listener\":");
    push_string(envelope.listener, out);
    out.extend_from_slice(b",\"peer_address\":");
    push_string(envelope.peer_address, out);
    out.extend_from_slice(b"}\n");
}

/// One line.
pub fn push(record: &RecordView<'_>, envelope: &[u8], spans: &mut Vec<Span>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"time_unix_nano\":\"");
    push_number(record.time_unix_nano, out);
    out.extend_from_slice(b"\",\"severity_number\":");
    push_number(record.severity_number.into(), out);
    out.extend_from_slice(b",\"service_name\":");
    push_string(record.service_name, out);
    out.extend_from_slice(b",\"body\":");
    push_string(record.body, out);
    out.extend_from_slice(b",\"host_name\":");
    push_string(record.host_name, out);
    out.extend_from_slice(b",\"attributes\":{");
    push_attributes(record, spans, out);
    out.extend_from_slice(b"},\"trace_id\":\"");
    push_hex(record.trace_id, out);
    out.extend_from_slice(b"\",\"span_id\":\"");
    push_hex(record.span_id, out);
    out.push(b'"');
    out.extend_from_slice(envelope);
}

/// `"key":"value"` with commas between.
fn push_attributes(record: &RecordView<'_>, spans: &mut Vec<Span>, out: &mut Vec<u8>) {
    let from = out.len();
    spans.clear();
    for (key, value) in &record.attributes {
        if out.len() > from {
            out.push(b',');
        }
        let start = out.len();
        push_string(key, out);
        let key_end = out.len();
        out.push(b':');
        push_string(value, out);
        // One text has one spelling: keys are equal where their spellings are.
        spans.push(Span {
            start: start as u32,
            key_start: start as u32,
            key_end: key_end as u32,
            end: out.len() as u32,
        });
    }
    if has_equal_keys(out, spans) {
        keep_last_of_equal_keys(out, spans);
        let mut at = from;
        for span in spans {
            // Each moves towards the front, commas with it: nothing is overwritten before.
            if at > from {
                out[at] = b',';
                at += 1;
            }
            out.copy_within(span.start as usize..span.end as usize, at);
            at += (span.end - span.start) as usize;
        }
        out.truncate(at);
    }
}

/// A JSON string with its quotes and escapes.
fn push_string(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    let mut done = 0;
    while let Some(found) = find_escaped(&bytes[done..]) {
        let at = done + found;
        out.extend_from_slice(&bytes[done..at]);
        push_escape(bytes[at], out);
        done = at + 1;
    }
    out.extend_from_slice(&bytes[done..]);
    out.push(b'"');
}

/// The first byte that must be escaped: a quote, a backslash, or one below a blank. Eight bytes at a
/// time: each comparison sets the highest bit of the bytes that it finds, and may set it wrongly
/// only above one that it found, so that the lowest is right.
#[inline]
fn find_escaped(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let mut words = bytes.chunks_exact(8);
    let mut at = 0;
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        let equal = |byte: u8| {
            let zero_where_equal = word ^ (ONES * u64::from(byte));
            zero_where_equal.wrapping_sub(ONES) & !zero_where_equal
        };
        let below_blank = word.wrapping_sub(ONES * 0x20) & !word;
        let found = (equal(b'"') | equal(b'\\') | below_blank) & HIGH;
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let rest = words.remainder();
    let found = rest
        .iter()
        .position(|&byte| byte < b' ' || byte == b'"' || byte == b'\\');
    found.map(|found| at + found)
}

const HEX: &[u8; 16] = b"0123456789abcdef";

#[cold]
fn push_escape(byte: u8, out: &mut Vec<u8>) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        _ => {
            out.extend_from_slice(b"\\u00");
            push_hex(&[byte], out);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

fn push_hex(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
        out.extend_from_slice(&[HEX[high], HEX[low]]);
    }
}

/// A number in decimal; the longest has 20 digits.
fn push_number(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn string(text: &str) -> String {
        let mut out = Vec::new();
        push_string(text, &mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn every_character_below_u_0500_is_spelled_as_serde_json_does() {
        for character in (0..0x500).filter_map(char::from_u32) {
            // At every place of a word, and behind it.
            for before in 0..9 {
                let text = format!("{}{character}é\"", "x".repeat(before));
                let expected = serde_json::to_string(&text).expect("a string");
                assert_eq!(string(&text), expected);
            }
        }
    }

    #[test]
    fn numbers_are_those_of_the_standard_library() {
        for number in [0, 1, 9, 10, 99, 1_700_000_000_123_456_789, u64::MAX] {
            let mut out = Vec::new();
            push_number(number, &mut out);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }

    proptest! {
        #[test]
        fn strings_are_spelled_as_serde_json_does(text in "(?s).{0,60}") {
            prop_assert_eq!(string(&text), serde_json::to_string(&text).expect("a string"));
        }
    }
}
