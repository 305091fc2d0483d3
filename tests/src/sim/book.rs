//! What was sent, what must become of it, and what the agent's counters must say: the accounts
//! that the checks compare with.

use std::collections::BTreeMap;

use penstock_proto::reason::Reason;

use super::frame::{Fate, Frame};

/// A frame's number in the book.
pub type FrameNo = usize;

/// One frame and its history.
pub struct Line {
    pub frame: Frame,
    pub listener: u16,
    /// How often it was put on a wire.
    pub sent: u32,
    /// How often it arrived as a whole (reaped by the worker).
    pub arrived: u32,
    /// An acknowledgement said it is durable.
    pub acknowledged: bool,
}

/// Counts by what must become of the frames that arrived at one listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    pub good: u64,
    pub refused: BTreeMap<u8, u64>,
}

impl Arrivals {
    pub fn count(&mut self, fate: Fate) {
        match fate {
            Fate::Accepted => self.good += 1,
            Fate::Refused(reason) | Fate::FramingLost(reason) => {
                *self.refused.entry(reason as u8).or_default() += 1;
            }
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.good += other.good;
        for (&reason, &count) in &other.refused {
            *self.refused.entry(reason).or_default() += count;
        }
    }

    pub fn refused(&self, reason: Reason) -> u64 {
        self.refused.get(&(reason as u8)).copied().unwrap_or(0)
    }
}

/// What a listener must have counted: `certain` at least, `certain` and `perhaps` at most. A frame
/// is `perhaps` where it arrived on a connection that the worker was leaving, or that failed while
/// the worker may have kept received bytes back.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub certain: Arrivals,
    pub perhaps: Arrivals,
    /// Datagrams that were handed over, and those of them that a gate in user space drops.
    pub datagrams: u64,
    pub gate_malformed: u64,
}

/// All frames of a run.
#[derive(Default)]
pub struct Book {
    lines: Vec<Line>,
    good: BTreeMap<(u64, u64), FrameNo>,
    /// Records whose bodies do not name their frame, by body: which of a frame's records each is.
    records: BTreeMap<String, (FrameNo, usize)>,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.certain.add(&other.certain);
        self.perhaps.add(&other.perhaps);
        self.datagrams += other.datagrams;
        self.gate_malformed += other.gate_malformed;
    }
}

impl Book {
    pub fn enter(&mut self, frame: Frame, listener: u16) -> FrameNo {
        let number = self.lines.len();
        if frame.fate == Fate::Accepted {
            let former = self.good.insert(frame.key, number);
            assert_eq!(former, None, "the simulator used key {:?} twice", frame.key);
        }
        self.lines.push(Line {
            frame,
            listener,
            sent: 0,
            arrived: 0,
            acknowledged: false,
        });
        number
    }

    /// Enters a frame that the real client or a forwarding agent sends, unless it was sent before:
    /// then it must be the same, byte for byte. No record may be in two frames.
    pub fn enter_again(&mut self, frame: Frame, listener: u16) -> FrameNo {
        if let Some(number) = self.good(frame.key) {
            assert_eq!(
                self.lines[number].frame.bytes, frame.bytes,
                "frame {:?} is sent again with other bytes",
                frame.key
            );
            return number;
        }
        let number = self.lines.len();
        for (at, body) in frame.bodies().into_iter().enumerate() {
            if let Some((former, _)) = self.records.insert(body, (number, at)) {
                panic!(
                    "a record of frame {:?} is sent as {:?} too",
                    self.lines[former].frame.key, frame.key
                );
            }
        }
        self.enter(frame, listener)
    }

    /// The frame in which a record was sent whose body does not say so.
    pub fn record(&self, body: &str) -> Option<(FrameNo, usize)> {
        self.records.get(body).copied()
    }

    pub fn line(&self, number: FrameNo) -> &Line {
        &self.lines[number]
    }

    pub fn line_mut(&mut self, number: FrameNo) -> &mut Line {
        &mut self.lines[number]
    }

    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The good frame of this producer and sequence.
    pub fn good(&self, key: (u64, u64)) -> Option<FrameNo> {
        self.good.get(&key).copied()
    }
}
