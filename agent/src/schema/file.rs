//! A user's schema file: read, understood, or refused with its place.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::located::Broken;
use super::model::Model;
use crate::config::{Mistake, Position, format_size, line_column};
use crate::decode::avro::writer::WriterSchema;
use crate::limits::SCHEMA_FILE_LEN_MAX;

/// What a schema file's name ends in.
pub const ENDING: &str = ".avsc";

/// A schema file that is in order as a schema; whether it can be mapped is another matter.
#[derive(Clone, Debug)]
pub struct SchemaFile {
    pub text: String,
    pub model: Model,
    /// The record, whether the file holds it or an array of it.
    pub record: WriterSchema,
    pub fingerprints: Fingerprints,
}

/// Under which a file's data may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprints {
    pub record: u64,
    /// Of the array of it: what a frame's payload is.
    pub array: u64,
}

/// Why a file is not in use, and where that shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    pub path: PathBuf,
    /// From 1; 0 where the file could not be read at all.
    pub line: usize,
    pub column: usize,
    pub message: String,
    source_line: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path.display(), self.message),
            line => write!(
                f,
                "{}:{line}:{}: {}",
                self.path.display(),
                self.column,
                self.message
            ),
        }
    }
}

impl FileError {
    /// About the file as a whole.
    pub fn whole(path: &Path, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line: 0,
            column: 0,
            message: message.into(),
            source_line: String::new(),
        }
    }

    pub fn at(path: &Path, text: &str, broken: Broken) -> Self {
        let (line, column) = line_column(text, broken.at);
        Self {
            path: path.to_owned(),
            line,
            column,
            message: safe(&broken.message),
            source_line: safe(text.lines().nth(line - 1).unwrap_or_default()),
        }
    }

    /// As `penstock check` shows it.
    pub fn mistake(&self, help: &str) -> Mistake {
        Mistake {
            position: Position {
                path: self.path.clone(),
                line: self.line.max(1),
                column: self.column.max(1),
            },
            source_line: self.source_line.clone(),
            len: 1,
            message: self.message.clone(),
            help: help.to_owned(),
            other: None,
        }
    }
}

/// Control characters could move a terminal's cursor, or end a line of the log.
pub fn safe(text: &str) -> String {
    let safe = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(safe).collect()
}

/// Reads a file of at most `len_max` bytes.
pub fn read_bytes(path: &Path, len_max: u64) -> Result<Vec<u8>, FileError> {
    let failed = |error: std::io::Error| FileError::whole(path, format!("cannot be read: {error}"));
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(len_max + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > len_max {
        let message = format!(
            "longer than {}, the most that a schema file may be",
            format_size(len_max)
        );
        return Err(FileError::whole(path, message));
    }
    Ok(bytes)
}

/// Reads a file as text.
pub fn read_text(path: &Path, len_max: u64) -> Result<String, FileError> {
    String::from_utf8(read_bytes(path, len_max)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let valid = String::from_utf8_lossy(&error.as_bytes()[..at]).into_owned();
        FileError::at(path, &valid, Broken::new(at, "not UTF-8"))
    })
}

impl SchemaFile {
    pub fn read(path: &Path) -> Result<Self, FileError> {
        Self::parse(path, read_text(path, SCHEMA_FILE_LEN_MAX)?)
    }

    /// `path` stands for the text in what is said of it.
    pub fn parse(path: &Path, text: String) -> Result<Self, FileError> {
        let model = Model::parse(&text).map_err(|broken| FileError::at(path, &text, broken))?;
        if model.record().is_none() {
            let message = format!(
                "{}, where a record or an array of a record is wanted",
                model.word(&model.root)
            );
            let broken = Broken::new(model.root.at, message);
            return Err(FileError::at(path, &text, broken));
        }
        // What the plans' compiler reads. It knows no places, and refuses little that is not
        // refused above.
        let record = parse_record(&text).map_err(|message| {
            let broken = Broken::new(model.root.at, message);
            FileError::at(path, &text, broken)
        })?;
        Ok(Self {
            fingerprints: Fingerprints {
                record: record.fingerprint(),
                array: record.array_fingerprint(),
            },
            text,
            model,
            record,
        })
    }
}

fn parse_record(text: &str) -> Result<WriterSchema, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut record = &value;
    // `{"type": {"type": "array", "items": …}}` is a schema too.
    while let Some(kind) = record.get("type").filter(|kind| *kind != "record") {
        record = match record.get("items").filter(|_| kind == "array") {
            Some(items) => items,
            None => kind,
        };
    }
    WriterSchema::parse(&record.to_string()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &[u8]) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.avsc");
        std::fs::write(&path, text).expect("write");
        let error = SchemaFile::read(&path).expect_err("broken");
        let told = error.to_string();
        told.strip_prefix(&format!("{}:", path.display()))
            .unwrap_or_else(|| panic!("{told}"))
            .to_owned()
    }

    #[test]
    fn what_is_wrong_has_its_line_and_column() {
        assert!(
            refused(b"{\n  \"type\": \"record\",\n  oops\n}").starts_with("3:3: this is no JSON")
        );
        let unknown = b"{\"type\": \"record\", \"name\": \"R\", \"fields\": [\n  {\"name\": \"a\", \"type\": \"lnog\"}\n]}";
        assert_eq!(
            refused(unknown),
            "2:25: no type is called \"lnog\" here: did you mean \"long\"?"
        );
        assert!(refused(b"\"string\"").starts_with("1:1: string, where a record"));
        assert!(refused(b"{\n\"\xff\": 1}").starts_with("2:2: not UTF-8"));
        let long = vec![b' '; SCHEMA_FILE_LEN_MAX as usize + 1];
        assert!(refused(&long).contains("longer than 256KiB"));
    }

    #[test]
    fn a_file_that_is_not_there() {
        let error = SchemaFile::read(Path::new("/nonexistent/x.avsc")).expect_err("none");
        assert!(
            error
                .to_string()
                .starts_with("/nonexistent/x.avsc: cannot be read:")
        );
    }
}
