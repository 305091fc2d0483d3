//! What the gate says of an attempt to open a TCP connection.

use crate::verdict::Verdict;

/// One verdict per attempt: a SYN in the kernel, where one that is dropped comes again as the
/// client's next try; an accepted connection in user space. The number is the index in the gate's
/// count map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ConnectionVerdict {
    Passed = 0,
    /// The address is on the deny list, or not on the allow list.
    Denied = 1,
    /// The source opens more connections than its limit allows.
    RateLimited = 2,
    /// The agent is stopping.
    Closing = 3,
}

impl ConnectionVerdict {
    pub const ALL: [Self; 4] = [Self::Passed, Self::Denied, Self::RateLimited, Self::Closing];
    pub const COUNT: usize = Self::ALL.len();

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Denied => "denied",
            Self::RateLimited => "rate_limited",
            Self::Closing => "closing",
        }
    }
}

impl From<Verdict> for ConnectionVerdict {
    /// What `judge_connection` says; of a datagram's other verdicts a connection has none.
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Denied => Self::Denied,
            Verdict::RateLimited => Self::RateLimited,
            Verdict::Closing => Self::Closing,
            Verdict::Passed | Verdict::Malformed | Verdict::Shed => Self::Passed,
        }
    }
}

/// Offset of the flags in a TCP header (RFC 9293, 3.1).
pub const TCP_FLAGS_OFFSET: u32 = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Whether a segment with these flags asks for a connection. All others belong to one, or to none.
#[inline(always)]
pub const fn opens(tcp_flags: u8) -> bool {
    tcp_flags & (SYN | ACK) == SYN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_syn_without_ack_opens() {
        // Flags of RFC 9293: CWR ECE URG ACK PSH RST SYN FIN.
        for (flags, expected) in [
            (0b0000_0010, true),
            // With ECN asked for (RFC 3168, 6.1.1).
            (0b1100_0010, true),
            (0b0001_0010, false),
            (0b0001_0000, false),
            (0b0001_1000, false),
            (0b0000_0100, false),
            (0b0001_0001, false),
            (0, false),
        ] {
            assert_eq!(opens(flags), expected, "{flags:#010b}");
        }
    }
}
