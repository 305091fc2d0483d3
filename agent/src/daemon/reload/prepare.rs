//! What of a reload can fail, done before anything is changed; and the listeners, whose sockets come
//! of it.

use std::sync::Arc;

use super::plan::{Change, Plan};
use crate::config::settings::ListenerSettings;
use crate::daemon::agent::Agent;
use crate::daemon::listen::{self, Bound};
use crate::daemon::systemd::SocketStore;
use crate::exit::{Exit, Failure};
use crate::gate::{Gate, GateKind};
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
                Some(id) => listen::bind(id, wanted, shards, &mut gate, &mut self.store)
                    .map(|bound| (id, bound)),
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
        Ok(prepared)
    }

    pub(super) fn take_listeners(&self, changes: &[Change], prepared: Prepared) {
        let stand_in = self.shared.gate_kind == GateKind::UserSpace;
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
            listeners.join(id, settings, bound, stand_in, &self.orders);
        }
    }

    pub(super) fn set_receive_buffer(&self, settings: &ListenerSettings, bytes: u64) {
        let mut listeners = self.shared.listeners();
        let Some(bound) = listeners.changed(settings) else {
            return;
        };
        for socket in &bound.sockets {
            if let Err(error) = listen::set_receive_buffer(socket, settings, bytes) {
                let listener = &settings.name;
                tracing::error!(%listener, "receive_buffer stays as it was: {error}");
            }
        }
    }
}
