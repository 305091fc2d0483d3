//! The batch that is being filled, and the frame that it becomes.

use agent_common::frame::{FLAG_ZSTD, FRAME_HEADER_LEN, FrameHeader};
use penstock_proto::avro::SchemaVersion;
use penstock_proto::encoding::Encoding;
use penstock_proto::v1::LogRecord;
use penstock_proto::wire;

use crate::avro;
use crate::compress::Compressor;
use crate::record;

/// Records encoded one behind the other.
#[derive(Debug)]
pub struct Batch {
    encoding: Encoding,
    schema: SchemaVersion,
    bytes: Vec<u8>,
    /// Where the payload begins: before it is the room that Avro's head has left free.
    start: usize,
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
    /// `schema` is what Avro is written with; the other encodings have no need of it.
    pub fn new(encoding: Encoding, schema: SchemaVersion) -> Self {
        let mut batch = Self {
            encoding,
            schema,
            bytes: Vec::new(),
            start: 0,
            records: 0,
            compressor: None,
        };
        batch.clear();
        batch
    }

    /// An empty batch with another schema.
    pub fn with_schema(self, schema: SchemaVersion) -> Self {
        let mut batch = Self { schema, ..self };
        batch.clear();
        batch
    }

    /// Frames are compressed with zstd at this level, where that makes them shorter.
    pub fn with_zstd(self, level: Option<i32>) -> Self {
        Self {
            compressor: level.map(Compressor::new),
            ..self
        }
    }

    /// A batch for more records of the same kind, not compressed.
    pub fn new_alike(&self) -> Self {
        Self::new(self.encoding, self.schema)
    }

    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// What was pushed, not compressed.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub fn records(&self) -> u32 {
        self.records
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Appends a record if the payload then has at most `payload_len_max` bytes.
    pub fn push(&mut self, record: &LogRecord, payload_len_max: usize) -> Result<(), NoRoom> {
        let len_before = self.bytes.len();
        self.open();
        record::encode(self.encoding, self.schema, record, &mut self.bytes);
        self.records += 1;
        self.close();
        if self.payload().len() > payload_len_max {
            self.records -= 1;
            if self.records == 0 {
                let record_len = self.payload().len();
                self.clear();
                return Err(NoRoom { record_len });
            }
            let record_len = self.bytes.len() - len_before;
            self.bytes.truncate(len_before);
            self.open();
            self.close();
            return Err(NoRoom { record_len });
        }
        Ok(())
    }

    /// The payload as it is to be sent, and the flags that say how.
    pub fn sealed_payload(&mut self) -> (&[u8], u8) {
        let plain = &self.bytes[self.start..];
        let compressor = self.compressor.as_mut();
        match compressor.and_then(|compressor| compressor.compress(plain)) {
            Some(compressed) => (compressed, FLAG_ZSTD),
            None => (plain, 0),
        }
    }

    /// Makes the payload's end a place for one more record.
    fn open(&mut self) {
        if self.encoding == Encoding::Avro && self.records > 0 {
            self.bytes.pop();
        }
    }

    /// Makes what there is a payload. An Avro array is one block, and the end of all blocks.
    fn close(&mut self) {
        if self.encoding == Encoding::Avro && self.records > 0 {
            let room = self.bytes.first_chunk_mut();
            let room = room.expect("the room for the head stands before the records");
            self.start = avro::write_head(self.schema, self.records, room);
            self.bytes.push(0);
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
        self.bytes.clear();
        if self.encoding == Encoding::Avro {
            self.bytes.resize(avro::HEAD_LEN_MAX, 0);
        }
        self.start = self.bytes.len();
        self.records = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(body: &str) -> LogRecord {
        LogRecord {
            body: body.into(),
            ..LogRecord::default()
        }
    }

    /// Marker, the fingerprint that fastavro 1.13.1 has for an array of v1, and the datum.
    fn v1(datum: &[u8]) -> Vec<u8> {
        let head = b"\xc3\x01\xdc\x6e\x59\xe8\x4f\xe7\x97\x8a";
        [&head[..], datum].concat()
    }

    #[test]
    fn an_avro_payload_is_one_block_after_every_push() {
        let mut batch = Batch::new(Encoding::Avro, SchemaVersion::V1);
        assert_eq!(batch.payload(), b"");
        for _ in 0..2 {
            batch.push(&record("a"), 100).unwrap();
            assert_eq!(batch.payload(), v1(b"\x02\x00\x00\x00\x02a\x00"));
            batch.push(&record("b"), 100).unwrap();
            let both = v1(b"\x04\x00\x00\x00\x02a\x00\x00\x00\x02b\x00");
            assert_eq!(batch.payload(), both);
            // A record that does not fit leaves no trace.
            let no_room = batch.push(&record("cc"), 27);
            assert_eq!(no_room, Err(NoRoom { record_len: 6 }));
            assert_eq!((batch.payload(), batch.records()), (&both[..], 2));
            batch.clear();
            // Nor does the first: alone it takes all of the payload.
            let no_room = batch.push(&record("dd"), 17);
            assert_eq!(no_room, Err(NoRoom { record_len: 18 }));
            assert_eq!((batch.payload(), batch.records()), (&b""[..], 0));
        }
    }

    /// From 64 records on a count takes two bytes, and the payload begins a byte earlier.
    #[test]
    fn the_head_grows_with_the_count() {
        let mut batch = Batch::new(Encoding::Avro, SchemaVersion::V1);
        for records in 1..=200 {
            batch.push(&record(""), 1000).unwrap();
            let zigzag = 2 * records;
            let count = match zigzag {
                0..0x80 => vec![zigzag as u8],
                _ => vec![zigzag as u8 | 0x80, (zigzag >> 7) as u8],
            };
            let datum = [count, vec![0; 4 * records], vec![0]].concat();
            assert_eq!(batch.payload(), v1(&datum));
        }
    }

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
        let mut plain = Batch::new(Encoding::Json, SchemaVersion::V3);
        let mut compressed = Batch::new(Encoding::Json, SchemaVersion::V3).with_zstd(Some(1));
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
