//! What the host will not give although the configuration asks for it: warnings, not mistakes.

mod resources;

use super::settings::{Protocol, Settings, Shards};
use super::unit::{about_size, format_sixteenths, format_size};
use crate::gate::policy::KEEP_ALL;
use crate::limits;

/// CAP_NET_ADMIN, as a bit of CapEff (linux/capability.h): SO_RCVBUFFORCE needs it.
const CAP_NET_ADMIN: u32 = 12;
/// CAP_IPC_LOCK: memory may be locked without a limit.
const CAP_IPC_LOCK: u32 = 14;

/// What of this host bears on the settings.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// net.core.rmem_max in bytes; `None` where it cannot be read.
    pub rmem_max: Option<u64>,
    pub has_net_admin: bool,
    pub cores: u16,
    /// net.core.somaxconn.
    pub somaxconn: Option<u64>,
    /// What all UDP sockets of the host may use in bytes: the third of net.ipv4.udp_mem.
    pub udp_mem: Option<u64>,
    pub page_len: u64,
    /// RLIMIT_NOFILE; `None` where there is no limit.
    pub open_files: Option<u64>,
    /// RLIMIT_MEMLOCK in bytes; `None` where there is no limit, or CAP_IPC_LOCK lifts it.
    pub locked_memory: Option<u64>,
}

impl Host {
    pub fn here() -> Self {
        let read = |path| std::fs::read_to_string(path).ok();
        let last_number =
            |path| -> Option<u64> { read(path)?.split_whitespace().last()?.parse().ok() };
        let status = read("/proc/self/status").unwrap_or_default();
        let limits = read("/proc/self/limits").unwrap_or_default();
        let page_len = resources::page_len();
        let locked = resources::soft_limit(&limits, "Max locked memory");
        Self {
            rmem_max: last_number("/proc/sys/net/core/rmem_max"),
            has_net_admin: has_capability(&status, CAP_NET_ADMIN),
            cores: cores(),
            somaxconn: last_number("/proc/sys/net/core/somaxconn"),
            udp_mem: last_number("/proc/sys/net/ipv4/udp_mem").map(|pages| pages * page_len),
            page_len,
            open_files: resources::soft_limit(&limits, "Max open files"),
            locked_memory: locked.filter(|_| !has_capability(&status, CAP_IPC_LOCK)),
        }
    }
}

/// Cores that this process may run on (its affinity and its cgroup's quota are respected): what
/// `Settings::shard_count` wants.
pub fn cores() -> u16 {
    std::thread::available_parallelism()
        .map_or(1, |cores| u16::try_from(cores.get()).unwrap_or(u16::MAX))
}

/// One line each for what the settings ask of this host and will not get.
pub fn warnings(settings: &Settings) -> Vec<String> {
    warnings_on(settings, &Host::here())
}

fn warnings_on(settings: &Settings, host: &Host) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(rmem_max) = host.rmem_max.filter(|_| !host.has_net_admin) {
        let most = settings
            .listeners
            .iter()
            .filter_map(|listener| listener.receive_buffer.map(|bytes| (bytes, listener)))
            .filter(|(bytes, _)| *bytes > rmem_max)
            .max_by_key(|(bytes, _)| *bytes);
        if let Some((bytes, listener)) = most {
            warnings.push(format!(
                "listeners.{}.receive_buffer is {}, but this host gives a socket at most {} \
                 without CAP_NET_ADMIN: sysctl -w net.core.rmem_max={bytes}",
                listener.name,
                format_size(bytes),
                about_size(rmem_max),
            ));
        }
    }
    let cores = host.cores.min(limits::SHARDS_MAX);
    let count = settings.shard_count(cores);
    resources::warn(settings, host, count, &mut warnings);
    if settings.shards == Shards::Auto && count < cores {
        warnings.push(format!(
            "shards = \"auto\" gives {count} on these {cores} cores, as one for each needs \
             memory_max = \"{}\" and journal.max_size = \"{}\"",
            // In whole MiB, so that what is printed is enough and can be copied.
            format_size(
                limits::memory_needed(cores, settings.sinks.len())
                    .next_multiple_of(1 << 20)
                    .max(settings.memory_max)
            ),
            format_size(limits::journal_needed(cores).max(settings.journal.max_size)),
        ));
    }
    if !settings.admin.address.ip().is_loopback() {
        warnings.push(format!(
            "admin.address {} can be reached from other hosts, and asks nobody for a password",
            settings.admin.address
        ));
    }
    if settings.gate.policy.keep[0] < KEEP_ALL {
        warnings.push(format!(
            "gate.keep.critical is {}: the rest of the critical frames over UDP is dropped, at all \
             times",
            format_sixteenths(settings.gate.policy.keep[0])
        ));
    }
    for listener in &settings.listeners {
        if listener.protocol == Protocol::Tcp && listener.receive_buffer.is_some() {
            warnings.push(format!(
                "listeners.{}.receive_buffer turns the kernel's own tuning of TCP buffers off",
                listener.name
            ));
        }
    }
    warnings
}

/// Whether the CapEff line of /proc/self/status has the capability's bit.
fn has_capability(status: &str, capability: u32) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> capability & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Host = Host {
        rmem_max: Some(212_992),
        has_net_admin: false,
        cores: 1,
        somaxconn: Some(4096),
        udp_mem: Some(1 << 40),
        page_len: 4096,
        open_files: None,
        locked_memory: None,
    };

    #[test]
    fn the_receive_buffer_warning_names_the_sysctl_that_mends_it() {
        let warnings = warnings_on(&super::super::builtin(), &PLAIN);
        assert_eq!(
            warnings,
            [
                "listeners.udp.receive_buffer is 16MiB, but this host gives a socket at most 208KiB \
              without CAP_NET_ADMIN: sysctl -w net.core.rmem_max=16777216"
            ]
        );
        for enough in [
            Host {
                has_net_admin: true,
                ..PLAIN
            },
            Host {
                rmem_max: Some(16 << 20),
                ..PLAIN
            },
            Host {
                rmem_max: None,
                ..PLAIN
            },
        ] {
            assert!(
                warnings_on(&super::super::builtin(), &enough).is_empty(),
                "{enough:?}"
            );
        }
    }

    #[test]
    fn auto_shards_that_do_not_fit_are_named_with_what_would() {
        let host = Host {
            has_net_admin: true,
            cores: 64,
            ..PLAIN
        };
        let mut settings = super::super::builtin();
        settings.journal.max_size = 1 << 30;
        let warnings = warnings_on(&settings, &host);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        // What the warning prints is enough.
        settings.memory_max = limits::memory_needed(64, 1).next_multiple_of(1 << 20);
        settings.journal.max_size = 2 << 30;
        assert!(
            warnings[0].contains("journal.max_size = \"2GiB\""),
            "{warnings:?}"
        );
        assert_eq!(settings.shard_count(64), 64);
        assert!(warnings_on(&settings, &host).is_empty());
    }

    #[test]
    fn capabilities_are_bits_of_cap_eff() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000001000\n";
        assert!(has_capability(status, 12));
        assert!(!has_capability(status, 11));
        assert!(!has_capability("", 12));
    }
}
