//! The `process_*` metrics that every Prometheus client library has, from /proc/self.

use super::family::Kind;
use super::text::Text;

/// What cannot be read is left out: a missing series says more than a wrong 0.
pub fn write(text: &mut Text) {
    let stat = std::fs::read_to_string("/proc/self/stat").ok();
    let stat = stat.as_deref().and_then(Stat::parse);
    if let Some(stat) = stat {
        text.describe(
            "process_cpu_seconds_total",
            Kind::Counter,
            "Processor time of the process, user and system.",
        );
        text.sample(&[], stat.cpu_ticks as f64 / ticks_per_second());
        text.describe(
            "process_resident_memory_bytes",
            Kind::Gauge,
            "Memory of the process that is in RAM.",
        );
        text.sample(&[], stat.resident_pages * page_len());
        text.describe(
            "process_virtual_memory_bytes",
            Kind::Gauge,
            "Address space of the process.",
        );
        text.sample(&[], stat.virtual_bytes);
        text.describe("process_threads", Kind::Gauge, "Threads of the process.");
        text.sample(&[], stat.threads);
        if let Some(boot) = boot_time_seconds() {
            text.describe(
                "process_start_time_seconds",
                Kind::Gauge,
                "When the process began, in seconds since 1970.",
            );
            text.sample(
                &[],
                boot as f64 + stat.start_ticks as f64 / ticks_per_second(),
            );
        }
    }
    if let Ok(folder) = std::fs::read_dir("/proc/self/fd") {
        text.describe("process_open_fds", Kind::Gauge, "Open file descriptors.");
        // The listing itself holds one open.
        text.sample(&[], folder.count().saturating_sub(1));
    }
    if let Some(max) = file_descriptors_max() {
        text.describe(
            "process_max_fds",
            Kind::Gauge,
            "File descriptors that may be open.",
        );
        text.sample(&[], max);
    }
}

/// The fields of /proc/self/stat that are wanted; proc(5) numbers them from 1.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// Fields 14 and 15.
    cpu_ticks: u64,
    /// Field 20.
    threads: u64,
    /// Field 22, since boot.
    start_ticks: u64,
    /// Field 23.
    virtual_bytes: u64,
    /// Field 24.
    resident_pages: u64,
}

impl Stat {
    /// Field 2 is the program's name in parentheses and may hold anything, blanks and parentheses
    /// too: the fields are counted from the last closing one.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

fn boot_time_seconds() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

fn ticks_per_second() -> f64 {
    // SAFETY: sysconf takes a plain number and touches no memory of ours.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    // 100 on every Linux there is (USER_HZ), should the call ever fail.
    if ticks > 0 { ticks as f64 } else { 100.0 }
}

fn page_len() -> u64 {
    // SAFETY: sysconf takes a plain number and touches no memory of ours.
    let len = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(len).unwrap_or(4096)
}

fn file_descriptors_max() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a live local that the call fills.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    (result == 0).then_some(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_the_end_of_the_name() {
        // proc(5), with a name that holds what it may.
        let text = "4242 (a ) (b) S 1 4242 4242 0 -1 4194560 1500 0 3 0 250 50 0 0 20 0 7 0 \
                    123456 104857600 2560 18446744073709551615 1 1 0 0 0 0";
        assert_eq!(
            Stat::parse(text),
            Some(Stat {
                cpu_ticks: 300,
                threads: 7,
                start_ticks: 123_456,
                virtual_bytes: 104_857_600,
                resident_pages: 2_560,
            })
        );
        assert_eq!(Stat::parse("4242 (cut) S 1"), None);
        assert_eq!(Stat::parse(""), None);
    }
}
