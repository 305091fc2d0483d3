//! Orders are carried out: listeners come and go while the shard runs.
//!
//! ```text
//!          Name             Listen             Leave
//!  (none) ──────▶ Named ─────────────▶ Yes ─────────────▶ Leaving
//!                                       ▲                    │ drained, cancelled, nothing of it held
//!                                       └────── Listen ─── Left
//! ```
//!
//! `Name` is done when a segment stands whose header has the name: an entry carries the listener's
//! id, and the header says what that means. A `Listen` that comes while the listener is leaving is
//! kept until it has left.

use super::stop::{DRAIN_OPEN_NS, DRAIN_QUIET_NS, Life};
use super::{Held, ListenerPlan, Worker};
use crate::config::settings::Protocol;
use crate::shard::counters::{CloseReason, ListenerCounters};
use crate::shard::op::{Kernel, ListenerId, PeerId};
use crate::shard::orders::{Done, Order, What};

/// Where a listener's life stands.
pub(super) enum Serving {
    /// It is not served yet here, and other shards may hand over its connections.
    Named,
    Yes,
    /// Takes what is queued, and nothing new where the gate or the kernel can refuse it.
    Leaving {
        since_ns: u64,
        done: Done,
        /// What its id serves next.
        successor: Option<(ListenerPlan, Done)>,
    },
    Left,
}

impl Serving {
    /// Whether a connection of it may come from another shard, or from the kernel.
    pub(super) fn admits(&self) -> bool {
        matches!(self, Self::Yes | Self::Named)
    }

    /// Whether its socket may have an accept or a receive in the kernel.
    pub(super) fn receives(&self, protocol: Protocol) -> bool {
        match self {
            Self::Yes => true,
            Self::Leaving { .. } => protocol == Protocol::Udp,
            Self::Named | Self::Left => false,
        }
    }
}

impl<K: Kernel> Worker<K> {
    pub(super) fn take_orders(&mut self) {
        while let Some(Order { what, done }) = self.orders.take() {
            // A stop leaves every listener and every sink by itself.
            if self.life != Life::Running {
                done.set();
                continue;
            }
            match what {
                What::Name { listener, plan } => self.name(listener, plan, done),
                What::Listen { listener, plan } => self.listen(listener, plan, done),
                What::Leave { listener } => self.leave(listener, done),
                What::Feed { remove, add } => {
                    self.intake.journal.change_feed(remove, add);
                    self.feeds_changed.push(done);
                }
                What::Tune(tuning) => {
                    self.stop_ns = super::stop::stop_ns(tuning.stop_timeout);
                    self.intake.journal.tune(tuning);
                    done.set();
                }
            }
        }
        self.advance_listeners();
        let journal = &self.intake.journal;
        self.naming.retain(|(listener, done)| {
            let is_known = journal.knows_listener(*listener);
            if is_known {
                done.set();
            }
            !is_known
        });
        // A removal that is under way was decided without the new sink.
        if !self.feeds_changed.is_empty() && !self.intake.journal.is_removing() {
            self.feeds_changed.drain(..).for_each(|done| done.set());
        }
    }

    fn name(&mut self, id: ListenerId, plan: ListenerPlan, done: Done) {
        assert_eq!(
            usize::from(id.0),
            self.listeners.len(),
            "ids are given out in order"
        );
        self.observer.listen(id, &plan);
        let counters = &mut self.intake.counters.listeners;
        counters.push(ListenerCounters::default());
        self.intake.journal.name_listener(&plan.name);
        let mut listener = super::Listener::new(plan);
        listener.serving = Serving::Named;
        self.listeners.push(listener);
        self.naming.push((id, done));
    }

    fn listen(&mut self, id: ListenerId, plan: ListenerPlan, done: Done) {
        let listener = &mut self.listeners[usize::from(id.0)];
        assert_eq!(listener.plan.name, plan.name, "an id is one name's");
        match &mut listener.serving {
            Serving::Named | Serving::Left => self.serve(id, plan, done),
            Serving::Leaving { successor, .. } => *successor = Some((plan, done)),
            Serving::Yes => panic!("listener {} is served already", id.0),
        }
    }

    fn serve(&mut self, id: ListenerId, plan: ListenerPlan, done: Done) {
        // Its protocol may be another now, and with it its series.
        self.observer.listen(id, &plan);
        self.listeners[usize::from(id.0)] = super::Listener::new(plan);
        done.set();
    }

    fn leave(&mut self, id: ListenerId, done: Done) {
        let listener = &mut self.listeners[usize::from(id.0)];
        match &mut listener.serving {
            Serving::Leaving { successor, .. } => {
                assert!(successor.take().is_some(), "a listener is left once");
                return done.set();
            }
            Serving::Named | Serving::Left => panic!("listener {} is not served", id.0),
            Serving::Yes => {}
        }
        listener.serving = Serving::Leaving {
            since_ns: self.now.monotonic_ns,
            done,
            successor: None,
        };
        let of_it = |peer: &PeerId| self.peers.listener_of(*peer) == Some(id);
        let peers: Vec<PeerId> = self.peers.ids().filter(of_it).collect();
        for peer in peers {
            self.finish(peer, CloseReason::ListenerRemoved);
        }
    }

    /// One step for each listener that is on its way in or out.
    fn advance_listeners(&mut self) {
        let now_ns = self.now.monotonic_ns;
        for index in 0..self.listeners.len() {
            let id = ListenerId(index as u16);
            let listener = &mut self.listeners[index];
            match &listener.serving {
                Serving::Named | Serving::Yes | Serving::Left => continue,
                Serving::Leaving { since_ns, .. } => {
                    let is_held = self.held.iter().any(
                        |held| matches!(held, Held::Bundle { listener, .. } if *listener == id),
                    );
                    let quiet_since = listener.last_bundle_ns.max(*since_ns);
                    let is_dry = match listener.plan.protocol {
                        Protocol::Tcp => true,
                        Protocol::Udp => {
                            let quiet = now_ns.saturating_sub(quiet_since) >= DRAIN_QUIET_NS;
                            let enough = listener.plan.stand_in.is_some()
                                && now_ns.saturating_sub(*since_ns) >= DRAIN_OPEN_NS;
                            // Without a receive in the kernel, quiet means nothing.
                            (quiet && listener.armed) || enough || listener.cancelling
                        }
                    };
                    if !is_dry || is_held {
                        continue;
                    }
                    if listener.armed {
                        self.cancel_listener(id);
                        continue;
                    }
                }
            }
            let left = std::mem::replace(&mut self.listeners[index].serving, Serving::Left);
            if let Serving::Leaving {
                done, successor, ..
            } = left
            {
                done.set();
                if let Some((plan, done)) = successor {
                    self.serve(id, plan, done);
                }
            }
        }
    }

    /// Whether a listener is on its way out: the worker then looks again soon.
    pub(super) fn is_leaving_any(&self) -> bool {
        let leaving = |serving: &Serving| matches!(serving, Serving::Leaving { .. });
        self.listeners
            .iter()
            .any(|listener| leaving(&listener.serving))
    }
}
