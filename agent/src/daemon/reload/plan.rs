//! What a reload changes: old and new settings to a list of changes, and the keys that a running agent
//! cannot change. Nothing is done here.

use std::fmt;
use std::path::PathBuf;

use crate::config::settings::{
    AdminSettings, GateSettings, JournalSettings, ListenerSettings, OnFull, SchemaSettings,
    Settings, SinkKind, SinkSettings,
};
use crate::config::{format_size, format_time};
use crate::gate::policy::GatePolicy;
use crate::limits;
use crate::log::LogSettings;
use crate::shard::orders::Tuning;

/// One change, with everything that carrying it out takes.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Bound, guarded and served.
    AddListener(ListenerSettings),
    /// Closed at the gate, run dry, its connections finished.
    RemoveListener(String),
    /// Another address or protocol: as one that is removed and one that is added, the new one first.
    MoveListener {
        from: ListenerSettings,
        to: ListenerSettings,
    },
    /// On the sockets that are open.
    ReceiveBuffer {
        listener: ListenerSettings,
        bytes: u64,
    },
    AddSink(SinkSettings),
    RemoveSink(String),
    /// Its threads end at a commit and begin anew from their cursors.
    ChangeSink {
        to: SinkSettings,
        keys: Vec<&'static str>,
    },
    Gate(Box<GatePolicy>),
    /// Its level. (A successful reload also ends what `penstock log` has set.)
    Log(LogSettings),
    Schemas {
        folder: Option<PathBuf>,
        schemas: Vec<SchemaSettings>,
    },
    MinFree,
    /// Times and bounds of the shards, and the keys of them that changed.
    Tune {
        tuning: Tuning,
        keys: Vec<&'static str>,
    },
}

/// For a person, in one line.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |listener: &ListenerSettings| {
            format!("{}://{}", listener.protocol.scheme(), listener.address)
        };
        match self {
            Self::AddListener(added) => {
                write!(f, "listeners.{}: added, {}", added.name, at(added))
            }
            Self::RemoveListener(name) => write!(f, "listeners.{name}: removed"),
            Self::MoveListener { from, to } => {
                let (name, from, to) = (&to.name, at(from), at(to));
                write!(f, "listeners.{name}: address {from} is now {to}")
            }
            Self::ReceiveBuffer { listener, bytes } => {
                let (name, size) = (&listener.name, format_size(*bytes));
                write!(f, "listeners.{name}: receive_buffer is now {size}")
            }
            Self::AddSink(sink) => write!(f, "sinks.{}: added", sink.name),
            Self::RemoveSink(name) => write!(f, "sinks.{name}: removed"),
            Self::ChangeSink { to, keys } => {
                write!(f, "sinks.{}: {} changed", to.name, keys.join(", "))
            }
            Self::Gate(_) => write!(f, "gate: lists and limits are those of the file"),
            Self::Log(log) => write!(f, "log.level is now {}", log.level),
            Self::Schemas { .. } => write!(f, "schemas: read again"),
            Self::MinFree => write!(f, "journal: min_free changed"),
            Self::Tune { tuning, keys } => {
                let value = |key: &&'static str| match *key {
                    "journal.commit_interval" => format_time(tuning.commit_interval),
                    "journal.sync_interval" => format_time(tuning.sync_interval),
                    "journal.commit_size" => format_size(tuning.commit_size),
                    "stop_timeout" => format_time(tuning.stop_timeout),
                    _ => match tuning.on_full {
                        OnFull::Backpressure => "backpressure".to_owned(),
                        OnFull::DropOldest => "drop_oldest".to_owned(),
                    },
                };
                let all = keys
                    .iter()
                    .map(|key| format!("{key} is now {}", value(key)));
                write!(f, "{}", all.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// The plan of a reload.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub changes: Vec<Change>,
    /// Keys whose new values wait for a restart.
    pub restart: Vec<String>,
    /// What is in force once the changes are made: the new settings, but the old values of `restart`.
    pub settings: Settings,
}

/// Why there is no plan, although the file is right by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    #[error(
        "{sinks} sinks on {shards} shards need {} of memory, and the agent was started with \
         memory_max = {}: raise it and restart",
        format_size(*.needed), format_size(*.memory_max)
    )]
    Memory {
        sinks: usize,
        shards: u16,
        needed: u64,
        memory_max: u64,
    },
}

/// Compares what runs, on `shards` shards, with what is wanted.
///
/// A new key fails to compile here until it has its line: each is either changed or named.
pub fn plan(old: &Settings, new: &Settings, shards: u16) -> Result<Plan, Impossible> {
    let needed = limits::memory_needed(shards, new.sinks.len());
    if new.sinks.len() > old.sinks.len() && needed > old.memory_max {
        return Err(Impossible::Memory {
            sinks: new.sinks.len(),
            shards,
            needed,
            memory_max: old.memory_max,
        });
    }
    let mut restart = Restart::default();
    let Settings {
        data_dir,
        user,
        io,
        log,
        shards: shard_setting,
        stop_timeout,
        memory_max,
        admin,
        journal,
        listeners,
        gate,
        tenants,
        sinks,
        schemas_dir,
        schemas,
    } = new;
    let mut changes = Vec::new();
    if log.level != old.log.level {
        changes.push(Change::Log(log.clone()));
    }
    let GateSettings { mode, policy } = gate;
    if *policy != old.gate.policy {
        changes.push(Change::Gate(Box::new(policy.clone())));
    }
    let listeners = plan_listeners(&old.listeners, listeners, &mut changes, &mut restart);
    plan_sinks(&old.sinks, sinks, &mut changes);
    if (schemas_dir, schemas) != (&old.schemas_dir, &old.schemas) {
        changes.push(Change::Schemas {
            folder: schemas_dir.clone(),
            schemas: schemas.clone(),
        });
    }
    let JournalSettings {
        max_size,
        min_free,
        on_full,
        sync,
        sync_interval,
        commit_interval,
        commit_size,
        producer_expiry,
    } = journal;
    if *min_free != old.journal.min_free {
        changes.push(Change::MinFree);
    }
    let mut tuned = Changed::default();
    tuned.note("stop_timeout", stop_timeout, &old.stop_timeout);
    tuned.note("journal.on_full", on_full, &old.journal.on_full);
    let intervals = (sync_interval, &old.journal.sync_interval);
    tuned.note("journal.sync_interval", intervals.0, intervals.1);
    let intervals = (commit_interval, &old.journal.commit_interval);
    tuned.note("journal.commit_interval", intervals.0, intervals.1);
    tuned.note("journal.commit_size", commit_size, &old.journal.commit_size);
    if !tuned.0.is_empty() {
        changes.push(Change::Tune {
            tuning: Tuning {
                commit_interval: *commit_interval,
                commit_size: *commit_size,
                sync_interval: *sync_interval,
                on_full: *on_full,
                stop_timeout: *stop_timeout,
            },
            keys: tuned.0,
        });
    }
    let AdminSettings { address, socket } = admin;
    let settings = Settings {
        data_dir: restart.keep("data_dir", &old.data_dir, data_dir),
        user: restart.keep("user", &old.user, user),
        io: restart.keep("io", &old.io, io),
        log: LogSettings {
            level: log.level.clone(),
            format: restart.keep("log.format", &old.log.format, &log.format),
        },
        shards: restart.keep("shards", &old.shards, shard_setting),
        stop_timeout: *stop_timeout,
        memory_max: restart.keep("memory_max", &old.memory_max, memory_max),
        admin: AdminSettings {
            address: restart.keep("admin.address", &old.admin.address, address),
            socket: restart.keep("admin.socket", &old.admin.socket, socket),
        },
        journal: JournalSettings {
            max_size: restart.keep("journal.max_size", &old.journal.max_size, max_size),
            min_free: *min_free,
            on_full: *on_full,
            sync: restart.keep("journal.sync", &old.journal.sync, sync),
            sync_interval: *sync_interval,
            commit_interval: *commit_interval,
            commit_size: *commit_size,
            producer_expiry: restart.keep(
                "journal.producer_expiry",
                &old.journal.producer_expiry,
                producer_expiry,
            ),
        },
        listeners,
        gate: GateSettings {
            mode: restart.keep("gate.mode", &old.gate.mode, mode),
            policy: policy.clone(),
        },
        tenants: restart.keep("tenants", &old.tenants, tenants),
        sinks: sinks.clone(),
        schemas_dir: schemas_dir.clone(),
        schemas: schemas.clone(),
    };
    Ok(Plan {
        changes,
        restart: restart.0,
        settings,
    })
}

/// Returns the listeners that are then in force.
fn plan_listeners(
    old: &[ListenerSettings],
    new: &[ListenerSettings],
    changes: &mut Vec<Change>,
    restart: &mut Restart,
) -> Vec<ListenerSettings> {
    for gone in old.iter().filter(|old| find(new, &old.name).is_none()) {
        changes.push(Change::RemoveListener(gone.name.clone()));
    }
    let mut in_force = new.to_vec();
    for (wanted, in_force) in new.iter().zip(&mut in_force) {
        let ListenerSettings {
            name,
            protocol,
            address,
            receive_buffer,
        } = wanted;
        let Some(is) = find(old, name) else {
            changes.push(Change::AddListener(wanted.clone()));
            continue;
        };
        if (*protocol, *address) != (is.protocol, is.address) {
            changes.push(Change::MoveListener {
                from: is.clone(),
                to: wanted.clone(),
            });
        } else if *receive_buffer != is.receive_buffer {
            match receive_buffer {
                Some(bytes) => changes.push(Change::ReceiveBuffer {
                    listener: wanted.clone(),
                    bytes: *bytes,
                }),
                // The kernel has no way back to a size that it chooses by itself.
                None => {
                    restart.0.push(format!("listeners.{name}.receive_buffer"));
                    in_force.receive_buffer = is.receive_buffer;
                }
            }
        }
    }
    in_force
}

fn find<'a>(listeners: &'a [ListenerSettings], name: &str) -> Option<&'a ListenerSettings> {
    listeners.iter().find(|listener| listener.name == name)
}

fn plan_sinks(old: &[SinkSettings], new: &[SinkSettings], changes: &mut Vec<Change>) {
    for gone in old {
        if !new.iter().any(|sink| sink.name == gone.name) {
            changes.push(Change::RemoveSink(gone.name.clone()));
        }
    }
    for wanted in new {
        let Some(is) = old.iter().find(|sink| sink.name == wanted.name) else {
            changes.push(Change::AddSink(wanted.clone()));
            continue;
        };
        let SinkSettings {
            name: _,
            kind,
            to,
            format,
            compression,
            rotate_size,
            rotate_age,
            keep_size,
            keep_age,
            enabled,
        } = wanted;
        let mut keys = Changed::default();
        keys.note("type", kind, &is.kind);
        keys.note("enabled", enabled, &is.enabled);
        match kind {
            SinkKind::Penstock => keys.note("to", to, &is.to),
            SinkKind::File => {
                keys.note("format", format, &is.format);
                keys.note("compression", compression, &is.compression);
                keys.note("rotate.size", rotate_size, &is.rotate_size);
                keys.note("rotate.age", rotate_age, &is.rotate_age);
                keys.note("keep.size", keep_size, &is.keep_size);
                keys.note("keep.age", keep_age, &is.keep_age);
            }
        }
        if !keys.0.is_empty() {
            changes.push(Change::ChangeSink {
                to: wanted.clone(),
                keys: keys.0,
            });
        }
    }
}

/// Keys whose values differ.
#[derive(Default)]
struct Changed(Vec<&'static str>);

impl Changed {
    fn note<T: PartialEq + ?Sized>(&mut self, key: &'static str, new: &T, old: &T) {
        if new != old {
            self.0.push(key);
        }
    }
}

/// Keys that wait for a restart.
#[derive(Default)]
struct Restart(Vec<String>);

impl Restart {
    /// The value that stays in force.
    fn keep<T: PartialEq + Clone>(&mut self, key: &str, old: &T, new: &T) -> T {
        if new != old {
            self.0.push(key.to_owned());
        }
        old.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const BEFORE: &str = r#"
data_dir = "/tmp/penstock-a"
shards = 2
[listeners.apps]
address = "udp://127.0.0.1:4600"
receive_buffer = "1MiB"
[listeners.batch]
address = "tcp://127.0.0.1:4600"
[sinks.files]
type = "file"
rotate = { size = "64MiB", age = "5m" }
"#;

    fn settings(text: &str) -> Settings {
        config::parse("test", text).unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    fn planned(before: &str, after: &str) -> Plan {
        plan(&settings(before), &settings(after), 2).expect("possible")
    }

    fn lines(plan: &Plan) -> Vec<String> {
        plan.changes.iter().map(Change::to_string).collect()
    }

    /// What is written, what that changes, and what it leaves to a restart.
    #[test]
    fn each_key_is_changed_or_waits_for_a_restart() {
        let table: &[(&str, &str, &[&str], &[&str])] = &[
            ("", "", &[], &[]),
            (
                "udp://127.0.0.1:4600",
                "udp://127.0.0.1:4601",
                &["listeners.apps: address udp://127.0.0.1:4600 is now udp://127.0.0.1:4601"],
                &[],
            ),
            (
                "tcp://127.0.0.1:4600",
                "udp://127.0.0.1:4602",
                &["listeners.batch: address tcp://127.0.0.1:4600 is now udp://127.0.0.1:4602"],
                &[],
            ),
            (
                "\"1MiB\"",
                "\"2MiB\"",
                &["listeners.apps: receive_buffer is now 2MiB"],
                &[],
            ),
            (
                "[listeners.batch]",
                "[listeners.bulk]",
                &[
                    "listeners.batch: removed",
                    "listeners.bulk: added, tcp://127.0.0.1:4600",
                ],
                &[],
            ),
            (
                "[sinks.files]",
                "[sinks.more]\ntype = \"file\"\n[sinks.files]",
                &["sinks.more: added"],
                &[],
            ),
            (
                "[sinks.files]",
                "[sinks.other]",
                &["sinks.files: removed", "sinks.other: added"],
                &[],
            ),
            (
                "\"64MiB\"",
                "\"32MiB\"",
                &["sinks.files: rotate.size changed"],
                &[],
            ),
            (
                "[sinks.files]",
                "[sinks.files]\nenabled = false\nformat = \"jsonl\"",
                &["sinks.files: enabled, format changed"],
                &[],
            ),
            ("shards = 2", "shards = 1", &[], &["shards"]),
            ("penstock-a", "penstock-b", &[], &["data_dir"]),
            (
                "\"512MiB\"",
                "\"1GiB\"\nstop_timeout = \"20s\"",
                &["stop_timeout is now 20s"],
                &["memory_max"],
            ),
            (
                "[sinks.files]",
                "[journal]\nmax_size = \"4GiB\"\nmin_free = \"5%\"\nsync = \"interval\"\n\
                 sync_interval = \"2s\"\ncommit_interval = \"7ms\"\non_full = \"drop_oldest\"\n\
                 producer_expiry = \"2h\"\n[sinks.files]",
                &[
                    "journal: min_free changed",
                    "journal.on_full is now drop_oldest, journal.sync_interval is now 2s, \
                     journal.commit_interval is now 7ms",
                ],
                &[
                    "journal.max_size",
                    "journal.sync",
                    "journal.producer_expiry",
                ],
            ),
            (
                "[sinks.files]",
                "[admin]\naddress = \"127.0.0.1:4999\"\nsocket = \"/tmp/x.sock\"\n\
                 [gate]\nmode = \"off\"\n[sinks.files]",
                &[],
                &["admin.address", "admin.socket", "gate.mode"],
            ),
        ];
        for (from, to, changes, restart) in table {
            // Room for one sink more.
            let before = BEFORE.replacen("shards = 2", "shards = 2\nmemory_max = \"512MiB\"", 1);
            let plan = planned(&before, &before.replacen(from, to, 1));
            assert_eq!(lines(&plan), *changes, "{from} to {to}");
            assert_eq!(plan.restart, *restart, "{from} to {to}");
        }
    }

    #[test]
    fn what_waits_for_a_restart_is_named_again_by_the_next_reload() {
        let after = BEFORE.replacen("shards = 2", "shards = 1", 1);
        let first = planned(BEFORE, &after);
        assert_eq!(first.settings, settings(BEFORE), "the old value holds");
        let again = plan(&first.settings, &settings(&after), 2).expect("possible");
        assert_eq!(again.restart, ["shards"]);
        assert_eq!(again.changes, []);
    }

    #[test]
    fn a_receive_buffer_that_is_taken_away_waits_for_a_restart() {
        let before = BEFORE.replacen(
            "\"tcp://127.0.0.1:4600\"",
            "\"tcp://127.0.0.1:4600\"\nreceive_buffer = \"1MiB\"",
            1,
        );
        let plan = planned(&before, BEFORE);
        assert_eq!(plan.restart, ["listeners.batch.receive_buffer"]);
        assert_eq!(plan.changes, []);
        assert_eq!(plan.settings, settings(&before));
    }

    #[test]
    fn sinks_beyond_the_memory_that_the_agent_was_started_with_are_refused() {
        let before = settings(BEFORE);
        let mut after = before.clone();
        after.memory_max = 16 << 30;
        let template = after.sinks[0].clone();
        for number in 0..12 {
            after.sinks.push(SinkSettings {
                name: format!("more-{number}"),
                ..template.clone()
            });
        }
        let refused = plan(&before, &after, 2).expect_err("too much");
        assert!(
            refused.to_string().contains("memory_max = 256MiB"),
            "{refused}"
        );
    }
}
