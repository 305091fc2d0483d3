//! The grammar of RFC 8259, and where each value stands. Nothing is kept but offsets.
//!
//! A line feed ends a line wherever it stands: between tokens it is not the blank that JSON makes
//! of it, and within strings JSON forbids it. So lines need no search of their own.

use penstock_proto::reason::Reason;

use crate::limits::NESTING_MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text that stands as it is meant.
    String,
    /// Text with at least one escape.
    EscapedString,
    Number,
    Boolean,
    Null,
    /// An object or an array.
    Container,
}

/// A value's place in the payload; of a string what stands between the quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
}

/// Where a walk through an object stands.
pub struct Members {
    first: bool,
}

pub struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(payload: &'a str) -> Self {
        Self {
            bytes: payload.as_bytes(),
            at: 0,
        }
    }

    /// Goes to the first byte of the next line that has more than blanks.
    #[inline(always)]
    pub fn next_line(&mut self) -> bool {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.bytes.get(self.at) {
            self.at += 1;
        }
        self.at < self.bytes.len()
    }

    /// Nothing but blanks may follow a record on its line.
    #[inline(always)]
    pub fn end_line(&mut self) -> Result<(), Reason> {
        self.skip_blanks();
        match self.bytes.get(self.at) {
            None | Some(b'\n') => Ok(()),
            Some(_) => Err(Reason::MalformedPayload),
        }
    }

    /// Passes over an object that is a line.
    #[inline(always)]
    pub fn object(&mut self) -> Result<(), Reason> {
        if self.peek()? != b'{' {
            return Err(Reason::MalformedPayload);
        }
        self.container(0)
    }

    /// Enters the object that stands here.
    #[inline(always)]
    pub fn open_object(&mut self) -> Result<Members, Reason> {
        self.expect(b'{')?;
        Ok(Members { first: true })
    }

    #[inline(always)]
    pub fn is_at_object(&self) -> bool {
        self.bytes.get(self.at) == Some(&b'{')
    }

    /// The next member's key, and the position at its value; `None` behind the object's end.
    #[inline(always)]
    pub fn next_key(&mut self, members: &mut Members) -> Result<Option<Piece>, Reason> {
        self.skip_blanks();
        match self.peek()? {
            b'}' => {
                self.at += 1;
                return Ok(None);
            }
            b',' if !members.first => {
                self.at += 1;
                self.skip_blanks();
            }
            _ if members.first => {}
            _ => return Err(Reason::MalformedPayload),
        }
        members.first = false;
        self.key().map(Some)
    }

    /// The value that stands here, within `depth` open objects and arrays.
    #[inline(always)]
    pub fn value(&mut self, depth: usize) -> Result<Piece, Reason> {
        let start = self.at;
        let kind = match self.peek()? {
            b'"' => return self.string(),
            b'{' | b'[' => {
                self.container(depth)?;
                Kind::Container
            }
            _ => self.scalar()?,
        };
        Ok(Piece {
            kind,
            start,
            end: self.at,
        })
    }

    /// Passes over an object or an array. Iterative: the open brackets are bits, so that neither
    /// the stack nor the time depends on what a stranger nests.
    #[inline(never)]
    fn container(&mut self, depth: usize) -> Result<(), Reason> {
        // Bit 0 is the innermost open bracket: 1 an object, 0 an array.
        let mut objects: u64 = 0;
        let mut open = 0;
        'value: loop {
            match self.peek()? {
                bracket @ (b'{' | b'[') => {
                    if depth + open == NESTING_MAX {
                        return Err(Reason::TooDeep);
                    }
                    open += 1;
                    objects = objects << 1 | u64::from(bracket == b'{');
                    self.at += 1;
                    self.skip_blanks();
                    // '}' and ']' stand 2 above their opening brackets in ASCII.
                    if self.peek()? != bracket + 2 {
                        if bracket == b'{' {
                            self.key()?;
                        }
                        continue 'value;
                    }
                    self.at += 1;
                    open -= 1;
                    objects >>= 1;
                }
                b'"' => {
                    self.string()?;
                }
                _ => {
                    self.scalar()?;
                }
            }
            // A value has ended: so may any number of what holds it.
            loop {
                if open == 0 {
                    return Ok(());
                }
                self.skip_blanks();
                let in_object = objects & 1 == 1;
                match self.peek()? {
                    b',' => {
                        self.at += 1;
                        self.skip_blanks();
                        if in_object {
                            self.key()?;
                        }
                        continue 'value;
                    }
                    b'}' if in_object => {}
                    b']' if !in_object => {}
                    _ => return Err(Reason::MalformedPayload),
                }
                self.at += 1;
                open -= 1;
                objects >>= 1;
            }
        }
    }

    /// A member's key with its colon and the blanks around it.
    #[inline(always)]
    fn key(&mut self) -> Result<Piece, Reason> {
        if self.peek()? != b'"' {
            return Err(Reason::MalformedPayload);
        }
        let key = self.string()?;
        self.skip_blanks();
        self.expect(b':')?;
        self.skip_blanks();
        Ok(key)
    }

    /// A string, from its opening quote.
    #[inline(always)]
    fn string(&mut self) -> Result<Piece, Reason> {
        let start = self.at + 1;
        self.at = end_of_run(self.bytes, start);
        let mut kind = Kind::String;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Ok(Piece {
                        kind,
                        start,
                        end: self.at - 1,
                    });
                }
                b'\\' => {
                    kind = Kind::EscapedString;
                    self.at += 1;
                    self.escape()?;
                }
                // Control characters must be escaped.
                _ => return Err(Reason::MalformedPayload),
            }
            self.at = end_of_run(self.bytes, self.at);
        }
    }

    /// What follows a backslash. Of `\u` escapes those above the basic plane come as a pair of
    /// surrogates; one without the other stands for no character.
    fn escape(&mut self) -> Result<(), Reason> {
        match self.peek()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {
                self.at += 1;
                Ok(())
            }
            b'u' => {
                self.at += 1;
                match self.hex4()? {
                    0xd800..=0xdbff => {
                        self.expect(b'\\')?;
                        self.expect(b'u')?;
                        match self.hex4()? {
                            0xdc00..=0xdfff => Ok(()),
                            _ => Err(Reason::MalformedPayload),
                        }
                    }
                    0xdc00..=0xdfff => Err(Reason::MalformedPayload),
                    _ => Ok(()),
                }
            }
            _ => Err(Reason::MalformedPayload),
        }
    }

    fn hex4(&mut self) -> Result<u32, Reason> {
        let mut value = 0;
        for _ in 0..4 {
            let digit = char::from(self.peek()?)
                .to_digit(16)
                .ok_or(Reason::MalformedPayload)?;
            value = value << 4 | digit;
            self.at += 1;
        }
        Ok(value)
    }

    /// A number or a literal name.
    #[inline(always)]
    fn scalar(&mut self) -> Result<Kind, Reason> {
        match self.peek()? {
            b'-' | b'0'..=b'9' => self.number().map(|()| Kind::Number),
            b't' => self.literal(b"true").map(|()| Kind::Boolean),
            b'f' => self.literal(b"false").map(|()| Kind::Boolean),
            b'n' => self.literal(b"null").map(|()| Kind::Null),
            _ => Err(Reason::MalformedPayload),
        }
    }

    fn literal(&mut self, name: &[u8]) -> Result<(), Reason> {
        for &byte in name {
            self.expect(byte)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn number(&mut self) -> Result<(), Reason> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        // A leading zero stands alone.
        if self.peek()? == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let b'+' | b'-' = self.peek()? {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    #[inline(always)]
    fn digits(&mut self) -> Result<(), Reason> {
        if !self.peek()?.is_ascii_digit() {
            return Err(Reason::MalformedPayload);
        }
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        Ok(())
    }

    #[inline(always)]
    fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\r') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    /// The byte here; where there is none, the payload has ended in the middle of a record.
    #[inline(always)]
    fn peek(&self) -> Result<u8, Reason> {
        self.bytes
            .get(self.at)
            .copied()
            .ok_or(Reason::TruncatedPayload)
    }

    #[inline(always)]
    fn expect(&mut self, byte: u8) -> Result<(), Reason> {
        if self.peek()? != byte {
            return Err(Reason::MalformedPayload);
        }
        self.at += 1;
        Ok(())
    }
}

/// Where the first byte stands, at or after `at`, that a string cannot simply contain: a quote, a
/// backslash or a control character; the end where there is none.
///
/// Eight bytes at a time in one word. `x - 0x01…` borrows into a byte's high bit where the byte
/// was 0 (and `x - 0x20…` where it was below a blank), and `& !x` leaves out the bytes that had it
/// set before. A borrow can also run into the byte above a true hit, but never below: the lowest
/// bit set is right.
#[inline(always)]
fn end_of_run(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES * 0x80;
    const QUOTES: u64 = ONES * b'"' as u64;
    const BACKSLASHES: u64 = ONES * b'\\' as u64;
    const BLANKS: u64 = ONES * b' ' as u64;
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let word = u64::from_le_bytes(*chunk);
        let quotes = word ^ QUOTES;
        let backslashes = word ^ BACKSLASHES;
        let hits = ((quotes.wrapping_sub(ONES) & !quotes)
            | (backslashes.wrapping_sub(ONES) & !backslashes)
            | (word.wrapping_sub(BLANKS) & !word))
            & HIGHS;
        if hits != 0 {
            return at + (hits.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(&byte) = bytes.get(at) {
        if byte < 0x20 || byte == b'"' || byte == b'\\' {
            break;
        }
        at += 1;
    }
    at
}

/// Appends `escaped`, which `string` has accepted, with its escapes undone.
pub fn unescape(escaped: &str, out: &mut String) {
    let mut rest = escaped;
    while let Some((plain, after)) = rest.split_once('\\') {
        out.push_str(plain);
        let (meant, len) = match after.as_bytes()[0] {
            b'b' => ('\u{8}', 1),
            b'f' => ('\u{c}', 1),
            b'n' => ('\n', 1),
            b'r' => ('\r', 1),
            b't' => ('\t', 1),
            b'u' => unicode_escape(after),
            itself => (char::from(itself), 1),
        };
        out.push(meant);
        rest = &after[len..];
    }
    out.push_str(rest);
}

/// The character of `uXXXX` or of `uXXXX\uXXXX`, and how long that is. `escape` has seen that it is
/// one, so nothing is ever replaced here.
fn unicode_escape(escape: &str) -> (char, usize) {
    let unit = |at: usize| u32::from_str_radix(&escape[at..at + 4], 16).unwrap_or(0);
    match unit(1) {
        high @ 0xd800..=0xdbff => {
            let low = unit(7);
            let code = 0x10000 + ((high - 0xd800) << 10) + (low.wrapping_sub(0xdc00) & 0x3ff);
            (
                char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER),
                11,
            )
        }
        code => (
            char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER),
            5,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte at every place of a word, among neighbours that borrows could reach, against a
    /// loop over the bytes.
    #[test]
    fn runs_end_where_a_loop_says() {
        for byte in 0..=u8::MAX {
            for neighbour in [b'a', b' ', b'!', b'#', b']', 0x1f, 0x00, 0x7f, 0x80, 0xff] {
                for len in 0..20 {
                    let mut bytes = vec![neighbour; len];
                    for at in 0..len {
                        bytes[at] = byte;
                        let expected = bytes
                            .iter()
                            .position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\')
                            .unwrap_or(len);
                        assert_eq!(end_of_run(&bytes, 0), expected, "{bytes:x?}");
                        bytes[at] = neighbour;
                    }
                }
            }
        }
    }

    /// RFC 8259, section 7: U+0000 to U+001F must be escaped, and nothing else but `"` and `\`.
    #[test]
    fn control_characters_do_not_stand_in_strings() {
        for code in 0..0x80u8 {
            let character = char::from(code);
            for padding in 0..16 {
                let padding = "x".repeat(padding);
                let text = format!("\"{padding}{character}{padding}\"");
                let verdict = Scanner::new(&text).value(0).map(|piece| piece.kind);
                let expected = match character {
                    '\0'..='\u{1f}' => Err(Reason::MalformedPayload),
                    '"' => Ok(Kind::String),
                    '\\' if padding.is_empty() => Err(Reason::TruncatedPayload),
                    '\\' => Err(Reason::MalformedPayload),
                    _ => Ok(Kind::String),
                };
                assert_eq!(verdict, expected, "{text:?}");
            }
        }
    }
}
