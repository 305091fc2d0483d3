//! What the agent stored, read back in two ways: by the library's reader of all formats, and as
//! `penstock cat` prints it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use penstock::sink::file::container::{Next, Stored};
use penstock::sink::file::name::OPEN_SUFFIX;
use penstock::sink::file::read::RecordsReader;
use penstock_proto::v1::LogRecord;

use super::client::hex;
use super::penstock;

/// One stored record: the record and its envelope.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRecord {
    pub record: LogRecord,
    pub observed_time_unix_nano: u64,
    pub listener: String,
    pub peer_address: String,
}

impl From<&Stored<'_>> for StoredRecord {
    fn from(stored: &Stored<'_>) -> Self {
        let attributes = stored.attributes.iter();
        Self {
            record: LogRecord {
                time_unix_nano: stored.time_unix_nano,
                severity_number: stored.severity_number,
                service_name: stored.service_name.to_owned(),
                body: stored.body.to_owned(),
                host_name: stored.host_name.to_owned(),
                attributes: attributes
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect(),
                trace_id: stored.trace_id.to_vec(),
                span_id: stored.span_id.to_vec(),
            },
            observed_time_unix_nano: stored.observed_time_unix_nano,
            listener: stored.listener.to_owned(),
            peer_address: stored.peer_address.to_owned(),
        }
    }
}

/// All records under `folder`, file by file in the order of their names; every file must be sealed
/// and whole.
pub fn read(folder: &Path) -> Vec<StoredRecord> {
    let mut records = Vec::new();
    for path in files(folder) {
        let sealed = !path.to_string_lossy().ends_with(OPEN_SUFFIX);
        assert!(sealed, "{} is not sealed", path.display());
        read_file(&path, &mut records);
    }
    records
}

/// The files under `folder`, by name.
pub fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).expect("read the records' folder");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort_unstable();
    paths
}

fn read_file(path: &Path, records: &mut Vec<StoredRecord>) {
    let file = File::open(path).expect("open a file of records");
    let mut reader = RecordsReader::open(file, path).expect("a sink's file");
    loop {
        match reader.read_next().expect("a whole block") {
            Next::Records(block) => records.extend(block.iter().map(StoredRecord::from)),
            Next::End => return,
            Next::Partial => panic!("{} ends within a block", path.display()),
        }
    }
}

/// How often each body is stored.
pub fn bodies(records: &[StoredRecord]) -> BTreeMap<&str, u64> {
    let mut counts = BTreeMap::new();
    for stored in records {
        *counts.entry(stored.record.body.as_str()).or_default() += 1;
    }
    counts
}

/// The same records as `penstock cat --format json` prints them.
pub fn cat(path: &Path) -> Vec<StoredRecord> {
    let printed = penstock(&["cat", "--format", "json", path.to_str().expect("UTF-8")]);
    printed.lines().map(parse_line).collect()
}

fn parse_line(line: &str) -> StoredRecord {
    let value: serde_json::Value = serde_json::from_str(line).expect("one JSON object a line");
    let text = |name: &str| value[name].as_str().expect("a string").to_owned();
    let attributes = value["attributes"].as_object().expect("an object");
    StoredRecord {
        record: LogRecord {
            time_unix_nano: text("time_unix_nano").parse().expect("nanoseconds"),
            severity_number: value["severity_number"].as_u64().expect("a number") as u32,
            service_name: text("service_name"),
            body: text("body"),
            host_name: text("host_name"),
            attributes: attributes
                .iter()
                .map(|(key, value)| (key.clone(), value.as_str().expect("a string").to_owned()))
                .collect(),
            trace_id: hex::read(&text("trace_id")),
            span_id: hex::read(&text("span_id")),
        },
        observed_time_unix_nano: text("observed_time_unix_nano")
            .parse()
            .expect("nanoseconds"),
        listener: text("listener"),
        peer_address: text("peer_address"),
    }
}
