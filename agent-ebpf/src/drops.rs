//! The tracepoint: what the kernel drops of the datagrams that are meant for our sockets, by reason.
//!
//! `trace_kfree_skb(skb, location, reason, rx_sk)`: `rx_sk`, since 6.11, is the socket that would
//! have received the packet. `udp_fail_queue_rcv_skb` is not used: it says nothing of packets that
//! are dropped later for want of memory.

use agent_common::bundle::BundleShape;
use agent_common::layout::{SocketSlot, Stray, drop_index};
use agent_common::verdict::KernelDrop;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::warn;

use crate::count::{add, add_first};
use crate::maps::{
    KERNEL_DROPS, REASON_CHECKSUM, REASON_MEMORY, REASON_RECEIVE_BUFFER, REASON_SOCKET_FILTER,
    SHARED_GSO_SIZE_OFFSET, SKB_DATA_OFFSET, SKB_END_OFFSET, SKB_HEAD_OFFSET, SKB_LEN_OFFSET,
    SKB_TRANSPORT_HEADER_OFFSET, SOCKETS, STRAYS,
};

const UDP_HEADER_LEN: u64 = 8;

#[btf_tracepoint(function = "kfree_skb")]
pub fn penstock_kernel_drops(context: BtfTracePointContext) -> i32 {
    let socket: *const u8 = context.arg(3);
    // Most packets that a host drops had no socket.
    if socket.is_null() {
        return 0;
    }
    // SAFETY: the helper takes the socket that the tracepoint was called with.
    let cookie = unsafe { bpf_get_socket_cookie(socket.cast_mut().cast()) };
    // SAFETY: the loader replaces a slot as a whole, and a replaced one outlives this program's
    // run (RCU).
    let Some(&slot) = (unsafe { SOCKETS.get(cookie) }) else {
        return 0;
    };
    let reason: u32 = context.arg(2);
    // The filter has counted these itself, under a verdict.
    if reason == REASON_SOCKET_FILTER.load() {
        return 0;
    }
    count(&context, &slot, reason);
    0
}

#[inline(always)]
fn count(context: &BtfTracePointContext, slot: &SocketSlot, reason: u32) {
    // An skb that cannot be read is one datagram at least.
    let datagrams = u64::from(shape(context.arg(0)).map_or(1, |shape| shape.datagrams()));
    let drop = if reason == REASON_RECEIVE_BUFFER.load() {
        KernelDrop::ReceiveBuffer
    } else if reason == REASON_MEMORY.load() {
        KernelDrop::Memory
    } else if reason == REASON_CHECKSUM.load() {
        KernelDrop::Checksum
    } else {
        if add_first(&STRAYS, Stray::OtherDrop as u32, datagrams) {
            warn!(
                context,
                "the kernel drops datagrams of listener {} for reason {}", slot.listener, reason
            );
        }
        return;
    };
    add(&KERNEL_DROPS, drop_index(slot.listener, drop), datagrams);
}

/// Reads what the skb holds.
///
/// Whether `data` stands at the UDP header or behind it depends on where the packet was dropped
/// (a wrong checksum: before it is pulled; a full buffer: after), so the payload's length is
/// counted from the transport header, which stays:
///
/// ```text
///  head ──── transport_header ──┬─ UDP header ─┬──── payload (also in pages and further skbs) ───▶
///                               data?          data?          len counts from data
///  head + end: struct skb_shared_info with gso_size
/// ```
#[inline(always)]
fn shape(skb: *const u8) -> Option<BundleShape> {
    let len: u32 = read(skb, SKB_LEN_OFFSET.load())?;
    let data: u64 = read(skb, SKB_DATA_OFFSET.load())?;
    let head: u64 = read(skb, SKB_HEAD_OFFSET.load())?;
    let end: u32 = read(skb, SKB_END_OFFSET.load())?;
    let transport_header: u16 = read(skb, SKB_TRANSPORT_HEADER_OFFSET.load())?;
    let shared = head.wrapping_add(u64::from(end)) as *const u8;
    let segment_len: u16 = read(shared, SHARED_GSO_SIZE_OFFSET.load())?;
    let payload_start = head
        .wrapping_add(u64::from(transport_header))
        .wrapping_add(UDP_HEADER_LEN);
    let payload_len = data
        .wrapping_add(u64::from(len))
        .wrapping_sub(payload_start);
    Some(BundleShape {
        payload_len: payload_len as u32,
        segment_len: u32::from(segment_len),
    })
}

/// One field of a kernel structure; the offset comes from the running kernel's BTF.
#[inline(always)]
fn read<T>(base: *const u8, offset: u32) -> Option<T> {
    // SAFETY: the helper reads any address without harm, and fails where there is no memory.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast::<T>()) }.ok()
}
