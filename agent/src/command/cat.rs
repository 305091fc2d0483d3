//! `penstock cat`: records from journal segments or sink files.
//!
//! Each path becomes a source; a source prints what is there and can be asked again for what came
//! since. Damage is reported on standard error and stepped over.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use penstock_proto::encoding::Encoding;

use crate::decode::Decoder;
use crate::exit::{Exit, Failure};
use crate::journal::format::segment_number;
use crate::journal::reader::{BlockView, JournalReader, ReadError, oldest, read_segment_header};
use crate::record::RecordView;
use crate::sink::file::container::{ContainerError, ContainerReader, Next, Stored};
use crate::sink::file::name::{Civil, OPEN_SUFFIX};

/// Print records from journal segments or sink files, in order.
///
/// A PATH is a sink file (.avro, .avro.open), a folder of them, a journal segment (.segment), a
/// shard's folder, or a data folder: then its journal is printed, all shards together, in the
/// order in which the agent observed them (to within one block).
///
/// Text shows time (the observed one where a record has none), severity, service, host, body and
/// attributes. JSON is one object a line with every field; nanoseconds are strings, because readers
/// with double precision lose digits, and trace and span ids are hexadecimal. Control characters
/// are escaped in both. What is damaged is reported on standard error; the exit code is then 74.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Go on with what is written from now on, and with new files in a folder
    #[arg(short, long)]
    follow: bool,
    /// How to print a record
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Files or folders, printed in this order
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Json,
    Text,
}

/// How long `--follow` waits before it looks again.
const POLL: Duration = Duration::from_millis(200);

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    match print_all(&arguments, out, io::stderr().lock()) {
        // Whoever reads has enough.
        Err(Stop::Closed) => Ok(()),
        Err(Stop::Failed(failure)) => Err(failure),
        Ok(0) => Ok(()),
        Ok(problems) => Err(Failure::new(
            Exit::Io,
            format!("{problems} places could not be read"),
        )),
    }
}

/// Why printing ends early.
#[derive(Debug)]
enum Stop {
    /// The reader of our output is gone.
    Closed,
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Prints; returns how many places could not be read.
fn print_all<W: Write, E: Write>(arguments: &Arguments, out: W, notes: E) -> Result<u64, Stop> {
    let mut printer = Printer {
        out,
        notes,
        format: arguments.format,
        problems: 0,
        line: String::new(),
    };
    let mut sources = Vec::new();
    for path in &arguments.paths {
        sources.push(Source::of(path)?);
    }
    for source in &mut sources {
        source.print(&mut printer, false)?;
        printer.flush()?;
    }
    if !arguments.follow {
        return Ok(printer.problems);
    }
    // Until the reader of our output is gone, or somebody interrupts.
    loop {
        std::thread::sleep(POLL);
        for source in &mut sources {
            source.print(&mut printer, true)?;
        }
        printer.flush()?;
    }
}

/// Where records come from.
enum Source {
    Journal(JournalSource),
    Files(FilesSource),
}

impl Source {
    fn of(path: &Path) -> Result<Self, Failure> {
        let metadata = std::fs::metadata(path)
            .map_err(|error| Failure::io(format_args!("read {}", path.display()), &error))?;
        if metadata.is_dir() {
            return Self::of_folder(path);
        }
        let name = path.file_name().and_then(|name| name.to_str());
        match name.and_then(segment_number) {
            Some(number) => {
                let header = read_segment_header(path).map_err(read_failure)?;
                let folder = path.parent().filter(|parent| *parent != Path::new(""));
                let mut shard = Shard::new(folder.unwrap_or(Path::new(".")).to_owned());
                shard.only = Some((number, header.base));
                Ok(Self::Journal(JournalSource {
                    root: None,
                    shards: vec![shard],
                    decoder: Decoder::new(),
                }))
            }
            None => Ok(Self::Files(FilesSource {
                folder: None,
                files: BTreeMap::from([(path.to_owned(), FileState::New)]),
            })),
        }
    }

    fn of_folder(path: &Path) -> Result<Self, Failure> {
        let names = folder_names(path)?;
        let journal = |root: Option<PathBuf>, shards| {
            Ok(Self::Journal(JournalSource {
                root,
                shards,
                decoder: Decoder::new(),
            }))
        };
        if names.iter().any(|name| segment_number(name).is_some()) {
            return journal(None, vec![Shard::new(path.to_owned())]);
        }
        if names.iter().any(|name| name == "journal") {
            return journal(Some(path.join("journal")), Vec::new());
        }
        if names.iter().any(|name| is_shard_folder(name)) {
            return journal(Some(path.to_owned()), Vec::new());
        }
        let of_shard = path.file_name().and_then(|name| name.to_str());
        if of_shard.is_some_and(is_shard_folder) {
            return journal(None, vec![Shard::new(path.to_owned())]);
        }
        let of_sink = of_shard.is_some_and(|name| name == crate::sink::file::RECORDS_FOLDER);
        if of_sink || names.iter().any(|name| is_container(name)) {
            return Ok(Self::Files(FilesSource {
                folder: Some(path.to_owned()),
                files: BTreeMap::new(),
            }));
        }
        Err(Failure::new(
            Exit::NoInput,
            format!(
                "{}: neither a data folder nor one with segments or .avro files",
                path.display()
            ),
        ))
    }

    fn print<W: Write, E: Write>(
        &mut self,
        printer: &mut Printer<W, E>,
        again: bool,
    ) -> Result<(), Stop> {
        match self {
            Self::Journal(journal) => journal.print(printer, again),
            Self::Files(files) => files.print(printer),
        }
    }
}

fn folder_names(path: &Path) -> Result<Vec<String>, Failure> {
    let failed =
        |error: io::Error| Failure::io(format_args!("read folder {}", path.display()), &error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

fn is_shard_folder(name: &str) -> bool {
    name.strip_prefix("shard-")
        .is_some_and(|digits| digits.len() >= 2 && digits.bytes().all(|b| b.is_ascii_digit()))
}

fn is_container(name: &str) -> bool {
    sealed_name(name).ends_with(".avro")
}

fn sealed_name(name: &str) -> &str {
    name.strip_suffix(OPEN_SUFFIX).unwrap_or(name)
}

fn read_failure(error: ReadError) -> Failure {
    match &error {
        ReadError::Io { call, path, source } => {
            Failure::io(format_args!("{call} {}", path.display()), source)
        }
        _ => Failure::new(Exit::Io, error.to_string()),
    }
}

/// A journal: one shard, or all that a folder holds.
struct JournalSource {
    /// The folder of the shards' folders; new ones may appear.
    root: Option<PathBuf>,
    shards: Vec<Shard>,
    decoder: Decoder,
}

struct Shard {
    folder: PathBuf,
    /// Only this segment, which begins at this position.
    only: Option<(u64, u64)>,
    reader: Option<JournalReader>,
    /// The reader holds a block that is not printed yet; observed at this time.
    waiting: Option<u64>,
    torn_tail_told: bool,
    /// Behind the only segment that was asked for.
    ended: bool,
}

impl Shard {
    fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            only: None,
            reader: None,
            waiting: None,
            torn_tail_told: false,
            ended: false,
        }
    }
}

impl JournalSource {
    fn print<W: Write, E: Write>(
        &mut self,
        printer: &mut Printer<W, E>,
        again: bool,
    ) -> Result<(), Stop> {
        if let Some(root) = &self.root {
            for name in folder_names(root)? {
                let folder = root.join(&name);
                if is_shard_folder(&name) && !self.shards.iter().any(|shard| shard.folder == folder)
                {
                    self.shards.push(Shard::new(folder));
                }
            }
        }
        loop {
            for shard in &mut self.shards {
                shard.advance(printer, again)?;
            }
            let next = self
                .shards
                .iter_mut()
                .filter(|shard| shard.waiting.is_some())
                .min_by_key(|shard| shard.waiting);
            let Some(shard) = next else {
                return Ok(());
            };
            shard.waiting = None;
            if let Some(block) = shard.reader.as_ref().and_then(JournalReader::current) {
                print_block(&block, &shard.folder, &mut self.decoder, printer)?;
            }
        }
    }
}

impl Shard {
    /// Makes sure that a block waits, where there is one.
    fn advance<W: Write, E: Write>(
        &mut self,
        printer: &mut Printer<W, E>,
        again: bool,
    ) -> Result<(), Stop> {
        let mut reopened = false;
        while self.waiting.is_none() && !self.ended {
            let reader = match &mut self.reader {
                Some(reader) => reader,
                none => {
                    let from = match self.only {
                        Some((_, base)) => Some(base),
                        None => oldest(&self.folder)
                            .map_err(read_failure)?
                            .map(|(at, _)| at),
                    };
                    let Some(from) = from else {
                        return Ok(());
                    };
                    none.insert(JournalReader::open(&self.folder, from).map_err(read_failure)?)
                }
            };
            // What follows the end is searched once; later only what is new.
            match reader.next_written(!again) {
                Ok(Some(block)) => {
                    if self
                        .only
                        .is_some_and(|(number, _)| number != block.header.segment)
                    {
                        self.ended = true;
                        return Ok(());
                    }
                    let mut entries = block.entries().filter_map(Result::ok);
                    let first = entries
                        .next()
                        .map(|entry| entry.envelope.observed_time_unix_nano);
                    self.waiting = Some(first.unwrap_or(0));
                }
                Ok(None) => {
                    if let (Some((position, fault)), false, false) =
                        (reader.torn_tail(), again, self.torn_tail_told)
                    {
                        self.torn_tail_told = true;
                        printer.note(&format!(
                            "{}: ends at position {position} in a block that was not finished ({fault})",
                            self.folder.display()
                        ));
                    }
                    return Ok(());
                }
                Err(ReadError::Missing {
                    file,
                    position,
                    next: Some(next),
                }) => {
                    reader.seek(next);
                    printer.problem(&format!(
                        "{}: missing; positions {position} to {next}",
                        file.display()
                    ));
                }
                Err(error @ ReadError::Damaged { .. }) => {
                    printer.problem(&error.to_string());
                }
                // Removed by retention since the folder was read: look again, once.
                Err(ReadError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && !reopened =>
                {
                    reopened = true;
                    let position = reader.position();
                    self.reader =
                        Some(JournalReader::open(&self.folder, position).map_err(read_failure)?);
                }
                Err(error) => return Err(read_failure(error).into()),
            }
        }
        Ok(())
    }
}

fn print_block<W: Write, E: Write>(
    block: &BlockView<'_>,
    folder: &Path,
    decoder: &mut Decoder,
    printer: &mut Printer<W, E>,
) -> Result<(), Stop> {
    for entry in block.entries() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(fault) => {
                printer.problem(&format!(
                    "{}: an entry of the block at position {} is damaged: {fault}",
                    folder.display(),
                    block.header.position
                ));
                continue;
            }
        };
        let listener = block.listeners.get(usize::from(entry.envelope.listener));
        let peer = entry.envelope.peer;
        let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
        let mut printed = Ok(());
        let decoded = Encoding::from_wire(entry.header.encoding).map(|encoding| {
            decoder.for_each(encoding, entry.payload, |record| {
                if printed.is_ok() {
                    let mut stored = stored_of(record);
                    stored.observed_time_unix_nano = entry.envelope.observed_time_unix_nano;
                    stored.listener = listener.map_or("", String::as_str);
                    stored.peer_address = &peer;
                    printed = printer.record(&stored);
                }
            })
        });
        printed?;
        if !matches!(decoded, Some(Ok(_))) {
            printer.problem(&format!(
                "{}: an entry of the block at position {} cannot be decoded (encoding {}): {}",
                folder.display(),
                block.header.position,
                entry.header.encoding,
                decoded.map_or("unsupported_encoding", |result| {
                    result.err().map_or("", |reason| reason.label())
                })
            ));
        }
    }
    Ok(())
}

/// A record as the sink would store it: of attributes with one key the last holds.
fn stored_of<'a>(record: &RecordView<'a>) -> Stored<'a> {
    let given: Vec<(&str, &str)> = record.attributes.iter().collect();
    let last: BTreeMap<&str, usize> = given
        .iter()
        .enumerate()
        .map(|(at, (key, _))| (*key, at))
        .collect();
    let attributes = given
        .iter()
        .enumerate()
        .filter(|(at, (key, _))| last[key] == *at)
        .map(|(_, pair)| *pair)
        .collect();
    Stored {
        time_unix_nano: record.time_unix_nano,
        severity_number: record.severity_number,
        service_name: record.service_name,
        body: record.body,
        host_name: record.host_name,
        attributes,
        trace_id: record.trace_id,
        span_id: record.span_id,
        ..Stored::default()
    }
}

/// Sink files: one, or all that a folder holds.
struct FilesSource {
    /// New files may appear here.
    folder: Option<PathBuf>,
    /// By the path they have, or will have, when sealed; names sort by time.
    files: BTreeMap<PathBuf, FileState>,
}

enum FileState {
    New,
    Reading(Box<ContainerReader>),
    Finished,
}

impl FilesSource {
    fn print<W: Write, E: Write>(&mut self, printer: &mut Printer<W, E>) -> Result<(), Stop> {
        // What is sealed now is whole: a file is renamed only when nothing is added to it.
        let mut sealed = Vec::new();
        if let Some(folder) = &self.folder {
            for name in folder_names(folder)? {
                if is_container(&name) {
                    let path = folder.join(sealed_name(&name));
                    if sealed_name(&name) == name {
                        sealed.push(path.clone());
                    }
                    self.files.entry(path).or_insert(FileState::New);
                }
            }
        }
        for (path, state) in &mut self.files {
            let is_sealed = sealed.contains(path);
            let alone = self.folder.is_none();
            if print_file(path, state, is_sealed, alone, printer)? && is_sealed {
                *state = FileState::Finished;
            }
        }
        Ok(())
    }
}

/// Prints what a file has more than before; `true`: it is at its end.
fn print_file<W: Write, E: Write>(
    path: &Path,
    state: &mut FileState,
    is_sealed: bool,
    alone: bool,
    printer: &mut Printer<W, E>,
) -> Result<bool, Stop> {
    let reader = match state {
        FileState::Finished => return Ok(true),
        FileState::Reading(reader) => reader,
        FileState::New => {
            let Some((reader, _)) = open_container(path, is_sealed, alone, printer)? else {
                return Ok(true);
            };
            *state = FileState::Reading(Box::new(reader));
            let FileState::Reading(reader) = state else {
                return Ok(true);
            };
            reader
        }
    };
    loop {
        match reader.read_next() {
            Ok(Next::Records(records)) => {
                for record in &records {
                    printer.record(record)?;
                }
            }
            Ok(Next::End) => return Ok(true),
            Ok(Next::Partial) => {
                if is_sealed || (alone && sealed_path(path)) {
                    printer.problem(&format!("{}: cut short within a block", path.display()));
                }
                return Ok(true);
            }
            Err(ContainerError::Io(error)) => {
                return Err(Failure::io(format_args!("read {}", path.display()), &error).into());
            }
            Err(error) => printer.problem(&format!("{}: {error}", path.display())),
        }
    }
}

fn sealed_path(path: &Path) -> bool {
    path.extension().is_none_or(|extension| extension != "open")
}

/// Opens a file under whichever of its two names it has now. `None`: there is nothing to read yet,
/// or it was reported.
fn open_container<W: Write, E: Write>(
    path: &Path,
    is_sealed: bool,
    alone: bool,
    printer: &mut Printer<W, E>,
) -> Result<Option<(ContainerReader, PathBuf)>, Stop> {
    let mut open_path = path.as_os_str().to_owned();
    open_path.push(OPEN_SUFFIX);
    let mut candidates = vec![path.to_owned()];
    if !alone && !is_sealed {
        candidates.insert(0, open_path.into());
    }
    for candidate in candidates {
        let file = match File::open(&candidate) {
            Ok(file) => file,
            // Renamed, or removed by `keep`, since the folder was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !alone => continue,
            Err(error) => {
                let what = format_args!("open {}", candidate.display());
                return Err(Failure::io(what, &error).into());
            }
        };
        match ContainerReader::open(file) {
            Ok(reader) => return Ok(Some((reader, candidate))),
            Err(ContainerError::HeaderCut) if !sealed_path(&candidate) => return Ok(None),
            Err(ContainerError::Io(error)) => {
                let what = format_args!("read {}", candidate.display());
                return Err(Failure::io(what, &error).into());
            }
            Err(error) => {
                let message = format!("{}: {error}", candidate.display());
                if alone {
                    return Err(Failure::new(Exit::NoInput, message).into());
                }
                printer.problem(&message);
                return Ok(None);
            }
        }
    }
    Ok(None)
}

/// Writes records in the chosen format, and notes about what could not be read.
struct Printer<W, E> {
    out: W,
    notes: E,
    format: Format,
    problems: u64,
    line: String,
}

impl<W: Write, E: Write> Printer<W, E> {
    fn record(&mut self, record: &Stored<'_>) -> Result<(), Stop> {
        self.line.clear();
        match self.format {
            Format::Text => text_line(record, &mut self.line),
            Format::Json => json_line(record, &mut self.line),
        }
        self.line.push('\n');
        self.out.write_all(self.line.as_bytes()).map_err(write_stop)
    }

    fn flush(&mut self) -> Result<(), Stop> {
        self.out.flush().map_err(write_stop)
    }

    /// Something worth knowing that is in order.
    fn note(&mut self, message: &str) {
        // Nobody is left to tell if standard error is gone.
        let _ = writeln!(self.notes, "penstock: {message}");
    }

    /// Something that could not be read.
    fn problem(&mut self, message: &str) {
        self.problems += 1;
        self.note(message);
    }
}

fn write_stop(error: io::Error) -> Stop {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Stop::Closed,
        _ => Stop::Failed(Failure::io("write to standard output", &error)),
    }
}

fn text_line(record: &Stored<'_>, line: &mut String) {
    let time = match record.time_unix_nano {
        0 => record.observed_time_unix_nano,
        time => time,
    };
    line.push_str(&Civil::from_unix_nano(time).to_string());
    line.push(' ');
    line.push_str(&severity_text(record.severity_number));
    for name in [record.service_name, record.host_name] {
        line.push(' ');
        match name {
            "" => line.push('-'),
            name => push_escaped(name, Escapes::Text, line),
        }
    }
    line.push(' ');
    push_escaped(record.body, Escapes::Text, line);
    for (key, value) in &record.attributes {
        line.push(' ');
        push_escaped(key, Escapes::Text, line);
        line.push('=');
        let quoted = value.is_empty() || value.contains([' ', '"', '=']);
        if quoted {
            line.push('"');
            push_escaped(value, Escapes::Json, line);
            line.push('"');
        } else {
            push_escaped(value, Escapes::Text, line);
        }
    }
}

/// OpenTelemetry's short names: four numbers each.
fn severity_text(number: u32) -> String {
    const NAMES: [&str; 6] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];
    match number {
        0 => "-".to_owned(),
        1..=24 => {
            let name = NAMES[(number as usize - 1) / 4];
            match (number - 1) % 4 {
                0 => name.to_owned(),
                more => format!("{name}{}", more + 1),
            }
        }
        other => other.to_string(),
    }
}

fn json_line(record: &Stored<'_>, line: &mut String) {
    line.push_str(&format!(
        "{{\"time_unix_nano\":\"{}\",\"severity_number\":{}",
        record.time_unix_nano, record.severity_number
    ));
    push_text_field("service_name", record.service_name, line);
    push_text_field("body", record.body, line);
    push_text_field("host_name", record.host_name, line);
    line.push_str(",\"attributes\":{");
    for (at, (key, value)) in record.attributes.iter().enumerate() {
        line.push_str(if at == 0 { "\"" } else { ",\"" });
        push_escaped(key, Escapes::Json, line);
        line.push_str("\":\"");
        push_escaped(value, Escapes::Json, line);
        line.push('"');
    }
    line.push_str("},\"trace_id\":\"");
    push_hex(record.trace_id, line);
    line.push_str("\",\"span_id\":\"");
    push_hex(record.span_id, line);
    line.push_str(&format!(
        "\",\"observed_time_unix_nano\":\"{}\"",
        record.observed_time_unix_nano
    ));
    push_text_field("listener", record.listener, line);
    push_text_field("peer_address", record.peer_address, line);
    line.push('}');
}

fn push_text_field(name: &str, value: &str, line: &mut String) {
    line.push_str(",\"");
    line.push_str(name);
    line.push_str("\":\"");
    push_escaped(value, Escapes::Json, line);
    line.push('"');
}

fn push_hex(bytes: &[u8], line: &mut String) {
    for byte in bytes {
        line.push_str(&format!("{byte:02x}"));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Escapes {
    /// For eyes: only what would steer a terminal or break the line.
    Text,
    /// Within a JSON string.
    Json,
}

/// Log lines come from strangers: nothing of them may move a cursor, end a line or turn the reading
/// direction. That is C0, DEL and C1, the line and paragraph separators, and the bidirectional marks
/// and overrides.
fn push_escaped(text: &str, escapes: Escapes, line: &mut String) {
    for character in text.chars() {
        let steers = character.is_control()
            || matches!(character,
                '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}');
        match (character, escapes) {
            ('"' | '\\', Escapes::Json) => {
                line.push('\\');
                line.push(character);
            }
            ('\n', _) => line.push_str("\\n"),
            ('\r', _) => line.push_str("\\r"),
            ('\t', _) => line.push_str("\\t"),
            // Every one of them is below U+10000: four digits do.
            (_, Escapes::Json) if steers => {
                line.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            (_, Escapes::Text) if steers => {
                line.push_str(&format!("\\u{{{:x}}}", u32::from(character)));
            }
            _ => line.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use penstock_proto::v1::LogRecord;

    use super::*;
    use crate::config::settings::{Compression, SinkSettings};
    use crate::journal::reader::JournalReader;
    use crate::sink::file::FileSink;
    use crate::sink::file::disk::RealDisk;
    use crate::sink::sample::{SampleEntry, SampleJournal, numbered};
    use crate::sink::{Cursor, Sink};

    struct Printed {
        out: String,
        notes: String,
        problems: u64,
    }

    fn cat(paths: &[PathBuf], format: Format) -> Result<Printed, Failure> {
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

    fn entry(number: u64) -> SampleEntry {
        SampleEntry::protobuf(number, vec![numbered(number)])
    }

    /// The numbers of the sample records, in the order in which they were printed.
    fn numbers(printed: &Printed) -> Vec<u64> {
        let numbers = printed.out.lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let body = line["body"].as_str().expect("a body");
            body.strip_prefix("record ").and_then(|n| n.parse().ok())
        });
        numbers.map(|number| number.expect("a number")).collect()
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
            })
        );
        assert_eq!((text.problems, text.notes.as_str()), (0, ""));
    }

    #[test]
    fn severities_have_opentelemetrys_names() {
        let names: Vec<_> = [0, 1, 4, 5, 9, 13, 17, 20, 21, 24, 25]
            .into_iter()
            .map(severity_text)
            .collect();
        assert_eq!(
            names,
            [
                "-", "TRACE", "TRACE4", "DEBUG", "INFO", "WARN", "ERROR", "ERROR4", "FATAL",
                "FATAL4", "25"
            ]
        );
    }

    #[test]
    fn a_segment_a_shards_folder_and_a_data_folder_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = SampleJournal::new(folder.path());
        for number in 0..6 {
            if number == 3 {
                journal.next_segment();
            }
            journal.append(&[entry(number)]);
        }
        let read = |path: &Path| numbers(&cat(&[path.to_owned()], Format::Json).expect("cat"));
        assert_eq!(read(&journal.path(1)), [0, 1, 2]);
        assert_eq!(read(&journal.path(2)), [3, 4, 5]);
        assert_eq!(read(&journal.folder), [0, 1, 2, 3, 4, 5]);
        assert_eq!(read(&folder.path().join("journal")), [0, 1, 2, 3, 4, 5]);
        assert_eq!(read(folder.path()), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn shards_are_merged_by_observed_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut even = SampleJournal::new(folder.path());
        let other = tempfile::tempdir().expect("a folder");
        let mut odd = SampleJournal::new(other.path());
        for number in [0, 2, 4] {
            even.append(&[entry(number)]);
            odd.append(&[entry(number + 1)]);
        }
        std::fs::rename(&odd.folder, folder.path().join("journal/shard-01")).expect("move");
        let printed = cat(&[folder.path().to_owned()], Format::Json).expect("cat");
        assert_eq!(numbers(&printed), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn damage_is_told_and_what_is_good_is_printed() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = SampleJournal::new(folder.path());
        for number in 0..4 {
            journal.append(&[entry(number)]);
        }
        journal.write_at(4096, &[0; 64]);
        let (bytes, header) = journal.sealed(&[entry(9)]);
        journal.write_at(header.position, &bytes[..96]);
        let printed = cat(&[folder.path().to_owned()], Format::Json).expect("cat");
        assert_eq!(numbers(&printed), [0, 2, 3]);
        assert_eq!(printed.problems, 1);
        assert!(
            printed
                .notes
                .contains("damaged between positions 4096 and 8192"),
            "{}",
            printed.notes
        );
        assert!(
            printed
                .notes
                .contains("ends at position 16384 in a block that was not finished"),
            "{}",
            printed.notes
        );
    }

    fn written(data_dir: &Path, sealed: bool, numbers: std::ops::Range<u64>) -> FileSink<RealDisk> {
        let mut journal = SampleJournal::new(data_dir);
        for number in numbers {
            journal.append(&[entry(number)]);
        }
        let settings = SinkSettings {
            name: "files".to_owned(),
            kind: crate::config::settings::SinkKind::File,
            format: crate::config::settings::FileFormat::Avro,
            compression: Compression::Zstd,
            rotate_size: u64::MAX,
            rotate_age: std::time::Duration::from_secs(3600),
            keep_size: u64::MAX,
            keep_age: std::time::Duration::from_secs(3600),
        };
        let mut sink =
            FileSink::new(RealDisk, &settings, 0, data_dir, Arc::default()).expect("a sink");
        sink.resume().expect("resume");
        sink.begin(Cursor::default()).expect("begin");
        let mut reader = JournalReader::open(&journal.folder, 0).expect("open");
        while let Some(block) = reader.next_block(journal.position).expect("read") {
            sink.deliver(block).expect("deliver");
            // One Avro block a record.
            sink.commit().expect("commit");
        }
        if sealed {
            sink.seal().expect("seal");
        }
        sink
    }

    fn only_file(data_dir: &Path) -> PathBuf {
        let mut files = std::fs::read_dir(data_dir.join("records")).expect("the folder");
        files.next().expect("a file").expect("an entry").path()
    }

    #[test]
    fn sink_files_are_read_open_or_sealed_alone_or_as_a_folder() {
        for sealed in [false, true] {
            let folder = tempfile::tempdir().expect("a folder");
            let _sink = written(folder.path(), sealed, 0..3);
            let file = only_file(folder.path());
            assert_eq!(file.extension().is_some_and(|e| e == "avro"), sealed);
            for path in [file, folder.path().join("records")] {
                let printed = cat(&[path], Format::Json).expect("cat");
                assert_eq!(numbers(&printed), [0, 1, 2]);
                assert_eq!(printed.problems, 0);
            }
        }
    }

    #[test]
    fn a_damaged_block_of_a_sink_file_leaves_its_neighbours_and_a_cut_end_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let _sink = written(folder.path(), true, 0..4);
        let file = only_file(folder.path());
        let mut bytes = std::fs::read(&file).expect("read");
        let marker = bytes[bytes.len() - 16..].to_vec();
        let ends: Vec<_> = memchr::memmem::find_iter(&bytes, &marker).collect();
        assert_eq!(ends.len(), 5, "the header's and four blocks' markers");
        // A byte within the second block's compressed records, and the last block's end.
        bytes[ends[2] - 3] ^= 0xff;
        bytes.truncate(bytes.len() - 5);
        std::fs::write(&file, &bytes).expect("write");
        let printed = cat(std::slice::from_ref(&file), Format::Json).expect("cat");
        assert_eq!(numbers(&printed), [0, 2]);
        assert_eq!(printed.problems, 2);
        assert!(
            printed
                .notes
                .contains("is damaged: it cannot be decompressed")
        );
        assert!(printed.notes.contains("cut short within a block"));
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
}
