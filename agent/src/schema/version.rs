//! A version of a schema as a file holds it, and how two of them get along.

use std::path::{Path, PathBuf};

use super::file::{ENDING, FileError, read_bytes, read_text};
use super::model::Model;
use super::pair::{Comparison, Finding, Hurts};
use super::protobuf::{self, Descriptors};
use super::resolve::{Difference, resolve};
use crate::config::line_column;
use crate::limits::SCHEMA_FILE_LEN_MAX;

/// What the names of descriptor sets end in.
pub const DESCRIPTOR_ENDINGS: [&str; 6] =
    [".binpb", ".desc", ".fds", ".pb", ".protoset", ".protobin"];

/// One version.
#[derive(Clone, Debug)]
pub struct Version {
    /// The file's name without its ending.
    pub name: String,
    pub path: PathBuf,
    pub form: Form,
}

#[derive(Clone, Debug)]
pub enum Form {
    Avro { text: String, model: Model },
    Protobuf(Descriptors),
}

/// Whether a file is looked at in a folder.
pub fn is_version(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ending(&name).is_some()
}

fn ending(name: &str) -> Option<&'static str> {
    let mut all = std::iter::once(ENDING).chain(DESCRIPTOR_ENDINGS);
    all.find(|ending| name.ends_with(ending))
}

impl Version {
    /// Reads a file: Avro where its name ends in `.avsc`, else a descriptor set.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = match ending(&file_name) {
            Some(ending) => file_name.strip_suffix(ending).unwrap_or(&file_name),
            None => &file_name,
        };
        let form = if file_name.ends_with(ENDING) {
            let text = read_text(path, SCHEMA_FILE_LEN_MAX)?;
            let model = Model::parse(&text).map_err(|broken| FileError::at(path, &text, broken))?;
            Form::Avro { text, model }
        } else {
            let read = Descriptors::parse(&read_bytes(path, SCHEMA_FILE_LEN_MAX)?);
            Form::Protobuf(read.map_err(|message| FileError::whole(path, message))?)
        };
        Ok(Self {
            name: name.to_owned(),
            path: path.to_owned(),
            form,
        })
    }

    pub fn is_avro(&self) -> bool {
        matches!(self.form, Form::Avro { .. })
    }

    /// Whether the two are versions of one thing: of a record of one name, or of sets that have a
    /// message in common. Others may be compared, but that tells nothing.
    pub fn is_related(&self, other: &Self) -> bool {
        match (&self.form, &other.form) {
            (Form::Avro { model: a, .. }, Form::Avro { model: b, .. }) => {
                match (a.record(), b.record()) {
                    (Some(a), Some(b)) => {
                        a.name == b.name
                            || a.aliases.contains(&b.name)
                            || b.aliases.contains(&a.name)
                    }
                    _ => true,
                }
            }
            (Form::Protobuf(a), Form::Protobuf(b)) => {
                a.message_names().any(|a| b.message_names().any(|b| a == b))
            }
            _ => false,
        }
    }
}

/// How an older and a newer version get along; `None` where they are of different formats.
pub fn compare(old: &Version, new: &Version) -> Option<Comparison> {
    match (&old.form, &new.form) {
        (Form::Avro { model: old, .. }, Form::Avro { model: new, text }) => {
            Some(compare_avro(old, new, text))
        }
        (Form::Protobuf(old), Form::Protobuf(new)) => Some(protobuf::compare(old, new)),
        _ => None,
    }
}

fn compare_avro(old: &Model, new: &Model, new_text: &str) -> Comparison {
    let root = new.word(&new.root);
    let finding = |hurts, difference: &Difference, at: usize| Finding {
        hurts,
        path: match difference.path.as_str() {
            "" => root.clone(),
            path => path.to_owned(),
        },
        what: difference.what.clone(),
        line: Some(line_column(new_text, at).0),
    };
    let backward = resolve(old, new);
    let forward = resolve(new, old);
    let breaks = backward.breaks.iter();
    let mut findings: Vec<Finding> = breaks
        .map(|d| finding(Hurts::Backward, d, d.reader_at))
        .collect();
    let breaks = forward.breaks.iter();
    findings.extend(breaks.map(|d| finding(Hurts::Forward, d, d.writer_at)));
    // Seen from both sides a note is the same note.
    let notes = backward.notes.iter();
    findings.extend(notes.map(|d| finding(Hurts::Note, d, d.reader_at)));
    Comparison { findings }
}

/// Versions by name, numbers in names by their value: v2 stands before v10.
pub fn in_order(mut versions: Vec<Version>) -> Vec<Version> {
    versions.sort_by(|a, b| (natural(&a.name), &a.name).cmp(&(natural(&b.name), &b.name)));
    versions
}

/// Text and numbers in turn; of numbers the longer one is the greater, without its leading zeros.
fn natural(name: &str) -> Vec<(&str, usize, &str)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits_at = rest.find(|c: char| c.is_ascii_digit());
        let (text, from_digits) = rest.split_at(digits_at.unwrap_or(rest.len()));
        let digits_end = from_digits.find(|c: char| !c.is_ascii_digit());
        let (digits, after) = from_digits.split_at(digits_end.unwrap_or(from_digits.len()));
        let digits = digits.trim_start_matches('0');
        parts.push((text, digits.len(), digits));
        rest = after;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count_by_value() {
        let mut names = ["order_v10", "order_v9", "b2", "order", "order_v09b", "a"];
        names.sort_by(|a, b| natural(a).cmp(&natural(b)));
        assert_eq!(
            names,
            ["a", "b2", "order", "order_v9", "order_v09b", "order_v10"]
        );
    }

    #[test]
    fn findings_have_lines_of_the_newer_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, field: &str| {
            let path = folder.path().join(name);
            let text =
                format!("{{\"type\": \"record\", \"name\": \"R\", \"fields\": [\n\n{field}]}}");
            std::fs::write(&path, text).expect("write");
            Version::read(&path).expect("a schema")
        };
        let old = write("old.avsc", "{\"name\": \"a\", \"type\": \"long\"}");
        let new = write("new.avsc", "\n{\"name\": \"a\", \"type\": \"int\"}");
        let comparison = compare(&old, &new).expect("both Avro");
        assert_eq!(comparison.compatibility().label(), "forward");
        assert_eq!(comparison.findings.len(), 1);
        assert_eq!(comparison.findings[0].line, Some(4));
        assert!(old.is_related(&new));
    }
}
