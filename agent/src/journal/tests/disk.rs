//! A disk in memory. A write is on it for certain only after a sync that was asked for when the
//! write was already over; a name only after its folder's sync; removals reach it in order, as they
//! do in a journalling file system.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::journal::format::{segment_file_name, segment_number};

const SECTOR_LEN: usize = 512;

/// Small and enough: xorshift64*, seeded by the test's own input, so that a failure replays.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % end
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InFlight,
    /// Over: the next sync that is pushed makes it durable.
    Done,
    /// It or a sync of it failed: no later sync says anything about it.
    Doubtful,
}

struct Write {
    id: u64,
    offset: u64,
    bytes: Vec<u8>,
    state: State,
}

#[derive(Default)]
struct File {
    name_durable: bool,
    len: u64,
    /// Pieces at their offsets; a later piece lies over an earlier one.
    durable: Vec<(u64, Vec<u8>)>,
    writes: Vec<Write>,
}

/// What a crash left: each file's length and its pieces.
pub type Image = BTreeMap<u64, (u64, Vec<(u64, Vec<u8>)>)>;

/// One shard's folder.
#[derive(Default)]
pub struct Disk {
    files: BTreeMap<u64, File>,
    /// Removed, in order; the folder is not synced since.
    removed: Vec<(u64, File)>,
    writes_made: u64,
}

impl Disk {
    /// The disk as it is after recovery looked at `image` in `folder`: what is left of it there is
    /// durable.
    pub fn recovered(image: Image, folder: &Path) -> Self {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(folder).expect("read the folder") {
            let entry = entry.expect("an entry");
            let name = entry.file_name();
            let number = segment_number(name.to_str().expect("a name")).expect("a segment");
            let len = entry.metadata().expect("stat").len();
            let mut durable = image[&number].1.clone();
            durable.retain(|(offset, _)| *offset < len);
            for (offset, bytes) in &mut durable {
                bytes.truncate((len - *offset) as usize);
            }
            let file = File {
                name_durable: true,
                len,
                durable,
                writes: Vec::new(),
            };
            files.insert(number, file);
        }
        Self {
            files,
            ..Self::default()
        }
    }

    pub fn create(&mut self, number: u64) {
        let before = self.files.insert(number, File::default());
        assert!(before.is_none(), "segment {number} is created twice");
    }

    pub fn allocate(&mut self, number: u64, len: u64) {
        self.file(number).len = len;
    }

    pub fn begin_write(&mut self, number: u64, offset: u64, bytes: Vec<u8>) -> u64 {
        let id = self.writes_made;
        self.writes_made += 1;
        let file = self.file(number);
        let end = offset + bytes.len() as u64;
        assert!(
            end <= file.len,
            "a write to {end} of {} allocated",
            file.len
        );
        for (start, piece) in &file.durable {
            assert!(
                end <= *start || start + piece.len() as u64 <= offset,
                "segment {number}: a write at {offset} goes over a durable one at {start}"
            );
        }
        for other in &file.writes {
            assert!(
                end <= other.offset || other.offset + other.bytes.len() as u64 <= offset,
                "segment {number}: a write at {offset} goes over another at {}",
                other.offset
            );
        }
        file.writes.push(Write {
            id,
            offset,
            bytes,
            state: State::InFlight,
        });
        id
    }

    /// `Ok(whole)`, `Ok(fewer)` or an error: of a write that is not whole any part may be there.
    pub fn end_write(&mut self, number: u64, id: u64, whole: bool) {
        let file = self.file(number);
        let write = file.writes.iter_mut().find(|write| write.id == id);
        write.expect("it is in flight").state = match whole {
            true => State::Done,
            false => State::Doubtful,
        };
    }

    /// The writes that a sync pushed now covers.
    pub fn begin_sync(&mut self, number: u64) -> Vec<u64> {
        let done = |write: &&Write| write.state == State::Done;
        let writes = &self.file(number).writes;
        writes.iter().filter(done).map(|write| write.id).collect()
    }

    pub fn end_sync(&mut self, number: u64, covers: &[u64], ok: bool) {
        let file = self.file(number);
        for mut write in std::mem::take(&mut file.writes) {
            if !covers.contains(&write.id) {
                file.writes.push(write);
            } else if ok {
                file.durable.push((write.offset, write.bytes));
            } else {
                write.state = State::Doubtful;
                file.writes.push(write);
            }
        }
    }

    pub fn names(&self) -> Vec<u64> {
        self.files.keys().copied().collect()
    }

    pub fn end_folder_sync(&mut self, names: &[u64], removed: usize) {
        for (_, file) in self.files.iter_mut().filter(|file| names.contains(file.0)) {
            file.name_durable = true;
        }
        self.removed.drain(..removed);
    }

    /// How many removals a folder sync that is pushed now covers.
    pub fn removals(&self) -> usize {
        self.removed.len()
    }

    pub fn close(&mut self, number: u64) {
        let in_flight = |write: &Write| write.state == State::InFlight;
        assert!(
            !self.file(number).writes.iter().any(in_flight),
            "segment {number} is closed with writes in flight"
        );
    }

    pub fn remove(&mut self, number: u64) {
        let file = self.files.remove(&number).expect("it is there");
        self.removed.push((number, file));
    }

    /// What the power's loss leaves: what is durable; of each other write all, nothing, its first
    /// sectors or any of them; of the names that were not synced, any.
    pub fn crash(mut self, rng: &mut Rng) -> Image {
        let kept = rng.below(self.removed.len() + 1);
        for (number, file) in self.removed.drain(kept..) {
            self.files.insert(number, file);
        }
        let mut image = Image::new();
        for (number, file) in self.files {
            if !file.name_durable && rng.one_in(2) {
                continue;
            }
            let mut pieces = file.durable;
            for write in &file.writes {
                tear(&mut pieces, write, rng);
            }
            image.insert(number, (file.len, pieces));
        }
        image
    }

    /// What another process sees now: whatever the kernel was given.
    pub fn view(&self) -> Image {
        let whole = |write: &Write| (write.offset, write.bytes.clone());
        let pieces = |file: &File| {
            let durable = file.durable.iter().cloned();
            durable.chain(file.writes.iter().map(whole)).collect()
        };
        let files = self.files.iter();
        files.map(|(n, f)| (*n, (f.len, pieces(f)))).collect()
    }

    fn file(&mut self, number: u64) -> &mut File {
        let file = self.files.get_mut(&number);
        file.unwrap_or_else(|| panic!("segment {number} is not there"))
    }
}

fn tear(pieces: &mut Vec<(u64, Vec<u8>)>, write: &Write, rng: &mut Rng) {
    let sectors = write.bytes.len() / SECTOR_LEN;
    let mut keep = |sectors: std::ops::Range<usize>| {
        let bytes = sectors.start * SECTOR_LEN..sectors.end * SECTOR_LEN;
        let offset = write.offset + bytes.start as u64;
        pieces.push((offset, write.bytes[bytes].to_vec()));
    };
    match rng.below(4) {
        0 => {}
        1 => keep(0..sectors),
        2 => keep(0..rng.below(sectors + 1)),
        _ => (0..sectors)
            .filter(|_| rng.one_in(2))
            .for_each(|at| keep(at..at + 1)),
    }
}

/// Puts an image into a folder as files, holes where nothing was written.
pub fn write_image(image: &Image, folder: &Path) {
    for (number, (len, pieces)) in image {
        let path = folder.join(segment_file_name(*number));
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).open(path);
        let file = file.expect("create a segment");
        file.set_len(*len).expect("its length");
        for (offset, bytes) in pieces {
            file.write_all_at(bytes, *offset).expect("write");
        }
    }
}
