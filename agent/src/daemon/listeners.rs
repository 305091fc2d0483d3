//! The listeners of this life: a name keeps its id from its first use to the end of the process, as
//! the journal, the gate's maps and the metrics speak of ids. What serves it comes and goes.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use crate::config::settings::ListenerSettings;
use crate::daemon::listen::Bound;
use crate::daemon::systemd::SocketStore;
use crate::gate::{Gate, SocketKey, StandIn};
use crate::limits::LISTENER_NAMES_MAX;
use crate::shard::op::{ListenerId, Socket};
use crate::shard::orders::{Done, Orders, What};
use crate::shard::worker::ListenerPlan;

/// All of them, by id.
#[derive(Default)]
pub struct Listeners {
    all: Vec<Known>,
    leaving: Vec<Leaving>,
}

/// A name, and what serves it now.
pub struct Known {
    /// As configured now, or last.
    pub settings: ListenerSettings,
    /// `None` where a reload has taken it away.
    pub bound: Option<Bound>,
    /// Whether the shards know the name; empty for those of the start.
    named: Vec<Done>,
    /// Whether the shards serve it; `None` before they were told to.
    served: Option<Vec<Done>>,
}

/// Sockets that shards still run dry.
struct Leaving {
    settings: ListenerSettings,
    bound: Bound,
    keys: Vec<SocketKey>,
    left: Vec<Done>,
}

fn all_set(done: &[Done]) -> bool {
    done.iter().all(Done::is_set)
}

/// A listener as shard `shard` sees it.
pub fn listener_plan(
    shard: usize,
    settings: &ListenerSettings,
    bound: &Bound,
    stand_in: Option<&StandIn>,
) -> ListenerPlan {
    ListenerPlan {
        name: settings.name.clone(),
        protocol: settings.protocol,
        socket: Socket(bound.sockets[shard].as_raw_fd()),
        payload_len_max: bound.payload_len_max,
        stand_in: stand_in.cloned(),
    }
}

impl Listeners {
    /// Those of the start, which the shards are given with their plans.
    pub fn at_start(settings: &[ListenerSettings], bound: Vec<Bound>) -> Self {
        let known = |(settings, bound): (&ListenerSettings, Bound)| Known {
            settings: settings.clone(),
            bound: Some(bound),
            named: Vec::new(),
            served: Some(Vec::new()),
        };
        Self {
            all: settings.iter().zip(bound).map(known).collect(),
            leaving: Vec::new(),
        }
    }

    pub fn ids(&self) -> impl Iterator<Item = (ListenerId, &Known)> {
        (0..).map(ListenerId).zip(&self.all)
    }

    /// Those that have sockets.
    pub fn bound(&self) -> impl Iterator<Item = (ListenerId, &ListenerSettings, &Bound)> {
        self.ids()
            .filter_map(|(id, known)| Some((id, &known.settings, known.bound.as_ref()?)))
    }

    /// The id that a name has, or would have; `None` where all are taken.
    pub fn id_for(&self, name: &str, also_new: &[&str]) -> Option<ListenerId> {
        let known = self
            .all
            .iter()
            .position(|known| known.settings.name == name);
        let new = || also_new.iter().position(|other| *other == name);
        let id = known.or_else(|| Some(self.all.len() + new()?));
        let id = id.unwrap_or(self.all.len() + also_new.len());
        (id < LISTENER_NAMES_MAX).then_some(ListenerId(id as u16))
    }

    pub fn is_known(&self, id: ListenerId) -> bool {
        usize::from(id.0) < self.all.len()
    }

    fn get(&mut self, id: ListenerId) -> &mut Known {
        &mut self.all[usize::from(id.0)]
    }

    /// Takes note of settings that change on the open sockets, which are returned.
    pub fn changed(&mut self, settings: &ListenerSettings) -> Option<&Bound> {
        let known = self.all.iter_mut();
        let mut known = known.filter(|known| known.settings.name == settings.name);
        let known = known.next()?;
        known.settings = settings.clone();
        known.bound.as_ref()
    }

    /// Takes a bound listener in; shards are told its name where they do not know it, and to serve it
    /// once all do (`tend`).
    pub fn join(
        &mut self,
        id: ListenerId,
        settings: ListenerSettings,
        bound: Bound,
        stand_in: Option<&StandIn>,
        shards: &[Arc<Orders>],
    ) {
        if !self.is_known(id) {
            let name = |(shard, orders): (usize, &Arc<Orders>)| {
                orders.give(What::Name {
                    listener: id,
                    plan: listener_plan(shard, &settings, &bound, stand_in),
                })
            };
            self.all.push(Known {
                named: shards.iter().enumerate().map(name).collect(),
                settings,
                bound: Some(bound),
                served: None,
            });
            return;
        }
        let known = self.get(id);
        assert!(known.bound.is_none(), "{} has sockets", settings.name);
        known.settings = settings;
        known.bound = Some(bound);
        known.served = None;
    }

    /// Takes a listener's sockets away. In the kernel's gate each datagram is `closing` from here on;
    /// shards take what is queued and say so.
    pub fn leave(&mut self, id: ListenerId, gate: &mut Gate, shards: &[Arc<Orders>]) {
        let known = self.get(id);
        let Some(bound) = known.bound.take() else {
            return;
        };
        let served = known.served.take();
        let settings = known.settings.clone();
        let mut keys = Vec::new();
        for socket in &bound.sockets {
            match SocketKey::of(socket.as_fd()) {
                Ok(key) => keys.push(key),
                Err(error) => tracing::warn!(listener = %settings.name, "SO_COOKIE: {error}"),
            }
        }
        keys.iter().for_each(|&key| gate.close_socket(key));
        // Shards that were not told to serve it have nothing to leave.
        let left = match served {
            None => Vec::new(),
            Some(_) => shards
                .iter()
                .map(|orders| orders.give(What::Leave { listener: id }))
                .collect(),
        };
        self.leaving.push(Leaving {
            settings,
            bound,
            keys,
            left,
        });
    }

    /// Goes on with what waits for the shards. `refresh` reads the gate's counts a last time before
    /// sockets go.
    pub fn tend(
        &mut self,
        gate: &mut Gate,
        store: &mut SocketStore,
        shards: &[Arc<Orders>],
        refresh: impl FnOnce(&Self, &Gate),
    ) {
        for (index, known) in self.all.iter_mut().enumerate() {
            let Some(bound) = known.bound.as_ref() else {
                continue;
            };
            if known.served.is_some() || !all_set(&known.named) {
                continue;
            }
            let listen = |(shard, orders): (usize, &Arc<Orders>)| {
                orders.give(What::Listen {
                    listener: ListenerId(index as u16),
                    plan: listener_plan(shard, &known.settings, bound, gate.stand_in()),
                })
            };
            known.served = Some(shards.iter().enumerate().map(listen).collect());
        }
        if !self.leaving.iter().any(|leaving| all_set(&leaving.left)) {
            return;
        }
        refresh(self, gate);
        self.leaving.retain_mut(|leaving| {
            if !all_set(&leaving.left) {
                return true;
            }
            for shard in 0..leaving.bound.sockets.len() {
                store.forget(&leaving.settings, shard as u16);
            }
            leaving.bound.sockets.clear();
            leaving.keys.iter().for_each(|&key| gate.forget(key));
            let (listener, address) = (&leaving.settings.name, leaving.bound.address);
            tracing::info!(%listener, %address, "no longer listening");
            false
        });
    }

    /// What is not over yet, in words.
    pub fn unfinished(&self) -> Vec<String> {
        let joining = self.all.iter().filter_map(|known| {
            known.bound.as_ref()?;
            let name = &known.settings.name;
            match &known.served {
                Some(done) if all_set(done) => None,
                Some(_) => Some(format!("listeners.{name}: not yet received from")),
                None => Some(format!(
                    "listeners.{name}: waits for a journal segment that names it"
                )),
            }
        });
        let leaving = self.leaving.iter().map(|leaving| {
            let (name, address) = (&leaving.settings.name, leaving.bound.address);
            format!("listeners.{name}: {address} is still run dry")
        });
        joining.chain(leaving).collect()
    }

    /// The shards are gone.
    pub fn close_all(&mut self) {
        self.leaving.clear();
        for known in &mut self.all {
            if let Some(bound) = &mut known.bound {
                bound.sockets.clear();
            }
        }
    }
}
