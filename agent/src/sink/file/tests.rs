//! The file sink against crashes, other people's readers and a plain vector.

mod crash;
mod formats;
mod interop;
mod resume;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use penstock_proto::v1::LogRecord;

use crate::config::settings::{Compression, FileFormat, SinkSettings};
use crate::journal::reader::JournalReader;
use crate::schema::table::Schemas;
use crate::sink::file::FileSink;
use crate::sink::file::container::Next;
use crate::sink::file::disk::{Disk, RealDisk};
use crate::sink::file::read::RecordsReader;
use crate::sink::{Sink, SinkStats};

/// Everything that a file sink may be told to write.
const FORMATS: [(FileFormat, Compression); 7] = [
    (FileFormat::Avro, Compression::None),
    (FileFormat::Avro, Compression::Zstd),
    (FileFormat::Avro, Compression::Snappy),
    (FileFormat::Jsonl, Compression::None),
    (FileFormat::Jsonl, Compression::Zstd),
    (FileFormat::Protobuf, Compression::None),
    (FileFormat::Protobuf, Compression::Zstd),
];

fn settings(compression: Compression) -> SinkSettings {
    settings_of((FileFormat::Avro, compression))
}

fn settings_of((format, compression): (FileFormat, Compression)) -> SinkSettings {
    SinkSettings {
        name: "files".to_owned(),
        kind: crate::config::settings::SinkKind::File,
        to: Vec::new(),
        format,
        compression,
        rotate_size: u64::MAX,
        rotate_age: Duration::from_secs(3600),
        keep_size: u64::MAX,
        keep_age: Duration::from_secs(3600 * 24 * 365),
        enabled: true,
    }
}

fn sink(data_dir: &Path, settings: &SinkSettings) -> FileSink<RealDisk> {
    sink_on(RealDisk, data_dir, settings)
}

fn sink_on<D: Disk>(disk: D, data_dir: &Path, settings: &SinkSettings) -> FileSink<D> {
    FileSink::new(
        disk,
        settings,
        0,
        data_dir,
        &Schemas::default(),
        Arc::new(SinkStats::default()),
    )
    .expect("a sink")
}

/// Delivers what the journal holds up to `durable` beyond the sink's cursor.
fn deliver(sink: &mut impl Sink, folder: &Path, from: u64, durable: u64) {
    let mut reader = JournalReader::open(folder, from).expect("open the journal");
    while let Some(block) = reader.next_block(durable).expect("read the journal") {
        sink.deliver(block).expect("deliver");
    }
}

/// Names of the files in the output folder, sorted.
fn output_names(data_dir: &Path) -> Vec<String> {
    let folder = std::fs::read_dir(data_dir.join("records")).expect("the output folder");
    let mut names: Vec<_> = folder
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect();
    names.sort();
    names
}

/// Bodies of all records in the output folder's files, in order of their names.
fn output_bodies(data_dir: &Path) -> Vec<String> {
    let mut bodies = Vec::new();
    for name in output_names(data_dir) {
        let path = data_dir.join("records").join(&name);
        let file = std::fs::File::open(&path).expect("open");
        let mut reader = RecordsReader::open(file, &path).expect("a sink's file");
        loop {
            match reader.read_next().expect("a good block") {
                Next::Records(records) => bodies.extend(records.iter().map(|r| r.body.to_owned())),
                Next::End => break,
                Next::Partial => panic!("{name} is cut short"),
            }
        }
    }
    bodies
}

fn bodies_of(records: &[LogRecord]) -> Vec<String> {
    records.iter().map(|record| record.body.clone()).collect()
}
