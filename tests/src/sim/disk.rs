//! A disk that forgets: what a write left behind is on it for certain only after a sync that was
//! asked for when the write was already done, and a file is there only after its folder's sync.
//!
//! Each file has a durable image and a list of writes that are not in it yet. A crash keeps the
//! image and lets each of those writes survive as a whole, in part (torn at sectors of 512 bytes)
//! or not at all, in any order.

use std::collections::BTreeMap;

use penstock::journal::format::{BLOCK_ALIGN, segment_file_name};
use penstock::shard::op::{Errno, SegmentFile};

use super::kernel::Struck;
use super::rng::Rng;

/// What a disk writes at once.
const SECTOR_LEN: usize = 512;

/// A write's number, rising over the disk's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteId(u64);

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteEnd {
    Whole,
    /// Only so many bytes of it.
    Short(usize),
    /// An error: any part of it may be on the disk.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteState {
    InFlight,
    /// Done; the next sync makes it durable.
    Done,
    /// A write or a sync of it failed: no later sync says anything about it.
    Doubtful,
}

struct Write {
    id: WriteId,
    offset: u64,
    data: Vec<u8>,
    state: WriteState,
}

impl Write {
    fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

/// A segment's file.
#[derive(Default)]
struct File {
    name_durable: bool,
    /// Set by allocation, made durable by the first sync after it.
    len: u64,
    len_durable: bool,
    durable: Vec<u8>,
    writes: Vec<Write>,
    /// Ranges that were written as a whole: nothing may write there again.
    written: Vec<(u64, u64)>,
    handle: Option<SegmentFile>,
    /// Unlinked: until the folder is synced, a crash may bring it back.
    removed: bool,
    /// The how manieth removal this was: they reach the disk in order.
    removal: u64,
    /// Unlinked for good; kept while it is open.
    gone: bool,
}

/// What a sync was asked to cover.
pub struct SyncTicket {
    number: u64,
    covers: Vec<WriteId>,
}

impl SyncTicket {
    /// The same without the latest write, for a lie.
    pub fn without_last(mut self) -> Self {
        self.covers.pop();
        self
    }
}

/// What a folder's sync was asked to cover.
pub struct FolderTicket {
    created: Vec<u64>,
    removed: Vec<u64>,
}

/// The files of one shard's journal folder, by segment number.
#[derive(Default)]
pub struct Disk {
    files: BTreeMap<u64, File>,
    handles: BTreeMap<i32, u64>,
    handles_made: i32,
    writes_made: u64,
    removals: u64,
}

/// What a crash or an exit left: file names and contents.
pub type DiskImage = BTreeMap<String, Vec<u8>>;

const EEXIST: Errno = Errno(libc::EEXIST);
const ENOENT: Errno = Errno(libc::ENOENT);

impl Disk {
    /// A disk as a restarted agent finds it: all that is there is durable.
    pub fn from_image(image: &DiskImage) -> Self {
        let mut disk = Self::default();
        for (name, bytes) in image {
            let number = penstock::journal::format::segment_number(name)
                .unwrap_or_else(|| panic!("{name} is no segment"));
            disk.files.insert(
                number,
                File {
                    name_durable: true,
                    len: bytes.len() as u64,
                    len_durable: true,
                    durable: bytes.clone(),
                    written: vec![(0, bytes.len() as u64)],
                    ..File::default()
                },
            );
        }
        disk
    }

    pub fn create(&mut self, number: u64) -> Result<SegmentFile, Errno> {
        if self.files.get(&number).is_some_and(|file| !file.removed) {
            return Err(EEXIST);
        }
        self.handles_made += 1;
        let handle = SegmentFile(1000 + self.handles_made);
        self.handles.insert(handle.0, number);
        self.files.insert(
            number,
            File {
                handle: Some(handle),
                ..File::default()
            },
        );
        Ok(handle)
    }

    pub fn allocate(&mut self, number: u64, file: SegmentFile, len: u64) {
        let opened = self.file_mut(file);
        opened.len = opened.len.max(len);
        assert_eq!(
            self.handles[&file.0], number,
            "allocation names segment {number} and another's file"
        );
    }

    /// Allocated or written length of an open file.
    pub fn len(&self, file: SegmentFile) -> u64 {
        self.file(file).len
    }

    /// Whether this handle is open.
    pub fn is_open(&self, file: SegmentFile) -> bool {
        self.handles.contains_key(&file.0)
    }

    pub fn segment_of(&self, file: SegmentFile) -> u64 {
        self.handles[&file.0]
    }

    /// Takes a write's bytes and checks that it may be made.
    pub fn begin_write(&mut self, file: SegmentFile, offset: u64, data: Vec<u8>) -> WriteId {
        let id = WriteId(self.writes_made);
        self.writes_made += 1;
        let end = offset + data.len() as u64;
        assert!(
            offset.is_multiple_of(BLOCK_ALIGN as u64) && data.len().is_multiple_of(BLOCK_ALIGN),
            "a write of {} bytes at {offset} is not aligned",
            data.len()
        );
        assert!(!data.is_empty(), "an empty write at {offset}");
        let target = self.file_mut(file);
        assert!(
            end <= target.len,
            "a write ends at {end}, beyond the {} bytes allocated",
            target.len
        );
        for other in &target.writes {
            assert!(
                other.state != WriteState::InFlight || end <= other.offset || other.end() <= offset,
                "a write at {offset}..{end} overlaps one in flight at {}..{}",
                other.offset,
                other.end()
            );
        }
        for &(from, to) in &target.written {
            assert!(
                end <= from || to <= offset,
                "a write at {offset}..{end} overwrites {from}..{to}"
            );
        }
        target.writes.push(Write {
            id,
            offset,
            data,
            state: WriteState::InFlight,
        });
        id
    }

    /// Ends a write; returns the bytes that were taken at its begin.
    pub fn finish_write(&mut self, file: SegmentFile, id: WriteId, end: WriteEnd) -> Vec<u8> {
        let target = self.file_mut(file);
        let write = target
            .writes
            .iter_mut()
            .find(|write| write.id == id)
            .expect("a write in flight is on its file's list");
        let data = write.data.clone();
        match end {
            WriteEnd::Whole => {
                write.state = WriteState::Done;
                let range = (write.offset, write.end());
                target.written.push(range);
            }
            WriteEnd::Short(len) => {
                write.data.truncate(len);
                write.state = WriteState::Done;
            }
            WriteEnd::Failed => write.state = WriteState::Doubtful,
        }
        data
    }

    /// A sync covers the writes that are done at this moment, and no others.
    pub fn begin_sync(&mut self, file: SegmentFile) -> SyncTicket {
        let target = self.file(file);
        SyncTicket {
            number: self.handles[&file.0],
            covers: target
                .writes
                .iter()
                .filter(|write| write.state == WriteState::Done)
                .map(|write| write.id)
                .collect(),
        }
    }

    /// Ends a sync. Where it failed, the kernel has marked the pages clean: a later sync succeeds
    /// and says nothing about them, and each of them is on the disk or not.
    pub fn finish_sync(&mut self, ticket: SyncTicket, ok: bool, rng: &mut Rng) {
        let Some(file) = self.files.get_mut(&ticket.number) else {
            return;
        };
        if ok {
            file.len_durable = true;
        }
        let mut kept = Vec::new();
        for mut write in std::mem::take(&mut file.writes) {
            let covered = ticket.covers.contains(&write.id) && write.state != WriteState::Doubtful;
            if covered && (ok || rng.chance(500)) {
                apply(
                    &mut file.durable,
                    write.offset as usize,
                    &write.data,
                    0..write.data.len(),
                );
                if ok {
                    continue;
                }
            }
            if covered {
                write.state = WriteState::Doubtful;
            }
            kept.push(write);
        }
        file.writes = kept;
    }

    pub fn begin_folder_sync(&self) -> FolderTicket {
        let numbers = |removed: bool| {
            self.files
                .iter()
                .filter(|(_, file)| file.removed == removed)
                .map(|(&number, _)| number)
                .collect()
        };
        FolderTicket {
            created: numbers(false),
            removed: numbers(true),
        }
    }

    pub fn finish_folder_sync(&mut self, ticket: FolderTicket) {
        for number in ticket.created {
            if let Some(file) = self.files.get_mut(&number) {
                file.name_durable = true;
            }
        }
        for number in ticket.removed {
            let Some(file) = self.files.get_mut(&number).filter(|file| file.removed) else {
                continue;
            };
            file.gone = true;
            if file.handle.is_none() {
                self.files.remove(&number);
            }
        }
    }

    pub fn close(&mut self, number: u64, file: SegmentFile) {
        let target = self.file_mut(file);
        assert!(
            target
                .writes
                .iter()
                .all(|w| w.state != WriteState::InFlight),
            "segment {number} is closed with a write in flight"
        );
        target.handle = None;
        let gone = target.gone;
        self.handles.remove(&file.0);
        if gone {
            self.files.remove(&number);
        }
    }

    pub fn remove(&mut self, number: u64) -> Result<(), Errno> {
        let file = self
            .files
            .get_mut(&number)
            .filter(|file| !file.removed)
            .ok_or(ENOENT)?;
        file.removed = true;
        file.removal = self.removals;
        self.removals += 1;
        Ok(())
    }

    /// Numbers of the files whose names are durable, in order.
    pub fn durable_segments(&self) -> impl Iterator<Item = u64> + '_ {
        self.files
            .iter()
            .filter(|(_, file)| file.name_durable && !file.removed)
            .map(|(&number, _)| number)
    }

    /// The durable bytes of a segment whose name is durable.
    pub fn durable_bytes(&self, number: u64) -> Option<&[u8]> {
        let file = self.files.get(&number)?;
        file.name_durable.then_some(&file.durable)
    }

    /// What is there when the process is gone but the kernel goes on (`kill -9`, or an exit): all
    /// writes that were done; those in flight come to an end or do not.
    pub fn after_exit(&self, rng: &mut Rng, struck: &mut Struck) -> DiskImage {
        let mut image = DiskImage::new();
        for (&number, file) in self.files.iter().filter(|(_, file)| !file.removed) {
            let mut bytes = file.durable.clone();
            for write in &file.writes {
                match write.state {
                    WriteState::Done => apply(
                        &mut bytes,
                        write.offset as usize,
                        &write.data,
                        0..write.data.len(),
                    ),
                    WriteState::InFlight | WriteState::Doubtful => {
                        tear(&mut bytes, write.offset as usize, &write.data, rng).count(struck);
                    }
                }
            }
            bytes.resize(bytes.len().max(file.len as usize), 0);
            image.insert(segment_file_name(number), bytes);
        }
        image
    }

    /// What is there after the power came back.
    pub fn after_power_loss(&self, rng: &mut Rng, struck: &mut Struck) -> DiskImage {
        let mut image = DiskImage::new();
        // Of the removals that no folder sync covers, the first few have reached the disk.
        let removed = self
            .files
            .values()
            .filter(|file| file.removed && !file.gone);
        let oldest = removed
            .map(|file| file.removal)
            .min()
            .unwrap_or(self.removals);
        let removals_kept = rng.between(oldest..=self.removals);
        for (&number, file) in &self.files {
            let removed = file.gone || file.removed && file.removal < removals_kept;
            if removed {
                continue;
            }
            if !file.name_durable && rng.chance(500) {
                struck.lost_names += 1;
                continue;
            }
            let mut bytes = file.durable.clone();
            let mut order: Vec<&Write> = file.writes.iter().collect();
            rng.shuffle(&mut order);
            for write in order {
                tear(&mut bytes, write.offset as usize, &write.data, rng).count(struck);
            }
            if file.len_durable || rng.chance(500) {
                bytes.resize(bytes.len().max(file.len as usize), 0);
            } else {
                // The size was never synced: what lies beyond the durable bytes may not be there.
                let len = rng.size(file.durable.len()..=bytes.len().max(file.durable.len()));
                bytes.truncate(len);
            }
            image.insert(segment_file_name(number), bytes);
        }
        image
    }

    fn file(&self, file: SegmentFile) -> &File {
        let number = self
            .handles
            .get(&file.0)
            .unwrap_or_else(|| panic!("file {} is not open", file.0));
        &self.files[number]
    }

    fn file_mut(&mut self, file: SegmentFile) -> &mut File {
        let number = self
            .handles
            .get(&file.0)
            .unwrap_or_else(|| panic!("file {} is not open", file.0));
        self.files
            .get_mut(number)
            .expect("an open segment is not forgotten before it is closed")
    }
}

fn apply(bytes: &mut Vec<u8>, offset: usize, data: &[u8], part: std::ops::Range<usize>) {
    let (from, to) = (offset + part.start, offset + part.end);
    if bytes.len() < to {
        bytes.resize(to, 0);
    }
    bytes[from..to].copy_from_slice(&data[part]);
}

/// What became of a write that no sync covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    Nothing,
    Whole,
    Part,
}

impl Kept {
    pub fn count(self, struck: &mut Struck) {
        match self {
            Self::Nothing => struck.lost_writes += 1,
            Self::Whole => struck.kept_writes += 1,
            Self::Part => struck.torn_writes += 1,
        }
    }
}

/// Lets a write survive as a whole, not at all, up to a sector, or in any sectors.
pub fn tear(bytes: &mut Vec<u8>, offset: usize, data: &[u8], rng: &mut Rng) -> Kept {
    let sectors = data.len().div_ceil(SECTOR_LEN);
    let sector = |index: usize| index * SECTOR_LEN..data.len().min((index + 1) * SECTOR_LEN);
    let mut kept = 0;
    match rng.between(0..=3) {
        0 => {}
        1 => {
            kept = sectors;
            apply(bytes, offset, data, 0..data.len());
        }
        2 => {
            kept = rng.size(0..=sectors);
            apply(bytes, offset, data, 0..data.len().min(kept * SECTOR_LEN));
        }
        _ => {
            for index in 0..sectors {
                if rng.chance(500) {
                    kept += 1;
                    apply(bytes, offset, data, sector(index));
                }
            }
        }
    }
    match kept {
        0 => Kept::Nothing,
        all if all == sectors => Kept::Whole,
        _ => Kept::Part,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = BLOCK_ALIGN;

    fn disk_with_file() -> (Disk, SegmentFile) {
        let mut disk = Disk::default();
        let file = disk.create(1).unwrap();
        disk.allocate(1, file, 16 * PAGE as u64);
        let ticket = disk.begin_folder_sync();
        disk.finish_folder_sync(ticket);
        (disk, file)
    }

    fn write(disk: &mut Disk, file: SegmentFile, page: u64, fill: u8) -> WriteId {
        disk.begin_write(file, page * PAGE as u64, vec![fill; PAGE])
    }

    #[test]
    fn a_sync_covers_only_what_was_done_when_it_was_asked_for() {
        let (mut disk, file) = disk_with_file();
        let mut rng = Rng::new(1);
        let first = write(&mut disk, file, 0, 1);
        let second = write(&mut disk, file, 1, 2);
        disk.finish_write(file, first, WriteEnd::Whole);
        let ticket = disk.begin_sync(file);
        // Done before the sync came back, but after it was asked for.
        disk.finish_write(file, second, WriteEnd::Whole);
        disk.finish_sync(ticket, true, &mut rng);
        assert_eq!(disk.durable_bytes(1), Some(&[1; PAGE][..]));

        // Over many crashes the second write is once there, once not and once torn.
        let mut seen = [false; 3];
        for _ in 0..200 {
            let image = disk.after_power_loss(&mut rng, &mut Struck::default());
            let bytes = &image["0000000000000001.segment"];
            assert_eq!(bytes[..PAGE], [1; PAGE]);
            let there = bytes[PAGE..2 * PAGE].iter().filter(|&&b| b == 2).count();
            assert!(there.is_multiple_of(SECTOR_LEN), "{there} bytes of it");
            seen[match there {
                0 => 0,
                PAGE => 1,
                _ => 2,
            }] = true;
        }
        assert_eq!(seen, [true; 3]);
    }

    #[test]
    fn after_a_failed_sync_a_later_one_proves_nothing() {
        let mut lost = 0;
        for seed in 0..50 {
            let (mut disk, file) = disk_with_file();
            let mut rng = Rng::new(seed);
            let id = write(&mut disk, file, 0, 7);
            disk.finish_write(file, id, WriteEnd::Whole);
            let ticket = disk.begin_sync(file);
            disk.finish_sync(ticket, false, &mut rng);
            let ticket = disk.begin_sync(file);
            disk.finish_sync(ticket, true, &mut rng);
            lost += usize::from(disk.durable_bytes(1) != Some(&[7; PAGE][..]));
        }
        assert!((10..40).contains(&lost), "{lost} of 50");
    }

    #[test]
    fn a_file_without_its_folders_sync_may_be_gone() {
        let mut disk = Disk::default();
        let file = disk.create(1).unwrap();
        disk.allocate(1, file, PAGE as u64);
        let mut rng = Rng::new(3);
        let id = write(&mut disk, file, 0, 7);
        disk.finish_write(file, id, WriteEnd::Whole);
        let ticket = disk.begin_sync(file);
        disk.finish_sync(ticket, true, &mut rng);
        assert_eq!(disk.durable_bytes(1), None);
        let gone = (0..100)
            .filter(|_| {
                disk.after_power_loss(&mut rng, &mut Struck::default())
                    .is_empty()
            })
            .count();
        assert!((20..80).contains(&gone), "{gone} of 100");
    }

    #[test]
    #[should_panic(expected = "overlaps one in flight")]
    fn overlapping_writes_are_our_bug() {
        let (mut disk, file) = disk_with_file();
        disk.begin_write(file, 0, vec![0; 2 * PAGE]);
        disk.begin_write(file, PAGE as u64, vec![0; PAGE]);
    }

    #[test]
    #[should_panic(expected = "overwrites")]
    fn what_was_written_is_never_written_again() {
        let (mut disk, file) = disk_with_file();
        let id = write(&mut disk, file, 0, 1);
        disk.finish_write(file, id, WriteEnd::Whole);
        write(&mut disk, file, 0, 1);
    }
}
