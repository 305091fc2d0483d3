//! What the disk is told to do wrong.

use std::sync::Arc;
use std::time::Duration;

/// The calls that a fault can be aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Write,
    /// fsync and fdatasync of a file.
    Sync,
    SyncFolder,
    /// Making a file or a folder.
    Make,
    Allocate,
    Rename,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The call fails with this `errno`. A write leaves its first half; a sync leaves pages that
    /// count as clean and are not on the disk.
    Fail(i32),
    /// The call takes so much longer.
    Stall(Duration),
    /// The call says that it succeeded and has done nothing.
    Lie,
}

/// One thing that goes wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    pub call: Call,
    /// Only for what was made under a path that contains this; "" is everything.
    pub within: &'static str,
    /// Calls that still go well.
    pub after: u64,
    /// Calls that go wrong then.
    pub times: u64,
    pub effect: Effect,
}

/// The faults that are armed, and how often they struck.
#[derive(Debug, Default)]
pub struct Faults {
    armed: Vec<Fault>,
    struck: u64,
}

impl Faults {
    pub fn arm(&mut self, fault: Fault) {
        self.armed.push(fault);
    }

    pub fn disarm(&mut self) {
        self.armed.clear();
    }

    pub fn struck(&self) -> u64 {
        self.struck
    }

    /// What is to happen to a call now: the first fault that speaks of it decides.
    pub fn on(&mut self, call: Call, place: &Arc<str>) -> Option<Effect> {
        for fault in &mut self.armed {
            if fault.call != call || fault.times == 0 || !place.contains(fault.within) {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            fault.times -= 1;
            self.struck += 1;
            return Some(fault.effect);
        }
        None
    }
}
