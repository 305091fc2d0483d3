//! What is lost below the gate, as the host counts it: by the card, the backlog, reassembly, for
//! want of a socket. Counted since boot and for the network namespace, not for our sockets alone.

use super::family::Kind;
use super::text::Text;

/// Counters that can go back, because a device was removed, kept from doing so.
#[derive(Default)]
pub struct HostCounters {
    devices: Rising,
}

/// A family of /proc/net/snmp and /proc/net/snmp6: the same counter for IPv4 and IPv6.
struct SnmpFamily {
    name: &'static str,
    help: &'static str,
    /// Group and column in snmp, name in snmp6.
    ipv4: (&'static str, &'static str),
    ipv6: &'static str,
}

const SNMP: [SnmpFamily; 6] = [
    SnmpFamily {
        name: "penstock_host_udp_receive_errors_total",
        help: "The host's datagrams that were not delivered, for the reasons below and others \
               (InErrors).",
        ipv4: ("Udp", "InErrors"),
        ipv6: "Udp6InErrors",
    },
    SnmpFamily {
        name: "penstock_host_udp_receive_buffer_errors_total",
        help: "The host's datagrams that found a full receive buffer (RcvbufErrors).",
        ipv4: ("Udp", "RcvbufErrors"),
        ipv6: "Udp6RcvbufErrors",
    },
    SnmpFamily {
        name: "penstock_host_udp_checksum_errors_total",
        help: "The host's datagrams with a wrong checksum (InCsumErrors).",
        ipv4: ("Udp", "InCsumErrors"),
        ipv6: "Udp6InCsumErrors",
    },
    SnmpFamily {
        name: "penstock_host_udp_memory_errors_total",
        help: "The host's datagrams for which net.ipv4.udp_mem had no memory left (MemErrors).",
        ipv4: ("Udp", "MemErrors"),
        ipv6: "Udp6MemErrors",
    },
    SnmpFamily {
        name: "penstock_host_udp_no_port_total",
        help: "The host's datagrams for which no socket was open (NoPorts).",
        ipv4: ("Udp", "NoPorts"),
        ipv6: "Udp6NoPorts",
    },
    SnmpFamily {
        name: "penstock_host_ip_reassembly_failures_total",
        help: "The host's fragmented packets of which a part was missing (ReasmFails).",
        ipv4: ("Ip", "ReasmFails"),
        ipv6: "Ip6ReasmFails",
    },
];

impl HostCounters {
    /// A counter that this kernel does not have is left out.
    pub fn write(&mut self, text: &mut Text) {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let (snmp, snmp6) = (read("/proc/net/snmp"), read("/proc/net/snmp6"));
        for family in &SNMP {
            let values = [
                ("4", snmp_value(&snmp, family.ipv4.0, family.ipv4.1)),
                ("6", snmp6_value(&snmp6, family.ipv6)),
            ];
            if values.iter().all(|(_, value)| value.is_none()) {
                continue;
            }
            text.describe(family.name, Kind::Counter, family.help);
            for (version, value) in values {
                if let Some(value) = value {
                    text.sample(&[("ip_version", version)], value);
                }
            }
        }
        if let Some(drops) = device_drops(&read("/proc/net/dev")) {
            text.describe(
                "penstock_host_device_receive_drops_total",
                Kind::Counter,
                "Packets that the host's network devices dropped or missed on receipt.",
            );
            text.sample(&[], self.devices.observe(drops));
        }
        if let Some(drops) = backlog_drops(&read("/proc/net/softnet_stat")) {
            text.describe(
                "penstock_host_backlog_drops_total",
                Kind::Counter,
                "Packets for which a processor's backlog had no room (net.core.netdev_max_backlog).",
            );
            text.sample(&[], drops);
        }
    }
}

/// A sum whose parts can vanish: only its rises are counted.
#[derive(Default)]
struct Rising {
    last: u64,
    total: u64,
}

impl Rising {
    fn observe(&mut self, now: u64) -> u64 {
        self.total += now.saturating_sub(self.last);
        self.last = now;
        self.total
    }
}

/// /proc/net/snmp has two lines a group: the names, then the values in the same columns.
fn snmp_value(snmp: &str, group: &str, column: &str) -> Option<u64> {
    let mut lines = snmp
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| *name == group)
        .map(|(_, rest)| rest.split_ascii_whitespace());
    let at = lines.next()?.position(|name| name == column)?;
    lines.next()?.nth(at)?.parse().ok()
}

/// /proc/net/snmp6 has one name and its value a line.
fn snmp6_value(snmp6: &str, name: &str) -> Option<u64> {
    snmp6.lines().find_map(|line| {
        let (known, value) = line.split_once(char::is_whitespace)?;
        (known == name).then(|| value.trim().parse().ok())?
    })
}

/// /proc/net/dev: after the device's name bytes, packets, errs, drop, fifo, ... of what came in.
fn device_drops(dev: &str) -> Option<u64> {
    let mut sum = None;
    for line in dev.lines().skip(2) {
        let (_, counts) = line.split_once(':')?;
        let counts: Vec<&str> = counts.split_ascii_whitespace().collect();
        let count = |at: usize| counts.get(at)?.parse::<u64>().ok();
        // The kernel prints rx_dropped + rx_missed_errors here (dev_seq_printf_stats).
        sum = Some(sum.unwrap_or(0) + count(3)?);
    }
    sum
}

/// /proc/net/softnet_stat: a line a processor, in hexadecimal; the second column is the drops.
fn backlog_drops(softnet: &str) -> Option<u64> {
    let mut sum = None;
    for line in softnet.lines() {
        let drops = line.split_ascii_whitespace().nth(1)?;
        sum = Some(sum.unwrap_or(0) + u64::from_str_radix(drops, 16).ok()?);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Captured on Linux 6.18, shortened, some zeros replaced.
    const SNMP: &str = "\
Ip: Forwarding DefaultTTL InReceives ReasmTimeout ReasmReqds ReasmOKs ReasmFails
Ip: 2 64 11011 0 7 4 3
UdpLite: InDatagrams NoPorts InErrors
UdpLite: 1 2 3
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
Udp: 204 11 12 205 13 0 14 0 15
";

    #[test]
    fn values_stand_under_their_names() {
        assert_eq!(snmp_value(SNMP, "Udp", "NoPorts"), Some(11));
        assert_eq!(snmp_value(SNMP, "Udp", "MemErrors"), Some(15));
        assert_eq!(snmp_value(SNMP, "Ip", "ReasmFails"), Some(3));
        assert_eq!(snmp_value(SNMP, "Udp", "Nothing"), None);
        assert_eq!(snmp_value("", "Udp", "NoPorts"), None);
        assert_eq!(snmp_value("Udp: NoPorts\n", "Udp", "NoPorts"), None);

        let snmp6 = "Ip6ReasmFails                   \t2\nUdp6InErrors                    \t9\n";
        assert_eq!(snmp6_value(snmp6, "Udp6InErrors"), Some(9));
        assert_eq!(snmp6_value(snmp6, "Udp6"), None);
    }

    #[test]
    fn drops_are_summed_over_devices_and_processors() {
        let dev = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo:    3193      29    0    5    0     0          0         0     3193      29    0    0    0
  eth0: 408692769   10927    1    6    2     0          0         0   696324    6848    0   99    0
";
        assert_eq!(device_drops(dev), Some(11));
        assert_eq!(device_drops(""), None);
        let softnet = "00002ab1 0000000a 00000000\n000010ff 00000010 00000000\n";
        assert_eq!(backlog_drops(softnet), Some(26));
        assert_eq!(backlog_drops(""), None);
    }

    #[test]
    fn a_device_that_vanishes_takes_nothing_back() {
        let mut drops = Rising::default();
        assert_eq!(drops.observe(10), 10);
        assert_eq!(drops.observe(4), 10);
        assert_eq!(drops.observe(7), 13);
    }
}
