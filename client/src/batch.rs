//! The batch that is being filled, and the frame that it becomes.

use agent_common::frame::{FLAG_ZSTD, FRAME_HEADER_LEN, FrameHeader};
use penstock_proto::encoding::Encoding;
use penstock_proto::v1::LogRecord;
use penstock_proto::wire;

use crate::compress::Compressor;
use crate::record;

/// Records encoded one behind the other.
#[derive(Debug)]
pub struct Batch {
    encoding: Encoding,
    payload: Vec<u8>,
    records: u32,
    compressor: Option<Compressor>,
}

/// The record does not fit beside what the batch holds; nothing was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// Bytes that the record takes in a payload.
    pub record_len: usize,
}

impl Batch {
    pub fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            payload: Vec::new(),
            records: 0,
            compressor: None,
        }
    }

    /// Frames are compressed with zstd at this level, where that makes them shorter.
    pub fn with_zstd(self, level: Option<i32>) -> Self {
        Self {
            compressor: level.map(Compressor::new),
            ..self
        }
    }

    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// What was pushed, not compressed.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    pub fn records(&self) -> u32 {
        self.records
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Appends a record if the payload then has at most `payload_len_max` bytes.
    pub fn push(&mut self, record: &LogRecord, payload_len_max: usize) -> Result<(), NoRoom> {
        let len_before = self.payload.len();
        record::encode(self.encoding, record, &mut self.payload);
        if self.payload.len() > payload_len_max {
            let record_len = self.payload.len() - len_before;
            self.payload.truncate(len_before);
            return Err(NoRoom { record_len });
        }
        self.records += 1;
        Ok(())
    }

    /// The payload as it is to be sent, and the flags that say how.
    pub fn sealed_payload(&mut self) -> (&[u8], u8) {
        let compressor = self.compressor.as_mut();
        match compressor.and_then(|compressor| compressor.compress(&self.payload)) {
            Some(compressed) => (compressed, FLAG_ZSTD),
            None => (&self.payload, 0),
        }
    }

    /// The frame of these records; the batch is empty afterwards. Of `header`, encoding, records,
    /// the compression's flag, payload length and checksum are set here.
    pub fn seal(&mut self, header: FrameHeader) -> Vec<u8> {
        let (encoding, records) = (self.encoding as u8, self.records);
        let (payload, flags) = self.sealed_payload();
        let mut frame = Vec::with_capacity(FRAME_HEADER_LEN + payload.len());
        let header = FrameHeader {
            encoding,
            records,
            flags: header.flags | flags,
            ..header
        };
        wire::write_frame(&mut frame, header, payload);
        self.clear();
        frame
    }

    pub fn clear(&mut self) {
        self.payload.clear();
        self.records = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compressed_frame_holds_the_same_payload() {
        let header = FrameHeader {
            encoding: 0,
            flags: 2,
            priority: 2,
            payload_len: 0,
            records: 0,
            producer: 1,
            sequence: 1,
            payload_crc: 0,
        };
        let mut plain = Batch::new(Encoding::Json);
        let mut compressed = Batch::new(Encoding::Json).with_zstd(Some(1));
        for round in 0..3 {
            for number in 0..50 {
                let record = LogRecord {
                    body: format!("round {round}, line {number}"),
                    ..LogRecord::default()
                };
                plain.push(&record, 1 << 20).expect("room");
                compressed.push(&record, 1 << 20).expect("room");
            }
            let payload = plain.payload().to_vec();
            let plain = plain.seal(header);
            let compressed = compressed.seal(header);
            assert_eq!((plain[5], compressed[5]), (2, 3), "the flags");
            assert!(compressed.len() < plain.len() / 2);
            let back = zstd::bulk::decompress(&compressed[FRAME_HEADER_LEN..], 1 << 20);
            assert_eq!(back.expect("a zstd frame"), payload);
        }
        // A batch that does not get shorter goes as it is.
        let tiny = LogRecord::default();
        compressed.push(&tiny, 1 << 20).expect("room");
        assert_eq!(compressed.seal(header)[5], 2);
    }
}
