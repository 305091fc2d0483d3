//! What of a reload can fail, done before anything is changed; and the listeners, whose sockets come
//! of it.

use std::sync::Arc;

use super::plan::{Change, Plan};
use crate::config::settings::ListenerSettings;
use crate::daemon::agent::Agent;
use crate::daemon::listen::{self, Bound};
use crate::daemon::systemd::SocketStore;
use crate::exit::{Exit, Failure};
use crate::gate::Gate;
use crate::limits::{LISTENER_NAMES_MAX, SINK_NAMES_MAX};
use crate::shard::op::ListenerId;

/// Sockets that are bound and guarded, and that no shard knows of yet.
#[derive(Default)]
pub struct Prepared {
    listeners: Vec<(ListenerId, ListenerSettings, Bound)>,
}

impl Prepared {
    /// Closes them: as if they had not been.
    fn undo(self, gate: &mut Gate, store: &mut SocketStore) {
        for (_, settings, bound) in self.listeners {
            for shard in 0..bound.sockets.len() {
                store.forget(&settings, shard as u16);
            }
            listen::close(&settings, bound.sockets, gate);
        }
    }
}

impl Agent {
    pub(super) fn prepare(&mut self, plan: &Plan) -> Result<Prepared, Failure> {
        let shards = self.orders.len() as u16;
        let added = plan.changes.iter().filter_map(|change| match change {
            Change::AddSink(sink) => Some(sink),
            _ => None,
        });
        let added: Vec<_> = added.collect();
        if self.sinks.names_with(&added) > SINK_NAMES_MAX {
            return Err(Failure::new(
                Exit::Unavailable,
                format!(
                    "sinks have had {SINK_NAMES_MAX} names since the agent was started, the most \
                     there may be: restart it"
                ),
            ));
        }
        let shared = Arc::clone(&self.shared);
        let (listeners, mut gate) = (shared.listeners(), shared.gate());
        let mut prepared = Prepared::default();
        let mut new_names: Vec<&str> = Vec::new();
        for change in &plan.changes {
            let wanted = match change {
                Change::AddListener(wanted) | Change::MoveListener { to: wanted, .. } => wanted,
                _ => continue,
            };
            let bound = match listeners.id_for(&wanted.name, &new_names) {
                None => Err(Failure::new(
                    Exit::Unavailable,
                    format!(
                        "listeners have had {LISTENER_NAMES_MAX} names since the agent was \
                         started, the most that a journal segment holds: restart it"
                    ),
                )),
                Some(id) => {
                    let store = &mut self.store;
                    let bind = || listen::bind(id, wanted, shards, &mut gate, store);
                    self.kept.raised(bind).map(|bound| (id, bound))
                }
            };
            match bound {
                Ok((id, bound)) => {
                    if !listeners.is_known(id) {
                        new_names.push(&wanted.name);
                    }
                    prepared.listeners.push((id, wanted.clone(), bound));
                }
                Err(failure) => {
                    prepared.undo(&mut gate, &mut self.store);
                    return Err(failure);
                }
            }
        }
        drop((listeners, gate));
        for change in &plan.changes {
            // Whole or not at all, and the last that can fail.
            if let Change::Gate(policy) = change
                && let Err(error) = self.configure_gate(policy)
            {
                prepared.undo(&mut shared.gate(), &mut self.store);
                let why = format!("the gate: {error}");
                return Err(Failure::new(Exit::Unavailable, why));
            }
        }
        Ok(prepared)
    }

    pub(super) fn take_listeners(&self, changes: &[Change], prepared: Prepared) {
        let mut listeners = self.shared.listeners();
        let mut gate = self.shared.gate();
        for change in changes {
            let name = match change {
                Change::RemoveListener(name) => name,
                Change::MoveListener { from, .. } => &from.name,
                _ => continue,
            };
            let id = listeners.id_for(name, &[]);
            let id = id.filter(|&id| listeners.is_known(id));
            listeners.leave(id.expect("it is in force"), &mut gate, &self.orders);
        }
        for (id, settings, bound) in prepared.listeners {
            tracing::info!(listener = %settings.name, address = %bound.address, "listening");
            self.shared.show_listener(id, &settings);
            // Not before: until here it was the old sockets' number.
            listen::steer(id, &settings, &bound, &mut gate);
            listeners.join(id, settings, bound, gate.stand_in(), &self.orders);
        }
    }

    pub(super) fn set_receive_buffer(&self, settings: &ListenerSettings, bytes: u64) {
        let mut listeners = self.shared.listeners();
        let Some(bound) = listeners.changed(settings) else {
            return;
        };
        for socket in &bound.sockets {
            let set = || listen::set_receive_buffer(socket, settings, bytes);
            if let Err(error) = self.kept.raised(set) {
                let listener = &settings.name;
                tracing::error!(%listener, "receive_buffer stays as it was: {error}");
            }
        }
    }
}
