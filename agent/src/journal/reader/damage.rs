//! Bytes that are no block: how far they go, and whether somebody was told that they are stored.

use super::{JournalReader, PAGE, ReadError};
use crate::journal::format::{
    BLOCK_HEADER_LEN, BlockHeader, Entries, FormatFault, segment_file_name,
};

impl JournalReader {
    pub(super) fn first_fault(&self, header: &BlockHeader) -> Option<FormatFault> {
        let start = (header.position - self.window_start) as usize;
        Entries::new(&self.buffer.bytes()[start..], header, true).find_map(Result::err)
    }

    /// Moves past bytes that are no block; `Ok` is the error to report.
    pub(super) fn step_over(
        &mut self,
        end: u64,
        fault: FormatFault,
    ) -> Result<ReadError, ReadError> {
        let open = self.open.as_ref().expect("a segment is open");
        let (index, from, number) = (open.index, self.position, open.key.number);
        if let Some(next) = self.listing.segments.get(index + 1)
            && next.header.predecessor > number
        {
            // A segment between this one and the next listed one: this one's end is not known.
            return Ok(ReadError::Missing {
                file: self.folder.join(segment_file_name(next.header.predecessor)),
                position: from,
                next: Some(next.header.base),
            });
        }
        let to = self.find_block(from + PAGE, end, |_| true)?.unwrap_or(end);
        self.position = to;
        Ok(ReadError::Damaged {
            path: self.listing.segments[index].path.clone(),
            from,
            to,
            fault,
        })
    }

    /// Whether a block at or after `from` knew that everything up to `from` was durable.
    pub(super) fn known_durable(
        &mut self,
        from: u64,
        end: u64,
        scan: bool,
    ) -> Result<bool, ReadError> {
        let window_end = self.window_start + self.window_len as u64;
        let end = if scan { end } else { end.min(window_end) };
        let found = self.find_block(from, end, |header| header.durable >= from)?;
        Ok(found.is_some())
    }

    /// The position of the first page from `from` on that begins a wanted block of this segment.
    fn find_block(
        &mut self,
        from: u64,
        end: u64,
        wanted: impl Fn(&BlockHeader) -> bool,
    ) -> Result<Option<u64>, ReadError> {
        let key = self.open.as_ref().expect("a segment is open").key;
        let mut at = from;
        while at < end {
            let bytes = match self.fill(at, BLOCK_HEADER_LEN, end) {
                Ok(bytes) => bytes,
                Err(unread) => return Err(unread.into_error(self)),
            };
            if bytes.is_empty() {
                break;
            }
            match BlockHeader::read(bytes, key, at) {
                Ok(header) if header.end_position() <= end && wanted(&header) => {
                    return Ok(Some(at));
                }
                _ => at += PAGE,
            }
        }
        Ok(None)
    }
}
