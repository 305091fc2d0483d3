//! What the tests share. `sim` is a seeded world without a kernel: a worker under it meets every
//! order of events that its seed can think of.

pub mod sim;
