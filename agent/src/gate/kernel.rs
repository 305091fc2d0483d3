//! Loads the programs, attaches them, keeps and reads their maps.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use agent_common::connection::ConnectionVerdict;
use agent_common::layout::{
    BundleCount, SOCKET_CLOSING, SocketSlot, bundle_index, connection_index, drop_index,
    verdict_index,
};
use agent_common::steer::SteeredBy;
use agent_common::verdict::{KernelDrop, Verdict};
use aya::maps::{HashMap, MapData, PerCpuArray};
use aya::programs::{BtfTracePoint, ProgramError, ProgramFd, SocketFilter};
use aya::{Btf, Ebpf, EbpfLoader, Pod};
use aya_log::EbpfLogger;

use super::btf::KernelTypes;
use super::error::GateError;
use super::kernel_observe::KernelObserver;
use super::kernel_policy::PolicyMaps;
use super::log::{GateLogger, ToTracing};
use super::proc_drops::ProcDrops;
use super::steer::Steering;
use super::{GateCounts, object};
use crate::shard::op::ListenerId;

const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";
/// Lines of the verifier's log that are worth showing: the last ones name the instruction.
const VERIFIER_LOG_LINES: usize = 20;

/// The gate where it belongs. Dropping it detaches the tracepoint; sockets keep their filter.
pub struct KernelGate {
    /// Holds the filter, the tracepoint's link and the maps that nobody has taken.
    ebpf: Ebpf,
    sockets: HashMap<MapData, u64, Slot>,
    verdicts: PerCpuArray<MapData, u64>,
    drops: PerCpuArray<MapData, u64>,
    bundles: PerCpuArray<MapData, u64>,
    connections: PerCpuArray<MapData, u64>,
    /// Where the kernel has refused it, it spreads senders itself.
    steering: Option<Steering>,
    pub policy: PolicyMaps,
    /// What `guard` was given, for `close` and `attached`.
    guarded: Vec<(u64, SocketSlot)>,
    /// Where the tracepoint could not be attached.
    proc_drops: Option<ProcDrops>,
    /// What people ask of what the filter saw.
    pub(super) observer: KernelObserver,
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Slot(SocketSlot);

// SAFETY: `SocketSlot` is four u32 in C layout (agent-common/src/layout.rs): no padding, no pointer,
// and every bit pattern is one.
unsafe impl Pod for Slot {}

impl KernelGate {
    pub fn load() -> Result<Self, GateError> {
        let bytes = object::OBJECT.ok_or(GateError::NoObject)?;
        if lacks_capabilities() {
            return Err(GateError::Permission {
                call: "bpf(BPF_PROG_LOAD)",
                source: io::Error::from_raw_os_error(libc::EPERM),
            });
        }
        let constants = DropConstants::read();

        let mut loader = EbpfLoader::new();
        if let Ok(constants) = &constants {
            for (name, value) in &constants.0 {
                loader.override_global(name, value, true);
            }
        }
        let mut ebpf = loader
            .load(bytes)
            .map_err(|error| GateError::sort("bpf(BPF_MAP_CREATE)", error, GateError::Object))?;

        let filter: &mut SocketFilter = program(&mut ebpf, object::FILTER)?;
        filter
            .load()
            .map_err(|error| refused(object::FILTER, error))?;
        let connections: &mut SocketFilter = program(&mut ebpf, object::CONNECTIONS)?;
        connections
            .load()
            .map_err(|error| refused(object::CONNECTIONS, error))?;

        let steering = Steering::load(&mut ebpf);
        if let Err(error) = &steering {
            tracing::warn!(
                "the kernel spreads senders over the shards by its hash of addresses and ports, \
                 because the gate's steering is missing: {error}"
            );
        }
        let drops_attached = constants.and_then(|_| attach_drops(&mut ebpf));
        if let Err(error) = &drops_attached {
            tracing::warn!(
                "kernel drops are a lower bound, from /proc/net/udp and without their reason, \
                 because the gate's tracepoint is missing: {error}"
            );
        }
        Ok(Self {
            sockets: HashMap::try_from(take_map(&mut ebpf, object::map::SOCKETS)?)
                .map_err(|source| map_error(object::map::SOCKETS, source))?,
            verdicts: counters(&mut ebpf, object::map::VERDICTS)?,
            drops: counters(&mut ebpf, object::map::KERNEL_DROPS)?,
            bundles: counters(&mut ebpf, object::map::BUNDLES)?,
            connections: counters(&mut ebpf, object::map::CONNECTIONS)?,
            steering: steering.ok(),
            policy: PolicyMaps::take(&mut ebpf)?,
            observer: KernelObserver::take(&mut ebpf)?,
            guarded: Vec::new(),
            proc_drops: drops_attached.is_err().then(ProcDrops::default),
            ebpf,
        })
    }

    /// The slot first: a filter whose socket is unknown passes everything uncounted.
    pub fn guard(
        &mut self,
        listener: ListenerId,
        slot: SocketSlot,
        socket: BorrowedFd<'_>,
    ) -> Result<(), GateError> {
        let cookie = cookie(socket).map_err(GateError::Cookie)?;
        let is_stream = super::is_stream(socket).map_err(GateError::Stat)?;
        if let Some(proc_drops) = self.proc_drops.as_mut().filter(|_| !is_stream) {
            proc_drops
                .watch(listener, socket)
                .map_err(GateError::Stat)?;
        }
        self.sockets
            .insert(cookie, Slot(slot), 0)
            .map_err(GateError::Slot)?;
        let name = if is_stream {
            object::CONNECTIONS
        } else {
            object::FILTER
        };
        let filter: &mut SocketFilter = program(&mut self.ebpf, name)?;
        if let Err(error) = filter.attach(socket) {
            // The slot of a socket without a filter is of no use and of no harm; it goes if it can.
            let _ = self.sockets.remove(&cookie);
            return Err(GateError::Attach(error));
        }
        self.guarded.push((cookie, slot));
        Ok(())
    }

    /// See `Gate::steer`.
    pub fn steer(
        &mut self,
        listener: ListenerId,
        sockets: &[BorrowedFd<'_>],
    ) -> Result<bool, GateError> {
        let Some(steering) = &mut self.steering else {
            return Ok(false);
        };
        steering.steer(&mut self.ebpf, listener, sockets)?;
        Ok(true)
    }

    pub fn steered(&self, listener: ListenerId) -> [u64; SteeredBy::COUNT] {
        let steering = self.steering.as_ref();
        steering.map_or([0; SteeredBy::COUNT], |steering| steering.counts(listener))
    }

    pub fn connections(&self, listener: ListenerId) -> [u64; ConnectionVerdict::COUNT] {
        let row = u32::from(listener.0);
        ConnectionVerdict::ALL.map(|verdict| sum(&self.connections, connection_index(row, verdict)))
    }

    pub fn close(&mut self, listener: ListenerId) {
        self.close_where(|_, slot| slot.listener == u32::from(listener.0));
    }

    pub fn close_socket(&mut self, closed: u64) {
        self.close_where(|cookie, _| cookie == closed);
    }

    fn close_where(&mut self, is_meant: impl Fn(u64, &SocketSlot) -> bool) {
        for (cookie, slot) in &mut self.guarded {
            if !is_meant(*cookie, slot) {
                continue;
            }
            slot.flags |= SOCKET_CLOSING;
            if let Err(error) = self.sockets.insert(*cookie, Slot(*slot), 0) {
                tracing::warn!("listener {} stays open at the gate: {error}", slot.listener);
            }
        }
    }

    /// Its last drops are read first, where /proc tells them.
    pub fn forget(&mut self, closed: u64, inode: u64) {
        if let Some(proc_drops) = &mut self.proc_drops {
            proc_drops.forget(inode);
        }
        self.guarded.retain(|(cookie, _)| *cookie != closed);
        if let Err(error) = self.sockets.remove(&closed) {
            // A cookie is never given out twice: what stays takes a place and does no harm.
            tracing::warn!("bpf map delete of a closed socket's slot: {error}");
        }
    }

    pub fn counts(&self, listener: ListenerId) -> GateCounts {
        let listener_index = u32::from(listener.0);
        let bundles = |count| sum(&self.bundles, bundle_index(listener_index, count));
        let mut counts = GateCounts {
            verdicts: Verdict::ALL
                .map(|verdict| sum(&self.verdicts, verdict_index(listener_index, verdict))),
            drops: KernelDrop::ALL.map(|drop| sum(&self.drops, drop_index(listener_index, drop))),
            judged_bundles: bundles(BundleCount::Judged),
            contended_bundles: bundles(BundleCount::Contended),
        };
        if let Some(proc_drops) = &self.proc_drops {
            // The table counts the filter's own drops too.
            let filtered = bundles(BundleCount::Dropped);
            let dropped = proc_drops.of(listener).saturating_sub(filtered);
            counts.drops[KernelDrop::ReceiveBuffer as usize] = dropped;
        }
        counts
    }

    pub fn drops_exact(&self) -> bool {
        self.proc_drops.is_none()
    }

    pub fn attached(&self, listener: ListenerId) -> bool {
        let listener = u32::from(listener.0);
        self.guarded
            .iter()
            .any(|(_, slot)| slot.listener == listener)
    }

    pub fn missed_events(&self) -> u64 {
        self.programs()
            .filter_map(|(_, fd)| program_statistic(fd, "recursion_misses"))
            .sum()
    }

    pub fn verified_instructions(&self) -> Vec<(&'static str, u64)> {
        self.programs()
            .filter_map(|(name, fd)| Some((name, program_statistic(fd, "verified_insns")?)))
            .collect()
    }

    pub fn program_runs(&self) -> Vec<(&'static str, u64)> {
        self.programs()
            .filter_map(|(name, fd)| Some((name, program_statistic(fd, "run_cnt")?)))
            .collect()
    }

    pub fn take_logger(&mut self) -> Option<GateLogger> {
        EbpfLogger::init_with_logger(&mut self.ebpf, ToTracing).ok()
    }

    /// The programs that are loaded.
    fn programs(&self) -> impl Iterator<Item = (&'static str, &ProgramFd)> {
        object::PROGRAMS
            .into_iter()
            .filter_map(|name| Some((name, self.ebpf.program(name)?.fd().ok()?)))
    }
}

/// Loads and attaches the program that counts kernel drops.
fn attach_drops(ebpf: &mut Ebpf) -> Result<(), GateError> {
    let no_types = |error: aya::BtfError| GateError::NoKernelTypes(io::Error::other(error));
    let btf = Btf::from_sys_fs().map_err(no_types)?;
    let drops: &mut BtfTracePoint = program(ebpf, object::KERNEL_DROPS)?;
    drops
        .load(object::TRACEPOINT, &btf)
        .map_err(|error| refused(object::KERNEL_DROPS, error))?;
    let link = drops.attach();
    link.map(|_| ()).map_err(GateError::AttachTracepoint)
}

/// Whether the calling thread is known to lack what the programs need.
///
/// Asked beforehand for the sake of CAP_PERFMON: without it the verifier holds the filter to the
/// rules for strangers, and refuses it with an error that names no permission.
fn lacks_capabilities() -> bool {
    /// Bits of `linux/capability.h`; CAP_SYS_ADMIN includes the two others.
    const SYS_ADMIN: u64 = 1 << 21;
    const PERFMON_AND_BPF: u64 = 1 << 38 | 1 << 39;
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    // Where /proc does not tell, the kernel's own answer will.
    effective.is_some_and(|has| has & SYS_ADMIN == 0 && has & PERFMON_AND_BPF != PERFMON_AND_BPF)
}

/// The constants of `agent-ebpf/src/maps.rs`, as the running kernel has them.
struct DropConstants(Vec<(&'static str, u32)>);

impl DropConstants {
    fn read() -> Result<Self, GateError> {
        let bytes = fs::read(KERNEL_TYPES).map_err(GateError::NoKernelTypes)?;
        let types = KernelTypes::parse(&bytes)?;
        // trace_kfree_skb(skb, location, reason, rx_sk)
        if types.tracepoint_arguments(object::TRACEPOINT) != Some(4) {
            return Err(GateError::Tracepoint);
        }
        let mut constants = Vec::new();
        for (constant, name) in [
            ("REASON_RECEIVE_BUFFER", "SKB_DROP_REASON_SOCKET_RCVBUFF"),
            ("REASON_MEMORY", "SKB_DROP_REASON_PROTO_MEM"),
            ("REASON_CHECKSUM", "SKB_DROP_REASON_UDP_CSUM"),
            ("REASON_SOCKET_FILTER", "SKB_DROP_REASON_SOCKET_FILTER"),
        ] {
            let number = types.enumerator("skb_drop_reason", name);
            constants.push((constant, number.ok_or(GateError::KernelField(name))?));
        }
        for (constant, structure, field, size) in [
            ("SKB_LEN_OFFSET", "sk_buff", "len", 4),
            ("SKB_DATA_OFFSET", "sk_buff", "data", 8),
            ("SKB_HEAD_OFFSET", "sk_buff", "head", 8),
            // An offset from `head` on 64-bit kernels, a pointer on others.
            ("SKB_END_OFFSET", "sk_buff", "end", 4),
            (
                "SKB_TRANSPORT_HEADER_OFFSET",
                "sk_buff",
                "transport_header",
                2,
            ),
            ("SHARED_GSO_SIZE_OFFSET", "skb_shared_info", "gso_size", 2),
        ] {
            let found = types.field(structure, field).filter(|f| f.size == size);
            constants.push((constant, found.ok_or(GateError::KernelField(field))?.offset));
        }
        Ok(Self(constants))
    }
}

/// A program of the object, as the type that its section makes it.
pub(super) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, GateError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
{
    let what = "program";
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(GateError::Incomplete { what, name })
}

pub(super) fn take_map(ebpf: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, GateError> {
    let what = "map";
    ebpf.take_map(name)
        .ok_or(GateError::Incomplete { what, name })
}

pub(super) fn counters(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<PerCpuArray<MapData, u64>, GateError> {
    PerCpuArray::try_from(take_map(ebpf, name)?).map_err(|source| map_error(name, source))
}

pub(super) fn map_error(what: &'static str, source: aya::maps::MapError) -> GateError {
    GateError::Map { what, source }
}

/// A program that did not load: a permission is missing, or the verifier has its reasons.
pub(super) fn refused(program: &'static str, error: ProgramError) -> GateError {
    GateError::sort("bpf(BPF_PROG_LOAD)", error, |error| {
        let reason = match &error {
            ProgramError::LoadError {
                io_error,
                verifier_log,
            } => {
                let log = verifier_log.to_string();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines.len().saturating_sub(VERIFIER_LOG_LINES);
                tracing::debug!("verifier on {program}:\n{}", lines[last..].join("\n"));
                io_error.to_string()
            }
            other => other.to_string(),
        };
        GateError::Refused { program, reason }
    })
}

/// The sum over all CPUs. The index is within the map, whose size `load` set; a kernel that fails
/// the lookup all the same has said so before.
pub(super) fn sum(counters: &PerCpuArray<MapData, u64>, index: u32) -> u64 {
    match counters.get(&index, 0) {
        Ok(values) => values.iter().sum(),
        Err(error) => {
            tracing::warn!("bpf map lookup of a gate counter: {error}");
            0
        }
    }
}

/// One line of what the kernel tells of a program (`bpf_prog_show_fdinfo`, 5.12 and later).
fn program_statistic(program: &ProgramFd, name: &str) -> Option<u64> {
    let path = format!("/proc/self/fdinfo/{}", program.as_fd().as_raw_fd());
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.strip_prefix(':')?.trim().parse().ok()
}

/// The kernel's number for a socket, never given out twice.
pub(super) fn cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie: u64 = 0;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, which is the size of `cookie`.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if status == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}
