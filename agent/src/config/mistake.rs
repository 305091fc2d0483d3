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
        let (line, before, len) = self.window();
        writeln!(f, " {number} | {line}")?;
        let (before, marks) = (" ".repeat(before), "^".repeat(len));
        writeln!(f, " {:indent$} | {before}{marks}", "")?;
        if let Some(other) = &self.other {
            writeln!(f, " {:indent$} = the other is at {other}", "")?;
        }
        writeln!(f, " {:indent$} = {}", "", self.help)
    }
}

/// Of a line longer than this a part is shown: a list may stand on one line.
const LINE_SHOWN_MAX: usize = 160;
/// How much of it stands before the mistake.
const SHOWN_BEFORE: usize = 40;

impl Mistake {
    /// What is shown of the line, and in it how many characters stand before the mistake and how
    /// many are meant.
    fn window(&self) -> (String, usize, usize) {
        let count = self.source_line.chars().count();
        let column = self.position.column - 1;
        let len = self.len.max(1);
        if count <= LINE_SHOWN_MAX {
            return (self.source_line.clone(), column, len);
        }
        let start = column.saturating_sub(SHOWN_BEFORE);
        let (left, right) = (
            if start > 0 { "…" } else { "" },
            if start + LINE_SHOWN_MAX < count {
                "…"
            } else {
                ""
            },
        );
        let part = self.source_line.chars().skip(start).take(LINE_SHOWN_MAX);
        let part: String = part.collect();
        let before = column - start + left.chars().count();
        let len = len.min(LINE_SHOWN_MAX - (column - start));
        (format!("{left}{part}{right}"), before, len)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(line: &str, column: usize, len: usize) -> String {
        Mistake {
            position: Position {
                path: PathBuf::from("f"),
                line: 7,
                column,
            },
            source_line: line.to_owned(),
            len,
            message: "m".to_owned(),
            help: "h".to_owned(),
            other: None,
        }
        .to_string()
    }

    #[test]
    fn a_short_line_is_shown_whole() {
        assert_eq!(
            printed("ab cd", 4, 2),
            "f:7:4: m\n 7 | ab cd\n   |    ^^\n   = h\n"
        );
    }

    /// Beyond column 65,535 a width of the formatting machinery ends.
    #[test]
    fn of_a_long_line_the_part_around_the_mistake_is_shown() {
        let line = format!("{}bad{}", "x".repeat(100_000), "y".repeat(100_000));
        let expected = format!(
            "f:7:100001: m\n 7 | …{}bad{}…\n   |  {}^^^\n   = h\n",
            "x".repeat(40),
            "y".repeat(117),
            " ".repeat(40)
        );
        assert_eq!(printed(&line, 100_001, 3), expected);
        // A whole list is meant: as much of it as is shown.
        let marks = printed(&line, 9, 99_999);
        assert!(
            marks.contains(&format!("   |         {}\n", "^".repeat(152))),
            "{marks}"
        );
    }
}
