//! Values that are no field of a record: passed over, or written as text.
//!
//! One walk serves both. It nests no deeper than a payload may, and values that take no bytes are
//! counted, for of these a payload could promise any number.

use std::fmt::Write;

use penstock_proto::reason::Reason;

use super::cursor::Cursor;
use super::node::{Node, NodeId, Nodes};
use crate::decode::text::text;
use crate::limits::{AVRO_TEXT_LEN_MAX, AVRO_WIDTHLESS_VALUES_MAX, NESTING_MAX};

/// Where a walk's text goes.
pub trait Out {
    fn raw(&mut self, text: &str) -> Result<(), Reason>;
    /// A JSON string.
    fn string(&mut self, text: &str) -> Result<(), Reason>;
    fn long(&mut self, value: i64) -> Result<(), Reason>;
    fn hex(&mut self, bytes: &[u8]) -> Result<(), Reason>;
    /// `text` is its shortest form; infinities and NaN, which JSON has no numbers for, in quotes.
    fn float(&mut self, value: impl Into<f64> + std::fmt::Debug + Copy) -> Result<(), Reason>;
}

/// Nowhere: the value is passed over.
pub struct Nothing;

impl Out for Nothing {
    #[inline(always)]
    fn raw(&mut self, _: &str) -> Result<(), Reason> {
        Ok(())
    }
    #[inline(always)]
    fn string(&mut self, _: &str) -> Result<(), Reason> {
        Ok(())
    }
    #[inline(always)]
    fn long(&mut self, _: i64) -> Result<(), Reason> {
        Ok(())
    }
    #[inline(always)]
    fn hex(&mut self, _: &[u8]) -> Result<(), Reason> {
        Ok(())
    }
    #[inline(always)]
    fn float(&mut self, _: impl Into<f64> + std::fmt::Debug + Copy) -> Result<(), Reason> {
        Ok(())
    }
}

/// A decoder's scratch, behind the plan's names. It is never grown: text for which there is no
/// room refuses the payload.
pub struct Text<'s> {
    text: &'s mut String,
    len_max: usize,
}

/// No number's text is longer: 24 for a double, 20 for a long.
const NUMBER_LEN_MAX: usize = 32;

impl<'s> Text<'s> {
    pub fn new(text: &'s mut String, nodes: &Nodes) -> Self {
        let len_max = nodes.names.len() + AVRO_TEXT_LEN_MAX;
        debug_assert!(len_max <= text.capacity());
        Self { text, len_max }
    }

    pub fn len(&self) -> usize {
        self.text.len()
    }

    #[inline(always)]
    fn room(&self, len: usize) -> Result<(), Reason> {
        if self.len_max - self.text.len() < len {
            return Err(Reason::TooLong);
        }
        Ok(())
    }
}

impl Out for Text<'_> {
    fn raw(&mut self, text: &str) -> Result<(), Reason> {
        self.room(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    /// RFC 8259, section 7: only quotes, backslashes and control characters must be escaped.
    fn string(&mut self, text: &str) -> Result<(), Reason> {
        self.raw("\"")?;
        let mut start = 0;
        for (at, byte) in text.bytes().enumerate() {
            let escape = match byte {
                b'"' => "\\\"",
                b'\\' => "\\\\",
                b'\n' => "\\n",
                b'\r' => "\\r",
                b'\t' => "\\t",
                0..0x20 => "\\u00",
                _ => continue,
            };
            self.raw(&text[start..at])?;
            self.raw(escape)?;
            if escape == "\\u00" {
                self.hex(&[byte])?;
            }
            start = at + 1;
        }
        self.raw(&text[start..])?;
        self.raw("\"")
    }

    fn long(&mut self, value: i64) -> Result<(), Reason> {
        self.room(NUMBER_LEN_MAX)?;
        // Writing to a String cannot fail.
        let _ = write!(self.text, "{value}");
        Ok(())
    }

    fn hex(&mut self, bytes: &[u8]) -> Result<(), Reason> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.room(2 * bytes.len())?;
        for byte in bytes {
            self.text.push(DIGITS[usize::from(byte >> 4)].into());
            self.text.push(DIGITS[usize::from(byte & 0xf)].into());
        }
        Ok(())
    }

    fn float(&mut self, value: impl Into<f64> + std::fmt::Debug + Copy) -> Result<(), Reason> {
        let wide: f64 = value.into();
        if wide.is_nan() {
            self.raw("\"NaN\"")
        } else if wide.is_infinite() {
            self.raw(if wide > 0.0 {
                "\"Infinity\""
            } else {
                "\"-Infinity\""
            })
        } else {
            self.room(NUMBER_LEN_MAX)?;
            // `Debug` gives large and small numbers an exponent; `Display` up to 300 zeros.
            let _ = write!(self.text, "{value:?}");
            Ok(())
        }
    }
}

/// What is left of the datum, and what a walk over it may still do.
pub struct Walk<'p, 'a> {
    pub nodes: &'p Nodes,
    pub cursor: Cursor<'a>,
    widthless: u32,
}

impl<'p, 'a> Walk<'p, 'a> {
    pub fn new(nodes: &'p Nodes, datum: &'a [u8]) -> Self {
        Self {
            nodes,
            cursor: Cursor::new(datum),
            widthless: 0,
        }
    }

    /// Counts a value that takes no bytes.
    #[inline]
    pub fn spend(&mut self) -> Result<(), Reason> {
        self.widthless += 1;
        if self.widthless > AVRO_WIDTHLESS_VALUES_MAX {
            return Err(Reason::MalformedPayload);
        }
        Ok(())
    }

    #[inline(always)]
    pub fn text(&mut self) -> Result<&'a str, Reason> {
        text(self.cursor.bytes()?)
    }

    /// The branch that a union's value is of; any other node is itself.
    pub fn branch(&mut self, id: NodeId) -> Result<NodeId, Reason> {
        match self.nodes.node(id) {
            Node::Union(branches) => {
                let index = self.cursor.index(branches.count)?;
                Ok(self.nodes.children(branches)[index as usize].node)
            }
            _ => Ok(id),
        }
    }

    /// One value, as JSON. `depth`: how many records, arrays and maps are around it.
    pub fn value(&mut self, id: NodeId, depth: usize, out: &mut impl Out) -> Result<(), Reason> {
        let nodes = self.nodes;
        match nodes.node(id) {
            Node::Null => {
                self.spend()?;
                out.raw("null")
            }
            Node::Boolean => match self.cursor.boolean()? {
                true => out.raw("true"),
                false => out.raw("false"),
            },
            Node::Int => {
                let value = self.cursor.int()?;
                out.long(value.into())
            }
            Node::Long => {
                let value = self.cursor.long()?;
                out.long(value)
            }
            Node::Float => {
                let value = self.cursor.float()?;
                out.float(value)
            }
            Node::Double => {
                let value = self.cursor.double()?;
                out.float(value)
            }
            Node::String => {
                let text = self.text()?;
                out.string(text)
            }
            Node::Bytes => {
                let bytes = self.cursor.bytes()?;
                quoted_hex(bytes, out)
            }
            Node::Fixed(len) => {
                if len == 0 {
                    self.spend()?;
                }
                let bytes = self.cursor.fixed(len as usize)?;
                quoted_hex(bytes, out)
            }
            Node::Enum(symbols) => {
                let index = self.cursor.index(symbols.count)?;
                out.string(nodes.name(nodes.symbol(symbols, index)))
            }
            Node::Union(_) => {
                let branch = self.branch(id)?;
                self.value(branch, depth, out)
            }
            Node::Array(item) => {
                let depth = deeper(depth)?;
                out.raw("[")?;
                let mut is_first = true;
                while let Some(block) = self.cursor.block(nodes.width(item))? {
                    for _ in 0..block.count {
                        comma(&mut is_first, out)?;
                        self.value(item, depth, out)?;
                    }
                    self.cursor.end_block(block)?;
                }
                out.raw("]")
            }
            Node::Map(value) => {
                let depth = deeper(depth)?;
                out.raw("{")?;
                let mut is_first = true;
                while let Some(block) = self.cursor.block(entry_width(nodes, value))? {
                    for _ in 0..block.count {
                        comma(&mut is_first, out)?;
                        let key = self.text()?;
                        out.string(key)?;
                        out.raw(":")?;
                        self.value(value, depth, out)?;
                    }
                    self.cursor.end_block(block)?;
                }
                out.raw("}")
            }
            Node::Record(fields) => {
                let depth = deeper(depth)?;
                if fields.count == 0 {
                    self.spend()?;
                }
                out.raw("{")?;
                let mut is_first = true;
                for field in nodes.children(fields) {
                    comma(&mut is_first, out)?;
                    out.string(nodes.name(field.name))?;
                    out.raw(":")?;
                    self.value(field.node, depth, out)?;
                }
                out.raw("}")
            }
        }
    }
}

/// The fewest bytes of a map's entry: its key takes one.
pub fn entry_width(nodes: &Nodes, value: NodeId) -> u64 {
    nodes.width(value).saturating_add(1)
}

fn deeper(depth: usize) -> Result<usize, Reason> {
    if depth == NESTING_MAX {
        return Err(Reason::TooDeep);
    }
    Ok(depth + 1)
}

fn comma(is_first: &mut bool, out: &mut impl Out) -> Result<(), Reason> {
    if std::mem::replace(is_first, false) {
        return Ok(());
    }
    out.raw(",")
}

fn quoted_hex(bytes: &[u8], out: &mut impl Out) -> Result<(), Reason> {
    out.raw("\"")?;
    out.hex(bytes)?;
    out.raw("\"")
}
