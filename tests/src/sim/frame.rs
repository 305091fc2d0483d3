//! Frames as producers send them: good ones with real Protobuf and JSON payloads, and one of each
//! kind of bad ones, each with the fate that PROTOCOL.md gives it.

use std::rc::Rc;

use agent_common::frame::{FLAG_ACKNOWLEDGE, FRAME_HEADER_LEN, FrameHeader, offset};
use penstock_proto::avro::SchemaVersion;
use penstock_proto::encoding::Encoding;
use penstock_proto::reason::Reason;
use penstock_proto::v1::{LogBatch, LogRecord};
use penstock_proto::wire;
use prost::Message as _;

use super::rng::Rng;
use crate::agent::client::avro;

/// The longest payload that the simulated listeners take.
pub const PAYLOAD_LEN_MAX: u32 = 12 << 10;

/// What must become of a frame that arrives as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Taken (or refused for want of room, which is nobody's fault).
    Accepted,
    Refused(Reason),
    /// Refused, and where the next frame begins is unknown: a stream ends here. A datagram is
    /// refused with the same reason and its neighbours are unharmed.
    FramingLost(Reason),
}

/// One frame, whole.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Producer and sequence as they stand in the header.
    pub key: (u64, u64),
    pub bytes: Rc<[u8]>,
    pub fate: Fate,
    pub records: u32,
    pub encoding: u8,
    pub wants_ack: bool,
    /// How many of its bytes decide its fate on a stream: all, unless the header does.
    pub decided_at: usize,
}

impl Frame {
    /// What the real client, or a forwarding agent, sends: always good.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let head = bytes.first_chunk::<FRAME_HEADER_LEN>();
        let header = FrameHeader::read(head.expect("a frame begins with its header"));
        assert_eq!(bytes.len(), header.frame_len(), "a whole frame goes out");
        Self {
            key: (header.producer, header.sequence),
            bytes: bytes.into(),
            fate: Fate::Accepted,
            records: header.records,
            encoding: header.encoding,
            wants_ack: header.wants_ack(),
            decided_at: bytes.len(),
        }
    }

    /// The bodies of a good frame's records.
    pub fn bodies(&self) -> Vec<String> {
        if self.encoding == Encoding::Protobuf as u8 {
            let batch = LogBatch::decode(self.payload()).expect("a good payload");
            return batch
                .records
                .into_iter()
                .map(|record| record.body)
                .collect();
        }
        assert_eq!(self.encoding, Encoding::Json as u8, "no other is simulated");
        let text = std::str::from_utf8(self.payload()).expect("a good payload");
        let body = |line: &str| {
            let record: serde_json::Value = serde_json::from_str(line).expect("a good line");
            record["body"].as_str().expect("a body").to_owned()
        };
        text.lines().map(body).collect()
    }

    pub fn payload(&self) -> &[u8] {
        &self.bytes[FRAME_HEADER_LEN..]
    }
}

/// What may be wrong with a frame, one thing at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    Magic,
    Version,
    Reserved,
    HeaderChecksum,
    Encoding,
    UnsupportedEncoding,
    Flag,
    Priority,
    NoRecords,
    TooLong,
    PayloadChecksum,
    Malformed,
    TruncatedPayload,
    TooDeep,
    Utf8,
    RecordCount,
    Sequence,
    Foreign,
}

impl Defect {
    pub const ALL: [Self; 18] = [
        Self::Magic,
        Self::Version,
        Self::Reserved,
        Self::HeaderChecksum,
        Self::Encoding,
        Self::UnsupportedEncoding,
        Self::Flag,
        Self::Priority,
        Self::NoRecords,
        Self::TooLong,
        Self::PayloadChecksum,
        Self::Malformed,
        Self::TruncatedPayload,
        Self::TooDeep,
        Self::Utf8,
        Self::RecordCount,
        Self::Sequence,
        Self::Foreign,
    ];

    /// The fate PROTOCOL.md gives it: framing is lost where no length can be believed.
    pub const fn fate(self) -> Fate {
        match self {
            Self::Magic => Fate::FramingLost(Reason::BadMagic),
            Self::Version => Fate::FramingLost(Reason::UnknownVersion),
            Self::HeaderChecksum => Fate::FramingLost(Reason::HeaderChecksum),
            Self::TooLong => Fate::Refused(Reason::TooLong),
            Self::Reserved => Fate::Refused(Reason::BadReserved),
            Self::Encoding => Fate::Refused(Reason::UnknownEncoding),
            Self::UnsupportedEncoding => Fate::Refused(Reason::UnsupportedEncoding),
            Self::Flag => Fate::Refused(Reason::UnknownFlag),
            Self::Priority => Fate::Refused(Reason::BadPriority),
            Self::NoRecords => Fate::Refused(Reason::NoRecords),
            Self::PayloadChecksum => Fate::Refused(Reason::PayloadChecksum),
            Self::Malformed => Fate::Refused(Reason::MalformedPayload),
            Self::TruncatedPayload => Fate::Refused(Reason::TruncatedPayload),
            Self::TooDeep => Fate::Refused(Reason::TooDeep),
            Self::Utf8 => Fate::Refused(Reason::InvalidUtf8),
            Self::RecordCount => Fate::Refused(Reason::RecordCount),
            Self::Sequence => Fate::Refused(Reason::BadSequence),
            Self::Foreign => Fate::Refused(Reason::ForeignProducer),
        }
    }
}

/// What a good frame is made of.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    pub key: (u64, u64),
    pub encoding: Encoding,
    pub records: u32,
    /// Upper bound of a record's body, in bytes.
    pub body_len_max: usize,
    pub acknowledge: bool,
}

const WORDS: [&str; 12] = [
    "accepted connection from",
    "segfault at 0 ip 00007f",
    "GET /index.html 200",
    "Grüße aus der Turbine",
    "水は流れる",
    "out of memory: killed process",
    "\"quoted\" and \\ escaped",
    "session opened for user root",
    "TLS handshake",
    "tab\tand newline\n",
    "",
    "nf_conntrack: table full, dropping packet",
];

fn body(rng: &mut Rng, key: (u64, u64), index: u32, len_max: usize) -> String {
    // Producer, sequence and index make every record of a run differ from every other.
    let mut body = format!("{:x}/{}/{index}", key.0, key.1);
    while body.len() < len_max && !rng.chance(150) {
        body.push(' ');
        body.push_str(rng.pick(&WORDS));
    }
    body
}

fn records(rng: &mut Rng, order: &Order) -> Vec<LogRecord> {
    (0..order.records)
        .map(|index| LogRecord {
            time_unix_nano: 1_750_000_000_000_000_000 + order.key.1,
            severity_number: rng.between(0..=24) as u32,
            service_name: rng.pick(&["sshd", "nginx", "", "kernel"]).to_owned(),
            body: body(rng, order.key, index, order.body_len_max),
            host_name: rng.pick(&["", "web-1", "db.example"]).to_owned(),
            attributes: (0..rng.between(0..=2))
                .map(|n| (format!("key{n}"), rng.pick(&WORDS).to_owned()))
                .collect(),
            trace_id: Vec::new(),
            span_id: Vec::new(),
        })
        .collect()
}

fn json_line(record: &LogRecord) -> String {
    let mut line = serde_json::json!({
        "time_unix_nano": record.time_unix_nano.to_string(),
        "severity_number": record.severity_number,
        "service_name": record.service_name,
        "body": record.body,
        "host_name": record.host_name,
    });
    for (key, value) in &record.attributes {
        line[key] = value.as_str().into();
    }
    line.to_string()
}

/// A payload of `order.records` valid records.
pub fn payload(rng: &mut Rng, order: &Order) -> Vec<u8> {
    // The attributes of prost are a HashMap, whose order differs from run to run: encode at most
    // one entry a record that way, so that the bytes depend on the seed alone.
    let mut records = records(rng, order);
    match order.encoding {
        Encoding::Protobuf => {
            for record in &mut records {
                record.attributes.retain(|key, _| key == "key0");
            }
            LogBatch { records }.encode_to_vec()
        }
        Encoding::Avro => {
            for record in &mut records {
                record.attributes.retain(|key, _| key == "key0");
            }
            avro(SchemaVersion::V3, &records)
        }
        Encoding::Json => {
            let lines: Vec<String> = records.iter().map(json_line).collect();
            lines.join("\n").into_bytes()
        }
    }
}

fn header(order: &Order) -> FrameHeader {
    FrameHeader {
        encoding: order.encoding as u8,
        flags: if order.acknowledge {
            FLAG_ACKNOWLEDGE
        } else {
            0
        },
        priority: 2,
        payload_len: 0,
        records: order.records,
        producer: order.key.0,
        sequence: order.key.1,
        payload_crc: 0,
    }
}

fn frame(header: FrameHeader, payload: &[u8], fate: Fate) -> Frame {
    let mut bytes = Vec::with_capacity(FRAME_HEADER_LEN + payload.len());
    wire::write_frame(&mut bytes, header, payload);
    Frame {
        key: (header.producer, header.sequence),
        decided_at: bytes.len(),
        bytes: bytes.into(),
        fate,
        records: header.records,
        encoding: header.encoding,
        wants_ack: header.wants_ack(),
    }
}

/// A frame that must be taken.
pub fn good(rng: &mut Rng, order: &Order) -> Frame {
    let payload = payload(rng, order);
    frame(header(order), &payload, Fate::Accepted)
}

/// A good JSON frame of one record whose payload has exactly `payload_len` bytes.
pub fn good_of_len(key: (u64, u64), acknowledge: bool, payload_len: usize) -> Frame {
    let order = Order {
        key,
        encoding: Encoding::Json,
        records: 1,
        body_len_max: 0,
        acknowledge,
    };
    let start = format!("{{\"body\":\"{:x}/{}/", key.0, key.1);
    let fill = payload_len
        .checked_sub(start.len() + 2)
        .unwrap_or_else(|| panic!("{payload_len} bytes are too few for a record"));
    let payload = format!("{start}{}\"}}", "x".repeat(fill));
    frame(header(&order), payload.as_bytes(), Fate::Accepted)
}

/// A frame made from `order` with one thing wrong. Its length differs from the good one's where
/// the defect is in the payload.
pub fn bad(rng: &mut Rng, order: &Order, defect: Defect) -> Frame {
    let mut header = header(order);
    let payload = match defect {
        Defect::Malformed => {
            header.encoding = Encoding::Protobuf as u8;
            // Field number 0 does not exist.
            vec![0x00, 0x01]
        }
        Defect::TruncatedPayload => {
            header.encoding = Encoding::Protobuf as u8;
            // A record of 100 bytes of which one is there.
            vec![0x0a, 100, 0x22]
        }
        Defect::TooDeep => {
            header.encoding = Encoding::Json as u8;
            header.records = 1;
            format!("{{\"a\":{}{}}}", "[".repeat(40), "]".repeat(40)).into_bytes()
        }
        Defect::Utf8 => {
            header.encoding = Encoding::Protobuf as u8;
            header.records = 1;
            // A record whose body (field 4) is the one byte FF.
            vec![0x0a, 3, 0x22, 1, 0xff]
        }
        _ => {
            let whole = good(rng, order);
            return spoil(rng, &whole, defect);
        }
    };
    frame(header, &payload, defect.fate())
}

/// Damages a good frame in a way that keeps its length (but for `TooLong`).
pub fn spoil(rng: &mut Rng, whole: &Frame, defect: Defect) -> Frame {
    let mut bytes = whole.bytes.to_vec();
    let mut records = whole.records;
    let mut key = whole.key;
    match defect {
        Defect::Magic => bytes[rng.size(0..=2)] = b'x',
        Defect::Version => bytes[offset::VERSION] = b'2',
        Defect::Reserved => bytes[offset::RESERVED] = 1,
        Defect::Encoding => bytes[offset::ENCODING] = rng.pick(&[0, 6, 255]),
        Defect::UnsupportedEncoding => bytes[offset::ENCODING] = rng.pick(&[4, 5]),
        Defect::Flag => bytes[offset::FLAGS] |= rng.pick(&[0x04, 0x40, 0x80]),
        Defect::Priority => bytes[offset::PRIORITY] = rng.pick(&[4, 255]),
        Defect::NoRecords => records = 0,
        Defect::RecordCount if rng.chance(500) && records > 1 => records -= 1,
        Defect::RecordCount => records += 1,
        Defect::Sequence => key.1 = 0,
        Defect::Foreign => key.0 ^= 0xf0f0_0000,
        Defect::TooLong => {
            let len = rng.between(u64::from(PAYLOAD_LEN_MAX) + 1..=u64::from(PAYLOAD_LEN_MAX) * 2);
            bytes[offset::PAYLOAD_LEN..][..4].copy_from_slice(&(len as u32).to_le_bytes());
            bytes.resize(FRAME_HEADER_LEN + len as usize, 0);
        }
        // Below, after the header is sealed.
        Defect::HeaderChecksum | Defect::PayloadChecksum => {}
        Defect::Malformed | Defect::TruncatedPayload | Defect::TooDeep | Defect::Utf8 => {
            panic!("{defect:?} needs a payload of its own")
        }
    }
    bytes[offset::RECORDS..][..4].copy_from_slice(&records.to_le_bytes());
    bytes[offset::PRODUCER..][..8].copy_from_slice(&key.0.to_le_bytes());
    bytes[offset::SEQUENCE..][..8].copy_from_slice(&key.1.to_le_bytes());
    reseal(&mut bytes);
    let flip = match defect {
        Defect::HeaderChecksum => Some(rng.size(offset::SEQUENCE..=offset::SEQUENCE + 7)),
        Defect::PayloadChecksum => Some(rng.size(FRAME_HEADER_LEN..=bytes.len() - 1)),
        _ => None,
    };
    if let Some(at) = flip {
        bytes[at] ^= 1 << rng.between(0..=7);
    }
    let decided_at = match defect {
        Defect::Magic => 1 + bytes.iter().position(|&b| b == b'x').expect("one was set"),
        Defect::Version
        | Defect::HeaderChecksum
        | Defect::Reserved
        | Defect::Encoding
        | Defect::Flag
        | Defect::Priority
        | Defect::NoRecords
        | Defect::TooLong
        | Defect::Sequence => FRAME_HEADER_LEN,
        _ => bytes.len(),
    };
    Frame {
        key,
        decided_at,
        encoding: bytes[offset::ENCODING],
        bytes: bytes.into(),
        fate: defect.fate(),
        records,
        wants_ack: whole.wants_ack,
    }
}

/// Cuts a good frame so that it is too short for what its header announces, or for a header.
pub fn cut(whole: &Frame, len: usize) -> Frame {
    assert!(len < whole.bytes.len());
    let reason = if len < FRAME_HEADER_LEN {
        Reason::Truncated
    } else {
        Reason::LengthMismatch
    };
    Frame {
        bytes: whole.bytes[..len].into(),
        fate: Fate::Refused(reason),
        ..whole.clone()
    }
}

/// Sets the header's checksum anew.
fn reseal(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(&bytes[..offset::HEADER_CRC]);
    bytes[offset::HEADER_CRC..][..4].copy_from_slice(&crc.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(encoding: Encoding) -> Order {
        Order {
            key: (0xabc, 3),
            encoding,
            records: 4,
            body_len_max: 60,
            acknowledge: true,
        }
    }

    #[test]
    fn good_payloads_are_what_the_slow_decoders_read() {
        let mut rng = Rng::new(7);
        for _ in 0..50 {
            let frame = good(&mut rng, &order(Encoding::Protobuf));
            assert_eq!(LogBatch::decode(frame.payload()).unwrap().records.len(), 4);
            let frame = good(&mut rng, &order(Encoding::Json));
            let text = std::str::from_utf8(frame.payload()).unwrap();
            assert_eq!(text.lines().count(), 4);
            for line in text.lines() {
                serde_json::from_str::<serde_json::Value>(line).unwrap();
            }
        }
        let frame = good_of_len((1, 2), true, 200);
        assert_eq!(frame.bytes.len(), 240);
        serde_json::from_slice::<serde_json::Value>(frame.payload()).unwrap();
    }

    #[test]
    fn each_header_defect_is_the_classifiers() {
        use agent_common::classify::check_header;
        let mut rng = Rng::new(8);
        for defect in Defect::ALL {
            let frame = bad(&mut rng, &order(Encoding::Protobuf), defect);
            let header: &[u8; FRAME_HEADER_LEN] = frame.bytes.first_chunk().unwrap();
            let (Fate::Refused(reason) | Fate::FramingLost(reason)) = frame.fate else {
                panic!("{defect:?} has no reason");
            };
            match check_header(header, PAYLOAD_LEN_MAX) {
                Err(fault) => assert_eq!(Reason::from(fault), reason, "{defect:?}"),
                Ok(()) => assert_eq!(
                    wire::header_crc_matches(header),
                    defect != Defect::HeaderChecksum,
                    "{defect:?}"
                ),
            }
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_bytes() {
        let bytes = |seed| {
            let mut rng = Rng::new(seed);
            (0..20)
                .flat_map(|_| good(&mut rng, &order(Encoding::Protobuf)).bytes.to_vec())
                .collect::<Vec<u8>>()
        };
        assert_eq!(bytes(5), bytes(5));
        assert_ne!(bytes(5), bytes(6));
    }
}
