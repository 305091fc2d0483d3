//! The filter's maps for people: who sends, how long datagrams are, what is refused. Read on held
//! descriptors, which needs no capability.

use std::time::Duration;

use agent_common::observe::{RefusedSample, SIZE_WORDS, SizeCounts, SourceCounts, WatchTurn};
use agent_common::source::Source;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, RingBuf};
use aya::{Ebpf, Pod};

use super::error::GateError;
use super::kernel::{map_error, take_map};
use super::object::map;
use super::refused::Kept;

/// The maps, and what was read of the ring.
pub struct KernelObserver {
    who: HashMap<MapData, SourceKey, Counts>,
    sizes: PerCpuArray<MapData, [u64; SIZE_WORDS]>,
    watch: Array<MapData, u64>,
    turns: PerCpuArray<MapData, Turn>,
    ring: RingBuf<MapData>,
    kept: Kept,
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct SourceKey(Source);
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Counts(SourceCounts);
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Turn(WatchTurn);

// SAFETY: five u32 in C layout: no padding, no pointer, and every bit pattern is one.
unsafe impl Pod for SourceKey {}
// SAFETY: three u64 in C layout, as above.
unsafe impl Pod for Counts {}
// SAFETY: three u64 in C layout, as above.
unsafe impl Pod for Turn {}

impl KernelObserver {
    /// Takes the maps, and maps the ring into memory: to be done before privileges are dropped.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, GateError> {
        Ok(Self {
            who: HashMap::try_from(take_map(ebpf, map::WHO)?)
                .map_err(|source| map_error(map::WHO, source))?,
            sizes: PerCpuArray::try_from(take_map(ebpf, map::SIZES)?)
                .map_err(|source| map_error(map::SIZES, source))?,
            watch: Array::try_from(take_map(ebpf, map::WATCH)?)
                .map_err(|source| map_error(map::WATCH, source))?,
            turns: PerCpuArray::try_from(take_map(ebpf, map::WATCH_TURN)?)
                .map_err(|source| map_error(map::WATCH_TURN, source))?,
            ring: RingBuf::try_from(take_map(ebpf, map::REFUSED)?)
                .map_err(|source| map_error(map::REFUSED, source))?,
            kept: Kept::default(),
        })
    }

    /// Every source that is counted now. Two calls for each: some milliseconds where the map is full.
    pub fn sources(&self) -> Vec<(Source, SourceCounts)> {
        // A source that is forgotten while the map is read may end the walk early (LRU maps).
        self.who
            .iter()
            .filter_map(Result::ok)
            .map(|(SourceKey(source), Counts(counts))| (source, counts))
            .collect()
    }

    /// A listener's datagrams by size, over all CPUs.
    pub fn sizes(&self, listener: u32) -> SizeCounts {
        let mut sum = [0; SIZE_WORDS];
        match self.sizes.get(&listener, 0) {
            Ok(cpus) => {
                for counts in cpus.iter() {
                    for (sum, count) in sum.iter_mut().zip(counts) {
                        *sum += count;
                    }
                }
            }
            Err(error) => tracing::warn!("bpf map lookup of {}: {error}", map::SIZES),
        }
        sum
    }

    /// Keeps sampling on for this long from `now_ns`, and reads what was sampled.
    pub fn watch(&mut self, lease: Duration, now_ns: u64) -> &Kept {
        let until = now_ns + lease.as_nanos() as u64;
        if let Err(error) = self.watch.set(0, until, 0) {
            tracing::warn!("bpf map update of {}: {error}", map::WATCH);
        }
        while let Some(item) = self.ring.next() {
            if let Some(sample) = sample(&item) {
                self.kept.push(sample);
            }
        }
        &self.kept
    }

    /// Refused bundles that were not handed on while somebody watched.
    pub fn left_out(&self) -> u64 {
        match self.turns.get(&0, 0) {
            Ok(cpus) => cpus.iter().map(|Turn(turn)| turn.left_out).sum(),
            Err(_) => 0,
        }
    }
}

fn sample(bytes: &[u8]) -> Option<RefusedSample> {
    if bytes.len() != size_of::<RefusedSample>() {
        return None;
    }
    // SAFETY: as many bytes as the struct has, at whatever alignment; every bit pattern is one, as
    // it has only integers, and no padding (agent-common/src/observe.rs tests it).
    Some(unsafe { bytes.as_ptr().cast::<RefusedSample>().read_unaligned() })
}
