//! A sample of what is refused, for whoever watches. While nobody does it costs a look into an array
//! for each refused bundle, and nothing for those that pass.

use core::ffi::c_void;

use agent_common::bundle::BundleShape;
use agent_common::classify::{HeaderFault, check_datagram};
use agent_common::frame::FRAME_HEADER_LEN;
use agent_common::layout::{SOCKET_SYSLOG, SocketSlot};
use agent_common::observe::{REFUSED_RING_LEN, RefusedSample, WatchTurn, first_verdict};
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
    let mut sample = RefusedSample::EMPTY;
    sample.source = *source;
    sample.listener = slot.listener;
    sample.datagrams = shape.datagrams();
    sample.len = match shape.datagrams() {
        1 => shape.payload_len,
        _ => shape.segment_len,
    };
    let fault = head(skb, start, slot, &mut sample);
    let (verdict, fault) = first_verdict(verdict, fault);
    sample.verdict = verdict as u8;
    sample.fault = fault;
    entry.write(sample);
    // Nobody is woken: whoever watches asks.
    entry.submit(u64::from(aya_ebpf::bindings::BPF_RB_NO_WAKEUP));
}

/// Copies how the first datagram begins, and looks for what is wrong with it.
#[inline(always)]
fn head(
    skb: *mut c_void,
    start: u32,
    slot: &SocketSlot,
    sample: &mut RefusedSample,
) -> Option<HeaderFault> {
    let is_whole = sample.len >= FRAME_HEADER_LEN as u32;
    // The helper wants a length that the verifier can bound, and not 0.
    let len = match is_whole {
        true => FRAME_HEADER_LEN as u32,
        false => sample.len & 63,
    };
    if len == 0 || len > FRAME_HEADER_LEN as u32 {
        return Some(HeaderFault::Truncated);
    }
    // SAFETY: the helper writes `len` bytes at the most, which the array has.
    let status = unsafe { bpf_skb_load_bytes(skb, start, sample.head.as_mut_ptr().cast(), len) };
    if status != 0 {
        return None;
    }
    sample.head_len = len as u8;
    if slot.flags & SOCKET_SYSLOG != 0 {
        return None;
    }
    match is_whole {
        true => check_datagram(&sample.head, sample.len, slot.payload_len_max).err(),
        false => Some(HeaderFault::Truncated),
    }
}
