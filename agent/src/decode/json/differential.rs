//! The decoder against serde_json: on valid, damaged and random lines both accept or both refuse,
//! and where they accept, a slow mapping over serde_json's values gives the same record.
//!
//! Two differences are meant: we nest to 32 and serde_json to 128, and serde_json refuses numbers
//! beyond an f64, which we never make an f64 of.
//!
//! The reference reads single notations (a time, a level) with the functions under test: these are
//! tested against their specifications where they stand.

use penstock_proto::reason::Reason;
use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Scratch, severity, time};
use crate::decode::damage::cases;
use crate::limits::NESTING_MAX;
use crate::record::RecordView;

/// An object's members in order, repeated ones included, each value as it stands in the source.
#[derive(Debug)]
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;
            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members, M::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// A string's text, and of anything else its source.
fn text_of(value: &RawValue) -> String {
    match serde_json::from_str(value.get()) {
        Ok(Value::String(text)) => text,
        _ => value.get().to_owned(),
    }
}

#[derive(Debug, Default)]
struct Reference {
    time_unix_nano: Option<u64>,
    severity_number: Option<u32>,
    service_name: Option<String>,
    body: Option<String>,
    host_name: Option<String>,
    trace_id: Option<Vec<u8>>,
    span_id: Option<Vec<u8>>,
    attributes: Vec<(String, String)>,
}

/// The table of `proto/RECORDS.md`.
const NAMES: [(&str, &[&str]); 8] = [
    ("time_unix_nano", &["time_unix_nano", "timeUnixNano"]),
    ("time", &["timestamp", "@timestamp", "ts", "time"]),
    (
        "severity_number",
        &["severity_number", "severityNumber", "severity"],
    ),
    (
        "severity_word",
        &[
            "level",
            "log.level",
            "lvl",
            "loglevel",
            "severity_text",
            "severityText",
        ],
    ),
    (
        "service_name",
        &["service_name", "serviceName", "service.name", "service"],
    ),
    ("body", &["body", "message", "msg"]),
    (
        "host_name",
        &["host_name", "hostName", "host.name", "host", "hostname"],
    ),
    (
        "id",
        &[
            "trace_id", "traceId", "trace.id", "span_id", "spanId", "span.id",
        ],
    ),
];

impl Reference {
    fn of(line: &str) -> Self {
        let mut record = Self::default();
        let Members(members) = serde_json::from_str(line).unwrap();
        for (key, value) in members {
            if key == "attributes" && value.get().starts_with('{') {
                let Members(inner) = serde_json::from_str(value.get()).unwrap();
                let spread = inner.into_iter().map(|(key, value)| (key, text_of(&value)));
                record.attributes.extend(spread);
            } else if !record.take(&key, &value) {
                record.attributes.push((key, text_of(&value)));
            }
        }
        record
    }

    fn take(&mut self, key: &str, value: &RawValue) -> bool {
        fn first<T>(field: &mut Option<T>, value: Option<T>) -> bool {
            let takes = field.is_none() && value.is_some();
            if takes {
                *field = value;
            }
            takes
        }
        let Some((field, _)) = NAMES.iter().find(|(_, names)| names.contains(&key)) else {
            return false;
        };
        if value.get() == "null" {
            return true;
        }
        let text = text_of(value);
        let hex = |len: usize| {
            let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let has_len = text.is_empty() || text.len() == 2 * len;
            (value.get().starts_with('"') && is_hex && has_len).then(|| {
                (0..text.len())
                    .step_by(2)
                    .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
                    .collect()
            })
        };
        match *field {
            "time_unix_nano" => first(&mut self.time_unix_nano, time::nanoseconds(&text)),
            "time" => first(&mut self.time_unix_nano, time::instant(&text)),
            "severity_number" => first(&mut self.severity_number, severity::number_or_word(&text)),
            "severity_word" => first(&mut self.severity_number, severity::word(&text)),
            "service_name" => first(&mut self.service_name, Some(text)),
            "body" => first(&mut self.body, Some(text)),
            "host_name" => first(&mut self.host_name, Some(text)),
            _ if key.starts_with("trace") => first(&mut self.trace_id, hex(16)),
            _ => first(&mut self.span_id, hex(8)),
        }
    }

    fn assert_is(self, view: &RecordView<'_>) {
        assert_eq!(view.time_unix_nano, self.time_unix_nano.unwrap_or_default());
        assert_eq!(
            view.severity_number,
            self.severity_number.unwrap_or_default()
        );
        assert_eq!(view.service_name, self.service_name.unwrap_or_default());
        assert_eq!(view.body, self.body.unwrap_or_default());
        assert_eq!(view.host_name, self.host_name.unwrap_or_default());
        assert_eq!(view.trace_id, self.trace_id.unwrap_or_default());
        assert_eq!(view.span_id, self.span_id.unwrap_or_default());
        assert_eq!(view.attributes.len(), self.attributes.len());
        let expected = self
            .attributes
            .iter()
            .map(|(key, value)| (&**key, &**value));
        assert!(
            view.attributes.iter().eq(expected.clone()),
            "{view:?} {expected:?}"
        );
    }
}

/// The lines of a payload, or `None` where serde_json refuses one.
fn reference(payload: &str) -> Option<Vec<&str>> {
    const BLANKS: [char; 3] = [' ', '\t', '\r'];
    payload
        .split('\n')
        .map(|line| line.trim_matches(BLANKS))
        .filter(|line| !line.is_empty())
        .map(|line| {
            let value: Value = serde_json::from_str(line).ok()?;
            value.is_object().then_some(line)
        })
        .collect()
}

/// Whether a line is refused for a number that is valid JSON but no f64.
fn has_number_beyond_f64(payload: &str) -> bool {
    payload.split('\n').any(|line| {
        let error = serde_json::from_str::<Value>(line.trim()).err();
        error.is_some_and(|error| error.to_string().starts_with("number out of range"))
            && serde_json::from_str::<IgnoredAny>(line.trim()).is_ok()
    })
}

fn agree(payload: &[u8]) -> Result<(), TestCaseError> {
    let ours = super::validate(payload);
    let mut scratch = Scratch::new();
    let Ok(text) = str::from_utf8(payload) else {
        prop_assert_eq!(ours, Err(Reason::InvalidUtf8));
        let seen = super::for_each(&mut scratch, payload, |_| ());
        prop_assert_eq!(seen, Err(Reason::InvalidUtf8));
        return Ok(());
    };
    match reference(text) {
        Some(lines) => {
            prop_assert_eq!(ours, Ok(lines.len() as u32));
            let mut lines = lines.into_iter();
            let seen = super::for_each(&mut scratch, payload, |view| {
                Reference::of(lines.next().expect("as many views as lines")).assert_is(view);
            });
            prop_assert_eq!(seen, ours);
        }
        None if has_number_beyond_f64(text) => {}
        None => {
            prop_assert!(
                matches!(
                    ours,
                    Err(Reason::MalformedPayload | Reason::TruncatedPayload)
                ),
                "{ours:?}"
            );
            let seen = super::for_each(&mut scratch, payload, |_| ());
            prop_assert_eq!(seen, ours);
        }
    }
    Ok(())
}

/// A string as it stands in a line: each character as it is, where that is allowed, or escaped.
fn string_of(characters: impl Strategy<Value = char>) -> impl Strategy<Value = String> {
    let character = (characters, 0..12u8).prop_map(|(character, style)| match (character, style) {
        ('"', 0..6) => "\\\"".to_owned(),
        ('\\', 0..6) => "\\\\".to_owned(),
        ('/', 0..6) => "\\/".to_owned(),
        ('\n', _) => "\\n".to_owned(),
        ('\r', _) => "\\r".to_owned(),
        ('\t', 0..6) => "\\t".to_owned(),
        ('\u{8}', 0..6) => "\\b".to_owned(),
        ('\u{c}', 0..6) => "\\f".to_owned(),
        (other, style) => {
            if style == 0 || other < ' ' || other == '"' || other == '\\' {
                other
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .map(|unit| {
                        if style % 2 == 0 {
                            format!("\\u{unit:04x}")
                        } else {
                            format!("\\u{unit:04X}")
                        }
                    })
                    .collect()
            } else {
                other.to_string()
            }
        }
    });
    prop::collection::vec(character, 0..20).prop_map(|parts| format!("\"{}\"", parts.concat()))
}

fn any_string() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => string_of(prop::char::range(' ', '~')),
        1 => string_of(any::<char>()),
        1 => string_of(prop::char::range('\0', '\u{7f}')),
        1 => "\"[a-z ]{30,90}\"",
    ]
}

fn any_key() -> impl Strategy<Value = String> {
    let names: Vec<&str> = NAMES
        .iter()
        .flat_map(|(_, names)| names.iter().copied())
        .collect();
    prop_oneof![
        6 => prop::sample::select(names).prop_map(|name| format!("\"{name}\"")),
        // Escaped, a name is the same name.
        1 => Just("\"\\u006dsg\"".to_owned()),
        1 => Just("\"attributes\"".to_owned()),
        3 => any_string(),
    ]
}

fn any_scalar() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => any_string(),
        1 => "-?(0|[1-9][0-9]{0,20})",
        // Exact in an f64 and written by serde_json as it is here.
        1 => "[1-9][0-9]{9}\\.(5|25|75)",
        1 => "-?(0|[1-9][0-9]{0,9})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,2})",
        1 => prop::sample::select(vec!["true", "false", "null"]).prop_map(str::to_owned),
        1 => prop::sample::select(vec![
            "\"info\"", "\"WARN\"", "\"Error\"", "\"panic\"", "\"FATAL3\"", "\"9\"", "13", "25", "0",
            "\"2024-02-29T12:00:00Z\"", "\"2024-02-30T12:00:00Z\"", "\"1985-04-12T23:20:50.52+01:30\"",
            "1700000000", "1700000000123", "\"1700000000123456789\"", "1700000000123456789",
            "\"1700000000.5\"", "\"\"",
            "\"4bf92f3577b34da6a3ce929d0e0e4736\"", "\"00F067AA0BA902B7\"", "\"00f067aa0ba902b\"",
            "1234567812345678",
        ]).prop_map(str::to_owned),
    ]
}

fn blanks() -> impl Strategy<Value = &'static str> {
    prop_oneof![6 => Just(""), 1 => Just(" "), 1 => Just("\t"), 1 => Just(" \r ")]
}

fn any_value() -> impl Strategy<Value = String> {
    any_scalar().prop_recursive(4, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec((inner.clone(), blanks()), 0..4).prop_map(|items| {
                let items: Vec<_> = items
                    .iter()
                    .map(|(item, blank)| format!("{blank}{item}{blank}"))
                    .collect();
                format!("[{}]", items.join(","))
            }),
            prop::collection::vec((any_string(), inner), 0..3).prop_map(|members| {
                let members: Vec<_> = members
                    .iter()
                    .map(|(key, value)| format!("{key}:{value}"))
                    .collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

fn any_line() -> impl Strategy<Value = String> {
    let member = (any_key(), blanks(), any_value())
        .prop_map(|(key, blank, value)| format!("{blank}{key}{blank}:{blank}{value}{blank}"));
    (prop::collection::vec(member, 0..8), blanks(), blanks())
        .prop_map(|(members, before, behind)| format!("{before}{{{}}}{behind}", members.join(",")))
}

fn any_payload() -> impl Strategy<Value = String> {
    let end = prop_oneof![Just("\n"), Just("\r\n"), Just("\n \n\n")];
    (
        prop::collection::vec((any_line(), end), 0..4),
        any::<bool>(),
    )
        .prop_map(|(lines, closed)| {
            let mut payload: String = lines
                .iter()
                .map(|(line, end)| format!("{line}{end}"))
                .collect();
            if !closed {
                payload.truncate(payload.trim_end_matches(['\r', '\n', ' ']).len());
            }
            payload
        })
}

/// Bytes that mean something in JSON, and a few that do not.
fn any_byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        8 => prop::sample::select(b"{}[]\",:\\/utfnrb0123456789.eE+-dDcC89 \t\r\n".to_vec()),
        1 => any::<u8>(),
    ]
}

fn damaged(payload: String) -> impl Strategy<Value = Vec<u8>> {
    let at = any::<prop::sample::Index>;
    prop::collection::vec(
        (at(), 0..4usize, prop::collection::vec(any_byte(), 0..3)),
        1..3,
    )
    .prop_map(move |edits| {
        let mut bytes = payload.clone().into_bytes();
        for (at, cut, new) in edits {
            let at = at.index(bytes.len() + 1);
            let end = bytes.len().min(at + cut);
            bytes.splice(at..end, new);
        }
        bytes
    })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn valid_lines(payload in any_payload()) {
        prop_assert!(super::validate(payload.as_bytes()).is_ok());
        agree(payload.as_bytes())?;
    }

    #[test]
    fn damaged_lines(payload in any_payload().prop_flat_map(damaged)) {
        agree(&payload)?;
    }

    #[test]
    fn random_tokens(payload in prop::collection::vec(any_byte(), 0..40)) {
        agree(&payload)?;
    }

    /// Tokens that are whole, in any order.
    #[test]
    fn shuffled_tokens(tokens in prop::collection::vec(prop_oneof![
        prop::sample::select(vec!["{", "}", "[", "]", ",", ":", "\n", " ", "null"]).prop_map(str::to_owned),
        any_scalar(),
    ], 0..9)) {
        agree(format!("{{{}}}", tokens.concat()).as_bytes())?;
    }

    /// Cut anywhere, an object has ended too early.
    #[test]
    fn every_prefix_of_a_line_is_truncated(line in any_line()) {
        let line = line.trim_start();
        for len in 1..line.trim_end().len() {
            let expected = match line.is_char_boundary(len) {
                true => Reason::TruncatedPayload,
                false => Reason::InvalidUtf8,
            };
            prop_assert_eq!(super::validate(&line.as_bytes()[..len]), Err(expected));
        }
    }
}

/// A line of `depth` nested objects and arrays.
fn nested(depth: usize) -> String {
    let inner = depth - 1;
    format!("{{\"a\":{}{}}}", "[".repeat(inner), "]".repeat(inner))
}

#[test]
fn nesting_to_the_limit() {
    let mut scratch = Scratch::new();
    let mut read = |line: &str| {
        let seen = super::for_each(&mut scratch, line.as_bytes(), |_| ());
        assert_eq!(super::validate(line.as_bytes()), seen, "{line}");
        seen
    };
    assert_eq!(read(&nested(NESTING_MAX)), Ok(1));
    assert_eq!(read(&nested(NESTING_MAX + 1)), Err(Reason::TooDeep));
    // The attributes' own object counts too.
    let spread = |depth| format!("{{\"attributes\":{}}}", nested(depth - 1));
    assert_eq!(read(&spread(NESTING_MAX)), Ok(1));
    assert_eq!(read(&spread(NESTING_MAX + 1)), Err(Reason::TooDeep));
    // Siblings do not add up, at any level.
    let siblings = format!("{{\"a\":[{}1]}}", "[{}],".repeat(100));
    assert_eq!(read(&siblings), Ok(1));
    // A million brackets are refused at the 33rd.
    assert_eq!(
        read(&format!("{{\"a\":{}", "[".repeat(1_000_000))),
        Err(Reason::TooDeep)
    );
}
