//! The state machine by hand, against a made-up agent that checks every byte it is given.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use penstock_proto::reason::Reason;
use penstock_proto::v1::LogBatch;
use penstock_proto::wire::{ACK_LEN, Ack, AckStatus, header_crc_matches};
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

mod overflow;
mod spooled;
mod targets;

const MS: Duration = Duration::from_millis(1);

fn options() -> Options {
    Options {
        batch_records_max: 1,
        jitter_seed: Some(7),
        ..Options::default()
    }
}

fn record(number: u64) -> LogRecord {
    LogRecord {
        time_unix_nano: number,
        body: format!("record {number}"),
        ..LogRecord::default()
    }
}

/// Cuts a connection's bytes into frames, checks them, and remembers what it stored.
#[derive(Default)]
struct Agent {
    unread: Vec<u8>,
    /// By sequence: the payload's checksum and the numbers of its records.
    stored: BTreeMap<u64, (u32, Vec<u64>)>,
}

impl Agent {
    /// The sequences of the frames that became whole with these bytes, with what they hold.
    fn read(&mut self, bytes: &[u8]) -> Vec<(FrameHeader, Vec<u64>)> {
        self.unread.extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some(head) = self.unread.first_chunk::<40>() {
            assert!(header_crc_matches(head), "the stream is out of step");
            let header = FrameHeader::read(head);
            if self.unread.len() < header.frame_len() {
                break;
            }
            let frame: Vec<u8> = self.unread.drain(..header.frame_len()).collect();
            let records: Vec<u64> = LogBatch::decode(&frame[40..])
                .expect("a batch")
                .records
                .iter()
                .map(|record| record.time_unix_nano)
                .collect();
            assert_eq!(records.len() as u32, header.records);
            frames.push((header, records));
        }
        frames
    }

    /// Stores a frame as an agent with dedup does, and says with which status it answers.
    fn store(&mut self, header: &FrameHeader, records: Vec<u64>) -> AckStatus {
        match self.stored.get(&header.sequence) {
            Some((crc, _)) => {
                assert_eq!(*crc, header.payload_crc, "a retry with another payload");
                AckStatus::Duplicate
            }
            None => {
                let frame = (header.payload_crc, records);
                self.stored.insert(header.sequence, frame);
                AckStatus::Durable
            }
        }
    }
}

/// A producer and the clock it lives by.
struct Bench {
    producer: Producer,
    now: Instant,
}

impl Bench {
    fn new(options: Options) -> Self {
        Self::of(Producer::new(options))
    }

    fn of(producer: Producer) -> Self {
        Self {
            producer,
            now: Instant::now(),
        }
    }

    fn push(&mut self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.producer.push(&record(number), self.now).unwrap();
        }
    }

    fn connect(&mut self) {
        while self.producer.poll(self.now) != (Demand::Connect { target: 0 }) {
            let Demand::Idle { wake: Some(wake) } = self.producer.poll(self.now) else {
                panic!("{:?}", self.producer.poll(self.now));
            };
            self.now = wake;
        }
        self.producer.on_connected(self.now);
    }

    /// Everything the producer would send now.
    fn sent(&mut self) -> Vec<u8> {
        self.producer.poll(self.now);
        let mut bytes = Vec::new();
        loop {
            let out = self.producer.outbound(self.now);
            if out.is_empty() {
                return bytes;
            }
            let len = out.len();
            bytes.extend_from_slice(out);
            self.producer.on_sent(len);
        }
    }

    fn sequences(&mut self) -> Vec<u64> {
        let bytes = self.sent();
        let frames = Agent::default().read(&bytes);
        frames.iter().map(|(header, _)| header.sequence).collect()
    }

    fn ack(&self, status: AckStatus, sequence: u64, count: u32) -> Ack {
        Ack {
            status,
            reason: 0,
            producer: self.producer.id(),
            sequence,
            retry_after_ms: 0,
            count,
        }
    }

    fn answer(&mut self, ack: Ack) {
        self.producer.on_received(&ack.write(), self.now);
    }

    fn durable(&mut self, sequence: u64, count: u32) {
        self.answer(self.ack(AckStatus::Durable, sequence, count));
    }

    fn cut(&mut self) {
        self.producer.on_disconnected(self.now);
    }
}

#[test]
fn a_frame_is_what_the_protocol_says() {
    let mut bench = Bench::new(Options {
        batch_records_max: 2,
        priority: 1,
        ..options()
    });
    bench.push(0..2);
    bench.connect();
    let bytes = bench.sent();
    let frames = Agent::default().read(&bytes);
    let [(header, records)] = frames.as_slice() else {
        panic!("{} frames", frames.len());
    };
    assert_eq!(records, &[0, 1]);
    assert_eq!(header.producer, bench.producer.id());
    assert_ne!(header.producer, 0);
    let fields = (header.encoding, header.flags, header.priority);
    assert_eq!((fields, header.sequence), ((1, 2, 1), 1));
}

#[test]
fn a_connection_cut_at_every_byte_of_an_acknowledgement() {
    for received in 0..=ACK_LEN {
        let mut bench = Bench::new(options());
        bench.push(0..1);
        bench.connect();
        let first = bench.sent();
        let ack = bench.ack(AckStatus::Durable, 1, 1).write();
        bench.producer.on_received(&ack[..received], bench.now);
        bench.cut();
        let report = bench.producer.report();
        if received == ACK_LEN {
            assert_eq!(report.durable.records, 1);
            assert_eq!(report.unsettled.records, 0);
            continue;
        }
        assert_eq!((report.durable.records, report.unsettled.records), (0, 1));
        bench.connect();
        assert_eq!(bench.sent(), first, "cut after {received} bytes");
        bench.durable(1, 1);
        let report = bench.producer.report();
        assert_eq!((report.durable.records, report.unsettled.records), (1, 0));
        assert_eq!((report.sent.frames, report.resent.frames), (1, 1));
    }
}

#[test]
fn a_lost_acknowledgement_ends_in_a_duplicate() {
    let mut bench = Bench::new(options());
    let mut agent = Agent::default();
    bench.push(0..3);
    bench.connect();
    for (header, records) in agent.read(&bench.sent()) {
        assert_eq!(agent.store(&header, records), AckStatus::Durable);
    }
    bench.cut();
    bench.connect();
    let frames = agent.read(&bench.sent());
    assert_eq!(frames.len(), 3);
    for (header, records) in frames {
        let status = agent.store(&header, records);
        bench.answer(bench.ack(status, header.sequence, 1));
    }
    let report = bench.producer.report();
    assert_eq!((report.duplicate.records, report.durable.records), (3, 0));
    assert_eq!(report.unsettled.records, 0);
}

#[test]
fn acknowledgements_in_any_order_speak_of_their_frames_only() {
    let mut bench = Bench::new(options());
    bench.push(0..10);
    bench.connect();
    assert_eq!(bench.sequences(), (1..=10).collect::<Vec<_>>());
    bench.durable(7, 3);
    assert_eq!(bench.producer.report().durable.frames, 3);
    bench.durable(10, 2);
    bench.durable(4, 4);
    assert_eq!(bench.producer.report().unsettled.frames, 1);
    bench.cut();
    bench.connect();
    assert_eq!(bench.sequences(), [8]);
    bench.durable(8, 1);
    let report = bench.producer.report();
    assert_eq!((report.durable.frames, report.stray_acks), (10, 0));
}

#[test]
fn nothing_is_sent_1024_or_more_above_an_unsettled_frame() {
    let mut bench = Bench::new(options());
    bench.connect_with_first_record();
    let mut highest = 1;
    let mut number = 1;
    loop {
        match bench.producer.push(&record(number), bench.now) {
            Ok(()) => number += 1,
            Err(error) => {
                assert!(matches!(error, PushError::Full), "{error}");
                break;
            }
        }
    }
    highest = bench.sequences().into_iter().fold(highest, u64::max);
    assert_eq!(highest, 1024);
    // All but the first are durable: still nothing moves.
    bench.durable(1024, 1023);
    assert!(matches!(
        bench.producer.push(&record(number), bench.now),
        Err(PushError::Full)
    ));
    assert_eq!(bench.sequences(), [0; 0]);
    bench.durable(1, 1);
    assert_eq!(bench.sequences(), [1025], "the batch that was open");
    bench.push(number..number + 5);
    assert_eq!(bench.sequences(), [1026, 1027, 1028, 1029, 1030]);
}

impl Bench {
    /// Connects on behalf of record 0, whose frame is sent.
    fn connect_with_first_record(&mut self) {
        self.push(0..1);
        self.connect();
        assert_eq!(self.sequences(), [1]);
    }
}

#[test]
fn a_reconnect_sends_everything_unsettled_again_in_order() {
    let mut bench = Bench::new(options());
    bench.push(0..6);
    bench.connect();
    bench.sent();
    bench.durable(2, 1);
    bench.durable(5, 1);
    // The seventh is cut in the middle.
    bench.push(6..7);
    bench.producer.poll(bench.now);
    assert!(!bench.producer.outbound(bench.now).is_empty());
    bench.producer.on_sent(11);
    bench.cut();
    bench.connect();
    assert_eq!(bench.sequences(), [1, 3, 4, 6, 7]);
    let report = bench.producer.report();
    assert_eq!((report.sent.frames, report.resent.frames), (7, 5));
}

#[test]
fn try_later_waits_as_long_as_asked_and_not_much_longer() {
    let mut bench = Bench::new(options());
    bench.push(0..3);
    bench.connect();
    bench.sent();
    bench.answer(Ack {
        retry_after_ms: 400,
        reason: Reason::Backpressure as u8,
        ..bench.ack(AckStatus::TryLater, 2, 2)
    });
    let report = bench.producer.report();
    assert_eq!((report.tried_later_frames, report.unsettled.frames), (2, 3));
    bench.now += 399 * MS;
    assert_eq!(bench.sequences(), [0; 0]);
    // The jitter is at most half of what was asked.
    bench.now += 201 * MS;
    assert_eq!(bench.sequences(), [1, 2]);
    bench.durable(3, 3);
    let report = bench.producer.report();
    assert_eq!((report.durable.frames, report.resent.frames), (3, 2));
}

#[test]
fn try_later_is_bounded_on_both_sides() {
    for (asked_ms, least, most) in [(0, 10, 15), (u32::MAX, 60_000, 90_000)] {
        let mut bench = Bench::new(options());
        bench.push(0..1);
        bench.connect();
        bench.sent();
        bench.answer(Ack {
            retry_after_ms: asked_ms,
            ..bench.ack(AckStatus::TryLater, 1, 1)
        });
        bench.now += (least - 1) * MS;
        assert_eq!(bench.sequences(), [0; 0], "asked {asked_ms}");
        bench.now += (most - least + 1) * MS;
        assert_eq!(bench.sequences(), [1], "asked {asked_ms}");
    }
}

#[test]
fn try_later_outlives_the_connection() {
    let mut bench = Bench::new(options());
    bench.push(0..2);
    bench.connect();
    bench.sent();
    let asked_at = bench.now;
    bench.answer(Ack {
        retry_after_ms: 5000,
        ..bench.ack(AckStatus::TryLater, 1, 1)
    });
    bench.cut();
    bench.connect();
    assert!(bench.now < asked_at + 5000 * MS, "the backoff is shorter");
    assert_eq!(bench.sequences(), [2]);
    bench.now = asked_at + 7500 * MS;
    assert_eq!(bench.sequences(), [1]);
}

#[test]
fn refusals_settle_and_are_counted_by_reason() {
    let mut bench = Bench::new(options());
    bench.push(0..4);
    bench.connect();
    bench.sent();
    for (sequence, reason) in [(1, 12), (2, 18), (3, 18), (4, 200)] {
        bench.answer(Ack {
            reason,
            ..bench.ack(AckStatus::Refused, sequence, 1)
        });
    }
    let report = bench.producer.report();
    let refused: Vec<_> = report.refused.iter().map(|(l, t)| (l, t.records)).collect();
    let expected = [("payload_checksum", 1), ("invalid_utf8", 2), ("unknown", 1)];
    assert_eq!(refused, expected);
    assert_eq!(report.unsettled.records, 0);
    bench.cut();
    bench.producer.finish();
    assert_eq!(bench.producer.poll(bench.now), Demand::Done);
}

#[test]
fn a_refusal_in_the_middle_of_a_frame_does_not_break_the_stream() {
    let mut bench = Bench::new(options());
    bench.push(0..2);
    bench.connect();
    let first = bench.producer.outbound(bench.now)[..20].to_vec();
    bench.producer.on_sent(20);
    bench.answer(Ack {
        reason: Reason::TooLong as u8,
        ..bench.ack(AckStatus::Refused, 1, 1)
    });
    let stream = [first, bench.sent()].concat();
    let frames = Agent::default().read(&stream);
    let sequences: Vec<u64> = frames.iter().map(|(header, _)| header.sequence).collect();
    assert_eq!(sequences, [1, 2], "the frame goes on to its end");
}

#[test]
fn lost_framing_and_bytes_that_are_no_answer_end_the_connection() {
    let framing_lost = Ack {
        status: AckStatus::Refused,
        reason: Reason::HeaderChecksum as u8,
        producer: 0,
        sequence: 0,
        retry_after_ms: 0,
        count: 0,
    };
    for (bytes, framing_lost) in [(framing_lost.write(), 1), ([b'H'; ACK_LEN], 0)] {
        let mut bench = Bench::new(options());
        bench.push(0..1);
        bench.connect();
        let first = bench.sent();
        bench.producer.on_received(&bytes, bench.now);
        assert!(!bench.producer.is_connected());
        let report = bench.producer.report();
        assert_eq!(
            (report.framing_lost, report.connections_lost),
            (framing_lost, 1)
        );
        bench.connect();
        assert_eq!(bench.sent(), first);
        bench.durable(1, 1);
        assert_eq!(bench.producer.report().durable.records, 1);
    }
}

#[test]
fn answers_to_nothing_settle_nothing() {
    let mut bench = Bench::new(options());
    bench.push(0..2);
    bench.connect();
    bench.sent();
    bench.push(2..3);
    let not_sent = bench.ack(AckStatus::Durable, 3, 1);
    let far = bench.ack(AckStatus::Durable, u64::MAX, 1);
    let none = bench.ack(AckStatus::Durable, 2, 0);
    let zero = bench.ack(AckStatus::Durable, 0, 1);
    let other = Ack {
        producer: bench.producer.id() ^ 1,
        ..bench.ack(AckStatus::Durable, 1, 1)
    };
    for ack in [not_sent, far, none, zero, other] {
        bench.answer(ack);
    }
    let report = bench.producer.report();
    assert_eq!((report.durable.frames, report.stray_acks), (0, 5));
    // More than there are settles those there are, each once.
    bench.durable(2, u32::MAX);
    bench.durable(2, 2);
    let report = bench.producer.report();
    assert_eq!((report.durable.frames, report.stray_acks), (2, 7));
    assert_eq!(report.unsettled.frames, 1);
}

#[test]
fn a_silent_agent_is_left() {
    let mut bench = Bench::new(options());
    bench.push(0..1);
    bench.connect();
    bench.sent();
    bench.now += 29_999 * MS;
    assert!(matches!(
        bench.producer.poll(bench.now),
        Demand::Exchange { .. }
    ));
    bench.now += 1 * MS;
    assert!(matches!(
        bench.producer.poll(bench.now),
        Demand::Idle { .. }
    ));
    // An idle connection with nothing to answer is kept.
    bench.connect();
    bench.sent();
    bench.durable(1, 1);
    bench.now += 3_600_000 * MS;
    assert!(matches!(
        bench.producer.poll(bench.now),
        Demand::Exchange { .. }
    ));
}

#[test]
fn time_closes_a_batch_and_bytes_do() {
    let mut bench = Bench::new(Options {
        batch_records_max: 100,
        batch_bytes_max: 64,
        ..options()
    });
    bench.push(0..1);
    let Demand::Idle { wake } = bench.producer.poll(bench.now) else {
        panic!("nothing is to be sent yet");
    };
    assert_eq!(wake, Some(bench.now + 100 * MS));
    bench.now += 100 * MS;
    assert_eq!(
        bench.producer.poll(bench.now),
        Demand::Connect { target: 0 }
    );
    bench.producer.on_connected(bench.now);
    assert_eq!(bench.sequences(), [1]);
    // A record here takes 21 bytes (9 for the time, 8 + 2 for the body, 2 around it) and a
    // 64-byte payload three of them.
    bench.push(1..5);
    let bytes = bench.sent();
    let frames = Agent::default().read(&bytes);
    assert_eq!(frames[0].1, [1, 2, 3]);
    assert_eq!(frames.len(), 1);
}

#[test]
fn a_record_that_fits_no_frame_is_counted_and_the_rest_go_on() {
    let mut bench = Bench::new(Options {
        payload_len_max: 200,
        batch_bytes_max: 50,
        ..options()
    });
    let long = LogRecord {
        body: "x".repeat(300),
        ..LogRecord::default()
    };
    // Two tags of one byte and two lengths of two bytes, 300 and 303.
    assert!(matches!(
        bench.producer.push(&long, bench.now),
        Err(PushError::TooLong { len: 306, max: 200 })
    ));
    let alone = LogRecord {
        body: "x".repeat(100),
        ..LogRecord::default()
    };
    assert!(bench.producer.push(&alone, bench.now).is_ok());
    let report = bench.producer.report();
    assert_eq!((report.records_taken, report.records_too_long), (1, 1));
}

#[test]
fn memory_is_bounded() {
    let mut bench = Bench::new(Options {
        batch_records_max: 10,
        payload_len_max: 10_000,
        buffer_bytes_max: 30_000,
        ..options()
    });
    let record = LogRecord {
        body: "x".repeat(900),
        ..LogRecord::default()
    };
    let mut taken = 0;
    while bench.producer.push(&record, bench.now).is_ok() {
        taken += 1;
        let held = bench.producer.exchange.bytes() + bench.producer.open.payload().len();
        // A frame's header is added when it is closed.
        assert!(held <= 30_000 + 40, "{held} bytes held");
    }
    // Full when another payload of the longest kind would not fit, from 20,000 bytes on: two frames
    // of 10 records (906 bytes each) with their headers are 18,200, and two records more 20,012.
    assert_eq!(taken, 22);
}

#[test]
fn draining_ends_when_the_last_frame_is_settled() {
    let mut bench = Bench::new(Options {
        batch_records_max: 100,
        ..options()
    });
    bench.push(0..3);
    bench.producer.finish();
    assert!(matches!(
        bench.producer.push(&record(3), bench.now),
        Err(PushError::Finished)
    ));
    bench.connect();
    assert_eq!(bench.sequences(), [1], "finish closes the batch at once");
    assert!(bench.producer.exchange.is_draining());
    bench.cut();
    bench.connect();
    assert_eq!(bench.sequences(), [1]);
    assert!(matches!(
        bench.producer.poll(bench.now),
        Demand::Exchange { write: false, .. }
    ));
    bench.durable(1, 1);
    assert_eq!(bench.producer.poll(bench.now), Demand::Done);
}

#[test]
fn failing_connects_back_off_within_bounds() {
    let mut bench = Bench::new(options());
    bench.push(0..1);
    for _ in 0..20 {
        assert_eq!(
            bench.producer.poll(bench.now),
            Demand::Connect { target: 0 }
        );
        bench.producer.on_connect_failed(bench.now);
        if let Demand::Idle { wake: Some(wake) } = bench.producer.poll(bench.now) {
            assert!(wake - bench.now <= 10_000 * MS);
            bench.now = wake;
        }
    }
    assert!(bench.producer.stalled_since().is_some());
}

/// Everything at once, from a seed: writes cut short, connections cut anywhere, answers late,
/// lost, out of order, joined, "try later" and refusals.
#[test]
fn nothing_is_lost_or_settled_twice_whatever_the_connection_does() {
    for seed in 0..300 {
        chaos(seed);
    }
}

fn chaos(seed: u64) {
    const RECORDS: u64 = 600;
    let mut random = StdRng::seed_from_u64(seed);
    let mut bench = Bench::new(Options {
        batch_records_max: 3,
        jitter_seed: Some(seed),
        ..options()
    });
    let mut agent = Agent::default();
    let mut answers: Vec<Ack> = Vec::new();
    // By sequence: the answers "durable", "duplicate" or "refused" that reached the producer whole.
    let mut settled: BTreeMap<u64, AckStatus> = BTreeMap::new();
    let mut pushed = 0;
    for _ in 0..200_000 {
        bench.now += random.random_range(0..50) * MS;
        while pushed < RECORDS && random.random_bool(0.7) {
            match bench.producer.push(&record(pushed), bench.now) {
                Ok(()) => pushed += 1,
                Err(error) => {
                    assert!(matches!(error, PushError::Full), "{error}");
                    break;
                }
            }
        }
        if pushed == RECORDS {
            bench.producer.finish();
        }
        match bench.producer.poll(bench.now) {
            Demand::Done => break,
            Demand::Idle { .. } => {}
            Demand::Connect { .. } if random.random_bool(0.3) => {
                bench.producer.on_connect_failed(bench.now);
            }
            Demand::Connect { .. } => {
                bench.producer.on_connected(bench.now);
                agent.unread.clear();
                answers.clear();
            }
            Demand::Exchange { .. } => {
                let out = bench.producer.outbound(bench.now);
                let len = random.random_range(0..=out.len());
                let bytes = out[..len].to_vec();
                bench.producer.on_sent(len);
                for (header, records) in agent.read(&bytes) {
                    let lowest = (1..).find(|sequence| !settled.contains_key(sequence));
                    assert!(header.sequence < lowest.unwrap() + 1024, "seed {seed}");
                    let status = match random.random_range(0..10) {
                        0 => AckStatus::TryLater,
                        1 if !agent.stored.contains_key(&header.sequence) => AckStatus::Refused,
                        _ => agent.store(&header, records),
                    };
                    answers.push(Ack {
                        retry_after_ms: random.random_range(0..100),
                        ..bench.ack(status, header.sequence, 1)
                    });
                }
                if !answers.is_empty() && random.random_bool(0.8) {
                    let ack = answers.swap_remove(random.random_range(0..answers.len()));
                    let bytes = ack.write();
                    let received = match random.random_bool(0.05) {
                        true => random.random_range(0..ACK_LEN),
                        false => ACK_LEN,
                    };
                    bench.producer.on_received(&bytes[..received], bench.now);
                    if received < ACK_LEN {
                        bench.cut();
                    } else if ack.status != AckStatus::TryLater {
                        let before = settled.insert(ack.sequence, ack.status);
                        assert_eq!(before, None, "seed {seed}: sequence {}", ack.sequence);
                    }
                }
                if random.random_bool(0.02) {
                    bench.cut();
                }
            }
        }
    }
    assert_eq!(bench.producer.poll(bench.now), Demand::Done, "seed {seed}");
    let report = bench.producer.report();
    let with = |status| settled.values().filter(|s| **s == status).count() as u64;
    assert_eq!(
        report.durable.frames,
        with(AckStatus::Durable),
        "seed {seed}"
    );
    assert_eq!(report.duplicate.frames, with(AckStatus::Duplicate));
    assert_eq!(report.refused.total().frames, with(AckStatus::Refused));
    assert_eq!(report.records_taken, RECORDS);
    assert_eq!(report.unsettled, Tally::default());
    // What was acknowledged is what the agent stored: each record once, none made up.
    let acknowledged: Vec<u64> = agent
        .stored
        .iter()
        .filter(|(sequence, _)| settled[sequence] != AckStatus::Refused)
        .flat_map(|(_, (_, records))| records.clone())
        .collect();
    assert_eq!(acknowledged.len() as u64, report.acknowledged().records);
    assert!(
        acknowledged.windows(2).all(|pair| pair[0] < pair[1]),
        "seed {seed}"
    );
}
