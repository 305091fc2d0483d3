//! A peer of the agent, written from the protocol: known records, frames, and sockets whose waits
//! end.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use agent_common::frame::{FLAG_ACKNOWLEDGE, FrameHeader};
use penstock_proto::avro::SchemaVersion;
use penstock_proto::encoding::Encoding;
use penstock_proto::v1::{LogBatch, LogRecord};
use penstock_proto::wire::{ACK_LEN, Ack, AckStatus, write_frame};
use prost::Message;
use serde_json::json;

/// How long a peer waits for an answer before the test fails.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A record with every field, told apart by `name` and `number`.
pub fn record(name: &str, number: u64) -> LogRecord {
    LogRecord {
        time_unix_nano: 1_795_178_701_000_000_000 + number,
        severity_number: (number % 24) as u32 + 1,
        service_name: name.to_owned(),
        body: format!("{name} {number}: naïve ☃ \"quoted\"\tline"),
        host_name: "web-17".to_owned(),
        attributes: [("n", number.to_string()), ("größe", "10 µm".to_owned())]
            .map(|(key, value)| (key.to_owned(), value))
            .into(),
        trace_id: u128::from(number).to_be_bytes().to_vec(),
        span_id: number.to_be_bytes().to_vec(),
    }
}

/// A record that is nothing but its body.
pub fn line(body: impl Into<String>) -> LogRecord {
    LogRecord {
        body: body.into(),
        ..LogRecord::default()
    }
}

/// A payload: by prost, as Avro of the newest version, or as JSON lines.
pub fn payload(encoding: Encoding, records: &[LogRecord]) -> Vec<u8> {
    match encoding {
        Encoding::Protobuf => LogBatch {
            records: records.to_vec(),
        }
        .encode_to_vec(),
        Encoding::Avro => avro(SchemaVersion::V3, records),
        Encoding::Json => records.iter().flat_map(json_line).collect(),
    }
}

/// Avro's single-object encoding of an array, each record a block of its own that says how long it
/// is: other blocks than the client's.
pub fn avro(schema: SchemaVersion, records: &[LogRecord]) -> Vec<u8> {
    let mut payload = vec![0xc3, 0x01];
    payload.extend_from_slice(&schema.array_fingerprint().to_le_bytes());
    for record in records {
        let record = avro_record(schema, record);
        long(-1, &mut payload);
        long(record.len() as i64, &mut payload);
        payload.extend_from_slice(&record);
    }
    long(0, &mut payload);
    payload
}

/// What a version of the Avro schema can say of a record.
pub fn as_of(schema: SchemaVersion, mut record: LogRecord) -> LogRecord {
    if schema != SchemaVersion::V3 {
        record.trace_id.clear();
        record.span_id.clear();
    }
    if schema == SchemaVersion::V1 {
        record.host_name.clear();
        record.attributes.clear();
    }
    record
}

fn avro_record(schema: SchemaVersion, record: &LogRecord) -> Vec<u8> {
    let mut out = Vec::new();
    let bytes = |bytes: &[u8], out: &mut Vec<u8>| {
        long(bytes.len() as i64, out);
        out.extend_from_slice(bytes);
    };
    long(record.time_unix_nano as i64, &mut out);
    long(i64::from(record.severity_number as i32), &mut out);
    bytes(record.service_name.as_bytes(), &mut out);
    bytes(record.body.as_bytes(), &mut out);
    if schema != SchemaVersion::V1 {
        bytes(record.host_name.as_bytes(), &mut out);
        for (key, value) in &record.attributes {
            long(1, &mut out);
            bytes(key.as_bytes(), &mut out);
            bytes(value.as_bytes(), &mut out);
        }
        long(0, &mut out);
    }
    if schema == SchemaVersion::V3 {
        bytes(&record.trace_id, &mut out);
        bytes(&record.span_id, &mut out);
    }
    out
}

/// Zigzag, then seven bits a byte, the low ones first.
fn long(value: i64, out: &mut Vec<u8>) {
    let mut rest = (value << 1 ^ value >> 63) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn json_line(record: &LogRecord) -> Vec<u8> {
    let object = json!({
        "time_unix_nano": record.time_unix_nano.to_string(),
        "severity_number": record.severity_number,
        "service_name": record.service_name,
        "body": record.body,
        "host_name": record.host_name,
        "attributes": record.attributes,
        "trace_id": hex::write(&record.trace_id),
        "span_id": hex::write(&record.span_id),
    });
    format!("{object}\n").into_bytes()
}

/// The header of a good frame; `write_frame` sets what depends on the payload.
pub fn header(encoding: Encoding, producer: u64, sequence: u64, records: u32) -> FrameHeader {
    FrameHeader {
        encoding: encoding as u8,
        flags: FLAG_ACKNOWLEDGE,
        priority: 2,
        payload_len: 0,
        records,
        producer,
        sequence,
        payload_crc: 0,
    }
}

/// A good frame.
pub fn frame(encoding: Encoding, producer: u64, sequence: u64, records: &[LogRecord]) -> Vec<u8> {
    let header = header(encoding, producer, sequence, records.len() as u32);
    let mut bytes = Vec::new();
    write_frame(&mut bytes, header, &payload(encoding, records));
    bytes
}

/// A good frame of one record, a body.
pub fn line_frame(producer: u64, sequence: u64, body: &str) -> Vec<u8> {
    frame(Encoding::Protobuf, producer, sequence, &[line(body)])
}

/// A frame of nobody, of the highest priority.
pub fn critical_frame(body: &str) -> Vec<u8> {
    let header = FrameHeader {
        priority: 0,
        ..header(Encoding::Protobuf, 0, 0, 1)
    };
    let mut bytes = Vec::new();
    write_frame(
        &mut bytes,
        header,
        &payload(Encoding::Protobuf, &[line(body)]),
    );
    bytes
}

/// A TCP connection that reads its acknowledgements.
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, ANSWER_MAX).expect("connect");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream
            .set_read_timeout(Some(ANSWER_MAX))
            .expect("a time limit");
        stream
            .set_write_timeout(Some(ANSWER_MAX))
            .expect("a time limit");
        Self { stream }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn local(&self) -> SocketAddr {
        self.stream.local_addr().expect("an address")
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send");
    }

    pub fn shutdown(&self) {
        self.stream.shutdown(Shutdown::Write).expect("half-close");
    }

    /// Closes with a reset instead of an end.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket
            .set_linger(Some(Duration::ZERO))
            .expect("SO_LINGER of 0");
    }

    /// The next acknowledgement; `None` at the connection's end.
    pub fn next_ack(&mut self) -> io::Result<Option<Ack>> {
        let mut bytes = [0; ACK_LEN];
        let mut filled = 0;
        while filled < ACK_LEN {
            match self.stream.read(&mut bytes[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(Ack::read(&bytes).expect("an acknowledgement")))
    }

    /// Reads until `frames` frames are answered, and returns each one's answer by its sequence.
    pub fn answers(&mut self, frames: usize) -> Vec<Answer> {
        let mut answers = Vec::new();
        while answers.len() < frames {
            let ack = self.next_ack().expect("an answer in time");
            let ack = ack.unwrap_or_else(|| panic!("an end after {answers:?}"));
            answers.extend(Answer::all_of(&ack));
        }
        answers.sort_unstable_by_key(|answer| answer.sequence);
        answers
    }
}

/// What the agent said of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub producer: u64,
    pub sequence: u64,
    pub status: AckStatus,
    pub reason: u8,
}

impl Answer {
    pub fn durable(producer: u64, sequence: u64) -> Self {
        Self {
            producer,
            sequence,
            status: AckStatus::Durable,
            reason: 0,
        }
    }

    /// An acknowledgement speaks of the `count` frames that end at `sequence`.
    pub fn all_of(ack: &Ack) -> impl Iterator<Item = Self> + use<> {
        let ack = *ack;
        (0..u64::from(ack.count)).map(move |back| Self {
            producer: ack.producer,
            sequence: ack.sequence - back,
            status: ack.status,
            reason: ack.reason,
        })
    }
}

/// A UDP socket, connected; it sends single datagrams and bundles.
pub struct Datagrams {
    socket: UdpSocket,
}

impl Datagrams {
    pub fn open(to: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        socket.connect(to).expect("connect");
        socket
            .set_write_timeout(Some(ANSWER_MAX))
            .expect("a time limit");
        Self { socket }
    }

    pub fn local(&self) -> SocketAddr {
        self.socket.local_addr().expect("an address")
    }

    /// One datagram.
    pub fn send(&self, datagram: &[u8]) {
        self.set_segment_len(0);
        assert_eq!(self.socket.send(datagram).expect("send"), datagram.len());
    }

    /// One bundle (UDP_SEGMENT, Linux 4.18): datagrams of one length, of which the last may be
    /// shorter. On loopback it arrives as it is.
    pub fn send_bundle(&self, datagrams: &[Vec<u8>]) {
        let len = datagrams[0].len();
        let (last, others) = datagrams.split_last().expect("a datagram");
        assert!(others.iter().all(|each| each.len() == len) && last.len() <= len);
        self.set_segment_len(len as i32);
        let bytes = datagrams.concat();
        assert_eq!(self.socket.send(&bytes).expect("send"), bytes.len());
    }

    fn set_segment_len(&self, len: i32) {
        // SAFETY: an int's address and its size, alive for the call; the descriptor is open.
        let set = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                (&raw const len).cast(),
                size_of_val(&len) as libc::socklen_t,
            )
        };
        assert_eq!(set, 0, "UDP_SEGMENT {}", io::Error::last_os_error());
    }
}

/// Bytes as hexadecimal digits.
pub mod hex {
    pub fn write(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub fn read(digits: &str) -> Vec<u8> {
        let pairs = digits.as_bytes().chunks(2);
        pairs
            .map(|pair| {
                let pair = std::str::from_utf8(pair).expect("ASCII");
                u8::from_str_radix(pair, 16).expect("hexadecimal")
            })
            .collect()
    }
}
