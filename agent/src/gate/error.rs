//! Why the gate cannot stand in the kernel, with the call that failed and what to do about it.

use std::error::Error;
use std::io;

use aya::EbpfError;
use aya::programs::ProgramError;

use super::btf::Malformed;

#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error(
        "this build holds no eBPF object: run `cargo xtask build-ebpf`, then build the agent again"
    )]
    NoObject,
    #[error(
        "{call}: {source}: run as root, or grant CAP_BPF and CAP_PERFMON (systemd: \
         AmbientCapabilities=CAP_BPF CAP_PERFMON)"
    )]
    Permission {
        call: &'static str,
        source: io::Error,
    },
    #[error("loading the eBPF object: {0}: build it again with `cargo xtask build-ebpf`")]
    Object(EbpfError),
    #[error("the eBPF object has no {what} `{name}`: build it again with `cargo xtask build-ebpf`")]
    Incomplete {
        what: &'static str,
        name: &'static str,
    },
    #[error("{what} of the eBPF object: {source}")]
    Map {
        what: &'static str,
        source: aya::maps::MapError,
    },
    #[error(
        "the kernel refuses the eBPF program `{program}`: {reason}: please report it with the \
         kernel's version and the log at level debug"
    )]
    Refused {
        program: &'static str,
        reason: String,
    },
    #[error(
        "reading /sys/kernel/btf/vmlinux: {0}: the kernel must be built with CONFIG_DEBUG_INFO_BTF"
    )]
    NoKernelTypes(io::Error),
    #[error("/sys/kernel/btf/vmlinux: {0}: please report it with the kernel's version")]
    KernelTypes(#[from] Malformed),
    #[error("the kernel's tracepoint kfree_skb names no socket: that needs Linux 6.11 or later")]
    Tracepoint,
    #[error("the kernel's types have no {0} of the expected size: please report its version")]
    KernelField(&'static str),
    #[error("attaching to the tracepoint kfree_skb: {0}")]
    AttachTracepoint(ProgramError),
    #[error("getsockopt SO_COOKIE: {0}")]
    Cookie(io::Error),
    #[error("setsockopt SO_ATTACH_BPF: {0}: is the socket's filter locked (SO_LOCK_FILTER)?")]
    Attach(ProgramError),
    #[error("setsockopt SO_ATTACH_REUSEPORT_EBPF: {0}: the kernel spreads senders by its own hash")]
    AttachSteering(ProgramError),
    #[error("bpf map update of SOCKETS: {0}: the gate guards at most 4096 sockets")]
    Slot(aya::maps::MapError),
    #[error("mmap of the bpf map KEEP: {0}: that needs Linux 5.5 or later")]
    MapKeep(io::Error),
    #[error("fstat of a socket: {0}")]
    Stat(io::Error),
    #[error("listener {listener}: the gate counts for listeners 0 to {max}")]
    Listener { listener: u16, max: u32 },
}

impl GateError {
    /// Sorts out a missing permission, which has a remedy of its own, wherever it stands in the
    /// chain of causes: EPERM alone, as EACCES is how the verifier says no.
    pub(super) fn sort<E: Error + 'static>(
        call: &'static str,
        error: E,
        other: impl FnOnce(E) -> Self,
    ) -> Self {
        let first: &(dyn Error + 'static) = &error;
        let refused = std::iter::successors(Some(first), |&error| error.source())
            .filter_map(|cause| cause.downcast_ref::<io::Error>())
            .any(|error| error.raw_os_error() == Some(libc::EPERM));
        if refused {
            // The errno alone: what wraps it may carry a verifier log of pages.
            let source = io::Error::from_raw_os_error(libc::EPERM);
            return Self::Permission { call, source };
        }
        other(error)
    }
}
