//! Which type may become which under one number.

use prost_types::field_descriptor_proto::Type;

use crate::schema::pair::Hurts;

pub enum Change {
    None,
    Wire(Hurts, &'static str),
}

/// Types of one family have one form on the wire; the words say what else there is to know.
pub fn type_change(old: Type, new: Type) -> Change {
    use Type::{
        Bool, Bytes, Enum, Fixed32, Fixed64, Int32, Int64, Message, Sfixed32, Sfixed64, Sint32,
        Sint64, String, Uint32, Uint64,
    };
    const TRUNCATED: &str =
        "the same on the wire; a value that does not fit is cut or changes sign";
    if old == new {
        return Change::None;
    }
    let both = |a: &[Type]| a.contains(&old) && a.contains(&new);
    if both(&[Int32, Int64, Uint32, Uint64, Bool]) || both(&[Int32, Int64, Uint32, Uint64, Enum]) {
        return Change::Wire(Hurts::Note, TRUNCATED);
    }
    if both(&[Sint32, Sint64]) || both(&[Fixed32, Sfixed32]) || both(&[Fixed64, Sfixed64]) {
        return Change::Wire(Hurts::Note, TRUNCATED);
    }
    let zigzag = |a: Type| matches!(a, Sint32 | Sint64);
    let varint = |a: Type| matches!(a, Int32 | Int64 | Uint32 | Uint64 | Bool | Enum);
    match (old, new) {
        (String, Bytes) => Change::Wire(
            Hurts::Note,
            "the same on the wire; old readers refuse what is not UTF-8",
        ),
        (Bytes, String) => Change::Wire(
            Hurts::Note,
            "the same on the wire; old data that is not UTF-8 is refused",
        ),
        (Bytes, Message) | (Message, Bytes) => Change::Wire(
            Hurts::Note,
            "the same on the wire only where the bytes are that message, encoded",
        ),
        _ if zigzag(old) && varint(new) || varint(old) && zigzag(new) => Change::Wire(
            Hurts::Both,
            "both are varints, and a sint's numbers are zigzag: every value but 0 changes",
        ),
        _ => Change::Wire(Hurts::Both, "the wire form is another"),
    }
}

/// The word that stands in a .proto file.
pub fn type_word(kind: Type) -> &'static str {
    match kind {
        Type::Double => "double",
        Type::Float => "float",
        Type::Int64 => "int64",
        Type::Uint64 => "uint64",
        Type::Int32 => "int32",
        Type::Fixed64 => "fixed64",
        Type::Fixed32 => "fixed32",
        Type::Bool => "bool",
        Type::String => "string",
        Type::Group => "group",
        Type::Message => "a message",
        Type::Bytes => "bytes",
        Type::Uint32 => "uint32",
        Type::Enum => "an enum",
        Type::Sfixed32 => "sfixed32",
        Type::Sfixed64 => "sfixed64",
        Type::Sint32 => "sint32",
        Type::Sint64 => "sint64",
    }
}
