//! What a PATH on the command line is: a journal, or sink files.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::Stop;
use super::files::{FileState, FilesSource};
use super::journal::{JournalSource, Shard, read_failure};
use super::printer::Printer;
use crate::decode::Decoder;
use crate::exit::{Exit, Failure};
use crate::journal::format::segment_number;
use crate::journal::reader::read_segment_header;
use crate::schema::registry::JournalSchemas;
use crate::sink::file::name::{Kind, OPEN_SUFFIX};

/// Where records come from.
pub(super) enum Source {
    Journal(JournalSource),
    Files(FilesSource),
}

impl Source {
    pub(super) fn of(path: &Path) -> Result<Self, Failure> {
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
                let schemas = JournalSchemas::around(path);
                Ok(Self::Journal(JournalSource {
                    root: None,
                    shards: vec![shard],
                    decoder: Decoder::new(schemas.schemas()),
                    schemas,
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
            let schemas = JournalSchemas::around(path);
            Ok(Self::Journal(JournalSource {
                root,
                shards,
                decoder: Decoder::new(schemas.schemas()),
                schemas,
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
        if of_sink || names.iter().any(|name| is_records(name)) {
            return Ok(Self::Files(FilesSource {
                folder: Some(path.to_owned()),
                files: BTreeMap::new(),
            }));
        }
        Err(Failure::new(
            Exit::NoInput,
            format!(
                "{}: neither a data folder nor one with segments or a sink's files",
                path.display()
            ),
        ))
    }

    pub(super) fn print<W: Write, E: Write>(
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

pub(super) fn folder_names(path: &Path) -> Result<Vec<String>, Failure> {
    let failed =
        |error: io::Error| Failure::io(format_args!("read folder {}", path.display()), &error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

pub(super) fn is_shard_folder(name: &str) -> bool {
    name.strip_prefix("shard-")
        .is_some_and(|digits| digits.len() >= 2 && digits.bytes().all(|b| b.is_ascii_digit()))
}

pub(super) fn is_records(name: &str) -> bool {
    Kind::of_name(name).is_some()
}

pub(super) fn sealed_name(name: &str) -> &str {
    name.strip_suffix(OPEN_SUFFIX).unwrap_or(name)
}
