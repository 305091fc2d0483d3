//! No room: who waits, who is dropped, and that the books say so.

use super::*;

/// Room for some twenty frames of one record of 1,000 bytes.
fn tight(overflow: Overflow) -> Bench {
    Bench::new(Options {
        overflow,
        payload_len_max: 10_000,
        buffer_bytes_max: 30_000,
        ..options()
    })
}

fn heavy(number: u64) -> LogRecord {
    LogRecord {
        time_unix_nano: number,
        body: "x".repeat(1000),
        ..LogRecord::default()
    }
}

impl Bench {
    fn push_heavy(&mut self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.producer.push(&heavy(number), self.now).unwrap();
        }
    }

    /// Connects, and settles what is sent until nothing more is; the records in the order sent.
    fn deliver_all(&mut self) -> Vec<u64> {
        self.producer.finish();
        self.connect();
        let mut agent = Agent::default();
        let mut delivered = Vec::new();
        loop {
            let bytes = self.sent();
            if bytes.is_empty() {
                return delivered;
            }
            for (header, records) in agent.read(&bytes) {
                delivered.extend(records);
                self.durable(header.sequence, 1);
            }
        }
    }
}

#[test]
fn the_newest_are_dropped_and_counted() {
    let mut bench = tight(Overflow::DropNewest);
    bench.push_heavy(0..100);
    let report = bench.producer.report();
    let taken = report.records_taken;
    // A frame takes 1,055 bytes (40, 2 + 1 around the record, 9 for the time, 1,003 for the body): the
    // nineteenth is the first that ends beyond the 20,000 which leave room for the longest payload.
    assert_eq!(taken, 19);
    assert_eq!(report.records_dropped_newest, 81);
    assert_eq!(bench.deliver_all(), (0..taken).collect::<Vec<_>>());
    let report = bench.producer.report();
    assert_eq!((report.durable.records, report.records_lost()), (19, 81));
}

#[test]
fn the_oldest_that_were_never_sent_are_dropped_and_leave_no_hole() {
    let mut bench = tight(Overflow::DropOldest);
    bench.push_heavy(0..5);
    bench.connect();
    let sent = bench.sequences();
    assert_eq!(sent, [1, 2, 3, 4, 5], "begun: nobody knows who has them");
    bench.cut();
    bench.push_heavy(5..100);
    let report = bench.producer.report();
    assert_eq!(
        (report.records_taken, report.records_dropped_newest),
        (100, 0)
    );
    assert_eq!(report.dropped_oldest.records, 81);
    // Frames 1 to 5 are still the same, and what is left goes on from 6.
    bench.connect();
    bench.producer.finish();
    let bytes = bench.sent();
    let frames = Agent::default().read(&bytes);
    let sequences: Vec<u64> = frames.iter().map(|(header, _)| header.sequence).collect();
    assert_eq!(sequences, (1..=19).collect::<Vec<_>>());
    let records: Vec<u64> = frames
        .into_iter()
        .flat_map(|(_, records)| records)
        .collect();
    let expected: Vec<u64> = (0..5).chain(86..100).collect();
    assert_eq!(records, expected);
    bench.durable(19, 19);
    assert_eq!(bench.producer.poll(bench.now), Demand::Done);
    assert_eq!(bench.producer.report().durable.records, 19);
}

#[test]
fn where_all_that_is_held_was_sent_the_newest_is_dropped() {
    let mut bench = tight(Overflow::DropOldest);
    bench.push_heavy(0..19);
    bench.connect();
    assert_eq!(bench.sequences().len(), 19);
    bench.push_heavy(19..29);
    let report = bench.producer.report();
    assert_eq!(report.records_dropped_newest, 10);
    assert_eq!(report.dropped_oldest, Tally::default());
    bench.durable(19, 19);
    bench.push_heavy(30..31);
    assert_eq!(bench.sequences(), [20]);
}

#[test]
fn a_full_window_drops_the_batch_that_waits_for_it() {
    let mut bench = Bench::new(Options {
        overflow: Overflow::DropOldest,
        ..options()
    });
    bench.push(0..1024);
    bench.connect();
    assert_eq!(bench.sequences().len(), 1024);
    // The batch of record 1024 waits, and makes way for 1025, as that does for 1026.
    bench.push(1024..1027);
    let report = bench.producer.report();
    assert_eq!(
        (report.dropped_oldest.records, report.unsettled.records),
        (2, 1025)
    );
    bench.durable(1, 1);
    let bytes = bench.sent();
    let frames = Agent::default().read(&bytes);
    assert_eq!((frames[0].0.sequence, &frames[0].1), (1025, &vec![1026]));
}
