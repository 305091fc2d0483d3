//! What the gate says of a datagram, and the reasons for which the kernel drops one.

/// One verdict per datagram. The number is the index in the gate's count map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Verdict {
    Passed = 0,
    Denied = 1,
    Malformed = 2,
    RateLimited = 3,
    Shed = 4,
    Closing = 5,
}

impl Verdict {
    pub const ALL: [Self; 6] = [
        Self::Passed,
        Self::Denied,
        Self::Malformed,
        Self::RateLimited,
        Self::Shed,
        Self::Closing,
    ];
    pub const COUNT: usize = Self::ALL.len();

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Denied => "denied",
            Self::Malformed => "malformed",
            Self::RateLimited => "rate_limited",
            Self::Shed => "shed",
            Self::Closing => "closing",
        }
    }
}

/// Why the kernel dropped a datagram meant for one of our sockets. The number is the index in the
/// gate's drop map; the kernel's own numbers differ between versions and are resolved from BTF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum KernelDrop {
    /// `SKB_DROP_REASON_SOCKET_RCVBUFF`: the socket's receive buffer was full.
    ReceiveBuffer = 0,
    /// `SKB_DROP_REASON_PROTO_MEM`: the host's memory for UDP (`net.ipv4.udp_mem`) was used up.
    Memory = 1,
    /// `SKB_DROP_REASON_UDP_CSUM`: a wrong checksum; comes before the gate.
    Checksum = 2,
}

impl KernelDrop {
    pub const ALL: [Self; 3] = [Self::ReceiveBuffer, Self::Memory, Self::Checksum];
    pub const COUNT: usize = Self::ALL.len();

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ReceiveBuffer => "receive_buffer",
            Self::Memory => "memory",
            Self::Checksum => "checksum",
        }
    }
}
