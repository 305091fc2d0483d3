//! What the stand-in remembers for people, as the filter's maps do in the kernel.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_common::bundle::BundleShape;
use agent_common::classify::{HeaderFault, check_datagram};
use agent_common::frame::FRAME_HEADER_LEN;
use agent_common::layout::{LISTENERS_MAX, SOCKET_SYSLOG, SocketSlot};
use agent_common::observe::{
    RefusedSample, SIZE_SUM, SIZE_WORDS, SizeCounts, SourceCounts, WatchTurn, first_verdict, sizes,
};
use agent_common::source::Source;
use agent_common::verdict::Verdict;

use super::refused::Kept;
use super::who::Recent;

/// Sources that a shard counts: 0.7 MB in its tables' allowance (`limits::SHARD_TABLES_MEMORY`).
const SHARD_SOURCES_MAX: usize = 8_192;
/// Samples that wait for the control thread, which asks four times a second: beyond these they are
/// left out, and counted.
const WAITING_MAX: usize = 256;

/// What all shards' observers share, and the control thread reads.
#[derive(Default)]
pub struct Observers {
    all: Mutex<Vec<Arc<Observed>>>,
    /// Until when somebody watches, in nanoseconds of the monotonic clock.
    watch_until_ns: AtomicU64,
    waiting: Mutex<Vec<RefusedSample>>,
    left_out: AtomicU64,
    kept: Mutex<Kept>,
}

/// One shard's part. The control thread takes the lock when it reads, which is seldom and short.
struct Observed {
    recent: Mutex<Recent>,
    sizes: Vec<[AtomicU64; SIZE_WORDS]>,
}

/// A shard's own.
pub struct Observer {
    shared: Arc<Observers>,
    own: Arc<Observed>,
    turn: WatchTurn,
}

impl Observers {
    /// For another shard.
    pub fn observer(self: &Arc<Self>) -> Observer {
        let own = Arc::new(Observed {
            recent: Mutex::new(Recent::new(SHARD_SOURCES_MAX)),
            sizes: (0..LISTENERS_MAX)
                .map(|_| std::array::from_fn(|_| AtomicU64::new(0)))
                .collect(),
        });
        lock(&self.all).push(Arc::clone(&own));
        Observer {
            shared: Arc::clone(self),
            own,
            turn: WatchTurn::default(),
        }
    }

    /// Every source that some shard counts; one that several shards see is summed.
    pub fn sources(&self) -> Vec<(Source, SourceCounts)> {
        let mut sum = std::collections::HashMap::<Source, SourceCounts>::new();
        for observed in lock(&self.all).iter() {
            for (source, counts) in lock(&observed.recent).all() {
                let all = sum.entry(source).or_default();
                all.datagrams += counts.datagrams;
                all.bytes += counts.bytes;
                all.refused += counts.refused;
            }
        }
        sum.into_iter().collect()
    }

    pub fn sizes(&self, listener: u32) -> SizeCounts {
        let mut sum = [0; SIZE_WORDS];
        for observed in lock(&self.all).iter() {
            let Some(counts) = observed.sizes.get(listener as usize) else {
                continue;
            };
            for (sum, count) in sum.iter_mut().zip(counts) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
        sum
    }

    /// Keeps sampling on for this long, and takes what was sampled.
    pub fn watch(&self, lease: Duration) -> MutexGuard<'_, Kept> {
        let until = super::monotonic_ns() + lease.as_nanos() as u64;
        self.watch_until_ns.store(until, Ordering::Relaxed);
        let mut kept = lock(&self.kept);
        for sample in lock(&self.waiting).drain(..) {
            kept.push(sample);
        }
        kept
    }

    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }
}

impl Observer {
    /// A judged bundle: `verdict` is what those of its datagrams share that are no frames, if any.
    pub fn observe(
        &mut self,
        slot: &SocketSlot,
        source: &Source,
        holder: &Source,
        shape: BundleShape,
        verdict: Verdict,
        bundle: &[u8],
    ) {
        let (datagrams, bytes) = (u64::from(shape.datagrams()), u64::from(shape.payload_len));
        let refused = match verdict {
            Verdict::Passed => 0,
            _ => datagrams,
        };
        lock(&self.own.recent).add(*holder, datagrams, bytes, refused);
        if let Some(counts) = self.own.sizes.get(slot.listener as usize) {
            for (bucket, count) in sizes(shape) {
                counts[bucket].fetch_add(count, Ordering::Relaxed);
            }
            counts[SIZE_SUM].fetch_add(bytes, Ordering::Relaxed);
        }
        if refused > 0 {
            self.sample(slot, source, shape, verdict, bundle);
        }
    }

    fn sample(
        &mut self,
        slot: &SocketSlot,
        source: &Source,
        shape: BundleShape,
        verdict: Verdict,
        bundle: &[u8],
    ) {
        let until = self.shared.watch_until_ns.load(Ordering::Relaxed);
        if until == 0 {
            return;
        }
        let now = super::monotonic_ns();
        if now >= until {
            return;
        }
        let left_out = &self.shared.left_out;
        if !self.turn.take(now) {
            left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let first = match shape.datagrams() {
            1 => bundle,
            _ => &bundle[..bundle.len().min(shape.segment_len as usize)],
        };
        let head_len = first.len().min(FRAME_HEADER_LEN);
        let mut sample = RefusedSample {
            source: *source,
            listener: slot.listener,
            datagrams: shape.datagrams(),
            len: first.len() as u32,
            head_len: head_len as u8,
            ..RefusedSample::EMPTY
        };
        sample.head[..head_len].copy_from_slice(&first[..head_len]);
        let fault = match first.first_chunk() {
            _ if slot.flags & SOCKET_SYSLOG != 0 => None,
            None => Some(HeaderFault::Truncated),
            Some(header) => check_datagram(header, sample.len, slot.payload_len_max).err(),
        };
        let (verdict, fault) = first_verdict(verdict, fault);
        sample.verdict = verdict as u8;
        sample.fault = fault;
        let mut waiting = lock(&self.shared.waiting);
        if waiting.len() == WAITING_MAX {
            left_out.fetch_add(1, Ordering::Relaxed);
        } else {
            waiting.push(sample);
        }
    }
}

/// What is behind these locks is whole after each statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    const SLOT: SocketSlot = SocketSlot {
        listener: 3,
        payload_len_max: 1_000,
        flags: 0,
        reserved: 0,
    };

    fn source(text: &str) -> Source {
        Source::from(text.parse::<IpAddr>().expect("an address"))
    }

    fn shape(bundle: &[u8], segment_len: u32) -> BundleShape {
        BundleShape {
            payload_len: bundle.len() as u32,
            segment_len,
        }
    }

    #[test]
    fn sources_and_sizes_are_summed_over_the_shards() {
        let observers = Arc::new(Observers::default());
        let mut shards = [observers.observer(), observers.observer()];
        let (a, b) = (source("192.0.2.1"), source("192.0.2.2"));
        let bundle = [0; 250];
        for shard in &mut shards {
            let shape = shape(&bundle, 100);
            shard.observe(&SLOT, &a, &a, shape, Verdict::Passed, &bundle);
        }
        shards[0].observe(&SLOT, &b, &b, shape(&bundle, 0), Verdict::Denied, &bundle);
        let mut sources = observers.sources();
        sources.sort_by_key(|(_, counts)| counts.datagrams);
        let counts = |datagrams, bytes, refused| SourceCounts {
            datagrams,
            bytes,
            refused,
        };
        assert_eq!(sources, [(b, counts(1, 250, 1)), (a, counts(6, 500, 0))]);
        let sizes = observers.sizes(3);
        // Four of 100 bytes (to 128), two of 50 (to 64), one of 250 (to 256), and all their bytes.
        assert_eq!((sizes[0], sizes[1], sizes[2], sizes[3]), (2, 4, 1, 0));
        assert_eq!(sizes[SIZE_SUM], 750);
        assert_eq!(observers.sizes(0), [0; SIZE_WORDS]);
    }

    #[test]
    fn nothing_is_sampled_while_nobody_watches_and_a_bounded_part_otherwise() {
        let observers = Arc::new(Observers::default());
        let mut shard = observers.observer();
        let from = source("2001:db8::7");
        let bad = b"hello";
        let mut refuse = |times: usize| {
            for _ in 0..times {
                shard.observe(&SLOT, &from, &from, shape(bad, 0), Verdict::Malformed, bad);
            }
        };
        refuse(10);
        let name = |_| "udp".to_owned();
        let watched = observers.watch(Duration::from_secs(60)).after(0, 0, name);
        assert!(watched.samples.is_empty());
        refuse(100);
        let watched = observers.watch(Duration::from_secs(60)).after(0, 0, name);
        // A turn ends some time in between, perhaps.
        assert!((16..=32).contains(&watched.samples.len()), "{watched:?}");
        assert_eq!(watched.samples.len() as u64 + observers.left_out(), 100);
        let one = &watched.samples[0];
        assert_eq!((one.source.as_str(), one.head.as_str()), ("2001:db8::7", "hello"));
        assert_eq!(one.fault.as_deref(), Some("truncated"));
        // The lease is over at once: no more.
        drop(observers.watch(Duration::ZERO));
        refuse(10);
        assert_eq!(observers.watch(Duration::ZERO).after(watched.last, 0, name).samples, []);
    }
}
