//! A datum to records: the program's steps, once for each record.

use penstock_proto::reason::Reason;

use super::Found;
use super::cursor::Cursor;
use super::node::{NameSpan, Node, NodeId};
use super::plan::{Id, Program, Shape, Step, Text};
use super::value::{self, Walk, entry_width};
use crate::decode::json::{Scratch, severity};
use crate::decode::text::text;
use crate::limits::JSON_ATTRIBUTES_MAX;
use crate::record::{Attributes, AttributesForm, RecordView, Span};

/// Shows every record of a datum to `visit`. What is wrong with a payload is the same whether
/// anybody looks at its records or not: this is the only walk there is.
pub(super) fn for_each(
    (shape, program): (Shape, &Program),
    scratch: &mut Scratch,
    datum: &[u8],
    mut visit: impl FnMut(&RecordView<'_>),
) -> Result<Found, Reason> {
    if program.uses_scratch {
        scratch.unescaped.clear();
        scratch.unescaped.push_str(&program.nodes.names);
    }
    let mut reader = Reader {
        program,
        walk: Walk::new(&program.nodes, datum),
        datum,
        scratch,
        unmapped_fields: 0,
    };
    let mut records = 0_u64;
    match shape {
        Shape::Record => {
            reader.record(&mut visit)?;
            records = 1;
        }
        Shape::Array => {
            while let Some(block) = reader.walk.cursor.block(program.width_min)? {
                for _ in 0..block.count {
                    if program.width_min == 0 {
                        reader.walk.spend()?;
                    }
                    reader.record(&mut visit)?;
                }
                reader.walk.cursor.end_block(block)?;
                records += block.count;
            }
        }
    }
    if !reader.walk.cursor.is_at_end() {
        return Err(Reason::MalformedPayload);
    }
    Ok(Found {
        // Each takes a byte, or is one of the few that take none.
        records: u32::try_from(records).map_err(|_| Reason::MalformedPayload)?,
        unmapped_fields: reader.unmapped_fields,
    })
}

struct Reader<'v, 's> {
    program: &'v Program,
    walk: Walk<'v, 'v>,
    datum: &'v [u8],
    scratch: &'s mut Scratch,
    unmapped_fields: u64,
}

impl<'v> Reader<'v, '_> {
    /// Reads a record and shows it.
    #[inline(always)]
    fn record(&mut self, visit: &mut impl FnMut(&RecordView<'_>)) -> Result<(), Reason> {
        let program = self.program;
        if program.uses_scratch {
            self.scratch.unescaped.truncate(program.nodes.names.len());
            self.scratch.attributes.clear();
        }
        let mut view: RecordView<'v> = RecordView::EMPTY;
        self.steps(&mut view)?;
        if program.uses_scratch {
            let mut view: RecordView<'_> = view;
            view.attributes = Attributes {
                count: self.scratch.attributes.len(),
                form: AttributesForm::Pieces {
                    payload: self.datum,
                    scratch: &self.scratch.unescaped,
                    spans: &self.scratch.attributes,
                },
            };
            visit(&view);
        } else {
            visit(&view);
        }
        Ok(())
    }

    #[inline(always)]
    fn steps(&mut self, view: &mut RecordView<'v>) -> Result<(), Reason> {
        let program = self.program;
        let mut at = 0;
        while let Some(&step) = program.steps.get(at) {
            at += 1;
            match step {
                Step::TimeNanoseconds => view.time_unix_nano = self.walk.cursor.long()? as u64,
                Step::SeverityInt => view.severity_number = self.walk.cursor.int()? as u32,
                Step::Text(field) => {
                    let text = self.walk.text()?;
                    set_text(view, field, text);
                }
                Step::Attributes => view.attributes = read_attributes(&mut self.walk.cursor)?,
                Step::Id(id) => {
                    let bytes = self.walk.cursor.bytes()?;
                    set_id(view, id, bytes);
                }
                Step::Branch(branches) => {
                    let index = self.walk.cursor.index(branches.count)?;
                    at = program.branches[(branches.first + index) as usize] as usize;
                }
                Step::Jump(to) => at = to as usize,
                other => self.rarer_step(other, view)?,
            }
        }
        Ok(())
    }

    /// What our own schemas have no need of.
    #[inline(never)]
    fn rarer_step(&mut self, step: Step, view: &mut RecordView<'v>) -> Result<(), Reason> {
        let program = self.program;
        match step {
            Step::Time { unit, is_int, name } => {
                let value = match is_int {
                    true => i64::from(self.walk.cursor.int()?),
                    false => self.walk.cursor.long()?,
                };
                if unit.nanoseconds() == 1 {
                    view.time_unix_nano = value as u64;
                    return Ok(());
                }
                let time = u64::try_from(value).ok();
                match time.and_then(|time| time.checked_mul(unit.nanoseconds())) {
                    Some(time) => view.time_unix_nano = time,
                    None => {
                        let span = self.written(|out| value::Out::long(out, value))?;
                        self.push_attribute(name, span)?;
                    }
                }
            }
            Step::SeverityLong => view.severity_number = self.walk.cursor.long()? as u32,
            Step::SeverityEnum(numbers) => {
                let index = self.walk.cursor.index(numbers.count)?;
                view.severity_number = program.severities[(numbers.first + index) as usize];
            }
            Step::SeverityText(name) => {
                let word = self.walk.text()?;
                match severity::number_or_word(word) {
                    Some(number) => view.severity_number = number,
                    None => {
                        let span = self.behind(word.len());
                        self.push_attribute(name, span)?;
                    }
                }
            }
            Step::TextEnum(field, symbols) => {
                let index = self.walk.cursor.index(symbols.count)?;
                let symbol = program.nodes.symbol(symbols, index);
                set_text(view, field, program.nodes.name(symbol));
            }
            Step::IdText(id) => {
                let text = self.walk.text()?;
                set_id(view, id, text.as_bytes());
            }
            Step::IdFixed(id, len) => {
                let bytes = self.walk.cursor.fixed(len as usize)?;
                set_id(view, id, bytes);
            }
            Step::Entries(value) => self.entries(value)?,
            Step::Attribute { name, node } => {
                if let Some(span) = self.attribute_text(node)? {
                    self.push_attribute(name, span)?;
                }
            }
            Step::Count(node) => {
                let node = self.walk.branch(node)?;
                if program.nodes.node(node) != Node::Null {
                    self.walk.value(node, 1, &mut value::Nothing)?;
                    self.unmapped_fields += 1;
                }
            }
            _ => unreachable!("{step:?} is taken by `steps`"),
        }
        Ok(())
    }

    /// A map's entries, each an attribute.
    fn entries(&mut self, value: NodeId) -> Result<(), Reason> {
        let width = entry_width(&self.program.nodes, value);
        while let Some(block) = self.walk.cursor.block(width)? {
            for _ in 0..block.count {
                let key = self.walk.text()?;
                let key = self.behind(key.len());
                if let Some(value) = self.attribute_text(value)? {
                    self.push_spans(key, value)?;
                }
            }
            self.walk.cursor.end_block(block)?;
        }
        Ok(())
    }

    /// A value as an attribute's text: strings as they are, what nests as JSON. `None` is null,
    /// which is no attribute.
    fn attribute_text(&mut self, node: NodeId) -> Result<Option<Span>, Reason> {
        let node = self.walk.branch(node)?;
        let nodes = &self.program.nodes;
        let span = match nodes.node(node) {
            Node::Null => return Ok(None),
            Node::String => {
                let text = self.walk.text()?;
                self.behind(text.len())
            }
            Node::Enum(symbols) => {
                let index = self.walk.cursor.index(symbols.count)?;
                name_span(nodes.symbol(symbols, index))
            }
            Node::Bytes => {
                let bytes = self.walk.cursor.bytes()?;
                self.written(|out| value::Out::hex(out, bytes))?
            }
            Node::Fixed(len) => {
                let bytes = self.walk.cursor.fixed(len as usize)?;
                self.written(|out| value::Out::hex(out, bytes))?
            }
            Node::Float | Node::Double => unquoted(self.json(node)?, &self.scratch.unescaped),
            _ => self.json(node)?,
        };
        Ok(Some(span))
    }

    fn json(&mut self, node: NodeId) -> Result<Span, Reason> {
        let mut out = value::Text::new(&mut self.scratch.unescaped, &self.program.nodes);
        let start = out.len();
        self.walk.value(node, 1, &mut out)?;
        Ok(Span::in_scratch(start, out.len()))
    }

    fn written(
        &mut self,
        write: impl FnOnce(&mut value::Text<'_>) -> Result<(), Reason>,
    ) -> Result<Span, Reason> {
        let mut out = value::Text::new(&mut self.scratch.unescaped, &self.program.nodes);
        let start = out.len();
        write(&mut out)?;
        Ok(Span::in_scratch(start, out.len()))
    }

    /// The `len` bytes that were read last.
    fn behind(&self, len: usize) -> Span {
        let end = self.datum.len() - self.walk.cursor.rest.len();
        Span::in_payload(end - len, end)
    }

    fn push_attribute(&mut self, name: NameSpan, value: Span) -> Result<(), Reason> {
        self.push_spans(name_span(name), value)
    }

    fn push_spans(&mut self, key: Span, value: Span) -> Result<(), Reason> {
        if self.scratch.attributes.len() == JSON_ATTRIBUTES_MAX {
            return Err(Reason::TooLong);
        }
        self.scratch.attributes.push([key, value]);
        Ok(())
    }
}

/// The scratch begins with the plan's names.
fn name_span(name: NameSpan) -> Span {
    Span::in_scratch(name.start as usize, name.end as usize)
}

/// Infinities and NaN, which stand in quotes in JSON, without them.
fn unquoted(span: Span, scratch: &str) -> Span {
    span.trimmed(scratch, '"')
}

#[inline(always)]
fn set_text<'v>(view: &mut RecordView<'v>, field: Text, text: &'v str) {
    match field {
        Text::ServiceName => view.service_name = text,
        Text::Body => view.body = text,
        Text::HostName => view.host_name = text,
    }
}

#[inline(always)]
fn set_id<'v>(view: &mut RecordView<'v>, id: Id, bytes: &'v [u8]) {
    match id {
        Id::Trace => view.trace_id = bytes,
        Id::Span => view.span_id = bytes,
    }
}

/// A map from string to string: every entry checked, and the whole kept as it stands.
#[inline(always)]
fn read_attributes<'a>(cursor: &mut Cursor<'a>) -> Result<Attributes<'a>, Reason> {
    let from_first = cursor.rest;
    let mut count = 0;
    while let Some(block) = cursor.block(2)? {
        for _ in 0..block.count {
            text(cursor.bytes()?)?;
            text(cursor.bytes()?)?;
        }
        cursor.end_block(block)?;
        // Each entry takes two bytes of the payload.
        count += block.count as usize;
    }
    Ok(Attributes {
        count,
        form: AttributesForm::Avro(&from_first[..from_first.len() - cursor.rest.len()]),
    })
}

/// The entries of a map that `read_attributes` has accepted.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    cursor: Cursor<'a>,
    left_in_block: u64,
}

impl<'a> Entries<'a> {
    pub fn of(map: &'a [u8]) -> Self {
        Self {
            cursor: Cursor::new(map),
            left_in_block: 0,
        }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a str, &'a str);

    /// Every `ok()` here is of a result that `read_attributes` has seen to be one.
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left_in_block == 0 {
            self.left_in_block = self.cursor.block(2).ok()??.count;
        }
        self.left_in_block -= 1;
        let key = text(self.cursor.bytes().ok()?).ok()?;
        let value = text(self.cursor.bytes().ok()?).ok()?;
        Some((key, value))
    }
}
