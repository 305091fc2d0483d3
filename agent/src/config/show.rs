//! Settings to TOML that reads back to the same settings.

mod gate;
mod tenants;

use std::fmt::Write;

use super::key::{self, Key};
use super::settings::{Settings, SinkKind, SyncMode};

/// Every value in force, as a configuration file.
pub fn show(settings: &Settings) -> String {
    let mut out = String::new();
    line(&mut out, &key::DATA_DIR, &settings.data_dir);
    line(&mut out, &key::SHARDS, &settings.shards);
    line(&mut out, &key::IO, &settings.io);
    line(&mut out, &key::MEMORY_MAX, &settings.memory_max);
    if let Some(folder) = &settings.schemas_dir {
        line(&mut out, &key::SCHEMAS_DIR, folder);
    }
    if let Some(user) = &settings.user {
        line(&mut out, &key::USER, user);
    }
    line(&mut out, &key::STOP_TIMEOUT, &settings.stop_timeout);
    out.push_str("\n[log]\n");
    line(&mut out, &key::LOG_LEVEL, &settings.log.level);
    line(&mut out, &key::LOG_FORMAT, &settings.log.format);
    out.push_str("\n[admin]\n");
    line(&mut out, &key::ADMIN_ADDRESS, &settings.admin.address);
    if let Some(path) = &settings.admin.socket {
        line(&mut out, &key::ADMIN_SOCKET, path);
    }
    out.push_str("\n[journal]\n");
    let journal = &settings.journal;
    line(&mut out, &key::JOURNAL_MAX_SIZE, &journal.max_size);
    line(&mut out, &key::JOURNAL_MIN_FREE, &journal.min_free);
    line(&mut out, &key::JOURNAL_ON_FULL, &journal.on_full);
    line(&mut out, &key::JOURNAL_SYNC, &journal.sync);
    if journal.sync == SyncMode::Interval {
        let interval = &journal.sync_interval;
        line(&mut out, &key::JOURNAL_SYNC_INTERVAL, interval);
    }
    line(
        &mut out,
        &key::JOURNAL_COMMIT_INTERVAL,
        &journal.commit_interval,
    );
    line(&mut out, &key::JOURNAL_COMMIT_SIZE, &journal.commit_size);
    let expiry = &journal.producer_expiry;
    line(&mut out, &key::JOURNAL_PRODUCER_EXPIRY, expiry);
    for listener in &settings.listeners {
        put(&mut out, format_args!("\n[listeners.{}]\n", listener.name));
        let address = (listener.protocol, listener.address);
        line(&mut out, &key::LISTENER_ADDRESS, &address);
        if let Some(bytes) = &listener.receive_buffer {
            line(&mut out, &key::LISTENER_RECEIVE_BUFFER, bytes);
        }
    }
    gate::gate(&mut out, &settings.gate);
    tenants::tenants(&mut out, &settings.tenants);
    for sink in &settings.sinks {
        put(&mut out, format_args!("\n[sinks.{}]\n", sink.name));
        line(&mut out, &key::SINK_TYPE, &sink.kind);
        if sink.kind == SinkKind::Penstock {
            line(&mut out, &key::SINK_TO, &sink.to);
            line(&mut out, &key::SINK_ENABLED, &sink.enabled);
            continue;
        }
        line(&mut out, &key::SINK_FORMAT, &sink.format);
        line(&mut out, &key::SINK_COMPRESSION, &sink.compression);
        pair(
            &mut out,
            (&key::SINK_ROTATE_SIZE, &sink.rotate_size),
            (&key::SINK_ROTATE_AGE, &sink.rotate_age),
        );
        pair(
            &mut out,
            (&key::SINK_KEEP_SIZE, &sink.keep_size),
            (&key::SINK_KEEP_AGE, &sink.keep_age),
        );
        line(&mut out, &key::SINK_ENABLED, &sink.enabled);
    }
    for schema in &settings.schemas {
        // A schema's name may have dots and a field's path has: both are quoted.
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        put(
            &mut out,
            format_args!("\n[schemas.{}]\n", quoted(&schema.name)),
        );
        let mapping = &schema.mapping;
        line(&mut out, &key::SCHEMA_UNMAPPED, &mapping.count_unmapped);
        if let Some(id) = &schema.registry_id {
            line(&mut out, &key::SCHEMA_REGISTRY_ID, id);
        }
        let fields = mapping.fields.iter().map(|(path, target)| {
            let target = (key::SCHEMA_FIELD.show)(target);
            format!("{} = {target}", quoted(path))
        });
        let fields: Vec<String> = fields.collect();
        if !fields.is_empty() {
            put(
                &mut out,
                format_args!("fields = {{ {} }}\n", fields.join(", ")),
            );
        }
    }
    out
}

pub use gate::{limit_pairs, newcomers_note};

fn line<T>(out: &mut String, key: &Key<T>, value: &T) {
    let (_, name) = split(key.path);
    put(out, format_args!("{name} = {}\n", (key.show)(value)));
}

/// `rotate = { size = "256MiB", age = "5m" }`
fn pair<A, B>(out: &mut String, a: (&Key<A>, &A), b: (&Key<B>, &B)) {
    let (table, first) = split(a.0.path);
    let (_, second) = split(b.0.path);
    let (_, table) = split(table);
    put(
        out,
        format_args!(
            "{table} = {{ {first} = {}, {second} = {} }}\n",
            (a.0.show)(a.1),
            (b.0.show)(b.1)
        ),
    );
}

fn split(path: &'static str) -> (&'static str, &'static str) {
    path.rsplit_once('.').unwrap_or(("", path))
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text)
        .expect("writing to a String cannot fail");
}
