//! Newline-delimited JSON: one record a line, read in place.
//!
//! `scan` knows the grammar and nothing of records; `names` knows which member is which field;
//! `time`, `severity` and `id` know the notations that logs use. This file puts them together.
//! Only the grammar can refuse a payload: a value that its field cannot take (a time that is none,
//! a second body) becomes an attribute under the name it came with, so that nothing disappears.
//!
//! Text without escapes is borrowed from the payload; text with escapes is written, undone, into
//! the scratch. The payload is checked for UTF-8 once and as a whole.

mod id;
mod names;
mod scan;
mod severity;
mod time;

#[cfg(test)]
mod differential;

use penstock_proto::reason::Reason;

use super::text::text;
use crate::limits::{JSON_ATTRIBUTES_MAX, JSON_UNESCAPED_LEN_MAX};
use crate::record::{Attributes, AttributesForm, RecordView, Span};
use id::Id;
use names::Field;
use scan::{Kind, Piece, Scanner};

/// What of a line does not stand in the payload as it is meant; emptied for each line.
pub struct Scratch {
    /// Text whose escapes are undone.
    unescaped: String,
    /// Key and value of each attribute.
    attributes: Vec<[Span; 2]>,
}

impl Scratch {
    /// Reserves both bounds at once: 1 MiB and 3.2 MiB of addresses. Pages that no line has
    /// needed yet are not resident.
    pub fn new() -> Self {
        Self {
            unescaped: String::with_capacity(JSON_UNESCAPED_LEN_MAX),
            attributes: Vec::with_capacity(JSON_ATTRIBUTES_MAX),
        }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Checks every line and returns how many records there are. What a member means cannot make a
/// line wrong, so the grammar is all there is to check.
pub fn validate(payload: &[u8]) -> Result<u32, Reason> {
    let mut scanner = Scanner::new(text(payload)?);
    let mut records = 0;
    while scanner.next_line() {
        scanner.object()?;
        scanner.end_line()?;
        records += 1;
    }
    Ok(records)
}

/// Shows every record to `visit` and returns how many there were.
pub fn for_each(
    scratch: &mut Scratch,
    payload: &[u8],
    mut visit: impl FnMut(&RecordView<'_>),
) -> Result<u32, Reason> {
    let payload = text(payload)?;
    let mut scanner = Scanner::new(payload);
    let mut records = 0;
    while scanner.next_line() {
        let mut line = Line::new(payload, scratch);
        line.read(&mut scanner)?;
        scanner.end_line()?;
        visit(&line.view());
        records += 1;
    }
    Ok(records)
}

/// One line on its way from members to a record.
struct Line<'a> {
    payload: &'a str,
    scratch: &'a mut Scratch,
    time_unix_nano: Option<u64>,
    severity_number: Option<u32>,
    service_name: Option<Span>,
    body: Option<Span>,
    host_name: Option<Span>,
    trace_id: Option<Id<16>>,
    span_id: Option<Id<8>>,
}

impl<'a> Line<'a> {
    fn new(payload: &'a str, scratch: &'a mut Scratch) -> Self {
        scratch.unescaped.clear();
        scratch.attributes.clear();
        Self {
            payload,
            scratch,
            time_unix_nano: None,
            severity_number: None,
            service_name: None,
            body: None,
            host_name: None,
            trace_id: None,
            span_id: None,
        }
    }

    /// Reads the object that is the line.
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Reason> {
        let mut members = scanner.open_object()?;
        while let Some(key) = scanner.next_key(&mut members)? {
            let name = self.place(key);
            let field = names::field(self.text(name));
            if field == Field::Attributes && scanner.is_at_object() {
                let mut members = scanner.open_object()?;
                while let Some(key) = scanner.next_key(&mut members)? {
                    let name = self.place(key);
                    let value = scanner.value(2)?;
                    let value = self.place(value);
                    self.push_attribute(name, value);
                }
            } else {
                let value = scanner.value(1)?;
                let kind = value.kind;
                let value = self.place(value);
                if !self.take(field, kind, value) {
                    self.push_attribute(name, value);
                }
            }
        }
        Ok(())
    }

    /// Gives a value to its field. False where there is none, where the field cannot take it, or
    /// where it has one already.
    fn take(&mut self, field: Field, kind: Kind, value: Span) -> bool {
        match field {
            Field::Attributes | Field::None => false,
            // `null` says that a field has no value, and leaves it without one.
            _ if kind == Kind::Null => true,
            Field::ServiceName => set_once(&mut self.service_name, Some(value)),
            Field::Body => set_once(&mut self.body, Some(value)),
            Field::HostName => set_once(&mut self.host_name, Some(value)),
            Field::TimeUnixNano => {
                let time = time::nanoseconds(self.text(value));
                set_once(&mut self.time_unix_nano, time)
            }
            Field::Time => {
                let time = time::instant(self.text(value));
                set_once(&mut self.time_unix_nano, time)
            }
            Field::SeverityNumber => {
                let number = severity::number_or_word(self.text(value));
                set_once(&mut self.severity_number, number)
            }
            Field::SeverityWord => {
                let number = severity::word(self.text(value));
                set_once(&mut self.severity_number, number)
            }
            Field::TraceId => {
                let id = Id::from_hex(self.text(value), kind);
                set_once(&mut self.trace_id, id)
            }
            Field::SpanId => {
                let id = Id::from_hex(self.text(value), kind);
                set_once(&mut self.span_id, id)
            }
        }
    }

    fn push_attribute(&mut self, name: Span, value: Span) {
        let attributes = &mut self.scratch.attributes;
        assert!(
            attributes.len() < JSON_ATTRIBUTES_MAX,
            "a line within the payload limit has more than {JSON_ATTRIBUTES_MAX} attributes"
        );
        attributes.push([name, value]);
    }

    /// Where a piece's text stands once its escapes are undone. Called once for each piece: the
    /// scratch holds no text twice, and so never more than the line.
    #[inline(always)]
    fn place(&mut self, piece: Piece) -> Span {
        if piece.kind == Kind::EscapedString {
            self.unescape(piece)
        } else {
            Span::in_payload(piece.start, piece.end)
        }
    }

    #[inline(never)]
    fn unescape(&mut self, piece: Piece) -> Span {
        let unescaped = &mut self.scratch.unescaped;
        let escaped = &self.payload[piece.start..piece.end];
        assert!(
            unescaped.len() + escaped.len() <= JSON_UNESCAPED_LEN_MAX,
            "{} bytes unescaped and {} to come are more than {JSON_UNESCAPED_LEN_MAX}",
            unescaped.len(),
            escaped.len()
        );
        let start = unescaped.len();
        scan::unescape(escaped, unescaped);
        Span::in_scratch(start, unescaped.len())
    }

    #[inline(always)]
    fn text(&self, span: Span) -> &str {
        span.text(self.payload, &self.scratch.unescaped)
    }

    fn view(&self) -> RecordView<'_> {
        let text = |span: Option<Span>| span.map_or("", |span| self.text(span));
        RecordView {
            time_unix_nano: self.time_unix_nano.unwrap_or_default(),
            severity_number: self.severity_number.unwrap_or_default(),
            service_name: text(self.service_name),
            body: text(self.body),
            host_name: text(self.host_name),
            attributes: Attributes {
                count: self.scratch.attributes.len(),
                form: AttributesForm::Spans {
                    payload: self.payload,
                    unescaped: &self.scratch.unescaped,
                    spans: &self.scratch.attributes,
                },
            },
            trace_id: self.trace_id.as_ref().map_or(&[], Id::bytes),
            span_id: self.span_id.as_ref().map_or(&[], Id::bytes),
        }
    }
}

/// The first value holds. Whether `value` is the field's now.
#[inline(always)]
fn set_once<T>(field: &mut Option<T>, value: Option<T>) -> bool {
    if field.is_some() || value.is_none() {
        return false;
    }
    *field = value;
    true
}
