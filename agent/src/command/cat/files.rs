//! Records from sink files: what each has, and later what it has more.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::Stop;
use super::inputs::{folder_names, is_records, sealed_name};
use super::printer::Printer;
use crate::exit::{Exit, Failure};
use crate::sink::file::container::{ContainerError, Next};
use crate::sink::file::name::OPEN_SUFFIX;
use crate::sink::file::read::RecordsReader;

/// Sink files: one, or all that a folder holds.
pub(super) struct FilesSource {
    /// New files may appear here.
    pub(super) folder: Option<PathBuf>,
    /// By the path they have, or will have, when sealed; names sort by time.
    pub(super) files: BTreeMap<PathBuf, FileState>,
}

pub(super) enum FileState {
    New,
    Reading(Box<RecordsReader>),
    Finished,
}

impl FilesSource {
    pub(super) fn print<W: Write, E: Write>(
        &mut self,
        printer: &mut Printer<W, E>,
    ) -> Result<(), Stop> {
        // What is sealed now is whole: a file is renamed only when nothing is added to it.
        let mut sealed = Vec::new();
        if let Some(folder) = &self.folder {
            for name in folder_names(folder)? {
                if is_records(&name) {
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
            let Some((reader, _)) = open_records(path, is_sealed, alone, printer)? else {
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
fn open_records<W: Write, E: Write>(
    path: &Path,
    is_sealed: bool,
    alone: bool,
    printer: &mut Printer<W, E>,
) -> Result<Option<(RecordsReader, PathBuf)>, Stop> {
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
        match RecordsReader::open(file, &candidate) {
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

#[cfg(test)]
mod tests {
    use crate::command::cat::Format;
    use crate::command::cat::tests::{cat, numbers, only_file, written, written_as};
    use crate::config::settings::{Compression, FileFormat};

    #[test]
    fn sink_files_are_read_open_or_sealed_alone_or_as_a_folder() {
        for format in [
            (FileFormat::Avro, Compression::None),
            (FileFormat::Avro, Compression::Zstd),
            (FileFormat::Avro, Compression::Snappy),
            (FileFormat::Jsonl, Compression::None),
            (FileFormat::Jsonl, Compression::Zstd),
            (FileFormat::Protobuf, Compression::None),
            (FileFormat::Protobuf, Compression::Zstd),
        ] {
            for sealed in [false, true] {
                let folder = tempfile::tempdir().expect("a folder");
                let _sink = written_as(format, folder.path(), sealed, 0..3);
                let file = only_file(folder.path());
                assert_eq!(file.extension().is_some_and(|e| e != "open"), sealed);
                for path in [file, folder.path().join("records")] {
                    let printed = cat(&[path], Format::Json).expect("cat");
                    assert_eq!(numbers(&printed), [0, 1, 2], "{format:?}");
                    assert_eq!(printed.problems, 0);
                }
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
}
