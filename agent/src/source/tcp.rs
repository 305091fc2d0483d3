//! A connection's bytes become frames: in place where a frame lies whole in its receive buffer,
//! through the connection's carry where a buffer's end cuts it.

use penstock_proto::reason::Reason;

use agent_common::frame::{FRAME_HEADER_LEN, FrameHeader};

use crate::frame::{Frame, Split, split};

/// Where in the stream a connection stands.
///
/// Invariant: `Carrying` holds fewer than `needed` bytes between two calls of [`Reader::step`].
#[derive(Debug, Default)]
pub enum Stream {
    /// At a frame's first byte.
    #[default]
    Between,
    /// A frame's beginning is in `carry`.
    Carrying { needed: usize },
    /// In the middle of a frame that was refused by its header.
    Skipping { left: u64 },
}

/// The bytes of a frame that a buffer's end has cut. Kept between uses up to
/// [`CARRY_KEPT_LEN`], so that a connection with ordinary frames allocates once.
#[derive(Debug, Default)]
pub struct Carry {
    bytes: Vec<u8>,
}

/// Capacity that an idle carry keeps: ordinary frames (50 records) are a fifth of it.
const CARRY_KEPT_LEN: usize = 64 << 10;

impl Carry {
    /// Bytes of memory held, for the shard's bound.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    fn clear(&mut self) {
        if self.bytes.capacity() > CARRY_KEPT_LEN {
            self.bytes = Vec::new();
        } else {
            self.bytes.clear();
        }
    }
}

/// What the next bytes gave.
#[derive(Debug)]
pub enum Step<'a> {
    /// A whole frame.
    Frame(Frame<'a>),
    /// A frame refused by its header; the stream goes on behind it.
    Refused { header: FrameHeader, reason: Reason },
    /// The input is used up.
    Done,
    /// No frame begins here, and nobody knows where the next one does.
    Lost(Reason),
}

/// A connection's reading state.
#[derive(Debug, Default)]
pub struct Reader {
    stream: Stream,
    carry: Carry,
    /// The carry holds a frame that the last step lent out.
    lent: bool,
}

impl Reader {
    /// Takes the next frame from `input[*at..]` and moves `at` behind what was used.
    #[inline]
    pub fn step<'a>(
        &'a mut self,
        input: &'a [u8],
        at: &mut usize,
        payload_len_max: u32,
    ) -> Step<'a> {
        if std::mem::take(&mut self.lent) {
            self.carry.clear();
        }
        loop {
            let rest = &input[*at..];
            match self.stream {
                Stream::Skipping { left } => {
                    let skipped = left.min(rest.len() as u64);
                    *at += skipped as usize;
                    if skipped < left {
                        self.stream = Stream::Skipping {
                            left: left - skipped,
                        };
                        return Step::Done;
                    }
                    self.stream = Stream::Between;
                }
                Stream::Between => {
                    if rest.is_empty() {
                        return Step::Done;
                    }
                    match split(rest, payload_len_max) {
                        Split::Frame(frame) => {
                            *at += frame.bytes.len();
                            return Step::Frame(frame);
                        }
                        Split::Partial { needed } => {
                            self.carry.bytes.extend_from_slice(rest);
                            *at = input.len();
                            self.stream = Stream::Carrying { needed };
                            return Step::Done;
                        }
                        Split::Refused { header, reason } => {
                            *at += FRAME_HEADER_LEN;
                            self.stream = Stream::Skipping {
                                left: header.payload_len.into(),
                            };
                            return Step::Refused { header, reason };
                        }
                        Split::Lost(reason) => return Step::Lost(reason),
                    }
                }
                Stream::Carrying { needed } => {
                    let missing = needed - self.carry.bytes.len();
                    let taken = missing.min(rest.len());
                    self.carry.bytes.reserve_exact(missing);
                    self.carry.bytes.extend_from_slice(&rest[..taken]);
                    *at += taken;
                    match split(&self.carry.bytes, payload_len_max) {
                        Split::Partial { needed } => {
                            self.stream = Stream::Carrying { needed };
                            if taken < missing {
                                return Step::Done;
                            }
                        }
                        Split::Refused { header, reason } => {
                            self.stream = Stream::Skipping {
                                left: header.payload_len.into(),
                            };
                            self.carry.clear();
                            return Step::Refused { header, reason };
                        }
                        Split::Lost(reason) => return Step::Lost(reason),
                        Split::Frame(_) => break,
                    }
                }
            }
        }
        self.stream = Stream::Between;
        self.lent = true;
        // Split once more: a view that outlives the loop cannot be lent from inside it.
        match split(&self.carry.bytes, payload_len_max) {
            Split::Frame(frame) => Step::Frame(frame),
            other => unreachable!("the carry held a whole frame: {other:?}"),
        }
    }

    /// Whether the stream may end here: at a frame's end.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.stream, Stream::Between)
    }

    /// Whether the frame that the stream is in the middle of was refused, and counted, already.
    pub fn is_skipping(&self) -> bool {
        matches!(self.stream, Stream::Skipping { .. })
    }

    /// Bytes of memory held for cut frames.
    pub fn carry_capacity(&self) -> usize {
        self.carry.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_common::frame::FLAG_ACKNOWLEDGE;
    use penstock_proto::wire::{seal, write_frame};

    const MAX: u32 = 1 << 20;

    fn header(sequence: u64) -> FrameHeader {
        FrameHeader {
            encoding: 3,
            flags: FLAG_ACKNOWLEDGE,
            priority: 2,
            payload_len: 0,
            records: 1,
            producer: 1,
            sequence,
            payload_crc: 0,
        }
    }

    /// Feeds `stream` in the given pieces and lists what came out.
    fn read(pieces: &[&[u8]]) -> Vec<String> {
        let mut reader = Reader::default();
        let mut out = Vec::new();
        for piece in pieces {
            let mut at = 0;
            loop {
                match reader.step(piece, &mut at, MAX) {
                    Step::Frame(frame) => {
                        let text = String::from_utf8_lossy(frame.payload());
                        out.push(format!("{} {text}", frame.header.sequence));
                    }
                    Step::Refused { header, reason } => {
                        out.push(format!("{} {}", header.sequence, reason.label()));
                    }
                    Step::Lost(reason) => {
                        out.push(reason.label().to_owned());
                        return out;
                    }
                    Step::Done => break,
                }
            }
            assert_eq!(at, piece.len(), "the whole piece is used");
        }
        out
    }

    fn stream() -> (Vec<u8>, Vec<String>) {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, header(1), b"one");
        let refused = FrameHeader {
            priority: 9,
            payload_len: 5,
            ..header(2)
        };
        bytes.extend_from_slice(&seal(&refused));
        bytes.extend_from_slice(b"XXXXX");
        write_frame(&mut bytes, header(3), b"three");
        (
            bytes,
            vec!["1 one".into(), "2 bad_priority".into(), "3 three".into()],
        )
    }

    #[test]
    fn any_two_cuts_give_the_same_frames() {
        let (bytes, expected) = stream();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(read(&pieces), expected, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn byte_by_byte() {
        let (bytes, expected) = stream();
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(&pieces), expected);
    }

    #[test]
    fn what_follows_a_lost_frame_is_not_looked_at() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, header(1), b"one");
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
        write_frame(&mut bytes, header(2), b"two");
        assert_eq!(read(&[&bytes]), ["1 one", "bad_magic"]);
    }

    #[test]
    fn a_large_carry_is_not_kept() {
        let mut reader = Reader::default();
        let mut bytes = Vec::new();
        write_frame(&mut bytes, header(1), &vec![b'x'; 500_000]);
        let mut at = 0;
        assert!(matches!(
            reader.step(&bytes[..100], &mut at, MAX),
            Step::Done
        ));
        at = 100;
        assert!(matches!(reader.step(&bytes, &mut at, MAX), Step::Frame(_)));
        assert!(reader.carry_capacity() >= 500_000);
        assert!(matches!(reader.step(&bytes, &mut at, MAX), Step::Done));
        assert_eq!(reader.carry_capacity(), 0);
    }
}
