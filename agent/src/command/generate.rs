//! `penstock generate`: what a package brings beside the binary, made of the command line itself.

use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::config;
use crate::exit::Failure;

const SOURCE: &str = concat!("Penstock ", env!("CARGO_PKG_VERSION"));
const MANUAL: &str = "Penstock";

/// Write man pages or shell completions into a folder: for whoever packages Penstock.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// A man page for each command, and penstock.toml(5)
    Man { folder: PathBuf },
    /// Completions for bash, zsh and fish, by the names their shells look for
    Completions { folder: PathBuf },
}

pub fn run(arguments: Arguments, command_line: Command) -> Result<(), Failure> {
    match arguments.what {
        What::Man { folder } => {
            make(&folder)?;
            let mut command = command_line.disable_help_subcommand(true);
            command.build();
            command_pages(command, &folder)?;
            configuration_page(&folder)
        }
        What::Completions { folder } => {
            make(&folder)?;
            let mut command = command_line;
            [Shell::Bash, Shell::Zsh, Shell::Fish]
                .into_iter()
                .try_for_each(|shell| {
                    clap_complete::generate_to(shell, &mut command, "penstock", &folder)
                        .map(|_| ())
                        .map_err(|error| cannot_write(&folder, &error))
                })
        }
    }
}

fn make(folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)
        .map_err(|error| Failure::io(format!("cannot make {}", folder.display()), &error))
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::io(format!("cannot write {}", path.display()), error)
}

/// The command's page and those of the commands below it: penstock.1, penstock-journal-check.1.
fn command_pages(command: Command, folder: &Path) -> Result<(), Failure> {
    for below in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        command_pages(below.clone(), folder)?;
    }
    Man::new(command)
        .source(SOURCE)
        .manual(MANUAL)
        .generate_to(folder)
        .map(|_| ())
        .map_err(|error| cannot_write(folder, &error))
}

/// The commented example is the documentation of the keys: the page shows it as it is.
fn configuration_page(folder: &Path) -> Result<(), Failure> {
    let mut page = Roff::new();
    page.control("TH", ["penstock.toml", "5", "", SOURCE, MANUAL]);
    page.control("SH", ["NAME"]);
    page.text([roman("penstock.toml - configuration of the penstock agent")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(format!(
        "The agent reads {} and then the files in conf.d beside it, by name. What follows is every \
         key with its default and a word about it, as `penstock config example` prints it. \
         `penstock check` names every mistake in a file.",
        config::DEFAULT_PATH
    ))]);
    page.control("SH", ["KEYS"]);
    page.control("nf", []);
    for line in config::EXAMPLE.lines() {
        page.text([roman(line)]);
    }
    page.control("fi", []);
    page.control("SH", ["SEE ALSO"]);
    page.text([roman("penstock(1), penstock-check(1), penstock-run(1)")]);
    let path = folder.join("penstock.toml.5");
    std::fs::write(&path, page.render()).map_err(|error| cannot_write(&path, &error))
}
