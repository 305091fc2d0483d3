//! What the control thread tells a running shard at a reload: listeners come and go, sinks come and
//! go, times change. The shard carries an order out between two turns and says when it is done.
//!
//! A mailbox has a bound and refuses beyond it: a reload makes at most two orders for each listener
//! and each sink (`limits::SHARD_ORDERS_MAX`), and the next one waits until these are done.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::config::settings::OnFull;
use crate::journal::feed::{FeedSender, SinkMark};
use crate::limits::SHARD_ORDERS_MAX;
use crate::shard::op::ListenerId;
use crate::shard::worker::ListenerPlan;

/// One order, and where the shard says that it is carried out.
pub struct Order {
    pub what: What,
    pub done: Done,
}

pub enum What {
    /// A name that no listener had before: it is the next id's. Done once the journal's entries may
    /// speak of it. All shards must have done so before one of them serves it, as they hand each
    /// other connections.
    Name {
        listener: ListenerId,
        plan: ListenerPlan,
    },
    /// Serve a listener that has its name, and is not served, or is being left.
    Listen {
        listener: ListenerId,
        plan: ListenerPlan,
    },
    /// Take what is queued, finish the connections, serve it no more. Done once the socket is
    /// nothing to the shard; its connections may take longer.
    Leave {
        listener: ListenerId,
    },
    /// Another sink reads the journal, or one does no more, or one begins anew. Done when no segment
    /// goes any more that the new one has not got.
    Feed {
        remove: Option<Arc<SinkMark>>,
        add: Option<FeedSender>,
    },
    Tune(Tuning),
}

/// What of the journal's and the stop's settings can change while a shard runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    pub commit_interval: Duration,
    pub commit_size: u64,
    pub sync_interval: Duration,
    pub on_full: OnFull,
    pub stop_timeout: Duration,
}

/// Whether an order is carried out; one half stays with whoever gave it.
#[derive(Clone, Debug, Default)]
pub struct Done(Arc<AtomicBool>);

impl Done {
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

type Wake = Box<dyn Fn() + Send + Sync>;

/// One shard's orders.
#[derive(Default)]
pub struct Orders {
    waiting: Mutex<VecDeque<Order>>,
    has_any: AtomicBool,
    wake: OnceLock<Wake>,
}

impl Orders {
    pub fn set_wake(&self, wake: Wake) {
        let _ = self.wake.set(wake);
    }

    /// Orders that wait, for whoever is about to give more.
    pub fn room(&self) -> usize {
        SHARD_ORDERS_MAX - self.lock().len()
    }

    /// Gives an order; it must have its place (`room`).
    pub fn give(&self, what: What) -> Done {
        let done = Done::default();
        {
            let mut waiting = self.lock();
            assert!(
                waiting.len() < SHARD_ORDERS_MAX,
                "{} orders wait, the most there may be",
                waiting.len()
            );
            waiting.push_back(Order {
                what,
                done: done.clone(),
            });
            self.has_any.store(true, Ordering::Release);
        }
        if let Some(wake) = self.wake.get() {
            wake();
        }
        done
    }

    /// The next order; where there is none this costs one load.
    pub fn take(&self) -> Option<Order> {
        if !self.has_any.load(Ordering::Acquire) {
            return None;
        }
        let mut waiting = self.lock();
        let order = waiting.pop_front();
        self.has_any.store(!waiting.is_empty(), Ordering::Release);
        order
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Order>> {
        // What it guards is whole between any two calls.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn leave(listener: u16) -> What {
        What::Leave {
            listener: ListenerId(listener),
        }
    }

    #[test]
    fn orders_come_in_their_order_and_wake() {
        let orders = Orders::default();
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        orders.set_wake(Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        assert!(orders.take().is_none());
        let first = orders.give(leave(4));
        orders.give(leave(7));
        assert_eq!(woken.load(Ordering::Relaxed), 2);
        assert_eq!(orders.room(), SHARD_ORDERS_MAX - 2);
        for expected in [4, 7] {
            let order = orders.take().expect("it waits");
            let What::Leave { listener } = order.what else {
                panic!("another order");
            };
            assert_eq!(listener.0, expected);
            order.done.set();
        }
        assert!(orders.take().is_none());
        assert!(first.is_set());
        assert_eq!(orders.room(), SHARD_ORDERS_MAX);
    }
}
