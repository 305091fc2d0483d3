//! A disk that forgets what was not synced, under a real mount point (FUSE).
//!
//! [`Disk::mount`] serves an in-memory file system (`image`) to the kernel; [`Disk::cut`] is the
//! power failing: what no sync has made durable is gone, or some of it is (`cut`); `fault` makes
//! calls fail, stall or lie. One mount survives any number of cuts.
//!
//! A kill of the agent first, and then the cut, would let the calls that were on their way end in
//! between. So the disk stops in the middle instead ([`Disk::freeze`]): calls wait; the agent is
//! killed; the calls fail with nobody there to see it ([`Disk::power_off`]); then the cut. What the
//! agent acknowledged, it acknowledged for what was durable at the moment of freezing.

pub mod cut;
pub mod fault;
pub mod image;
mod serve;
#[cfg(test)]
mod tests;

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use fuser::{BackgroundSession, Config, MountOption, Session};
use rand::rngs::StdRng;

use cut::Survival;
use fault::{Fault, Faults};
use image::{Image, PAGE_LEN};
use serve::Server;

/// Calls that are served at once: the agent's workers, its sinks, its control thread, the reader,
/// and some that stall.
const THREADS: usize = 6;
/// As large as nothing under test will fill by accident.
const CAPACITY: u64 = 8 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    On,
    /// Calls wait.
    Frozen,
    /// Calls fail.
    Off,
}

struct State {
    image: Image,
    faults: Faults,
    power: Power,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }

    fn power_changed<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let woken = self.changed.wait(state);
        woken.expect("no holder of the lock panics")
    }
}

/// A mounted disk. Dropped, it is unmounted.
pub struct Disk {
    shared: Arc<Shared>,
    mount_point: PathBuf,
    session: Option<BackgroundSession>,
}

impl Disk {
    /// Mounts an empty disk on a folder, by mount(2): it needs root and /dev/fuse.
    pub fn mount(mount_point: &Path) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                image: Image::new(CAPACITY / PAGE_LEN as u64),
                faults: Faults::default(),
                power: Power::On,
            }),
            changed: Condvar::new(),
        });
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("penstock-test".to_owned())];
        config.n_threads = Some(THREADS);
        let session = Session::new(Server(Arc::clone(&shared)), mount_point, &config)?;
        Ok(Self {
            shared,
            mount_point: mount_point.to_owned(),
            session: Some(session.spawn()?),
        })
    }

    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    pub fn arm(&self, fault: Fault) {
        self.shared.state().faults.arm(fault);
    }

    pub fn disarm(&self) {
        self.shared.state().faults.disarm();
    }

    /// Calls that went wrong by a fault until now.
    pub fn struck(&self) -> u64 {
        self.shared.state().faults.struck()
    }

    /// Leaves room for so many bytes beside what is there.
    pub fn limit_free(&self, bytes: u64) {
        let mut state = self.shared.state();
        state.image.pages_max = state.image.pages_used() + bytes / PAGE_LEN as u64;
    }

    pub fn lift_limit(&self) {
        self.shared.state().image.pages_max = CAPACITY / PAGE_LEN as u64;
    }

    /// From here on every call waits.
    pub fn freeze(&self) {
        self.shared.state().power = Power::Frozen;
    }

    /// From here on every call fails, those that wait too.
    pub fn power_off(&self) {
        self.shared.state().power = Power::Off;
        self.shared.changed.notify_all();
    }

    /// Loses what is not durable, and is there again, without faults.
    pub fn cut(&self, survival: Survival, random: &mut StdRng) {
        let mut state = self.shared.state();
        state.image.cut(survival, random);
        state.faults.disarm();
        state.power = Power::On;
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.power_off();
        let Some(session) = self.session.take() else {
            return;
        };
        let path = CString::new(self.mount_point.as_os_str().as_bytes());
        let path = path.expect("it was mounted under this path");
        // SAFETY: a NUL-terminated path, alive for the call. Detached, the mount goes with its last
        // user: a ring of a killed agent may hold a file a moment longer.
        let status = unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        if status == 0 {
            // The server ends with the mount's last user. Nobody waits for it: it owns no more than
            // memory, and a user that never goes would keep a test that has passed from ending.
            drop(session);
        } else {
            eprintln!("umount: {}", io::Error::last_os_error());
        }
    }
}
