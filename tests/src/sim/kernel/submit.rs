//! What a worker has pushed is checked and put on its way.

use std::sync::Arc;

use penstock::shard::buffer::{BlockId, BlockPool};
use penstock::shard::op::{Op, SegmentFile};

use super::super::producer::Touch;
use super::event::{Event, JournalWrite};
use super::fault::Lie;
use super::world::World;

impl World {
    pub(super) fn submit(&mut self, at: usize) {
        while let Some(op) = self.ports[at].pushed.pop_front() {
            self.submit_op(at, op);
        }
    }

    fn submit_op(&mut self, at: usize, op: Op) {
        match op {
            Op::Accept { listener, .. } => {
                let serial = self.next_multishot();
                self.ports[at].backlog_mut(listener.0).armed = Some(serial);
                self.touched.push(Touch::Backlog(at, listener.0));
            }
            Op::AcceptCancel { listener } => {
                if let Some(serial) = self.ports[at].backlog_mut(listener.0).armed {
                    let delay = self.network_delay();
                    self.after_at(at, delay, Event::AcceptCancel(listener.0, serial));
                }
            }
            Op::Receive { peer, socket } => {
                let id = self.conn_of(at, peer, socket);
                let serial = self.next_multishot();
                self.conns[id].armed = Some(serial);
                self.touched.push(Touch::Conn(id));
            }
            Op::ReceiveCancel { peer } => {
                if let Some(id) = self.conn_of_peer(at, peer)
                    && let Some(serial) = self.conns[id].armed
                {
                    let delay = self.network_delay();
                    self.after(delay, Event::ReceiveCancel(id, serial));
                }
            }
            Op::PeerPeek { peer, socket } => {
                let id = self.conn_of(at, peer, socket);
                self.conns[id].peeking = true;
                self.touched.push(Touch::Conn(id));
            }
            Op::PeekCancel { peer } => {
                if let Some(id) = self.conn_of_peer(at, peer)
                    && self.conns[id].peeking
                {
                    let delay = self.network_delay();
                    self.after(delay, Event::PeekCancel(id));
                }
            }
            Op::ReceiveFrom { listener, .. } => {
                let serial = self.next_multishot();
                self.ports[at].datagrams_mut(listener.0).armed = Some(serial);
                self.touched.push(Touch::Datagrams(at, listener.0));
            }
            Op::ReceiveFromCancel { listener } => {
                if let Some(serial) = self.ports[at].datagrams_mut(listener.0).armed {
                    let delay = self.network_delay();
                    self.after_at(at, delay, Event::ReceiveFromCancel(listener.0, serial));
                }
            }
            Op::AckSend {
                peer,
                socket,
                lease,
            } => {
                let id = self.conn_of(at, peer, socket);
                self.conns[id].send = Some(lease);
                let delay = self.network_delay();
                self.after(delay, Event::Send(id));
            }
            Op::PeerShutdown { peer, socket } => {
                let id = self.conn_of(at, peer, socket);
                self.conns[id].shut = true;
                self.touched.push(Touch::Conn(id));
            }
            // The simulated producer does not look for it: the agent's own bound ends the wait.
            Op::PeerEnd { peer, socket } => {
                let id = self.conn_of(at, peer, socket);
                self.conns[id].ended = true;
            }
            Op::PeerClose { peer, socket } => {
                let id = self.conn_of(at, peer, socket);
                self.sockets.remove(&socket.0);
                let delay = self.network_delay();
                self.after(delay, Event::PeerClose(id, peer));
            }
            Op::SegmentOpen { number } => self.after_disk(at, Event::SegmentOpen(number)),
            Op::SegmentAllocate { number, file, len } => {
                self.after_disk(at, Event::SegmentAllocate(number, file, len));
            }
            Op::FolderSync { number } => {
                let ticket = self.ports[at].disk.begin_folder_sync();
                self.after_disk(at, Event::FolderSync(number, ticket));
            }
            Op::JournalWrite {
                file,
                block,
                offset,
                len,
            } => self.submit_write(at, file, block, offset, len as usize),
            Op::JournalSync { file, segment } => {
                let port = &mut self.ports[at];
                let ticket = port.disk.begin_sync(file);
                *port.syncing.entry(segment).or_default() += 1;
                let mut delay = self.disk_delay();
                if self.lie == Some(Lie::SyncDoesNothing) {
                    delay = 1;
                }
                self.after_at(at, delay, Event::JournalSync(segment, file, ticket));
            }
            Op::SegmentClose { number, file } => {
                self.after_disk(at, Event::SegmentClose(number, file));
            }
            Op::SegmentRemove { number } => self.after_disk(at, Event::SegmentRemove(number)),
        }
        self.look_at_touched();
    }

    fn after_disk(&mut self, at: usize, event: Event) {
        let delay = self.disk_delay();
        self.after_at(at, delay, event);
    }

    fn submit_write(
        &mut self,
        at: usize,
        file: SegmentFile,
        block: BlockId,
        offset: u64,
        len: usize,
    ) {
        let port = &mut self.ports[at];
        let data = block_bytes(&port.blocks, block, len).to_vec();
        let write = port.disk.begin_write(file, offset, data);
        let former = port.writing.insert(block.0, write);
        assert_eq!(former, None, "block {} is written twice at once", block.0);
        if self.lie == Some(Lie::BlockChanges) {
            // SAFETY: the block is on loan to the worker, which does not look at it while it is
            // written; the simulator is single-threaded and holds no other reference to it here.
            unsafe { *self.ports[at].blocks.block_ptr(block).add(len - 1) ^= 1 };
        }
        let write = JournalWrite {
            file,
            block,
            offset,
            write,
            len,
        };
        self.after_disk(at, Event::JournalWrite(write));
    }
}

/// The bytes of a block that is being written.
pub(super) fn block_bytes(blocks: &Arc<BlockPool>, block: BlockId, len: usize) -> &[u8] {
    assert!(
        len <= blocks.block_len(),
        "a write of {len} bytes of a block of {}",
        blocks.block_len()
    );
    // SAFETY: the worker has shared the block for the write it pushed, so nobody writes it before
    // the completion (that is what the comparison at the completion checks); the length is within
    // the block, by the assertion above; everything runs on one thread.
    unsafe { std::slice::from_raw_parts(blocks.block_ptr(block), len) }
}
