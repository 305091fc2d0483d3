//! Whether shards can have their rings here: everything that a ring needs is tried, as each of the
//! three system calls, and each flag of them, may be refused by itself.

use std::io;

use io_uring::{IoUring, Probe, opcode};

use super::receive::ReceivePool;
use super::ring;
use crate::fence::{FenceError, failed};
use crate::limits;
use crate::shard::op::Group;

/// The ops that a ring is given. Their multishot forms are older than the setup flags (recvmsg's is
/// of Linux 6.0), so that a kernel that takes those has these.
const OPS: [(&str, u8); 14] = [
    ("accept", opcode::AcceptMulti::CODE),
    ("recv", opcode::RecvMulti::CODE),
    ("recvmsg", opcode::RecvMsgMulti::CODE),
    ("send", opcode::Send::CODE),
    ("poll_add", opcode::PollAdd::CODE),
    ("async_cancel", opcode::AsyncCancel::CODE),
    ("close", opcode::Close::CODE),
    ("openat", opcode::OpenAt::CODE),
    ("unlinkat", opcode::UnlinkAt::CODE),
    ("fallocate", opcode::Fallocate::CODE),
    ("fsync", opcode::Fsync::CODE),
    ("write", opcode::Write::CODE),
    ("write_fixed", opcode::WriteFixed::CODE),
    ("nop", opcode::Nop::CODE),
];

/// Makes as many rings as there are shards, all there at once, so that a limit shows now and not
/// at the last shard; then they go again.
pub fn probe(shards: u16) -> Result<(), FenceError> {
    let rings: Result<Vec<Tried>, FenceError> = (0..shards).map(|_| Tried::new()).collect();
    rings?.first_mut().map_or(Ok(()), Tried::use_once)
}

/// Field order matters: the ring goes before the memory that it was given.
struct Tried {
    ring: IoUring,
    _buffers: [ReceivePool; 2],
}

impl Tried {
    fn new() -> Result<Self, FenceError> {
        let ring = ring::build().map_err(failed("io_uring_setup"))?;
        // The sizes are the shards' own; what is not touched takes no memory.
        let pool = |group, count, len| {
            ReceivePool::register(&ring.submitter(), group, count, len)
                .map_err(failed("io_uring_register (receive buffers)"))
        };
        let tcp = pool(Group::Tcp, limits::TCP_BUFFERS, limits::TCP_BUFFER_LEN)?;
        let udp = pool(Group::Udp, limits::UDP_BUFFERS, limits::UDP_BUFFER_LEN)?;
        Ok(Self {
            ring,
            _buffers: [tcp, udp],
        })
    }

    /// Asks which ops there are, and lets one go all the way.
    fn use_once(&mut self) -> Result<(), FenceError> {
        let mut known = Probe::new();
        self.ring
            .submitter()
            .register_probe(&mut known)
            .map_err(failed("io_uring_register (probe)"))?;
        if let Some((name, _)) = OPS.iter().find(|(_, code)| !known.is_supported(*code)) {
            return Err(FenceError {
                call: "io_uring_register (probe)",
                source: io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("this kernel's io_uring has no {name}"),
                ),
            });
        }
        let nop = opcode::Nop::new().build();
        // SAFETY: a nop points at nothing.
        unsafe { self.ring.submission().push(&nop) }.expect("the queue is empty");
        self.ring
            .submit_and_wait(1)
            .map_err(failed("io_uring_enter"))?;
        let result = self.ring.completion().next().map(|entry| entry.result());
        match result {
            Some(0) => Ok(()),
            other => Err(FenceError {
                call: "io_uring_enter",
                source: io::Error::other(format!("a nop came back as {other:?}")),
            }),
        }
    }
}
