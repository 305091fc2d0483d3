//! Decoding, one core: our views beside the owned messages of prost and serde_json,
//! and beside Avro's other readers.
//!
//! Batches of 50 records, about 215 bytes a record in Protobuf, as an agent would receive them.
//! `PENSTOCK_LOG_LINES=FILE` takes the bodies from a file of real lines.

mod avro;

use std::collections::HashMap;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use penstock::decode::compressed::Decompressor;
use penstock::decode::{Decoder, Payload};
use penstock::schema::table::Schemas;
use penstock_benches::{Line, lines};
use penstock_proto::encoding::Encoding;
use penstock_proto::v1::{LogBatch, LogRecord};
use prost::Message;
use serde::{Deserialize, Serialize};

const RECORDS_PER_BATCH: usize = 50;
/// What `penstock send --zstd` uses.
const ZSTD_LEVEL: i32 = 3;
/// 0.4 MiB of Protobuf: what a receive buffer pool hands over before it comes round again.
const MADE_LINES: usize = 2000;

fn benches(criterion: &mut Criterion) {
    let lines = lines(MADE_LINES);
    let protobuf: Vec<Batch> = batches(&lines, protobuf_payload);
    let json: Vec<Batch> = batches(&lines, json_payload);
    for (name, batches) in [("protobuf", &protobuf), ("json", &json)] {
        report(name, &lines, batches);
    }

    // A map is what costs prost the most, so the comparison is made without attributes too.
    let plain_lines: Vec<Line> = lines
        .iter()
        .map(|line| Line {
            attributes: Vec::new(),
            ..line.clone()
        })
        .collect();
    let plain = batches(&plain_lines, protobuf_payload);
    for (name, batches) in [("protobuf", &protobuf), ("protobuf_no_attributes", &plain)] {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(lines.len() as u64));
        group.bench_function("prost_owned", |bencher| {
            bencher.iter(|| {
                for batch in batches {
                    black_box(LogBatch::decode(&*batch.payload).unwrap());
                }
            });
        });
        bench_views(&mut group, Encoding::Protobuf, batches);
        group.finish();
    }

    bench_zstd(criterion, &lines);

    let mut group = criterion.benchmark_group("json");
    group.throughput(Throughput::Elements(lines.len() as u64));
    group.bench_function("serde_json_owned", |bencher| {
        bencher.iter(|| {
            for batch in &json {
                for line in batch.payload.split(|&byte| byte == b'\n') {
                    if !line.is_empty() {
                        black_box(serde_json::from_slice::<JsonRecord>(line).unwrap());
                    }
                }
            }
        });
    });
    bench_views(&mut group, Encoding::Json, &json);
    group.finish();

    avro::benches(criterion, &lines);
}

fn report(name: &str, lines: &[Line], batches: &[Batch]) {
    let bytes: usize = batches.iter().map(|batch| batch.payload.len()).sum();
    eprintln!(
        "{name}: {} records, {:.1} bytes a record",
        lines.len(),
        bytes as f64 / lines.len() as f64
    );
}

/// Payloads as senders compress them: the decoder's whole work beside the bare decompressor's, with
/// a context and a buffer that it uses again.
fn bench_zstd(criterion: &mut Criterion, lines: &[Line]) {
    let compressed = batches(lines, |lines| {
        zstd::bulk::compress(&protobuf_payload(lines), ZSTD_LEVEL).unwrap()
    });
    let bytes: usize = compressed.iter().map(|batch| batch.payload.len()).sum();
    eprintln!(
        "protobuf_zstd: {:.1} bytes a record",
        bytes as f64 / lines.len() as f64
    );
    let mut group = criterion.benchmark_group("protobuf_zstd");
    group.throughput(Throughput::Elements(lines.len() as u64));
    group.bench_function("bare_decompress", |bencher| {
        let mut context = zstd::bulk::Decompressor::new().unwrap();
        let mut out = vec![0; 1 << 20];
        bencher.iter(|| {
            for batch in &compressed {
                let len = context
                    .decompress_to_buffer(black_box(&batch.payload), &mut out[..])
                    .unwrap();
                black_box(&out[..len]);
            }
        });
    });
    group.bench_function("bounded_decompress", |bencher| {
        let mut decompressor = Decompressor::default();
        bencher.iter(|| {
            for batch in &compressed {
                black_box(decompressor.decompress(black_box(&batch.payload)).unwrap());
            }
        });
    });
    group.bench_function("view_validate", |bencher| {
        let mut decoder = Decoder::new(&Schemas::default());
        bencher.iter(|| {
            for batch in &compressed {
                let payload = Payload {
                    zstd: true,
                    ..Payload::plain(Encoding::Protobuf, black_box(&batch.payload))
                };
                decoder.validate(&payload, batch.records).unwrap();
            }
        });
    });
    group.finish();
}

type Group<'a> = criterion::BenchmarkGroup<'a, criterion::measurement::WallTime>;

fn bench_views(group: &mut Group<'_>, encoding: Encoding, batches: &[Batch]) {
    let mut decoder = Decoder::new(&Schemas::default());
    group.bench_function("view_validate", |bencher| {
        bencher.iter(|| {
            for batch in batches {
                decoder
                    .validate(
                        &Payload::plain(encoding, black_box(&batch.payload)),
                        batch.records,
                    )
                    .unwrap();
            }
        });
    });
    group.bench_function("view_for_each", |bencher| {
        bencher.iter(|| {
            for batch in batches {
                decoder
                    .for_each(
                        &Payload::plain(encoding, black_box(&batch.payload)),
                        |record| {
                            black_box(record);
                        },
                    )
                    .unwrap();
            }
        });
    });
    group.bench_function("view_for_each_with_attributes", |bencher| {
        bencher.iter(|| {
            for batch in batches {
                decoder
                    .for_each(
                        &Payload::plain(encoding, black_box(&batch.payload)),
                        |record| {
                            black_box(record);
                            for pair in &record.attributes {
                                black_box(pair);
                            }
                        },
                    )
                    .unwrap();
            }
        });
    });
}

struct Batch {
    records: u32,
    payload: Vec<u8>,
}

fn batches(lines: &[Line], encode: impl Fn(&[Line]) -> Vec<u8>) -> Vec<Batch> {
    lines
        .chunks(RECORDS_PER_BATCH)
        .map(|lines| Batch {
            records: lines.len() as u32,
            payload: encode(lines),
        })
        .collect()
}

fn protobuf_payload(lines: &[Line]) -> Vec<u8> {
    let records = lines
        .iter()
        .map(|line| LogRecord {
            time_unix_nano: line.time_unix_nano,
            severity_number: line.severity_number,
            service_name: line.service_name.clone(),
            body: line.body.clone(),
            host_name: line.host_name.clone(),
            attributes: line.attributes.iter().cloned().collect(),
            ..LogRecord::default()
        })
        .collect();
    LogBatch { records }.encode_to_vec()
}

/// What somebody who used serde_json would write down.
#[derive(Deserialize, Serialize)]
struct JsonRecord {
    time_unix_nano: String,
    severity_number: u32,
    service_name: String,
    host_name: String,
    body: String,
    attributes: HashMap<String, String>,
}

fn json_payload(lines: &[Line]) -> Vec<u8> {
    let mut payload = Vec::new();
    for line in lines {
        let record = JsonRecord {
            time_unix_nano: line.time_unix_nano.to_string(),
            severity_number: line.severity_number,
            service_name: line.service_name.clone(),
            host_name: line.host_name.clone(),
            body: line.body.clone(),
            attributes: line.attributes.iter().cloned().collect(),
        };
        serde_json::to_writer(&mut payload, &record).unwrap();
        payload.push(b'\n');
    }
    payload
}

criterion_group!(decode, benches);
criterion_main!(decode);
