//! The configuration's files as one tree: read, parsed and merged, each key and value with its
//! place. What the keys mean is not known here.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::mistake::{Mistake, Position};

/// A file as it was read.
pub struct Source {
    pub path: PathBuf,
    pub text: String,
}

/// Bytes of one of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    file: usize,
    span: Range<usize>,
}

/// A key and what it was given.
pub struct Entry {
    pub key: String,
    pub place: Place,
    pub value: Value,
}

pub enum Value {
    Table(Vec<Entry>),
    Leaf(Leaf, Place),
}

/// A value that is no table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leaf {
    Text(String),
    /// An integer or a float, as written.
    Number(String),
    Flag(bool),
    /// A list of texts.
    List(Vec<Item>),
    /// "a list" of something else, and the like.
    Other(&'static str),
}

/// One text of a list, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub text: String,
    pub place: Place,
}

/// All files together.
pub struct Document {
    sources: Vec<Source>,
    pub entries: Vec<Entry>,
    pub mistakes: Vec<Mistake>,
    /// Where the TOML itself is broken, by file and line: what follows from a broken line is not
    /// worth a second mistake.
    broken: Vec<(usize, usize)>,
}

impl Document {
    /// Parses each file and merges the tables, in the order given.
    pub fn parse(sources: Vec<Source>) -> Self {
        let mut document = Self {
            sources: Vec::new(),
            entries: Vec::new(),
            mistakes: Vec::new(),
            broken: Vec::new(),
        };
        for (file, source) in sources.into_iter().enumerate() {
            let (table, errors) = DeTable::parse_recoverable(&source.text);
            let entries = convert_table(file, table.into_inner());
            let spans: Vec<_> = errors
                .iter()
                .map(|e| (e.span().unwrap_or(0..0), e.message().to_owned()))
                .collect();
            document.sources.push(source);
            for (span, message) in spans {
                document.syntax_mistake(file, span, &message, &entries);
            }
            let mut merged = std::mem::take(&mut document.entries);
            document.merge(&mut merged, entries, "");
            document.entries = merged;
        }
        document
    }

    /// Whether some file is broken TOML, so that what seems to be missing may stand in it.
    pub fn is_broken(&self) -> bool {
        !self.broken.is_empty()
    }

    /// Adds a mistake about `place`, unless its line is broken TOML.
    pub fn mistake(
        &mut self,
        place: &Place,
        message: impl Into<String>,
        help: impl Into<String>,
        other: Option<&Place>,
    ) {
        let (line, _) = self.line_column(place);
        if self.broken.contains(&(place.file, line)) {
            return;
        }
        self.push(place, message.into(), help.into(), other);
    }

    /// The mistakes in the order of the files.
    pub fn into_mistakes(mut self) -> Vec<Mistake> {
        let order: Vec<PathBuf> = self.sources.iter().map(|s| s.path.clone()).collect();
        self.mistakes.sort_by_key(|mistake| {
            let file = order.iter().position(|p| *p == mistake.position.path);
            (file, mistake.position.line, mistake.position.column)
        });
        self.mistakes
    }

    /// The value under a dotted path.
    pub fn leaf(&self, path: &str) -> Option<(&Leaf, &Place)> {
        match self.find(path)?.value {
            Value::Leaf(ref leaf, ref place) => Some((leaf, place)),
            Value::Table(_) => None,
        }
    }

    /// The table under a dotted path, and where it begins.
    pub fn table(&self, path: &str) -> Option<(&[Entry], &Place)> {
        let entry = self.find(path)?;
        match entry.value {
            Value::Table(ref entries) => Some((entries, &entry.place)),
            Value::Leaf(..) => None,
        }
    }

    /// Where the key under a dotted path stands.
    pub fn place(&self, path: &str) -> Option<&Place> {
        self.find(path).map(|entry| &entry.place)
    }

    fn find(&self, path: &str) -> Option<&Entry> {
        find(&self.entries, path)
    }

    /// Where two files give the same key, both places are named; tables merge.
    fn merge(&mut self, into: &mut Vec<Entry>, from: Vec<Entry>, path: &str) {
        for entry in from {
            let Some(known) = into.iter_mut().find(|known| known.key == entry.key) else {
                into.push(entry);
                continue;
            };
            let path = join(path, &entry.key);
            match (&mut known.value, entry.value) {
                (Value::Table(known), Value::Table(new)) => self.merge(known, new, &path),
                _ => {
                    let other = known.place.clone();
                    self.mistake(
                        &entry.place,
                        format!("{path} is given twice"),
                        "keep one of the two",
                        Some(&other),
                    );
                }
            }
        }
    }

    fn syntax_mistake(
        &mut self,
        file: usize,
        span: Range<usize>,
        message: &str,
        entries: &[Entry],
    ) {
        let place = Place { file, span };
        let (line, _) = self.line_column(&place);
        // One line, one mistake: the parser's further ones on it are echoes of the first.
        if self.broken.contains(&(file, line)) {
            return;
        }
        let text = &self.sources[file].text;
        let named = text.get(place.span.clone()).unwrap_or_default().trim();
        if message == "duplicate key" {
            let name = named.trim_matches(['"', '\'']);
            // The parser keeps the second of two tables, and the first of two keys.
            let first = match header_before(text, place.span.start) {
                Some(start) => Some(Place {
                    file,
                    span: start..start,
                }),
                None => last_before(entries, name, place.span.start),
            };
            let message = format!("{named} is given twice");
            self.push(
                &place,
                message,
                "keep one of the two".into(),
                first.as_ref(),
            );
        } else {
            let source_line = text.lines().nth(line - 1).unwrap_or_default();
            let help = unquoted_value(source_line)
                .unwrap_or_else(|| "the file is TOML: `key = \"value\"` under `[table]`".into());
            self.push(&place, format!("this is no TOML: {message}"), help, None);
        }
        self.broken.push((file, line));
    }

    fn push(&mut self, place: &Place, message: String, help: String, other: Option<&Place>) {
        let position = self.position(place);
        let text = &self.sources[place.file].text;
        let line = text.lines().nth(position.line - 1).unwrap_or_default();
        let left = line.chars().count().saturating_sub(position.column - 1);
        let len = text
            .get(place.span.clone())
            .map_or(1, |meant| meant.chars().take_while(|c| *c != '\n').count());
        // A control character could move the terminal's cursor; one stands for one, so that
        // columns stay what they are.
        let safe = |text: &str| {
            text.chars()
                .map(|c| match c {
                    '\t' => ' ',
                    c if c.is_control() => char::REPLACEMENT_CHARACTER,
                    c => c,
                })
                .collect()
        };
        let mistake = Mistake {
            source_line: safe(line),
            len: len.min(left).max(1),
            message: safe(&message),
            help: safe(&help),
            other: other.map(|place| self.position(place)),
            position,
        };
        self.mistakes.push(mistake);
    }

    fn position(&self, place: &Place) -> Position {
        let (line, column) = self.line_column(place);
        Position {
            path: self.sources[place.file].path.clone(),
            line,
            column,
        }
    }

    fn line_column(&self, place: &Place) -> (usize, usize) {
        line_column(&self.sources[place.file].text, place.span.start)
    }
}

/// Line and column of a byte, both from 1, the column in characters.
pub fn line_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (line, before[line_start..].chars().count() + 1)
}

/// The files that make up the configuration at `path`: itself, then `conf.d/*.toml` beside it, by
/// name.
pub fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = vec![path.to_owned()];
    let folder = path.parent().unwrap_or(Path::new("")).join("conf.d");
    let listing = match std::fs::read_dir(&folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(error),
    };
    let mut more = Vec::new();
    for entry in listing {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            more.push(path);
        }
    }
    more.sort();
    files.append(&mut more);
    Ok(files)
}

pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn convert_table(file: usize, table: DeTable<'_>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(key, value)| Entry {
            place: Place {
                file,
                span: key.span(),
            },
            key: key.into_inner().into_owned(),
            value: convert_value(file, value),
        })
        .collect();
    // The parser sorts by name; the file's order is the listeners' order.
    entries.sort_by_key(|entry| entry.place.span.start);
    entries
}

fn convert_value(file: usize, value: Spanned<DeValue<'_>>) -> Value {
    let place = Place {
        file,
        span: value.span(),
    };
    let leaf = match value.into_inner() {
        DeValue::Table(table) => return Value::Table(convert_table(file, table)),
        DeValue::String(text) => Leaf::Text(text.into_owned()),
        DeValue::Integer(number) => Leaf::Number(number.to_string()),
        DeValue::Float(number) => Leaf::Number(number.to_string()),
        DeValue::Boolean(flag) => Leaf::Flag(flag),
        DeValue::Datetime(_) => Leaf::Other("a date"),
        DeValue::Array(items) => list(file, &items),
    };
    Value::Leaf(leaf, place)
}

/// A key may have dots of its own: a schema's name, a field's path.
fn find<'a>(entries: &'a [Entry], path: &str) -> Option<&'a Entry> {
    entries.iter().find_map(|entry| {
        let rest = path.strip_prefix(&entry.key)?;
        if rest.is_empty() {
            return Some(entry);
        }
        match &entry.value {
            Value::Table(inner) => find(inner, rest.strip_prefix('.')?),
            Value::Leaf(..) => None,
        }
    })
}

fn list(file: usize, items: &DeArray<'_>) -> Leaf {
    let texts = items.iter().map(|item| match item.get_ref() {
        DeValue::String(text) => Some(Item {
            text: text.to_string(),
            place: Place {
                file,
                span: item.span(),
            },
        }),
        _ => None,
    });
    let texts: Option<Vec<Item>> = texts.collect();
    texts.map_or(Leaf::Other("a list"), Leaf::List)
}

/// The last key of that name which begins before `end`: for a key given twice in one table that is
/// the first of the two, as nothing but the table's own keys stands between them.
fn last_before(entries: &[Entry], key: &str, end: usize) -> Option<Place> {
    let mut found: Option<Place> = None;
    for entry in entries {
        if entry.key == key && entry.place.span.start < end {
            found = later(found, Some(entry.place.clone()));
        }
        if let Value::Table(inner) = &entry.value {
            found = later(found, last_before(inner, key, end));
        }
    }
    found
}

/// Where the table's name stands in the first header that is the same as the one around `at`;
/// `None` where `at` is in no header, or it is the first.
fn header_before(text: &str, at: usize) -> Option<usize> {
    let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let header = |line: &str| Some(line.trim_start().split_once(']')?.0.to_owned());
    let wanted = header(&text[line_start..]).filter(|header| header.starts_with('['))?;
    let mut start = 0;
    for line in text[..line_start].split_inclusive('\n') {
        if header(line).as_ref() == Some(&wanted) {
            let name = wanted.rfind(['.', '[']).map_or(0, |last| last + 1);
            return Some(start + (line.len() - line.trim_start().len()) + name);
        }
        start += line.len();
    }
    None
}

fn later(a: Option<Place>, b: Option<Place>) -> Option<Place> {
    [a, b].into_iter().flatten().max_by_key(|p| p.span.start)
}

/// `memory_max = 256MiB` is the mistake that people make most: say how it is written.
fn unquoted_value(line: &str) -> Option<String> {
    let (key, value) = line.split_once('=')?;
    let (key, value) = (key.trim(), value.split('#').next()?.trim());
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-%:/[]".contains(c);
    let is_plain = !value.is_empty() && key.chars().chain(value.chars()).all(plain);
    is_plain.then(|| format!("write {key} = \"{value}\", in quotes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_from_one() {
        assert_eq!(line_column("", 0), (1, 1));
        assert_eq!(line_column("a\nbc\n", 3), (2, 2));
        assert_eq!(line_column("# für\nx", 7), (2, 1));
        assert_eq!(line_column("für = 1", 4), (1, 4));
        assert_eq!(line_column("a\n", 99), (2, 1));
    }

    #[test]
    fn an_unquoted_value_is_recognised() {
        assert_eq!(
            unquoted_value("memory_max = 256MiB # half").as_deref(),
            Some("write memory_max = \"256MiB\", in quotes")
        );
        assert_eq!(unquoted_value("a = \"unclosed"), None);
        assert_eq!(unquoted_value("[journal"), None);
    }
}
