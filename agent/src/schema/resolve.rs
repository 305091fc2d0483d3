//! Whether a reader's schema reads what a writer's wrote, by Avro's rules of schema resolution, and
//! where it does not.
//!
//! Both trees are walked side by side; every difference that hurts is noted with its path, not only
//! the first. A pair of named types is walked once: where it comes up again inside itself, what
//! was found holds there too. Pairs wait in a queue until those before are done, so that the stack
//! grows with a schema's brackets and not with its references.

use std::collections::{HashSet, VecDeque};

use super::model::{Field, Model, Named, NamedKind, Primitive, Shape, Type};

/// Where a reader fails on what a writer wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// From the root: fields by name, `[]` for an array's items, `{}` for a map's values.
    pub path: String,
    pub what: String,
    /// Places in the writer's and in the reader's file.
    pub writer_at: usize,
    pub reader_at: usize,
}

/// What the walk found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// Why not everything that is written can be read; empty where it can.
    pub breaks: Vec<Difference>,
    /// What is read, and may mean something else.
    pub notes: Vec<Difference>,
}

impl Resolution {
    pub fn can_read(&self) -> bool {
        self.breaks.is_empty()
    }
}

/// Resolves `writer`'s data against `reader`.
pub fn resolve(writer: &Model, reader: &Model) -> Resolution {
    let mut walk = Walk {
        writer,
        reader,
        seen: HashSet::new(),
        waiting: VecDeque::new(),
        found: Resolution::default(),
    };
    walk.types(&writer.root, &reader.root, "");
    while let Some(pair) = walk.waiting.pop_front() {
        walk.named(&pair);
    }
    walk.found
}

struct Walk<'a> {
    writer: &'a Model,
    reader: &'a Model,
    seen: HashSet<(usize, usize)>,
    waiting: VecDeque<Pair<'a>>,
    found: Resolution,
}

/// Two named types that are to be walked, and where they first met.
struct Pair<'a> {
    writer: &'a Type,
    reader: &'a Type,
    indices: (usize, usize),
    path: String,
}

impl<'a> Walk<'a> {
    fn types(&mut self, writer: &'a Type, reader: &'a Type, path: &str) {
        match (&writer.shape, &reader.shape) {
            // Each branch may have been written.
            (Shape::Union(branches), _) => {
                for branch in branches {
                    self.branch(branch, reader, path);
                }
            }
            (_, Shape::Union(_)) => self.branch(writer, reader, path),
            _ if !self.matches(writer, reader) => self.fails(writer, reader, path),
            (Shape::Array(writer), Shape::Array(reader)) => {
                self.types(writer, reader, &format!("{path}[]"));
            }
            (Shape::Map(writer), Shape::Map(reader)) => {
                self.types(writer, reader, &format!("{path}{{}}"));
            }
            (Shape::Named(w), Shape::Named(r)) => {
                let indices = (*w, *r);
                if self.seen.insert(indices) {
                    let path = path.to_owned();
                    self.waiting.push_back(Pair {
                        writer,
                        reader,
                        indices,
                        path,
                    });
                }
            }
            _ => self.meaning(writer, reader, path),
        }
    }

    /// One type that is no union against a reader's type that may be one: the first branch that
    /// matches is what it is resolved against.
    fn branch(&mut self, writer: &'a Type, reader: &'a Type, path: &str) {
        let Shape::Union(branches) = &reader.shape else {
            return self.types(writer, reader, path);
        };
        match branches.iter().find(|reader| self.matches(writer, reader)) {
            Some(reader) => self.types(writer, reader, path),
            None => self.fails(writer, reader, path),
        }
    }

    /// Whether two types that are no unions match, as far as that shows without looking inside.
    fn matches(&self, writer: &Type, reader: &Type) -> bool {
        match (&writer.shape, &reader.shape) {
            (Shape::Primitive(w), Shape::Primitive(r)) => w == r || promotes(*w, *r),
            (Shape::Array(_), Shape::Array(_)) | (Shape::Map(_), Shape::Map(_)) => true,
            (Shape::Named(w), Shape::Named(r)) => {
                let (w, r) = (&self.writer.named[*w], &self.reader.named[*r]);
                same_name(w, r)
                    && match (&w.kind, &r.kind) {
                        (NamedKind::Fixed(w), NamedKind::Fixed(r)) => w == r,
                        (w, r) => std::mem::discriminant(w) == std::mem::discriminant(r),
                    }
            }
            _ => false,
        }
    }

    fn named(&mut self, pair: &Pair<'a>) {
        let (from, into) = (self.writer, self.reader);
        let (writer, reader, path) = (pair.writer, pair.reader, pair.path.as_str());
        let (w, r) = pair.indices;
        match (&from.named[w].kind, &into.named[r].kind) {
            (NamedKind::Record(written), NamedKind::Record(wanted)) => {
                self.fields(writer, written, wanted, path);
            }
            (
                NamedKind::Enum {
                    symbols: written, ..
                },
                NamedKind::Enum {
                    symbols: known,
                    default: None,
                },
            ) => {
                let missing: Vec<&str> = written
                    .iter()
                    .filter(|symbol| !known.contains(symbol))
                    .map(String::as_str)
                    .collect();
                if !missing.is_empty() {
                    let what = format!(
                        "the reader's enum {} has no {} and no default",
                        into.named[r].name,
                        missing.join(", ")
                    );
                    self.breaks(writer, reader, path, what);
                }
            }
            _ => self.meaning(writer, reader, path),
        }
    }

    /// Every field that the reader wants is written, or has a default; others are stepped over.
    fn fields(&mut self, writer: &'a Type, written: &'a [Field], wanted: &'a [Field], path: &str) {
        for field in wanted {
            let inner = match path {
                "" => field.name.clone(),
                _ => format!("{path}.{}", field.name),
            };
            let names = std::iter::once(&field.name).chain(&field.aliases);
            let source = names
                .filter_map(|name| written.iter().find(|field| field.name == *name))
                .next();
            match source {
                Some(source) => self.types(&source.schema, &field.schema, &inner),
                None if field.has_default => {}
                None => {
                    let what = "the reader wants it, nobody wrote it, and it has no default";
                    self.found.breaks.push(Difference {
                        path: inner,
                        what: what.to_owned(),
                        writer_at: writer.at,
                        reader_at: field.at,
                    });
                }
            }
        }
    }

    fn fails(&mut self, writer: &Type, reader: &Type, path: &str) {
        let (from, into) = (self.writer.word(writer), self.reader.word(reader));
        let what = if from == into {
            // A type of the same kind and name that differs within: a fixed's size is in its word.
            format!("{from} is written, and the reader's differs")
        } else {
            format!("{from} is written, the reader takes {into}")
        };
        self.breaks(writer, reader, path, what);
    }

    fn breaks(&mut self, writer: &Type, reader: &Type, path: &str, what: String) {
        self.found
            .breaks
            .push(difference(writer, reader, path, what));
    }

    /// Logical types are no part of resolution: bytes that mean another thing are read all the same.
    fn meaning(&mut self, writer: &Type, reader: &Type, path: &str) {
        if writer.logical == reader.logical {
            return;
        }
        let word = |logical: &Option<String>| match logical {
            Some(logical) => logical.clone(),
            None => "no logical type".to_owned(),
        };
        let what = format!(
            "{} is written and {} is read: the same bytes mean something else",
            word(&writer.logical),
            word(&reader.logical)
        );
        self.found
            .notes
            .push(difference(writer, reader, path, what));
    }
}

fn difference(writer: &Type, reader: &Type, path: &str, what: String) -> Difference {
    Difference {
        path: path.to_owned(),
        what,
        writer_at: writer.at,
        reader_at: reader.at,
    }
}

/// int, long, float and bytes are read as what holds all their values.
fn promotes(writer: Primitive, reader: Primitive) -> bool {
    use Primitive::{Bytes, Double, Float, Int, Long, String};
    matches!(
        (writer, reader),
        (Int, Long | Float | Double)
            | (Long, Float | Double)
            | (Float, Double)
            | (String, Bytes)
            | (Bytes, String)
    )
}

/// Names match without their namespaces, or by one of the reader's aliases.
fn same_name(writer: &Named, reader: &Named) -> bool {
    last(&writer.name) == last(&reader.name) || reader.aliases.contains(&writer.name)
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

#[cfg(test)]
mod tests;
