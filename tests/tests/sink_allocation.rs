//! The file sink allocates nothing per record, whatever it writes: its buffers are used again for each
//! block.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent_common::frame::{FLAG_ZSTD, FrameHeader};
use penstock::config::settings::{Compression, FileFormat, SinkKind, SinkSettings};
use penstock::journal::format::{
    BLOCK_HEADER_LEN, BlockHeader, ENTRY_ALIGN, ENTRY_HEADER_LEN, Envelope,
};
use penstock::schema::table::Schemas;
use penstock::sink::file::FileSink;
use penstock::sink::file::disk::{Disk, Listed};
use penstock::sink::{Block, Cursor, Sink, SinkStats};
use penstock_proto::encoding::Encoding;
use penstock_proto::v1::{LogBatch, LogRecord};
use penstock_proto::wire::write_frame;
use penstock_tests::allocation::{Counting, allocations};
use prost::Message;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Takes everything and keeps nothing.
struct NoDisk;

impl Disk for NoDisk {
    type File = ();

    fn create_folder(&mut self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn create(&mut self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn open_cut(&mut self, _: &Path, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn read(&mut self, _: &Path, _: u64) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn write(&mut self, _: &mut (), _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn sync(&mut self, _: &mut ()) -> io::Result<()> {
        Ok(())
    }
    fn sync_folder(&mut self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn rename(&mut self, _: &Path, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn remove(&mut self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn list(&mut self, _: &Path) -> io::Result<Vec<Listed>> {
        Ok(Vec::new())
    }
}

const ENTRIES: u32 = 40;
const RECORDS_PER_ENTRY: u32 = 100;

/// Entries as they came, plain and compressed by turns; among the attributes are keys that stand
/// twice, few and many of them.
fn journal_block() -> (Vec<u8>, BlockHeader) {
    let mut block = vec![0; BLOCK_HEADER_LEN];
    for entry in 0..ENTRIES {
        let line = |at: u32| {
            let attributes: Vec<String> = (0..at % 13)
                .map(|n| format!(r#""key {}":"{at}""#, n % 11))
                .collect();
            format!(
                "{{\"ts\":{}.5,\"msg\":\"record {at} \\\"quoted\\\" {}\",\"host\":\"h\",{}\"level\":\"info\"}}\n",
                1_700_000_000 + at,
                "x".repeat(at as usize % 300),
                attributes
                    .iter()
                    .map(|pair| format!("{pair},"))
                    .collect::<String>()
            )
        };
        let (encoding, plain) = match entry % 4 < 2 {
            true => (
                Encoding::Json,
                (0..RECORDS_PER_ENTRY)
                    .map(line)
                    .collect::<String>()
                    .into_bytes(),
            ),
            false => (Encoding::Protobuf, protobuf()),
        };
        let zstd = entry % 2 == 1;
        let payload = match zstd {
            true => zstd::bulk::compress(&plain, 1).expect("compressed"),
            false => plain,
        };
        let mut frame = Vec::new();
        let header = FrameHeader {
            encoding: encoding as u8,
            flags: if zstd { FLAG_ZSTD } else { 0 },
            priority: 2,
            payload_len: 0,
            records: RECORDS_PER_ENTRY,
            producer: 1,
            sequence: 1,
            payload_crc: 0,
        };
        write_frame(&mut frame, header, &payload);
        let envelope = Envelope {
            observed_time_unix_nano: 1_795_178_701_000_000_000,
            listener: 0,
            keep_sixteenths: 16,
            deduplicated: false,
            peer: Some(SocketAddr::from(([192, 0, 2, 7], 5140))),
        };
        let mut head = [0; ENTRY_HEADER_LEN];
        envelope.write(frame.len(), &mut head);
        block.extend_from_slice(&head);
        block.extend_from_slice(&frame);
        block.resize(block.len().next_multiple_of(ENTRY_ALIGN), 0);
    }
    let header = BlockHeader {
        len: block.len() as u32,
        position: 0,
        durable: 0,
        segment: 1,
        salt: 7,
        records_before: 0,
        entries: ENTRIES,
        records: ENTRIES * RECORDS_PER_ENTRY,
    };
    header.write(block.first_chunk_mut().expect("the header's room"));
    (block, header)
}

fn protobuf() -> Vec<u8> {
    let records = (0..RECORDS_PER_ENTRY).map(|at| LogRecord {
        time_unix_nano: 1_700_000_000_000_000_000 + u64::from(at),
        severity_number: 9,
        body: format!("record {at} {}", "y".repeat(at as usize)),
        attributes: (0..at % 12)
            .map(|n| (format!("k{n}"), format!("{at}")))
            .collect(),
        trace_id: vec![7; 16],
        ..LogRecord::default()
    });
    LogBatch {
        records: records.collect(),
    }
    .encode_to_vec()
}

#[test]
fn no_format_allocates_per_record() {
    let (bytes, header) = journal_block();
    let listeners = ["apps".to_owned()];
    for (format, compression) in [
        (FileFormat::Avro, Compression::None),
        (FileFormat::Avro, Compression::Zstd),
        (FileFormat::Avro, Compression::Snappy),
        (FileFormat::Jsonl, Compression::None),
        (FileFormat::Jsonl, Compression::Zstd),
        (FileFormat::Protobuf, Compression::None),
        (FileFormat::Protobuf, Compression::Zstd),
    ] {
        let settings = SinkSettings {
            name: "files".to_owned(),
            kind: SinkKind::File,
            to: Vec::new(),
            format,
            compression,
            rotate_size: u64::MAX,
            rotate_age: Duration::from_secs(3600),
            keep_size: u64::MAX,
            keep_age: Duration::from_secs(3600),
            enabled: true,
        };
        let stats = Arc::new(SinkStats::default());
        let mut sink = FileSink::new(
            NoDisk,
            &settings,
            0,
            Path::new("/"),
            &Schemas::default(),
            Arc::clone(&stats),
        )
        .expect("a sink");
        sink.resume().expect("resume");
        sink.begin(Cursor::default()).expect("begin");
        let block = Block {
            header,
            bytes: &bytes,
            listeners: &listeners,
            verify_payload: true,
        };
        let written = || {
            stats
                .bytes_written
                .load(std::sync::atomic::Ordering::Relaxed)
        };
        let mut deliver = || {
            let delivered = sink.deliver(block).expect("delivered");
            assert_eq!(delivered.records, u64::from(header.records));
        };
        // The file is created, and the buffers grow to the longest block.
        (0..4).for_each(|_| deliver());
        let before = written();
        let count = allocations(|| (0..10).for_each(|_| deliver()));
        assert_eq!(count, 0, "{format:?} with {compression:?}");
        assert!(written() > before, "blocks were written");
    }
}
