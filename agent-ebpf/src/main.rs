//! The gate: eBPF programs and their maps. What a datagram is worth is decided in `agent-common`;
//! here is only how the kernel shows it.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod connections;
mod count;
mod drops;
mod filter;
mod maps;
mod observe;
mod refused;
mod rules;
mod source;
mod steer;

/// The kernel lends `bpf_probe_read_kernel` and its own types to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

/// Never reached: the verifier proves that no path ends here.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
