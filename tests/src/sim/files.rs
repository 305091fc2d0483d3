//! The sinks' side of the disk: files by name, of which a power loss keeps what was synced, and of
//! the rest whatever it likes: each write whole, torn or not at all, in any order; of the changes of
//! names in a folder the first few.
//!
//! A failed sync is believed by nobody: what it was asked for is on the disk or not, and no later
//! sync says anything about it.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

use penstock::sink::clock::Clock;
use penstock::sink::file::disk::{Disk, Listed};

use super::clock::START_UNIX_NS;
use super::disk::tear;
use super::kernel::{Lie, Mishap, Struck, World};
use super::rng::Rng;

/// A change of a file's bytes that no sync covers.
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Cut(usize),
}

#[derive(Default)]
struct Inode {
    /// What whoever reads it sees.
    bytes: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    modified_ns: u64,
}

/// A change of names that no sync of its folder covers.
#[derive(Debug)]
enum Naming {
    Link(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl Naming {
    fn folder(&self) -> &Path {
        let (Self::Link(path, _) | Self::Rename(path, _) | Self::Remove(path)) = self;
        path.parent().expect("a file stands in a folder")
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Link(path, inode) => {
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

#[derive(Default)]
struct Inner {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    pending: Vec<Naming>,
    cursor_folder_syncs: u64,
}

/// The files of one agent's sinks; clones show the same ones.
#[derive(Clone)]
pub struct Files {
    inner: Rc<RefCell<Inner>>,
    world: Rc<RefCell<World>>,
    clock: Clock,
}

/// An open file.
pub struct OpenFile {
    inode: usize,
    offset: usize,
    /// It holds records, not a cursor.
    is_output: bool,
}

impl Files {
    pub fn new(world: &Rc<RefCell<World>>) -> Self {
        Self {
            inner: Rc::default(),
            world: Rc::clone(world),
            clock: Clock::stepped(START_UNIX_NS),
        }
    }

    /// Brings the sinks' clock to the world's time.
    pub fn tell_time(&self) {
        self.clock.set(self.world.borrow().now_ns());
    }

    pub fn now_ns(&self) -> u64 {
        self.world.borrow().now_ns()
    }

    /// A line of the trace.
    pub fn tell(&self, text: &str) {
        self.world.borrow_mut().tell(text);
    }

    pub fn time(&self) -> &Clock {
        &self.clock
    }

    /// The power is gone and back: what is left is all there is.
    pub fn lose_power(&self, rng: &mut Rng, struck: &mut Struck) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let mut folders: Vec<PathBuf> = Vec::new();
        for naming in &inner.pending {
            if !folders.iter().any(|folder| folder == naming.folder()) {
                folders.push(naming.folder().to_owned());
            }
        }
        for folder in folders {
            let changes: Vec<&Naming> = inner
                .pending
                .iter()
                .filter(|naming| naming.folder() == folder)
                .collect();
            let kept = rng.size(0..=changes.len());
            struck.lost_names += (changes.len() - kept) as u64;
            for naming in &changes[..kept] {
                naming.apply(&mut inner.durable_names);
            }
        }
        inner.pending.clear();
        inner.names = inner.durable_names.clone();
        for inode in &mut inner.inodes {
            let mut bytes = std::mem::take(&mut inode.durable);
            for change in inode.pending.drain(..) {
                match change {
                    Change::Write { offset, data } => {
                        tear(&mut bytes, offset, &data, rng).count(struck);
                    }
                    Change::Cut(len) if rng.chance(500) => bytes.truncate(len),
                    Change::Cut(_) => {}
                }
            }
            inode.durable = bytes.clone();
            inode.bytes = bytes;
        }
    }

    /// Every file with its contents, as a reader finds them now.
    pub fn contents(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let inner = self.inner.borrow();
        let names = inner.names.iter();
        names
            .map(|(path, &inode)| (path.clone(), inner.inodes[inode].bytes.clone()))
            .collect()
    }

    /// What a power loss would leave of a file for certain.
    pub fn durable(&self, path: &Path) -> Option<Vec<u8>> {
        let inner = self.inner.borrow();
        let inode = inner.durable_names.get(path)?;
        Some(inner.inodes[*inode].durable.clone())
    }

    fn inner(&self) -> RefMut<'_, Inner> {
        self.inner.borrow_mut()
    }

    /// Whether a call fails, by chance or for want of room.
    fn fails(&self, per_mille: u32, grows: bool) -> io::Result<()> {
        let mut world = self.world.borrow_mut();
        if grows && world.disk_is_full() {
            world.struck.full_disks += 1;
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        if world.strike(per_mille) {
            world.struck.sink_errors += 1;
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }

    fn name_error(&self, grows: bool) -> io::Result<()> {
        let per_mille = self.world.borrow().faults.file_name_error;
        self.fails(per_mille, grows)
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        let found = self.inner.borrow().names.get(path).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn cursor_folder_mishap(&self) -> bool {
        let nth = self.inner.borrow().cursor_folder_syncs;
        self.inner().cursor_folder_syncs += 1;
        let matches = |mishap: &Mishap| *mishap == Mishap::CursorFolderSyncFails { nth };
        self.world.borrow_mut().mishap(matches).is_some()
    }

    fn note(&self, what: &str, file: &OpenFile, len: usize, ok: bool) {
        let numbers = [file.inode, file.offset, len, usize::from(ok)];
        self.world
            .borrow_mut()
            .note(what, &numbers.map(|number| number as u64));
    }

    fn name(&self, naming: Naming) {
        self.world.borrow_mut().tell(&format!("name {naming:?}"));
        let mut inner = self.inner();
        naming.apply(&mut inner.names);
        inner.pending.push(naming);
    }
}

impl Disk for Files {
    type File = OpenFile;

    fn create_folder(&mut self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&mut self, path: &Path) -> io::Result<OpenFile> {
        self.name_error(true)?;
        if self.find(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = {
            let mut inner = self.inner();
            inner.inodes.push(Inode::default());
            inner.inodes.len() - 1
        };
        self.name(Naming::Link(path.to_owned(), inode));
        Ok(OpenFile {
            inode,
            offset: 0,
            is_output: is_output(path),
        })
    }

    fn open_cut(&mut self, path: &Path, len: u64) -> io::Result<OpenFile> {
        let inode = self.find(path)?;
        let mut inner = self.inner();
        let file = &mut inner.inodes[inode];
        let len = len as usize;
        assert!(
            len <= file.bytes.len(),
            "{} is cut to {len} bytes and has {}",
            path.display(),
            file.bytes.len()
        );
        file.bytes.truncate(len);
        file.pending.push(Change::Cut(len));
        drop(inner);
        let file = OpenFile {
            inode,
            offset: len,
            is_output: is_output(path),
        };
        self.note("file cut", &file, len, true);
        Ok(file)
    }

    fn read(&mut self, path: &Path, len_max: u64) -> io::Result<Vec<u8>> {
        let inode = self.find(path)?;
        let inner = self.inner.borrow();
        let bytes = &inner.inodes[inode].bytes;
        Ok(bytes[..bytes.len().min(len_max as usize)].to_vec())
    }

    fn write(&mut self, file: &mut OpenFile, bytes: &[u8]) -> io::Result<()> {
        let per_mille = self.world.borrow().faults.file_write_error;
        let outcome = self.fails(per_mille, true);
        self.note("file write", file, bytes.len(), outcome.is_ok());
        let written = match &outcome {
            Ok(()) => bytes.len(),
            // Some of it may have gone in before.
            Err(_) => self.world.borrow_mut().draw(0..=bytes.len()),
        };
        let now_ns = self.world.borrow().now_ns();
        let mut inner = self.inner();
        let inode = &mut inner.inodes[file.inode];
        inode.modified_ns = now_ns;
        let end = file.offset + written;
        if inode.bytes.len() < end {
            inode.bytes.resize(end, 0);
        }
        inode.bytes[file.offset..end].copy_from_slice(&bytes[..written]);
        inode.pending.push(Change::Write {
            offset: file.offset,
            data: bytes[..written].to_vec(),
        });
        file.offset = end;
        outcome
    }

    fn sync(&mut self, file: &mut OpenFile) -> io::Result<()> {
        if file.is_output && self.world.borrow().lie == Some(Lie::CursorBeforeOutput) {
            return Ok(());
        }
        let per_mille = self.world.borrow().faults.file_sync_error;
        let outcome = self.fails(per_mille, false);
        self.note("file sync", file, 0, outcome.is_ok());
        let mut inner = self.inner();
        let inode = &mut inner.inodes[file.inode];
        let mut world = self.world.borrow_mut();
        for change in std::mem::take(&mut inode.pending) {
            if outcome.is_err() && world.draw(0..=1) == 0 {
                continue;
            }
            match change {
                Change::Write { offset, data } => {
                    let end = offset + data.len();
                    if inode.durable.len() < end {
                        inode.durable.resize(end, 0);
                    }
                    inode.durable[offset..end].copy_from_slice(&data);
                }
                Change::Cut(len) => inode.durable.truncate(len),
            }
        }
        outcome
    }

    fn sync_folder(&mut self, folder: &Path) -> io::Result<()> {
        let of_cursors = folder.ends_with(penstock::sink::file::CURSORS_FOLDER);
        if of_cursors && self.cursor_folder_mishap() {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.name_error(false)?;
        let mut inner = self.inner();
        let inner = &mut *inner;
        let (synced, left): (Vec<Naming>, Vec<Naming>) = std::mem::take(&mut inner.pending)
            .into_iter()
            .partition(|naming| naming.folder() == folder);
        for naming in synced {
            naming.apply(&mut inner.durable_names);
        }
        inner.pending = left;
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.name_error(false)?;
        self.find(from)?;
        if is_output(to) && to.extension().is_some_and(|end| end != "open") {
            self.world.borrow_mut().struck.files_sealed += 1;
        }
        self.name(Naming::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.name_error(false)?;
        self.find(path)?;
        self.name(Naming::Remove(path.to_owned()));
        Ok(())
    }

    fn list(&mut self, folder: &Path) -> io::Result<Vec<Listed>> {
        let inner = self.inner.borrow();
        let here = inner
            .names
            .iter()
            .filter(|(path, _)| path.parent() == Some(folder));
        let listed = here.map(|(path, &inode)| {
            let name = path.file_name().expect("a file has a name");
            Listed {
                name: name.to_string_lossy().into_owned(),
                len: inner.inodes[inode].bytes.len() as u64,
                modified: UNIX_EPOCH
                    + Duration::from_nanos(START_UNIX_NS + inner.inodes[inode].modified_ns),
            }
        });
        Ok(listed.collect())
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }
}

/// Whether a file holds records.
pub fn is_output(path: &Path) -> bool {
    let folder = path.parent().and_then(Path::file_name);
    folder.is_some_and(|folder| folder == penstock::sink::file::RECORDS_FOLDER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::kernel::Sizes;

    fn files() -> Files {
        let world = World::new(Rng::new(1), Sizes::default());
        Files::new(&Rc::new(RefCell::new(world)))
    }

    const OLD: &str = "/d/records/a.open";
    const NEW: &str = "/d/records/a";

    #[test]
    fn a_power_loss_keeps_what_was_synced_and_of_the_rest_what_it_likes() {
        let mut seen = [false; 3];
        for seed in 0..100 {
            let mut files = files();
            let mut file = files.create(Path::new(OLD)).unwrap();
            files.write(&mut file, &[1; 1024]).unwrap();
            files.sync(&mut file).unwrap();
            files.sync_folder(Path::new("/d/records")).unwrap();
            files.write(&mut file, &[2; 1024]).unwrap();
            files.lose_power(&mut Rng::new(seed), &mut Struck::default());
            let bytes = files.read(Path::new(OLD), 4096).unwrap();
            assert_eq!(bytes[..1024], [1; 1024]);
            let there = bytes[1024..].iter().filter(|&&byte| byte == 2).count();
            seen[match there {
                0 => 0,
                1024 => 1,
                512 => 2,
                other => panic!("{other} bytes of it"),
            }] = true;
        }
        assert_eq!(seen, [true; 3]);
    }

    #[test]
    fn a_name_is_there_for_certain_only_after_its_folders_sync() {
        let mut old = 0;
        for seed in 0..100 {
            let mut files = files();
            files.create(Path::new(OLD)).unwrap();
            files.sync_folder(Path::new("/d/records")).unwrap();
            files.rename(Path::new(OLD), Path::new(NEW)).unwrap();
            files.lose_power(&mut Rng::new(seed), &mut Struck::default());
            let listed = files.list(Path::new("/d/records")).unwrap();
            assert_eq!(listed.len(), 1, "one name or the other");
            old += usize::from(listed[0].name == "a.open");
        }
        assert!((20..80).contains(&old), "{old} of 100");
    }
}
