//! The thread that looks at `schemas_dir`: its own, because a folder on a network may hang, and the
//! control thread answers scrapes.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::registry::Registry;
use crate::config::settings::SchemaSettings;
use crate::privilege;

/// A change is in force after two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What the configuration says of schemas.
struct Wanted {
    folder: Option<PathBuf>,
    schemas: Vec<SchemaSettings>,
}

/// Ends the thread when it is dropped.
pub struct Watch {
    wanted: Option<Sender<Wanted>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Looks after the registry until dropped; where there is no folder it waits for one.
    pub fn start(registry: Registry) -> io::Result<Self> {
        let (wanted, changes) = channel();
        let thread = Builder::new().name("schemas".to_owned()).spawn(move || {
            privilege::give_up();
            run(registry, &changes);
        })?;
        Ok(Self {
            wanted: Some(wanted),
            thread: Some(thread),
        })
    }

    /// A reload: the thread reads the folder anew, by these mappings. (One message for each reload
    /// that changes any; a folder that hangs is the only thing that makes them wait.)
    pub fn reconfigure(&self, folder: Option<PathBuf>, schemas: Vec<SchemaSettings>) {
        if let Some(sender) = &self.wanted {
            // Without its thread the agent is ending.
            let _ = sender.send(Wanted { folder, schemas });
        }
    }
}

fn run(mut registry: Registry, changes: &Receiver<Wanted>) {
    loop {
        let wanted = match registry.has_folder() {
            true => changes.recv_timeout(LOOK_INTERVAL),
            false => changes.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match wanted {
            Ok(Wanted { folder, schemas }) => registry.reconfigure(folder, schemas),
            Err(RecvTimeoutError::Timeout) => registry.look(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.wanted.take());
        // A thread that hangs in a look must not hold up the end; it holds no lock and has no
        // half-written file that a later start would believe.
        if let Some(thread) = self.thread.take().filter(JoinHandle::is_finished) {
            let _ = thread.join();
        }
    }
}
