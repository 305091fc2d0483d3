//! The file sink's work on one core: journal blocks to blocks of every format, without the disk.
//!
//! `cargo bench -p penstock-benches --bench sink`. The element is a record of about 215 bytes, time is
//! CPU time. `PENSTOCK_LOG_LINES=FILE` takes the bodies from a file of real lines. What a record
//! takes in the file is printed beside.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agent_common::frame::FrameHeader;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use penstock::config::settings::{Compression, FileFormat, SinkKind, SinkSettings};
use penstock::journal::format::{
    BLOCK_HEADER_LEN, BlockHeader, ENTRY_ALIGN, ENTRY_HEADER_LEN, Envelope,
};
use penstock::schema::table::Schemas;
use penstock::sink::file::FileSink;
use penstock::sink::file::disk::{Disk, Listed};
use penstock::sink::{Block, Cursor, Sink, SinkStats};
use penstock_benches::{Line, lines};
use penstock_proto::encoding::Encoding;
use penstock_proto::v1::{LogBatch, LogRecord};
use penstock_proto::wire::write_frame;
use prost::Message;

/// Time that this thread was on a CPU: the figures stand for one core, whatever else runs. The
/// kernel brings the number up to date at its ticks, so it is read once a sample.
fn on_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("schedstat");
    let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.expect("the first number is time on the CPU"))
}

/// Takes everything at once and keeps nothing.
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

const RECORDS_PER_FRAME: usize = 50;
/// Lines that fill a dozen of the encoder's blocks.
const MADE_LINES: usize = 8_000;
/// Journal blocks as a steady load leaves them: a few hundred KiB.
const BLOCK_LEN: usize = 256 << 10;

/// Journal blocks of Protobuf frames, as many as the lines fill but for the last.
fn journal_blocks(lines: &[Line]) -> Vec<(Vec<u8>, BlockHeader)> {
    let mut blocks = Vec::new();
    let mut block = vec![0; BLOCK_HEADER_LEN];
    let mut entries = 0;
    for lines in lines.chunks_exact(RECORDS_PER_FRAME) {
        let records = lines.iter().map(|line| LogRecord {
            time_unix_nano: line.time_unix_nano,
            severity_number: line.severity_number,
            service_name: line.service_name.clone(),
            body: line.body.clone(),
            host_name: line.host_name.clone(),
            attributes: line.attributes.iter().cloned().collect(),
            ..LogRecord::default()
        });
        let batch = LogBatch {
            records: records.collect(),
        };
        let mut frame = Vec::new();
        let header = FrameHeader {
            encoding: Encoding::Protobuf as u8,
            flags: 0,
            priority: 2,
            payload_len: 0,
            records: RECORDS_PER_FRAME as u32,
            producer: 1,
            sequence: 1,
            payload_crc: 0,
        };
        write_frame(&mut frame, header, &batch.encode_to_vec());
        if block.len() + ENTRY_HEADER_LEN + frame.len() > BLOCK_LEN {
            blocks.push(sealed(
                std::mem::replace(&mut block, vec![0; BLOCK_HEADER_LEN]),
                entries,
            ));
            entries = 0;
        }
        let mut head = [0; ENTRY_HEADER_LEN];
        let envelope = Envelope {
            observed_time_unix_nano: lines[0].time_unix_nano + 1_000_000,
            listener: 0,
            keep_sixteenths: 16,
            peer: Some(SocketAddr::from(([192, 0, 2, 7], 5140))),
            deduplicated: false,
        };
        envelope.write(frame.len(), &mut head);
        block.extend_from_slice(&head);
        block.extend_from_slice(&frame);
        block.resize(block.len().next_multiple_of(ENTRY_ALIGN), 0);
        entries += 1;
    }
    blocks.push(sealed(block, entries));
    blocks
}

fn sealed(mut block: Vec<u8>, entries: u32) -> (Vec<u8>, BlockHeader) {
    let header = BlockHeader {
        len: block.len() as u32,
        position: 0,
        durable: 0,
        segment: 1,
        records_before: 0,
        entries,
        records: entries * RECORDS_PER_FRAME as u32,
        salt: 7,
    };
    header.write(block.first_chunk_mut().expect("the header's room"));
    (block, header)
}

const FORMATS: [(&str, FileFormat, Compression); 7] = [
    ("avro_null", FileFormat::Avro, Compression::None),
    ("avro_zstandard", FileFormat::Avro, Compression::Zstd),
    ("avro_snappy", FileFormat::Avro, Compression::Snappy),
    ("jsonl_none", FileFormat::Jsonl, Compression::None),
    ("jsonl_zstd", FileFormat::Jsonl, Compression::Zstd),
    ("protobuf_none", FileFormat::Protobuf, Compression::None),
    ("protobuf_zstd", FileFormat::Protobuf, Compression::Zstd),
];

fn file_sink(criterion: &mut Criterion) {
    let lines = lines(MADE_LINES);
    let blocks = journal_blocks(&lines);
    let listeners = ["apps".to_owned()];
    let records: u64 = blocks
        .iter()
        .map(|(_, header)| u64::from(header.records))
        .sum();
    let bytes: usize = blocks.iter().map(|(bytes, _)| bytes.len()).sum();
    println!(
        "{records} records, {:.0} bytes a record in the journal",
        bytes as f64 / records as f64
    );
    let mut group = criterion.benchmark_group("sink");
    group.throughput(Throughput::Elements(records));
    group.sample_size(20);
    for (name, format, compression) in FORMATS {
        for (from, verify_payload) in [("memory", false), ("disk", true)] {
            // What differs is the payloads' checksums, and that is the same for every format.
            if verify_payload && format != FileFormat::Avro {
                continue;
            }
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
            let mut deliver_all = || {
                for (bytes, header) in &blocks {
                    let block = Block {
                        header: *header,
                        bytes,
                        listeners: &listeners,
                        verify_payload,
                    };
                    let delivered = sink.deliver(block).expect("delivered");
                    assert_eq!(delivered.records, u64::from(header.records));
                }
            };
            // Ratio beside speed: what a record takes in the file.
            let rounds = 10;
            (0..rounds).for_each(|_| deliver_all());
            let written = stats.bytes_written.load(Ordering::Relaxed);
            println!(
                "{name}: {:.1} bytes a record in the file",
                written as f64 / (rounds * records) as f64
            );
            group.bench_function(format!("{name}/from_{from}"), |bencher| {
                bencher.iter_custom(|times| {
                    let start = on_cpu();
                    (0..times).for_each(|_| deliver_all());
                    on_cpu() - start
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, file_sink);
criterion_main!(benches);
