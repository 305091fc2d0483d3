//! Reloads of a running agent: listeners are left and served again while frames fly, and names come,
//! each of which asks the journal for a segment of its own.
//!
//! The sockets stay: what arrives while nobody serves a listener waits in its queue. So the sums are
//! those of a run without reloads, and a producer sees connections that end in good order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use penstock::config::settings::Protocol;
use penstock::gate::StandIn;
use penstock::shard::op::{ListenerId, Socket};
use penstock::shard::orders::{Done, What};
use penstock::shard::worker::ListenerPlan;

use super::life::Life;
use super::rng::Rng;
use super::setup::{TCP, UDP};

/// More would fill the segments' headers.
const NAMES_MAX: u16 = 40;
/// Turns between two reloads.
const PAUSE_TURNS: std::ops::RangeInclusive<u64> = 20..=400;

/// Where the reloads of one life stand.
pub struct Reloads {
    rng: Rng,
    next_turn: u64,
    step: Step,
    names: u16,
    /// No more of them.
    ending: bool,
    /// Reloads that are over, of each kind.
    pub left: u64,
    pub named: u64,
}

enum Step {
    Idle,
    Leaving { listener: u16, left: Vec<Done> },
    Serving { served: Vec<Done> },
    Naming { named: Vec<Done> },
}

fn all_set(done: &[Done]) -> bool {
    done.iter().all(Done::is_set)
}

impl Reloads {
    pub fn new(mut rng: Rng) -> Self {
        Self {
            next_turn: rng.between(PAUSE_TURNS),
            rng,
            step: Step::Idle,
            names: 0,
            ending: false,
            left: 0,
            named: 0,
        }
    }

    fn is_idle(&self) -> bool {
        matches!(self.step, Step::Idle)
    }
}

impl Life {
    /// One step of the reload under way, or now and then the first of another.
    pub(super) fn advance_reload(&mut self) {
        let Some(mut reloads) = self.reloads.take() else {
            return;
        };
        reloads.step = match std::mem::replace(&mut reloads.step, Step::Idle) {
            Step::Idle if reloads.ending || self.turns < reloads.next_turn => Step::Idle,
            Step::Idle => {
                reloads.next_turn = self.turns + reloads.rng.between(PAUSE_TURNS);
                if reloads.names < NAMES_MAX && reloads.rng.chance(400) {
                    reloads.names += 1;
                    let listener = UDP + reloads.names;
                    let plan =
                        self.listener_plan(&format!("more-{listener}"), Protocol::Tcp, listener);
                    Step::Naming {
                        named: self.order(|| What::Name {
                            listener: ListenerId(listener),
                            plan: plan.clone(),
                        }),
                    }
                } else {
                    let listener = reloads.rng.pick(&[TCP, UDP]);
                    Step::Leaving {
                        listener,
                        left: self.order(|| What::Leave {
                            listener: ListenerId(listener),
                        }),
                    }
                }
            }
            Step::Naming { named } if all_set(&named) => {
                reloads.named += 1;
                Step::Idle
            }
            Step::Leaving { listener, left } if all_set(&left) => {
                reloads.left += 1;
                let plan = match listener {
                    TCP => self.listener_plan("tcp", Protocol::Tcp, TCP),
                    _ => self.listener_plan("udp", Protocol::Udp, UDP),
                };
                Step::Serving {
                    served: self.order(|| What::Listen {
                        listener: ListenerId(listener),
                        plan: plan.clone(),
                    }),
                }
            }
            Step::Serving { served } if all_set(&served) => Step::Idle,
            waits => waits,
        };
        self.reloads = Some(reloads);
    }

    /// Nothing is under way any more, and nothing new is begun.
    pub(super) fn end_reloads(&mut self) {
        let Some(reloads) = &mut self.reloads else {
            return;
        };
        reloads.ending = true;
        self.until("the last reload is over", |life| {
            life.reloads.as_ref().is_none_or(Reloads::is_idle)
        });
    }

    fn order(&self, what: impl Fn() -> What) -> Vec<Done> {
        let give = |shard: &super::life::Shard| {
            shard.woken.store(true, Ordering::Relaxed);
            shard.orders.give(what())
        };
        self.shards.iter().map(give).collect()
    }

    /// A listener's sockets have the same number in every port.
    pub(super) fn listener_plan(
        &self,
        name: &str,
        protocol: Protocol,
        listener: u16,
    ) -> ListenerPlan {
        ListenerPlan {
            name: name.to_owned(),
            protocol,
            socket: Socket(100 + i32::from(listener)),
            payload_len_max: super::frame::PAYLOAD_LEN_MAX,
            stand_in: (protocol == Protocol::Udp && self.setup().stand_in).then(StandIn::new),
        }
    }
}

/// A shard's orders, as its worker has them.
pub type SharedOrders = Arc<penstock::shard::orders::Orders>;
