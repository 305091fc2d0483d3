//! A mistake in the configuration: where it stands, what is wrong, what would be right.

use std::fmt;
use std::path::PathBuf;

/// What is wrong with a value, before it is known where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    pub message: String,
    pub help: String,
}

impl Wrong {
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: help.into(),
        }
    }
}

/// A place in a file, for people: lines and columns from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub path: PathBuf,
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.path.display(), self.line, self.column)
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    pub position: Position,
    /// The offending line, made safe for a terminal.
    pub source_line: String,
    /// How many characters from the column on are meant; at least 1.
    pub len: usize,
    pub message: String,
    /// What would be right.
    pub help: String,
    /// The other place, where two contradict each other.
    pub other: Option<Position>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.position.line.to_string();
        let indent = number.len();
        writeln!(f, "{}: {}", self.position, self.message)?;
        writeln!(f, " {number} | {}", self.source_line)?;
        writeln!(
            f,
            " {:indent$} | {:column$}{}",
            "",
            "",
            "^".repeat(self.len.max(1)),
            // A width of the standard library's is 16 bits; no terminal is as wide.
            column = (self.position.column - 1).min(usize::from(u16::MAX)),
        )?;
        if let Some(other) = &self.other {
            writeln!(f, " {:indent$} = the other is at {other}", "")?;
        }
        writeln!(f, " {:indent$} = {}", "", self.help)
    }
}

/// Every mistake there is, in the order of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl Mistakes {
    /// `1 mistake`, `2 mistakes`.
    pub fn count(&self) -> String {
        match self.0.len() {
            1 => "1 mistake".to_owned(),
            count => format!("{count} mistakes"),
        }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.0 {
            writeln!(f, "{mistake}")?;
        }
        write!(f, "{}", self.count())
    }
}

impl std::error::Error for Mistakes {}
