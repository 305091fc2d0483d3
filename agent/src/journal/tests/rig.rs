//! The real writer between a test and the disk in memory, beside a plain vector of what was
//! appended and became of it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent_common::frame::FrameHeader;
use penstock_proto::wire::write_frame;

use super::disk::{Disk, Image, Rng, write_image};
use crate::config::settings::OnFull;
use crate::config::settings::SyncMode;
use crate::journal::dedup::{Known, Recalled};
use crate::journal::feed::{Fed, FeedReceiver, JournalMarks, feed};
use crate::journal::format::{BlockHeader, Entries, Envelope};
use crate::journal::reader::JournalReader;
use crate::journal::recovery::windows::remember;
use crate::journal::recovery::{self, Recovered};
use crate::journal::writer::{JournalPlan, JournalStart, Room, Settled, Ticket, Writer};
use crate::limits::JOURNAL_BLOCK_LEN;
use crate::shard::buffer::{BlockId, BlockPool};
use crate::shard::op::{Errno, Now, Op, SegmentFile};

pub const SEGMENT_LEN: u64 = 4 * JOURNAL_BLOCK_LEN as u64;
const SEGMENTS_MAX: u64 = 6;
/// Frames come from these in turn.
const PRODUCERS: u64 = 5;
const EIO: Errno = Errno(libc::EIO);
const COMMIT_INTERVAL_NS: u64 = 5_000_000;

/// An op on its way, with what the disk has to know of its beginning.
enum Pending {
    Write {
        segment: u64,
        block: BlockId,
        id: u64,
        len: u32,
    },
    Sync {
        segment: u64,
        covers: Vec<u64>,
    },
    Open {
        number: u64,
    },
    Allocate {
        number: u64,
        len: u64,
    },
    Folder {
        number: u64,
        names: Vec<u64>,
        removed: usize,
    },
    Remove {
        number: u64,
    },
}

/// Which op a test speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Header(u64),
    Write(u64),
    Sync(u64),
    Making(u64),
    Remove(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Good,
    Bad,
    /// A write that ends in the middle; of all else a failure.
    Short,
}

/// A frame by its number in `Rig::frames`, which its envelope carries as the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Appended {
    number: u64,
    ticket: Ticket,
}

pub struct Rig {
    pub writer: Writer,
    on_full: OnFull,
    pub disk: Disk,
    pub now: Now,
    blocks: Arc<BlockPool>,
    marks: Arc<JournalMarks>,
    disk_low: Arc<AtomicBool>,
    sink: FeedReceiver,
    pending: Vec<Pending>,

    frames: Vec<Vec<u8>>,
    /// The journal as it should be: every durable frame of all lives, in order.
    durable: Vec<Appended>,
    /// Appended in this life and neither durable nor lost.
    waiting: Vec<Appended>,
    /// Lost, each time since the durable mark moved last: until a successor is durable, a crash may
    /// bring back the first few of one of them, as nothing on the disk says that they were lost.
    lost: Vec<Vec<Appended>>,
    /// Everything before it was committed by the sink.
    committed: u64,
    /// The end of the last block that the sink was given from memory.
    fed: u64,
}

/// Envelopes carry a number for the time: nobody may be too old.
fn nobody() -> Recalled {
    Recalled::nobody(PRODUCERS as usize, Duration::MAX)
}

fn new_writer(
    blocks: &Arc<BlockPool>,
    start: JournalStart,
    on_full: OnFull,
    recalled: Recalled,
) -> (Writer, Arc<JournalMarks>, Arc<AtomicBool>, FeedReceiver) {
    let marks = Arc::new(JournalMarks::default());
    let disk_low = Arc::new(AtomicBool::new(false));
    let (sender, sink) = feed(&marks, 3);
    let plan = JournalPlan {
        commit_interval: Duration::from_nanos(COMMIT_INTERVAL_NS),
        commit_size: JOURNAL_BLOCK_LEN,
        sync: SyncMode::Always,
        sync_interval: Duration::from_secs(1),
        recalled,
        segment_len: SEGMENT_LEN,
        size_max: SEGMENTS_MAX * (SEGMENT_LEN + 4096),
        start,
        salt_seed: 0x5a17,
        feeds: vec![sender],
        marks: Arc::clone(&marks),
        disk_low: Arc::clone(&disk_low),
        on_full,
    };
    let names = vec!["apps".to_owned()];
    let writer = Writer::new(0, names, Arc::clone(blocks), plan);
    (writer, marks, disk_low, sink)
}

impl Rig {
    pub fn new() -> Self {
        Self::with(OnFull::Backpressure)
    }

    pub fn with(on_full: OnFull) -> Self {
        let blocks = BlockPool::new(10, JOURNAL_BLOCK_LEN);
        let start = JournalStart {
            segment: 1,
            ..JournalStart::default()
        };
        let (writer, marks, disk_low, sink) = new_writer(&blocks, start, on_full, nobody());
        Self {
            writer,
            on_full,
            disk: Disk::default(),
            now: Now {
                monotonic_ns: 1,
                unix_ns: 1_795_178_701_000_000_000,
            },
            blocks,
            marks,
            disk_low,
            sink,
            pending: Vec::new(),
            frames: Vec::new(),
            durable: Vec::new(),
            waiting: Vec::new(),
            lost: Vec::new(),
            committed: 0,
            fed: 0,
        }
    }

    /// Appends a frame of `len` bytes; `None` where there is no room.
    pub fn append(&mut self, len: usize) -> Option<Ticket> {
        if self.writer.room() == Room::Wait {
            // As the worker does within the same turn.
            self.tick(0);
        }
        if self.writer.room() != Room::Yes {
            self.settle_ops();
            return None;
        }
        let number = self.frames.len() as u64;
        let payload: Vec<u8> = (0..len - 40).map(|at| (at as u64 ^ number) as u8).collect();
        let header = FrameHeader {
            encoding: 1,
            flags: 0,
            priority: 2,
            payload_len: 0,
            records: 1 + number as u32 % 7,
            producer: 1 + number % PRODUCERS,
            sequence: 1 + number / PRODUCERS,
            payload_crc: 0,
        };
        let mut frame = Vec::with_capacity(len);
        write_frame(&mut frame, header, &payload);
        assert_eq!(frame.len(), len);
        let envelope = Envelope {
            observed_time_unix_nano: number,
            listener: 0,
            keep_sixteenths: 16,
            peer: None,
            deduplicated: true,
        };
        let ticket = self
            .writer
            .append(&envelope, &frame, header.records, self.now);
        let (sequence, crc) = sequence_of(number, &frame);
        self.writer.windows_mut().take(
            &mut Known::default(),
            header.producer,
            sequence,
            crc,
            ticket.0 + 1,
            number,
        );
        if let Some(last) = self.waiting.last() {
            assert!(
                last.ticket <= ticket,
                "tickets rise: {last:?} then {ticket:?}"
            );
        }
        assert!(ticket.0 >= self.writer.durable());
        self.frames.push(frame);
        self.waiting.push(Appended { number, ticket });
        self.settle_ops();
        Some(ticket)
    }

    pub fn tick(&mut self, after_ns: u64) {
        self.now.monotonic_ns += after_ns;
        self.now.unix_ns += after_ns;
        self.writer.tick(self.now);
        self.settle_ops();
    }

    pub fn marks(&self) -> &JournalMarks {
        &self.marks
    }

    pub fn set_disk_low(&self, low: bool) {
        self.disk_low.store(low, Ordering::Relaxed);
    }

    /// The sink commits what is durable.
    pub fn commit(&mut self) {
        self.committed = self.marks.durable();
        let records = self.marks.durable_records();
        self.sink.mark.commit(self.committed, records);
    }

    /// Takes the ops that the writer pushed; the sink takes what it was fed.
    fn settle_ops(&mut self) {
        let ops: Vec<Op> = self.writer.outbox().collect();
        for op in ops {
            let pending = match op {
                Op::JournalWrite {
                    file,
                    block,
                    offset,
                    len,
                } => {
                    // SAFETY: the block is sealed and the writer keeps its lease until the write is
                    // answered: nobody writes it, and `len` is at most its length.
                    let bytes = unsafe {
                        std::slice::from_raw_parts(self.blocks.block_ptr(block), len as usize)
                    };
                    let segment = file.0 as u64;
                    let id = self.disk.begin_write(segment, offset, bytes.to_vec());
                    Pending::Write {
                        segment,
                        block,
                        id: id << 1 | u64::from(offset == 0),
                        len,
                    }
                }
                Op::JournalSync { file, segment } => {
                    assert_eq!(file.0 as u64, segment);
                    let covers = self.disk.begin_sync(segment);
                    Pending::Sync { segment, covers }
                }
                Op::SegmentOpen { number } => Pending::Open { number },
                Op::SegmentAllocate { number, len, .. } => Pending::Allocate { number, len },
                Op::FolderSync { number } => Pending::Folder {
                    number,
                    names: self.disk.names(),
                    removed: self.disk.removals(),
                },
                Op::SegmentClose { number, .. } => {
                    self.disk.close(number);
                    continue;
                }
                Op::SegmentRemove { number } => Pending::Remove { number },
                other => panic!("the journal pushed {other:?}"),
            };
            self.pending.push(pending);
        }
        self.writer.invariants();
        while let Fed::Block(block) = self.sink.wait(Duration::ZERO) {
            let header = *block.header();
            assert!(
                header.end_position() <= self.marks.durable() && header.position >= self.fed,
                "the sink got {header:?} with {} durable, after {}",
                self.marks.durable(),
                self.fed
            );
            self.fed = header.end_position();
            self.check_block(&header, block.bytes());
        }
    }

    /// The frames of a durable block are the model's of that position.
    fn check_block(&self, header: &BlockHeader, bytes: &[u8]) {
        let seen = self.read_block(header, bytes);
        let from = self
            .durable
            .partition_point(|f| f.ticket.0 < header.position);
        let to = self
            .durable
            .partition_point(|f| f.ticket.0 < header.end_position());
        let expected: Vec<u64> = self.durable[from..to].iter().map(|f| f.number).collect();
        assert_eq!(seen, expected, "the block at {}", header.position);
    }

    fn read_block(&self, header: &BlockHeader, bytes: &[u8]) -> Vec<u64> {
        let mut numbers = Vec::new();
        for entry in Entries::new(bytes, header, true) {
            let entry = entry.expect("a sound entry");
            let number = entry.envelope.observed_time_unix_nano;
            let frame = self.frames.get(number as usize).expect("it was appended");
            assert_eq!(entry.payload, &frame[40..], "frame {number}");
            numbers.push(number);
        }
        numbers
    }

    pub fn pending(&self) -> Vec<What> {
        self.pending.iter().map(Pending::what).collect()
    }

    /// Ends the first op in flight of this kind.
    pub fn end(&mut self, what: What, outcome: Outcome) -> Settled {
        let at = self.pending().iter().position(|pending| *pending == what);
        let at = at.unwrap_or_else(|| panic!("no {what:?} among {:?}", self.pending()));
        self.end_at(at, outcome)
    }

    /// Ends everything that is in flight and what follows from it, well.
    pub fn end_all(&mut self) {
        while !self.pending.is_empty() {
            self.end_at(0, Outcome::Good);
        }
    }

    pub fn end_at(&mut self, at: usize, outcome: Outcome) -> Settled {
        let ok = outcome == Outcome::Good;
        let result = if ok { Ok(()) } else { Err(EIO) };
        let mut settled = Settled::default();
        match self.pending.remove(at) {
            Pending::Write {
                segment,
                block,
                id,
                len,
            } => {
                self.disk.end_write(segment, id >> 1, ok);
                let result = match outcome {
                    Outcome::Good => Ok(len),
                    Outcome::Bad => Err(EIO),
                    Outcome::Short => Ok(len / 2),
                };
                settled = self.writer.on_written(block, result, self.now);
            }
            Pending::Sync { segment, covers } => {
                self.disk.end_sync(segment, &covers, ok);
                settled = self.writer.on_synced(segment, result, self.now);
            }
            Pending::Open { number } => {
                if ok {
                    self.disk.create(number);
                }
                let file = result.map(|()| SegmentFile(number as i32));
                self.writer.on_segment_opened(number, file, self.now);
            }
            Pending::Allocate { number, len } => {
                if ok {
                    self.disk.allocate(number, len);
                }
                self.writer.on_segment_allocated(number, result, self.now);
            }
            Pending::Folder {
                number,
                names,
                removed,
            } => {
                if ok {
                    self.disk.end_folder_sync(&names, removed);
                }
                self.writer.on_folder_synced(number, result, self.now);
            }
            Pending::Remove { number } => {
                if ok {
                    self.disk.remove(number);
                }
                self.writer.on_segment_removed(number, result, self.now);
            }
        }
        self.on_settled(&settled);
        self.settle_ops();
        settled
    }

    fn on_settled(&mut self, settled: &Settled) {
        if settled.durable {
            let durable = self.writer.durable();
            assert_eq!(durable, self.marks.durable());
            let count = self.waiting.partition_point(|f| f.ticket.0 < durable);
            self.durable.extend(self.waiting.drain(..count));
            self.lost.clear();
            assert_eq!(self.records(), self.marks.durable_records());
        }
        if let Some((_, records)) = settled.lost {
            let lost = std::mem::take(&mut self.waiting);
            let told: u64 = lost.iter().map(|f| self.records_of(f)).sum();
            assert_eq!(records, told, "lost records are told exactly");
            self.lost.push(lost);
            self.check_windows();
        }
    }

    fn records_of(&self, frame: &Appended) -> u64 {
        1 + frame.number % 7
    }

    fn records(&self) -> u64 {
        self.durable.iter().map(|f| self.records_of(f)).sum()
    }

    /// The power goes, comes back, and the journal is recovered and goes on.
    pub fn crash(&mut self, rng: &mut Rng) -> Recovered {
        let image = std::mem::take(&mut self.disk).crash(rng);
        self.reopen(image)
    }

    pub fn reopen(&mut self, image: Image) -> Recovered {
        let folder = tempfile::tempdir().expect("a folder");
        write_image(&image, folder.path());
        let inspected = recovery::inspect(folder.path()).expect("inspect").recovered;
        let recovered = recovery::recover(folder.path()).expect("recover");
        assert_eq!(inspected, recovered, "inspect says what recover does");
        let again = recovery::recover(folder.path()).expect("recover again");
        assert_eq!(
            (
                again.start.position,
                again.start.records,
                &again.start.existing
            ),
            (
                recovered.start.position,
                recovered.start.records,
                &recovered.start.existing
            ),
            "recovery twice is recovery once"
        );
        assert_eq!(again.report.cut_at, None, "what is cut is gone");
        for report in [&recovered.report, &again.report] {
            assert_eq!(report.damaged, [], "a crash alone damages nothing");
        }
        self.check_recovered(folder.path(), &recovered.start);
        self.disk = Disk::recovered(image, folder.path());
        let (memory, held_in) = remember(folder.path(), &recovered.start).expect("remember");
        let mut recalled = nobody();
        recalled.windows.restore(memory, 0);
        recalled.held_in = held_in;
        let start = recovered.start.clone();
        let (writer, marks, disk_low, sink) =
            new_writer(&self.blocks, start, self.on_full, recalled);
        self.writer = writer;
        self.marks = marks;
        self.disk_low = disk_low;
        self.sink = sink;
        // The sink resumes at its last commit.
        self.sink.mark.commit(self.committed, 0);
        self.fed = recovered.start.position;
        self.pending.clear();
        self.settle_ops();
        self.check_windows();
        recovered
    }

    /// What is remembered of the producers is what is in the journal or on its way, within the
    /// windows, whatever was removed since.
    fn check_windows(&mut self) {
        let mut expected: HashMap<u64, Vec<(u64, u32)>> = HashMap::new();
        for appended in self.durable.iter().chain(&self.waiting) {
            let frame = &self.frames[appended.number as usize];
            let producer = 1 + appended.number % PRODUCERS;
            let taken = expected.entry(producer).or_default();
            taken.push(sequence_of(appended.number, frame));
        }
        let mut seen = 0;
        for (_, producer, window, _) in self.writer.windows_mut().from_slot(0) {
            let mut taken: Vec<_> = window.iter().collect();
            taken.sort_unstable();
            let mut expected = expected.remove(&producer).unwrap_or_default();
            expected.sort_unstable();
            // A window does not move back when what moved it is lost.
            expected.retain(|(sequence, _)| sequence + 1024 > window.head());
            assert_eq!(taken, expected, "producer {producer}");
            seen += taken.len();
        }
        assert!(
            expected.is_empty(),
            "{expected:?} are forgotten; {seen} are not"
        );
    }

    /// What recovery kept is the vector: all that was durable, then perhaps the beginning of what
    /// was not.
    fn check_recovered(&mut self, folder: &Path, start: &JournalStart) {
        let end = self.durable.last().map_or(0, |frame| frame.ticket.0);
        assert!(
            start.position > end || self.durable.is_empty(),
            "position {} is given out again: a frame is durable at {end}",
            start.position
        );
        assert!(
            start.position >= self.writer.durable(),
            "position {} is given out again: {} was durable",
            start.position,
            self.writer.durable()
        );
        let found = self.read_journal(folder, start.position);
        let mut tickets = HashMap::new();
        for &(position, number) in &found {
            let before = tickets.insert(number, Ticket(position));
            assert_eq!(before, None, "frame {number} is stored twice");
        }
        let numbers: Vec<u64> = found.iter().map(|(_, number)| *number).collect();
        let kept: Vec<u64> = self.durable.iter().map(|frame| frame.number).collect();
        // Retention may have removed the oldest, but only what the sink has.
        let removed = match numbers.first() {
            Some(first) => kept.iter().position(|n| n == first).unwrap_or(kept.len()),
            None => kept.len(),
        };
        for frame in &self.durable[..removed] {
            assert!(
                frame.ticket.0 < self.committed,
                "frame {frame:?} was durable, is not committed, and is gone"
            );
        }
        let (old, new) = numbers.split_at(numbers.len().min(kept.len() - removed));
        assert_eq!(old, &kept[removed..], "what was durable is there, in order");
        let mut endings = self.lost.iter().chain([&self.waiting]);
        let ending = endings.find(|frames| {
            let numbers: Vec<u64> = frames.iter().map(|frame| frame.number).collect();
            numbers.starts_with(new)
        });
        let Some(ending) = ending else {
            panic!(
                "{new:?} came back; waiting were {:?}, lost {:?}",
                self.waiting, self.lost
            );
        };
        let mut recovered = ending[..new.len()].to_vec();
        drop(endings);
        for frame in self.durable[removed..].iter().chain(&recovered) {
            assert_eq!(tickets[&frame.number], frame.ticket, "at its ticket");
        }
        self.durable.append(&mut recovered);
        self.waiting.clear();
        self.lost.clear();
        assert_eq!(start.records, self.records(), "records before the start");
    }

    /// All frames before `durable` as a reader finds them: block position and number.
    fn read_journal(&self, folder: &Path, durable: u64) -> Vec<(u64, u64)> {
        let Some((oldest, _)) = crate::journal::reader::oldest(folder).expect("list") else {
            return Vec::new();
        };
        let mut reader = JournalReader::open(folder, oldest).expect("open");
        let mut found = Vec::new();
        while let Some(block) = reader.next_block(durable).expect("no damage") {
            assert!(block.header.end_position() <= durable);
            let numbers = self.read_block(&block.header, block.bytes);
            found.extend(numbers.into_iter().map(|n| (block.header.position, n)));
        }
        assert_eq!(reader.position(), durable.max(oldest), "read to the end");
        found
    }

    /// The next segment is made, and a frame of each length goes to the journal, one block each.
    pub fn append_blocks(&mut self, lens: &[usize]) {
        for len in lens {
            let mut tries = 0;
            while self.append(*len).is_none() {
                tries += 1;
                assert!(tries < 20, "no room: in flight are {:?}", self.pending());
                let making = self
                    .pending()
                    .into_iter()
                    .find(|w| matches!(w, What::Making(_)));
                match making {
                    Some(making) => drop(self.end(making, Outcome::Good)),
                    None => self.tick(1_000_000_000),
                }
            }
            self.tick(COMMIT_INTERVAL_NS);
        }
    }

    /// Makes the next segment ready, where the writer wants one.
    pub fn make_segment(&mut self) {
        while let Some(making) = self
            .pending()
            .into_iter()
            .find(|w| matches!(w, What::Making(_)))
        {
            self.end(making, Outcome::Good);
        }
    }

    /// The frames that are durable, in order.
    pub fn durable_numbers(&self) -> Vec<u64> {
        self.durable.iter().map(|frame| frame.number).collect()
    }
}

/// Of the frame with this number: its sequence, and the checksum that stands in its header.
fn sequence_of(number: u64, frame: &[u8]) -> (u64, u32) {
    let crc = u32::from_le_bytes(frame[32..36].try_into().expect("four bytes"));
    (1 + number / PRODUCERS, crc)
}

impl Pending {
    fn what(&self) -> What {
        match self {
            Self::Write { segment, id, .. } if id & 1 == 1 => What::Header(*segment),
            Self::Write { segment, .. } => What::Write(*segment),
            Self::Sync { segment, .. } => What::Sync(*segment),
            Self::Open { number } | Self::Allocate { number, .. } | Self::Folder { number, .. } => {
                What::Making(*number)
            }
            Self::Remove { number } => What::Remove(*number),
        }
    }
}
