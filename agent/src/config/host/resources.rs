//! Limits of the host and of the process that the settings would reach, each with the line that
//! lifts it.

use super::super::settings::{Protocol, Settings};
use super::super::unit::{about_size, format_size};
use super::Host;
use crate::limits;

pub fn warn(settings: &Settings, host: &Host, shards: u16, warnings: &mut Vec<String>) {
    let has_tcp = settings
        .listeners
        .iter()
        .any(|listener| listener.protocol == Protocol::Tcp);
    let found = [
        has_tcp.then(|| backlog(host)).flatten(),
        open_files(settings, host, shards, has_tcp),
        locked_memory(host, shards),
        udp_memory(settings, host, shards),
    ];
    warnings.extend(found.into_iter().flatten());
}

fn backlog(host: &Host) -> Option<String> {
    let wanted = u64::from(limits::LISTEN_BACKLOG);
    let somaxconn = host.somaxconn.filter(|given| *given < wanted)?;
    Some(format!(
        "at most {somaxconn} connections may wait to be accepted, and more are refused, where \
         {wanted} would be taken: sysctl -w net.core.somaxconn={wanted}"
    ))
}

/// Without TCP there are no connections, and any limit is enough.
fn open_files(settings: &Settings, host: &Host, shards: u16, has_tcp: bool) -> Option<String> {
    let needed = limits::open_files_needed(shards, settings.listeners.len(), settings.sinks.len());
    let given = host.open_files.filter(|given| has_tcp && *given < needed)?;
    Some(format!(
        "this process may have {given} open files, and {shards} shards full of connections need \
         {needed}: ulimit -n {needed}, or LimitNOFILE={needed} in the service"
    ))
}

/// The kernel refuses to register blocks beyond it; they are then pinned anew at each write.
fn locked_memory(host: &Host, shards: u16) -> Option<String> {
    let needed = limits::locked_memory_needed(shards);
    let given = host.locked_memory.filter(|given| *given < needed)?;
    Some(format!(
        "this process may lock {} of memory, and the journal's blocks are {}: writes cost more \
         without: ulimit -l {}, or LimitMEMLOCK={needed} in the service",
        about_size(given),
        about_size(needed),
        needed.div_ceil(1024),
    ))
}

/// Each shard has a socket for each UDP listener, whose buffer the kernel makes twice as large as
/// asked, for its own bookkeeping (socket(7)).
fn udp_memory(settings: &Settings, host: &Host, shards: u16) -> Option<String> {
    let buffers = settings.listeners.iter().filter_map(|listener| {
        let is_udp = listener.protocol == Protocol::Udp;
        listener.receive_buffer.filter(|_| is_udp)
    });
    let needed = 2 * buffers.sum::<u64>() * u64::from(shards);
    let given = host.udp_mem.filter(|given| *given < needed)?;
    let pages = needed.div_ceil(host.page_len);
    Some(format!(
        "the receive buffers of all UDP listeners may take {}, and this host gives all UDP \
         sockets together {}: sysctl -w net.ipv4.udp_mem='{} {} {pages}'",
        format_size(needed),
        about_size(given),
        pages / 2,
        pages / 4 * 3,
    ))
}

/// The soft limit of a line of /proc/self/limits; `None` where it is unlimited or not there.
pub fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

pub fn page_len() -> u64 {
    // SAFETY: takes a number, touches no memory of ours.
    let len = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(len).expect("every kernel has pages")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOMY: Host = Host {
        rmem_max: None,
        has_net_admin: true,
        cores: 2,
        somaxconn: Some(4096),
        udp_mem: Some(1 << 30),
        page_len: 4096,
        open_files: Some(1 << 20),
        locked_memory: None,
    };

    /// What is said of two shards with one UDP and one TCP listener, 16 MiB of receive buffer and
    /// one sink.
    fn said(host: Host) -> Vec<String> {
        let mut warnings = Vec::new();
        warn(&crate::config::builtin(), &host, 2, &mut warnings);
        warnings
    }

    #[test]
    fn a_roomy_host_is_not_complained_of() {
        assert_eq!(said(ROOMY), Vec::<String>::new());
        let unknown = Host {
            somaxconn: None,
            udp_mem: None,
            open_files: None,
            ..ROOMY
        };
        assert_eq!(said(unknown), Vec::<String>::new());
    }

    #[test]
    fn each_limit_that_is_too_low_is_named_with_the_line_that_lifts_it() {
        let low = Host {
            somaxconn: Some(128),
            ..ROOMY
        };
        assert!(
            said(low)[0].ends_with(": sysctl -w net.core.somaxconn=4096"),
            "{:?}",
            said(low)
        );

        // Two shards of 4,096 connections, and some hundred others: what a shell gives is too few.
        let low = Host {
            open_files: Some(1024),
            ..ROOMY
        };
        let text = &said(low)[0];
        let line = text.rsplit_once("LimitNOFILE=").expect("the line").1;
        let asked: u64 = line
            .split(' ')
            .next()
            .unwrap_or_default()
            .parse()
            .expect("a number");
        assert!((8192 + 200..8192 + 400).contains(&asked), "{text}");
        assert!(
            said(Host {
                open_files: Some(asked),
                ..ROOMY
            })
            .is_empty(),
            "it is enough"
        );

        // 34 blocks of a little over 1 MiB; Debian gives 8 MiB.
        let low = Host {
            locked_memory: Some(8 << 20),
            ..ROOMY
        };
        let text = &said(low)[0];
        assert!(text.contains("may lock 8MiB of memory"), "{text}");
        let needed: u64 = 2 * 17 * ((1 << 20) + 4096);
        assert!(text.contains(&format!("LimitMEMLOCK={needed} ")), "{text}");
        let enough = needed.div_ceil(1024) * 1024;
        assert!(
            text.contains(&format!("ulimit -l {},", enough / 1024)),
            "{text}"
        );
        assert!(
            said(Host {
                locked_memory: Some(enough),
                ..ROOMY
            })
            .is_empty(),
            "it is enough"
        );

        // 2 shards × 16 MiB × 2 = 64 MiB = 16,384 pages.
        let low = Host {
            udp_mem: Some(48 << 20),
            ..ROOMY
        };
        let text = &said(low)[0];
        assert!(text.contains("may take 64MiB"), "{text}");
        assert!(
            text.ends_with("sysctl -w net.ipv4.udp_mem='8192 12288 16384'"),
            "{text}"
        );
        assert!(
            said(Host {
                udp_mem: Some(16_384 * 4096),
                ..ROOMY
            })
            .is_empty(),
            "it is enough"
        );
    }

    #[test]
    fn an_agent_without_tcp_needs_few_files_and_no_backlog() {
        let mut settings = crate::config::builtin();
        settings
            .listeners
            .retain(|listener| listener.protocol == Protocol::Udp);
        let low = Host {
            open_files: Some(1024),
            somaxconn: Some(1),
            ..ROOMY
        };
        let mut warnings = Vec::new();
        warn(&settings, &low, 2, &mut warnings);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn limits_are_read_as_the_kernel_prints_them() {
        // Captured on Linux 6.18.
        let limits = "\
Limit                     Soft Limit           Hard Limit           Units
Max locked memory         8388608              unlimited            bytes
Max open files            1024                 524288               files
Max realtime timeout      unlimited            unlimited            us
";
        assert_eq!(soft_limit(limits, "Max locked memory"), Some(8_388_608));
        assert_eq!(soft_limit(limits, "Max open files"), Some(1024));
        assert_eq!(soft_limit(limits, "Max realtime timeout"), None);
        assert_eq!(soft_limit(limits, "Max of something else"), None);
    }
}
