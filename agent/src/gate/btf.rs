//! Where the running kernel keeps what the drop tracepoint reads: field offsets, the numbers of an
//! enum, a tracepoint's arguments, from the kernel's own type information (BTF).
//!
//! rustc emits no relocations for kernel fields (what C calls CO-RE), so the loader looks them up
//! and sets constants in the programs. Only what is needed is read of the format:
//!
//! ```text
//!  header ┬ types: name u32, info u32 (kind, vlen), size or type u32, then by kind ┬ strings
//! ```
//!
//! Format: <https://docs.kernel.org/bpf/btf.html>

/// The kernel's types. Ids count from 1; 0 is void.
pub struct KernelTypes<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Start of each type within `types`, by id − 1.
    starts: Vec<u32>,
}

/// Where a field stands in its structure, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub offset: u32,
    pub size: u32,
}

/// The bytes are not what a kernel of this machine writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed BTF: {0}")]
pub struct Malformed(&'static str);

const HEADER_LEN: usize = 24;
const TYPE_LEN: usize = 12;
const MEMBER_LEN: usize = 12;
const MAGIC: u16 = 0xeb9f;
/// Typedefs and qualifiers in a row, and anonymous structures within each other: no kernel comes
/// near, and a cycle must end.
const DEPTH_MAX: usize = 16;

mod kind {
    pub const INT: u32 = 1;
    pub const PTR: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
    pub const MAX: u32 = ENUM64;
}

/// One type's fixed part, and the bytes that follow it.
#[derive(Clone, Copy)]
struct Type<'a> {
    name: u32,
    kind: u32,
    count: usize,
    /// Members' offsets carry a bit-field's size in their upper byte.
    kind_flag: bool,
    size_or_type: u32,
    rest: &'a [u8],
}

impl<'a> KernelTypes<'a> {
    /// Walks the types once. A kind newer than this code is an error: its length is unknown.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let short = Malformed("shorter than it says");
        let header = bytes.get(..HEADER_LEN).ok_or(short)?;
        if u16::from_ne_bytes([header[0], header[1]]) != MAGIC {
            return Err(Malformed("wrong magic"));
        }
        let word = |index: usize| u32_at(header, index).map(|w| w as usize).ok_or(short);
        let body = bytes.get(word(1)?..).ok_or(short)?;
        let section = |offset: usize, len: usize| body.get(offset..)?.get(..len);
        let types = section(word(2)?, word(3)?).ok_or(short)?;
        let strings = section(word(4)?, word(5)?).ok_or(short)?;
        let mut this = Self {
            types,
            strings,
            starts: Vec::new(),
        };
        let mut start = 0;
        while start < types.len() {
            let len = this.type_at(start).and_then(Type::len).ok_or(short)?;
            this.starts.push(start as u32);
            start += len;
        }
        Ok(this)
    }

    /// A field of a structure by name, looked for in its anonymous members too.
    pub fn field(&self, structure: &str, field: &str) -> Option<Field> {
        let ty = self.named(structure, kind::STRUCT)?;
        self.field_of(ty, field, DEPTH_MAX)
    }

    /// The number of an enum's name.
    pub fn enumerator(&self, enumeration: &str, name: &str) -> Option<u32> {
        let ty = self.named(enumeration, kind::ENUM)?;
        (0..ty.count).find_map(|index| {
            let matches = self.string(u32_at(ty.rest, index * 2)?)? == name.as_bytes();
            matches.then(|| u32_at(ty.rest, index * 2 + 1)).flatten()
        })
    }

    /// How many arguments a tracepoint hands to its programs.
    pub fn tracepoint_arguments(&self, tracepoint: &str) -> Option<usize> {
        // typedef void (*btf_trace_NAME)(void *__data, ARGUMENTS…)
        let typedef = self.named(&format!("btf_trace_{tracepoint}"), kind::TYPEDEF)?;
        let pointer = self.by_id(typedef.size_or_type)?;
        let function = self.by_id(pointer.size_or_type)?;
        if pointer.kind != kind::PTR || function.kind != kind::FUNC_PROTO {
            return None;
        }
        function.count.checked_sub(1)
    }

    fn field_of(&self, ty: Type<'a>, name: &str, depth: usize) -> Option<Field> {
        let depth = depth.checked_sub(1)?;
        (0..ty.count).find_map(|index| {
            let member_name = self.string(u32_at(ty.rest, index * 3)?)?;
            let member = u32_at(ty.rest, index * 3 + 1)?;
            let bits = u32_at(ty.rest, index * 3 + 2)?;
            let (bit_offset, bit_field_len) = if ty.kind_flag {
                (bits & 0x00ff_ffff, bits >> 24)
            } else {
                (bits, 0)
            };
            if member_name == name.as_bytes() && bit_field_len == 0 {
                return Some(Field {
                    offset: bit_offset / 8,
                    size: self.size(member, DEPTH_MAX)?,
                });
            }
            let inner = self.by_id(member)?;
            if !member_name.is_empty() || !matches!(inner.kind, kind::STRUCT | kind::UNION) {
                return None;
            }
            let found = self.field_of(inner, name, depth)?;
            Some(Field {
                offset: bit_offset / 8 + found.offset,
                ..found
            })
        })
    }

    fn size(&self, id: u32, depth: usize) -> Option<u32> {
        let depth = depth.checked_sub(1)?;
        let ty = self.by_id(id)?;
        match ty.kind {
            kind::INT | kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64 => {
                Some(ty.size_or_type)
            }
            kind::PTR => Some(size_of::<usize>() as u32),
            kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                self.size(ty.size_or_type, depth)
            }
            _ => None,
        }
    }

    fn named(&self, name: &str, kind: u32) -> Option<Type<'a>> {
        self.starts
            .iter()
            .filter_map(|&start| self.type_at(start as usize))
            .find(|ty| ty.kind == kind && self.string(ty.name) == Some(name.as_bytes()))
    }

    fn by_id(&self, id: u32) -> Option<Type<'a>> {
        let index = (id as usize).checked_sub(1)?;
        self.type_at(*self.starts.get(index)? as usize)
    }

    fn type_at(&self, start: usize) -> Option<Type<'a>> {
        let bytes = self.types.get(start..)?;
        let info = u32_at(bytes, 1)?;
        Some(Type {
            name: u32_at(bytes, 0)?,
            kind: (info >> 24) & 0x1f,
            count: (info & 0xffff) as usize,
            kind_flag: info >> 31 == 1,
            size_or_type: u32_at(bytes, 2)?,
            rest: &bytes[TYPE_LEN..],
        })
    }

    fn string(&self, offset: u32) -> Option<&'a [u8]> {
        self.strings
            .get(offset as usize..)?
            .split(|&byte| byte == 0)
            .next()
    }
}

impl Type<'_> {
    /// Bytes of the whole type; `None` where they are not all there or the kind is unknown.
    fn len(self) -> Option<usize> {
        let rest = match self.kind {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION => self.count * MEMBER_LEN,
            kind::DATASEC | kind::ENUM64 => self.count * 12,
            kind::ENUM | kind::FUNC_PROTO => self.count * 8,
            1..=kind::MAX => 0,
            _ => return None,
        };
        (rest <= self.rest.len()).then_some(TYPE_LEN + rest)
    }
}

/// The `index`th word: a kernel writes BTF in its own byte order.
fn u32_at(bytes: &[u8], index: usize) -> Option<u32> {
    let word = bytes.get(index * 4..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BTF by hand, after the format's description: `types` are words, `strings` begin with the
    /// empty one.
    fn btf(types: &[u32], strings: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend([1, 0]);
        for word in [
            24,
            0,
            types.len() as u32 * 4,
            types.len() as u32 * 4,
            strings.len() as u32,
        ] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        types
            .iter()
            .for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes.extend(strings.as_bytes());
        bytes
    }

    const STRINGS: &str = "\0u32\0outer\0inner_field\0reason\0FULL\0btf_trace_free\0end\0end_t\0";

    #[rustfmt::skip]
    const TYPES: &[u32] = &[
        1, 1 << 24, 4, 32,                               // 1: u32, 4 bytes
        0, 5 << 24 | 1, 8,  11, 1, 32,                   // 2: anonymous union { ?; inner_field at bit 32 }
        5, 4 << 24 | 2, 16,  0, 2, 64,  50, 4, 0,        // 3: struct outer { union at byte 8; end_t end at 0 }
        54, 8 << 24, 1,                                  // 4: typedef u32 end_t
        23, 6 << 24 | 2, 4,  1, 0,  30, 6,               // 5: enum reason { u32 = 0, FULL = 6 }
        35, 8 << 24, 7,                                  // 6: typedef btf_trace_free -> 7
        0, 2 << 24, 8,                                   // 7: pointer to 8
        0, 13 << 24 | 5, 0,  0, 7, 0, 7, 0, 7, 0, 1, 0, 7, // 8: function of 5
    ];

    #[test]
    fn finds_what_a_hand_written_description_holds() {
        let bytes = btf(TYPES, STRINGS);
        let types = KernelTypes::parse(&bytes).unwrap();
        let inner = Field {
            offset: 12,
            size: 4,
        };
        assert_eq!(types.field("outer", "inner_field"), Some(inner));
        assert_eq!(
            types.field("outer", "end"),
            Some(Field { offset: 0, size: 4 })
        );
        assert_eq!(types.field("outer", "absent"), None);
        assert_eq!(types.enumerator("reason", "FULL"), Some(6));
        assert_eq!(types.enumerator("reason", "EMPTY"), None);
        assert_eq!(types.tracepoint_arguments("free"), Some(4));
        assert_eq!(types.tracepoint_arguments("alloc"), None);
    }

    #[test]
    fn every_cut_is_an_error_and_no_panic() {
        let bytes = btf(TYPES, STRINGS);
        for len in 0..bytes.len() {
            assert!(KernelTypes::parse(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_circle_of_types_ends() {
        // A typedef of itself, and a structure whose anonymous member is itself.
        let types = [54, 8 << 24, 1, 5, 4 << 24 | 2, 8, 50, 1, 0, 0, 2, 0];
        let bytes = btf(&types, STRINGS);
        let types = KernelTypes::parse(&bytes).unwrap();
        assert_eq!(types.field("outer", "end"), None);
        assert_eq!(types.field("outer", "absent"), None);
    }
}
