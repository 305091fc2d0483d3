//! The batch that is being filled, and the frame that it becomes.

use agent_common::frame::{FRAME_HEADER_LEN, FrameHeader};
use penstock_proto::encoding::Encoding;
use penstock_proto::v1::LogRecord;
use penstock_proto::wire;

use crate::record;

/// Records encoded one behind the other.
#[derive(Debug)]
pub struct Batch {
    encoding: Encoding,
    payload: Vec<u8>,
    records: u32,
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
        }
    }

    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

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

    /// The frame of these records; the batch is empty afterwards. Of `header`, encoding, records,
    /// payload length and checksum are set here.
    pub fn seal(&mut self, header: FrameHeader) -> Vec<u8> {
        let mut frame = Vec::with_capacity(FRAME_HEADER_LEN + self.payload.len());
        let header = FrameHeader {
            encoding: self.encoding as u8,
            records: self.records,
            ..header
        };
        wire::write_frame(&mut frame, header, &self.payload);
        self.clear();
        frame
    }

    pub fn clear(&mut self) {
        self.payload.clear();
        self.records = 0;
    }
}
