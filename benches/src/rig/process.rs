//! What the kernel says of a process: /proc/PID, proc(5).

use std::fs;

use anyhow::Context;

/// CPU seconds so far, both modes, of the threads whose name begins with `prefix`; of all with "".
/// The kernel counts in ticks of 10 ms here.
pub fn cpu_seconds(pid: u32, prefix: &str) -> anyhow::Result<f64> {
    let mut ticks = 0;
    let folder = format!("/proc/{pid}/task");
    for task in fs::read_dir(&folder).with_context(|| format!("read {folder}"))? {
        let stat = fs::read_to_string(task?.path().join("stat"))?;
        let (name, taken) = parse_stat(&stat).with_context(|| format!("no stat: {stat}"))?;
        if name.starts_with(prefix) {
            ticks += taken;
        }
    }
    // SAFETY: asks for a number; no pointers.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(ticks as f64 / per_second as f64)
}

/// The name and utime + stime: fields 2, 14 and 15. The name may have blanks and brackets in it.
fn parse_stat(stat: &str) -> Option<(&str, u64)> {
    let (head, rest) = stat.rsplit_once(") ")?;
    let name = head.split_once('(')?.1;
    let mut fields = rest.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((name, user + system))
}

/// The most that was ever resident, in bytes.
pub fn memory_peak(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: u64 = number.context("no VmHWM")?.trim().parse()?;
    Ok(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_as_the_kernel_writes_it() {
        let line = "4242 (shard-00 (x)) S 1 4242 4242 0 -1 4194304 120 0 0 0 310 45 0 0 20 0 6 0";
        assert_eq!(parse_stat(line), Some(("shard-00 (x)", 355)));
        assert_eq!(parse_stat("4242"), None);
    }
}
