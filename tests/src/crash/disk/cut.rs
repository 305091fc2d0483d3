//! The power goes: what is left.
//!
//! What was synced is there. Of the rest each page and each change of a name survives or not, by
//! itself: disks reorder what they were given, and tear the page that they were about to write. A
//! renaming is one change and is never half done. With the same seed and the same unsynced state
//! the same is left; what was unsynced at that moment is the timing's.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;

use super::image::{
    Content, FileNode, FolderNode, Image, Ino, Kind, Names, Node, PAGE_LEN, Page, ROOT, SECTOR_LEN,
};

/// How much of what was not synced survives, as shares from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Survival {
    pub names: f64,
    pub pages: f64,
    /// Of the pages that do not survive whole: those of which some sectors do.
    pub torn: f64,
}

impl Survival {
    /// The plainest loss.
    pub const NOTHING: Self = Self {
        names: 0.0,
        pages: 0.0,
        torn: 0.0,
    };
    /// As after a kill.
    pub const EVERYTHING: Self = Self {
        names: 1.0,
        pages: 1.0,
        torn: 0.0,
    };

    /// One cut in four loses all; the others lose this and that.
    pub fn random(random: &mut StdRng) -> Self {
        if random.random_bool(0.25) {
            return Self::NOTHING;
        }
        let share = |random: &mut StdRng| [0.0, 0.1, 0.5, 0.9, 1.0][random.random_range(0..5)];
        Self {
            names: share(random),
            pages: share(random),
            torn: share(random),
        }
    }
}

impl Image {
    /// Leaves what survives, under new inode numbers: whatever was open is stale.
    pub fn cut(&mut self, survival: Survival, random: &mut StdRng) {
        let mut old = std::mem::take(&mut self.nodes);
        let Some(root) = old.remove(&ROOT) else {
            unreachable!("the root is never removed");
        };
        let mut after = After {
            old,
            nodes: HashMap::new(),
            next_ino: self.next_ino,
            moved: BTreeMap::new(),
            survival,
            random,
        };
        let root = after.node(root);
        after.nodes.insert(ROOT, root);
        self.nodes = after.nodes;
        self.next_ino = after.next_ino;
    }
}

struct After<'a> {
    old: HashMap<Ino, Node>,
    nodes: HashMap<Ino, Node>,
    next_ino: Ino,
    /// Old numbers and new: a file may survive under two names, where one renaming was lost.
    moved: BTreeMap<Ino, Ino>,
    survival: Survival,
    random: &'a mut StdRng,
}

impl After<'_> {
    fn node(&mut self, node: Node) -> Node {
        let kind = match node.kind {
            Kind::File(file) => Kind::File(self.file(file)),
            Kind::Folder(folder) => Kind::Folder(self.folder(folder)),
        };
        Node {
            kind,
            opens: 0,
            ..node
        }
    }

    fn folder(&mut self, folder: FolderNode) -> FolderNode {
        let mut names = folder.durable;
        for change in &folder.changes {
            if self.random.random_bool(self.survival.names) {
                change.apply(&mut names);
            }
        }
        let moved: Names = names
            .into_iter()
            .map(|(name, ino)| (name, self.moved(ino)))
            .collect();
        FolderNode {
            now: moved.clone(),
            durable: moved,
            changes: Vec::new(),
        }
    }

    fn moved(&mut self, old: Ino) -> Ino {
        if let Some(new) = self.moved.get(&old) {
            return *new;
        }
        let new = self.next_ino;
        self.next_ino += 1;
        self.moved.insert(old, new);
        let node = self.old.remove(&old);
        let node = node.expect("what a name leads to is not forgotten");
        let node = self.node(node);
        self.nodes.insert(new, node);
        new
    }

    fn file(&mut self, file: FileNode) -> FileNode {
        let FileNode {
            now,
            durable,
            dirty,
            reserved,
        } = file;
        let mut left = durable;
        for index in dirty {
            let (old, new) = (left.pages.get(&index), now.pages.get(&index));
            let page = self.page(old, new);
            match page {
                Some(page) => left.pages.insert(index, page),
                None => left.pages.remove(&index),
            };
        }
        if self.random.random_bool(self.survival.pages) {
            left.len = now.len;
        }
        left.trim();
        FileNode {
            durable: left.clone(),
            reserved: reserved.min(left.len.div_ceil(PAGE_LEN as u64)),
            now: left,
            dirty: Default::default(),
        }
    }

    fn page(&mut self, old: Option<&Page>, new: Option<&Page>) -> Option<Page> {
        if self.random.random_bool(self.survival.pages) {
            return new.cloned();
        }
        if !self.random.random_bool(self.survival.torn) {
            return old.cloned();
        }
        let bytes = |page: Option<&Page>| page.map_or([0; PAGE_LEN], |page| **page);
        let (mut torn, new) = (bytes(old), bytes(new));
        for start in (0..PAGE_LEN).step_by(SECTOR_LEN) {
            if self.random.random_bool(0.5) {
                torn[start..][..SECTOR_LEN].copy_from_slice(&new[start..][..SECTOR_LEN]);
            }
        }
        Some(Arc::new(torn))
    }
}

impl Content {
    /// Drops what lies behind the end.
    fn trim(&mut self) {
        let kept = self.len.div_ceil(PAGE_LEN as u64);
        self.pages.split_off(&kept);
        let tail = (self.len % PAGE_LEN as u64) as usize;
        if tail > 0
            && let Some(page) = self.pages.get_mut(&(kept - 1))
        {
            Arc::make_mut(page)[tail..].fill(0);
        }
    }
}
