//! All of `cat`, from paths to printed lines; what the tests of each source need as well.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use penstock_proto::v1::LogRecord;

use super::json::json_line;
use super::*;
use crate::config::settings::{Compression, FileFormat, SinkSettings};
use crate::journal::reader::JournalReader;
use crate::schema::table::Schemas;
use crate::sink::file::FileSink;
use crate::sink::file::container::Stored;
use crate::sink::file::disk::RealDisk;
use crate::sink::sample::{SampleEntry, SampleJournal, numbered};
use crate::sink::{Cursor, Sink};

pub(super) struct Printed {
    pub(super) out: String,
    pub(super) notes: String,
    pub(super) problems: u64,
}

pub(super) fn cat(paths: &[PathBuf], format: Format) -> Result<Printed, Failure> {
    let arguments = Arguments {
        follow: false,
        format,
        paths: paths.to_vec(),
    };
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    match print_all(&arguments, &mut out, &mut notes) {
        Ok(problems) => Ok(Printed {
            out: String::from_utf8(out).expect("UTF-8"),
            notes: String::from_utf8(notes).expect("UTF-8"),
            problems,
        }),
        Err(Stop::Failed(failure)) => Err(failure),
        Err(Stop::Closed) => panic!("a Vec is never closed"),
    }
}

pub(super) fn entry(number: u64) -> SampleEntry {
    SampleEntry::protobuf(number, vec![numbered(number)])
}

/// The numbers of the sample records, in the order in which they were printed.
pub(super) fn numbers(printed: &Printed) -> Vec<u64> {
    let numbers = printed.out.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let body = line["body"].as_str().expect("a body");
        body.strip_prefix("record ").and_then(|n| n.parse().ok())
    });
    numbers.map(|number| number.expect("a number")).collect()
}

pub(super) fn written(
    data_dir: &Path,
    sealed: bool,
    numbers: std::ops::Range<u64>,
) -> FileSink<RealDisk> {
    let format = (FileFormat::Avro, Compression::Zstd);
    written_as(format, data_dir, sealed, numbers)
}

pub(super) fn written_as(
    (format, compression): (FileFormat, Compression),
    data_dir: &Path,
    sealed: bool,
    numbers: std::ops::Range<u64>,
) -> FileSink<RealDisk> {
    let mut journal = SampleJournal::new(data_dir);
    for number in numbers {
        journal.append(&[entry(number)]);
    }
    let settings = SinkSettings {
        name: "files".to_owned(),
        kind: crate::config::settings::SinkKind::File,
        to: Vec::new(),
        format,
        compression,
        rotate_size: u64::MAX,
        rotate_age: std::time::Duration::from_secs(3600),
        keep_size: u64::MAX,
        keep_age: std::time::Duration::from_secs(3600),
        enabled: true,
    };
    let mut sink = FileSink::new(
        RealDisk,
        &settings,
        0,
        data_dir,
        &Schemas::default(),
        Arc::default(),
    )
    .expect("a sink");
    sink.resume().expect("resume");
    sink.begin(Cursor::default()).expect("begin");
    let mut reader = JournalReader::open(&journal.folder, 0).expect("open");
    while let Some(block) = reader.next_block(journal.position).expect("read") {
        sink.deliver(block).expect("deliver");
        // One block a record.
        sink.commit().expect("commit");
    }
    if sealed {
        sink.seal().expect("seal");
    }
    sink
}

pub(super) fn only_file(data_dir: &Path) -> PathBuf {
    let mut files = std::fs::read_dir(data_dir.join("records")).expect("the folder");
    files.next().expect("a file").expect("an entry").path()
}

/// A record full of what must not reach a terminal.
fn hostile() -> LogRecord {
    LogRecord {
        time_unix_nano: 1_795_178_701_123_456_789,
        severity_number: 18,
        service_name: "api".to_owned(),
        body: "a\nb\tc\u{1b}[2J \"q\" \\ \u{9b}31m \u{202e}über".to_owned(),
        host_name: String::new(),
        attributes: [("user id".to_owned(), "x\r\u{7f}".to_owned())].into(),
        trace_id: (0..16).collect(),
        span_id: Vec::new(),
    }
}

#[test]
fn both_formats_show_a_record_and_escape_what_steers_a_terminal() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = SampleJournal::new(folder.path());
    journal.append(&[SampleEntry::protobuf(42, vec![hostile()])]);
    let paths = [folder.path().to_owned()];
    let text = cat(&paths, Format::Text).expect("text");
    assert_eq!(
        text.out,
        "2026-11-20T12:45:01.123456789Z ERROR2 api - a\\nb\\tc\\u{1b}[2J \"q\" \\ \\u{9b}31m \
         \\u{202e}über user id=x\\r\\u{7f}\n"
    );
    let json = cat(&paths, Format::Json).expect("json");
    assert!(
        !json
            .out
            .contains(['\u{1b}', '\u{9b}', '\u{202e}', '\u{7f}'])
    );
    let parsed: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(
        parsed,
        serde_json::json!({
            "time_unix_nano": "1795178701123456789",
            "severity_number": 18,
            "service_name": "api",
            "body": hostile().body,
            "host_name": "",
            "attributes": {"user id": "x\r\u{7f}"},
            "trace_id": "000102030405060708090a0b0c0d0e0f",
            "span_id": "",
            "observed_time_unix_nano": "42",
            "listener": "apps",
            "peer_address": "192.0.2.7:5140",
            "keep_sixteenths": 16,
        })
    );
    assert_eq!((text.problems, text.notes.as_str()), (0, ""));
}

#[test]
fn what_is_not_there_or_of_another_kind_is_a_clear_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let failure = |path: PathBuf| cat(&[path], Format::Text).err().expect("a failure");
    assert_eq!(failure(path("nothing.avro")).exit, Exit::NoInput);
    assert_eq!(failure(folder.path().to_owned()).exit, Exit::NoInput);
    std::fs::write(path("text.avro"), "hello, this is no container").expect("write");
    let text = failure(path("text.avro"));
    assert_eq!(text.exit, Exit::NoInput);
    assert!(
        text.message.ends_with("not an Avro object container file"),
        "{text}"
    );
    let schema = r#"{"type":"record","name":"Other","namespace":"x","fields":[]}"#;
    let schema = apache_avro::Schema::parse_str(schema).expect("a schema");
    let writer = apache_avro::Writer::new(&schema, Vec::new());
    std::fs::write(path("other.avro"), writer.into_inner().expect("bytes")).expect("write");
    let other = failure(path("other.avro"));
    assert_eq!(other.exit, Exit::NoInput);
    assert!(
        other
            .message
            .contains("records of another schema (x.Other)"),
        "{other}"
    );
    std::fs::write(path("0000000000000001.segment"), [0; 4096]).expect("write");
    assert_eq!(failure(path("0000000000000001.segment")).exit, Exit::Io);
}

/// Takes some bytes and is then gone, like `head`.
struct Pipe {
    left: usize,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(self.left);
        self.left -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Each poll prints what is new: whole blocks, of a file that is being written.
#[test]
fn following_a_stream_of_frames_prints_each_block_once() {
    for format in [FileFormat::Jsonl, FileFormat::Protobuf] {
        let folder = tempfile::tempdir().expect("a folder");
        let _sink = written_as((format, Compression::Zstd), folder.path(), false, 0..3);
        let records = folder.path().join("records");
        let open = only_file(folder.path());
        let bytes = std::fs::read(&open).expect("read");
        let mut source = Source::of(&records).expect("a folder of files");
        let mut printer = Printer {
            out: Vec::new(),
            notes: Vec::new(),
            format: Format::Json,
            problems: 0,
            line: String::new(),
        };
        // The file grows by one byte at a time.
        for len in 0..=bytes.len() {
            std::fs::write(&open, &bytes[..len]).expect("write");
            source.print(&mut printer, len > 0).expect("print");
        }
        assert_eq!(printer.problems, 0);
        printer.flush().expect("flush");
        let printed = Printed {
            out: String::from_utf8(printer.out).expect("UTF-8"),
            notes: String::new(),
            problems: 0,
        };
        assert_eq!(numbers(&printed), [0, 1, 2], "{format:?}");
    }
}

#[test]
fn following_prints_what_comes_later_until_the_pipe_is_closed() {
    let folder = tempfile::tempdir().expect("a folder");
    let _sink = written(folder.path(), false, 0..2);
    let mut journal = SampleJournal::new(&folder.path().join("other"));
    journal.append(&[entry(7)]);
    let arguments = Arguments {
        follow: true,
        format: Format::Json,
        paths: vec![folder.path().join("records"), journal.folder.clone()],
    };
    let line = {
        let mut line = String::new();
        let at = numbered(7);
        let shown = Stored {
            time_unix_nano: at.time_unix_nano,
            severity_number: at.severity_number,
            service_name: &at.service_name,
            body: &at.body,
            observed_time_unix_nano: 7,
            listener: "apps",
            peer_address: "192.0.2.7:5140",
            ..Stored::default()
        };
        json_line(&shown, &mut line);
        line.len() + 1
    };
    // Room for the three records that are there and one more: only a later one ends it.
    let pipe = Pipe { left: 4 * line };
    let writer = std::thread::spawn(move || {
        for number in 8..10 {
            std::thread::sleep(POLL * 2);
            journal.next_segment();
            journal.append(&[entry(number)]);
        }
    });
    assert!(matches!(
        print_all(&arguments, pipe, io::sink()),
        Err(Stop::Closed)
    ));
    writer.join().expect("the writer ends");
}
