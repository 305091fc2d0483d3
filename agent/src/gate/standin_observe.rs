//! What the stand-in remembers for people, as the filter's maps do in the kernel. All shards share
//! it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_common::bundle::BundleShape;
use agent_common::classify::{HeaderFault, check_datagram};
use agent_common::frame::FRAME_HEADER_LEN;
use agent_common::layout::{LISTENERS_MAX, SOCKET_SYSLOG, SocketSlot};
use agent_common::observe::{
    RefusedSample, SIZE_SUM, SIZE_WORDS, SizeCounts, SourceCounts, WHO_MAX, WatchTurn,
    first_verdict, sizes,
};
use agent_common::source::Source;
use agent_common::verdict::Verdict;

use super::refused::Kept;
use super::who::Recent;

/// Parts of the table of sources, each with a lock of its own, so that shards seldom meet.
const PARTS: usize = 16;
/// Samples that wait for the control thread, which asks four times a second: beyond these they are
/// left out, and counted.
const WAITING_MAX: usize = 256;

/// As many sources as the kernel's map has: 1.5 MB.
pub struct Observer {
    recent: [Mutex<Recent>; PARTS],
    sizes: Vec<[AtomicU64; SIZE_WORDS]>,
    /// Until when somebody watches, in nanoseconds of the monotonic clock.
    watch_until_ns: AtomicU64,
    sampling: Mutex<Sampling>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Sampling {
    turn: WatchTurn,
    waiting: Vec<RefusedSample>,
}

impl Default for Observer {
    fn default() -> Self {
        Self {
            recent: std::array::from_fn(|_| Mutex::new(Recent::new(WHO_MAX as usize / PARTS))),
            sizes: (0..LISTENERS_MAX)
                .map(|_| std::array::from_fn(|_| AtomicU64::new(0)))
                .collect(),
            watch_until_ns: AtomicU64::new(0),
            sampling: Mutex::default(),
            kept: Mutex::default(),
        }
    }
}

impl Observer {
    /// Every source that is counted now.
    pub fn sources(&self) -> Vec<(Source, SourceCounts)> {
        let mut all = Vec::new();
        for part in &self.recent {
            all.extend(lock(part).all());
        }
        all
    }

    pub fn sizes(&self, listener: u32) -> SizeCounts {
        let counts = self.sizes.get(listener as usize);
        counts.map_or([0; SIZE_WORDS], |counts| {
            std::array::from_fn(|at| counts[at].load(Ordering::Relaxed))
        })
    }

    /// Keeps sampling on for this long from `now_ns`, and takes what was sampled.
    pub fn watch(&self, lease: Duration, now_ns: u64) -> MutexGuard<'_, Kept> {
        let until = now_ns + lease.as_nanos() as u64;
        self.watch_until_ns.store(until, Ordering::Relaxed);
        let mut kept = lock(&self.kept);
        for sample in lock(&self.sampling).waiting.drain(..) {
            kept.push(sample);
        }
        kept
    }

    pub fn left_out(&self) -> u64 {
        lock(&self.sampling).turn.left_out
    }

    /// A bundle that was judged as `verdict` at `now_ns`, from `source`, which `holder` stands for.
    pub fn observe(
        &self,
        slot: &SocketSlot,
        (source, holder): (&Source, &Source),
        shape: BundleShape,
        verdict: Verdict,
        bundle: &[u8],
        now_ns: u64,
    ) {
        let (datagrams, bytes) = (u64::from(shape.datagrams()), u64::from(shape.payload_len));
        let refused = match verdict {
            Verdict::Passed => 0,
            _ => datagrams,
        };
        lock(&self.recent[part(holder)]).add(*holder, datagrams, bytes, refused);
        if let Some(counts) = self.sizes.get(slot.listener as usize) {
            for (bucket, count) in sizes(shape) {
                counts[bucket].fetch_add(count, Ordering::Relaxed);
            }
            counts[SIZE_SUM].fetch_add(bytes, Ordering::Relaxed);
        }
        if refused > 0 {
            let until = self.watch_until_ns.load(Ordering::Relaxed);
            if now_ns < until {
                self.sample(slot, source, shape, verdict, bundle, now_ns);
            }
        }
    }

    fn sample(
        &self,
        slot: &SocketSlot,
        source: &Source,
        shape: BundleShape,
        verdict: Verdict,
        bundle: &[u8],
        now_ns: u64,
    ) {
        let mut sampling = lock(&self.sampling);
        if !sampling.turn.take(now_ns) {
            return;
        }
        if sampling.waiting.len() == WAITING_MAX {
            sampling.turn.left_out += 1;
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
        sampling.waiting.push(sample);
    }
}

/// Which part of the table has the source: the last bits of an address differ most.
fn part(source: &Source) -> usize {
    let mixed = source.words.iter().fold(0u32, |mixed, word| {
        (mixed ^ word).wrapping_mul(0x9e37_79b1).rotate_left(13)
    });
    mixed as usize % PARTS
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
    fn sources_and_sizes_are_counted() {
        let observer = Observer::default();
        let (a, b) = (source("192.0.2.1"), source("192.0.2.2"));
        let bundle = [0; 250];
        for _ in 0..2 {
            let shape = shape(&bundle, 100);
            observer.observe(&SLOT, (&a, &a), shape, Verdict::Passed, &bundle, 0);
        }
        let single = shape(&bundle, 0);
        observer.observe(&SLOT, (&a, &b), single, Verdict::Denied, &bundle, 0);
        let mut sources = observer.sources();
        sources.sort_by_key(|(_, counts)| counts.datagrams);
        let counts = |datagrams, bytes, refused| SourceCounts {
            datagrams,
            bytes,
            refused,
        };
        assert_eq!(sources, [(b, counts(1, 250, 1)), (a, counts(6, 500, 0))]);
        let sizes = observer.sizes(3);
        // Four of 100 bytes (to 128), two of 50 (to 64), one of 250 (to 256), and all their bytes.
        assert_eq!((sizes[0], sizes[1], sizes[2], sizes[3]), (2, 4, 1, 0));
        assert_eq!(sizes[SIZE_SUM], 750);
        assert_eq!(observer.sizes(0), [0; SIZE_WORDS]);
    }

    #[test]
    fn nothing_is_sampled_while_nobody_watches_and_a_bounded_part_otherwise() {
        let observer = Observer::default();
        let from = source("2001:db8::7");
        let holder = source("2001:db8::");
        let bad = b"hello";
        let refuse = |times: u64, now_ns: u64| {
            for _ in 0..times {
                let shape = shape(bad, 0);
                let who = (&from, &holder);
                observer.observe(&SLOT, who, shape, Verdict::Malformed, bad, now_ns);
            }
        };
        let second = Duration::from_secs(1);
        let name = |_| "udp".to_owned();
        refuse(10, 5);
        let watched = observer.watch(second, 5).after(0, 0, name);
        assert!(watched.samples.is_empty());
        refuse(100, 6);
        let watched = observer.watch(second, 7).after(0, 0, name);
        assert_eq!((watched.samples.len(), observer.left_out()), (16, 84));
        let one = &watched.samples[0];
        assert_eq!(
            (one.source.as_str(), one.head.as_str()),
            ("2001:db8::7", "hello")
        );
        assert_eq!(one.fault.as_deref(), Some("truncated"));
        // Turn after turn, and nobody takes them.
        for turn in 1..100 {
            observer.watch_until_ns.store(u64::MAX, Ordering::Relaxed);
            refuse(17, turn << 27);
        }
        assert_eq!(lock(&observer.sampling).waiting.len(), WAITING_MAX);
        let sampled = observer
            .watch(second, 100 << 27)
            .after(watched.last, 0, name);
        let refused = 99 * 17;
        assert_eq!(
            sampled.samples.len() as u64 + observer.left_out() - 84,
            refused
        );
        // The lease is over: no more.
        refuse(10, 200 << 27);
        let sampled = observer
            .watch(second, 200 << 27)
            .after(sampled.last, 0, name);
        assert!(sampled.samples.is_empty());
    }
}
