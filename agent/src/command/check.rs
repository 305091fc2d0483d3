//! `penstock check`.

use std::path::{Path, PathBuf};

use super::config::print_text;
use super::journal;
use crate::config::{self, LoadError};
use crate::config::{Mistake, Mistakes};
use crate::exit::{Exit, Failure};
use crate::schema;

/// Check a configuration file: every mistake with its line and what would be right.
///
/// Reads the file, the conf.d beside it and the schemas in schemas_dir. Ends with 0 where all is right, 78 where something is
/// wrong, 66 where the file is missing. What this host will not give (a receive buffer beyond
/// net.core.rmem_max, say) is a warning and no mistake.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The file; without one, /etc/penstock/penstock.toml
    file: Option<PathBuf>,
    /// Check the journal in the configured data folder as well, as `penstock journal check` does: 65
    /// where acknowledged records are damaged
    #[arg(long)]
    journal: bool,
}

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let report = check(arguments.file.as_deref())?;
    print_text(&report.text)?;
    match (report.failure, report.data_dir) {
        (Some(failure), _) => Err(failure),
        (None, Some(data_dir)) if arguments.journal => check_journal(&data_dir),
        (None, _) => Ok(()),
    }
}

fn check_journal(data_dir: &Path) -> Result<(), Failure> {
    if !data_dir.join("journal").is_dir() {
        return print_text(&format!("{}: no journal yet\n", data_dir.display()));
    }
    journal::check(data_dir, journal::Format::Text)
}

/// What goes to standard output, and how the command ends.
struct Report {
    text: String,
    failure: Option<Failure>,
    /// Where the configuration is right.
    data_dir: Option<PathBuf>,
}

fn check(file: Option<&Path>) -> Result<Report, Failure> {
    match config::load(file) {
        Ok(loaded) => {
            let mistakes = schema::check::mistakes(&loaded.settings, &loaded.files);
            if !mistakes.is_empty() {
                return Ok(wrong(mistakes));
            }
            let mut text: String = config::warnings(&loaded.settings)
                .iter()
                .map(|warning| format!("warning: {warning}\n"))
                .collect();
            if let Some(note) = config::newcomers_note(&loaded.settings.gate.policy) {
                text.push_str(&format!("note: {note}\n"));
            }
            text.push_str(&format!("{}: no mistakes\n", loaded.source()));
            Ok(Report {
                text,
                failure: None,
                data_dir: Some(loaded.settings.data_dir),
            })
        }
        Err(LoadError::Mistakes(mistakes)) => Ok(wrong(mistakes.0)),
        Err(error) => Err(error.into()),
    }
}

fn wrong(mistakes: Vec<Mistake>) -> Report {
    let mistakes = Mistakes(mistakes);
    Report {
        text: mistakes.0.iter().map(|m| format!("{m}\n")).collect(),
        failure: Some(Failure::new(
            Exit::Config,
            format!("{} in the configuration", mistakes.count()),
        )),
        data_dir: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(text: &str) -> Report {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("penstock.toml");
        std::fs::write(&file, text).expect("a file");
        check(Some(&file)).unwrap_or_else(|failure| panic!("{failure}"))
    }

    #[test]
    fn a_right_file_ends_with_0_and_a_wrong_one_with_78_and_each_mistake() {
        let report = check_text("memory_max = \"512MiB\"\n");
        assert!(report.failure.is_none());
        assert!(report.text.ends_with("penstock.toml: no mistakes\n"));

        let report = check_text("memory_max = 5\ncolour = \"red\"\n");
        assert_eq!(report.failure.map(|f| f.exit), Some(Exit::Config));
        assert!(report.text.contains("penstock.toml:1:14: memory_max"));
        assert!(report.text.contains("penstock.toml:2:1: colour"));
    }

    #[test]
    fn what_unknown_sources_may_send_is_said_where_there_is_a_limit() {
        let report = check_text("[gate]\nsource_limit = { rate = \"50k/s\", burst = \"200k\" }\n");
        let note = "note: sources that the gate does not know yet may send together rate 50k/s, \
                    burst 200k (as much as the one source that may send the most)\n";
        assert!(report.text.contains(note), "{}", report.text);
        assert!(!check_text("").text.contains("note: "));
    }

    #[test]
    fn schemas_and_what_is_said_of_them_are_looked_at() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("write");
        };
        write(
            "orders.avsc",
            r#"{"type": "record", "name": "O", "fields": [
                {"name": "ts", "type": "long"},
                {"name": "ctx", "type": {"type": "record", "name": "C", "fields": [
                    {"name": "request", "type": "string"}]}}]}"#,
        );
        let text = |more: &str| format!("schemas_dir = \"{}\"\n{more}", folder.path().display());
        let right = "[schemas.orders]\nregistry_id = 17\n\
                     fields = { ts = \"time_unix_nano\", \"ctx.request\" = \"attribute\" }\n";
        assert!(check_text(&text(right)).failure.is_none());

        write("bad.avsc", "{\n\"type\": }");
        let wrong = "[schemas.orders]\nfields.tz = \"body\"\nfields.ctx.reqest = \"count\"\n\
                     [schemas.order]\nunmapped = \"count\"\n";
        let report = check_text(&text(wrong));
        assert_eq!(report.failure.map(|f| f.exit), Some(Exit::Config));
        for expected in [
            "bad.avsc:2:9: this is no JSON",
            "penstock.toml:3:8: schemas.orders.fields: ",
            "has no field tz",
            "did you mean ts?",
            "penstock.toml:4:12: schemas.orders.fields: ",
            "did you mean request?",
            "penstock.toml:5:10: schemas.order: schemas_dir has no order.avsc",
            "did you mean orders?",
        ] {
            assert!(
                report.text.contains(expected),
                "{expected}: {}",
                report.text
            );
        }
        let report = check_text("schemas_dir = \"/nonexistent/schemas\"\n");
        assert!(
            report
                .text
                .contains("penstock.toml:1:1: schemas_dir: /nonexistent/schemas")
        );
    }

    #[test]
    fn a_missing_file_ends_with_66() {
        let failure = check(Some(Path::new("/nonexistent/penstock.toml"))).err();
        assert_eq!(failure.map(|f| f.exit), Some(Exit::NoInput));
    }
}
