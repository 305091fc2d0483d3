//! The file system as two images of one tree: what a process sees, and what the power cannot take.
//!
//! A strict POSIX disk. A file's bytes and length are durable once the *file* was synced; that a
//! name stands in a folder, stands there no more or was renamed is durable once the *folder* was
//! synced. Neither says anything of the other: a synced file in a folder that was not synced is
//! lost. Real file systems promise more; software that asks for no more than this runs on all.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::SystemTime;

pub const PAGE_LEN: usize = 4096;
/// What a disk writes wholly or not at all.
pub const SECTOR_LEN: usize = 512;

/// An inode's number; each is given out once.
pub type Ino = u64;
pub const ROOT: Ino = 1;

pub(super) type Page = Arc<[u8; PAGE_LEN]>;
/// A call's answer: the `errno` where it fails.
pub type Answer<T> = Result<T, i32>;

/// A file's bytes; a page that is not there is zeroes.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub len: u64,
    pub pages: BTreeMap<u64, Page>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct FileNode {
    pub now: Content,
    pub durable: Content,
    /// Pages that changed since they were last synced.
    pub dirty: BTreeSet<u64>,
    /// Pages that fallocate set aside, from the file's beginning.
    pub reserved: u64,
}

/// One change of a folder that no sync has made durable.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Added {
        name: OsString,
        ino: Ino,
    },
    Removed {
        name: OsString,
        ino: Ino,
    },
    /// Within the folder, over what had the new name: all of it or nothing.
    Renamed {
        from: OsString,
        to: OsString,
        ino: Ino,
    },
}

pub(super) type Names = BTreeMap<OsString, Ino>;

#[derive(Clone, Debug, Default)]
pub(super) struct FolderNode {
    pub now: Names,
    pub durable: Names,
    /// From `durable` to `now`.
    pub changes: Vec<Change>,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    File(FileNode),
    Folder(FolderNode),
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub kind: Kind,
    pub mode: u16,
    pub modified: SystemTime,
    /// The path below the root at which it was made: what a fault can be aimed at.
    pub place: Arc<str>,
    pub opens: u64,
}

/// What `stat` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub ino: Ino,
    pub len: u64,
    pub allocated_pages: u64,
    pub modified: SystemTime,
    pub is_folder: bool,
    pub mode: u16,
}

#[derive(Debug)]
pub struct Image {
    pub(super) nodes: HashMap<Ino, Node>,
    pub(super) next_ino: Ino,
    /// Pages that all files together may take.
    pub pages_max: u64,
}

impl Image {
    pub fn new(pages_max: u64) -> Self {
        let root = Node {
            kind: Kind::Folder(FolderNode::default()),
            mode: 0o755,
            modified: SystemTime::now(),
            place: Arc::from(""),
            opens: 0,
        };
        Self {
            nodes: HashMap::from([(ROOT, root)]),
            next_ino: ROOT + 1,
            pages_max,
        }
    }

    fn node(&self, ino: Ino) -> Answer<&Node> {
        self.nodes.get(&ino).ok_or(libc::ESTALE)
    }

    fn node_mut(&mut self, ino: Ino) -> Answer<&mut Node> {
        self.nodes.get_mut(&ino).ok_or(libc::ESTALE)
    }

    fn folder(&self, ino: Ino) -> Answer<&FolderNode> {
        match &self.node(ino)?.kind {
            Kind::Folder(folder) => Ok(folder),
            Kind::File(_) => Err(libc::ENOTDIR),
        }
    }

    fn folder_mut(&mut self, ino: Ino) -> Answer<&mut FolderNode> {
        let node = self.node_mut(ino)?;
        node.modified = SystemTime::now();
        match &mut node.kind {
            Kind::Folder(folder) => Ok(folder),
            Kind::File(_) => Err(libc::ENOTDIR),
        }
    }

    fn file(&self, ino: Ino) -> Answer<&FileNode> {
        match &self.node(ino)?.kind {
            Kind::File(file) => Ok(file),
            Kind::Folder(_) => Err(libc::EISDIR),
        }
    }

    fn file_mut(&mut self, ino: Ino) -> Answer<&mut FileNode> {
        match &mut self.node_mut(ino)?.kind {
            Kind::File(file) => Ok(file),
            Kind::Folder(_) => Err(libc::EISDIR),
        }
    }

    pub fn place(&self, ino: Ino) -> Arc<str> {
        self.nodes
            .get(&ino)
            .map_or(Arc::from(""), |node| Arc::clone(&node.place))
    }

    pub fn attributes(&self, ino: Ino) -> Answer<Attributes> {
        let node = self.node(ino)?;
        let (len, allocated_pages, is_folder) = match &node.kind {
            Kind::File(file) => (file.now.len, file.allocated_pages(), false),
            Kind::Folder(_) => (0, 0, true),
        };
        Ok(Attributes {
            ino,
            len,
            allocated_pages,
            modified: node.modified,
            is_folder,
            mode: node.mode,
        })
    }

    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Answer<Ino> {
        let found = self.folder(parent)?.now.get(name);
        found.copied().ok_or(libc::ENOENT)
    }

    /// A folder's names, in order.
    pub fn list(&self, ino: Ino) -> Answer<Vec<(OsString, Ino)>> {
        let names = self.folder(ino)?.now.iter();
        Ok(names.map(|(name, ino)| (name.clone(), *ino)).collect())
    }

    pub fn make(
        &mut self,
        parent: Ino,
        name: &OsStr,
        mode: u16,
        is_folder: bool,
    ) -> Answer<Attributes> {
        if self.folder(parent)?.now.contains_key(name) {
            return Err(libc::EEXIST);
        }
        let ino = self.next_ino;
        self.next_ino += 1;
        let place = match &*self.place(parent) {
            "" => name.to_string_lossy().into_owned(),
            above => format!("{above}/{}", name.to_string_lossy()),
        };
        let folder = self.folder_mut(parent)?;
        folder.now.insert(name.to_owned(), ino);
        folder.changes.push(Change::Added {
            name: name.to_owned(),
            ino,
        });
        let kind = match is_folder {
            true => Kind::Folder(FolderNode::default()),
            false => Kind::File(FileNode::default()),
        };
        let node = Node {
            kind,
            mode,
            modified: SystemTime::now(),
            place: Arc::from(place),
            opens: 0,
        };
        self.nodes.insert(ino, node);
        self.attributes(ino)
    }

    pub fn remove(&mut self, parent: Ino, name: &OsStr, is_folder: bool) -> Answer<()> {
        let ino = self.lookup(parent, name)?;
        match (&self.node(ino)?.kind, is_folder) {
            (Kind::File(_), true) => return Err(libc::ENOTDIR),
            (Kind::Folder(_), false) => return Err(libc::EISDIR),
            (Kind::Folder(folder), true) if !folder.now.is_empty() => return Err(libc::ENOTEMPTY),
            _ => {}
        }
        let folder = self.folder_mut(parent)?;
        folder.now.remove(name);
        folder.changes.push(Change::Removed {
            name: name.to_owned(),
            ino,
        });
        Ok(())
    }

    pub fn rename(&mut self, parent: Ino, from: &OsStr, to: &OsStr) -> Answer<()> {
        let ino = self.lookup(parent, from)?;
        let folder = self.folder_mut(parent)?;
        folder.now.remove(from);
        folder.now.insert(to.to_owned(), ino);
        folder.changes.push(Change::Renamed {
            from: from.to_owned(),
            to: to.to_owned(),
            ino,
        });
        Ok(())
    }

    pub fn read(&self, ino: Ino, offset: u64, len: usize) -> Answer<Vec<u8>> {
        Ok(self.file(ino)?.now.read(offset, len))
    }

    pub fn write(&mut self, ino: Ino, offset: u64, bytes: &[u8]) -> Answer<()> {
        let added = self.file(ino)?.pages_added_by(offset, bytes.len());
        self.reserve_room(added)?;
        let node = self.node_mut(ino)?;
        node.modified = SystemTime::now();
        let file = self.file_mut(ino)?;
        file.write(offset, bytes);
        Ok(())
    }

    pub fn set_len(&mut self, ino: Ino, len: u64) -> Answer<()> {
        self.node_mut(ino)?.modified = SystemTime::now();
        self.file_mut(ino)?.set_len(len);
        Ok(())
    }

    /// fallocate with mode 0: room is set aside, the file grows, and reads as zeroes.
    pub fn allocate(&mut self, ino: Ino, offset: u64, len: u64) -> Answer<()> {
        let end = offset + len;
        let pages = end.div_ceil(PAGE_LEN as u64);
        let has = self.file(ino)?.allocated_pages();
        self.reserve_room(pages.saturating_sub(has))?;
        let file = self.file_mut(ino)?;
        file.reserved = file.reserved.max(pages);
        file.now.len = file.now.len.max(end);
        Ok(())
    }

    fn reserve_room(&self, pages: u64) -> Answer<()> {
        if pages > 0 && self.pages_used() + pages > self.pages_max {
            return Err(libc::ENOSPC);
        }
        Ok(())
    }

    /// Pages of files that have a name or are open.
    pub fn pages_used(&self) -> u64 {
        let files = self.nodes.values().filter_map(|node| match &node.kind {
            Kind::File(file) => Some(file.allocated_pages()),
            Kind::Folder(_) => None,
        });
        files.sum()
    }

    /// fsync or fdatasync of a file. The length goes with the bytes in either: without it they
    /// could not be read back (fdatasync(2)).
    pub fn sync(&mut self, ino: Ino) -> Answer<()> {
        self.file_mut(ino)?.sync();
        Ok(())
    }

    /// A sync that failed, as Linux leaves it: the pages count as clean, are still read, and no
    /// later sync writes them.
    pub fn sync_failed(&mut self, ino: Ino) -> Answer<()> {
        self.file_mut(ino)?.dirty.clear();
        Ok(())
    }

    pub fn sync_folder(&mut self, ino: Ino) -> Answer<()> {
        let folder = self.folder_mut(ino)?;
        folder.durable = folder.now.clone();
        folder.changes.clear();
        self.collect();
        Ok(())
    }

    pub fn opened(&mut self, ino: Ino) -> Answer<()> {
        self.node_mut(ino)?.opens += 1;
        Ok(())
    }

    pub fn released(&mut self, ino: Ino) {
        // An inode from before the power was cut may be gone.
        if let Ok(node) = self.node_mut(ino) {
            node.opens -= 1;
        }
        self.collect();
    }

    /// Forgets what no name, no change of names and no open file leads to.
    fn collect(&mut self) {
        let mut reached = HashSet::from([ROOT]);
        for node in self.nodes.values() {
            if let Kind::Folder(folder) = &node.kind {
                reached.extend(folder.now.values().chain(folder.durable.values()));
                reached.extend(folder.changes.iter().map(Change::ino));
            }
        }
        self.nodes
            .retain(|ino, node| node.opens > 0 || reached.contains(ino));
    }
}

impl Change {
    pub fn ino(&self) -> Ino {
        match self {
            Self::Added { ino, .. } | Self::Removed { ino, .. } | Self::Renamed { ino, .. } => *ino,
        }
    }

    /// Makes the change to a folder that may lack others which came before it.
    pub fn apply(&self, names: &mut Names) {
        match self {
            Self::Added { name, ino } => {
                names.insert(name.clone(), *ino);
            }
            Self::Removed { name, ino } => {
                if names.get(name) == Some(ino) {
                    names.remove(name);
                }
            }
            Self::Renamed { from, to, ino } => {
                if names.get(from) == Some(ino) {
                    names.remove(from);
                }
                names.insert(to.clone(), *ino);
            }
        }
    }
}

impl Content {
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = self.len.min(offset + len as u64);
        let mut bytes = vec![0; end.saturating_sub(offset) as usize];
        for (index, at, part) in parts(offset, bytes.len()) {
            if let Some(page) = self.pages.get(&index) {
                bytes[part.clone()].copy_from_slice(&page[at..][..part.len()]);
            }
        }
        bytes
    }
}

impl FileNode {
    pub fn allocated_pages(&self) -> u64 {
        let beyond = self.now.pages.range(self.reserved..).count() as u64;
        self.reserved + beyond
    }

    fn pages_added_by(&self, offset: u64, len: usize) -> u64 {
        let added = |(index, ..): &(u64, usize, std::ops::Range<usize>)| {
            *index >= self.reserved && !self.now.pages.contains_key(index)
        };
        parts(offset, len).filter(added).count() as u64
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (index, at, part) in parts(offset, bytes.len()) {
            let page = self.now.pages.entry(index);
            let page = page.or_insert_with(|| Arc::new([0; PAGE_LEN]));
            Arc::make_mut(page)[at..][..part.len()].copy_from_slice(&bytes[part]);
            self.dirty.insert(index);
        }
        self.now.len = self.now.len.max(offset + bytes.len() as u64);
    }

    fn set_len(&mut self, len: u64) {
        if len < self.now.len {
            let kept = len.div_ceil(PAGE_LEN as u64);
            self.dirty.extend(self.now.pages.split_off(&kept).keys());
            self.reserved = self.reserved.min(kept);
            // What lies behind the end in the last page reads as zeroes, should the file grow again.
            let tail = (len % PAGE_LEN as u64) as usize;
            if tail > 0
                && let Some(page) = self.now.pages.get_mut(&(kept - 1))
            {
                Arc::make_mut(page)[tail..].fill(0);
                self.dirty.insert(kept - 1);
            }
        }
        self.now.len = len;
    }

    fn sync(&mut self) {
        for index in std::mem::take(&mut self.dirty) {
            match self.now.pages.get(&index) {
                Some(page) => self.durable.pages.insert(index, Arc::clone(page)),
                None => self.durable.pages.remove(&index),
            };
        }
        self.durable.len = self.now.len;
    }
}

/// The pages of a range: index, where in the page, and which part of the range.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let position = offset + done as u64;
        let at = (position % PAGE_LEN as u64) as usize;
        let start = done;
        done = len.min(done + PAGE_LEN - at);
        Some((position / PAGE_LEN as u64, at, start..done))
    })
}
