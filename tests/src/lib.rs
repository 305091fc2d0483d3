//! What the tests share. `sim` is a seeded world without a kernel: a worker under it meets every
//! order of events that its seed can think of. `netns` is a network of its own in a real one.

pub mod agent;
pub mod allocation;
pub mod chroot;
pub mod crash;
pub mod fence;
pub mod gate;
pub mod interop;
pub mod machine;
pub mod mount;
pub mod netns;
pub mod sim;
pub mod veth;
