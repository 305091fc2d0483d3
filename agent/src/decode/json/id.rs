//! Trace and span ids: hexadecimal in JSON (OTLP's rule), bytes in a record.

use super::scan::Kind;

/// An id of `N` bytes, or the empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Id<N> {
    /// Exactly `N` bytes in digits of either case, or none at all; and only from a string, so that
    /// a number whose digits happen to be as many is not taken for an id.
    pub fn from_hex(hex: &str, kind: Kind) -> Option<Self> {
        let is_string = matches!(kind, Kind::String | Kind::EscapedString);
        if !is_string || !(hex.is_empty() || hex.len() == 2 * N) {
            return None;
        }
        let mut bytes = [0; N];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self {
            bytes,
            len: hex.len() / 2,
        })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        b'A'..=b'F' => Some(character - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_all_of_its_digits_or_none() {
        // The example of W3C Trace Context, section 3.2.
        let trace: Id<16> = Id::from_hex("4bf92f3577b34da6a3ce929d0e0e4736", Kind::String).unwrap();
        assert_eq!(
            trace.bytes(),
            [
                0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e,
                0x47, 0x36
            ]
        );
        let span: Id<8> = Id::from_hex("00F067AA0ba902b7", Kind::EscapedString).unwrap();
        assert_eq!(span.bytes(), [0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
        assert_eq!(Id::<8>::from_hex("", Kind::String).unwrap().bytes(), b"");
        for wrong in [
            "0",
            "00f067aa0ba902b",
            "00f067aa0ba902b71",
            "00f067aa0ba902bg",
            "00f067aa0ba902 7",
            "00f067aa0ba90é",
        ] {
            assert_eq!(Id::<8>::from_hex(wrong, Kind::String), None, "{wrong}");
        }
        assert_eq!(Id::<8>::from_hex("1234567812345678", Kind::Number), None);
    }
}
