//! Who sent a packet.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use agent_common::source::Source;
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes_relative;
use aya_ebpf::programs::SkBuffContext;

/// `linux/if_ether.h`, as `__sk_buff.protocol` has them: in network byte order.
const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;
const ETH_P_IPV6: u32 = 0x86dd_u16.to_be() as u32;
/// `enum bpf_hdr_start_off`: offsets count from the network header, wherever `data` stands.
const BPF_HDR_START_NET: u32 = 1;
/// Of the source address in the header: RFC 791, 3.1, and RFC 8200, 3.
const V4_SOURCE_OFFSET: u32 = 12;
const V6_SOURCE_OFFSET: u32 = 8;

/// The source address of a packet, as a socket filter is shown it.
#[inline(always)]
pub fn of(context: &SkBuffContext) -> Source {
    // SAFETY: the kernel called us with a valid `__sk_buff`.
    address(context.as_ptr(), unsafe { (*context.skb.skb).protocol })
}

/// The same for any context that the helper reads packets of; `protocol`: of the frame, as it has it.
/// An IPv6 socket that takes IPv4 too sees IPv4 packets.
#[inline(always)]
pub fn address(context: *mut c_void, protocol: u32) -> Source {
    let source = match protocol {
        ETH_P_IP => load(context, V4_SOURCE_OFFSET).map(|[word]| Source::v4(word)),
        ETH_P_IPV6 => load(context, V6_SOURCE_OFFSET).map(Source::v6),
        _ => None,
    };
    source.unwrap_or(Source::UNKNOWN)
}

#[inline(always)]
fn load<const WORDS: usize>(skb: *mut c_void, offset: u32) -> Option<[u32; WORDS]> {
    let mut words = MaybeUninit::<[u32; WORDS]>::uninit();
    // SAFETY: the helper writes exactly the array's length.
    let status = unsafe {
        bpf_skb_load_bytes_relative(
            skb,
            offset,
            words.as_mut_ptr().cast(),
            4 * WORDS as u32,
            BPF_HDR_START_NET,
        )
    };
    // SAFETY: on success the helper has written all of it.
    (status == 0).then(|| unsafe { words.assume_init() })
}
