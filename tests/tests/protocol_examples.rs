//! proto/PROTOCOL.md says what the code does: its tables and its examples, byte for byte.

use agent_common::classify::{HeaderFault, check_header};
use agent_common::frame::{
    ENCODING_MAX, FLAG_ACKNOWLEDGE, FLAG_ZSTD, FRAME_HEADER_LEN, FrameHeader, PRIORITY_MAX,
    UDP_PAYLOAD_LEN_MAX, offset,
};
use penstock::decode::{Decoder, Payload};
use penstock::schema::table::Schemas;
use penstock_client::datagram::{PAYLOAD_LEN_IPV4, PAYLOAD_LEN_IPV6};
use penstock_proto::encoding::Encoding;
use penstock_proto::reason::Reason;
use penstock_proto::v1::{LogBatch, LogRecord};
use penstock_proto::wire::{ACK_LEN, Ack, AckStatus, ZSTD_FRAMES_MAX, ZSTD_RATIO_MAX, write_frame};
use prost::Message;

const DOCUMENT: &str = include_str!("../../proto/PROTOCOL.md");
const PRODUCER: u64 = 0x1122_3344_5566_7788;

/// The bytes of the example with this name: what stands before a `#`, line after line.
fn example(name: &str) -> Vec<u8> {
    let fence = format!("```hex {name}\n");
    let (_, rest) = DOCUMENT
        .split_once(&fence)
        .unwrap_or_else(|| panic!("no example {name}"));
    let (block, _) = rest.split_once("```").expect("the example ends");
    block
        .lines()
        .flat_map(|line| line.split('#').next().unwrap_or("").split_whitespace())
        .map(|byte| {
            assert_eq!(byte.len(), 2, "{name}: {byte}");
            u8::from_str_radix(byte, 16).unwrap_or_else(|_| panic!("{name}: {byte}"))
        })
        .collect()
}

/// The rows of the table whose header row begins with these cells, as trimmed cells.
fn table(header: &[&str]) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
        inner
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect()
    };
    let mut lines = DOCUMENT.lines().skip_while(|line| {
        let found = cells(line);
        !(line.starts_with('|') && found.iter().map(String::as_str).eq(header.iter().copied()))
    });
    assert!(lines.next().is_some(), "no table {header:?}");
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(cells)
        .collect()
}

fn header(encoding: Encoding, records: u32, sequence: u64) -> FrameHeader {
    FrameHeader {
        encoding: encoding as u8,
        flags: FLAG_ACKNOWLEDGE,
        priority: 2,
        payload_len: 0,
        records,
        producer: PRODUCER,
        sequence,
        payload_crc: 0,
    }
}

fn ack(status: AckStatus, sequence: u64, count: u32) -> Ack {
    Ack {
        status,
        reason: 0,
        producer: PRODUCER,
        sequence,
        retry_after_ms: 0,
        count,
    }
}

#[test]
fn the_protobuf_frame() {
    let record = LogRecord {
        time_unix_nano: 1_700_000_000_000_000_000,
        severity_number: 9,
        service_name: "web".into(),
        body: "hello".into(),
        host_name: "h1".into(),
        ..LogRecord::default()
    };
    let batch = LogBatch {
        records: vec![record],
    };
    let mut expected = Vec::new();
    write_frame(
        &mut expected,
        header(Encoding::Protobuf, 1, 1),
        &batch.encode_to_vec(),
    );
    assert_eq!(example("protobuf-frame"), expected);
}

#[test]
fn the_json_frame() {
    let payload = b"{\"body\":\"hello\"}\n{\"body\":\"again\",\"level\":\"warn\"}\n";
    let mut expected = Vec::new();
    write_frame(&mut expected, header(Encoding::Json, 2, 2), payload);
    assert_eq!(example("json-frame"), expected);
}

#[test]
fn the_zstd_frame() {
    let bytes = example("zstd-frame");
    let header = FrameHeader::read(bytes.first_chunk().expect("a header"));
    assert_eq!(header.flags, FLAG_ACKNOWLEDGE | FLAG_ZSTD);
    let payload = Payload::of(&header, &bytes[FRAME_HEADER_LEN..]).expect("JSON");
    assert!(payload.zstd);
    let mut decoder = Decoder::new(&Schemas::default());
    assert!(decoder.validate(&payload, header.records).is_ok());
    let mut bodies = Vec::new();
    let shown = decoder.for_each(&payload, |record| bodies.push(record.body.to_owned()));
    assert_eq!(
        (shown, bodies),
        (Ok(2), vec!["hello".to_owned(), "again".to_owned()])
    );
}

#[test]
fn the_frames_headers_are_right_in_themselves() {
    for name in ["protobuf-frame", "json-frame", "zstd-frame"] {
        let bytes = example(name);
        let head = bytes.first_chunk::<FRAME_HEADER_LEN>().unwrap();
        assert_eq!(
            check_header(head, 1 << 20),
            Ok::<(), HeaderFault>(()),
            "{name}"
        );
        assert_eq!(FrameHeader::read(head).frame_len(), bytes.len(), "{name}");
    }
}

#[test]
fn the_answers() {
    let expected = [
        ("protobuf-ack", ack(AckStatus::Durable, 1, 1)),
        ("json-ack", ack(AckStatus::Durable, 2, 1)),
        (
            "refusal",
            Ack {
                reason: Reason::PayloadChecksum as u8,
                ..ack(AckStatus::Refused, 3, 1)
            },
        ),
        (
            "try-later",
            Ack {
                reason: Reason::Backpressure as u8,
                retry_after_ms: 1000,
                ..ack(AckStatus::TryLater, 6, 3)
            },
        ),
        ("duplicate", ack(AckStatus::Duplicate, 1, 1)),
        (
            "conflict",
            Ack {
                reason: Reason::SequenceConflict as u8,
                ..ack(AckStatus::Refused, 2, 1)
            },
        ),
        (
            "framing-lost",
            Ack {
                reason: Reason::BadMagic as u8,
                producer: 0,
                ..ack(AckStatus::Refused, 0, 0)
            },
        ),
    ];
    for (name, ack) in expected {
        let bytes = example(name);
        assert_eq!(bytes, ack.write(), "{name}");
        assert_eq!(Ack::read(bytes.first_chunk().unwrap()), Some(ack), "{name}");
    }
}

#[test]
fn every_reason_stands_in_the_table_with_its_number() {
    let rows = table(&["number", "label", "meaning"]);
    let documented: Vec<(u8, String)> = rows
        .iter()
        .map(|row| (row[0].parse().expect("a number"), row[1].clone()))
        .collect();
    let known: Vec<(u8, String)> = Reason::ALL
        .iter()
        .map(|&reason| (reason as u8, format!("`{}`", reason.label())))
        .collect();
    assert_eq!(documented, known);
}

#[test]
fn every_reason_of_the_checks_exists() {
    let rows = table(&["step", "fault", "reason", "then"]);
    assert_eq!(rows.len(), 18);
    for label in rows.iter().flat_map(|row| row[2].split(", ")) {
        let known = Reason::ALL
            .iter()
            .any(|reason| label == format!("`{}`", reason.label()));
        assert!(known, "{label} is no reason");
    }
}

/// A header with every fault from some step on is refused for that step's: the order of the table.
#[test]
fn the_header_is_looked_at_in_the_order_of_the_table() {
    let worst = FrameHeader {
        encoding: 9,
        flags: 0xff,
        priority: 9,
        payload_len: u32::MAX,
        records: 0,
        producer: PRODUCER,
        sequence: 0,
        payload_crc: 0,
    };
    let mut bytes = worst.write();
    bytes[0] = b'X';
    bytes[offset::VERSION] = b'X';
    bytes[offset::RESERVED] = 1;
    let mut found = Vec::new();
    while let Err(fault) = check_header(&bytes, 1 << 20) {
        let reason = Reason::from(fault);
        found.push(format!("`{}`", reason.label()));
        match fault {
            HeaderFault::Magic => bytes[0] = b'P',
            HeaderFault::Version => bytes[offset::VERSION] = b'1',
            HeaderFault::Encoding => bytes[offset::ENCODING] = 1,
            HeaderFault::Flags => bytes[offset::FLAGS] = 0,
            HeaderFault::Priority => bytes[offset::PRIORITY] = 0,
            HeaderFault::Reserved => bytes[offset::RESERVED] = 0,
            HeaderFault::NoRecords => bytes[offset::RECORDS] = 1,
            HeaderFault::TooLong => bytes[offset::PAYLOAD_LEN..][..4].fill(0),
            other => panic!("{other:?}"),
        }
    }
    let rows = table(&["step", "fault", "reason", "then"]);
    // Steps 1 to 9 but for the checksum, which the classifier does not compute.
    let documented: Vec<String> = rows[..9]
        .iter()
        .map(|row| row[2].clone())
        .filter(|label| label != "`header_checksum`")
        .collect();
    assert_eq!(found, documented);
}

#[test]
fn every_status_stands_in_the_table() {
    let rows = table(&["status", "name", "meaning", "what the client does"]);
    let documented: Vec<(u8, String)> = rows
        .iter()
        .map(|row| (row[0].parse().expect("a number"), row[1].clone()))
        .collect();
    let known: Vec<(u8, String)> = AckStatus::ALL
        .iter()
        .map(|&status| (status as u8, format!("`{}`", status.label())))
        .collect();
    assert_eq!(documented, known);
}

#[test]
fn every_encoding_stands_in_the_table() {
    let rows = table(&["encoding", "payload", "in this version"]);
    let numbers: Vec<u8> = rows.iter().map(|row| row[0].parse().unwrap()).collect();
    assert_eq!(numbers, (1..=ENCODING_MAX).collect::<Vec<_>>());
    for row in rows {
        let decoded = Encoding::from_wire(row[0].parse().unwrap()).is_some();
        assert_eq!(row[2] == "decoded", decoded, "{row:?}");
        assert_eq!(
            row[2].contains("`unsupported_encoding`"),
            !decoded,
            "{row:?}"
        );
    }
}

#[test]
fn the_limits_are_those_of_the_code() {
    let rows = table(&["limit", "value"]);
    let documented: Vec<usize> = rows
        .iter()
        .map(|row| {
            let digits: String = row[1].chars().filter(char::is_ascii_digit).collect();
            digits.parse().expect("a number")
        })
        .collect();
    let known = [
        FRAME_HEADER_LEN,
        penstock::limits::TCP_PAYLOAD_LEN_MAX,
        UDP_PAYLOAD_LEN_MAX as usize,
        penstock::limits::PAYLOAD_LEN_MAX,
        ZSTD_RATIO_MAX,
        ZSTD_FRAMES_MAX,
        PAYLOAD_LEN_IPV4,
        PAYLOAD_LEN_IPV6,
        penstock::limits::OUTSTANDING_FRAMES_MAX,
        ACK_LEN,
    ];
    assert_eq!(documented, known);
}

#[test]
fn the_fields_stand_at_their_offsets() {
    let offsets: Vec<usize> = table(&["offset", "size", "field"])
        .iter()
        .map(|row| row[0].parse().unwrap())
        .collect();
    let known = [
        0,
        offset::ENCODING,
        offset::FLAGS,
        offset::PRIORITY,
        offset::RESERVED,
        offset::PAYLOAD_LEN,
        offset::RECORDS,
        offset::PRODUCER,
        offset::SEQUENCE,
        offset::PAYLOAD_CRC,
        offset::HEADER_CRC,
    ];
    assert_eq!(offsets, known);
    assert_eq!((FLAG_ZSTD, FLAG_ACKNOWLEDGE, PRIORITY_MAX), (1, 2, 3));
}
