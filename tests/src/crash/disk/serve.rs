//! The kernel's requests, answered from the image.
//!
//! Nothing is cached on the kernel's side: answers are valid for no time, and files are opened
//! with FOPEN_DIRECT_IO, so that each read and write of the agent arrives here at once, whether the
//! agent asked for O_DIRECT or not. What the agent wrote is therefore here when its call returns,
//! and is durable when we say so.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::fault::{Call, Effect};
use super::image::{Answer, Attributes, Image, Ino, PAGE_LEN};
use super::{Power, Shared, State};

const NOT_CACHED: Duration = Duration::ZERO;
const NAME_LEN_MAX: u32 = 255;
/// The number of inodes that statfs speaks of; nobody counts them here.
const INODES: u64 = 1 << 20;

pub(super) struct Server(pub Arc<Shared>);

impl Server {
    /// Does a call under the lock, once the power is on; `EIO` after it went.
    fn call<T>(&self, call: impl FnOnce(&mut State) -> Answer<T>) -> Answer<T> {
        let mut state = self.0.state();
        while state.power == Power::Frozen {
            state = self.0.power_changed(state);
        }
        match state.power {
            Power::Off => Err(libc::EIO),
            _ => call(&mut state),
        }
    }

    /// A call that a fault may be aimed at: `work` where all is well, `harm` where it is to fail.
    fn faulty<T>(
        &self,
        call: Call,
        ino: Ino,
        work: impl FnOnce(&mut Image) -> Answer<T>,
        lie: impl FnOnce(&mut Image) -> Answer<T>,
        harm: impl FnOnce(&mut Image) -> Answer<()>,
    ) -> Answer<T> {
        let effect = self.call(|state| {
            let place = state.image.place(ino);
            Ok(state.faults.on(call, &place))
        })?;
        match effect {
            None => self.call(|state| work(&mut state.image)),
            Some(Effect::Stall(time)) => {
                // Other calls go on meanwhile: each has a thread of the server's.
                std::thread::sleep(time);
                self.call(|state| work(&mut state.image))
            }
            Some(Effect::Lie) => self.call(|state| lie(&mut state.image)),
            Some(Effect::Fail(errno)) => {
                self.call(|state| harm(&mut state.image))?;
                Err(errno)
            }
        }
    }

    fn sync(&self, call: Call, ino: Ino) -> Answer<()> {
        self.faulty(
            call,
            ino,
            |image| match call {
                Call::SyncFolder => image.sync_folder(ino),
                _ => image.sync(ino),
            },
            |_| Ok(()),
            |image| match call {
                Call::SyncFolder => Ok(()),
                _ => image.sync_failed(ino),
            },
        )
    }

    fn make(&self, parent: INodeNo, name: &OsStr, mode: u32, folder: bool) -> Answer<Attributes> {
        let mode = (mode & 0o7777) as u16;
        let make = |image: &mut Image| image.make(parent.0, name, mode, folder);
        self.faulty(Call::Make, parent.0, make, make, |_| Ok(()))
    }
}

fn empty(answer: Answer<()>, reply: ReplyEmpty) {
    match answer {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(Errno::from_i32(errno)),
    }
}

fn entry(answer: Answer<Attributes>, reply: ReplyEntry) {
    match answer {
        Ok(attributes) => reply.entry(&NOT_CACHED, &file_attr(&attributes), Generation(0)),
        Err(errno) => reply.error(Errno::from_i32(errno)),
    }
}

fn attr(answer: Answer<Attributes>, reply: ReplyAttr) {
    match answer {
        Ok(attributes) => reply.attr(&NOT_CACHED, &file_attr(&attributes)),
        Err(errno) => reply.error(Errno::from_i32(errno)),
    }
}

fn file_attr(attributes: &Attributes) -> FileAttr {
    let kind = match attributes.is_folder {
        true => FileType::Directory,
        false => FileType::RegularFile,
    };
    FileAttr {
        ino: INodeNo(attributes.ino),
        size: attributes.len,
        blocks: attributes.allocated_pages * (PAGE_LEN as u64 / 512),
        atime: attributes.modified,
        mtime: attributes.modified,
        ctime: attributes.modified,
        crtime: SystemTime::UNIX_EPOCH,
        kind,
        perm: attributes.mode,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: PAGE_LEN as u32,
        flags: 0,
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.call(|state| {
            let ino = state.image.lookup(parent.0, name)?;
            state.image.attributes(ino)
        });
        entry(found, reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        attr(self.call(|state| state.image.attributes(ino.0)), reply);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = self.call(|state| {
            if let Some(len) = size {
                state.image.set_len(ino.0, len)?;
            }
            state.image.attributes(ino.0)
        });
        attr(set, reply);
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        entry(self.make(parent, name, mode, true), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.call(|state| state.image.remove(parent.0, name, false));
        empty(removed, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.call(|state| state.image.remove(parent.0, name, true));
        empty(removed, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        // Nothing under test moves a file from one folder to another, or asks for more than rename(2).
        if parent != new_parent || !flags.is_empty() {
            return reply.error(Errno::from_i32(libc::EXDEV));
        }
        let rename = |image: &mut Image| image.rename(parent.0, name, new_name);
        let renamed = self.faulty(Call::Rename, parent.0, rename, |_| Ok(()), |_| Ok(()));
        empty(renamed, reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.call(|state| state.image.opened(ino.0)) {
            Ok(()) => reply.opened(FileHandle(0), open_flags()),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self.make(parent, name, mode, false);
        let opened = made.and_then(|made| {
            self.call(|state| state.image.opened(made.ino))?;
            Ok(made)
        });
        match opened {
            Ok(made) => reply.created(
                &NOT_CACHED,
                &file_attr(&made),
                Generation(0),
                FileHandle(0),
                open_flags(),
            ),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.call(|state| state.image.read(ino.0, offset, size as usize)) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let half = &data[..data.len() / 2];
        let written = self.faulty(
            Call::Write,
            ino.0,
            |image| image.write(ino.0, offset, data),
            |_| Ok(()),
            |image| image.write(ino.0, offset, half),
        );
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(Errno::from_i32(libc::EOPNOTSUPP));
        }
        let allocate = |image: &mut Image| image.allocate(ino.0, offset, length);
        let allocated = self.faulty(Call::Allocate, ino.0, allocate, |_| Ok(()), |_| Ok(()));
        empty(allocated, reply);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // close(2) promises nothing of the disk.
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // Whatever the power does: a process that was killed closes its files.
        self.0.state().image.released(ino.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        empty(self.sync(Call::Sync, ino.0), reply);
    }

    fn fsyncdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        empty(self.sync(Call::SyncFolder, ino.0), reply);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.call(|state| {
            let names = state.image.list(ino.0)?;
            let entries = names.into_iter().map(|(name, ino)| {
                let is_folder = state.image.attributes(ino)?.is_folder;
                Ok((name, ino, is_folder))
            });
            entries.collect::<Answer<Vec<_>>>()
        });
        let names = match listed {
            Ok(names) => names,
            Err(errno) => return reply.error(Errno::from_i32(errno)),
        };
        let dots = [".", ".."].map(|dots| (dots.into(), ino.0, true));
        let entries = dots.into_iter().chain(names).enumerate();
        for (index, (name, ino, is_folder)) in entries.skip(offset as usize) {
            let kind = match is_folder {
                true => FileType::Directory,
                false => FileType::RegularFile,
            };
            // The offset is where the next call goes on.
            if reply.add(INodeNo(ino), index as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let pages = self.call(|state| Ok((state.image.pages_max, state.image.pages_used())));
        match pages {
            Ok((all, used)) => {
                let free = all.saturating_sub(used);
                let page_len = PAGE_LEN as u32;
                reply.statfs(
                    all,
                    free,
                    free,
                    INODES,
                    INODES,
                    page_len,
                    NAME_LEN_MAX,
                    page_len,
                );
            }
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }
}

fn open_flags() -> FopenFlags {
    FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
}
