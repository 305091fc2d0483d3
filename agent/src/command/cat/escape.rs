//! What is printed of strangers' text.

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Escapes {
    /// For eyes: only what would steer a terminal or break the line.
    Text,
    /// Within a JSON string.
    Json,
}

/// Log lines come from strangers: nothing of them may move a cursor, end a line or turn the reading
/// direction. That is C0, DEL and C1, the line and paragraph separators, and the bidirectional marks
/// and overrides.
pub(super) fn push_escaped(text: &str, escapes: Escapes, line: &mut String) {
    for character in text.chars() {
        let steers = character.is_control()
            || matches!(character,
                '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}');
        match (character, escapes) {
            ('"' | '\\', Escapes::Json) => {
                line.push('\\');
                line.push(character);
            }
            ('\n', _) => line.push_str("\\n"),
            ('\r', _) => line.push_str("\\r"),
            ('\t', _) => line.push_str("\\t"),
            // Every one of them is below U+10000: four digits do.
            (_, Escapes::Json) if steers => {
                line.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            (_, Escapes::Text) if steers => {
                line.push_str(&format!("\\u{{{:x}}}", u32::from(character)));
            }
            _ => line.push(character),
        }
    }
}
