//! Who the agent is, and what it may do: no more than the next step needs.
//!
//! ```text
//!              control thread                              every thread that it starts
//!  become      root turns into `user`; keeps STARTING      —
//!  start       gate, sockets, rings                        shards: ring made, then nothing is kept
//!  settle      keeps what a reload needs, not in force     sinks and the others: nothing is kept
//!  raised      in force while a reload opens sockets       —
//! ```
//!
//! Capabilities are the thread's own (capabilities(7)), and a new thread inherits its maker's: so
//! each thread of ours gives them up itself, by [`give_up`].
//!
//! | capability | for | until |
//! |---|---|---|
//! | CAP_BPF, CAP_PERFMON | loading the gate | the start is over |
//! | CAP_IPC_LOCK | registering the journal's blocks beyond RLIMIT_MEMLOCK | a shard's ring is made |
//! | CAP_NET_BIND_SERVICE | ports below net.ipv4.ip_unprivileged_port_start | kept if a listener has such a port |
//! | CAP_NET_ADMIN | receive buffers beyond net.core.rmem_max | kept if a listener asks for one |

mod user;

use std::fs;
use std::io;

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;

use crate::config::settings::Settings;
use crate::exit::{Exit, Failure};

/// All that a start can need.
const STARTING: [Capability; 5] = [
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_IPC_LOCK,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_BIND_SERVICE,
];

/// Why the agent cannot be who it is told to be, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error("user = \"{0}\": this host has no such user: `useradd --system {0}` makes it")]
    NoUser(String),
    #[error(
        "user = \"{name}\": only root can become another user, and user {uid} has started the \
         agent: start it as root or as {name}, or take the key out"
    )]
    NotRoot { name: String, uid: u32 },
    #[error("user = \"{name}\": root is who the agent should not be: name an unprivileged user")]
    Root { name: String },
    #[error("{call}: {source}")]
    Call {
        call: &'static str,
        source: io::Error,
    },
    #[error("{call}: {source}")]
    Capabilities {
        call: &'static str,
        source: CapsError,
    },
    #[error(
        "{path} belongs to user {owner}, and {name} cannot read and write it: what is in data_dir \
         must be the agent's own: `chown -R {name}: {data_dir}`"
    )]
    NotOurs {
        path: String,
        owner: u32,
        name: String,
        data_dir: String,
    },
    #[error("{path}: {source}: user {name} must be let into every folder above data_dir")]
    NoWay {
        path: String,
        name: String,
        source: io::Error,
    },
}

impl From<PrivilegeError> for Failure {
    fn from(error: PrivilegeError) -> Self {
        let exit = match error {
            PrivilegeError::NoUser(_) | PrivilegeError::Root { .. } => Exit::Config,
            _ => Exit::Permission,
        };
        Self::new(exit, error.to_string())
    }
}

/// The first step of a start, before anything is opened or made: what the agent makes from here on
/// is its user's. Call it while the process has one thread.
pub fn become_user(settings: &Settings) -> Result<(), PrivilegeError> {
    // Nothing that the agent starts can gain what the agent gives up, set-user-ID or not.
    prctl::set_no_new_privs().map_err(|errno| PrivilegeError::Call {
        call: "prctl(PR_SET_NO_NEW_PRIVS)",
        source: errno.into(),
    })?;
    let Some(name) = &settings.user else {
        return Ok(());
    };
    user::enter(name, &settings.data_dir)
}

/// What the control thread keeps for a reload: permitted, and in force within [`Kept::raised`] only.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Kept(CapsHashSet);

/// The last step of a start, on the control thread.
pub fn settle(settings: &Settings) -> Result<Kept, PrivilegeError> {
    let has = read(CapSet::Permitted)?;
    let wanted = for_reload(settings, &Host::here());
    let kept: CapsHashSet = wanted.intersection(&has).copied().collect();
    reduce(&kept, &CapsHashSet::new())?;
    if !kept.is_empty() {
        tracing::info!(capabilities = %names(&kept), "kept for a reload; everything else is given up");
    }
    Ok(Kept(kept))
}

impl Kept {
    /// Runs `open` with the kept capabilities in force.
    pub fn raised<T>(&self, open: impl FnOnce() -> T) -> T {
        if self.0.is_empty() {
            return open();
        }
        // What fails here fails again in `open`, where it has a name.
        if let Err(error) = caps::set(None, CapSet::Effective, &self.0) {
            tracing::warn!("capset: {error}");
        }
        let outcome = open();
        if let Err(error) = caps::clear(None, CapSet::Effective) {
            tracing::error!("capset: {error}: {} stay in force", names(&self.0));
        }
        outcome
    }
}

/// Leaves the calling thread nothing. A thread without capabilities is not refused this by any
/// kernel; a seccomp filter may, and then the log says so.
pub fn give_up() {
    let nothing = CapsHashSet::new();
    if let Err(error) = reduce(&nothing, &nothing) {
        let name = std::thread::current().name().unwrap_or("?").to_owned();
        tracing::error!("thread {name} keeps its capabilities: {error}");
    }
}

/// What of this host decides which capabilities a listener's socket takes.
struct Host {
    rmem_max: u64,
    /// The lowest port that anybody may bind.
    unprivileged_port: u16,
}

impl Host {
    /// Where /proc does not tell, the kernel's own defaults.
    fn here() -> Self {
        let number = |path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let port = number("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        Self {
            rmem_max: number("/proc/sys/net/core/rmem_max").unwrap_or(212_992),
            unprivileged_port: port.map_or(1024, |port| port.min(u64::from(u16::MAX)) as u16),
        }
    }
}

/// A reload binds the sockets of what has changed anew. What the settings at the start did not need
/// it cannot have: that takes a restart.
fn for_reload(settings: &Settings, host: &Host) -> CapsHashSet {
    let mut wanted = CapsHashSet::new();
    for listener in &settings.listeners {
        let port = listener.address.port();
        if port != 0 && port < host.unprivileged_port {
            wanted.insert(Capability::CAP_NET_BIND_SERVICE);
        }
        if listener
            .receive_buffer
            .is_some_and(|bytes| bytes > host.rmem_max)
        {
            wanted.insert(Capability::CAP_NET_ADMIN);
        }
    }
    wanted
}

/// Permitted and in force in the calling thread; what exec would hand on goes too.
fn reduce(permitted: &CapsHashSet, effective: &CapsHashSet) -> Result<(), PrivilegeError> {
    let failed = |call| move |source| PrivilegeError::Capabilities { call, source };
    // Linux 4.3; an older one has no such set to clear.
    let _ = caps::clear(None, CapSet::Ambient);
    caps::clear(None, CapSet::Inheritable).map_err(failed("capset (inheritable)"))?;
    // In this order: what is in force must be permitted.
    caps::set(None, CapSet::Effective, effective).map_err(failed("capset (effective)"))?;
    caps::set(None, CapSet::Permitted, permitted).map_err(failed("capset (permitted)"))
}

fn read(set: CapSet) -> Result<CapsHashSet, PrivilegeError> {
    let call = "capget";
    caps::read(None, set).map_err(|source| PrivilegeError::Capabilities { call, source })
}

fn names(set: &CapsHashSet) -> String {
    let mut names: Vec<String> = set.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn wanted(listeners: &str) -> String {
        let settings = config::parse("test", listeners).expect("settings");
        let host = Host {
            rmem_max: 212_992,
            unprivileged_port: 1024,
        };
        names(&for_reload(&settings, &host))
    }

    #[test]
    fn a_reload_needs_what_its_listeners_need() {
        let listener = |address: &str, buffer: &str| {
            format!("[listeners.a]\naddress = \"{address}\"\nreceive_buffer = \"{buffer}\"\n")
        };
        assert_eq!(wanted(&listener("udp://0.0.0.0:1024", "208KiB")), "");
        assert_eq!(wanted(&listener("udp://0.0.0.0:0", "208KiB")), "");
        assert_eq!(
            wanted(&listener("udp://0.0.0.0:514", "208KiB")),
            "CAP_NET_BIND_SERVICE"
        );
        assert_eq!(
            wanted(&listener("tcp://[::]:4600", "1MiB")),
            "CAP_NET_ADMIN"
        );
        assert_eq!(
            wanted(&listener("udp://0.0.0.0:514", "1MiB")),
            "CAP_NET_ADMIN CAP_NET_BIND_SERVICE"
        );
    }

    /// In a thread of its own, which ends with it.
    #[test]
    fn a_thread_that_gives_up_holds_nothing() {
        let sets = std::thread::spawn(|| {
            give_up();
            let all = [CapSet::Permitted, CapSet::Effective, CapSet::Inheritable];
            all.map(|set| caps::read(None, set).expect("capget").len())
        });
        assert_eq!(sets.join().expect("no panic"), [0; 3]);
    }

    #[test]
    fn what_is_kept_is_in_force_only_while_raised() {
        let outcome = std::thread::spawn(|| {
            let has = read(CapSet::Permitted).expect("capget");
            let one = CapsHashSet::from([Capability::CAP_NET_BIND_SERVICE]);
            let kept: CapsHashSet = one.intersection(&has).copied().collect();
            reduce(&kept, &CapsHashSet::new()).expect("less than before");
            let effective = || caps::read(None, CapSet::Effective).expect("capget");
            let before = effective();
            let kept = Kept(kept);
            let during = kept.raised(effective);
            (before, during == kept.0, effective())
        });
        let nothing = CapsHashSet::new();
        assert_eq!(
            outcome.join().expect("no panic"),
            (nothing.clone(), true, nothing)
        );
    }
}
