//! The gate: a verdict per datagram, before the datagram costs a copy; and what the kernel drops,
//! by reason.
//!
//! In the kernel it is a socket filter on each UDP socket and a tracepoint (`agent-ebpf`), loaded
//! and read here. On hosts without eBPF the shards ask their [`standin::StandIn`] instead, which is
//! the same judge, after the copy.

pub mod btf;
pub mod error;
pub mod keep;
mod kernel;
mod kernel_observe;
mod kernel_policy;
pub mod log;
pub mod object;
mod observed;
pub mod policy;
mod prefix_table;
pub mod pressure;
mod proc_drops;
pub mod refused;
pub mod rules;
pub mod source_connections;
mod source_table;
pub mod standin;
mod standin_observe;
mod steer;
pub mod who;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use agent_common::connection::ConnectionVerdict;
use agent_common::frame::PRIORITY_MAX;
use agent_common::layout::{LISTENERS_MAX, SOCKET_SYSLOG, SocketSlot};
use agent_common::steer::SteeredBy;
use agent_common::verdict::{KernelDrop, Verdict};

pub use error::GateError;
pub use keep::KeepHandle;
pub use log::GateLogger;
pub use rules::PolicyError;
pub use standin::StandIn;

use crate::config::settings::GateMode;
use crate::shard::op::ListenerId;
use kernel::KernelGate;
use policy::GatePolicy;
use proc_drops::ProcDrops;
use rules::Rules;
use socket2::{SockRef, Type};
use source_connections::SourceConnections;

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
    /// Of these, bundles that may have passed where their source had nothing left
    /// (`BundleCount::Contended`).
    pub contended_bundles: u64,
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
    /// In force.
    policy: GatePolicy,
    source_connections: Arc<SourceConnections>,
}

enum Place {
    Kernel(Box<KernelGate>),
    UserSpace(StandIn, ProcDrops),
}

impl Gate {
    /// Loads the programs and attaches the tracepoint; call it before any socket is bound. The
    /// default policy holds: nothing is denied, limited or sampled.
    ///
    /// Fails for `GateMode::Required` only; `Auto` says loudly what is missing and leaves the work
    /// to the stand-in.
    pub fn open(mode: GateMode) -> Result<Self, GateError> {
        let user_space = || Place::UserSpace(StandIn::new(), ProcDrops::default());
        let place = match mode {
            GateMode::Off => user_space(),
            GateMode::Required => Place::Kernel(Box::new(KernelGate::load()?)),
            GateMode::Auto => match KernelGate::load() {
                Ok(gate) => Place::Kernel(Box::new(gate)),
                Err(error) => {
                    tracing::warn!(
                        "NO GATE IN THE KERNEL: {error}. Datagrams are judged in user space, after \
                         the copy, and kernel drops are a lower bound from /proc/net/udp. \
                         `gate.mode = \"off\"` accepts this in silence."
                    );
                    user_space()
                }
            },
        };
        let policy = GatePolicy::default();
        Ok(Self {
            place,
            policy,
            source_connections: Arc::default(),
        })
    }

    /// Puts a policy in force as a whole: no datagram is judged by a mixture of it and the one before
    /// it. (The ratios are words of their own, a moment apart.) What sources have used up stays
    /// used up. A policy with a mistake is refused, and the one before it still holds.
    ///
    /// In the kernel this waits for the programs that run: some milliseconds.
    pub fn apply(&mut self, policy: &GatePolicy) -> Result<(), PolicyError> {
        let rules = Rules::new(policy)?;
        match &mut self.place {
            Place::Kernel(gate) => gate.policy.apply(&rules)?,
            Place::UserSpace(stand_in, _) => stand_in.apply(&rules),
        }
        self.source_connections.apply(policy);
        self.policy = policy.clone();
        Ok(())
    }

    /// The connections of each source, for the shards.
    pub fn source_connections(&self) -> &Arc<SourceConnections> {
        &self.source_connections
    }

    /// The policy in force.
    pub fn policy(&self) -> &GatePolicy {
        &self.policy
    }

    /// The ratios by which datagrams are shed: for the shards, and for who measures pressure.
    pub fn keep(&self) -> &KeepHandle {
        match &self.place {
            Place::Kernel(gate) => gate.policy.keep(),
            Place::UserSpace(stand_in, _) => stand_in.keep(),
        }
    }

    /// What pressure leaves of each priority, in sixteenths.
    pub fn set_keep(&self, sixteenths: [u8; PRIORITY_MAX as usize + 1]) {
        self.keep().set_pressure(sixteenths);
    }

    /// What the shards judge with, where the gate is not in the kernel.
    pub fn stand_in(&self) -> Option<&StandIn> {
        match &self.place {
            Place::Kernel(_) => None,
            Place::UserSpace(stand_in, _) => Some(stand_in),
        }
    }

    pub fn kind(&self) -> GateKind {
        match self.place {
            Place::Kernel(_) => GateKind::Kernel,
            Place::UserSpace(..) => GateKind::UserSpace,
        }
    }

    /// Puts a socket that takes frames behind the gate: call it before `bind`, so that nothing goes
    /// unjudged. Of a TCP listener's socket the connections that are asked for are judged, and nothing
    /// of those that there are. Also for a listener that is added later, and without any capability.
    pub fn guard(
        &mut self,
        listener: ListenerId,
        payload_len_max: u32,
        socket: BorrowedFd<'_>,
    ) -> Result<(), GateError> {
        let slot = frame_slot(listener, payload_len_max);
        self.guard_slot(listener, slot, socket)
    }

    /// The same for a socket that takes syslog messages.
    pub fn guard_syslog(
        &mut self,
        listener: ListenerId,
        socket: BorrowedFd<'_>,
    ) -> Result<(), GateError> {
        self.guard_slot(listener, syslog_slot(listener), socket)
    }

    fn guard_slot(
        &mut self,
        listener: ListenerId,
        slot: SocketSlot,
        socket: BorrowedFd<'_>,
    ) -> Result<(), GateError> {
        if slot.listener >= LISTENERS_MAX {
            return Err(GateError::Listener {
                listener: listener.0,
                max: LISTENERS_MAX - 1,
            });
        }
        match &mut self.place {
            Place::Kernel(gate) => gate.guard(listener, slot, socket),
            Place::UserSpace(_, drops) => match is_stream(socket).map_err(GateError::Stat)? {
                // What has no datagrams drops none.
                true => Ok(()),
                false => drops.watch(listener, socket).map_err(GateError::Stat),
            },
        }
    }

    /// Has the gate say which of a listener's UDP sockets takes a bundle; all are bound to one
    /// address, and the index is the shard. False where it cannot, and the kernel spreads senders by
    /// its own hash of addresses and ports: each sender's order is kept by that too, unless it
    /// changes its port.
    pub fn steer(
        &mut self,
        listener: ListenerId,
        sockets: &[BorrowedFd<'_>],
    ) -> Result<bool, GateError> {
        match &mut self.place {
            Place::Kernel(gate) if sockets.len() > 1 => gate.steer(listener, sockets),
            _ => Ok(false),
        }
    }

    /// Bundles that were steered, by what decided (`SteeredBy::ALL`).
    pub fn steered(&self, listener: ListenerId) -> [u64; SteeredBy::COUNT] {
        match &self.place {
            Place::Kernel(gate) => gate.steered(listener),
            Place::UserSpace(..) => [0; SteeredBy::COUNT],
        }
    }

    /// Attempts to open a connection, by verdict (`ConnectionVerdict::ALL`); all 0 where the shards
    /// count.
    pub fn connections(&self, listener: ListenerId) -> [u64; ConnectionVerdict::COUNT] {
        match &self.place {
            Place::Kernel(gate) => gate.connections(listener),
            Place::UserSpace(..) => [0; ConnectionVerdict::COUNT],
        }
    }

    /// From here on each datagram for the listener is counted as `closing` and dropped, and so is
    /// each connection that is asked for. In user space the shard does the same by no longer receiving.
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
            Place::UserSpace(_, drops) => drops.forget(key.inode),
        }
    }

    pub fn counts(&self, listener: ListenerId) -> GateCounts {
        match &self.place {
            Place::Kernel(gate) => gate.counts(listener),
            Place::UserSpace(_, proc) => {
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
            Place::UserSpace(..) => false,
        }
    }

    /// Events that the kernel did not hand to a program because it was already running on that CPU
    /// (`recursion_misses`): drops that are in no count. 0 is what the conservation law needs.
    pub fn missed_events(&self) -> u64 {
        match &self.place {
            Place::Kernel(gate) => gate.missed_events(),
            Place::UserSpace(..) => 0,
        }
    }

    /// Whether a socket of the listener is behind the gate in the kernel.
    pub fn attached(&self, listener: ListenerId) -> bool {
        match &self.place {
            Place::Kernel(gate) => gate.attached(listener),
            Place::UserSpace(..) => false,
        }
    }

    /// The programs' log lines, once; drive them with [`log::forward`].
    pub fn take_logger(&mut self) -> Option<GateLogger> {
        match &mut self.place {
            Place::Kernel(gate) => gate.take_logger(),
            Place::UserSpace(..) => None,
        }
    }

    /// How often each loaded program has run while the kernel was told to count that
    /// (BPF_ENABLE_STATS): for tests.
    pub fn program_runs(&self) -> Vec<(&'static str, u64)> {
        match &self.place {
            Place::Kernel(gate) => gate.program_runs(),
            Place::UserSpace(..) => Vec::new(),
        }
    }

    /// Instructions that the verifier looked at, per loaded program: the tests bound them.
    pub fn verified_instructions(&self) -> Vec<(&'static str, u64)> {
        match &self.place {
            Place::Kernel(gate) => gate.verified_instructions(),
            Place::UserSpace(..) => Vec::new(),
        }
    }
}

/// Whether it is a TCP listener's socket, rather than a UDP one.
fn is_stream(socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(SockRef::from(&socket).r#type()? == Type::STREAM)
}

/// How the gate sees a socket that takes frames.
pub fn frame_slot(listener: ListenerId, payload_len_max: u32) -> SocketSlot {
    SocketSlot {
        listener: u32::from(listener.0),
        payload_len_max,
        flags: 0,
        reserved: 0,
    }
}

/// How the gate sees a socket that takes syslog messages.
pub fn syslog_slot(listener: ListenerId) -> SocketSlot {
    SocketSlot {
        flags: SOCKET_SYSLOG,
        ..frame_slot(listener, 0)
    }
}
