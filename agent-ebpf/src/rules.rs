//! What the gate was told and what it remembers, as the judge asks for it: the maps.

use agent_common::bucket::TICKS_PER_NS;
use agent_common::judge::Rules;
use agent_common::keep::Keep;
use agent_common::layout::{
    ListEntry, POLICIES as POLICIES_LEN, PREFIX_HEAD_BITS, Policy, PrefixKey,
};
use agent_common::limit::{Limit, SourceState, Sources, StateWords};
use agent_common::source::Source;
use agent_common::word::Word;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::maps::lpm_trie::Key;

use crate::maps::{GENERATION, KEEP, LIMITS, LISTS, NEWCOMERS, POLICIES, SOURCES};

/// Bits of an address key: those of the longest, as a lookup asks for the best of all prefixes.
/// (Of an IPv4 address the words behind the first are 0, in the tries as here.)
const KEY_BITS: u32 = PREFIX_HEAD_BITS + 128;

/// The maps of this object.
pub struct KernelRules;

impl Rules for KernelRules {
    #[inline(always)]
    fn policy(&self) -> Option<&Policy> {
        // Read once: a policy is replaced by changing this word.
        let generation = GENERATION.get(0).copied().unwrap_or(0) as u32;
        POLICIES.get(generation % POLICIES_LEN)
    }

    #[inline(always)]
    fn list(&self, key: &PrefixKey) -> Option<ListEntry> {
        match LISTS.get(Key::new(KEY_BITS, *key)) {
            Some(&entry) if entry == ListEntry::Allow as u32 => Some(ListEntry::Allow),
            Some(_) => Some(ListEntry::Deny),
            None => None,
        }
    }

    #[inline(always)]
    fn limit(&self, key: &PrefixKey) -> Option<&Limit> {
        LIMITS.get(Key::new(KEY_BITS, *key))
    }

    #[inline(always)]
    fn keep(&self) -> Keep {
        match KEEP.get_ptr(0) {
            // SAFETY: the pointer is to a live value of the map. Volatile, as the agent writes it
            // through its own mapping meanwhile.
            Some(words) => unsafe {
                let words = words.read_volatile();
                words.ceiling.min(words.pressure)
            },
            None => Keep::ALL,
        }
    }
}

impl Sources for KernelRules {
    type Word = KernelWord;

    #[inline(always)]
    fn source(&self, source: &Source) -> Option<StateWords<KernelWord>> {
        SOURCES.get_ptr_mut(source).map(words)
    }

    #[inline(always)]
    fn admit(&self, source: &Source, state: SourceState) {
        // Where there was no place, or another CPU was quicker, the source asks the newcomers'
        // allowance again, or has what that CPU gave it.
        let _ = SOURCES.insert(source, state, u64::from(BPF_NOEXIST));
    }

    #[inline(always)]
    fn newcomers(&self) -> Option<StateWords<KernelWord>> {
        NEWCOMERS.get_ptr_mut(0).map(words)
    }

    #[inline(always)]
    fn now_ticks(&self) -> u64 {
        // SAFETY: takes nothing and reads the clock.
        TICKS_PER_NS * unsafe { bpf_ktime_get_ns() }
    }
}

#[inline(always)]
fn words(state: *mut SourceState) -> StateWords<KernelWord> {
    // SAFETY: the pointer is to a live value of a map; this only computes addresses in it.
    unsafe {
        StateWords {
            datagrams: KernelWord(&raw mut (*state).datagrams),
            bytes: KernelWord(&raw mut (*state).bytes),
            connections: KernelWord(&raw mut (*state).connections),
            settled: KernelWord(&raw mut (*state).settled),
        }
    }
}

/// A word within a map's value, which other CPUs change too.
#[derive(Clone, Copy)]
pub struct KernelWord(*mut u64);

impl Word for KernelWord {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: `words` makes these of live, 8-aligned values of a map; a value that the LRU map
        // gives away meanwhile stays readable until the program has ended (RCU).
        unsafe { self.0.read_volatile() }
    }

    #[inline(always)]
    fn compare_exchange(&self, expected: u64, new: u64) -> u64 {
        let found;
        // `core::sync::atomic` has no read-modify-write on this target. The instruction has its
        // operand and its result in r0.
        //
        // SAFETY: as for `load`; the verifier checks the address of this very instruction.
        unsafe {
            core::arch::asm!(
                "r0 = cmpxchg_64({word} + 0, r0, {new})",
                word = in(reg) self.0,
                new = in(reg) new,
                inlateout("r0") expected => found,
                options(nostack),
            );
        }
        found
    }

    #[inline(always)]
    fn add(&self, amount: u64) {
        // SAFETY: as for `load`.
        unsafe { crate::count::add_at(self.0, amount) };
    }
}
