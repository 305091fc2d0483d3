//! A crash at every step: a disk that loses what was not synced, and a plain vector to compare with.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::*;
use crate::sink::file::disk::Listed;
use crate::sink::sample::{SampleEntry, SampleJournal, numbered};
use crate::sink::{Cursor, SinkError};

/// What a file holds now, and what of it a power cut would leave.
#[derive(Clone, Default)]
struct Inode {
    now: Vec<u8>,
    synced: Vec<u8>,
}

/// A change of a folder that is not yet durable.
#[derive(Clone)]
enum NameChange {
    Add(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl NameChange {
    fn folder(&self) -> &Path {
        let (Self::Add(path, _) | Self::Rename(path, _) | Self::Remove(path)) = self;
        path.parent().expect("files stand in folders")
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Add(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

/// A file system with two faces: what programs see, and what is on the platter.
#[derive(Default)]
struct Model {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    synced_names: BTreeMap<PathBuf, usize>,
    pending: Vec<NameChange>,
    /// Calls left until the power is cut; `None`: it stays.
    calls_left: Option<u64>,
    calls: u64,
}

/// What survives of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Survives {
    /// The process was killed: the kernel still has everything.
    Everything,
    /// The power was cut at once.
    Nothing,
    /// Something in between: names up to some change, files up to some length, maybe as zeros.
    Some,
}

impl Model {
    fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        match &mut self.calls_left {
            Some(0) => Err(io::Error::other("the power is cut")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    fn restart(&mut self, survives: Survives, random: &mut impl Rng) {
        self.calls_left = None;
        let kept = match survives {
            Survives::Everything => self.pending.len(),
            Survives::Nothing => 0,
            // A journalling file system keeps the order of changes.
            Survives::Some => below(random, self.pending.len() + 1),
        };
        for change in &self.pending[..kept] {
            change.apply(&mut self.synced_names);
        }
        self.pending.clear();
        self.names = self.synced_names.clone();
        for inode in &mut self.inodes {
            match survives {
                Survives::Everything => {}
                Survives::Nothing => inode.now = inode.synced.clone(),
                Survives::Some => tear(inode, random),
            }
            inode.synced = inode.now.clone();
        }
    }
}

/// Keeps the synced bytes, and of those written since some, and maybe zeros in their place.
fn tear(inode: &mut Inode, random: &mut impl Rng) {
    let common = inode.synced.len().min(inode.now.len());
    if inode.now[..common] != inode.synced[..common] || inode.now.len() < inode.synced.len() {
        // Cut since the sync: the cut happened, or it did not.
        if random.next_u32() & 1 == 0 {
            inode.now = inode.synced.clone();
        }
        return;
    }
    let added = inode.now.len() - common;
    inode.now.truncate(common + below(random, added + 1));
    if random.next_u32() & 1 == 0 {
        let zeros = common + below(random, inode.now.len() - common + 1);
        inode.now[zeros..].fill(0);
    }
}

fn below(random: &mut impl Rng, bound: usize) -> usize {
    (random.next_u64() % bound as u64) as usize
}

#[derive(Clone, Default)]
struct ModelDisk(Rc<RefCell<Model>>);

struct ModelFile(usize);

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for ModelDisk {
    type File = ModelFile;

    fn create_folder(&mut self, _folder: &Path) -> io::Result<()> {
        // Folders are there from the start: their creation is not what is tested.
        self.0.borrow_mut().call()
    }

    fn create(&mut self, path: &Path) -> io::Result<ModelFile> {
        let mut model = self.0.borrow_mut();
        model.call()?;
        if model.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = model.inodes.len();
        model.inodes.push(Inode::default());
        model.change(NameChange::Add(path.to_owned(), inode));
        Ok(ModelFile(inode))
    }

    fn open_cut(&mut self, path: &Path, len: u64) -> io::Result<ModelFile> {
        let mut model = self.0.borrow_mut();
        model.call()?;
        let inode = *model.names.get(path).ok_or_else(not_found)?;
        model.inodes[inode].now.resize(len as usize, 0);
        Ok(ModelFile(inode))
    }

    fn read(&mut self, path: &Path, len_max: u64) -> io::Result<Vec<u8>> {
        let mut model = self.0.borrow_mut();
        model.call()?;
        let inode = *model.names.get(path).ok_or_else(not_found)?;
        let bytes = &model.inodes[inode].now;
        Ok(bytes[..bytes.len().min(len_max as usize)].to_vec())
    }

    fn write(&mut self, file: &mut ModelFile, bytes: &[u8]) -> io::Result<()> {
        let mut model = self.0.borrow_mut();
        // A write that is cut off may have got half way.
        let called = model.call();
        let taken = if called.is_ok() {
            bytes.len()
        } else {
            bytes.len() / 2
        };
        model.inodes[file.0].now.extend_from_slice(&bytes[..taken]);
        called
    }

    fn sync(&mut self, file: &mut ModelFile) -> io::Result<()> {
        let mut model = self.0.borrow_mut();
        model.call()?;
        let inode = &mut model.inodes[file.0];
        inode.synced = inode.now.clone();
        Ok(())
    }

    fn sync_folder(&mut self, folder: &Path) -> io::Result<()> {
        let mut model = self.0.borrow_mut();
        model.call()?;
        let pending = std::mem::take(&mut model.pending);
        let (here, elsewhere): (Vec<_>, Vec<_>) = pending
            .into_iter()
            .partition(|change| change.folder() == folder);
        for change in &here {
            change.apply(&mut model.synced_names);
        }
        model.pending = elsewhere;
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let mut model = self.0.borrow_mut();
        model.call()?;
        if !model.names.contains_key(from) {
            return Err(not_found());
        }
        model.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        let mut model = self.0.borrow_mut();
        model.call()?;
        if !model.names.contains_key(path) {
            return Err(not_found());
        }
        model.change(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn list(&mut self, folder: &Path) -> io::Result<Vec<Listed>> {
        let mut model = self.0.borrow_mut();
        model.call()?;
        let files = model
            .names
            .iter()
            .filter(|(path, _)| path.parent() == Some(folder));
        Ok(files
            .map(|(path, inode)| Listed {
                name: path
                    .file_name()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned(),
                len: model.inodes[*inode].now.len() as u64,
                modified: SystemTime::now(),
            })
            .collect())
    }
}

/// Bodies of all records in the sink's files, as programs see them.
fn bodies(disk: &ModelDisk) -> Vec<String> {
    let model = disk.0.borrow();
    let mut bodies = Vec::new();
    for (path, inode) in &model.names {
        if !path.starts_with("/data/records") {
            continue;
        }
        let mut file = tempfile::tempfile().expect("a file");
        io::Write::write_all(&mut file, &model.inodes[*inode].now).expect("write");
        let mut reader = RecordsReader::open(file, path).expect("a sink's file");
        loop {
            match reader
                .read_next()
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
            {
                Next::Records(records) => bodies.extend(records.iter().map(|r| r.body.to_owned())),
                Next::End => break,
                Next::Partial => panic!("{} is cut short", path.display()),
            }
        }
    }
    bodies
}

/// One life of the sink: resume, then block after block with a commit after every second one, and a
/// seal at the end. Ends at the first failed call.
fn live(
    disk: &ModelDisk,
    settings: &SinkSettings,
    journal: &SampleJournal,
) -> Result<(), SinkError> {
    let mut sink = sink_on(disk.clone(), Path::new("/data"), settings);
    let cursor = match sink.resume()? {
        Some(cursor) => cursor,
        None => {
            sink.begin(Cursor::default())?;
            Cursor::default()
        }
    };
    let mut reader = JournalReader::open(&journal.folder, cursor.position).expect("open");
    let mut since_commit = 0;
    while let Some(block) = reader.next_block(journal.position).expect("read") {
        sink.deliver(block)?;
        since_commit += 1;
        if since_commit == 2 {
            sink.commit()?;
            since_commit = 0;
        }
    }
    sink.seal()?;
    Ok(())
}

/// Blocks longer than an Avro block, so that some output is written before its commit.
fn journal(data_dir: &Path) -> (SampleJournal, Vec<String>) {
    let mut journal = SampleJournal::new(data_dir);
    let mut expected = Vec::new();
    for block in 0..7 {
        let records: Vec<_> = (0..3)
            .map(|at| {
                let mut record = numbered(block * 3 + at);
                record.body.push_str(&"x".repeat(60_000));
                record
            })
            .collect();
        expected.extend(bodies_of(&records));
        journal.append(&[SampleEntry::protobuf(block, records)]);
    }
    (journal, expected)
}

fn settings_with_rotation(format: (FileFormat, Compression)) -> SinkSettings {
    SinkSettings {
        // A file is full after its second commit; compressed, after its first.
        rotate_size: match format.1 {
            Compression::None => 500_000,
            Compression::Zstd | Compression::Snappy => 400,
        },
        ..settings_of(format)
    }
}

fn random(seed: u64) -> TestRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}

#[test]
fn after_a_crash_at_any_call_every_record_is_stored_once() {
    for format in FORMATS {
        crash_at_any_call(format);
    }
}

fn crash_at_any_call(format: (FileFormat, Compression)) {
    let folder = tempfile::tempdir().expect("a folder");
    let (journal, expected) = journal(folder.path());
    let settings = settings_with_rotation(format);
    let whole = ModelDisk::default();
    live(&whole, &settings, &journal).expect("no crash");
    assert_eq!(bodies(&whole), expected);
    let calls = whole.0.borrow().calls;
    assert!(calls > 50, "{calls} calls");
    let sealed = whole
        .0
        .borrow()
        .names
        .keys()
        .filter(|p| p.starts_with("/data/records") && p.extension() != Some("open".as_ref()))
        .count();
    assert!(sealed >= 2, "rotation is part of it: {sealed} files");
    for survives in [Survives::Everything, Survives::Nothing, Survives::Some] {
        for crash_at in 0..calls {
            let disk = ModelDisk::default();
            disk.0.borrow_mut().calls_left = Some(crash_at);
            live(&disk, &settings, &journal).expect_err("the crash");
            disk.0.borrow_mut().restart(survives, &mut random(crash_at));
            live(&disk, &settings, &journal).expect("the second life");
            assert_eq!(
                bodies(&disk),
                expected,
                "{format:?}: crash at call {crash_at}, {survives:?} survives"
            );
        }
    }
}

#[test]
fn crash_after_crash_every_record_is_stored_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let (journal, expected) = journal(folder.path());
    for seed in 0..210 {
        let settings = settings_with_rotation(FORMATS[seed as usize % FORMATS.len()]);
        let mut random = random(seed);
        let disk = ModelDisk::default();
        // Short lives, until one gets to the end.
        let mut lives = 0;
        loop {
            disk.0.borrow_mut().calls_left = Some(below(&mut random, 45) as u64 + lives);
            lives += 1;
            match live(&disk, &settings, &journal) {
                Ok(()) => break,
                Err(error) => {
                    // Each life is longer than the one before: this many are a fault of the sink's.
                    assert!(
                        lives < 300,
                        "seed {seed}: no end after {lives} lives: {error}"
                    );
                    let survives = [Survives::Everything, Survives::Nothing, Survives::Some];
                    let survives = survives[below(&mut random, 3)];
                    disk.0.borrow_mut().restart(survives, &mut random);
                }
            }
        }
        assert_eq!(bodies(&disk), expected, "seed {seed}, {lives} lives");
    }
}
