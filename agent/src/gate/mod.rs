//! The gate: a verdict per datagram, before the datagram costs a copy; and what the kernel drops,
//! by reason.
//!
//! In the kernel it is a socket filter on each UDP socket and a tracepoint (`agent-ebpf`), loaded
//! and read here. On hosts without eBPF the shards call [`standin::judge_bundle`] instead, which is
//! the same rule, after the copy.

pub mod btf;
pub mod error;
mod kernel;
pub mod log;
pub mod object;
pub mod policy;
pub mod pressure;
mod proc_drops;
pub mod standin;

use std::io;
use std::os::fd::BorrowedFd;

use agent_common::verdict::{KernelDrop, Verdict};

pub use error::GateError;
pub use log::GateLogger;

use crate::config::settings::GateMode;
use crate::shard::op::ListenerId;
use kernel::KernelGate;
use proc_drops::ProcDrops;

/// Where the gate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateKind {
    Kernel,
    /// The shards judge with `standin` what they have received.
    UserSpace,
}

impl GateKind {
    /// For the log and `build_info`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::UserSpace => "user_space",
        }
    }
}

/// What the gate has counted for one listener. All rise only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GateCounts {
    /// Datagrams by verdict; all 0 where the shards count (`GateKind::UserSpace`).
    pub verdicts: [u64; Verdict::COUNT],
    /// Datagrams that the kernel dropped, by reason; see `Gate::drops_exact`.
    pub drops: [u64; KernelDrop::COUNT],
    /// Bundles that the filter looked at.
    pub judged_bundles: u64,
}

/// What the gate knows a guarded socket by, before and after it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketKey {
    cookie: u64,
    inode: u64,
}

impl SocketKey {
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self {
            cookie: kernel::cookie(socket)?,
            inode: proc_drops::inode(socket)?,
        })
    }
}

/// The gate of this process; lives on the control thread, and must outlive the sockets it guards.
pub struct Gate {
    place: Place,
    listeners: usize,
}

enum Place {
    Kernel(Box<KernelGate>),
    UserSpace(ProcDrops),
}

impl Gate {
    /// Loads the programs and attaches the tracepoint, for listeners 0 to `listeners` − 1; call it
    /// before any socket is bound.
    ///
    /// Fails for `GateMode::Required` only; `Auto` says loudly what is missing and leaves the work
    /// to the stand-in.
    pub fn open(mode: GateMode, listeners: usize) -> Result<Self, GateError> {
        let place = match mode {
            GateMode::Off => Place::UserSpace(ProcDrops::default()),
            GateMode::Required => Place::Kernel(Box::new(KernelGate::load(listeners)?)),
            GateMode::Auto => match KernelGate::load(listeners) {
                Ok(gate) => Place::Kernel(Box::new(gate)),
                Err(error) => {
                    tracing::warn!(
                        "NO GATE IN THE KERNEL: {error}. Datagrams are judged in user space, after \
                         the copy, and kernel drops are a lower bound from /proc/net/udp. \
                         `gate.mode = \"off\"` accepts this in silence."
                    );
                    Place::UserSpace(ProcDrops::default())
                }
            },
        };
        Ok(Self { place, listeners })
    }

    pub fn kind(&self) -> GateKind {
        match self.place {
            Place::Kernel(_) => GateKind::Kernel,
            Place::UserSpace(_) => GateKind::UserSpace,
        }
    }

    /// Puts a UDP socket behind the gate: call it before `bind`, so that no datagram goes unjudged.
    pub fn guard(
        &mut self,
        listener: ListenerId,
        payload_len_max: u32,
        socket: BorrowedFd<'_>,
    ) -> Result<(), GateError> {
        if usize::from(listener.0) >= self.listeners {
            return Err(GateError::Listener {
                listener: listener.0,
                listeners: self.listeners,
            });
        }
        match &mut self.place {
            Place::Kernel(gate) => gate.guard(listener, payload_len_max, socket),
            Place::UserSpace(drops) => drops.watch(listener, socket).map_err(GateError::Stat),
        }
    }

    /// From here on each datagram for the listener is counted as `closing` and dropped. In user
    /// space the shard does the same by no longer receiving.
    pub fn close(&mut self, listener: ListenerId) {
        if let Place::Kernel(gate) = &mut self.place {
            gate.close(listener);
        }
    }

    /// The same for one socket: a reload takes it away, and its listener may have others.
    pub fn close_socket(&mut self, key: SocketKey) {
        if let Place::Kernel(gate) = &mut self.place {
            gate.close_socket(key.cookie);
        }
    }

    /// The socket is closed: its slot is free, its counts stay its listener's.
    pub fn forget(&mut self, key: SocketKey) {
        match &mut self.place {
            Place::Kernel(gate) => gate.forget(key.cookie, key.inode),
            Place::UserSpace(drops) => drops.forget(key.inode),
        }
    }

    pub fn counts(&self, listener: ListenerId) -> GateCounts {
        match &self.place {
            Place::Kernel(gate) => gate.counts(listener),
            Place::UserSpace(proc) => {
                let mut counts = GateCounts::default();
                counts.drops[KernelDrop::ReceiveBuffer as usize] = proc.of(listener);
                counts
            }
        }
    }

    /// Whether kernel drops are counted per datagram and by reason; otherwise they are a lower
    /// bound, all of it under `receive_buffer`.
    pub fn drops_exact(&self) -> bool {
        match &self.place {
            Place::Kernel(gate) => gate.drops_exact(),
            Place::UserSpace(_) => false,
        }
    }

    /// Events that the kernel did not hand to a program because it was already running on that CPU
    /// (`recursion_misses`): drops that are in no count. 0 is what the conservation law needs.
    pub fn missed_events(&self) -> u64 {
        match &self.place {
            Place::Kernel(gate) => gate.missed_events(),
            Place::UserSpace(_) => 0,
        }
    }

    /// Whether a socket of the listener is behind the gate in the kernel.
    pub fn attached(&self, listener: ListenerId) -> bool {
        match &self.place {
            Place::Kernel(gate) => gate.attached(listener),
            Place::UserSpace(_) => false,
        }
    }

    /// The programs' log lines, once; drive them with [`log::forward`].
    pub fn take_logger(&mut self) -> Option<GateLogger> {
        match &mut self.place {
            Place::Kernel(gate) => gate.take_logger(),
            Place::UserSpace(_) => None,
        }
    }

    /// Instructions that the verifier looked at, per loaded program: the tests bound them.
    pub fn verified_instructions(&self) -> Vec<(&'static str, u64)> {
        match &self.place {
            Place::Kernel(gate) => gate.verified_instructions(),
            Place::UserSpace(_) => Vec::new(),
        }
    }
}
