//! `penstock schema check`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Format;
use super::input::Input;
use crate::command::config::print_text;
use crate::decode::avro::plan::Mapping;
use crate::exit::{Exit, Failure};
use crate::schema::file::{SchemaFile, safe};
use crate::schema::pair::{Compatibility, Finding, Hurts};
use crate::schema::version::{Version, compare};

/// Say what a new version of a schema would break, before it is in use.
///
/// NEW is compared with the versions it follows: the other files in its folder, or those of
/// --against. Only versions of the same record (or message) count. Ends with 0 where nothing
/// breaks and with 78 where something does, each break on its line with the line of NEW.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A version, or a folder of them; without it the folder in which NEW stands
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
    /// What is wanted of the change
    #[arg(long, value_enum, default_value_t = Need::Full)]
    need: Need,
    /// How to print what was found
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The new version: an Avro schema (.avsc) or a descriptor set
    new: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Need {
    /// NEW reads what the others wrote, and they read what NEW writes
    Full,
    /// NEW reads what the others wrote: readers are changed before writers
    Backward,
    /// The others read what NEW writes: writers are changed before readers
    Forward,
}

impl Need {
    fn is_broken_by(self, hurts: Hurts) -> bool {
        match self {
            Self::Full => hurts != Hurts::Note,
            Self::Backward => hurts.is_backward(),
            Self::Forward => hurts.is_forward(),
        }
    }
}

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let report = check(&arguments.new, arguments.against.as_deref())?;
    let breaks = report.breaks(arguments.need);
    print_text(&report.print(arguments.format, arguments.need))?;
    if breaks > 0 {
        let plural = if breaks == 1 { "break" } else { "breaks" };
        return Err(Failure::new(Exit::Config, format!("{breaks} {plural}")));
    }
    report.input.outcome()
}

struct Report {
    new: Version,
    input: Input,
    pairs: Vec<Pair>,
    /// Why this agent cannot make records of the new version by its names alone.
    unmapped: Option<String>,
}

#[derive(Serialize)]
struct Pair {
    against: String,
    compatibility: Compatibility,
    findings: Vec<Finding>,
}

fn check(path: &Path, against: Option<&Path>) -> Result<Report, Failure> {
    let failed =
        |error: std::io::Error| Failure::io(format_args!("read {}", path.display()), &error);
    std::fs::metadata(path).map_err(failed)?;
    let new = Version::read(path).map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    let folder = path.parent().filter(|parent| *parent != Path::new(""));
    let against = against.unwrap_or(folder.unwrap_or(Path::new(".")));
    let mut input = Input::read(against)?;
    input
        .versions
        .retain(|version| !is_same_file(&version.path, path) && version.is_related(&new));
    if input.versions.is_empty() {
        return Err(Failure::new(
            Exit::NoInput,
            format!(
                "{}: nothing there is another version of {}",
                against.display(),
                path.display()
            ),
        ));
    }
    let pairs = input.versions.iter().filter_map(|old| {
        let comparison = compare(old, &new)?;
        Some(Pair {
            against: old.name.clone(),
            compatibility: comparison.compatibility(),
            findings: comparison.findings,
        })
    });
    let pairs = pairs.collect();
    let unmapped = match new.is_avro() {
        true => why_unmapped(path),
        false => None,
    };
    Ok(Report {
        new,
        input,
        pairs,
        unmapped,
    })
}

fn why_unmapped(path: &Path) -> Option<String> {
    let file = match SchemaFile::read(path) {
        Ok(file) => file,
        Err(error) => return Some(error.message),
    };
    let compiled =
        crate::decode::avro::plan::Plan::compile(file.record.schema(), &Mapping::default());
    compiled.err().map(|error| error.to_string())
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    real(a).is_some() && real(a) == real(b)
}

impl Report {
    fn breaks(&self, need: Need) -> usize {
        let findings = self.pairs.iter().flat_map(|pair| &pair.findings);
        findings
            .filter(|found| need.is_broken_by(found.hurts))
            .count()
    }

    fn print(&self, format: Format, need: Need) -> String {
        match format {
            Format::Text => self.text(need),
            Format::Json => {
                let json = serde_json::json!({
                    "new": self.new.name,
                    "breaks": self.breaks(need),
                    "pairs": self.pairs,
                    "unmapped": self.unmapped,
                });
                format!("{json:#}\n")
            }
        }
    }

    fn text(&self, need: Need) -> String {
        let file = self.new.path.display();
        let mut out = String::new();
        for pair in &self.pairs {
            for found in &pair.findings {
                let _ = match found.line {
                    Some(line) => write!(out, "{file}:{line}: "),
                    None => write!(out, "{file}: "),
                };
                let label = match (found.hurts, need.is_broken_by(found.hurts)) {
                    (Hurts::Note, _) | (_, true) => found.hurts.label().to_owned(),
                    (hurts, false) => format!("{}, as it may", hurts.label()),
                };
                let with = &pair.against;
                let what = format!("{label} with {with}: {}: {}", found.path, found.what);
                let _ = writeln!(out, "{}", safe(&what));
            }
        }
        if let Some(why) = &self.unmapped {
            let _ = writeln!(
                out,
                "{file}: note: without a mapping in the configuration the agent makes no records \
                 of this: {why}"
            );
        }
        for pair in &self.pairs {
            let name = pair.compatibility.label();
            let _ = writeln!(out, "{} -> {}: {name}", pair.against, self.new.name);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a folder"))
        }

        fn record(&self, name: &str, record: &str, fields: &str) -> PathBuf {
            let path = self.0.path().join(name);
            let text = format!(
                "{{\"type\": \"record\", \"name\": \"{record}\", \"fields\": [\n{fields}\n]}}"
            );
            std::fs::write(&path, text).expect("write");
            path
        }
    }

    #[test]
    fn each_break_has_its_line_and_only_versions_of_the_same_record_count() {
        let folder = Folder::new();
        folder.record("v1.avsc", "R", r#"{"name": "body", "type": "string"}"#);
        folder.record("other.avsc", "Other", r#"{"name": "x", "type": "int"}"#);
        let new = folder.record(
            "v2.avsc",
            "R",
            "{\"name\": \"body\", \"type\": \"string\"},\n{\"name\": \"n\", \"type\": \"int\"}",
        );
        let report = check(&new, None).expect("a report");
        let text = report.text(Need::Full);
        let expected = format!(
            "{0}:3: breaks backward with v1: n: the reader wants it, nobody wrote it, and it has \
             no default\nv1 -> v2: forward\n",
            new.display()
        );
        assert_eq!(text, expected);
        assert_eq!(report.breaks(Need::Full), 1);
        assert_eq!(report.breaks(Need::Backward), 1);
        assert_eq!(report.breaks(Need::Forward), 0);
        assert!(
            report
                .text(Need::Forward)
                .contains("breaks backward, as it may")
        );
        let json: serde_json::Value =
            serde_json::from_str(&report.print(Format::Json, Need::Full)).expect("JSON");
        assert_eq!(json["breaks"], 1);
        assert_eq!(json["pairs"][0]["findings"][0]["line"], 3);
    }

    #[test]
    fn a_schema_that_the_agent_cannot_map_is_noted() {
        let folder = Folder::new();
        let fields = r#"{"name": "e", "type": "E"}"#;
        folder.record("v1.avsc", "E", fields);
        let new = folder.record("v2.avsc", "E", fields);
        let report = check(&new, None).expect("a report");
        assert_eq!(report.breaks(Need::Full), 0);
        assert!(report.text(Need::Full).contains("makes no records of this"));
    }

    #[test]
    fn nothing_to_compare_with_and_a_broken_new_one() {
        let folder = Folder::new();
        let new = folder.record("v1.avsc", "R", r#"{"name": "a", "type": "int"}"#);
        let failure = check(&new, None).err().expect("alone");
        assert_eq!(failure.exit, Exit::NoInput);
        let broken = folder.record("v2.avsc", "R", r#"{"name": "a", "type": "itn"}"#);
        let failure = check(&broken, None).err().expect("broken");
        assert_eq!(failure.exit, Exit::Config);
        assert!(
            failure
                .message
                .contains("v2.avsc:2:23: no type is called \"itn\""),
            "{failure}"
        );
        let missing = check(Path::new("/nonexistent/a.avsc"), None).err();
        assert_eq!(missing.map(|f| f.exit), Some(Exit::NoInput));
    }
}
