//! The steering: of a listener's sockets, one per shard, the one that a bundle goes to.
//!
//! Runs before the filter, once for each bundle, where the kernel would spread senders by a hash of
//! addresses and ports; it still does where this program names no socket.

use core::mem::MaybeUninit;

use agent_common::frame::FRAME_HEADER_LEN;
use agent_common::layout::{shard_socket_index, steered_index};
use agent_common::steer::{SteeredBy, first_producer, shard_of, source_v4, source_v6};
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_skb_load_bytes, bpf_skb_load_bytes_relative,
};
use aya_ebpf::macros::sk_reuseport;
use aya_ebpf::programs::SkReuseportContext;

use crate::count::add;
use crate::maps::{SHARD_SOCKETS, SOCKETS, STEERED, STEERED_SHARDS};

/// The program is shown a datagram from its UDP header on.
const UDP_HEADER_LEN: u32 = 8;
/// ETH_P_IPV6, in the network's byte order, as the context has it.
const IPV6: u32 = 0x86dd_u16.to_be() as u32;
/// Where the source address stands in an IPv4 and in an IPv6 header (RFC 791, RFC 8200).
const SOURCE_V4: u32 = 12;
const SOURCE_V6: u32 = 8;

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
        None => (source(&context), SteeredBy::Source),
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

/// 0 where the kernel does not show it: such datagrams all go to one shard.
#[inline(always)]
fn source(context: &SkReuseportContext) -> u64 {
    if context.eth_protocol() == IPV6 {
        let mut address = [0; 16];
        load(context, SOURCE_V6, &mut address);
        source_v6(address)
    } else {
        let mut address = [0; 4];
        load(context, SOURCE_V4, &mut address);
        source_v4(address)
    }
}

/// Bytes of the network header; what cannot be had stays as it was (the helper clears it).
#[inline(always)]
fn load<const LEN: usize>(context: &SkReuseportContext, offset: u32, to: &mut [u8; LEN]) {
    // SAFETY: the helper writes at most the array's length.
    unsafe {
        bpf_skb_load_bytes_relative(
            context.as_ptr(),
            offset,
            to.as_mut_ptr().cast(),
            LEN as u32,
            BPF_HDR_START_NET,
        );
    }
}
