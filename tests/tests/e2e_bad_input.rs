//! Whatever a stranger sends is refused by a named reason, answered over TCP, counted, and harms
//! nobody: not the frames before and behind it, not the datagrams beside it, not other connections.

use std::io::ErrorKind;
use std::time::Duration;

use agent_common::frame::{FLAG_ZSTD, FRAME_HEADER_LEN, FrameHeader};
use penstock::limits;
use penstock_proto::avro::SchemaVersion;
use penstock_proto::encoding::Encoding;
use penstock_proto::reason::Reason;
use penstock_proto::wire::{Ack, AckStatus, seal, write_frame};
use penstock_tests::agent::client::{
    Answer, Connection, Datagrams, header, line, line_frame, payload,
};
use penstock_tests::agent::config::{Config, Gate};
use penstock_tests::agent::law::{Offered, drained};
use penstock_tests::agent::{Home, stored, wait_for};
use penstock_tests::in_both_gates;

in_both_gates!(
    datagrams_alone,
    datagrams_in_a_bundle,
    an_empty_datagram_and_a_cut_bundle,
);

const PRODUCER: u64 = 0x5eed;

/// A frame that must be refused. Its header is that of a good frame but for what is wrong.
struct Bad {
    reason: Reason,
    bytes: Vec<u8>,
}

fn bad(reason: Reason, header: FrameHeader, payload: &[u8]) -> Bad {
    let mut bytes = seal(&header).to_vec();
    bytes.extend_from_slice(payload);
    Bad { reason, bytes }
}

fn whole(header: FrameHeader, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_frame(&mut bytes, header, payload);
    bytes
}

/// Faults of a header that is to be believed: the stream goes on behind the frame.
fn bad_headers(sequence: u64) -> Vec<Bad> {
    let payload = payload(Encoding::Protobuf, &[line("never stored")]);
    let good = FrameHeader {
        payload_len: payload.len() as u32,
        payload_crc: crc32c::crc32c(&payload),
        ..header(Encoding::Protobuf, PRODUCER, sequence, 1)
    };
    let with = |reason, header| bad(reason, header, &payload);
    let mut reserved = with(Reason::BadReserved, good);
    reserved.bytes[7] = 1;
    let crc = crc32c::crc32c(&reserved.bytes[..36]).to_le_bytes();
    reserved.bytes[36..40].copy_from_slice(&crc);
    vec![
        with(
            Reason::UnknownEncoding,
            FrameHeader {
                encoding: 0,
                ..good
            },
        ),
        with(
            Reason::UnknownEncoding,
            FrameHeader {
                encoding: 6,
                ..good
            },
        ),
        with(
            Reason::UnknownFlag,
            FrameHeader {
                flags: good.flags | 4,
                ..good
            },
        ),
        with(
            Reason::BadPriority,
            FrameHeader {
                priority: 4,
                ..good
            },
        ),
        reserved,
        with(Reason::NoRecords, FrameHeader { records: 0, ..good }),
        with(
            Reason::PayloadChecksum,
            FrameHeader {
                payload_crc: !good.payload_crc,
                ..good
            },
        ),
        with(
            Reason::MalformedCompression,
            FrameHeader {
                flags: good.flags | FLAG_ZSTD,
                ..good
            },
        ),
        // OTLP and raw messages stand in the protocol, and have no decoder yet.
        with(
            Reason::UnsupportedEncoding,
            FrameHeader {
                encoding: 4,
                ..good
            },
        ),
        with(
            Reason::UnsupportedEncoding,
            FrameHeader {
                encoding: 5,
                ..good
            },
        ),
        with(Reason::RecordCount, FrameHeader { records: 2, ..good }),
        with(
            Reason::RecordCount,
            FrameHeader {
                records: u32::MAX,
                ..good
            },
        ),
    ]
}

/// Payloads that no decoder takes, in frames whose checksums are right.
fn bad_payloads(sequence: u64) -> Vec<Bad> {
    // Groups of field 15 (keys 0x7b and 0x7c) may nest to 32.
    let groups = [vec![0x7b; 40], vec![0x7c; 40]].concat();
    let brackets = format!("{{\"a\":{}{}}}", "[".repeat(40), "]".repeat(40));
    // An array of v3 records: its head, and what follows it.
    let v3 = SchemaVersion::V3.array_fingerprint().to_le_bytes();
    let avro = |datum: &[u8]| [&[0xc3, 1], &v3[..], datum].concat();
    let unknown = [&[0xc3, 1], &[0xee; 8][..], &[0]].concat();
    let unknown_id = [0, 0, 0, 0, 77, 2, 0, 0, 0, 0];
    let huge_count = avro(b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01");
    let cut = avro(&[2, 0, 0, 6, b'x']);
    // One record in -1 bytes; a service of -1 bytes; a body that is no text; no record.
    let negative_size = avro(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let negative_len = avro(&[2, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let no_text = avro(&[2, 0, 0, 0, 2, 0xff, 0, 0, 0, 0, 0]);
    let no_record = avro(&[0]);
    let cases: [(Reason, Encoding, &[u8]); 18] = [
        (Reason::UnknownSchema, Encoding::Avro, &unknown),
        (Reason::UnknownSchema, Encoding::Avro, &unknown_id),
        (Reason::TruncatedPayload, Encoding::Avro, &huge_count),
        (Reason::TruncatedPayload, Encoding::Avro, &cut),
        (Reason::MalformedPayload, Encoding::Avro, &negative_size),
        (Reason::MalformedPayload, Encoding::Avro, &negative_len),
        (Reason::InvalidUtf8, Encoding::Avro, &no_text),
        (Reason::RecordCount, Encoding::Avro, &no_record),
        (
            Reason::TruncatedPayload,
            Encoding::Protobuf,
            &[0x0a, 0x7f, 0x22, 0x01, b'x'],
        ),
        (Reason::TruncatedPayload, Encoding::Json, b"{\"body\":\"cut"),
        (Reason::TooDeep, Encoding::Protobuf, &groups),
        (Reason::TooDeep, Encoding::Json, brackets.as_bytes()),
        (
            Reason::InvalidUtf8,
            Encoding::Protobuf,
            &[0x0a, 0x03, 0x22, 0x01, 0xff],
        ),
        (Reason::InvalidUtf8, Encoding::Json, b"{\"body\":\"\xc3\"}"),
        // Wire type 7, of which there is none; a body that is a varint.
        (
            Reason::MalformedPayload,
            Encoding::Protobuf,
            &[0x0f, 0, 0, 0],
        ),
        (
            Reason::MalformedPayload,
            Encoding::Protobuf,
            &[0x0a, 0x02, 0x20, 0x01],
        ),
        (Reason::MalformedPayload, Encoding::Json, b"no object"),
        (Reason::RecordCount, Encoding::Json, b"{}\n{}\n"),
    ];
    let frames = cases.into_iter().map(|(reason, encoding, payload)| {
        // In front stands what a decoder passes over, so that a good frame can be as long: an
        // unknown field (15, with 6 bytes), or a blank line.
        let passed_over: &[u8] = match encoding {
            Encoding::Protobuf => &[0x7a, 6, 0, 0, 0, 0, 0, 0],
            Encoding::Json => b"       \n",
            // A datum has no place for it, and is long enough with its schema's name.
            Encoding::Avro => b"",
        };
        let payload = [passed_over, payload].concat();
        let bytes = whole(header(encoding, PRODUCER, sequence, 1), &payload);
        Bad { reason, bytes }
    });
    frames.collect()
}

/// Payloads that no decompressor takes. In front stands a skippable frame, so that a good frame can be
/// as long.
fn bad_compression(sequence: u64) -> Vec<Bad> {
    // By hand, from RFC 8878: magic, a descriptor, what it announces, and a last block of 4 raw bytes.
    let zstd = |descriptor: u8, fields: &[u8]| {
        let magic = [0x28, 0xb5, 0x2f, 0xfd];
        [&magic[..], &[descriptor], fields, &[0x21, 0, 0], b"four"].concat()
    };
    let right = zstd(0x20, &[4]);
    let cases = [
        (
            Reason::MalformedCompression,
            right[..right.len() - 1].to_vec(),
        ),
        (
            Reason::MalformedCompression,
            [&right[..], b"behind"].concat(),
        ),
        (Reason::MalformedCompression, zstd(0x20, &[5])),
        // Decompressed 2 MiB; 4 GiB.
        (
            Reason::DecompressedTooLong,
            zstd(0xa0, &(2_u32 << 20).to_le_bytes()),
        ),
        (Reason::DecompressedTooLong, zstd(0xa0, &[0xff; 4])),
        // A dictionary's id of one byte.
        (Reason::UnknownDictionary, zstd(0x21, &[7, 4])),
        // In order, and no record.
        (Reason::MalformedPayload, right),
    ];
    let frames = cases.into_iter().map(|(reason, payload)| {
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 8, 0, 0, 0][..], &[0; 8]].concat();
        let header = FrameHeader {
            flags: FLAG_ZSTD | header(Encoding::Json, PRODUCER, sequence, 1).flags,
            ..header(Encoding::Json, PRODUCER, sequence, 1)
        };
        let bytes = whole(header, &[skippable, payload].concat());
        Bad { reason, bytes }
    });
    frames.collect()
}

/// Faults that leave nobody knowing where the next frame begins.
fn lost_framing() -> Vec<Bad> {
    let good = line_frame(PRODUCER, 2, "never stored");
    let changed = |reason, at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Bad { reason, bytes }
    };
    vec![
        changed(Reason::BadMagic, 0, b'G'),
        changed(Reason::UnknownVersion, 3, b'2'),
        // Whatever field is damaged: the header's own checksum says so first.
        changed(Reason::HeaderChecksum, 8, 0xff),
        changed(Reason::HeaderChecksum, 16, 0xff),
        changed(Reason::HeaderChecksum, 36, !good[36]),
    ]
}

fn refused(sequence: u64, reason: Reason) -> Answer {
    Answer {
        producer: PRODUCER,
        sequence,
        status: AckStatus::Refused,
        reason: reason as u8,
    }
}

/// One connection: good, bad, good, for every fault behind which the stream goes on.
#[test]
fn tcp_refusals_are_named_and_their_neighbours_stored() {
    let home = Home::new();
    let agent = home.start(&Config::new(Gate::UserSpace));
    let mut connection = Connection::open(agent.tcp());
    let mut expected = Vec::new();
    let mut bodies = Vec::new();
    let mut sequence = 1;
    let mut good = |connection: &mut Connection, expected: &mut Vec<Answer>, sequence: u64| {
        let body = format!("good {sequence}");
        connection.send(&line_frame(PRODUCER, sequence, &body));
        expected.push(Answer::durable(PRODUCER, sequence));
        bodies.push(body);
    };
    good(&mut connection, &mut expected, sequence);
    let count = bad_headers(0).len() + bad_payloads(0).len() + bad_compression(0).len();
    let mut reasons = Vec::new();
    for case in 0..count {
        sequence += 1;
        let mut all = bad_headers(sequence)
            .into_iter()
            .chain(bad_payloads(sequence))
            .chain(bad_compression(sequence));
        let Bad { reason, bytes } = all.nth(case).expect("one of the count");
        connection.send(&bytes);
        expected.push(refused(sequence, reason));
        reasons.push(reason);
        sequence += 1;
        good(&mut connection, &mut expected, sequence);
    }

    // Beyond the listener's limit: stepped over, all of it.
    sequence += 1;
    let too_long = vec![b'x'; limits::TCP_PAYLOAD_LEN_MAX + 1];
    connection.send(&whole(
        header(Encoding::Json, PRODUCER, sequence, 1),
        &too_long,
    ));
    expected.push(refused(sequence, Reason::TooLong));
    reasons.push(Reason::TooLong);
    sequence += 1;
    good(&mut connection, &mut expected, sequence);

    // A sequence of 0, which no frame has, and another producer's frame.
    connection.send(&line_frame(PRODUCER, 0, "never stored"));
    expected.insert(0, refused(0, Reason::BadSequence));
    reasons.push(Reason::BadSequence);
    sequence += 1;
    connection.send(&line_frame(PRODUCER + 1, sequence, "never stored"));
    expected.push(Answer {
        producer: PRODUCER + 1,
        ..refused(sequence, Reason::ForeignProducer)
    });
    reasons.push(Reason::ForeignProducer);
    sequence += 1;
    good(&mut connection, &mut expected, sequence);

    assert_eq!(connection.answers(expected.len()), expected);
    let metrics = drained(&agent, Gate::UserSpace, Offered::default());
    for reason in Reason::ALL {
        let sent = reasons.iter().filter(|each| *each == reason).count() as u64;
        let counted = metrics.refused("tcp", reason.label());
        assert_eq!(counted, sent, "{}", reason.label());
    }
    let acks = metrics.one("penstock_acks_total", &[("status", "refused")]);
    assert_eq!(acks, reasons.len() as u64);
    agent.stop();
    let stored = stored::read(&home.records());
    let found: Vec<&str> = stored
        .iter()
        .map(|each| each.record.body.as_str())
        .collect();
    assert_eq!(found, bodies);
}

/// Status 2 with producer and sequence 0, and the end; another connection does not notice.
#[test]
fn lost_framing_ends_one_connection_only() {
    let home = Home::new();
    let agent = home.start(&Config::new(Gate::UserSpace));
    let mut other = Connection::open(agent.tcp());
    let cases = lost_framing();
    for (at, Bad { reason, bytes }) in cases.iter().enumerate() {
        let sequence = at as u64 + 1;
        let mut connection = Connection::open(agent.tcp());
        // One of its own: another connection's frame 1 would be a conflict.
        let producer = PRODUCER + sequence;
        connection.send(&line_frame(producer, 1, &format!("before {at}")));
        connection.send(bytes);
        connection.send(&line_frame(producer, 3, "behind"));
        let mut acks: Vec<Ack> = Vec::new();
        // The end, or a reset: what stood behind the fault was not read.
        while let Ok(Some(ack)) = connection.next_ack() {
            acks.push(ack);
        }
        acks.sort_unstable_by_key(|ack| ack.sequence);
        let lost = Ack {
            status: AckStatus::Refused,
            reason: *reason as u8,
            producer: 0,
            sequence: 0,
            retry_after_ms: 0,
            count: 0,
        };
        let durable = Ack {
            status: AckStatus::Durable,
            reason: 0,
            producer,
            sequence: 1,
            count: 1,
            ..lost
        };
        assert_eq!(acks, [lost, durable], "{reason:?}");
        other.send(&line_frame(7, sequence, &format!("other {at}")));
        assert_eq!(other.answers(1), [Answer::durable(7, sequence)]);
    }
    let metrics = drained(&agent, Gate::UserSpace, Offered::default());
    assert_eq!(metrics.refused("tcp", "bad_magic"), 1);
    assert_eq!(metrics.refused("tcp", "unknown_version"), 1);
    assert_eq!(metrics.refused("tcp", "header_checksum"), 3);
    let labels = [("listener", "tcp"), ("reason", "framing_lost")];
    let closed = metrics.one("penstock_connections_closed_total", &labels);
    assert_eq!(closed, cases.len() as u64);
    assert_eq!(
        metrics.one("penstock_connections", &[("listener", "tcp")]),
        1
    );
    agent.stop();
    let stored = stored::read(&home.records());
    let bodies = stored::bodies(&stored);
    assert_eq!(bodies.len(), 2 * cases.len());
    assert!(
        bodies
            .keys()
            .all(|body| !body.starts_with("behind") && !body.starts_with("never"))
    );
}

/// What a single datagram earns: a header that is no frame's is dropped by the gate, the rest is
/// refused by the parser.
fn datagrams_alone(gate: Gate) {
    let home = Home::new();
    let agent = home.start(&Config::new(gate));
    let socket = Datagrams::open(agent.udp());
    let cases = datagram_cases();
    for (at, case) in cases.iter().enumerate() {
        socket.send(&case.bytes);
        socket.send(&line_frame(0, 0, &format!("good {at}")));
    }
    let offered = Offered {
        datagrams: 2 * cases.len() as u64,
        ..Offered::default()
    };
    let metrics = drained(&agent, gate, offered);
    let malformed = cases
        .iter()
        .filter(|case| is_seen_by_gate(case.reason))
        .count() as u64;
    let labels = [("listener", "udp"), ("verdict", "malformed")];
    assert_eq!(
        metrics.one("penstock_gate_datagrams_total", &labels),
        malformed
    );
    for reason in Reason::ALL {
        let of_it = cases
            .iter()
            .filter(|case| case.reason == *reason && !is_seen_by_gate(*reason));
        let counted = metrics.refused("udp", reason.label());
        assert_eq!(counted, of_it.count() as u64, "{}", reason.label());
    }
    agent.stop();
    let stored = stored::read(&home.records());
    let bodies: Vec<String> = stored.into_iter().map(|each| each.record.body).collect();
    let expected: Vec<String> = (0..cases.len()).map(|at| format!("good {at}")).collect();
    assert_eq!(bodies, expected);
}

/// The same faults, each between two good datagrams of one bundle: all three pass the gate, and the
/// parser names the one.
fn datagrams_in_a_bundle(gate: Gate) {
    let home = Home::new();
    let agent = home.start(&Config::new(gate));
    let socket = Datagrams::open(agent.udp());
    let mut reasons = Vec::new();
    let mut expected = Vec::new();
    let mut send = |reason: Reason, bundle: &[Vec<u8>], bodies: Vec<String>| {
        socket.send_bundle(bundle);
        reasons.push(reason);
        expected.extend(bodies);
    };
    let mut datagrams = 0;
    for (at, case) in datagram_cases().into_iter().enumerate() {
        if case.bytes.len() < FRAME_HEADER_LEN {
            // Shorter than the others: it can only be the last.
            let (body, good) = good_of_len(at, 'a', 60);
            datagrams += 2;
            send(case.reason, &[good, case.bytes], vec![body]);
            continue;
        }
        let (before, first) = good_of_len(at, 'a', case.bytes.len());
        let (behind, last) = good_of_len(at, 'b', case.bytes.len());
        datagrams += 3;
        send(
            case.reason,
            &[first, case.bytes, last],
            vec![before, behind],
        );
    }
    let offered = Offered {
        datagrams,
        ..Offered::default()
    };
    let metrics = drained(&agent, gate, offered);
    let labels = [("listener", "udp"), ("verdict", "passed")];
    assert_eq!(
        metrics.one("penstock_gate_datagrams_total", &labels),
        datagrams
    );
    for reason in Reason::ALL {
        let sent = reasons.iter().filter(|each| *each == reason).count() as u64;
        let counted = metrics.refused("udp", reason.label());
        assert_eq!(counted, sent, "{}", reason.label());
    }
    agent.stop();
    let stored = stored::read(&home.records());
    let bodies: Vec<String> = stored.into_iter().map(|each| each.record.body).collect();
    assert_eq!(bodies, expected);
}

/// An empty datagram is one too; and a bundle of nothing but strangers is dropped whole.
fn an_empty_datagram_and_a_cut_bundle(gate: Gate) {
    let home = Home::new();
    let agent = home.start(&Config::new(gate));
    let socket = Datagrams::open(agent.udp());
    socket.send(b"");
    socket.send_bundle(&[vec![b'x'; 100], vec![b'x'; 100], vec![b'x'; 7]]);
    let mut cut = line_frame(0, 0, "cut in two by its own sender");
    cut.truncate(cut.len() - 1);
    socket.send(&cut);
    socket.send(&line_frame(0, 0, "good"));
    let offered = Offered {
        datagrams: 6,
        ..Offered::default()
    };
    let metrics = drained(&agent, gate, offered);
    let labels = [("listener", "udp"), ("verdict", "malformed")];
    assert_eq!(metrics.one("penstock_gate_datagrams_total", &labels), 5);
    assert_eq!(metrics.sum("penstock_refused_frames_total", &[]), 0);
    agent.stop();
    assert_eq!(stored::read(&home.records()).len(), 1);
}

/// Everything that is wrong with a datagram.
fn datagram_cases() -> Vec<Bad> {
    let good = line_frame(PRODUCER, 1, "never stored");
    let sealed = |reason, header: FrameHeader| bad(reason, header, &good[FRAME_HEADER_LEN..]);
    let read = FrameHeader::read(good[..FRAME_HEADER_LEN].try_into().expect("40 bytes"));
    let mut cases = bad_headers(1);
    cases.extend(bad_payloads(1));
    cases.extend(bad_compression(1));
    cases.extend(lost_framing());
    // 0xff in the length's low byte makes it another length first.
    cases.retain(|case| case.bytes.get(8) != Some(&0xff));
    cases.extend([
        Bad {
            reason: Reason::Truncated,
            bytes: good[..FRAME_HEADER_LEN - 1].to_vec(),
        },
        sealed(
            Reason::LengthMismatch,
            FrameHeader {
                payload_len: read.payload_len - 1,
                ..read
            },
        ),
        sealed(
            Reason::LengthMismatch,
            FrameHeader {
                payload_len: read.payload_len + 1,
                ..read
            },
        ),
        sealed(
            Reason::TooLong,
            FrameHeader {
                payload_len: 65_468,
                ..read
            },
        ),
        Bad {
            reason: Reason::BadSequence,
            bytes: line_frame(PRODUCER, 0, "never stored"),
        },
    ]);
    cases
}

/// The faults that a header shows without a checksum: the gate's (DESIGN: it computes no CRC).
fn is_seen_by_gate(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Truncated
            | Reason::BadMagic
            | Reason::UnknownVersion
            | Reason::UnknownEncoding
            | Reason::UnknownFlag
            | Reason::BadPriority
            | Reason::BadReserved
            | Reason::NoRecords
            | Reason::TooLong
            | Reason::LengthMismatch
    )
}

/// A good frame of exactly `len` bytes with a body of its own.
fn good_of_len(at: usize, place: char, len: usize) -> (String, Vec<u8>) {
    // A batch of one record with a body below 128 bytes: two keys and two lengths of a byte each.
    let body_len = len - FRAME_HEADER_LEN - 4;
    assert!(body_len < 120, "the lengths take one byte each");
    let mut body = format!("{at}{place}");
    assert!(body.len() <= body_len, "room for a body of its own");
    body.extend(std::iter::repeat_n('.', body_len - body.len()));
    let bytes = line_frame(0, 0, &body);
    assert_eq!(bytes.len(), len);
    (body, bytes)
}

/// A peer that closes its side at once still gets every answer, and the end behind them.
#[test]
fn a_half_closed_peer_gets_its_answers() {
    let home = Home::new();
    let agent = home.start(&Config::new(Gate::UserSpace));
    let mut connection = Connection::open(agent.tcp());
    for sequence in 1..=50 {
        connection.send(&line_frame(PRODUCER, sequence, &format!("{sequence}")));
    }
    // The beginning of one more, which is refused as truncated and stored nowhere.
    connection.send(&line_frame(PRODUCER, 51, "cut")[..45]);
    connection.shutdown();
    let expected: Vec<Answer> = (1..=50).map(|n| Answer::durable(PRODUCER, n)).collect();
    assert_eq!(connection.answers(50), expected);
    assert_eq!(connection.next_ack().expect("an end"), None);
    let metrics = drained(&agent, Gate::UserSpace, Offered::default());
    assert_eq!(metrics.refused("tcp", "truncated"), 1);
    let labels = [("listener", "tcp"), ("reason", "end_in_frame")];
    assert_eq!(metrics.one("penstock_connections_closed_total", &labels), 1);
    agent.stop();
    assert_eq!(stored::read(&home.records()).len(), 50);
}

/// A peer that resets in the middle of a frame: what it sent whole is stored, others go on.
#[test]
fn a_reset_within_a_frame_harms_nobody() {
    let home = Home::new();
    let agent = home.start(&Config::new(Gate::UserSpace));
    let mut other = Connection::open(agent.tcp());
    for round in 1..=20 {
        let mut connection = Connection::open(agent.tcp());
        connection.send(&line_frame(round, 1, &format!("whole {round}")));
        // Once it is answered, only the cut frame can be lost to the reset.
        assert_eq!(connection.answers(1), [Answer::durable(round, 1)]);
        connection.send(&line_frame(round, 2, "cut")[..41]);
        connection.reset();
        other.send(&line_frame(PRODUCER, round, &format!("other {round}")));
        assert_eq!(other.answers(1), [Answer::durable(PRODUCER, round)]);
    }
    let metrics = drained(&agent, Gate::UserSpace, Offered::default());
    assert_eq!(metrics.sum("penstock_accepted_frames_total", &[]), 40);
    let open = wait_for("the agent sees the resets", Duration::from_secs(10), || {
        let open = agent
            .metrics()
            .one("penstock_connections", &[("listener", "tcp")]);
        (open == 1).then_some(open)
    });
    assert_eq!(open, 1);
    agent.stop();
    assert_eq!(stored::read(&home.records()).len(), 40);
}

/// A peer that never reads is closed at a bound of unread answers, not waited for; others go on,
/// and whatever it sent and the agent took is stored once.
#[test]
fn a_peer_that_never_reads_is_closed() {
    let home = Home::new();
    let agent = home.start(&Config::new(Gate::UserSpace));
    let connection = Connection::open(agent.tcp());
    // The smallest buffer there is for the answers that nobody reads.
    let socket = socket2::SockRef::from(connection.stream());
    socket.set_recv_buffer_size(1).expect("SO_RCVBUF");
    connection
        .stream()
        .set_write_timeout(Some(Duration::from_secs(5)))
        .expect("a time limit");
    // Every second frame is refused, so that no two answers can be merged into one.
    let mut sent: u64 = 0;
    let closed = loop {
        let mut bytes = Vec::new();
        for _ in 0..200 {
            sent += 1;
            let mut frame = line_frame(PRODUCER, sent, "x");
            if sent.is_multiple_of(2) {
                frame.pop();
                frame.push(0);
            }
            bytes.extend_from_slice(&frame);
        }
        match std::io::Write::write_all(&mut connection.stream(), &bytes) {
            Ok(()) => assert!(sent < 2_000_000, "{sent} frames, and still not closed"),
            Err(error) => break error,
        }
    };
    let ways = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    assert!(ways.contains(&closed.kind()), "{closed}");
    let mut other = Connection::open(agent.tcp());
    other.send(&line_frame(1, 1, "other"));
    assert_eq!(other.answers(1), [Answer::durable(1, 1)]);
    let metrics = drained(&agent, Gate::UserSpace, Offered::default());
    let labels = [("listener", "tcp"), ("reason", "acks_not_read")];
    assert_eq!(metrics.one("penstock_connections_closed_total", &labels), 1);
    let accepted = metrics.sum("penstock_accepted_records_total", &[]);
    agent.stop();
    assert_eq!(stored::read(&home.records()).len() as u64, accepted);
}
