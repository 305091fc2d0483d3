//! A journal as the writer would leave it, made with `journal::format` alone, for tests.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_common::frame::FrameHeader;
use penstock_proto::encoding::Encoding;
use penstock_proto::v1::{LogBatch, LogRecord};
use penstock_proto::wire::write_frame;
use prost::Message;

use crate::journal::format::{
    BLOCK_ALIGN, BLOCK_HEADER_LEN, BlockHeader, ENTRY_ALIGN, ENTRY_HEADER_LEN, Envelope,
    SEGMENT_HEADER_LEN, SegmentHeader, segment_file_name, shard_folder_name,
};
use crate::limits::JOURNAL_BLOCK_LEN;
use crate::shard::buffer::{BlockPool, SharedBlock};

/// Added to a segment's number it is the segment's salt.
pub const SALT: u64 = 0x5a17_0000_0000_0000;

pub const LISTENERS: [&str; 2] = ["apps", "edge"];

/// One entry: what came in one frame.
#[derive(Clone, Debug)]
pub struct SampleEntry {
    pub observed_time_unix_nano: u64,
    pub listener: u16,
    pub peer: Option<SocketAddr>,
    pub encoding: Encoding,
    pub payload: Vec<u8>,
    pub records: u32,
}

impl SampleEntry {
    pub fn protobuf(observed_time_unix_nano: u64, records: Vec<LogRecord>) -> Self {
        Self {
            observed_time_unix_nano,
            listener: 0,
            peer: Some(SocketAddr::from(([192, 0, 2, 7], 5140))),
            encoding: Encoding::Protobuf,
            records: records.len() as u32,
            payload: LogBatch { records }.encode_to_vec(),
        }
    }

    fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        let header = FrameHeader {
            encoding: self.encoding as u8,
            flags: 0,
            priority: 2,
            payload_len: 0,
            records: self.records,
            producer: 0,
            sequence: 0,
            payload_crc: 0,
        };
        write_frame(&mut frame, header, &self.payload);
        frame
    }
}

/// A record that says which one it is.
pub fn numbered(number: u64) -> LogRecord {
    LogRecord {
        time_unix_nano: 1_795_178_701_000_000_000 + number,
        severity_number: 9,
        service_name: "api".to_owned(),
        body: format!("record {number}"),
        ..LogRecord::default()
    }
}

/// A block's bytes, padded to whole pages, and its header.
pub fn block_bytes(header: BlockHeader, entries: &[SampleEntry]) -> (Vec<u8>, BlockHeader) {
    let mut bytes = vec![0; BLOCK_HEADER_LEN];
    for entry in entries {
        let frame = entry.frame();
        let envelope = Envelope {
            observed_time_unix_nano: entry.observed_time_unix_nano,
            listener: entry.listener,
            keep_sixteenths: 16,
            peer: entry.peer,
            deduplicated: false,
        };
        let mut head = [0; ENTRY_HEADER_LEN];
        envelope.write(frame.len(), &mut head);
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&frame);
        // The last entry's padding counts, as each entry begins at a multiple.
        bytes.resize(bytes.len().next_multiple_of(ENTRY_ALIGN), 0);
    }
    let header = BlockHeader {
        len: bytes.len() as u32,
        entries: entries.len() as u32,
        records: entries.iter().map(|entry| entry.records).sum(),
        ..header
    };
    header.write(bytes.first_chunk_mut().expect("the header's room"));
    bytes.resize(bytes.len().next_multiple_of(BLOCK_ALIGN), 0);
    (bytes, header)
}

/// Appends blocks to a shard's segments.
pub struct SampleJournal {
    pub data_dir: PathBuf,
    pub folder: PathBuf,
    pub number: u64,
    base: u64,
    pub position: u64,
    pub records: u64,
    /// What the next block says was durable when it was sealed.
    pub durable: u64,
}

impl SampleJournal {
    /// An empty journal of shard 0.
    pub fn new(data_dir: &Path) -> Self {
        let folder = data_dir.join("journal").join(shard_folder_name(0));
        std::fs::create_dir_all(&folder).expect("create the journal's folder");
        let mut journal = Self {
            data_dir: data_dir.to_owned(),
            folder,
            number: 0,
            base: 0,
            position: 0,
            records: 0,
            durable: 0,
        };
        journal.next_segment();
        journal
    }

    pub fn path(&self, number: u64) -> PathBuf {
        self.folder.join(segment_file_name(number))
    }

    /// Begins another segment at the position, preallocated like a real one.
    pub fn next_segment(&mut self) {
        let header = SegmentHeader {
            shard: 0,
            number: self.number + 1,
            base: self.position,
            records_before: self.records,
            created_unix_nano: 1_795_178_701_000_000_000,
            predecessor: self.number,
            salt: self.number + 1 + SALT,
            listeners: LISTENERS.map(str::to_owned).to_vec(),
        };
        self.number += 1;
        self.base = self.position;
        let mut page = [0; SEGMENT_HEADER_LEN];
        header.write(&mut page);
        let path = self.path(self.number);
        std::fs::write(&path, page).expect("write a segment");
        let file = OpenOptions::new().write(true).open(&path).expect("open it");
        file.set_len(16 << 20).expect("preallocate it");
    }

    /// Writes a block; everything up to it is durable from the next one on.
    pub fn append(&mut self, entries: &[SampleEntry]) -> (Vec<u8>, BlockHeader) {
        let (bytes, header) = self.sealed(entries);
        self.write_at(header.position, &bytes);
        self.position = header.end_position();
        self.records += u64::from(header.records);
        self.durable = self.position;
        (bytes, header)
    }

    /// A block as it would be written next.
    pub fn sealed(&self, entries: &[SampleEntry]) -> (Vec<u8>, BlockHeader) {
        let header = BlockHeader {
            len: 0,
            position: self.position,
            durable: self.durable,
            segment: self.number,
            records_before: self.records,
            entries: 0,
            records: 0,
            salt: self.number + SALT,
        };
        block_bytes(header, entries)
    }

    pub fn write_at(&self, position: u64, bytes: &[u8]) {
        let path = self.path(self.number);
        let file = OpenOptions::new().write(true).open(path).expect("open");
        let offset = SEGMENT_HEADER_LEN as u64 + position - self.base;
        file.write_all_at(bytes, offset).expect("write");
    }
}

/// The block in memory, as the writer hands it to a sink.
pub fn shared(pool: &Arc<BlockPool>, bytes: &[u8], header: BlockHeader) -> SharedBlock {
    let mut open = pool.acquire().expect("a free block");
    open.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    open.share(header)
}

pub fn pool(count: usize) -> Arc<BlockPool> {
    BlockPool::new(count, JOURNAL_BLOCK_LEN)
}
