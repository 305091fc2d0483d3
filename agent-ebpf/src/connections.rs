//! The filter of a TCP listener: may this source open a connection?
//!
//! Accepted sockets inherit it, and it would run on each of their segments: so it looks at SYNs
//! without ACK only, and the agent takes it off each socket that it accepts.

use agent_common::connection::{ConnectionVerdict, TCP_FLAGS_OFFSET, opens};
use agent_common::judge::judge_connection;
use agent_common::layout::{SOCKET_CLOSING, Stray, connection_index};
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::macros::socket_filter;
use aya_ebpf::programs::SkBuffContext;

use crate::count::add;
use crate::maps::{CONNECTIONS, SOCKETS, STRAYS};
use crate::rules::KernelRules;
use crate::source;

/// More than any length: the kernel trims a packet to what the filter returns.
const PASS_WHOLE: i64 = u32::MAX as i64;
const DROP: i64 = 0;

#[socket_filter]
pub fn penstock_connections(context: SkBuffContext) -> i64 {
    // A TCP socket's filter is shown the packet from its TCP header on.
    let flags: u8 = context.load(TCP_FLAGS_OFFSET as usize).unwrap_or(0);
    if !opens(flags) {
        return PASS_WHOLE;
    }
    // SAFETY: the helper reads the context that the kernel called us with.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    // SAFETY: the loader replaces a slot as a whole, and a replaced one outlives this program's
    // run (RCU).
    let Some(&slot) = (unsafe { SOCKETS.get(cookie) }) else {
        add(&STRAYS, Stray::UnknownSocket as u32, 1);
        return PASS_WHOLE;
    };
    let verdict = if slot.flags & SOCKET_CLOSING != 0 {
        ConnectionVerdict::Closing
    } else {
        judge_connection(&KernelRules, &source::of(&context)).into()
    };
    add(&CONNECTIONS, connection_index(slot.listener, verdict), 1);
    match verdict {
        ConnectionVerdict::Passed => PASS_WHOLE,
        // In silence: a client that tries again may find the limit refilled or the next agent there,
        // and a forged source gets no answer to send on.
        _ => DROP,
    }
}
