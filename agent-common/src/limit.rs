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
//!   the newcomers' allowance too, so that an honest newcomer may burst while nobody floods.
//! - A source that the map forgot is a newcomer again, with empty buckets: to be forgotten buys
//!   nothing.
//!
//! Where there is no allowance for something (datagrams, bytes, connections), its bucket begins full.

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

    /// Whether datagrams or their bytes are limited.
    #[inline(always)]
    pub const fn concerns_datagrams(&self) -> bool {
        self.datagrams.is_limit() || self.bytes.is_limit()
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
    if let Some(own) = sources.source(&holder) {
        let shared = match own.settled.load() > now {
            true => sources.newcomers(),
            false => None,
        };
        return match worth {
            Worth::Datagrams { datagrams, bytes } => take_both(
                (
                    payer(
                        &limit.datagrams,
                        own.datagrams,
                        &newcomers.datagrams,
                        shared.map(|s| s.datagrams),
                        now,
                    ),
                    datagrams,
                ),
                (
                    payer(
                        &limit.bytes,
                        own.bytes,
                        &newcomers.bytes,
                        shared.map(|s| s.bytes),
                        now,
                    ),
                    bytes,
                ),
                now,
            ),
            Worth::Connection => {
                let shared = shared.map(|s| s.connections);
                payer(
                    &limit.connections,
                    own.connections,
                    &newcomers.connections,
                    shared,
                    now,
                )
                .take(1, now)
            }
        };
    }
    let Some(shared) = sources.newcomers() else {
        return Taken::Empty;
    };
    let taken = match worth {
        Worth::Datagrams { datagrams, bytes } => take_both(
            (
                Payer::of(&newcomers.datagrams, shared.datagrams, now),
                datagrams,
            ),
            (Payer::of(&newcomers.bytes, shared.bytes, now), bytes),
            now,
        ),
        Worth::Connection => {
            Payer::of(&newcomers.connections, shared.connections, now).take(1, now)
        }
    };
    if taken != Taken::Empty {
        sources.admit(&holder, SourceState::first(limit, newcomers, worth, now));
    }
    taken
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

/// Whose bucket pays.
enum Payer<'a, W> {
    /// Nothing is limited.
    Nobody,
    One(&'a Bucket, W),
    /// All that could pay are empty.
    Empty,
}

/// A known source pays itself; while it is young the newcomers pay what it cannot.
#[inline(always)]
fn payer<'a, W: Word>(
    own: &'a Bucket,
    own_word: W,
    shared: &'a Bucket,
    shared_word: Option<W>,
    now: u64,
) -> Payer<'a, W> {
    match (Payer::of(own, own_word, now), shared_word) {
        (Payer::Empty, Some(word)) if shared.is_limit() => Payer::of(shared, word, now),
        (payer, _) => payer,
    }
}

impl<'a, W: Word> Payer<'a, W> {
    #[inline(always)]
    fn of(bucket: &'a Bucket, word: W, now: u64) -> Self {
        if !bucket.is_limit() {
            Self::Nobody
        } else if bucket.has_room(word.load(), now) {
            Self::One(bucket, word)
        } else {
            Self::Empty
        }
    }

    #[inline(always)]
    fn take(&self, amount: u32, now: u64) -> Taken {
        match self {
            Self::Nobody => Taken::Yes,
            Self::One(bucket, word) => bucket.take(word, amount, now),
            Self::Empty => Taken::Empty,
        }
    }
}

/// Takes from both or from neither.
#[inline(always)]
fn take_both<W: Word>(first: (Payer<'_, W>, u32), second: (Payer<'_, W>, u32), now: u64) -> Taken {
    if matches!(first.0, Payer::Empty) || matches!(second.0, Payer::Empty) {
        return Taken::Empty;
    }
    let one = first.0.take(first.1, now);
    if one == Taken::Empty {
        return Taken::Empty;
    }
    let two = second.0.take(second.1, now);
    match (one, two) {
        (_, Taken::Empty) => {
            // Another CPU emptied it between the look and the taking.
            if let Payer::One(bucket, word) = &first.0 {
                bucket.give_back(word, first.1);
            }
            Taken::Empty
        }
        (Taken::Yes, Taken::Yes) => Taken::Yes,
        _ => Taken::Contended,
    }
}
