//! The socket filter: a verdict per datagram, before the datagram is queued.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use agent_common::bundle::{BUNDLE_DATAGRAMS_MAX, BundleShape, ByteSource, Search};
use agent_common::frame::FRAME_HEADER_LEN;
use agent_common::layout::{BundleCount, SOCKET_CLOSING, Stray, bundle_index, verdict_index};
use agent_common::verdict::Verdict;
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_loop, bpf_skb_load_bytes};
use aya_ebpf::macros::socket_filter;
use aya_ebpf::programs::SkBuffContext;
use aya_log_ebpf::warn;

use crate::count::{add, add_first};
use crate::maps::{BUNDLES, SOCKETS, STRAYS, VERDICTS};

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
    let verdict = if slot.flags & SOCKET_CLOSING != 0 {
        Verdict::Closing
    } else if any_frame(&context, shape, slot.payload_len_max) {
        Verdict::Passed
    } else {
        Verdict::Malformed
    };
    // A filter cannot cut a datagram out of the middle: a bundle's datagrams share one verdict.
    add(
        &VERDICTS,
        verdict_index(slot.listener, verdict),
        u64::from(datagrams),
    );
    add(
        &BUNDLES,
        bundle_index(slot.listener, BundleCount::Judged),
        1,
    );
    if matches!(verdict, Verdict::Passed) {
        return PASS_WHOLE;
    }
    add(
        &BUNDLES,
        bundle_index(slot.listener, BundleCount::Dropped),
        1,
    );
    DROP
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

/// Whether any datagram of the bundle is a frame.
#[inline(always)]
fn any_frame(context: &SkBuffContext, shape: BundleShape, payload_len_max: u32) -> bool {
    let packet = Packet(context.as_ptr());
    let mut search = Search::new(&packet, shape, payload_len_max);
    if !search.found() {
        // SAFETY: the helper calls `step` at most that often, with the pointer to `search`, and
        // only before it returns.
        unsafe {
            let step = step as unsafe extern "C" fn(u64, *mut Search<'static, Packet>) -> i64;
            bpf_loop(
                search.steps(),
                step as *mut c_void,
                (&raw mut search).cast(),
                0,
            );
        }
    }
    search.found()
}

/// One turn of `bpf_loop` (5.17 and later); 1 ends it.
unsafe extern "C" fn step(_turn: u64, search: *mut Search<'_, Packet>) -> i64 {
    // SAFETY: `any_frame` hands in its own `search`, and does not touch it meanwhile.
    let search = unsafe { &mut *search };
    i64::from(search.step())
}

/// A bundle as the kernel holds it: GRO leaves it scattered over pages and further skbs.
struct Packet(*mut c_void);

impl ByteSource for Packet {
    #[inline(always)]
    fn header_passes(
        &self,
        offset: u32,
        check: impl FnOnce(&[u8; FRAME_HEADER_LEN]) -> bool,
    ) -> bool {
        let mut header = MaybeUninit::<[u8; FRAME_HEADER_LEN]>::uninit();
        // SAFETY: the helper writes exactly 40 bytes, the array's length.
        let status = unsafe {
            bpf_skb_load_bytes(
                self.0,
                UDP_HEADER_LEN + offset,
                header.as_mut_ptr().cast(),
                FRAME_HEADER_LEN as u32,
            )
        };
        // SAFETY: on success the helper has written all of it.
        status == 0 && check(unsafe { header.assume_init_ref() })
    }
}
