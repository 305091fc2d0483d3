//! A host that forbids what Penstock likes best: with `PENSTOCK_TEST_FORBID=io_uring,bpf` in the
//! environment every agent that a test starts runs under a seccomp filter that refuses these calls
//! with EPERM, as Docker's default profile does.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

pub const VARIABLE: &str = "PENSTOCK_TEST_FORBID";
pub const IO_URING: &str = "io_uring";
pub const BPF: &str = "bpf";

/// Whether this run forbids it.
pub fn forbids(what: &str) -> bool {
    let value = std::env::var(VARIABLE).unwrap_or_default();
    value.split(',').any(|word| word == what)
}

/// The filter for a child that may have neither what this run forbids nor `more`, made before the
/// fork: none, where nothing is forbidden.
pub fn filter(more: &[&str]) -> Option<BpfProgram> {
    let value = std::env::var(VARIABLE).unwrap_or_default();
    let words = value.split(',').filter(|word| !word.is_empty());
    let calls = words.chain(more.iter().copied()).flat_map(calls);
    let rules: BTreeMap<i64, Vec<_>> = calls.map(|call| (*call, Vec::new())).collect();
    if rules.is_empty() {
        return None;
    }
    let architecture = TargetArch::try_from(std::env::consts::ARCH).expect("a known machine");
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)
        .and_then(BpfProgram::try_from)
        .expect("a filter of a few calls");
    Some(filter)
}

/// The calls behind a word; one that is not known would forbid nothing, and so is a mistake.
fn calls(word: &str) -> &'static [i64] {
    const RING: [i64; 3] = [
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
    ];
    match word {
        IO_URING => &RING,
        "io_uring_setup" => &RING[..1],
        "io_uring_enter" => &RING[1..2],
        "io_uring_register" => &RING[2..],
        BPF => &[libc::SYS_bpf],
        "epoll_pwait2" => &[libc::SYS_epoll_pwait2],
        other => panic!("{other:?} is nothing that a test can forbid"),
    }
}

/// Between fork and exec: allocates nothing.
pub fn install(filter: Option<&BpfProgram>) -> io::Result<()> {
    match filter.map(|filter| seccompiler::apply_filter(filter)) {
        Some(Err(_)) => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        _ => Ok(()),
    }
}
