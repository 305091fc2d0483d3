//! The heart: at the moment an acknowledgement leaves, its frame stands in the disk's durable
//! image, at a place that a recovery would find. Nothing here shares code with the writer: the
//! image is read with `journal::format` alone.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use penstock::journal::format::{
    BlockHeader, Entries, SEGMENT_HEADER_LEN, SegmentHeader, segment_file_name, segment_number,
};
use penstock_proto::reason::Reason;
use penstock_proto::wire::{ACK_LEN, Ack, AckStatus};

use super::book::{Book, FrameNo};
use super::disk::{Disk, DiskImage};
use super::frame::Fate;
use super::kernel::{Port, Struck};
use super::network::Conn;
use super::setup::TCP;

/// One segment, read as far as its bytes are whole.
struct Walk {
    header: SegmentHeader,
    /// The position behind the last whole block.
    end: u64,
    /// Frames found, with the position of their block.
    found: Vec<(u64, FrameNo)>,
}

/// What stands durably in the journal, block after block without a gap.
#[derive(Default)]
pub struct DurableIndex {
    walks: BTreeMap<u64, Walk>,
    /// Where each frame stands: segment and block position, for each time it was stored.
    places: BTreeMap<FrameNo, Vec<(u64, u64)>>,
    /// Frames of segments that were removed after every sink had committed them, with the segment:
    /// a crash may bring it back.
    delivered: BTreeMap<FrameNo, Vec<u64>>,
    /// Everything before it is delivered, or was durable at the start.
    floor: u64,
}

impl DurableIndex {
    /// Reads on where the last look ended.
    pub fn advance(&mut self, disk: &Disk, book: &Book) {
        let numbers: Vec<u64> = disk.durable_segments().collect();
        for number in numbers {
            let bytes = disk.durable_bytes(number).expect("its name is durable");
            self.read_segment(number, bytes, book);
        }
    }

    /// An index of what a crash or an exit left.
    pub fn of_image(image: &DiskImage, book: &Book) -> Self {
        let mut index = Self::default();
        for (name, bytes) in image {
            let number = segment_number(name).unwrap_or_else(|| panic!("{name} is no segment"));
            index.read_segment(number, bytes, book);
        }
        index
    }

    fn read_segment(&mut self, number: u64, bytes: &[u8], book: &Book) {
        let walk = match self.walks.entry(number) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let Ok(header) = SegmentHeader::read(bytes) else {
                    return;
                };
                assert_eq!(header.number, number, "a segment under another's name");
                place.insert(Walk {
                    end: header.base,
                    header,
                    found: Vec::new(),
                })
            }
        };
        loop {
            let offset = SEGMENT_HEADER_LEN as u64 + (walk.end - walk.header.base);
            let Some(block) = bytes.get(offset as usize..) else {
                return;
            };
            let Ok(header) = BlockHeader::read(block, walk.header.key(), walk.end) else {
                return;
            };
            let Some(frames) = frames_of_block(block, &header, book) else {
                return;
            };
            for &frame in &frames {
                walk.found.push((walk.end, frame));
                self.places
                    .entry(frame)
                    .or_default()
                    .push((number, walk.end));
            }
            walk.end = header.end_position();
        }
    }

    /// A segment is removed on purpose. Returns its frames: what was acknowledged of them must be
    /// stored elsewhere, or every sink has committed it.
    pub fn remove(&mut self, number: u64, committed: u64) -> Vec<FrameNo> {
        let Some(walk) = self.walks.remove(&number) else {
            return Vec::new();
        };
        let mut removed = Vec::with_capacity(walk.found.len());
        let later = self.walks.range(number..);
        let end = later
            .map(|(_, later)| later.header.base)
            .fold(walk.end, u64::min);
        self.floor = self.floor.max(end.min(committed));
        // A crash may have brought it back after an earlier removal.
        for numbers in self.delivered.values_mut() {
            numbers.retain(|&delivered| delivered != number);
        }
        for (position, frame) in walk.found {
            let places = self.places.get_mut(&frame).expect("it was found");
            let at = places.iter().position(|&place| place == (number, position));
            places.swap_remove(at.expect("it was found there"));
            if position < end.min(committed) {
                self.delivered.entry(frame).or_default().push(number);
            }
            removed.push(frame);
        }
        removed
    }

    /// Takes over what an earlier life's index had delivered; `position` is where this life starts.
    pub fn inherit(&mut self, earlier: &Self, position: u64) {
        self.delivered = earlier.delivered.clone();
        self.floor = position;
    }

    /// Everything before it is durable, without a gap.
    pub fn durable_position(&self) -> u64 {
        let last = self
            .chain()
            .last()
            .map(|&(number, _)| self.walks[&number].end);
        last.unwrap_or(0).max(self.floor)
    }

    /// The position behind the last whole block of a segment.
    pub fn segment_end(&self, number: u64) -> Option<u64> {
        self.walks.get(&number).map(|walk| walk.end)
    }

    /// The segments that a recovery keeps, oldest first, each with the position where it ends for
    /// its successor. It starts from the newest and follows the predecessors back (what lies
    /// between in number was given up), and then goes forth as far as each segment is whole.
    pub fn chain(&self) -> Vec<(u64, u64)> {
        let mut numbers = Vec::new();
        let mut next = self.walks.keys().next_back().copied();
        while let Some(number) = next {
            numbers.push(number);
            let predecessor = self.walks[&number].header.predecessor;
            assert!(
                predecessor < number,
                "segment {number} follows {predecessor}"
            );
            // A predecessor that is gone was delivered, or held nothing and recovery removed it: then
            // the one before it ends where this one begins. If it held something after all, the
            // gap that it leaves ends the chain below.
            let before = self.walks.range(..=predecessor).next_back();
            next = before.map(|(number, _)| *number);
        }
        numbers.reverse();
        let mut chain = Vec::with_capacity(numbers.len());
        for (at, &number) in numbers.iter().enumerate() {
            let end = numbers
                .get(at + 1)
                .map_or(u64::MAX, |next| self.walks[next].header.base);
            chain.push((number, end));
            if self.walks[&number].end < end {
                // Not whole: nothing behind it can be called durable.
                break;
            }
        }
        chain
    }

    /// How often a frame is stored where a recovery finds it.
    pub fn stored(&self, frame: FrameNo) -> u32 {
        let chain = self.chain();
        self.stored_in(&chain, frame)
    }

    pub fn stored_in(&self, chain: &[(u64, u64)], frame: FrameNo) -> u32 {
        self.stored_before(chain, frame, u64::MAX)
    }

    /// The same, of what stands before a position.
    pub fn stored_before(&self, chain: &[(u64, u64)], frame: FrameNo, limit: u64) -> u32 {
        let places = self.places.get(&frame).map_or(&[][..], Vec::as_slice);
        let here = places
            .iter()
            .filter(|(_, position)| *position < limit)
            .filter(|(segment, position)| {
                chain
                    .iter()
                    .any(|(number, end)| number == segment && position < end)
            })
            .count() as u32;
        // A segment that a crash has brought back is found again, not delivered twice.
        let delivered = self.delivered.get(&frame).map_or(&[][..], Vec::as_slice);
        let gone = delivered
            .iter()
            .filter(|number| !self.walks.contains_key(number));
        here + gone.count() as u32
    }

    /// All frames where a recovery finds them, in the order in which they stand.
    pub fn stored_order(&self) -> Vec<FrameNo> {
        let chain = self.chain();
        let segments = chain
            .iter()
            .map(|(number, end)| (&self.walks[number], *end));
        segments
            .flat_map(|(walk, end)| walk.found.iter().filter(move |found| found.0 < end))
            .map(|&(_, frame)| frame)
            .collect()
    }

    /// Records in the journal before a segment.
    pub fn records_before(&self, number: u64) -> Option<u64> {
        self.walks
            .get(&number)
            .map(|walk| walk.header.records_before)
    }

    /// The last block that a recovery keeps: its file, and where it begins there.
    pub fn last_block(&self) -> Option<(String, usize)> {
        let chain = self.chain();
        let walks = chain.iter().rev().map(|(number, _)| &self.walks[number]);
        let (number, base, position) = walks
            .filter_map(|walk| {
                let (position, _) = walk.found.last()?;
                Some((walk.header.number, walk.header.base, *position))
            })
            .next()?;
        let offset = SEGMENT_HEADER_LEN as u64 + (position - base);
        Some((segment_file_name(number), offset as usize))
    }

    /// Records stored where a recovery finds them, delivered ones included.
    pub fn stored_records(&self, book: &Book) -> u64 {
        let chain = self.chain();
        book.lines()
            .iter()
            .enumerate()
            .map(|(number, line)| {
                u64::from(self.stored_in(&chain, number)) * u64::from(line.frame.records)
            })
            .sum()
    }
}

/// After the end of a life: nothing acknowledged is missing from the journals, nothing is stored more
/// often than it arrived.
pub fn check_indices<'a>(indices: impl IntoIterator<Item = &'a DurableIndex>, book: &Book) {
    let journals: Vec<_> = indices
        .into_iter()
        .map(|index| (index, index.chain()))
        .collect();
    for (number, line) in book.lines().iter().enumerate() {
        let each = journals.iter();
        let stored: u32 = each
            .map(|(index, chain)| index.stored_in(chain, number))
            .sum();
        assert!(
            stored > 0 || !line.acknowledged,
            "frame {:?} was acknowledged and is lost",
            line.frame.key
        );
        let deduplicated = line.listener == TCP && line.frame.key.0 != 0;
        assert!(
            stored <= 1 || !deduplicated,
            "frame {:?} arrived {} times and is stored {stored} times",
            line.frame.key,
            line.arrived
        );
        assert!(
            stored <= line.arrived,
            "frame {:?} arrived {} times and is stored {stored} times",
            line.frame.key,
            line.arrived
        );
    }
}

pub fn check_book(ports: &[Port], book: &Book) {
    check_indices(ports.iter().map(|port| &port.index), book);
}

/// The frames of a block, or `None` where it is not whole. An intact entry that nobody sent, or
/// with other bytes than were sent, is the agent's bug.
fn frames_of_block(block: &[u8], header: &BlockHeader, book: &Book) -> Option<Vec<FrameNo>> {
    if block.len() < header.len as usize {
        return None;
    }
    let mut frames = Vec::with_capacity(header.entries as usize);
    let mut records = 0;
    for entry in Entries::new(block, header, true) {
        let entry = entry.ok()?;
        let key = (entry.header.producer, entry.header.sequence);
        let number = book
            .good(key)
            .unwrap_or_else(|| panic!("frame {key:?} is stored and was never sent as a good one"));
        let line = book.line(number);
        assert_eq!(
            entry.payload,
            line.frame.payload(),
            "frame {key:?} is stored with other bytes than it was sent with"
        );
        assert_eq!(
            (entry.header.encoding, entry.header.records),
            (line.frame.encoding, line.frame.records),
            "frame {key:?} is stored with another header than it was sent with"
        );
        assert_eq!(
            entry.envelope.listener, line.listener,
            "frame {key:?} is stored under another listener"
        );
        records += entry.header.records;
        frames.push(number);
    }
    assert_eq!(
        header.records, records,
        "a block's header counts its records"
    );
    Some(frames)
}

/// Looks at the acknowledgements that a worker has begun to send on a connection since the last
/// look. Frames that they settle are taken off `conn.waiting`.
pub fn check_answers(
    conn: &mut Conn,
    book: &mut Book,
    stored: &impl Fn(FrameNo) -> u32,
    struck: &mut Struck,
) {
    while conn.answers.len() - conn.answers_checked >= ACK_LEN {
        let bytes = conn.answers[conn.answers_checked..].first_chunk::<ACK_LEN>();
        let ack = Ack::read(bytes.expect("a whole one is there"))
            .unwrap_or_else(|| panic!("what is sent is no acknowledgement: {bytes:?}"));
        conn.answers_checked += ACK_LEN;
        check_answer(conn, book, stored, struck, &ack);
    }
}

fn check_answer(
    conn: &mut Conn,
    book: &mut Book,
    stored: &impl Fn(FrameNo) -> u32,
    struck: &mut Struck,
    ack: &Ack,
) {
    if (ack.producer, ack.sequence) == (0, 0) {
        assert_eq!(
            ack.status,
            AckStatus::Refused,
            "only lost framing has no sequence"
        );
        assert!(
            conn.framing_lost || conn.fin || conn.reset,
            "the agent says that framing is lost ({:?}) where it is not",
            Reason::from_wire(ack.reason)
        );
        return;
    }
    assert!(ack.count >= 1, "an acknowledgement of no frame: {ack:?}");
    for sequence in ack.sequence + 1 - u64::from(ack.count)..=ack.sequence {
        let key = (ack.producer, sequence);
        let waiting = conn.waiting.get_mut(&key);
        let (number, _) = waiting
            .filter(|numbers| !numbers.is_empty())
            .map(|numbers| {
                // Where a sequence waits twice, the answer says of which it speaks: acknowledgements
                // may overtake each other.
                let reason = Reason::from_wire(ack.reason);
                let fits = |fate| matches!(fate, Fate::Refused(why) if Some(why) == reason);
                let at = numbers.iter().position(|&(number, _)| {
                    let fate = book.line(number).frame.fate;
                    fits(fate) || ack.reason == 0 && fate == Fate::Accepted
                });
                numbers.remove(at.unwrap_or(0))
            })
            .unwrap_or_else(|| panic!("{key:?} is answered, which waits for no answer: {ack:?}"));
        let line = book.line_mut(number);
        match (line.frame.fate, ack.status) {
            (Fate::Accepted, AckStatus::Durable) => {
                assert_eq!(ack.reason, 0, "a reason for what is durable");
                assert!(
                    stored(number) > 0,
                    "frame {key:?} is acknowledged before it is durable"
                );
                line.acknowledged = true;
            }
            (Fate::Accepted, AckStatus::Duplicate) => {
                assert_eq!(ack.reason, 0, "a reason for what is durable");
                assert!(
                    stored(number) > 0,
                    "frame {key:?} is called a duplicate before it is durable"
                );
                line.acknowledged = true;
                struck.duplicates += 1;
            }
            // Nobody's fault: no room, a broken disk, the end.
            (Fate::Accepted, AckStatus::TryLater | AckStatus::Refused) => {
                let reason = Reason::from_wire(ack.reason);
                assert!(
                    matches!(
                        reason,
                        Some(
                            Reason::Backpressure
                                | Reason::JournalFailed
                                | Reason::Stopping
                                | Reason::RateLimited
                                | Reason::TenantShare
                        )
                    ),
                    "good frame {key:?} is refused: {ack:?} {reason:?}"
                );
                let limited = matches!(reason, Some(Reason::RateLimited | Reason::TenantShare));
                struck.limited += u64::from(limited);
                struck.backpressure += u64::from(ack.status == AckStatus::TryLater);
            }
            (Fate::Refused(reason) | Fate::FramingLost(reason), AckStatus::Refused) => {
                assert_eq!(
                    Reason::from_wire(ack.reason),
                    Some(reason),
                    "frame {key:?} is refused for the wrong reason"
                );
            }
            (fate, status) => panic!("frame {key:?} of fate {fate:?} is answered {status:?}"),
        }
    }
}
