//! A sample of what is refused, for whoever watches. While nobody does it costs a look into an array
//! for each refused bundle, and nothing for those that pass.

use core::ffi::c_void;

use agent_common::bundle::BundleShape;
use agent_common::frame::FRAME_HEADER_LEN;
use agent_common::layout::SocketSlot;
use agent_common::observe::{REFUSED_RING_LEN, RefusedSample, WatchTurn};
use agent_common::source::Source;
use agent_common::verdict::Verdict;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray, RingBuf};

/// Until when somebody watches, in nanoseconds of the monotonic clock: it ends by itself.
#[map]
pub static WATCH: Array<u64> = Array::with_max_entries(1, 0);

#[map]
pub static WATCH_TURN: PerCpuArray<WatchTurn> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static REFUSED: RingBuf = RingBuf::with_byte_size(REFUSED_RING_LEN, 0);

/// `skb`: the bundle; `start`: where its first datagram begins.
#[inline(always)]
pub fn sample(
    skb: *mut c_void,
    start: u32,
    slot: &SocketSlot,
    source: &Source,
    shape: BundleShape,
    verdict: Verdict,
) {
    let until = WATCH.get(0).copied().unwrap_or(0);
    if until == 0 {
        return;
    }
    // SAFETY: takes nothing and reads the clock.
    let now = unsafe { bpf_ktime_get_ns() };
    if now >= until {
        return;
    }
    let Some(turn) = WATCH_TURN.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's own value. The program may be interrupted by itself (a softirq during a
    // system call): a sample more or less is no harm.
    let turn = unsafe { &mut *turn };
    if !turn.take(now) {
        return;
    }
    let Some(mut entry) = REFUSED.reserve::<RefusedSample>(0) else {
        // Full: nobody has read it for seconds.
        turn.left_out += 1;
        return;
    };
    let len = match shape.datagrams() {
        1 => shape.payload_len,
        _ => shape.segment_len,
    };
    let sample = entry.as_mut_ptr();
    // The helper wants a length that the verifier can bound, and not 0.
    let head_len = len.min(FRAME_HEADER_LEN as u32);
    // SAFETY: the entry is as long as the sample, 8-aligned, and this program's until it is
    // submitted; every field is written. The helper writes `head_len` bytes at the most, or clears
    // them where the packet ends before.
    unsafe {
        (*sample).source = *source;
        (*sample).listener = slot.listener;
        (*sample).payload_len_max = slot.payload_len_max;
        (*sample).flags = slot.flags;
        (*sample).verdict = verdict as u32;
        (*sample).datagrams = shape.datagrams();
        (*sample).len = len;
        (*sample).head_len = head_len;
        (*sample).head = [0; FRAME_HEADER_LEN];
        if head_len > 0 {
            let head = (&raw mut (*sample).head).cast();
            bpf_skb_load_bytes(skb, start, head, head_len);
        }
    }
    // Nobody is woken: whoever watches asks.
    entry.submit(u64::from(aya_ebpf::bindings::BPF_RB_NO_WAKEUP));
}
