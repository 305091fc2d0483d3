//! The file sink's work on one core: journal blocks to Avro blocks, without the disk.
//!
//! `cargo bench -p penstock-benches --bench sink`. The element is a record, time is CPU time; lines are this host's
//! own package log where it has one, made up to about 215 bytes.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent_common::frame::FrameHeader;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use penstock::config::settings::{Compression, SinkSettings};
use penstock::journal::format::{
    BLOCK_HEADER_LEN, BlockHeader, ENTRY_ALIGN, ENTRY_HEADER_LEN, Envelope,
};
use penstock::limits::JOURNAL_BLOCK_LEN;
use penstock::schema::table::Schemas;
use penstock::sink::file::FileSink;
use penstock::sink::file::disk::{Disk, Listed};
use penstock::sink::{Block, Cursor, Sink};
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
#[derive(Default)]
struct NoDisk {
    written: u64,
}

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
    fn write(&mut self, _: &mut (), bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
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

/// Bodies of about 150 bytes, which with the other fields make about 215.
fn bodies() -> Vec<String> {
    let mut lines = Vec::new();
    for path in [
        "/var/log/dpkg.log",
        "/var/log/apt/history.log",
        "/var/log/syslog",
    ] {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        lines.extend(
            text.lines()
                .filter(|line| line.len() > 20)
                .map(str::to_owned),
        );
    }
    // Where a host has no logs of its own.
    lines.extend((lines.len()..200).map(|at| {
        format!(
            "GET /api/v1/items/{} 200 {}us from 10.0.{}.{}",
            at * 7919,
            at * 131 % 977,
            at % 7,
            at
        )
    }));
    let mut bodies = Vec::new();
    let mut body = String::new();
    for line in lines.iter().take(20_000) {
        body.push_str(line);
        body.push(' ');
        if body.len() >= 130 {
            bodies.push(std::mem::take(&mut body));
        }
    }
    bodies
}

/// One full journal block of Protobuf frames.
fn journal_block() -> (Vec<u8>, BlockHeader) {
    let mut bodies = bodies().into_iter().cycle();
    let mut block = vec![0; BLOCK_HEADER_LEN];
    let (mut entries, mut time) = (0, 1_795_178_701_000_000_000);
    loop {
        let records = (0..RECORDS_PER_FRAME).map(|at| {
            time += 1_357;
            LogRecord {
                time_unix_nano: time,
                severity_number: 9,
                service_name: "package-manager".to_owned(),
                body: bodies.next().expect("it cycles"),
                host_name: "host-17.example.net".to_owned(),
                attributes: [("pid".to_owned(), format!("{}", 4_000 + at))].into(),
                ..LogRecord::default()
            }
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
        if block.len() + ENTRY_HEADER_LEN + frame.len() > JOURNAL_BLOCK_LEN - 8 {
            break;
        }
        let mut head = [0; ENTRY_HEADER_LEN];
        let envelope = Envelope {
            observed_time_unix_nano: time,
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

fn file_sink(criterion: &mut Criterion) {
    let (bytes, header) = journal_block();
    let listeners = ["apps".to_owned()];
    println!(
        "{} records in {} bytes: {:.0} bytes a record",
        header.records,
        header.len,
        f64::from(header.len) / f64::from(header.records)
    );
    let mut group = criterion.benchmark_group("sink");
    group.throughput(Throughput::Elements(u64::from(header.records)));
    group.sample_size(30);
    let codecs = [
        ("null", Compression::None),
        ("zstandard", Compression::Zstd),
    ];
    for (codec, compression) in codecs {
        for (from, verify_payload) in [("memory", false), ("disk", true)] {
            let settings = SinkSettings {
                name: "files".to_owned(),
                kind: penstock::config::settings::SinkKind::File,
                format: penstock::config::settings::FileFormat::Avro,
                compression,
                rotate_size: u64::MAX,
                rotate_age: Duration::from_secs(3600),
                keep_size: u64::MAX,
                keep_age: Duration::from_secs(3600),
                enabled: true,
            };
            let mut sink = FileSink::new(
                NoDisk::default(),
                &settings,
                0,
                Path::new("/"),
                &Schemas::default(),
                Arc::default(),
            )
            .expect("a sink");
            sink.resume().expect("resume");
            sink.begin(Cursor::default()).expect("begin");
            let block = Block {
                header,
                bytes: &bytes,
                listeners: &listeners,
                verify_payload,
            };
            group.bench_function(format!("{codec}/from_{from}"), |bencher| {
                bencher.iter_custom(|times| {
                    let start = on_cpu();
                    for _ in 0..times {
                        let delivered = sink.deliver(block).expect("delivered");
                        assert_eq!(delivered.records, u64::from(header.records));
                    }
                    on_cpu() - start
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, file_sink);
criterion_main!(benches);
