//! Which fence the shards get: as configured, or what this host allows.

use std::io::ErrorKind;

use crate::config::settings::IoMode;
use crate::fence::{FenceError, uring};

/// The kernel interface of the shards, the same for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    Uring,
    Epoll,
}

impl Io {
    /// As the configuration, the log, the status and `penstock_build_info` name it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Uring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// Fails for `IoMode::Uring` only; `Auto` says loudly what is missing and what it does instead.
pub fn choose(mode: IoMode, shards: u16) -> Result<Io, FenceError> {
    match mode {
        IoMode::Epoll => Ok(Io::Epoll),
        IoMode::Uring => uring::probe(shards).map(|()| Io::Uring),
        IoMode::Auto => Ok(match uring::probe(shards) {
            Ok(()) => Io::Uring,
            Err(error) => {
                tracing::warn!(
                    "NO IO_URING: {error}. {}. The shards use epoll, and threads for the journal's \
                     files; io = \"epoll\" says that this is meant",
                    advice(&error),
                );
                Io::Epoll
            }
        }),
    }
}

/// What would have to change, by what failed.
pub fn advice(error: &FenceError) -> String {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    advice_for(&error.source, disabled.ok().as_deref().map(str::trim))
}

const SECCOMP: &str = "A seccomp filter forbids it, as the default profiles of Docker and \
                       Kubernetes do: allow io_uring_setup, io_uring_enter and io_uring_register";

fn advice_for(error: &std::io::Error, disabled: Option<&str>) -> String {
    match (error.raw_os_error(), disabled) {
        // 1: only for the group of kernel.io_uring_group and for CAP_SYS_ADMIN (Linux 6.6).
        (Some(libc::EPERM), Some(level @ ("1" | "2"))) => {
            format!("kernel.io_uring_disabled is {level}: sysctl -w kernel.io_uring_disabled=0")
        }
        (Some(libc::EPERM | libc::EACCES), _) => SECCOMP.to_owned(),
        (Some(libc::ENOSYS), _) => format!("The kernel has no io_uring, or: {SECCOMP}"),
        (Some(libc::ENOMEM), _) => {
            "The limit on locked memory is too low: raise it (LimitMEMLOCK= of the unit, ulimit -l)"
                .to_owned()
        }
        (Some(libc::EINVAL), _) => "The kernel is older than Linux 6.1".to_owned(),
        _ if error.kind() == ErrorKind::Unsupported => {
            "The kernel is older than Linux 6.1, or a part of its io_uring is taken out".to_owned()
        }
        _ => "Penstock uses io_uring from Linux 6.1 on".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Error;

    #[test]
    fn the_advice_names_what_would_have_to_change() {
        let errno = Error::from_raw_os_error;
        for (error, disabled, part) in [
            (errno(libc::EPERM), Some("2"), "kernel.io_uring_disabled=0"),
            (errno(libc::EPERM), Some("1"), "kernel.io_uring_disabled=0"),
            (errno(libc::EPERM), Some("0"), "seccomp"),
            (errno(libc::EPERM), None, "seccomp"),
            (errno(libc::ENOSYS), None, "seccomp"),
            (errno(libc::ENOMEM), Some("0"), "LimitMEMLOCK"),
            (errno(libc::EINVAL), None, "Linux 6.1"),
            (Error::from(ErrorKind::Unsupported), None, "Linux 6.1"),
        ] {
            let advice = advice_for(&error, disabled);
            assert!(advice.contains(part), "{error:?}, {disabled:?}: {advice}");
        }
    }
}
