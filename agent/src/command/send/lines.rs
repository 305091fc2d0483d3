//! Bytes become lines; a line's memory is bounded.

/// The longest line that is looked at. A payload is at most as long, and a record longer than
/// its line.
const LINE_LEN_MAX: usize = 1 << 20;

/// A line without its newline.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    Text(&'a [u8]),
    /// Longer than any frame; its bytes were not kept.
    TooLong,
}

/// Cuts chunks into lines; keeps the beginning of a line that a chunk's end cuts.
#[derive(Debug, Default)]
pub struct Splitter {
    begun: Vec<u8>,
    too_long: bool,
}

impl Splitter {
    /// Calls `each` for every line that ends in this chunk.
    pub fn feed<E>(
        &mut self,
        mut chunk: &[u8],
        mut each: impl FnMut(Line<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(at) = memchr::memchr(b'\n', chunk) {
            let (line, rest) = (&chunk[..at], &chunk[at + 1..]);
            chunk = rest;
            if self.begun.is_empty() && !self.too_long && line.len() <= LINE_LEN_MAX {
                each(Line::Text(line))?;
            } else {
                self.begin(line);
                self.end(&mut each)?;
            }
        }
        self.begin(chunk);
        Ok(())
    }

    /// Calls `each` for a last line that no newline ended.
    pub fn finish<E>(&mut self, each: impl FnOnce(Line<'_>) -> Result<(), E>) -> Result<(), E> {
        if self.begun.is_empty() && !self.too_long {
            return Ok(());
        }
        self.end(each)
    }

    fn begin(&mut self, bytes: &[u8]) {
        if self.begun.len() + bytes.len() > LINE_LEN_MAX {
            self.too_long = true;
        }
        if self.too_long {
            self.begun.clear();
        } else {
            self.begun.extend_from_slice(bytes);
        }
    }

    fn end<E>(&mut self, each: impl FnOnce(Line<'_>) -> Result<(), E>) -> Result<(), E> {
        let line = match std::mem::take(&mut self.too_long) {
            true => Line::TooLong,
            false => Line::Text(&self.begun),
        };
        let outcome = each(line);
        self.begun.clear();
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
        let mut lines = Vec::new();
        let mut each = |line: Line<'_>| {
            lines.push(match line {
                Line::Text(text) => Some(text.to_vec()),
                Line::TooLong => None,
            });
            Ok::<(), ()>(())
        };
        let mut splitter = Splitter::default();
        for chunk in chunks {
            splitter.feed(chunk, &mut each).unwrap();
        }
        splitter.finish(&mut each).unwrap();
        lines
    }

    #[test]
    fn any_cut_gives_the_same_lines() {
        let text = b"one\n\ntwo\r\nlast";
        let expected = ["one", "", "two\r", "last"].map(|l| Some(l.as_bytes().to_vec()));
        for at in 0..=text.len() {
            assert_eq!(split(&[&text[..at], &text[at..]]), expected, "cut at {at}");
        }
        assert_eq!(split(&[b""]), []);
        assert_eq!(split(&[b"\n"]), [Some(vec![])]);
    }

    #[test]
    fn a_line_too_long_is_one_line_and_not_kept() {
        let long = vec![b'x'; LINE_LEN_MAX];
        let most = split(&[&long, b"\nnext\n"]);
        assert_eq!(most, [Some(long.clone()), Some(b"next".to_vec())]);
        let more = split(&[&long, b"x", &long, b"\nnext\n"]);
        assert_eq!(more, [None, Some(b"next".to_vec())]);
        assert_eq!(split(&[&long, b"x"]), [None]);
    }
}
