//! The pieces that an Avro datum is made of, taken from the front of what is left.

use penstock_proto::reason::Reason;

use crate::decode::varint;

/// What is left of a datum.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    pub rest: &'a [u8],
}

/// A block of an array's items or a map's entries.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Items, at least 1.
    pub count: u64,
    /// How many bytes are left behind the block, where it says.
    rest_len: Option<usize>,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    #[inline(always)]
    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Lengths, counts and indices take one byte or two; times take nine.
    #[inline(always)]
    fn varint(&mut self) -> Result<u64, Reason> {
        match *self.rest {
            [a, ref rest @ ..] if a < 0x80 => {
                self.rest = rest;
                Ok(u64::from(a))
            }
            [a, b, ref rest @ ..] if b < 0x80 => {
                self.rest = rest;
                Ok(u64::from(a & 0x7f) | u64::from(b) << 7)
            }
            _ => self.varint_of_any_length(),
        }
    }

    #[inline(never)]
    fn varint_of_any_length(&mut self) -> Result<u64, Reason> {
        let (value, rest) = varint::of_any_length(self.rest)?;
        self.rest = rest;
        Ok(value)
    }

    /// Zigzag: 0, −1, 1, −2, …
    #[inline(always)]
    pub fn long(&mut self) -> Result<i64, Reason> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The same, with a value of 32 bits.
    #[inline(always)]
    pub fn int(&mut self) -> Result<i32, Reason> {
        i32::try_from(self.long()?).map_err(|_| Reason::MalformedPayload)
    }

    /// Which of `count` branches or symbols.
    #[inline(always)]
    pub fn index(&mut self, count: u32) -> Result<u32, Reason> {
        let index = self.long()?;
        if (0..i64::from(count)).contains(&index) {
            Ok(index as u32)
        } else {
            Err(Reason::MalformedPayload)
        }
    }

    #[inline(always)]
    pub fn boolean(&mut self) -> Result<bool, Reason> {
        match *self.fixed(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(Reason::MalformedPayload),
        }
    }

    #[inline(always)]
    pub fn fixed(&mut self, len: usize) -> Result<&'a [u8], Reason> {
        let (bytes, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(Reason::TruncatedPayload)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// The value of `bytes` and, before it is known to be UTF-8, of `string`.
    #[inline(always)]
    pub fn bytes(&mut self) -> Result<&'a [u8], Reason> {
        let value = self.varint()?;
        if value & 1 == 1 {
            return Err(Reason::MalformedPayload);
        }
        let len = value >> 1;
        if len > self.rest.len() as u64 {
            return Err(Reason::TruncatedPayload);
        }
        self.fixed(len as usize)
    }

    pub fn float(&mut self) -> Result<f32, Reason> {
        let bytes = self.fixed(4)?;
        Ok(f32::from_le_bytes(bytes.try_into().expect("4 bytes")))
    }

    pub fn double(&mut self) -> Result<f64, Reason> {
        let bytes = self.fixed(8)?;
        Ok(f64::from_le_bytes(bytes.try_into().expect("8 bytes")))
    }

    /// The next block of an array or a map, of items that take at least `width_min` bytes each;
    /// `None` at its end. A negative count is followed by the block's length in bytes.
    #[inline(always)]
    pub fn block(&mut self, width_min: u64) -> Result<Option<Block>, Reason> {
        let count = self.long()?;
        if count == 0 {
            return Ok(None);
        }
        let rest_len = if count < 0 {
            let len = u64::try_from(self.long()?).map_err(|_| Reason::MalformedPayload)?;
            let left = (self.rest.len() as u64).checked_sub(len);
            Some(left.ok_or(Reason::TruncatedPayload)? as usize)
        } else {
            None
        };
        // -2^63 has no positive counterpart; `unsigned_abs` is 2^63, which no payload holds.
        let count = count.unsigned_abs();
        if count > i64::MAX as u64 {
            return Err(Reason::MalformedPayload);
        }
        if count.saturating_mul(width_min) > self.rest.len() as u64 {
            return Err(Reason::TruncatedPayload);
        }
        Ok(Some(Block { count, rest_len }))
    }

    /// Behind a block's last item: it must have ended where it said.
    #[inline(always)]
    pub fn end_block(&self, block: Block) -> Result<(), Reason> {
        match block.rest_len {
            Some(len) if len != self.rest.len() => Err(Reason::MalformedPayload),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the specification, "Binary Encoding", and the ends of the range.
    #[test]
    fn longs_of_the_specification() {
        for (value, bytes) in [
            (0, &[0x00][..]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (-2, &[0x03]),
            (2, &[0x04]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (i64::MAX, b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
            (i64::MIN, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ] {
            let mut cursor = Cursor::new(bytes);
            assert_eq!(cursor.long(), Ok(value));
            assert!(cursor.is_at_end());
            for len in 0..bytes.len() {
                let cut = Cursor::new(&bytes[..len]).long();
                assert_eq!(cut, Err(Reason::TruncatedPayload));
            }
        }
        let wide = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02";
        assert_eq!(Cursor::new(wide).long(), Err(Reason::MalformedPayload));
        // 2^31 and -2^31 - 1, which are longs and no ints.
        for bytes in [b"\x80\x80\x80\x80\x10", b"\x81\x80\x80\x80\x10"] {
            assert!(Cursor::new(bytes).long().is_ok());
            assert_eq!(Cursor::new(bytes).int(), Err(Reason::MalformedPayload));
        }
    }

    #[test]
    fn lengths_indices_and_booleans_within_their_range() {
        assert_eq!(Cursor::new(b"\x06foo").bytes(), Ok(&b"foo"[..]));
        assert_eq!(
            Cursor::new(b"\x06fo").bytes(),
            Err(Reason::TruncatedPayload)
        );
        assert_eq!(Cursor::new(&[1]).bytes(), Err(Reason::MalformedPayload));
        assert_eq!(Cursor::new(&[2]).index(2), Ok(1));
        for wrong in [1, 4] {
            let index = Cursor::new(&[wrong]).index(2);
            assert_eq!(index, Err(Reason::MalformedPayload));
        }
        assert_eq!(Cursor::new(&[1]).boolean(), Ok(true));
        assert_eq!(Cursor::new(&[2]).boolean(), Err(Reason::MalformedPayload));
        assert_eq!(Cursor::new(&[]).boolean(), Err(Reason::TruncatedPayload));
    }

    #[test]
    fn blocks_hold_what_they_promise() {
        let block =
            |bytes: &[u8], width| Cursor::new(bytes).block(width).map(|b| b.map(|b| b.count));
        assert_eq!(block(&[0], 1), Ok(None));
        assert_eq!(block(&[4, 9, 9], 1), Ok(Some(2)));
        assert_eq!(block(&[4, 9], 1), Err(Reason::TruncatedPayload));
        // -2 items in 2 bytes, of which two are there, and one.
        assert_eq!(block(&[3, 4, 9, 9], 1), Ok(Some(2)));
        assert_eq!(block(&[3, 4, 9], 1), Err(Reason::TruncatedPayload));
        // A length of -1.
        assert_eq!(block(&[3, 1, 9, 9], 1), Err(Reason::MalformedPayload));
        // 2^62 items of 8 bytes; -2^63 items.
        let huge = b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01";
        assert_eq!(block(huge, 8), Err(Reason::TruncatedPayload));
        let least = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00";
        assert_eq!(block(least, 0), Err(Reason::MalformedPayload));
        // Two bytes were announced, one was read.
        let mut cursor = Cursor::new(&[3, 4, 9, 9]);
        let block = cursor.block(1).unwrap().unwrap();
        cursor.fixed(1).unwrap();
        assert_eq!(cursor.end_block(block), Err(Reason::MalformedPayload));
        cursor.fixed(1).unwrap();
        assert_eq!(cursor.end_block(block), Ok(()));
    }
}
