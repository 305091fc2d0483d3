//! What an epoll event carries: whose readiness it tells, in 64 bits.

use crate::fence::uring::{pack_peer, unpack_peer};
use crate::shard::op::{ListenerId, PeerId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Another thread left a message for the worker.
    Wake,
    /// A file thread has finished something.
    Files,
    /// A TCP listener.
    Listening(ListenerId),
    Datagrams(ListenerId),
    Stream(PeerId),
}

/// The kind stands above the subject, which has 32 bits.
const SUBJECT_BITS: u32 = 32;

impl Source {
    pub fn pack(self) -> u64 {
        let (kind, subject) = match self {
            Self::Wake => (1, 0),
            Self::Files => (2, 0),
            Self::Listening(listener) => (3, u64::from(listener.0)),
            Self::Datagrams(listener) => (4, u64::from(listener.0)),
            Self::Stream(peer) => (5, pack_peer(peer)),
        };
        kind << SUBJECT_BITS | subject
    }

    pub fn unpack(bits: u64) -> Self {
        let subject = bits & ((1 << SUBJECT_BITS) - 1);
        match bits >> SUBJECT_BITS {
            1 => Self::Wake,
            2 => Self::Files,
            3 => Self::Listening(ListenerId(subject as u16)),
            4 => Self::Datagrams(ListenerId(subject as u16)),
            5 => Self::Stream(unpack_peer(subject)),
            kind => panic!("an event of kind {kind}, which the fence never asked for"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_comes_back() {
        let peer = PeerId {
            slot: 0xfedc,
            generation: 0x1234,
        };
        let sources = [
            Source::Wake,
            Source::Files,
            Source::Listening(ListenerId(63)),
            Source::Datagrams(ListenerId(u16::MAX)),
            Source::Stream(peer),
        ];
        for source in sources {
            assert_eq!(Source::unpack(source.pack()), source);
        }
    }
}
