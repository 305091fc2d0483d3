//! Peers' state, source by source: bytes become frames. No system calls here, and no journal.

pub mod tcp;
pub mod udp;
