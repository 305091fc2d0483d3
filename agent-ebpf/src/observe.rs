//! What is remembered of a bundle once it is judged: who sent it, how long its datagrams were. No
//! verdict depends on it.

use agent_common::bundle::BundleShape;
use agent_common::layout::LISTENERS_MAX;
use agent_common::observe::{SIZE_SUM, SIZE_WORDS, SizeCounts, SourceCounts, WHO_MAX, sizes};
use agent_common::source::Source;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{LruHashMap, PerCpuArray};

use crate::count::add_at;

/// By what makes a source.
#[map]
pub static WHO: LruHashMap<Source, SourceCounts> = LruHashMap::with_max_entries(WHO_MAX, 0);

#[map]
pub static SIZES: PerCpuArray<SizeCounts> = PerCpuArray::with_max_entries(LISTENERS_MAX, 0);

/// One look into a hash map and one into an array, whatever the bundle holds.
#[inline(always)]
pub fn observe(listener: u32, holder: &Source, shape: BundleShape, refused: u32) {
    who(holder, shape, refused);
    if let Some(counts) = SIZES.get_ptr_mut(listener) {
        let counts = counts.cast::<u64>();
        let [equal, last] = sizes(shape);
        if equal.1 > 0 {
            add_to(counts, equal.0, equal.1);
        }
        add_to(counts, last.0, last.1);
        add_to(counts, SIZE_SUM, u64::from(shape.payload_len));
    }
}

#[inline(always)]
fn who(holder: &Source, shape: BundleShape, refused: u32) {
    let (datagrams, bytes) = (u64::from(shape.datagrams()), u64::from(shape.payload_len));
    let refused = u64::from(refused);
    let Some(counts) = WHO.get_ptr_mut(holder) else {
        let first = SourceCounts {
            datagrams,
            bytes,
            refused,
        };
        // Where another CPU was quicker, or the map has no place at this moment, this one bundle is
        // not in the source's count: it is for people, and no law depends on it.
        let _ = WHO.insert(holder, first, u64::from(BPF_NOEXIST));
        return;
    };
    // SAFETY: the pointer is to a live value of the map, which stays readable and writable until
    // the program has ended even if the map gives it away meanwhile (RCU).
    unsafe {
        add_at(&raw mut (*counts).datagrams, datagrams);
        add_at(&raw mut (*counts).bytes, bytes);
        if refused > 0 {
            add_at(&raw mut (*counts).refused, refused);
        }
    }
}

#[inline(always)]
fn add_to(counts: *mut u64, index: usize, amount: u64) {
    // The mask is for the verifier: no index is that long.
    let index = index & (SIZE_WORDS - 1);
    // SAFETY: the value has `SIZE_WORDS` words, and the verifier checks it again.
    unsafe { add_at(counts.add(index), amount) };
}
