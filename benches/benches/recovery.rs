//! Recovery of 1 GiB of journal: `cargo bench -p penstock-benches --bench recovery`.
//!
//! The journal is as an agent leaves it that was killed: four segments of 256 MiB, the last one with
//! a torn block and 64 MiB allocated and not used. Recovery reads all of it and checks every checksum.
//! Cold: the page cache was told to let go of the files first. `PENSTOCK_BENCH_DIR` names a folder on
//! the disk that is meant; the default is the temporary folder.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use agent_common::frame::FrameHeader;
use penstock::journal::format::{
    BLOCK_ALIGN, BLOCK_HEADER_LEN, BlockHeader, ENTRY_ALIGN, ENTRY_HEADER_LEN, Envelope,
    SEGMENT_HEADER_LEN, SegmentHeader, segment_file_name,
};
use penstock::journal::recovery::{inspect, recover};
use penstock_benches::{Line, lines};
use penstock_proto::encoding::Encoding;
use penstock_proto::v1::{LogBatch, LogRecord};
use penstock_proto::wire::write_frame;
use prost::Message;

const SEGMENTS: u64 = 4;
const SEGMENT_LEN: u64 = 256 << 20;
/// The last segment's preallocated rest.
const UNUSED_LEN: u64 = 64 << 20;
const RECORDS_PER_FRAME: usize = 50;
const BLOCK_LEN: usize = 1 << 20;
const SALT: u64 = 7;

fn main() {
    // `cargo test --benches` runs this too, without the flag that `cargo bench` gives.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("skipped: this is a benchmark, run it with cargo bench");
        return;
    }
    let folder = match std::env::var_os("PENSTOCK_BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let folder = folder.expect("a folder");
    let bytes = write_journal(folder.path());
    println!("{} MiB of blocks in {SEGMENTS} segments", bytes >> 20);
    for (what, cold) in [("cold", true), ("cold", true), ("warm", false)] {
        let taken = time(folder.path(), cold, || {
            inspect(folder.path()).expect("inspect");
        });
        println!(
            "{what}: inspect took {taken:?}, {:.2} GB/s",
            rate(bytes, taken)
        );
    }
    let taken = time(folder.path(), true, || {
        let recovered = recover(folder.path()).expect("recover");
        assert!(recovered.report.damaged.is_empty() && recovered.report.cut_at.is_some());
    });
    println!(
        "cold: recover took {taken:?}, {:.2} GB/s",
        rate(bytes, taken)
    );
}

fn rate(bytes: u64, taken: Duration) -> f64 {
    bytes as f64 / 1e9 / taken.as_secs_f64()
}

fn time(folder: &Path, cold: bool, run: impl FnOnce()) -> Duration {
    if cold {
        for number in 1..=SEGMENTS {
            let file = File::open(folder.join(segment_file_name(number))).expect("open");
            // SAFETY: no pointers; the descriptor is open.
            let told =
                unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
            assert_eq!(told, 0, "posix_fadvise");
        }
    }
    let start = Instant::now();
    run();
    start.elapsed()
}

/// Returns the bytes of blocks.
fn write_journal(folder: &Path) -> u64 {
    let entries = block_entries();
    let (mut position, mut records) = (0, 0);
    for number in 1..=SEGMENTS {
        let path = folder.join(segment_file_name(number));
        let file = File::create(path).expect("create a segment");
        // SAFETY: no pointers; the descriptor is open.
        let status = unsafe {
            libc::posix_fallocate(
                file.as_raw_fd(),
                0,
                (SEGMENT_LEN + SEGMENT_HEADER_LEN as u64) as libc::off_t,
            )
        };
        assert_eq!(status, 0, "posix_fallocate");
        let header = SegmentHeader {
            shard: 0,
            number,
            base: position,
            records_before: records,
            created_unix_nano: 1_700_000_000_000_000_000,
            predecessor: number - 1,
            salt: SALT + number,
            listeners: vec!["apps".to_owned()],
        };
        let mut page = [0; SEGMENT_HEADER_LEN];
        header.write(&mut page);
        file.write_all_at(&page, 0).expect("write");
        let used = match number {
            SEGMENTS => SEGMENT_LEN - UNUSED_LEN,
            _ => SEGMENT_LEN,
        };
        let mut at = SEGMENT_HEADER_LEN as u64;
        loop {
            let (bytes, next) = block(&entries, &header, position, records);
            if at + bytes.len() as u64 > used + SEGMENT_HEADER_LEN as u64 {
                break;
            }
            file.write_all_at(&bytes, at).expect("write");
            at += bytes.len() as u64;
            (position, records) = next;
        }
        if number == SEGMENTS {
            // The last block is torn.
            file.write_all_at(&[0xee; BLOCK_ALIGN], at - BLOCK_LEN as u64 / 2)
                .expect("tear");
        }
        file.sync_all().expect("sync");
    }
    position
}

struct Entries {
    bytes: Vec<u8>,
    entries: u32,
    records: u32,
}

/// As many frames as a block of 1 MiB takes.
fn block_entries() -> Entries {
    let lines = lines(20_000);
    let mut block = Entries {
        bytes: Vec::new(),
        entries: 0,
        records: 0,
    };
    for (sequence, batch) in lines.chunks_exact(RECORDS_PER_FRAME).cycle().enumerate() {
        let frame = frame(batch, sequence as u64);
        let entry_len = (ENTRY_HEADER_LEN + frame.len()).next_multiple_of(ENTRY_ALIGN);
        if BLOCK_HEADER_LEN + block.bytes.len() + entry_len > BLOCK_LEN {
            return block;
        }
        let envelope = Envelope {
            observed_time_unix_nano: batch[0].time_unix_nano,
            listener: 0,
            keep_sixteenths: 16,
            deduplicated: false,
            peer: None,
        };
        let mut head = [0; ENTRY_HEADER_LEN];
        envelope.write(frame.len(), &mut head);
        block.bytes.extend_from_slice(&head);
        block.bytes.extend_from_slice(&frame);
        let aligned = block.bytes.len().next_multiple_of(ENTRY_ALIGN);
        block.bytes.resize(aligned, 0);
        block.entries += 1;
        block.records += RECORDS_PER_FRAME as u32;
    }
    unreachable!("a cycle has no end");
}

fn frame(batch: &[Line], sequence: u64) -> Vec<u8> {
    let records = batch.iter().map(|line| LogRecord {
        time_unix_nano: line.time_unix_nano,
        severity_number: line.severity_number,
        service_name: line.service_name.clone(),
        body: line.body.clone(),
        ..LogRecord::default()
    });
    let payload = LogBatch {
        records: records.collect(),
    }
    .encode_to_vec();
    let header = FrameHeader {
        encoding: Encoding::Protobuf as u8,
        flags: 0,
        priority: 2,
        payload_len: 0,
        records: batch.len() as u32,
        producer: 1,
        sequence: 1 + sequence,
        payload_crc: 0,
    };
    let mut frame = Vec::new();
    write_frame(&mut frame, header, &payload);
    frame
}

/// A block of whole pages, and position and records behind it.
fn block(
    entries: &Entries,
    segment: &SegmentHeader,
    position: u64,
    records_before: u64,
) -> (Vec<u8>, (u64, u64)) {
    let mut bytes = vec![0; BLOCK_HEADER_LEN];
    bytes.extend_from_slice(&entries.bytes);
    let header = BlockHeader {
        len: bytes.len() as u32,
        position,
        // Two blocks are in flight.
        durable: position
            .saturating_sub(2 * BLOCK_LEN as u64)
            .max(segment.base),
        segment: segment.number,
        records_before,
        entries: entries.entries,
        records: entries.records,
        salt: segment.salt,
    };
    header.write(bytes.first_chunk_mut().expect("the header's room"));
    bytes.resize(bytes.len().next_multiple_of(BLOCK_ALIGN), 0);
    let records = records_before + u64::from(entries.records);
    (bytes, (header.end_position(), records))
}
