//! Frames that are in the journal's memory and wait for the disk: who is to be told, and when.

use std::collections::VecDeque;

use crate::journal::writer::Ticket;
use crate::shard::op::PeerId;

/// Runs of frames that may wait at once. A run is what one connection sent in a row into one
/// block; at 24 + 24 bytes each this is 3 MiB, and all blocks full of the smallest frames, sent by
/// connections that take turns, come to less than three times as many.
pub const WAITING_MAX: usize = 1 << 16;

/// Consecutive frames of one producer in one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub ticket: Ticket,
    pub peer: PeerId,
    pub producer: u64,
    /// The last frame's.
    pub sequence: u64,
    pub count: u32,
    /// They are retries of frames that are in the journal's memory already.
    pub duplicate: bool,
}

/// In the order of their tickets.
#[derive(Debug)]
pub struct WaitingList {
    waiting: VecDeque<Waiting>,
}

impl Default for WaitingList {
    fn default() -> Self {
        Self {
            waiting: VecDeque::with_capacity(WAITING_MAX),
        }
    }
}

impl WaitingList {
    /// Whether one more run can be taken.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_MAX
    }

    #[inline]
    pub fn push(&mut self, frame: Waiting) {
        if let Some(last) = self.waiting.back_mut()
            && last.ticket == frame.ticket
            && last.peer == frame.peer
            && last.producer == frame.producer
            && last.duplicate == frame.duplicate
            && last.sequence.wrapping_add(u64::from(frame.count)) == frame.sequence
        {
            last.sequence = frame.sequence;
            last.count += frame.count;
            return;
        }
        debug_assert!(
            self.waiting
                .back()
                .is_none_or(|last| last.ticket <= frame.ticket)
        );
        self.waiting.push_back(frame);
    }

    /// The next run that lies before a mark of the journal.
    pub fn pop_before(&mut self, mark: u64) -> Option<Waiting> {
        if self.waiting.front()?.ticket.0 < mark {
            self.waiting.pop_front()
        } else {
            None
        }
    }

    /// The next run, durable or not: for telling all that they are lost.
    pub fn pop(&mut self) -> Option<Waiting> {
        self.waiting.pop_front()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ticket: u64, slot: u16, sequence: u64) -> Waiting {
        let peer = PeerId {
            slot,
            generation: 0,
        };
        Waiting {
            ticket: Ticket(ticket),
            peer,
            producer: 7,
            sequence,
            count: 1,
            duplicate: false,
        }
    }

    #[test]
    fn a_run_is_one_producers_in_one_block_without_a_gap() {
        let mut list = WaitingList::default();
        for waiting in [
            frame(0, 1, 1),
            frame(0, 1, 2),
            frame(0, 2, 3),
            frame(0, 1, 3),
            frame(0, 1, 5),
            frame(4096, 1, 6),
        ] {
            list.push(waiting);
        }
        let runs: Vec<(u64, u32)> = std::iter::from_fn(|| list.pop())
            .map(|run| (run.sequence, run.count))
            .collect();
        assert_eq!(runs, [(2, 2), (3, 1), (3, 1), (5, 1), (6, 1)]);
    }

    #[test]
    fn only_what_lies_before_the_mark_is_durable() {
        let mut list = WaitingList::default();
        list.push(frame(0, 1, 1));
        list.push(frame(4096, 1, 2));
        assert!(list.pop_before(0).is_none());
        assert_eq!(list.pop_before(4096).map(|run| run.sequence), Some(1));
        assert!(list.pop_before(4096).is_none());
        assert_eq!(list.pop_before(8192).map(|run| run.sequence), Some(2));
    }
}
