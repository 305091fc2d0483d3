//! Records from a journal: its shards are walked side by side and merged by observed time, block
//! by block.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::Stop;
use super::inputs::{folder_names, is_shard_folder};
use super::printer::Printer;
use crate::decode::{Decoder, Payload};
use crate::exit::{Exit, Failure};
use crate::journal::reader::{BlockView, JournalReader, ReadError, oldest};
use crate::record::RecordView;
use crate::schema::registry::JournalSchemas;
use crate::sink::file::container::Stored;

/// A journal: one shard, or all that a folder holds.
pub(super) struct JournalSource {
    /// The folder of the shards' folders; new ones may appear.
    pub(super) root: Option<PathBuf>,
    pub(super) shards: Vec<Shard>,
    pub(super) decoder: Decoder,
    /// What the decoder knows of writers' schemas.
    pub(super) schemas: JournalSchemas,
}

pub(super) struct Shard {
    folder: PathBuf,
    /// Only this segment, which begins at this position.
    pub(super) only: Option<(u64, u64)>,
    reader: Option<JournalReader>,
    /// The reader holds a block that is not printed yet; observed at this time.
    waiting: Option<u64>,
    torn_tail_told: bool,
    /// Behind the only segment that was asked for.
    ended: bool,
}

impl Shard {
    pub(super) fn new(folder: PathBuf) -> Self {
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
    pub(super) fn print<W: Write, E: Write>(
        &mut self,
        printer: &mut Printer<W, E>,
        again: bool,
    ) -> Result<(), Stop> {
        for error in self.schemas.refresh() {
            printer.problem(&format!("a schema of the journal: {error}"));
        }
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
        let decoded = Payload::of(&entry.header, entry.payload).and_then(|payload| {
            decoder.for_each(&payload, |record| {
                if printed.is_ok() {
                    let mut stored = stored_of(record);
                    stored.observed_time_unix_nano = entry.envelope.observed_time_unix_nano;
                    stored.listener = listener.map_or("", String::as_str);
                    stored.peer_address = &peer;
                    stored.keep_sixteenths = Some(entry.envelope.keep_sixteenths);
                    printed = printer.record(&stored);
                }
            })
        });
        printed?;
        if let Err(reason) = decoded {
            printer.problem(&format!(
                "{}: an entry of the block at position {} cannot be decoded (encoding {}): {}",
                folder.display(),
                block.header.position,
                entry.header.encoding,
                reason.label()
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

pub(super) fn read_failure(error: ReadError) -> Failure {
    match &error {
        ReadError::Io { call, path, source } => {
            Failure::io(format_args!("{call} {}", path.display()), source)
        }
        _ => Failure::new(Exit::Io, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::cat::Format;
    use crate::command::cat::tests::{cat, entry, numbers};
    use crate::sink::sample::SampleJournal;

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
}
