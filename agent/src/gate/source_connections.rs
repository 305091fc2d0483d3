//! How many connections each source has open, over all shards (`gate.connections_per_source`).
//!
//! Counted whether there is a limit or not, so that one that is set while the agent runs holds for
//! what is open already. One lock, taken when a connection is accepted and when it is closed; a
//! connection has a slot of its shard or a place in a mailbox, which bounds the table.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::policy::{GatePolicy, Prefix};

/// All shards'.
#[derive(Debug)]
pub struct SourceConnections {
    /// `u32::MAX` where there is no limit.
    max: AtomicU32,
    prefix_v4: AtomicU8,
    prefix_v6: AtomicU8,
    open: Mutex<HashMap<Prefix, u32>>,
}

impl Default for SourceConnections {
    fn default() -> Self {
        let policy = GatePolicy::default();
        Self {
            max: AtomicU32::new(u32::MAX),
            prefix_v4: AtomicU8::new(policy.source_prefix_v4),
            prefix_v6: AtomicU8::new(policy.source_prefix_v6),
            open: Mutex::default(),
        }
    }
}

impl SourceConnections {
    /// From the next connection on. What is open stays, and is counted under the source that it had.
    pub fn apply(&self, policy: &GatePolicy) {
        let max = policy.connections_max.unwrap_or(u32::MAX);
        self.prefix_v4
            .store(policy.source_prefix_v4, Ordering::Relaxed);
        self.prefix_v6
            .store(policy.source_prefix_v6, Ordering::Relaxed);
        self.max.store(max, Ordering::Relaxed);
    }

    /// A place for one more connection of this source, until it is dropped; `None` where it has as
    /// many as it may.
    pub fn open(self: &Arc<Self>, from: SocketAddr) -> Option<SourcePlace> {
        let address = from.ip().to_canonical();
        let len = match address.is_ipv4() {
            true => self.prefix_v4.load(Ordering::Relaxed),
            false => self.prefix_v6.load(Ordering::Relaxed),
        };
        let source = Prefix::of(address, len);
        let mut open = self.table();
        let count = open.entry(source).or_default();
        if *count >= self.max.load(Ordering::Relaxed) {
            return None;
        }
        *count += 1;
        Some(SourcePlace {
            all: Arc::clone(self),
            source,
        })
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Prefix, u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place in its source's count; it goes where the connection goes.
#[derive(Debug)]
pub struct SourcePlace {
    all: Arc<SourceConnections>,
    source: Prefix,
}

impl PartialEq for SourcePlace {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.all, &other.all) && self.source == other.source
    }
}

impl Eq for SourcePlace {}

impl Drop for SourcePlace {
    fn drop(&mut self) {
        let mut open = self.all.table();
        let count = open.get_mut(&self.source).expect("a place is counted");
        *count -= 1;
        if *count == 0 {
            open.remove(&self.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn at_most(max: Option<u32>) -> Arc<SourceConnections> {
        let all = Arc::new(SourceConnections::default());
        all.apply(&GatePolicy {
            connections_max: max,
            ..GatePolicy::default()
        });
        all
    }

    #[test]
    fn a_source_has_its_places_and_no_more() {
        let all = at_most(Some(2));
        let first = all.open(address("192.0.2.1:1")).expect("the first");
        let _second = all.open(address("192.0.2.1:2")).expect("the second");
        assert_eq!(all.open(address("192.0.2.1:3")), None);
        // As an IPv6 socket shows the same address.
        assert_eq!(all.open(address("[::ffff:192.0.2.1]:4")), None);
        let _other = all.open(address("192.0.2.2:1")).expect("another source");
        drop(first);
        let _third = all.open(address("192.0.2.1:5")).expect("one has gone");
    }

    #[test]
    fn a_source_is_a_64_of_ipv6() {
        let all = at_most(Some(1));
        let _first = all.open(address("[2001:db8::1]:1")).expect("the first");
        assert_eq!(all.open(address("[2001:db8::ffff]:1")), None);
        let _other = all
            .open(address("[2001:db8:0:1::1]:1"))
            .expect("another /64");
    }

    /// What is open when a limit comes counts.
    #[test]
    fn a_limit_that_comes_later_counts_what_is_open() {
        let all = at_most(None);
        let places: Vec<_> = (1..=3)
            .map(|port| all.open(([192, 0, 2, 1], port).into()))
            .collect();
        assert!(places.iter().all(Option::is_some));
        all.apply(&GatePolicy {
            connections_max: Some(3),
            ..GatePolicy::default()
        });
        assert_eq!(all.open(address("192.0.2.1:9")), None);
        drop(places);
        assert!(all.table().is_empty(), "nothing stays behind");
    }
}
