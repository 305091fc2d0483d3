//! Protobuf `penstock.v1.LogBatch`, read in place and in one pass.
//!
//! A key is a varint: the field's number and, in its lowest three bits, the wire type that says
//! how to find the field's end. A known field is one comparison of its whole key, so the fields
//! that encoders write in order cost a table jump each; all else goes to `skip`.
//!
//! Where implementations differ, nothing disappears in silence: a known field with another wire
//! type is refused (most take it for an unknown field and drop it; prost refuses it too, but for
//! `attributes`, whose wire type it does not look at). Fields that are not ours are counted.

#![forbid(unsafe_code)]

use penstock_proto::reason::Reason;

use super::text::text;
use crate::decode::varint;
use crate::limits::NESTING_MAX;
use crate::record::{Attributes, AttributesForm, RecordView};

/// How a field's end is found.
mod wire_type {
    pub const VARINT: u32 = 0;
    pub const FIXED64: u32 = 1;
    pub const BYTES: u32 = 2;
    pub const GROUP_START: u32 = 3;
    pub const GROUP_END: u32 = 4;
    pub const FIXED32: u32 = 5;
}

const fn key(field: u32, wire_type: u32) -> u32 {
    field << 3 | wire_type
}

/// The fields of `LogBatch`.
mod batch {
    use super::{key, wire_type::*};
    pub const RECORDS: u32 = key(1, BYTES);
    pub const FIELD_MAX: u32 = 1;
}

/// The fields of `LogRecord`.
mod record {
    use super::{key, wire_type::*};
    pub const TIME_UNIX_NANO: u32 = key(1, FIXED64);
    pub const SEVERITY_NUMBER: u32 = key(2, VARINT);
    pub const SERVICE_NAME: u32 = key(3, BYTES);
    pub const BODY: u32 = key(4, BYTES);
    pub const HOST_NAME: u32 = key(5, BYTES);
    pub const ATTRIBUTES: u32 = key(6, BYTES);
    pub const TRACE_ID: u32 = key(7, BYTES);
    pub const SPAN_ID: u32 = key(8, BYTES);
    pub const FIELD_MAX: u32 = 8;
}

/// The fields of an entry of a map from string to string.
mod entry {
    use super::{key, wire_type::*};
    pub const KEY: u32 = key(1, BYTES);
    pub const VALUE: u32 = key(2, BYTES);
    pub const FIELD_MAX: u32 = 2;
}

/// What a payload in order holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub records: u32,
    /// Fields with numbers that are not ours, in the batch, its records and their attributes.
    pub unknown_fields: u64,
}

/// Checks every record and counts.
pub fn validate(payload: &[u8]) -> Result<Found, Reason> {
    let mut unknown_fields = 0;
    let records = for_each_record(payload, &mut unknown_fields, |bytes, unknown_fields| {
        read_record(bytes, unknown_fields).map(|_| ())
    })?;
    Ok(Found {
        records,
        unknown_fields,
    })
}

/// Shows every record to `visit` and returns how many there were.
pub fn for_each(payload: &[u8], mut visit: impl FnMut(&RecordView<'_>)) -> Result<u32, Reason> {
    for_each_record(payload, &mut 0, |bytes, unknown_fields| {
        visit(&read_record(bytes, unknown_fields)?);
        Ok(())
    })
}

#[inline(always)]
fn for_each_record<'a>(
    payload: &'a [u8],
    unknown_fields: &mut u64,
    mut on_record: impl FnMut(&'a [u8], &mut u64) -> Result<(), Reason>,
) -> Result<u32, Reason> {
    let mut reader = Reader { rest: payload };
    let mut records = 0;
    while !reader.is_at_end() {
        match reader.key()? {
            batch::RECORDS => {
                on_record(reader.bytes()?, unknown_fields).map_err(inside)?;
                records += 1;
            }
            other => reader.skip(other, batch::FIELD_MAX, unknown_fields)?,
        }
    }
    Ok(records)
}

/// Of a field that occurs again the last occurrence holds; `attributes` gather.
#[inline(always)]
fn read_record<'a>(bytes: &'a [u8], unknown_fields: &mut u64) -> Result<RecordView<'a>, Reason> {
    let mut view = RecordView::EMPTY;
    let mut attributes = 0;
    // What stands from the first attribute on, and what behind the last.
    let mut from_first: &[u8] = &[];
    let mut behind_last: &[u8] = &[];
    let mut reader = Reader { rest: bytes };
    while !reader.is_at_end() {
        let field = reader.rest;
        match reader.key()? {
            record::TIME_UNIX_NANO => view.time_unix_nano = reader.fixed64()?,
            // As every implementation does: of a longer number the low 32 bits.
            record::SEVERITY_NUMBER => view.severity_number = reader.varint()? as u32,
            record::SERVICE_NAME => view.service_name = text(reader.bytes()?)?,
            record::BODY => view.body = text(reader.bytes()?)?,
            record::HOST_NAME => view.host_name = text(reader.bytes()?)?,
            record::ATTRIBUTES => {
                read_entry(reader.bytes()?, unknown_fields)?;
                if attributes == 0 {
                    from_first = field;
                }
                behind_last = reader.rest;
                attributes += 1;
            }
            record::TRACE_ID => view.trace_id = reader.bytes()?,
            record::SPAN_ID => view.span_id = reader.bytes()?,
            other => reader.skip(other, record::FIELD_MAX, unknown_fields)?,
        }
    }
    view.attributes = Attributes {
        count: attributes,
        form: AttributesForm::Protobuf(&from_first[..from_first.len() - behind_last.len()]),
    };
    Ok(view)
}

#[inline(always)]
fn read_entry<'a>(bytes: &'a [u8], unknown_fields: &mut u64) -> Result<(&'a str, &'a str), Reason> {
    let mut pair = ("", "");
    let mut reader = Reader { rest: bytes };
    while !reader.is_at_end() {
        match reader.key()? {
            entry::KEY => pair.0 = text(reader.bytes()?)?,
            entry::VALUE => pair.1 = text(reader.bytes()?)?,
            other => reader.skip(other, entry::FIELD_MAX, unknown_fields)?,
        }
    }
    Ok(pair)
}

/// A value that ends behind its own message does not end the payload too early: the lengths
/// contradict each other.
#[cold]
fn inside(reason: Reason) -> Reason {
    match reason {
        Reason::TruncatedPayload => Reason::MalformedPayload,
        other => other,
    }
}

/// The attributes among fields that `read_record` has accepted.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    reader: Reader<'a>,
}

impl<'a> Entries<'a> {
    pub fn among(fields: &'a [u8]) -> Self {
        Self {
            reader: Reader { rest: fields },
        }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a str, &'a str);

    /// Every `ok()` here is of a result that `read_record` has seen to be one.
    fn next(&mut self) -> Option<Self::Item> {
        while !self.reader.is_at_end() {
            match self.reader.key().ok()? {
                record::ATTRIBUTES => return read_entry(self.reader.bytes().ok()?, &mut 0).ok(),
                other => self.reader.skip_any(other).ok()?,
            }
        }
        None
    }
}

/// What is left of a message.
#[derive(Clone, Debug)]
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline(always)]
    fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// A field's key. Its number may still be 0: `skip` refuses that, and no known key has it.
    #[inline(always)]
    fn key(&mut self) -> Result<u32, Reason> {
        u32::try_from(self.varint()?).map_err(|_| Reason::MalformedPayload)
    }

    /// Keys and nearly all lengths take one byte or two.
    #[inline(always)]
    fn varint(&mut self) -> Result<u64, Reason> {
        match *self.rest {
            [a, ref rest @ ..] if a < 0x80 => {
                self.rest = rest;
                Ok(u64::from(a))
            }
            [a, b, ref rest @ ..] if b < 0x80 => {
                self.rest = rest;
                Ok(u64::from(a & 0x7f) | u64::from(b) << 7)
            }
            _ => self.varint_of_any_length(),
        }
    }

    #[cold]
    #[inline(never)]
    fn varint_of_any_length(&mut self) -> Result<u64, Reason> {
        let (value, rest) = varint::of_any_length(self.rest)?;
        self.rest = rest;
        Ok(value)
    }

    #[inline(always)]
    fn fixed64(&mut self) -> Result<u64, Reason> {
        let (value, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(Reason::TruncatedPayload)?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*value))
    }

    #[inline(always)]
    fn bytes(&mut self) -> Result<&'a [u8], Reason> {
        let len = self.varint()?;
        if len > self.rest.len() as u64 {
            return Err(Reason::TruncatedPayload);
        }
        let (bytes, rest) = self.rest.split_at(len as usize);
        self.rest = rest;
        Ok(bytes)
    }

    /// Passes over a field of no known key, and counts it. `field_max`: the message knows fields 1 to that, so
    /// one of these has come with a wire type that is not its own.
    #[cold]
    #[inline(never)]
    fn skip(&mut self, key: u32, field_max: u32, unknown_fields: &mut u64) -> Result<(), Reason> {
        if (1..=field_max).contains(&(key >> 3)) {
            return Err(Reason::MalformedPayload);
        }
        *unknown_fields += 1;
        self.skip_any(key)
    }

    fn skip_any(&mut self, key: u32) -> Result<(), Reason> {
        match (key >> 3, key & 7) {
            (0, _) => Err(Reason::MalformedPayload),
            (field, wire_type::GROUP_START) => self.skip_group(field),
            (_, wire_type) => self.skip_scalar(wire_type),
        }
    }

    fn skip_scalar(&mut self, wire_type: u32) -> Result<(), Reason> {
        match wire_type {
            wire_type::VARINT => self.varint().map(|_| ()),
            wire_type::FIXED64 => self.fixed64().map(|_| ()),
            wire_type::BYTES => self.bytes().map(|_| ()),
            wire_type::FIXED32 => {
                let (_, rest) = self
                    .rest
                    .split_first_chunk::<4>()
                    .ok_or(Reason::TruncatedPayload)?;
                self.rest = rest;
                Ok(())
            }
            // A group's end without its start, and the two that are no wire types.
            _ => Err(Reason::MalformedPayload),
        }
    }

    /// A group ends with its own number. They nest, so the open ones are kept; without recursion,
    /// and no deeper than the limit.
    fn skip_group(&mut self, field: u32) -> Result<(), Reason> {
        let mut open = [0; NESTING_MAX];
        open[0] = field;
        let mut depth = 1;
        while depth > 0 {
            let key = self.key()?;
            match (key >> 3, key & 7) {
                (0, _) => return Err(Reason::MalformedPayload),
                (_, wire_type::GROUP_START) if depth == NESTING_MAX => {
                    return Err(Reason::TooDeep);
                }
                (field, wire_type::GROUP_START) => {
                    open[depth] = field;
                    depth += 1;
                }
                (field, wire_type::GROUP_END) if field == open[depth - 1] => depth -= 1,
                (_, wire_type) => self.skip_scalar(wire_type)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod differential;

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &[u8]) -> Reader<'_> {
        Reader { rest: bytes }
    }

    /// A batch of one record, whose bytes are given; short enough for a length of one byte.
    fn batch_of(record: &[u8]) -> Vec<u8> {
        assert!(record.len() < 0x80);
        let mut payload = vec![0x0a, record.len() as u8];
        payload.extend_from_slice(record);
        payload
    }

    fn records(payload: &[u8]) -> Result<u32, Reason> {
        validate(payload).map(|found| found.records)
    }

    fn verdict(record: &[u8]) -> Result<u32, Reason> {
        let payload = batch_of(record);
        let verdict = records(&payload);
        assert_eq!(for_each(&payload, |_| ()), verdict);
        verdict
    }

    /// The examples of the Protobuf encoding guide.
    #[test]
    fn varints_of_the_encoding_guide() {
        assert_eq!(reader(&[0x01]).varint(), Ok(1));
        assert_eq!(reader(&[0x96, 0x01]).varint(), Ok(150));
        // The two's complement of -2: the longest there is.
        let minus_two = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(reader(&minus_two).varint(), Ok(-2i64 as u64));
        // Longer than needed is allowed.
        assert_eq!(reader(&[0x81, 0x80, 0x80, 0x00]).varint(), Ok(1));
    }

    #[test]
    fn varints_end_within_ten_bytes_and_64_bits() {
        for len in 0..10 {
            let cut = vec![0x80; len];
            assert_eq!(reader(&cut).varint(), Err(Reason::TruncatedPayload));
        }
        for tenth in [0x02, 0x7f, 0x80, 0xff] {
            let mut bytes = [0xff; 11];
            bytes[9] = tenth;
            assert_eq!(reader(&bytes).varint(), Err(Reason::MalformedPayload));
        }
    }

    #[test]
    fn every_field_lands_where_it_belongs() {
        let record = b"\x09\x08\x07\x06\x05\x04\x03\x02\x01\
            \x10\x11\
            \x1a\x03api\
            \x22\x02ok\
            \x2a\x02h1\
            \x32\x06\x0a\x01k\x12\x01v\
            \x3a\x01\xff\
            \x42\x02\x00\xfe";
        let mut seen = 0;
        let count = for_each(&batch_of(record), |view| {
            seen += 1;
            assert_eq!(view.time_unix_nano, 0x0102_0304_0506_0708);
            assert_eq!(view.severity_number, 17);
            assert_eq!(view.service_name, "api");
            assert_eq!(view.body, "ok");
            assert_eq!(view.host_name, "h1");
            assert_eq!(view.attributes.len(), 1);
            assert_eq!(view.attributes.iter().collect::<Vec<_>>(), [("k", "v")]);
            assert_eq!(view.trace_id, [0xff]);
            assert_eq!(view.span_id, [0, 0xfe]);
        });
        assert_eq!((count, seen), (Ok(1), 1));
    }

    #[test]
    fn attributes_are_found_among_other_fields_and_keep_their_order() {
        // Before, between and behind the attributes: body, an unknown field 15, a group 16.
        let record = b"\x22\x01a\
            \x32\x00\
            \x7a\x02zz\
            \x32\x03\x12\x01w\
            \x83\x01\x32\x00\x84\x01\
            \x32\x08\x0a\x01k\x18\x01\x0a\x01l\
            \x22\x01b";
        let seen = for_each(&batch_of(record), |view| {
            assert_eq!(view.body, "b", "the last occurrence holds");
            assert_eq!(view.attributes.len(), 3);
            let pairs: Vec<_> = view.attributes.iter().collect();
            assert_eq!(pairs, [("", ""), ("", "w"), ("l", "")]);
        });
        assert_eq!(seen, Ok(1));
    }

    /// What a newer producer may send: fields 9 and 15 of the batch, of a record and of an entry.
    #[test]
    fn unknown_fields_are_counted_and_not_fatal() {
        let record = b"\x22\x01a\x48\x01\x4a\x02zz\x32\x06\x0a\x01k\x7a\x01z\x7b\x48\x01\x7c";
        let mut payload = batch_of(record);
        payload.extend(batch_of(record));
        payload.extend(b"\x48\x05");
        let found = Found {
            records: 2,
            // Of each record two, of its attribute one, its group one; and one of the batch.
            unknown_fields: 9,
        };
        assert_eq!(validate(&payload), Ok(found));
        let bodies = for_each(&payload, |view| assert_eq!(view.body, "a"));
        assert_eq!(bodies, Ok(2));
    }

    #[test]
    fn a_payload_that_ends_too_early_is_told_from_one_that_contradicts_itself() {
        // The record is longer than the payload.
        assert_eq!(records(&[0x0a, 2, 0x10]), Err(Reason::TruncatedPayload));
        assert_eq!(records(&[0x0a]), Err(Reason::TruncatedPayload));
        // The record is whole, but its body is longer than it.
        assert_eq!(verdict(b"\x22\x05abc"), Err(Reason::MalformedPayload));
        assert_eq!(verdict(b"\x09\x00"), Err(Reason::MalformedPayload));
        assert_eq!(verdict(b"\x32\x02\x0a\x01"), Err(Reason::MalformedPayload));
        assert_eq!(verdict(b"\x7d\x00"), Err(Reason::MalformedPayload));
    }

    #[test]
    fn text_is_utf8_and_ids_are_bytes() {
        for field in [b'\x1a', b'\x22', b'\x2a'] {
            assert_eq!(verdict(&[field, 1, 0xff]), Err(Reason::InvalidUtf8));
        }
        assert_eq!(verdict(b"\x32\x03\x0a\x01\x80"), Err(Reason::InvalidUtf8));
        assert_eq!(verdict(b"\x32\x03\x12\x01\x80"), Err(Reason::InvalidUtf8));
        // A first occurrence is checked, even though the second holds.
        assert_eq!(verdict(b"\x22\x01\xff\x22\x01a"), Err(Reason::InvalidUtf8));
        assert_eq!(verdict(b"\x3a\x01\xff\x42\x01\xff"), Ok(1));
    }

    #[test]
    fn keys_that_are_none() {
        // Field 0, in all wire types.
        for wire_type in 0..8 {
            assert_eq!(
                verdict(&[wire_type, 0, 0, 0, 0, 0, 0, 0, 0]),
                Err(Reason::MalformedPayload)
            );
        }
        // Wire types 6 and 7, and a group's end without its start, in field 15.
        for key in [0x7e, 0x7f, 0x7c] {
            assert_eq!(verdict(&[key, 0]), Err(Reason::MalformedPayload));
        }
        // Field number 2^29: beyond 32 bits of key.
        assert_eq!(
            verdict(&[0x80, 0x80, 0x80, 0x80, 0x10, 0]),
            Err(Reason::MalformedPayload)
        );
        // Field number 2^29 - 1, the highest there is, as a varint.
        assert_eq!(verdict(&[0xf8, 0xff, 0xff, 0xff, 0x0f, 0]), Ok(1));
    }

    #[test]
    fn a_known_field_with_a_foreign_wire_type_is_refused() {
        let own = [1u8, 0, 2, 2, 2, 2, 2, 2];
        for (field, own) in (1u8..).zip(own) {
            for wire_type in 0..6 {
                // Eight bytes that are a value in each wire type but the groups'.
                let record = [field << 3 | wire_type, 7, 8, 1, 8, 1, 0x12, 1, b'a'];
                let verdict = verdict(&record[..]);
                if wire_type != own {
                    assert_eq!(
                        verdict,
                        Err(Reason::MalformedPayload),
                        "{field} {wire_type}"
                    );
                }
            }
        }
        // Of the batch and of an entry too.
        assert_eq!(records(&[0x08, 0]), Err(Reason::MalformedPayload));
        assert_eq!(verdict(b"\x32\x02\x08\x00"), Err(Reason::MalformedPayload));
    }

    #[test]
    fn groups_nest_to_the_limit() {
        let nested = |depth: usize| {
            // Field 15 opens with 0x7b and closes with 0x7c.
            let mut fields = vec![0x7b; depth];
            fields.extend(vec![0x7c; depth]);
            fields
        };
        assert_eq!(verdict(&nested(1)), Ok(1));
        assert_eq!(verdict(&nested(NESTING_MAX)), Ok(1));
        assert_eq!(verdict(&nested(NESTING_MAX + 1)), Err(Reason::TooDeep));
        assert_eq!(records(&nested(NESTING_MAX)), Ok(0));
        assert_eq!(records(&nested(NESTING_MAX + 1)), Err(Reason::TooDeep));
        // A million opened groups are refused at the 33rd.
        assert_eq!(records(&vec![0x7b; 1 << 20]), Err(Reason::TooDeep));
        // Closed by another's end.
        assert_eq!(
            verdict(&[0x7b, 0x73, 0x7c, 0x74]),
            Err(Reason::MalformedPayload)
        );
    }
}
