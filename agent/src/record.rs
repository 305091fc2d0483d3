//! A record as a view: every string borrows the payload it was decoded from, or the decoder's
//! scratch where JSON had escapes. Nothing is owned, nothing is copied.

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
    /// The bytes of a validated Protobuf `LogRecord`; the entries are its fields 6.
    Protobuf(&'a [u8]),
    /// Ranges into `text`, four offsets an attribute: key start, key end, value start, value end.
    Spans {
        text: &'a str,
        spans: &'a [[u32; 4]],
    },
}

impl Attributes<'_> {
    pub const EMPTY: Attributes<'static> = Attributes {
        count: 0,
        form: AttributesForm::Spans {
            text: "",
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
}

/// What the agent adds to a record that it stores: the envelope.
#[derive(Clone, Copy, Debug)]
pub struct EnvelopeView<'a> {
    pub observed_time_unix_nano: u64,
    pub listener: &'a str,
    /// `address:port` of the sender; empty where there is none.
    pub peer_address: &'a str,
}
