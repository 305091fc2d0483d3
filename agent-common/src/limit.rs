//! What a source may send: its own buckets, and for those that are not known yet a shared allowance.
//!
//! A UDP sender can invent addresses. So where there is an allowance for newcomers, an address that
//! was never seen is worth no more than one that has used up what it had:
//!
//! - A source is *known* while it has its place in the map `SOURCES`. It gets that place only by a
//!   bundle (or connection) that passed the newcomers' allowance. So the allowance also bounds how
//!   fast the map's places change hands: inventing addresses does not make it forget others.
//! - Its own buckets begin empty: it earns by its sustained rate like one that is known for long.
//!   What it sends beyond that before they could have been full once (it is *young*) is drawn from
//!   the newcomers' allowance instead, so that an honest newcomer may burst while nobody floods.
//! - A source that the map forgot is a newcomer again, with empty buckets: to be forgotten buys
//!   nothing.
//!
//! Where there is no allowance for something (datagrams, bytes, connections), its bucket begins full;
//! and what is young draws from the allowance only if that covers all that its limit does.

use crate::bucket::{Bucket, Taken};
use crate::layout::Policy;
use crate::source::Source;
use crate::word::Word;

/// What one source may send, as the maps have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Limit {
    pub datagrams: Bucket,
    pub bytes: Bucket,
    pub connections: Bucket,
}

impl Limit {
    pub const NONE: Self = Self {
        datagrams: Bucket::NONE,
        bytes: Bucket::NONE,
        connections: Bucket::NONE,
    };

    /// Whether datagrams or their bytes are limited. One branch: the verifier follows each.
    #[inline(always)]
    pub const fn concerns_datagrams(&self) -> bool {
        self.datagrams.interval() | self.bytes.interval() != 0
    }
}

/// What the gate remembers of a source, and of all newcomers together: see `bucket` for the words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SourceState {
    pub datagrams: u64,
    pub bytes: u64,
    pub connections: u64,
    /// When the buckets that began empty could have been full: young until then. In ticks.
    pub settled: u64,
}

/// The same, where it lies.
#[derive(Clone, Copy)]
pub struct StateWords<W> {
    pub datagrams: W,
    pub bytes: W,
    pub connections: W,
    pub settled: W,
}

/// What is to be charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    Datagrams { datagrams: u32, bytes: u32 },
    Connection,
}

/// Access to what the gate remembers of sources.
pub trait Sources {
    type Word: Word + Copy;

    /// A known source; being asked for keeps it from being forgotten.
    fn source(&self, source: &Source) -> Option<StateWords<Self::Word>>;
    /// Gives a source its place, unless another CPU was quicker.
    fn admit(&self, source: &Source, state: SourceState);
    /// `None` only where the map is missing: then nobody is admitted.
    fn newcomers(&self) -> Option<StateWords<Self::Word>>;
    fn now_ticks(&self) -> u64;
}

/// Charges a source, or refuses and charges nothing.
#[inline(always)]
pub fn charge<S: Sources>(
    sources: &S,
    policy: &Policy,
    limit: &Limit,
    source: &Source,
    worth: Worth,
) -> Taken {
    let holder = policy.holder(source);
    let newcomers = &policy.newcomers;
    let now = sources.now_ticks();
    let own = sources.source(&holder);
    let known = own.is_some();
    if let Some(own) = own {
        let taken = limit.take(&own, worth, now);
        let young = own.settled.load() > now;
        if taken != Taken::Empty || !young || !newcomers.covers(limit) {
            return taken;
        }
    }
    let Some(shared) = sources.newcomers() else {
        return Taken::Empty;
    };
    let taken = newcomers.take(&shared, worth, now);
    if taken != Taken::Empty && !known {
        let first = SourceState::first(limit, newcomers, worth, now);
        sources.admit(&holder, first);
    }
    taken
}

impl Limit {
    /// Whether it limits everything that `other` does.
    #[inline(always)]
    const fn covers(&self, other: &Self) -> bool {
        (self.datagrams.is_limit() || !other.datagrams.is_limit())
            && (self.bytes.is_limit() || !other.bytes.is_limit())
            && (self.connections.is_limit() || !other.connections.is_limit())
    }

    /// Takes from all the buckets that it is about, or from none.
    #[inline(always)]
    fn take<W: Word + Copy>(&self, words: &StateWords<W>, worth: Worth, now: u64) -> Taken {
        let Worth::Datagrams { datagrams, bytes } = worth else {
            return self.connections.take(&words.connections, 1, now);
        };
        // The second first, without taking: so that nearly always neither has to be given back.
        if !self.bytes.has_room(words.bytes.load(), now) {
            return self.bytes.take(&words.bytes, bytes, now);
        }
        let first = self.datagrams.take(&words.datagrams, datagrams, now);
        if first == Taken::Empty {
            return Taken::Empty;
        }
        match self.bytes.take(&words.bytes, bytes, now) {
            Taken::Yes => first,
            Taken::Contended => Taken::Contended,
            Taken::Empty => {
                // Another CPU emptied it between the look and the taking.
                self.datagrams.give_back(&words.datagrams, datagrams);
                Taken::Empty
            }
        }
    }
}

impl SourceState {
    /// Of a source whose first bundle or connection has passed the newcomers' allowance.
    #[inline(always)]
    fn first(limit: &Limit, newcomers: &Limit, worth: Worth, now: u64) -> Self {
        let (datagrams, bytes, connections) = match worth {
            Worth::Datagrams { datagrams, bytes } => (datagrams, bytes, 0),
            Worth::Connection => (0, 0, 1),
        };
        let mut first = Self {
            settled: now,
            ..Self::default()
        };
        first.datagrams = first.begin(&limit.datagrams, &newcomers.datagrams, datagrams, now);
        first.bytes = first.begin(&limit.bytes, &newcomers.bytes, bytes, now);
        first.connections =
            first.begin(&limit.connections, &newcomers.connections, connections, now);
        first
    }

    #[inline(always)]
    fn begin(&mut self, own: &Bucket, newcomers: &Bucket, amount: u32, now: u64) -> u64 {
        if !newcomers.is_limit() {
            return own.full_less(amount, now);
        }
        let empty = own.empty(now);
        if empty > self.settled {
            self.settled = empty;
        }
        empty
    }
}
