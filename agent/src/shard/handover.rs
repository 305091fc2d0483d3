//! Connections on their way to the shard that remembers their producer.
//!
//! A connection is accepted by whichever shard the kernel chose. Before a byte of it is taken, its
//! first frame's header is looked at in the socket (`Op::PeerPeek`); where another shard owns the
//! producer (`dedup::owner`), the socket goes into that shard's mailbox and the shard is woken.
//! Whatever names no producer is handled where it is.
//!
//! A mailbox has as many places as its shard has connections. One that is full, and one whose shard
//! is stopping, refuses: the sender closes the connection (`handover_full`, `stopping`), and its
//! client connects again.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use agent_common::frame::{FRAME_HEADER_LEN, FRAME_MAGIC, FRAME_VERSION, FrameHeader, offset};
use penstock_proto::wire::header_crc_matches;

use crate::gate::source_connections::SourcePlace;
use crate::journal::dedup::owner;
use crate::limits::CONNECTIONS_MAX;
use crate::shard::op::{ListenerId, Socket};

/// Connections that may wait in one mailbox.
pub const MAILBOX_LEN: usize = CONNECTIONS_MAX;

/// A connection of which nothing is taken yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Handed {
    pub socket: Socket,
    pub listener: ListenerId,
    pub address: Option<SocketAddr>,
    pub place: Option<SourcePlace>,
}

/// Why a mailbox does not take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Full,
    Closed,
}

type Wake = Box<dyn Fn() + Send + Sync>;

/// One shard's.
pub struct Mailbox {
    /// `None`: the shard is stopping.
    waiting: Mutex<Option<VecDeque<Handed>>>,
    has_mail: AtomicBool,
    /// Set once the shard can be woken; until then it has not begun, and will look by itself.
    wake: OnceLock<Wake>,
}

impl Default for Mailbox {
    fn default() -> Self {
        Self {
            waiting: Mutex::new(Some(VecDeque::with_capacity(MAILBOX_LEN))),
            has_mail: AtomicBool::new(false),
            wake: OnceLock::new(),
        }
    }
}

impl Mailbox {
    pub fn set_wake(&self, wake: Wake) {
        let _ = self.wake.set(wake);
    }

    pub fn post(&self, handed: Handed) -> Result<(), (Handed, Refused)> {
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(waiting) = waiting.as_mut() else {
                return Err((handed, Refused::Closed));
            };
            if waiting.len() >= MAILBOX_LEN {
                return Err((handed, Refused::Full));
            }
            waiting.push_back(handed);
            self.has_mail.store(true, Ordering::Release);
        }
        if let Some(wake) = self.wake.get() {
            wake();
        }
        Ok(())
    }

    /// The next connection; without mail this costs one load.
    pub fn take(&self) -> Option<Handed> {
        if !self.has_mail.load(Ordering::Acquire) {
            return None;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let handed = waiting.as_mut().and_then(VecDeque::pop_front);
        if handed.is_none() {
            self.has_mail.store(false, Ordering::Release);
        }
        handed
    }

    /// Takes nothing more; what still waited is the shard's to close.
    pub fn close(&self) -> VecDeque<Handed> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_mail.store(false, Ordering::Release);
        waiting.take().unwrap_or_default()
    }
}

/// All shards' mailboxes, as one of them sees them.
#[derive(Clone)]
pub struct Handover {
    pub mailboxes: Arc<[Mailbox]>,
    pub shard: u16,
}

impl Handover {
    /// For each of `shards` shards.
    pub fn for_shards(shards: u16) -> Vec<Self> {
        let mailboxes: Arc<[Mailbox]> = (0..shards).map(|_| Mailbox::default()).collect();
        (0..shards)
            .map(|shard| Self {
                mailboxes: Arc::clone(&mailboxes),
                shard,
            })
            .collect()
    }

    pub fn own(&self) -> &Mailbox {
        &self.mailboxes[usize::from(self.shard)]
    }

    /// The other shard that owns the producer of a stream's first frame, if there is one.
    pub fn owner_elsewhere(&self, head: &[u8]) -> Option<u16> {
        let head: &[u8; FRAME_HEADER_LEN] = head.first_chunk()?;
        let is_frame = head[..FRAME_MAGIC.len()] == FRAME_MAGIC
            && head[offset::VERSION] == FRAME_VERSION
            && header_crc_matches(head);
        let producer = FrameHeader::read(head).producer;
        if !is_frame || producer == 0 {
            return None;
        }
        let owner = owner(producer, self.mailboxes.len() as u16);
        (owner != self.shard).then_some(owner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use penstock_proto::wire::write_frame;

    use super::*;

    fn handed(socket: i32) -> Handed {
        Handed {
            socket: Socket(socket),
            listener: ListenerId(1),
            address: None,
            place: None,
        }
    }

    #[test]
    fn mail_comes_in_order_and_wakes() {
        let mailbox = Mailbox::default();
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        assert_eq!(mailbox.take(), None);
        mailbox.post(handed(1)).expect("room");
        mailbox.set_wake(Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        mailbox.post(handed(2)).expect("room");
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        assert_eq!(mailbox.take(), Some(handed(1)));
        assert_eq!(mailbox.take(), Some(handed(2)));
        assert_eq!(mailbox.take(), None);
    }

    #[test]
    fn a_full_mailbox_and_a_closed_one_hand_back() {
        let mailbox = Mailbox::default();
        for socket in 0..MAILBOX_LEN as i32 {
            mailbox.post(handed(socket)).expect("room");
        }
        assert_eq!(mailbox.post(handed(-1)), Err((handed(-1), Refused::Full)));
        assert_eq!(mailbox.close().len(), MAILBOX_LEN);
        assert_eq!(mailbox.post(handed(-2)), Err((handed(-2), Refused::Closed)));
        assert_eq!(mailbox.take(), None);
    }

    #[test]
    fn only_a_sound_header_of_somebody_elses_producer_moves() {
        let frame = |producer| {
            let mut bytes = Vec::new();
            let header = FrameHeader {
                encoding: 1,
                flags: 0,
                priority: 2,
                payload_len: 0,
                records: 1,
                producer,
                sequence: 1,
                payload_crc: 0,
            };
            write_frame(&mut bytes, header, b"payload");
            bytes
        };
        let both = Handover::for_shards(2);
        // `owner` gives producer 1 to the second of two, and 2 to the first.
        assert_eq!(both[0].owner_elsewhere(&frame(1)), Some(1));
        assert_eq!(both[1].owner_elsewhere(&frame(1)), None);
        assert_eq!(both[1].owner_elsewhere(&frame(2)), Some(0));
        assert_eq!(both[1].owner_elsewhere(&frame(0)), None);
        assert_eq!(both[0].owner_elsewhere(&frame(1)[..39]), None);
        for at in 0..40 {
            let mut damaged = frame(1);
            damaged[at] ^= 0x40;
            assert_eq!(both[0].owner_elsewhere(&damaged), None, "byte {at}");
        }
    }
}
