//! The steering: of a listener's sockets, one per shard, the one that a bundle goes to.
//!
//! Runs before the filter, once for each bundle, where the kernel would spread senders by a hash of
//! addresses and ports; it still does where this program names no socket.

use core::mem::MaybeUninit;

use agent_common::frame::FRAME_HEADER_LEN;
use agent_common::layout::{shard_socket_index, steered_index};
use agent_common::steer::{SteeredBy, first_producer, shard_of, source_number};
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_skb_load_bytes};
use aya_ebpf::macros::sk_reuseport;
use aya_ebpf::programs::SkReuseportContext;

use crate::count::add;
use crate::maps::{SHARD_SOCKETS, SOCKETS, STEERED, STEERED_SHARDS};
use crate::source;

/// The program is shown a datagram from its UDP header on.
const UDP_HEADER_LEN: u32 = 8;

#[sk_reuseport]
pub fn penstock_steer(context: SkReuseportContext) -> u32 {
    // Some socket of the group (5.14): all are the same listener's.
    //
    // SAFETY: the helper takes the socket that the context was made with.
    let cookie = unsafe { bpf_get_socket_cookie(context.sk().as_ptr()) };
    // SAFETY: the loader replaces a slot as a whole, and a replaced one outlives this program's
    // run (RCU).
    let Some(&slot) = (unsafe { SOCKETS.get(cookie) }) else {
        return SK_PASS;
    };
    let shards = STEERED_SHARDS.get(slot.listener).copied().unwrap_or(0);
    if shards == 0 {
        return SK_PASS;
    }
    let (number, by) = match producer(&context) {
        Some(producer) => (producer, SteeredBy::Producer),
        None => {
            let source = source::address(context.as_ptr(), context.eth_protocol());
            (source_number(&source), SteeredBy::Source)
        }
    };
    let index = shard_socket_index(slot.listener, shard_of(number, shards as u16));
    let by = match SHARD_SOCKETS.select_reuseport(&context, index) {
        Ok(()) => by,
        Err(_) => SteeredBy::Hash,
    };
    add(&STEERED, steered_index(slot.listener, by), 1);
    SK_PASS
}

#[inline(always)]
fn producer(context: &SkReuseportContext) -> Option<u64> {
    let mut header = MaybeUninit::<[u8; FRAME_HEADER_LEN]>::uninit();
    // SAFETY: the helper writes exactly 40 bytes, the array's length.
    let status = unsafe {
        bpf_skb_load_bytes(
            context.as_ptr(),
            UDP_HEADER_LEN,
            header.as_mut_ptr().cast(),
            FRAME_HEADER_LEN as u32,
        )
    };
    if status != 0 {
        return None;
    }
    // SAFETY: on success the helper has written all of it.
    first_producer(unsafe { header.assume_init_ref() })
}
