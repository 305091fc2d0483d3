//! The journal's side of the disk: segments come and go, blocks are written and synced.

use penstock::shard::op::{Completion, Errno, SegmentFile};

use super::super::disk::{FolderTicket, SyncTicket, WriteEnd};
use super::event::JournalWrite;
use super::fault::{Lie, Mishap};
use super::submit::block_bytes;
use super::world::World;

const EIO: Errno = Errno(libc::EIO);
const ENOSPC: Errno = Errno(libc::ENOSPC);

impl World {
    pub(super) fn on_segment_open(&mut self, at: usize, number: u64) {
        let result = if self.chance(self.faults.open_error) {
            self.struck.open_errors += 1;
            Err(self.rng.pick(&[EIO, ENOSPC, Errno(libc::EMFILE)]))
        } else {
            self.ports[at].disk.create(number)
        };
        if result.is_ok()
            && let Some(mirror) = &mut self.ports[at].mirror
        {
            mirror.create(number);
        }
        self.note(
            "segment opened",
            &[at as u64, number, u64::from(result.is_ok())],
        );
        self.complete(at, Completion::SegmentOpened { number, result });
    }

    pub(super) fn on_segment_allocate(
        &mut self,
        at: usize,
        number: u64,
        file: SegmentFile,
        len: u64,
    ) {
        let nth = self.allocations;
        self.allocations += 1;
        let mishap =
            self.mishap(|m| matches!(m, Mishap::AllocateFails { nth: n, .. } if *n == nth));
        let result = match mishap {
            Some(Mishap::AllocateFails { errno, .. }) => Err(Errno(errno)),
            _ if self.disk_is_full() || self.chance(self.faults.allocate_error) => Err(ENOSPC),
            _ => {
                let port = &mut self.ports[at];
                port.disk.allocate(number, file, len);
                if let Some(mirror) = &mut port.mirror {
                    mirror.allocate(number, len);
                }
                Ok(())
            }
        };
        self.struck.full_disks += u64::from(result.is_err());
        self.note(
            "segment allocated",
            &[at as u64, number, u64::from(result.is_ok())],
        );
        self.complete(at, Completion::SegmentAllocated { number, result });
    }

    pub(super) fn on_folder_sync(&mut self, at: usize, number: u64, ticket: FolderTicket) {
        let result = if self.chance(self.faults.folder_error) {
            self.struck.folder_errors += 1;
            Err(EIO)
        } else {
            if self.lie != Some(Lie::FolderSyncDoesNothing) {
                let port = &mut self.ports[at];
                port.disk.finish_folder_sync(ticket);
                port.index.advance(&port.disk, &self.book);
            }
            Ok(())
        };
        self.note(
            "folder synced",
            &[at as u64, number, u64::from(result.is_ok())],
        );
        self.complete(at, Completion::FolderSynced { number, result });
    }

    pub(super) fn on_write(&mut self, at: usize, done: JournalWrite) {
        let JournalWrite {
            file,
            block,
            offset,
            write,
            len,
        } = done;
        let nth = self.writes;
        let is_block = offset > 0;
        self.writes += u64::from(is_block);
        let mishap = self.mishap(|mishap| match mishap {
            Mishap::WriteFails { nth: n, .. } | Mishap::WriteShort { nth: n, .. } => {
                is_block && *n == nth
            }
            _ => false,
        });
        let (end, result) = match mishap {
            Some(Mishap::WriteFails { errno, .. }) => (WriteEnd::Failed, Err(Errno(errno))),
            Some(Mishap::WriteShort { len, .. }) => (WriteEnd::Short(len), Ok(len as u32)),
            _ if self.chance(self.faults.write_error) => {
                (WriteEnd::Failed, Err(self.rng.pick(&[EIO, ENOSPC])))
            }
            _ if self.chance(self.faults.write_short) => {
                let sectors = self.rng.size(0..=len / 512 - 1);
                (WriteEnd::Short(sectors * 512), Ok(sectors as u32 * 512))
            }
            _ => (WriteEnd::Whole, Ok(len as u32)),
        };
        self.struck.write_errors += u64::from(result.is_err());
        self.struck.short_writes += u64::from(matches!(end, WriteEnd::Short(_)));
        let port = &mut self.ports[at];
        let taken = port.disk.finish_write(file, write, end);
        port.writing.remove(&block.0);
        assert!(
            block_bytes(&port.blocks, block, len) == &taken[..],
            "block {} was changed while it was written",
            block.0
        );
        if let (Some(mirror), Ok(done)) = (&mut port.mirror, result) {
            let number = port.disk.segment_of(file);
            mirror.write(number, offset, &taken[..done as usize]);
        }
        let result = match (self.lie, result) {
            (Some(Lie::ShortWriteUnseen), Ok(_)) => Ok(len as u32),
            (_, result) => result,
        };
        let told = result.map_or(0, u64::from);
        self.note(
            "written",
            &[at as u64, u64::from(block.0), offset, len as u64, told],
        );
        self.complete(at, Completion::JournalWritten { block, result });
    }

    pub(super) fn on_sync(
        &mut self,
        at: usize,
        segment: u64,
        file: SegmentFile,
        ticket: SyncTicket,
    ) {
        let nth = self.syncs;
        self.syncs += 1;
        let mishap = self.mishap(|m| matches!(m, Mishap::SyncFails { nth: n, .. } if *n == nth));
        let mut result = match mishap {
            Some(Mishap::SyncFails { errno, .. }) => Err(Errno(errno)),
            _ if self.chance(self.faults.sync_error) => Err(EIO),
            _ => Ok(()),
        };
        self.struck.sync_errors += u64::from(result.is_err());
        let ticket = match self.lie {
            Some(Lie::SyncTooEarly) => ticket.without_last(),
            _ => ticket,
        };
        let port = &mut self.ports[at];
        if self.lie != Some(Lie::SyncDoesNothing) {
            port.disk.finish_sync(ticket, result.is_ok(), &mut self.rng);
            port.index.advance(&port.disk, &self.book);
        }
        if self.lie == Some(Lie::SyncErrorUnseen) {
            result = Ok(());
        }
        assert!(
            port.disk.is_open(file),
            "segment {segment} was closed while it was synced"
        );
        let left = port.syncing.get_mut(&segment).expect("a sync in flight");
        *left -= 1;
        if *left == 0 {
            port.syncing.remove(&segment);
        }
        self.note("synced", &[at as u64, segment, u64::from(result.is_ok())]);
        self.complete(at, Completion::JournalSynced { segment, result });
    }

    pub(super) fn on_segment_close(&mut self, at: usize, number: u64, file: SegmentFile) {
        let port = &mut self.ports[at];
        assert!(
            !port.syncing.contains_key(&number),
            "segment {number} is closed while it is synced"
        );
        port.disk.close(number, file);
        if let Some(mirror) = &mut port.mirror {
            mirror.close(number);
        }
        self.note("segment closed", &[at as u64, number]);
        self.complete(
            at,
            Completion::SegmentClosed {
                number,
                result: Ok(()),
            },
        );
    }

    pub(super) fn on_segment_remove(&mut self, at: usize, number: u64) {
        let port = &mut self.ports[at];
        let committed = port.committed();
        let frames = port.index.remove(number, committed);
        let result = port.disk.remove(number);
        if let (Some(mirror), Ok(())) = (&mut port.mirror, result) {
            mirror.remove(number);
        }
        self.struck.segments_removed += u64::from(result.is_ok());
        for frame in frames {
            let line = self.book.line(frame);
            assert!(
                !line.acknowledged || self.stored(frame) > 0,
                "segment {number} is removed, and with it frame {:?}, which was acknowledged; \
                 sinks have only {committed}",
                line.frame.key
            );
        }
        self.note(
            "segment removed",
            &[at as u64, number, u64::from(result.is_ok())],
        );
        self.complete(at, Completion::SegmentRemoved { number, result });
    }
}
