//! Configuration: text to typed settings; every range is checked here and nowhere else.

mod document;
mod host;
mod key;
mod mistake;
mod read;
pub mod settings;
mod show;
mod unit;

use std::path::{Path, PathBuf};

use document::{Document, Source};

use crate::decode::avro::plan::Target;
use crate::exit::{Exit, Failure};
use crate::limits::{CONFIG_FILE_LEN_MAX, CONFIG_FILES_MAX};
pub use host::{cores, warnings};
pub(crate) use key::{nearest, parse_keep, parse_limit, parse_prefix};
pub(crate) use mistake::Wrong;
pub use mistake::{Mistake, Mistakes, Position};
pub(crate) use read::is_schema_name;
pub use settings::Settings;
pub use show::show;
pub(crate) use show::{limit_pairs, newcomers_note};
pub(crate) use unit::parse_time;
pub use unit::{format_size, format_time};

/// Where the agent looks when it is given no file.
pub const DEFAULT_PATH: &str = "/etc/penstock/penstock.toml";

/// Every key with its default and a word about it; a test holds that it is complete and right.
pub const EXAMPLE: &str = include_str!("../../penstock.example.toml");

/// Settings, and where they came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub settings: Settings,
    /// The files that were read, in order; empty where the built-in settings hold.
    pub files: Vec<PathBuf>,
}

impl Loaded {
    /// For the log: the files, or that there are none.
    pub fn source(&self) -> String {
        if self.files.is_empty() {
            return "built-in settings".to_owned();
        }
        let files: Vec<_> = self.files.iter().map(|f| f.display().to_string()).collect();
        files.join(", ")
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read {}: {error}", path.display())]
    Read {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("{0}")]
    Mistakes(Mistakes),
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let exit = match &error {
            LoadError::Mistakes(_) => Exit::Config,
            LoadError::Read { error, .. } => match error.kind() {
                std::io::ErrorKind::PermissionDenied => Exit::Permission,
                _ => Exit::NoInput,
            },
        };
        let message = match error {
            // The first place begins its own line, so that an editor finds it.
            LoadError::Mistakes(mistakes) => format!("the configuration is wrong\n{mistakes}"),
            LoadError::Read { .. } => error.to_string(),
        };
        Self::new(exit, message)
    }
}

/// What holds without any file: UDP and TCP frames on 127.0.0.1:4600, admin on 127.0.0.1:4680, data
/// under ./penstock-data, one sink `files`.
pub fn builtin() -> Settings {
    read::settings(Document::parse(Vec::new()))
        .unwrap_or_else(|mistakes| panic!("the built-in settings are wrong: {mistakes}"))
}

/// The settings in `path` and the `conf.d` beside it. Without a path: `DEFAULT_PATH`, and where
/// that is missing the built-in settings.
pub fn load(path: Option<&Path>) -> Result<Loaded, LoadError> {
    let path = match path {
        Some(path) => path,
        None => match std::fs::metadata(DEFAULT_PATH) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Loaded {
                    settings: builtin(),
                    files: Vec::new(),
                });
            }
            _ => Path::new(DEFAULT_PATH),
        },
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let files = document::files(path).map_err(|error| LoadError::Read {
        path: folder.join("conf.d"),
        error,
    })?;
    if files.len() > 1 + CONFIG_FILES_MAX {
        return Err(LoadError::Read {
            path: folder.join("conf.d"),
            error: std::io::Error::other(format!(
                "{} files, where at most {CONFIG_FILES_MAX} may stand",
                files.len() - 1
            )),
        });
    }
    let mut sources = Vec::new();
    for path in &files {
        let text = read_file(path).map_err(|error| LoadError::Read {
            path: path.clone(),
            error,
        })?;
        sources.push(Source {
            path: path.clone(),
            text,
        });
    }
    let settings = read::settings(Document::parse(sources)).map_err(LoadError::Mistakes)?;
    Ok(Loaded { settings, files })
}

/// Where the control socket of the agent is that runs by a file which is wrong by now; `None` where the
/// file is no TOML, or the mistakes are in what says so.
pub fn socket_despite_mistakes(path: Option<&Path>) -> Option<PathBuf> {
    let path = path.unwrap_or(Path::new(DEFAULT_PATH));
    let files = document::files(path).ok()?;
    let sources = files.into_iter().map(|path| {
        let text = read_file(&path).ok()?;
        Some(Source { path, text })
    });
    read::admin_socket(Document::parse(sources.collect::<Option<_>>()?))
}

/// The settings in a text that stands in no file; `name` stands for one in mistakes.
pub fn parse(name: &str, text: &str) -> Result<Settings, Mistakes> {
    let source = Source {
        path: PathBuf::from(name),
        text: text.to_owned(),
    };
    read::settings(Document::parse(vec![source]))
}

/// A mistake that shows only outside the configuration (in a schema's file, say), at the key where it
/// was made: the files are looked through again for its place. `None` where no file has the key.
pub fn mistake_at(files: &[PathBuf], key: &str, message: &str, help: &str) -> Option<Mistake> {
    let sources = files.iter().map(|path| {
        let text = read_file(path).ok()?;
        let path = path.clone();
        Some(Source { path, text })
    });
    let mut document = Document::parse(sources.collect::<Option<_>>()?);
    document.mistakes.clear();
    let place = document.place(key)?.clone();
    document.mistake(&place, message, help, None);
    document.into_mistakes().pop()
}

/// The word of `schemas.NAME.fields` for a target.
pub fn target_word(target: &Target) -> String {
    (key::SCHEMA_FIELD.show)(target)
        .trim_matches('"')
        .to_owned()
}

/// The target of such a word.
pub fn target_of(word: &str) -> Option<Target> {
    (key::SCHEMA_FIELD.parse)(&document::Leaf::Text(word.to_owned())).ok()
}

/// Line and column of a byte, both from 1, the column in characters.
pub use document::line_column;

/// The paths of all keys, `*` for a name.
pub fn known_keys() -> &'static [&'static str] {
    key::KNOWN
}

fn read_file(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let mut file = std::fs::File::open(path)?.take(CONFIG_FILE_LEN_MAX + 1);
    file.read_to_end(&mut bytes)?;
    if bytes.len() as u64 > CONFIG_FILE_LEN_MAX {
        return Err(std::io::Error::other(format!(
            "longer than {}, the most that a configuration file may be",
            format_size(CONFIG_FILE_LEN_MAX)
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let valid = String::from_utf8_lossy(&error.as_bytes()[..at]).into_owned();
        let (line, column) = document::line_column(&valid, valid.len());
        std::io::Error::other(format!("line {line}, column {column}: not UTF-8"))
    })
}
