//! Newline-delimited JSON: one record a line, read in place.
//!
//! `scan` knows the grammar and nothing of records; `names` knows which member is which field;
//! `time`, `severity` and `id` know the notations that logs use. This file puts them together.
//! Only the grammar can refuse a payload: a value that its field cannot take (a time that is none,
//! a second body) becomes an attribute under the name it came with, so that nothing disappears.
//!
//! Text without escapes is borrowed from the payload; text with escapes is written, undone, into
//! the scratch. The payload is checked for UTF-8 once and as a whole.

#![forbid(unsafe_code)]

mod id;
pub(super) mod names;
mod scan;
pub(super) mod severity;
mod time;

#[cfg(test)]
mod differential;

use penstock_proto::reason::Reason;

use super::text::text;
use crate::limits::{JSON_ATTRIBUTES_MAX, JSON_UNESCAPED_LEN_MAX, SCRATCH_TEXT_LEN_MAX};
use crate::record::{Attributes, AttributesForm, RecordView, Span};
use id::Id;
use names::Field;
use scan::{Kind, Piece, Scanner};

/// What of a line does not stand in the payload as it is meant; emptied for each line. Avro's
/// decoder uses the same one, for each record.
pub struct Scratch {
    /// Text whose escapes are undone.
    pub(super) unescaped: String,
    /// Key and value of each attribute.
    pub(super) attributes: Vec<[Span; 2]>,
}

impl Scratch {
    /// Reserves both bounds at once: 1 MiB and 3.2 MiB of addresses. Pages that no line has
    /// needed yet are not resident.
    pub fn new() -> Self {
        Self {
            unescaped: String::with_capacity(SCRATCH_TEXT_LEN_MAX),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A record as the tests compare it.
    #[derive(Debug, Default, PartialEq)]
    struct Seen {
        time_unix_nano: u64,
        severity_number: u32,
        service_name: String,
        body: String,
        host_name: String,
        attributes: Vec<(String, String)>,
        trace_id: Vec<u8>,
        span_id: Vec<u8>,
    }

    fn read(payload: &str) -> Result<Vec<Seen>, Reason> {
        let mut seen = Vec::new();
        let count = for_each(&mut Scratch::new(), payload.as_bytes(), |view| {
            seen.push(Seen {
                time_unix_nano: view.time_unix_nano,
                severity_number: view.severity_number,
                service_name: view.service_name.to_owned(),
                body: view.body.to_owned(),
                host_name: view.host_name.to_owned(),
                attributes: pairs(&view.attributes.iter().collect::<Vec<_>>()),
                trace_id: view.trace_id.to_owned(),
                span_id: view.span_id.to_owned(),
            });
        });
        assert_eq!(count, validate(payload.as_bytes()), "both walks agree");
        count.map(|count| {
            assert_eq!(count as usize, seen.len());
            seen
        })
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    fn read_one(line: &str) -> Seen {
        let mut seen = read(line).unwrap();
        assert_eq!(seen.len(), 1);
        seen.remove(0)
    }

    #[test]
    fn our_own_names() {
        let seen = read_one(
            r#"{"time_unix_nano":"1700000000123456789","severity_number":17,"service_name":"api","body":"no","host_name":"h1","attributes":{"k":"v","n":1},"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7"}"#,
        );
        let expected = Seen {
            time_unix_nano: 1_700_000_000_123_456_789,
            severity_number: 17,
            service_name: "api".into(),
            body: "no".into(),
            host_name: "h1".into(),
            attributes: pairs(&[("k", "v"), ("n", "1")]),
            trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128
                .to_be_bytes()
                .into(),
            span_id: 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes().into(),
        };
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_usual_other_names() {
        let seen = read_one(
            r#"{"ts":1700000000.5,"level":"Warning","msg":"slow","service":"api","hostname":"h1","took_ms":12,"ok":true,"next":null,"tags":["a", "b"]}"#,
        );
        let expected = Seen {
            time_unix_nano: 1_700_000_000_500_000_000,
            severity_number: 13,
            service_name: "api".into(),
            body: "slow".into(),
            host_name: "h1".into(),
            attributes: pairs(&[
                ("took_ms", "12"),
                ("ok", "true"),
                ("next", "null"),
                ("tags", r#"["a", "b"]"#),
            ]),
            ..Seen::default()
        };
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_a_field_cannot_take_becomes_an_attribute() {
        let seen = read_one(
            r#"{"time":"yesterday","level":30,"trace_id":"abc","span_id":7,"severity":"loud","attributes":[1],"time_unix_nano":1.5}"#,
        );
        let expected = Seen {
            attributes: pairs(&[
                ("time", "yesterday"),
                ("level", "30"),
                ("trace_id", "abc"),
                ("span_id", "7"),
                ("severity", "loud"),
                ("attributes", "[1]"),
                ("time_unix_nano", "1.5"),
            ]),
            ..Seen::default()
        };
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_first_of_two_names_for_a_field_holds() {
        let seen = read_one(
            r#"{"msg":"first","message":"second","body":"third","time":"?","ts":1,"time":2,"level":"x","severityNumber":9,"severityText":"INFO"}"#,
        );
        let expected = Seen {
            time_unix_nano: 1_000_000_000,
            severity_number: 9,
            body: "first".into(),
            attributes: pairs(&[
                ("message", "second"),
                ("body", "third"),
                ("time", "?"),
                ("time", "2"),
                ("level", "x"),
                ("severityText", "INFO"),
            ]),
            ..Seen::default()
        };
        assert_eq!(seen, expected);
    }

    #[test]
    fn text_fields_take_whatever_there_is_but_null() {
        let seen = read_one(r#"{"body":{"code": 7},"service":3.0,"host":false}"#);
        assert_eq!(
            (&*seen.body, &*seen.service_name, &*seen.host_name),
            (r#"{"code": 7}"#, "3.0", "false")
        );
        let seen = read_one(r#"{"msg":null,"message":"m","ts":null,"level":null,"trace_id":null}"#);
        let expected = Seen {
            body: "m".into(),
            ..Seen::default()
        };
        assert_eq!(seen, expected);
    }

    /// RFC 8259 section 7, its G clef included.
    #[test]
    fn escapes_are_undone_in_keys_and_values() {
        let seen = read_one(
            r#"{"\u006dsg":"\"\\\/\b\f\n\r\t\u00e9\uD834\uDD1E é","a\tb":"c\nd","plain":"p","nested":{"k":"\n"}}"#,
        );
        let expected = Seen {
            body: "\"\\/\u{8}\u{c}\n\r\t\u{e9}\u{1D11E} \u{e9}".into(),
            attributes: pairs(&[
                ("a\tb", "c\nd"),
                ("plain", "p"),
                ("nested", r#"{"k":"\n"}"#),
            ]),
            ..Seen::default()
        };
        assert_eq!(seen, expected);
    }

    #[test]
    fn lines_end_in_a_line_feed_or_with_the_payload() {
        for payload in [
            "{}\n{}",
            "{}\n{}\n",
            "{}\r\n{}\r\n",
            "\n \t\r\n{} \n\n\n { \t}\n\n",
        ] {
            assert_eq!(read(payload).map(|seen| seen.len()), Ok(2), "{payload:?}");
        }
        for payload in ["", "\n", " \r\n\t"] {
            assert_eq!(read(payload).map(|seen| seen.len()), Ok(0), "{payload:?}");
        }
        // Two on one line, one on two lines, and what is no object.
        for payload in [
            "{}{}",
            "{} {}",
            "{\n}",
            "{\"a\":\n1}",
            "[]",
            "1",
            "\"a\"",
            "null",
            "\u{feff}{}",
        ] {
            assert_eq!(read(payload), Err(Reason::MalformedPayload), "{payload:?}");
        }
    }

    #[test]
    fn a_payload_that_ends_too_early_is_told_from_one_that_is_wrong() {
        for payload in [
            "{",
            "{\"a",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{\"a\":1,",
            "{\"a\":tr",
            "{\"a\":-",
            "{\"a\":\"\\ud83",
        ] {
            assert_eq!(read(payload), Err(Reason::TruncatedPayload), "{payload}");
            // With a line behind it, it is not the payload that has ended.
            let more = format!("{payload}\n{{}}");
            assert_eq!(read(&more), Err(Reason::MalformedPayload), "{more}");
        }
    }

    /// RFC 8259: what its grammar does not produce.
    #[test]
    fn what_is_no_json() {
        for value in [
            "01",
            "+1",
            ".5",
            "1.",
            "1.e5",
            "1e",
            "1e+",
            "--1",
            "0x1",
            "NaN",
            "Infinity",
            "True",
            "nul",
            "nulll",
            "'a'",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\" 1}",
            "{1:2}",
            "[1}",
            "{\"a\":1]",
            "\"\t\"",
            "\"\u{1f}\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\uD800\"",
            "\"\\uDC00\"",
            "\"\\uD800\\u0041\"",
            "\"\\uD800x\"",
            "/**/1",
            "",
        ] {
            let line = format!("{{\"k\":{value}}}");
            assert_eq!(read(&line), Err(Reason::MalformedPayload), "{line}");
            let line = format!("{{\"k\":[{value},{value}]}}");
            assert_eq!(read(&line), Err(Reason::MalformedPayload), "{line}");
        }
        for value in [
            "0",
            "-0",
            "-0.0e-0",
            "1E+2",
            "123456789012345678901234567890",
            "1e999",
            "\"\u{7f}\"",
            "[]",
            "[ ]",
            "{ }",
            "[[],{}]",
        ] {
            let line = format!("{{\"k\": {value} }}");
            assert_eq!(read(&line).map(|seen| seen.len()), Ok(1), "{line}");
        }
    }

    #[test]
    fn the_whole_payload_must_be_utf8() {
        for payload in [&b"{\"a\":\"\xff\"}"[..], b"{}\n\xc3", b"\xef\xbb{}"] {
            assert_eq!(validate(payload), Err(Reason::InvalidUtf8));
        }
    }

    /// The densest lines there are reach the scratch's bounds and do not cross them.
    #[test]
    fn the_scratch_holds_the_densest_lines() {
        let mut scratch = Scratch::new();
        let (text, attributes) = (scratch.unescaped.as_ptr(), scratch.attributes.as_ptr());
        let max = crate::limits::PAYLOAD_LEN_MAX;

        let members = vec!["\"\":0"; (max - 1) / 5];
        let line = format!("{{{}}}", members.join(","));
        assert!(line.len() <= max && line.len() + 5 > max);
        let seen = for_each(&mut scratch, line.as_bytes(), |view| {
            assert_eq!(view.attributes.len(), members.len());
        });
        assert_eq!(seen, Ok(1));

        // One escape, and then text that is as long as what stood for it.
        let line = format!("{{\"\":\"\\n{}\"}}", "x".repeat(max - 9));
        assert_eq!(line.len(), max);
        let seen = for_each(&mut scratch, line.as_bytes(), |view| {
            let (_, value) = view.attributes.iter().next().unwrap();
            assert_eq!(value.len(), max - 8);
        });
        assert_eq!(seen, Ok(1));
        assert_eq!(scratch.unescaped.as_ptr(), text, "never grown");
        assert_eq!(scratch.attributes.as_ptr(), attributes, "never grown");
    }
}
