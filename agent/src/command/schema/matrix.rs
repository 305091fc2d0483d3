//! `penstock schema matrix`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Format;
use super::input::Input;
use crate::command::config::print_text;
use crate::exit::{Exit, Failure};
use crate::schema::file::safe;
use crate::schema::pair::{Compatibility, Finding};
use crate::schema::version::{Version, compare};

/// Print which version reads which, and name each pair with the reasons.
///
/// The files' names give the order in time, numbers in them by value: orders_v2 is older than
/// orders_v10. Ends with 0 whatever the pairs are called, with 78 where a file is no schema (the
/// others are compared all the same), and with 66 where there is none.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The folder with a file for each version
    dir: PathBuf,
}

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let input = Input::read(&arguments.dir)?;
    print_text(&print(&input, &arguments.dir, arguments.format)?)?;
    input.outcome()
}

/// All versions of one format.
#[derive(Debug, Serialize)]
struct Matrix<'a> {
    format: &'static str,
    versions: Vec<&'a str>,
    /// `reads[writer][reader]`.
    reads: Vec<Vec<bool>>,
    pairs: Vec<Pair<'a>>,
}

#[derive(Debug, Serialize)]
struct Pair<'a> {
    old: &'a str,
    new: &'a str,
    compatibility: Compatibility,
    findings: Vec<Finding>,
}

fn print(input: &Input, dir: &Path, format: Format) -> Result<String, Failure> {
    let matrices = matrices(&input.versions);
    if matrices.is_empty() && input.broken.is_empty() {
        return Err(Failure::new(
            Exit::NoInput,
            format!("{}: no .avsc file and no descriptor set", dir.display()),
        ));
    }
    Ok(match format {
        Format::Text => matrices.iter().map(text).collect::<Vec<_>>().join("\n"),
        Format::Json => {
            let json = serde_json::to_string_pretty(&matrices);
            json.expect("names and words are JSON") + "\n"
        }
    })
}

fn matrices(versions: &[Version]) -> Vec<Matrix<'_>> {
    let (avro, protobuf): (Vec<&Version>, Vec<&Version>) =
        versions.iter().partition(|version| version.is_avro());
    let all = [("Avro", avro), ("Protobuf", protobuf)];
    all.into_iter()
        .filter(|(_, versions)| !versions.is_empty())
        .map(|(format, versions)| matrix(format, &versions))
        .collect()
}

fn matrix<'a>(format: &'static str, versions: &[&'a Version]) -> Matrix<'a> {
    let count = versions.len();
    let mut reads = vec![vec![true; count]; count];
    let mut pairs = Vec::new();
    for new in 0..count {
        for old in 0..new {
            let comparison = compare(versions[old], versions[new]).expect("of one format");
            reads[old][new] = comparison.new_reads_old();
            reads[new][old] = comparison.old_reads_new();
            pairs.push(Pair {
                old: &versions[old].name,
                new: &versions[new].name,
                compatibility: comparison.compatibility(),
                findings: comparison.findings,
            });
        }
    }
    Matrix {
        format,
        versions: versions.iter().map(|v| v.name.as_str()).collect(),
        reads,
        pairs,
    }
}

fn text(matrix: &Matrix<'_>) -> String {
    // Rows write, columns read.
    let heading = format!("{}: writer \\ reader", matrix.format);
    let first = matrix.versions.iter().copied().chain([heading.as_str()]);
    let width = first.map(|name| name.chars().count()).max().unwrap_or(0);
    let mut out = format!("{heading:width$}");
    for reader in &matrix.versions {
        let _ = write!(out, "  {reader}");
    }
    out.push('\n');
    for (writer, row) in matrix.versions.iter().zip(&matrix.reads) {
        let mut line = format!("{writer:width$}");
        for (reader, reads) in matrix.versions.iter().zip(row) {
            let column = reader.chars().count();
            let word = if *reads { "yes" } else { "no" };
            let _ = write!(line, "  {word:column$}");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    if !matrix.pairs.is_empty() {
        out.push('\n');
    }
    for pair in &matrix.pairs {
        let name = pair.compatibility.label();
        let _ = writeln!(out, "{} -> {}: {name}", pair.old, pair.new);
        for found in &pair.findings {
            let label = found.hurts.label();
            let line = format!("  {label}: {}: {}", found.path, found.what);
            // Names and logical types of a file are anybody's text.
            out.push_str(&safe(&line));
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Input {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas");
        Input::read(&dir).expect("our own schemas")
    }

    /// The README shows what the command prints of the folder in which it stands.
    #[test]
    fn our_own_schemas_read_each_other_as_the_readme_says() {
        let printed = print(&ours(), Path::new("schemas"), Format::Text).expect("a matrix");
        let readme = include_str!("../../../../schemas/README.md");
        let shown = readme
            .split_once("$ penstock schema matrix schemas\n")
            .and_then(|(_, rest)| rest.split_once("```"))
            .map(|(shown, _)| shown);
        assert_eq!(shown, Some(printed.as_str()));
    }

    /// From Avro's specification: an added field with a default is full; another name is none.
    #[test]
    fn the_versions_of_our_record_are_full() {
        let input = ours();
        let found = matrices(&input.versions);
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].versions,
            [
                "log_record_v1",
                "log_record_v2",
                "log_record_v3",
                "stored_record"
            ]
        );
        for pair in &found[0].pairs {
            let expected = match pair.new {
                "stored_record" => Compatibility::None,
                _ => Compatibility::Full,
            };
            assert_eq!(pair.compatibility, expected, "{pair:?}");
        }
    }

    #[test]
    fn a_broken_file_is_told_and_the_others_are_compared() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("write");
        };
        write("a.avsc", "\"int\"");
        write("b.avsc", "\"long\"");
        write("c.avsc", "{\n\"type\": \"lnog\"}");
        write("d.desc", "no descriptor set");
        write("notes.txt", "not looked at");
        let input = Input::read(folder.path()).expect("a folder");
        let json = print(&input, folder.path(), Format::Json).expect("a matrix");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json[0]["pairs"][0]["compatibility"], "backward");
        assert_eq!(
            json[0]["reads"],
            serde_json::json!([[true, true], [false, true]])
        );
        let failure = input.outcome().expect_err("two are broken");
        assert_eq!(failure.exit, Exit::Config);
        assert!(
            failure
                .message
                .contains("c.avsc:2:9: no type is called \"lnog\"")
        );
        assert!(
            failure
                .message
                .contains("d.desc: this is no descriptor set")
        );
    }

    #[test]
    fn an_empty_folder_has_no_matrix() {
        let folder = tempfile::tempdir().expect("a folder");
        let input = Input::read(folder.path()).expect("a folder");
        let failure = print(&input, folder.path(), Format::Text).expect_err("nothing there");
        assert_eq!(failure.exit, Exit::NoInput);
    }
}
