//! A record as a view: every string borrows the payload it was decoded from, or the decoder's
//! scratch where JSON had escapes. Nothing is owned, nothing is copied.

use crate::decode::{avro, protobuf, text};

/// One log event, in OpenTelemetry's words (proto/penstock/v1/logs.proto documents the fields).
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    pub time_unix_nano: u64,
    pub severity_number: u32,
    pub service_name: &'a str,
    pub body: &'a str,
    pub host_name: &'a str,
    pub attributes: Attributes<'a>,
    pub trace_id: &'a [u8],
    pub span_id: &'a [u8],
}

impl RecordView<'_> {
    /// Every field at its default.
    pub const EMPTY: RecordView<'static> = RecordView {
        time_unix_nano: 0,
        severity_number: 0,
        service_name: "",
        body: "",
        host_name: "",
        attributes: Attributes::EMPTY,
        trace_id: &[],
        span_id: &[],
    };
}

/// The attributes of one record, in the order in which they stand; a key may stand twice, and the
/// later one holds (as in Protobuf's maps).
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub(crate) count: usize,
    pub(crate) form: AttributesForm<'a>,
}

/// How the decoder left the attributes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AttributesForm<'a> {
    /// Whole fields of a validated Protobuf `LogRecord`, from its first field 6 to its last.
    Protobuf(&'a [u8]),
    /// Key and value of each attribute of a JSON line: most stand in the payload, those that had
    /// escapes in the decoder's scratch.
    Spans {
        payload: &'a str,
        unescaped: &'a str,
        spans: &'a [[Span; 2]],
    },
    /// The blocks of a validated Avro map from string to string.
    Avro(&'a [u8]),
    /// Key and value of each attribute of an Avro record: what is text in the payload stands
    /// there, the rest in the decoder's scratch. All of it was found to be UTF-8.
    Pieces {
        payload: &'a [u8],
        scratch: &'a str,
        spans: &'a [[Span; 2]],
    },
}

/// A piece of text in one of two places: the payload, or the decoder's scratch. 8 bytes, so that
/// the bound on a line's attributes costs half of what two `&str` would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The highest bit says which of the two places (`limits` keeps offsets below it).
    start: u32,
    end: u32,
}

impl Span {
    const IN_SCRATCH: u32 = 1 << 31;

    #[inline(always)]
    pub(crate) fn in_payload(start: usize, end: usize) -> Self {
        Self {
            start: start as u32,
            end: end as u32,
        }
    }

    #[inline(always)]
    pub(crate) fn in_scratch(start: usize, end: usize) -> Self {
        Self {
            start: start as u32 | Self::IN_SCRATCH,
            end: end as u32,
        }
    }

    #[inline(always)]
    pub(crate) fn text<'a>(self, payload: &'a str, scratch: &'a str) -> &'a str {
        let place = if self.start & Self::IN_SCRATCH == 0 {
            payload
        } else {
            scratch
        };
        &place[(self.start & !Self::IN_SCRATCH) as usize..self.end as usize]
    }

    /// The text where the payload as a whole is none. A piece that is not UTF-8 is shown as an
    /// empty one; the decoder has refused payloads that have any.
    #[inline(always)]
    fn piece<'a>(self, payload: &'a [u8], scratch: &'a str) -> &'a str {
        if self.start & Self::IN_SCRATCH == 0 {
            text::text(&payload[self.start as usize..self.end as usize]).unwrap_or_default()
        } else {
            self.text("", scratch)
        }
    }

    /// A piece of the scratch without the character that it may begin and end with.
    pub(crate) fn trimmed(self, scratch: &str, around: char) -> Self {
        let text = self.text("", scratch);
        match text
            .strip_prefix(around)
            .and_then(|text| text.strip_suffix(around))
        {
            Some(_) => Self {
                start: self.start + around.len_utf8() as u32,
                end: self.end - around.len_utf8() as u32,
            },
            None => self,
        }
    }
}

impl Attributes<'_> {
    pub const EMPTY: Attributes<'static> = Attributes {
        count: 0,
        form: AttributesForm::Spans {
            payload: "",
            unescaped: "",
            spans: &[],
        },
    };
}

impl<'a> Attributes<'a> {
    /// How many entries `iter` yields.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Keys and values.
    pub fn iter(&self) -> AttributesIter<'a> {
        AttributesIter {
            form: match self.form {
                AttributesForm::Protobuf(fields) => {
                    IterForm::Protobuf(protobuf::Entries::among(fields))
                }
                AttributesForm::Spans {
                    payload,
                    unescaped,
                    spans,
                } => IterForm::Spans {
                    payload,
                    unescaped,
                    spans: spans.iter(),
                },
                AttributesForm::Avro(map) => IterForm::Avro(avro::Entries::of(map)),
                AttributesForm::Pieces {
                    payload,
                    scratch,
                    spans,
                } => IterForm::Pieces {
                    payload,
                    scratch,
                    spans: spans.iter(),
                },
            },
        }
    }
}

impl<'a> IntoIterator for &Attributes<'a> {
    type Item = (&'a str, &'a str);
    type IntoIter = AttributesIter<'a>;

    fn into_iter(self) -> AttributesIter<'a> {
        self.iter()
    }
}

/// What `Attributes::iter` returns.
#[derive(Clone, Debug)]
pub struct AttributesIter<'a> {
    form: IterForm<'a>,
}

#[derive(Clone, Debug)]
enum IterForm<'a> {
    Protobuf(protobuf::Entries<'a>),
    Spans {
        payload: &'a str,
        unescaped: &'a str,
        spans: std::slice::Iter<'a, [Span; 2]>,
    },
    Avro(avro::Entries<'a>),
    Pieces {
        payload: &'a [u8],
        scratch: &'a str,
        spans: std::slice::Iter<'a, [Span; 2]>,
    },
}

impl<'a> Iterator for AttributesIter<'a> {
    type Item = (&'a str, &'a str);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.form {
            IterForm::Protobuf(entries) => entries.next(),
            IterForm::Spans {
                payload,
                unescaped,
                spans,
            } => {
                let [key, value] = spans.next()?;
                Some((key.text(payload, unescaped), value.text(payload, unescaped)))
            }
            IterForm::Avro(entries) => entries.next(),
            IterForm::Pieces {
                payload,
                scratch,
                spans,
            } => {
                let [key, value] = spans.next()?;
                Some((key.piece(payload, scratch), value.piece(payload, scratch)))
            }
        }
    }
}

/// What the agent adds to a record that it stores: the envelope.
#[derive(Clone, Copy, Debug)]
pub struct EnvelopeView<'a> {
    pub observed_time_unix_nano: u64,
    pub listener: &'a str,
    /// `address:port` of the sender; empty where there is none.
    pub peer_address: &'a str,
}
