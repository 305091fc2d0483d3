//! What regulates intake from outside a shard: how much is kept of each priority, which all shards
//! and the gate share, and whose producers are whose.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use agent_common::keep::Keep;

use crate::gate::KeepHandle;
use crate::shard::tenant::TenantPlan;

/// One shard's words; only it writes them.
#[derive(Debug)]
struct Said {
    keep: AtomicU32,
    pressure: AtomicU32,
}

/// What each shard says that it can bear, and the least of it, which is in force for all: the filter
/// does not know which shard a sender's datagrams will be for.
pub struct Board {
    shards: Box<[Said]>,
    /// What the gate reads, and whose ceiling the configuration sets.
    store: KeepHandle,
}

impl Board {
    pub fn new(shards: u16, store: KeepHandle) -> Self {
        let said = || Said {
            keep: AtomicU32::new(Keep::ALL.0),
            pressure: AtomicU32::new(0),
        };
        Self {
            shards: (0..shards).map(|_| said()).collect(),
            store,
        }
    }

    /// For shards that have no gate.
    pub fn alone(shards: u16) -> Self {
        Self::new(shards, KeepHandle::own())
    }

    #[inline]
    pub fn in_force(&self) -> Keep {
        self.store.in_force()
    }

    /// What is configured.
    #[inline]
    pub fn ceiling(&self) -> Keep {
        self.store.ceiling()
    }

    pub fn tell_pressure(&self, shard: u16, pressure: u32) {
        let said = &self.shards[usize::from(shard)];
        said.pressure.store(pressure, Ordering::Relaxed);
    }

    /// A shard's ratios have changed. Called by several shards at once: each looks again behind its
    /// own write, so that whichever write is the last one was made of what all had said by then.
    pub fn tell_keep(&self, shard: u16, keep: Keep) {
        let said = &self.shards[usize::from(shard)];
        said.keep.store(keep.0, Ordering::SeqCst);
        let mut least = self.least();
        loop {
            self.store.set_pressure(least.sixteenths());
            let again = self.least();
            if again == least {
                return;
            }
            least = again;
        }
    }

    fn least(&self) -> Keep {
        let words = self.shards.iter();
        let all = words.map(|said| Keep(said.keep.load(Ordering::SeqCst)));
        all.fold(Keep::ALL, Keep::min)
    }

    /// By shard, from 0 to `PRESSURE_MAX`.
    pub fn pressures(&self) -> impl Iterator<Item = u32> {
        let words = self.shards.iter();
        words.map(|said| said.pressure.load(Ordering::Relaxed))
    }
}

/// What a shard is given of it.
#[derive(Clone)]
pub struct Regulation {
    pub board: Arc<Board>,
    /// `None`: nobody is limited.
    pub tenants: Option<Arc<TenantPlan>>,
}

impl Regulation {
    /// For shards that have no gate and no tenants.
    pub fn alone(shards: u16) -> Self {
        Self {
            board: Arc::new(Board::alone(shards)),
            tenants: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_all_shards_is_in_force() {
        let board = Board::alone(2);
        assert_eq!(board.in_force(), Keep::ALL);
        board.tell_keep(0, Keep::new([16, 16, 8, 0]));
        board.tell_keep(1, Keep::new([16, 9, 12, 3]));
        assert_eq!(board.in_force(), Keep::new([16, 9, 8, 0]));
        board.tell_keep(0, Keep::ALL);
        assert_eq!(board.in_force(), Keep::new([16, 9, 12, 3]));
        board.tell_pressure(1, 700);
        assert_eq!(board.pressures().collect::<Vec<_>>(), [0, 700]);
    }

    #[test]
    fn whoever_writes_last_has_seen_all() {
        for round in 0..200 {
            let board = Board::alone(4);
            std::thread::scope(|scope| {
                for shard in 0..4 {
                    let board = &board;
                    scope.spawn(move || {
                        for keep in (0..=16).rev() {
                            board.tell_keep(shard, Keep::new([16, 16, 16, keep.max(shard as u8)]));
                        }
                    });
                }
            });
            assert_eq!(
                board.in_force(),
                Keep::new([16, 16, 16, 0]),
                "round {round}"
            );
        }
    }
}
