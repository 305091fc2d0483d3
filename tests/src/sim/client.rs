//! The real producer of the client library among the simulated ones: records in, and what it says of
//! them at the end must be true.

use std::time::{Duration, Instant};

use penstock_client::{Demand, Encoding, LogRecord, Options, Overflow, PushError, Report};

use super::book::{Book, FrameNo};
use super::network::{Conn, ConnId};
use super::producer::{Peer, Wires};
use super::rng::Rng;
use super::wire::{Wire, WireFaults};

/// The longest payload: so short that a buffer of two (the least there is) overflows.
const PAYLOAD_LEN_MAX: usize = 400;

/// What one client is to do.
#[derive(Clone, Debug)]
pub struct ClientPlan {
    pub listener: u16,
    pub id: u64,
    pub records: u32,
    pub encoding: Encoding,
    pub overflow: Overflow,
    /// Bytes that it may hold; at least two payloads.
    pub buffer_bytes_max: usize,
    pub batch_records_max: u32,
    pub body_len_max: usize,
    /// Records offered on one turn.
    pub burst_max: u32,
    /// Longest pause between turns.
    pub pause_ns_max: u64,
    pub faults: WireFaults,
}

impl ClientPlan {
    /// A patient client on a calm network.
    pub fn plain(listener: u16, id: u64, records: u32) -> Self {
        Self {
            listener,
            id,
            records,
            encoding: Encoding::Protobuf,
            overflow: Overflow::Wait,
            buffer_bytes_max: 16 << 10,
            batch_records_max: 5,
            body_len_max: 60,
            burst_max: 8,
            pause_ns_max: 1_000_000,
            faults: WireFaults::default(),
        }
    }

    fn options(&self, seed: u64) -> Options {
        Options {
            encoding: self.encoding,
            batch_records_max: self.batch_records_max,
            batch_bytes_max: PAYLOAD_LEN_MAX,
            linger: Duration::from_millis(2),
            payload_len_max: PAYLOAD_LEN_MAX,
            buffer_bytes_max: self.buffer_bytes_max,
            overflow: self.overflow,
            ack_timeout: Duration::from_secs(2),
            backoff_base: Duration::from_millis(1),
            backoff_max: Duration::from_millis(200),
            jitter_seed: Some(seed),
            ..Options::default()
        }
    }
}

/// The client and its end of the network.
pub struct Client {
    plan: ClientPlan,
    producer: penstock_client::Producer,
    wire: Wire,
    rng: Rng,
    origin: Instant,
    offered: u32,
    done: bool,
}

impl Client {
    /// `index` is its number among those who connect.
    pub fn new(index: usize, plan: ClientPlan, mut rng: Rng) -> Self {
        let options = plan.options(rng.between(0..=u64::MAX));
        Self {
            producer: penstock_client::Producer::with_id(options, 1, plan.id),
            wire: Wire::new(index, plan.listener, plan.faults, rng.fork()),
            rng,
            origin: Instant::now(),
            offered: 0,
            done: false,
            plan,
        }
    }

    /// Offers some records, until there is no room.
    fn offer(&mut self, now: Instant) {
        for _ in 0..self.rng.between(1..=u64::from(self.plan.burst_max)) {
            if self.offered == self.plan.records {
                return self.producer.finish();
            }
            // A record that is offered again must be the same.
            let fill = self.offered as usize * 7 % (self.plan.body_len_max + 1);
            let record = LogRecord {
                body: format!(
                    "client/{:x}/{}/{}",
                    self.plan.id,
                    self.offered,
                    "x".repeat(fill)
                ),
                severity_number: 9,
                ..LogRecord::default()
            };
            match self.producer.push(&record, now) {
                Ok(()) => self.offered += 1,
                Err(PushError::Full) => return,
                Err(error) => panic!("a record is not taken: {error}"),
            }
        }
    }
}

/// Records that a report says were dropped.
fn dropped(report: &Report) -> u64 {
    report.records_dropped_newest + report.dropped_oldest.records
}

impl Peer for Client {
    fn wake(&mut self, wires: &mut Wires<'_>) -> Option<u64> {
        if self.done {
            return None;
        }
        let now = self.origin + Duration::from_nanos(wires.now_ns);
        self.offer(now);
        let demand = self.producer.poll(now);
        self.wire.turn(self.producer.exchange(), demand, now, wires);
        if demand == Demand::Done {
            self.done = true;
            wires.struck.client_drops += dropped(&self.producer.report());
            return None;
        }
        Some(self.rng.between(1_000..=self.plan.pause_ns_max.max(1_001)))
    }

    fn on_answers(&mut self, id: ConnId, conn: &mut Conn, _: &Book, _: u64) {
        self.wire.on_answers(id, conn);
    }

    fn on_closed(&mut self, id: ConnId) {
        self.wire.on_closed(id);
    }

    fn is_done(&self) -> bool {
        self.done
    }

    /// All that it calls acknowledged is stored once, nothing else is, and no record is unaccounted for.
    fn check(&self, book: &Book, stored: &dyn Fn(FrameNo) -> u32) {
        let report = self.producer.report();
        let id = self.plan.id;
        let mut records = 0;
        for &sequence in self.wire.acknowledged() {
            let number = book.good((id, sequence)).expect("it was sent");
            let times = stored(number);
            assert_eq!(
                times, 1,
                "client {id:x} was told that frame {sequence} is stored, and it is {times} times"
            );
            records += u64::from(book.line(number).frame.records);
        }
        let acknowledged = report.acknowledged();
        let heard = (self.wire.acknowledged().len() as u64, records);
        assert_eq!(
            (acknowledged.frames, acknowledged.records),
            heard,
            "frames and records that client {id:x} reports as acknowledged, and that were"
        );
        let sent = book.lines().iter().filter(|line| line.frame.key.0 == id);
        assert_eq!(
            sent.count() as u64,
            acknowledged.frames,
            "client {id:x} is done, and frames that it has sent are not acknowledged"
        );
        assert_eq!(
            acknowledged.records + dropped(&report),
            u64::from(self.plan.records),
            "records of client {id:x} that are neither acknowledged nor dropped: {report:?}"
        );
        assert!(
            self.plan.overflow != Overflow::Wait || dropped(&report) == 0,
            "client {id:x} was to wait, and has dropped records"
        );
    }
}
