//! Records packed for UDP: one frame a datagram, nothing acknowledged.

use agent_common::frame::{FrameHeader, UDP_PAYLOAD_LEN_MAX};
use penstock_proto::avro::SchemaVersion;
use penstock_proto::encoding::Encoding;
use penstock_proto::v1::LogRecord;

use crate::batch::{Batch, NoRoom};

/// A payload that crosses Ethernet in one piece over IPv4: 1,500 − 20 (IP) − 8 (UDP) − 40.
pub const PAYLOAD_LEN_IPV4: usize = 1432;
/// Over IPv6, whose header is 20 bytes longer.
pub const PAYLOAD_LEN_IPV6: usize = 1412;

/// Fills datagrams with records and numbers them: the agent counts the numbers that are missing.
#[derive(Debug)]
pub struct DatagramPacker {
    payload_len_max: usize,
    records_max: u32,
    priority: u8,
    producer: u64,
    next_sequence: u64,
    open: Batch,
}

/// The record fits in no datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record takes {len} bytes, more than the {UDP_PAYLOAD_LEN_MAX} of a datagram")]
pub struct TooLong {
    pub len: usize,
}

impl DatagramPacker {
    /// `payload_len_max` is what an ordinary datagram's payload may have; a longer record goes
    /// alone in a longer one. At most `records_max` records share a datagram.
    pub fn new(encoding: Encoding, payload_len_max: usize, records_max: u32, priority: u8) -> Self {
        Self {
            payload_len_max: payload_len_max.min(UDP_PAYLOAD_LEN_MAX as usize),
            records_max: records_max.max(1),
            priority,
            producer: crate::random_producer_id(),
            next_sequence: 1,
            open: Batch::new(encoding, SchemaVersion::default()),
        }
    }

    /// Datagrams are compressed with zstd at this level, where that makes them shorter. They are
    /// filled as if they were not: what a datagram holds is never longer than the path takes.
    pub fn with_zstd(self, level: Option<i32>) -> Self {
        Self {
            open: self.open.with_zstd(level),
            ..self
        }
    }

    /// What Avro is written with, if not the newest version.
    pub fn with_schema(self, schema: SchemaVersion) -> Self {
        assert!(self.open.is_empty(), "before the first record");
        Self {
            open: self.open.with_schema(schema),
            ..self
        }
    }

    /// Takes a record. Where it did not fit beside those before it, these come back as a
    /// datagram, with their number.
    pub fn push(&mut self, record: &LogRecord) -> Result<Option<(Vec<u8>, u32)>, TooLong> {
        let has_place = self.open.records() < self.records_max;
        if has_place && self.open.push(record, self.payload_len_max).is_ok() {
            return Ok(None);
        }
        let mut alone = self.open.new_alike();
        alone
            .push(record, UDP_PAYLOAD_LEN_MAX as usize)
            .map_err(|NoRoom { record_len }| TooLong { len: record_len })?;
        let full = self.flush();
        // Beside a record longer than `payload_len_max` nothing fits: the next push sends it.
        let pushed = self.open.push(record, UDP_PAYLOAD_LEN_MAX as usize);
        assert_eq!(pushed, Ok(()), "it fitted an empty batch just before");
        Ok(full)
    }

    /// The records taken since the last datagram, as one.
    pub fn flush(&mut self) -> Option<(Vec<u8>, u32)> {
        if self.open.is_empty() {
            return None;
        }
        let records = self.open.records();
        let header = FrameHeader {
            encoding: 0,
            flags: 0,
            priority: self.priority,
            payload_len: 0,
            records: 0,
            producer: self.producer,
            sequence: self.next_sequence,
            payload_crc: 0,
        };
        self.next_sequence += 1;
        Some((self.open.seal(header), records))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_common::classify::check_datagram;
    use penstock_proto::v1::LogBatch;
    use penstock_proto::wire::header_crc_matches;
    use prost::Message;

    fn record(body_len: usize) -> LogRecord {
        LogRecord {
            body: "x".repeat(body_len),
            ..LogRecord::default()
        }
    }

    /// Payload length, records and sequence of a datagram that an agent would take.
    fn read(datagram: &(Vec<u8>, u32)) -> (usize, usize, u64) {
        let head: &[u8; 40] = datagram.0.first_chunk().unwrap();
        assert_eq!(
            check_datagram(head, datagram.0.len() as u32, 65_467),
            Ok(())
        );
        assert!(header_crc_matches(head));
        let header = FrameHeader::read(head);
        let batch = LogBatch::decode(&datagram.0[40..]).unwrap();
        assert_eq!(header.records, datagram.1);
        assert_eq!(batch.records.len(), datagram.1 as usize);
        (datagram.0.len() - 40, batch.records.len(), header.sequence)
    }

    #[test]
    fn datagrams_are_filled_and_long_records_go_alone() {
        // A body of n bytes below 128 takes n + 4: two tags and two lengths of a byte each.
        let mut packer = DatagramPacker::new(Encoding::Protobuf, 100, 50, 2);
        assert_eq!(packer.push(&record(46)), Ok(None));
        assert_eq!(packer.push(&record(46)), Ok(None));
        let full = packer.push(&record(46)).unwrap().unwrap();
        assert_eq!(read(&full), (100, 2, 1));
        let before_long = packer.push(&record(500)).unwrap().unwrap();
        assert_eq!(read(&before_long), (50, 1, 2));
        let long = packer.push(&record(1)).unwrap().unwrap();
        // Two tags, and two lengths of two bytes each.
        assert_eq!(read(&long), (506, 1, 3));
        assert_eq!(read(&packer.flush().unwrap()), (5, 1, 4));
        assert_eq!(packer.flush(), None);
    }

    #[test]
    fn the_longest_datagram_and_one_byte_more() {
        let mut packer = DatagramPacker::new(Encoding::Protobuf, PAYLOAD_LEN_IPV4, 50, 2);
        // Two tags of one byte and two lengths of three bytes each.
        assert_eq!(packer.push(&record(65_467 - 8)), Ok(None));
        assert_eq!(read(&packer.flush().unwrap()), (65_467, 1, 1));
        let too_long = packer.push(&record(65_467 - 7));
        assert_eq!(too_long, Err(TooLong { len: 65_468 }));
    }

    #[test]
    fn a_number_of_records_closes_a_datagram() {
        let mut packer = DatagramPacker::new(Encoding::Json, 1432, 2, 2);
        let mut records = Vec::new();
        for _ in 0..5 {
            records.extend(packer.push(&record(1)).unwrap().map(|(_, records)| records));
        }
        records.extend(packer.flush().map(|(_, records)| records));
        assert_eq!(records, [2, 2, 1]);
    }
}
