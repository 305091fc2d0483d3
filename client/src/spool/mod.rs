//! Frames on the producer's own disk, until they are settled: with it a producer's id, its next
//! sequence and its records outlive a restart.
//!
//! A folder of append-only segments (`format`), each named by its first frame's sequence. What
//! holds, through a crash of the program and of the host:
//!
//! - **A frame is synced before it is sent**, and so are the id and the sequence in it
//!   ([`Spool::synced_end`]). What a crash tears off the last segment was never sent: its sequences
//!   can be used again.
//! - **A frame is sent only if it lies less than 1,024 above what is *durably* known to be settled**
//!   ([`Spool::synced_base`]): after any crash, what is sent again is within what the agent
//!   remembers, and comes back as `duplicate`, not as `sequence_too_old`.
//! - Segments are removed from the front, whole, when all in them is settled. The last one stays, as
//!   it holds the id and the next sequence.
//! - A segment's header is there before its name is: written under another name, synced, renamed,
//!   the folder synced.
//!
//! Syncs: before a frame is sent, at most [`SpoolOptions::sync_interval`] after it was written; at
//! [`Spool::sync`]. Marks of what is settled are synced together with the next frames, or when the
//! second rule wants it: losing them costs a few frames sent twice, which the agent recognises.

pub mod format;
mod recover;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_common::frame::{FRAME_HEADER_LEN, FrameHeader};

use crate::report::Tally;
use format::{ENTRY_OVERHEAD, Entry, HEADER_LEN, Header, Read};

/// Frames hold log lines: the owner's and the group's only.
const FILE_MODE: u32 = 0o640;
const FOLDER_MODE: u32 = 0o750;
/// A segment is an eighth of the spool, within these: removing one frees that much at once.
const SEGMENT_LEN_MIN: u64 = 64 << 10;
const SEGMENT_LEN_MAX: u64 = 64 << 20;
const SUFFIX: &str = ".spool";
const LOCK: &str = "lock";

/// Where and how large.
#[derive(Clone, Debug)]
pub struct SpoolOptions {
    /// Made where it is missing. One producer's own.
    pub folder: PathBuf,
    /// Bytes of all segments; at least eight payloads of the longest kind (less is raised to that).
    pub size_max: u64,
    /// How long a written frame may wait for others before it is synced, and sent.
    pub sync_interval: Duration,
}

impl SpoolOptions {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            size_max: 1 << 30,
            sync_interval: Duration::from_millis(5),
        }
    }
}

/// Why a spool cannot be used. A spool that failed once is not written again: reopen it.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("spool: {call} {}: {source}", path.display())]
    Io {
        call: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("spool: {} is in use by another process", folder.display())]
    InUse { folder: PathBuf },
    /// Bytes that were synced are not what was written. Going on would lose records in silence.
    #[error(
        "spool: {} is damaged at byte {at} ({what}); move the file away to go on without what it holds",
        path.display()
    )]
    Damaged {
        path: PathBuf,
        at: u64,
        what: &'static str,
    },
    #[error("spool: an earlier write or sync failed; what is on disk is found by opening it again")]
    Poisoned,
}

/// What an earlier life left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Frames that are not settled: they are sent again, under their numbers.
    pub unsettled: Tally,
    /// Bytes at the end that a crash had torn; no whole frame was in them, or it was never sent.
    pub torn_bytes: u64,
}

#[derive(Debug)]
struct Segment {
    file: File,
    path: PathBuf,
    first_sequence: u64,
    len: u64,
}

/// One producer's spool, locked.
#[derive(Debug)]
pub struct Spool {
    options: SpoolOptions,
    segment_len: u64,
    producer: u64,
    /// In order; the last one is written to.
    segments: VecDeque<Segment>,
    bytes: u64,
    next_sequence: u64,
    /// Frames below are settled; the last mark written says the same.
    base: u64,
    synced_base: u64,
    synced_end: u64,
    /// Bytes of the last segment that are synced.
    synced_len: u64,
    /// Since when something is written and not synced.
    unsynced_since: Option<Instant>,
    /// The next frame to read back: its sequence, and where it stands.
    read_sequence: u64,
    read_segment: u64,
    read_offset: u64,
    /// Frames from `read_sequence` on.
    unread: Tally,
    poisoned: bool,
    scratch: Vec<u8>,
    _lock: File,
}

impl Spool {
    /// Opens a spool, or begins one. `payload_len_max` is the longest payload it is to take.
    pub fn open(
        options: SpoolOptions,
        payload_len_max: usize,
    ) -> Result<(Self, Recovered), SpoolError> {
        let options = SpoolOptions {
            size_max: options.size_max.max(8 * (payload_len_max as u64 + 1024)),
            ..options
        };
        let folder = &options.folder;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(folder)
            .map_err(failed("create folder", folder))?;
        let lock = lock(folder)?;
        recover::recover(options, lock)
    }

    pub fn producer(&self) -> u64 {
        self.producer
    }

    /// The sequence of the next frame to be appended.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Every sequence below is settled.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The same, as it would be found after a power loss.
    pub fn synced_base(&self) -> u64 {
        self.synced_base
    }

    /// Frames below this sequence are on disk for certain, and may be sent.
    pub fn synced_end(&self) -> u64 {
        self.synced_end
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a frame of this length, whole, may be appended.
    pub fn has_room(&self, frame_len: usize) -> bool {
        self.bytes + (frame_len + ENTRY_OVERHEAD) as u64 <= self.options.size_max
    }

    /// Frames that are here and were not read back yet.
    pub fn unread(&self) -> Tally {
        self.unread
    }

    /// When what is written should be synced; `None` where all of it is.
    pub fn sync_due(&self) -> Option<Instant> {
        Some(self.unsynced_since? + self.options.sync_interval)
    }

    /// Appends the frame with the next sequence.
    pub fn append(&mut self, frame: &[u8], now: Instant) -> Result<(), SpoolError> {
        let head = frame
            .first_chunk::<FRAME_HEADER_LEN>()
            .expect("a frame begins with its header");
        let header = FrameHeader::read(head);
        assert_eq!(
            (header.producer, header.sequence),
            (self.producer, self.next_sequence),
            "a frame of another producer or place"
        );
        let full = self.active().len + (frame.len() + ENTRY_OVERHEAD) as u64 > self.segment_len;
        if full && self.active().first_sequence < self.next_sequence {
            self.roll()?;
        }
        let mut entry = std::mem::take(&mut self.scratch);
        entry.clear();
        format::write_frame(&mut entry, frame);
        let written = self.write(&entry, now);
        self.scratch = entry;
        written?;
        self.next_sequence += 1;
        self.unread.add(header.records);
        Ok(())
    }

    /// Every sequence below `base` is settled: says so on disk, and removes segments that hold
    /// nothing else.
    pub fn settle_below(&mut self, base: u64, now: Instant) -> Result<(), SpoolError> {
        assert!(
            base <= self.next_sequence,
            "settled {base}, appended up to {}",
            self.next_sequence
        );
        if base <= self.base {
            return Ok(());
        }
        let mut entry = Vec::new();
        format::write_mark(&mut entry, base);
        self.write(&entry, now)?;
        self.base = base;
        self.remove_settled()
    }

    /// Makes everything written durable.
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        self.check()?;
        if self.unsynced_since.is_none() {
            return Ok(());
        }
        let active = self.segments.back().expect("there is always a last one");
        if let Err(error) = active.file.sync_data() {
            self.poisoned = true;
            return Err(failed("sync", &active.path)(error));
        }
        self.synced_len = active.len;
        self.unsynced_since = None;
        self.synced_end = self.next_sequence;
        self.synced_base = self.base;
        Ok(())
    }

    /// The next frame that was not read back yet, whole.
    pub fn read_next(&mut self) -> Result<Option<(Vec<u8>, u32)>, SpoolError> {
        while self.read_sequence < self.next_sequence {
            let index = self
                .segments
                .iter()
                .position(|segment| segment.first_sequence == self.read_segment)
                .expect("a segment is removed only when it was read");
            let segment = &self.segments[index];
            if self.read_offset >= segment.len {
                self.read_segment = self.segments[index + 1].first_sequence;
                self.read_offset = HEADER_LEN as u64;
                continue;
            }
            let at = self.read_offset;
            let damaged = |what| SpoolError::Damaged {
                path: segment.path.clone(),
                at,
                what,
            };
            let read = |buffer: &mut [u8]| {
                let read = segment.file.read_exact_at(buffer, at);
                read.map_err(failed("read", &segment.path))
            };
            let mut head = [0; 4];
            read(&mut head)?;
            let len = u32::from_le_bytes(head) as usize + ENTRY_OVERHEAD;
            if len as u64 > segment.len - at {
                return Err(damaged("an entry's length"));
            }
            let mut entry = vec![0; len];
            read(&mut entry)?;
            let Read::Entry(found, _) = format::read(&entry) else {
                return Err(damaged("an entry's checksum"));
            };
            self.read_offset += len as u64;
            let Entry::Frame { header, .. } = found else {
                continue;
            };
            if header.sequence < self.read_sequence {
                continue;
            }
            assert_eq!(header.sequence, self.read_sequence, "frames stand in order");
            self.read_sequence += 1;
            self.unread.frames -= 1;
            self.unread.records -= u64::from(header.records);
            entry.truncate(len - 4);
            entry.drain(..8);
            return Ok(Some((entry, header.records)));
        }
        Ok(None)
    }

    /// The frame just appended need not be read back: the caller has it.
    pub fn skip_last(&mut self) {
        assert_eq!(self.unread.frames, 1, "others are to be read first");
        self.read_sequence = self.next_sequence;
        self.unread = Tally::default();
        let active = self.active();
        (self.read_segment, self.read_offset) = (active.first_sequence, active.len);
    }

    /// Gives up the oldest segment: everything in it is settled from here on, answered or not.
    /// Returns what of it was not read back, and the sequence where the rest begins.
    pub fn drop_oldest(&mut self, now: Instant) -> Result<(Tally, u64), SpoolError> {
        self.check()?;
        if self.segments.len() == 1 {
            self.roll()?;
        }
        let end = self.segments[1].first_sequence;
        let mut dropped = Tally::default();
        while self.read_sequence < end
            && let Some((_, records)) = self.read_next()?
        {
            dropped.add(records);
        }
        self.settle_below(end, now)?;
        Ok((dropped, end))
    }

    /// Bytes of the last segment that a power loss leaves.
    #[cfg(test)]
    pub(crate) fn synced_len(&self) -> u64 {
        self.synced_len
    }

    fn active(&self) -> &Segment {
        self.segments.back().expect("there is always a last one")
    }

    fn check(&self) -> Result<(), SpoolError> {
        match self.poisoned {
            true => Err(SpoolError::Poisoned),
            false => Ok(()),
        }
    }

    fn write(&mut self, entry: &[u8], now: Instant) -> Result<(), SpoolError> {
        self.check()?;
        let active = self
            .segments
            .back_mut()
            .expect("there is always a last one");
        if let Err(error) = active.file.write_all_at(entry, active.len) {
            // How much of it is there nobody knows.
            self.poisoned = true;
            return Err(failed("write", &active.path)(error));
        }
        active.len += entry.len() as u64;
        self.bytes += entry.len() as u64;
        self.unsynced_since.get_or_insert(now);
        Ok(())
    }

    /// Begins another segment; the one before it is synced first, so that only the last one can be
    /// torn.
    fn roll(&mut self) -> Result<(), SpoolError> {
        self.sync()?;
        let header = Header {
            producer: self.producer,
            first_sequence: self.next_sequence,
        };
        let segment = create(&self.options.folder, header).inspect_err(|_| self.poisoned = true)?;
        self.bytes += segment.len;
        self.synced_len = segment.len;
        self.segments.push_back(segment);
        Ok(())
    }

    fn remove_settled(&mut self) -> Result<(), SpoolError> {
        while self.segments.len() > 1 && self.segments[1].first_sequence <= self.base {
            let end = self.segments[1].first_sequence;
            let segment = self.segments.pop_front().expect("there are two");
            if self.read_segment == segment.first_sequence {
                // Settled without having been read back: it was given up, or known from before.
                (self.read_segment, self.read_offset) = (end, HEADER_LEN as u64);
            }
            self.bytes -= segment.len;
            std::fs::remove_file(&segment.path).map_err(failed("remove", &segment.path))?;
        }
        Ok(())
    }
}

fn lock(folder: &Path) -> Result<File, SpoolError> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(&path)
        .map_err(failed("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SpoolError::InUse {
            folder: folder.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
    }
}

fn segment_path(folder: &Path, first_sequence: u64) -> PathBuf {
    folder.join(format!("{first_sequence:020}{SUFFIX}"))
}

fn create(folder: &Path, header: Header) -> Result<Segment, SpoolError> {
    let path = segment_path(folder, header.first_sequence);
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(&temporary)
        .map_err(failed("create", &temporary))?;
    file.write_all(&header.write())
        .map_err(failed("write", &temporary))?;
    file.sync_all().map_err(failed("sync", &temporary))?;
    std::fs::rename(&temporary, &path).map_err(failed("rename", &temporary))?;
    sync_folder(folder)?;
    Ok(Segment {
        file,
        path,
        first_sequence: header.first_sequence,
        len: HEADER_LEN as u64,
    })
}

fn sync_folder(folder: &Path) -> Result<(), SpoolError> {
    let opened = File::open(folder).map_err(failed("open", folder))?;
    opened.sync_all().map_err(failed("sync folder", folder))
}

fn failed(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    move |source| SpoolError::Io {
        call,
        path: path.to_owned(),
        source,
    }
}
