//! The thread that looks at `schemas_dir`: its own, because a folder on a network may hang, and the
//! control thread answers scrapes.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::registry::Registry;
use crate::privilege;

/// A change is in force after two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Ends the thread when it is dropped.
pub struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Looks after the registry until dropped; does nothing where there is no folder.
    pub fn start(registry: Registry) -> io::Result<Self> {
        if !registry.has_folder() {
            return Ok(Self {
                stop: None,
                thread: None,
            });
        }
        let (stop, stopped) = channel();
        let thread = Builder::new().name("schemas".to_owned()).spawn(move || {
            privilege::give_up();
            run(registry, &stopped);
        })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

fn run(mut registry: Registry, stopped: &Receiver<()>) {
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK_INTERVAL) {
        registry.look();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A thread that hangs in a look must not hold up the end; it holds no lock and has no
        // half-written file that a later start would believe.
        if let Some(thread) = self.thread.take().filter(JoinHandle::is_finished) {
            let _ = thread.join();
        }
    }
}
