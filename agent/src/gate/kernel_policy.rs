//! The policy in the kernel's maps: written beside the one in force, then put in its place by one
//! word (`agent_common::layout`).

use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use agent_common::layout::{GENERATION_MAX, POLICIES, PREFIX_HEAD_BITS, Policy, PrefixKey};
use agent_common::limit::Limit;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, Map, MapData, MapError};
use aya::{Ebpf, Pod};

use super::error::GateError;
use super::keep::KeepHandle;
use super::kernel::take_map;
use super::object::map;
use super::rules::{Network, PolicyError, Rules};

/// Where membarrier(2) is not to be had (CONFIG_NO_HZ_FULL, a seccomp filter): a program runs for
/// some microseconds, and longer only where its CPU is taken away from it.
const RUNS_ARE_OVER_AFTER: Duration = Duration::from_millis(100);

/// The maps of the policy, which only the control thread writes.
pub struct PolicyMaps {
    generation: Array<MapData, u64>,
    policies: Array<MapData, Shared<Policy>>,
    lists: LpmTrie<MapData, Shared<PrefixKey>, u32>,
    limits: LpmTrie<MapData, Shared<PrefixKey>, Shared<Limit>>,
    keep: KeepHandle,
    /// In force, with its entries.
    current: Written,
    /// Number of the next policy. Never that of one that was written before, and its lowest bit never
    /// that of the one in force.
    next_generation: u32,
}

/// What of the tries belongs to one generation.
#[derive(Default)]
struct Written {
    generation: u32,
    lists: Vec<Network>,
    limits: Vec<Network>,
}

/// A value whose layout `agent-common` gives to both sides.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Shared<T>(T);

// SAFETY: `repr(C)` of u32 alone, without padding (a test of agent-common's layout.rs).
unsafe impl Pod for Shared<PrefixKey> {}
// SAFETY: `repr(C)` of u64 alone, without padding (the same test).
unsafe impl Pod for Shared<Limit> {}
// SAFETY: `repr(C)` of ten u32 and two `Limit`, without padding (the same test).
unsafe impl Pod for Shared<Policy> {}

impl PolicyMaps {
    /// Takes the maps of an object that was just loaded: a policy without lists and limits holds.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, GateError> {
        let wrong = |what| move |source| GateError::Map { what, source };
        let keep = take_map(ebpf, map::KEEP)?;
        let Map::Array(keep) = &keep else {
            let (what, name) = ("array", map::KEEP);
            return Err(GateError::Incomplete { what, name });
        };
        Ok(Self {
            generation: Array::try_from(take_map(ebpf, map::GENERATION)?)
                .map_err(wrong(map::GENERATION))?,
            policies: Array::try_from(take_map(ebpf, map::POLICIES)?)
                .map_err(wrong(map::POLICIES))?,
            lists: LpmTrie::try_from(take_map(ebpf, map::LISTS)?).map_err(wrong(map::LISTS))?,
            limits: LpmTrie::try_from(take_map(ebpf, map::LIMITS)?).map_err(wrong(map::LIMITS))?,
            keep: KeepHandle::of_map(keep.fd().as_fd()).map_err(GateError::MapKeep)?,
            current: Written::default(),
            next_generation: 1,
        })
    }

    pub fn keep(&self) -> &KeepHandle {
        &self.keep
    }

    /// Puts rules in force as a whole, or leaves the ones before them.
    pub fn apply(&mut self, rules: &Rules) -> Result<(), PolicyError> {
        let mut next = Written {
            generation: self.next_generation,
            ..Written::default()
        };
        let written = self.write(rules, &mut next);
        let step = if written.is_ok() { 1 } else { 2 };
        self.next_generation = (self.next_generation + step) & GENERATION_MAX;
        if let Err(error) = written {
            // No program has read this generation's number.
            self.remove(&next);
            return Err(error);
        }
        let before = std::mem::replace(&mut self.current, next);
        self.keep.set_ceiling(rules.ceiling);
        wait_for_runs();
        self.remove(&before);
        Ok(())
    }

    fn write(&mut self, rules: &Rules, next: &mut Written) -> Result<(), PolicyError> {
        let failed = |map| move |source| PolicyError::Map { map, source };
        let generation = next.generation;
        for (network, entry) in &rules.lists {
            self.lists
                .insert(&key(generation, network), *entry as u32, 0)
                .map_err(failed(map::LISTS))?;
            next.lists.push(*network);
        }
        for (network, limit) in &rules.limits {
            self.limits
                .insert(&key(generation, network), Shared(*limit), 0)
                .map_err(failed(map::LIMITS))?;
            next.limits.push(*network);
        }
        let policy = Policy {
            generation,
            ..rules.policy
        };
        self.policies
            .set(generation % POLICIES, Shared(policy), 0)
            .map_err(failed(map::POLICIES))?;
        // From here on it holds: 8 bytes, which the kernel copies as one word.
        self.generation
            .set(0, u64::from(generation), 0)
            .map_err(failed(map::GENERATION))
    }

    /// What cannot be removed takes up its place in the trie, and names nothing: its generation is
    /// not in force.
    fn remove(&mut self, old: &Written) {
        let mut failed: Option<MapError> = None;
        for network in &old.lists {
            failed = self
                .lists
                .remove(&key(old.generation, network))
                .err()
                .or(failed);
        }
        for network in &old.limits {
            failed = self
                .limits
                .remove(&key(old.generation, network))
                .err()
                .or(failed);
        }
        if let Some(error) = failed {
            tracing::warn!("an old prefix stays in the gate's maps, without effect: {error}");
        }
    }
}

fn key(generation: u32, network: &Network) -> Key<Shared<PrefixKey>> {
    let data = Shared(PrefixKey::new(generation, &network.source));
    Key::new(PREFIX_HEAD_BITS + network.bits, data)
}

/// Returns when every program has ended that may have read the number of the generation before.
///
/// Programs run under RCU, and MEMBARRIER_CMD_GLOBAL is `synchronize_rcu` (membarrier(2), since
/// 4.3): some milliseconds, and no capability.
fn wait_for_runs() {
    // SAFETY: takes three numbers.
    let status = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if status != 0 {
        let error = io::Error::last_os_error();
        tracing::debug!("membarrier: {error}; waiting {RUNS_ARE_OVER_AFTER:?} instead");
        thread::sleep(RUNS_ARE_OVER_AFTER);
    }
}
