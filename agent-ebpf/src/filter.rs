//! The socket filter: a verdict per datagram, before the datagram is queued.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use agent_common::bundle::{BUNDLE_DATAGRAMS_MAX, BundleShape, Packet, Scan};
use agent_common::judge::{Outcome, Rules, judge};
use agent_common::layout::{BundleCount, Stray, bundle_index, tick_index, verdict_index};
use agent_common::verdict::Verdict;
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_loop, bpf_skb_load_bytes};
use aya_ebpf::macros::socket_filter;
use aya_ebpf::programs::SkBuffContext;
use aya_log_ebpf::warn;

use crate::count::{add, add_first};
use crate::maps::{BUNDLES, SOCKETS, STRAYS, TICKS, VERDICTS};
use crate::rules::KernelRules;
use crate::{observe, refused, source};

/// More than any length: the kernel trims a packet to what the filter returns.
const PASS_WHOLE: i64 = u32::MAX as i64;
const DROP: i64 = 0;

/// A UDP socket's filter is shown the packet from its UDP header on.
const UDP_HEADER_LEN: u32 = 8;

#[socket_filter]
pub fn penstock_filter(context: SkBuffContext) -> i64 {
    // The receiving socket's: `sk_filter_trim_cap` lends it to the skb while the filter runs.
    //
    // SAFETY: the helper reads the context that the kernel called us with.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    // SAFETY: the loader replaces a slot as a whole, and a replaced one outlives this program's
    // run (RCU).
    let Some(&slot) = (unsafe { SOCKETS.get(cookie) }) else {
        if add_first(&STRAYS, Stray::UnknownSocket as u32, 1) {
            warn!(
                &context,
                "a socket that the gate does not know carries its filter: cookie {}", cookie
            );
        }
        return PASS_WHOLE;
    };
    let shape = shape(&context);
    let datagrams = shape.datagrams();
    if datagrams > BUNDLE_DATAGRAMS_MAX && add_first(&STRAYS, Stray::LongBundle as u32, 1) {
        warn!(
            &context,
            "a bundle of {} datagrams: the last of them pass unseen", datagrams
        );
    }
    let mut source = source::of(&context);
    source.family = opaque(source.family, &context);
    let packet = SkBuff(context.as_ptr());
    let outcome = judge(&KernelRules, &slot, &source, shape, &packet);
    let outcome = joined(outcome, &context);
    count(slot.listener, &outcome);
    let holder = match KernelRules.policy() {
        Some(policy) => policy.holder(&source),
        None => source,
    };
    let passes = outcome.passes();
    let refused = opaque(if passes { 0 } else { datagrams }, &context);
    let shape = BundleShape {
        payload_len: opaque(shape.payload_len, &context),
        segment_len: opaque(shape.segment_len, &context),
    };
    observe::observe(slot.listener, &holder, shape, refused);
    if passes {
        return PASS_WHOLE;
    }
    let skb = context.as_ptr();
    refused::sample(skb, UDP_HEADER_LEN, &slot, &source, shape, outcome.verdict);
    DROP
}

/// The number, as one of which the verifier knows nothing.
///
/// The verifier follows each way through the program with what it knows there. Ways that differ in
/// a constant only do not join again: what comes behind them is looked at as often as there are
/// ways, and the product of a few of these is more than its million instructions.
#[inline(always)]
fn opaque(number: u32, context: &SkBuffContext) -> u32 {
    let mut number = u64::from(number);
    // SAFETY: xors twice with a number that the verifier does not know, the packet's length.
    unsafe {
        core::arch::asm!(
            "{number} ^= {unknown}",
            "{number} ^= {unknown}",
            number = inout(reg) number,
            unknown = in(reg) u64::from(context.len()),
            options(pure, nomem, nostack),
        );
    }
    number as u32
}

/// All ways to an outcome as one way.
#[inline(always)]
fn joined(outcome: Outcome, context: &SkBuffContext) -> Outcome {
    let verdict = opaque(outcome.verdict as u32, context);
    Outcome {
        // SAFETY: it is the number that it was.
        verdict: unsafe { core::mem::transmute::<u32, Verdict>(verdict) },
        datagrams: opaque(outcome.datagrams, context),
        malformed: opaque(outcome.malformed, context),
        contended: opaque(u32::from(outcome.contended), context) != 0,
    }
}

#[inline(always)]
fn count(listener: u32, outcome: &Outcome) {
    let verdicts = |verdict, datagrams| {
        let index = verdict_index(listener, verdict);
        add(&VERDICTS, index, u64::from(datagrams));
    };
    let bundles = |count| add(&BUNDLES, bundle_index(listener, count), 1);
    verdicts(outcome.verdict, outcome.datagrams);
    if outcome.malformed > 0 {
        verdicts(Verdict::Malformed, outcome.malformed);
    }
    bundles(BundleCount::Judged);
    if !outcome.passes() {
        bundles(BundleCount::Dropped);
    }
    if outcome.contended {
        bundles(BundleCount::Contended);
    }
}

#[inline(always)]
fn shape(context: &SkBuffContext) -> BundleShape {
    BundleShape {
        // Never below 8: the kernel has looked at the UDP header by now, but the verifier does not
        // know.
        payload_len: context.len().saturating_sub(UDP_HEADER_LEN),
        // SAFETY: the kernel called us with a valid `__sk_buff`; the verifier turns the field's
        // read into one of the skb's shared info.
        segment_len: unsafe { (*context.skb.skb).gso_size },
    }
}

/// A bundle as the kernel holds it: GRO leaves it scattered over pages and further skbs.
struct SkBuff(*mut c_void);

impl Packet for SkBuff {
    #[inline(always)]
    fn look<const N: usize, R>(&self, offset: u32, look: impl FnOnce(&[u8; N]) -> R) -> Option<R> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the helper writes exactly N bytes, the array's length.
        let status = unsafe {
            bpf_skb_load_bytes(
                self.0,
                UDP_HEADER_LEN + offset,
                bytes.as_mut_ptr().cast(),
                N as u32,
            )
        };
        // SAFETY: on success the helper has written all of it.
        (status == 0).then(|| look(unsafe { bytes.assume_init_ref() }))
    }

    #[inline(always)]
    fn tick(&self, listener: u32, priority: u8) -> u64 {
        let index = tick_index(listener, priority);
        let number = TICKS.get(index).copied().unwrap_or(0);
        add(&TICKS, index, 1);
        number
    }

    #[inline(always)]
    fn run(scan: &mut Scan<'_, Self>) {
        let steps = scan.steps();
        // SAFETY: the helper calls `step` at most that often, with the pointer to `scan`, and only
        // before it returns.
        unsafe {
            let step = step as unsafe extern "C" fn(u64, *mut Scan<'static, SkBuff>) -> i64;
            bpf_loop(
                steps,
                step as *mut c_void,
                core::ptr::from_mut(scan).cast(),
                0,
            );
        }
    }
}

/// One turn of `bpf_loop` (5.17 and later); 1 ends it.
unsafe extern "C" fn step(_turn: u64, scan: *mut Scan<'_, SkBuff>) -> i64 {
    // SAFETY: `run` hands in its own `scan`, and does not touch it meanwhile.
    let scan = unsafe { &mut *scan };
    let mut over = i64::from(scan.step());
    // The verifier wants to see 0 or 1; the compiler knows that of a bool, and leaves it out.
    //
    // SAFETY: a register is masked.
    unsafe {
        core::arch::asm!(
            "{over} &= 1",
            over = inout(reg) over,
            options(pure, nomem, nostack),
        );
    }
    over
}
