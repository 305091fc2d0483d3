//! A gate in the kernel, in a network namespace of its own.

use penstock::config::settings::GateMode;
use penstock::gate::{Gate, object};

use crate::netns;

/// Runs `body` in a network namespace of its own, as root and with an eBPF object, or skips.
pub fn privileged_or_skip(test: &'static str, body: impl FnOnce() + Send + 'static) {
    if object::OBJECT.is_none() {
        let why = "this build holds no eBPF object (cargo xtask build-ebpf)";
        return netns::skip(test, why);
    }
    if netns::privileged_or_skip(test) {
        netns::run(body).expect("a network namespace");
    }
}

/// The same with a gate. What it misses is in no count, so it may miss nothing.
pub fn with_gate_or_skip(test: &'static str, body: impl FnOnce(&mut Gate) + Send + 'static) {
    privileged_or_skip(test, || {
        let mut gate = Gate::open(GateMode::Required).expect("the gate loads");
        body(&mut gate);
        assert_eq!(gate.missed_events(), 0, "events are missing in the counts");
    });
}
