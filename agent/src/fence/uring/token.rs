//! What an operation carries through the kernel and back: its kind and whom it is for, in 64 bits.

use crate::shard::buffer::BlockId;
use crate::shard::op::{ListenerId, PeerId};

/// The kind stands in the top byte, the subject in the rest.
///
/// ```text
/// 63   56 55                                  0
/// ├ kind ┼ slot · generation │ listener │ … ───┤
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Accept(ListenerId),
    Receive(PeerId),
    ReceiveFrom(ListenerId),
    /// A cancel's own completion says nothing that the cancelled op does not.
    Cancel,
    /// By send buffer: the fence keeps whose it is.
    Send(u16),
    Close(PeerId),
    SegmentOpen(u64),
    SegmentAllocate(u64),
    FolderSync(u64),
    Write(BlockId),
    Sync(u64),
    SegmentClose(u64),
    SegmentRemove(u64),
    /// The sync that follows a removal.
    RemovalSync(u64),
    Wake,
    Peek(PeerId),
}

/// Segment numbers fit: at one segment a millisecond they last two million years.
const SUBJECT_BITS: u32 = 56;

impl Token {
    pub fn pack(self) -> u64 {
        let (kind, subject) = match self {
            Self::Accept(listener) => (1, u64::from(listener.0)),
            Self::Receive(peer) => (2, pack_peer(peer)),
            Self::ReceiveFrom(listener) => (3, u64::from(listener.0)),
            Self::Cancel => (4, 0),
            Self::Send(buffer) => (5, u64::from(buffer)),
            Self::Close(peer) => (6, pack_peer(peer)),
            Self::SegmentOpen(number) => (7, number),
            Self::SegmentAllocate(number) => (8, number),
            Self::FolderSync(number) => (9, number),
            Self::Write(block) => (10, u64::from(block.0)),
            Self::Sync(number) => (11, number),
            Self::SegmentClose(number) => (12, number),
            Self::SegmentRemove(number) => (13, number),
            Self::Wake => (14, 0),
            Self::Peek(peer) => (15, pack_peer(peer)),
            Self::RemovalSync(number) => (16, number),
        };
        debug_assert!(subject < 1 << SUBJECT_BITS, "{self:?}");
        kind << SUBJECT_BITS | subject
    }

    pub fn unpack(bits: u64) -> Self {
        let subject = bits & ((1 << SUBJECT_BITS) - 1);
        match bits >> SUBJECT_BITS {
            1 => Self::Accept(ListenerId(subject as u16)),
            2 => Self::Receive(unpack_peer(subject)),
            3 => Self::ReceiveFrom(ListenerId(subject as u16)),
            4 => Self::Cancel,
            5 => Self::Send(subject as u16),
            6 => Self::Close(unpack_peer(subject)),
            7 => Self::SegmentOpen(subject),
            8 => Self::SegmentAllocate(subject),
            9 => Self::FolderSync(subject),
            10 => Self::Write(BlockId(subject as u16)),
            11 => Self::Sync(subject),
            12 => Self::SegmentClose(subject),
            13 => Self::SegmentRemove(subject),
            14 => Self::Wake,
            15 => Self::Peek(unpack_peer(subject)),
            16 => Self::RemovalSync(subject),
            kind => panic!("a completion of kind {kind}, which the fence never submitted"),
        }
    }
}

pub(in crate::fence) fn pack_peer(peer: PeerId) -> u64 {
    u64::from(peer.generation) << 16 | u64::from(peer.slot)
}

pub(in crate::fence) fn unpack_peer(subject: u64) -> PeerId {
    PeerId {
        slot: subject as u16,
        generation: (subject >> 16) as u16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_comes_back() {
        let peer = PeerId {
            slot: 0xfedc,
            generation: 0x1234,
        };
        let tokens = [
            Token::Accept(ListenerId(63)),
            Token::Receive(peer),
            Token::ReceiveFrom(ListenerId(0)),
            Token::Cancel,
            Token::Send(255),
            Token::Close(peer),
            Token::SegmentOpen(1),
            Token::SegmentAllocate(2),
            Token::FolderSync(3),
            Token::Write(BlockId(16)),
            Token::Sync(1 << 40),
            Token::SegmentClose(5),
            Token::SegmentRemove(6),
            Token::RemovalSync(7),
            Token::Wake,
            Token::Peek(peer),
        ];
        for token in tokens {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
