//! The tree to settings: unknown keys, values, and how the values relate. Every mistake is found,
//! not only the first.

mod gate;
mod schemas;
mod tenants;

use std::collections::HashSet;
use std::net::SocketAddr;

use super::document::{Document, Entry, Leaf, Place, Value, join};
use super::key::{self, Key, nearest};
use super::mistake::Mistakes;
use super::settings::{
    AdminSettings, Compression, FileFormat, GateSettings, JournalSettings, ListenerSettings,
    Protocol, Settings, Shards, SinkKind, SinkSettings, SyncMode,
};
use super::unit::{about_size, format_size};
use crate::limits::{
    self, LISTENERS_MAX, NAME_LEN_MAX, SEGMENT_LEN_MIN, SHARD_MEMORY, SHARD_SEGMENTS_MIN,
    SINK_SHARD_MEMORY, SINKS_MAX,
};
use crate::log::LogSettings;

pub(crate) use schemas::is_schema_name;

const BUILTIN_LISTENERS: [(&str, Protocol); 2] = [("udp", Protocol::Udp), ("tcp", Protocol::Tcp)];
const BUILTIN_LISTENER_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4600);
const BUILTIN_SINK: &str = "files";

/// The settings that a document stands for.
pub fn settings(document: Document) -> Result<Settings, Mistakes> {
    let mut reader = Reader {
        document,
        wrong: HashSet::new(),
    };
    reader.structure();
    let settings = reader.read();
    reader.relations(&settings);
    let mistakes = reader.document.into_mistakes();
    if mistakes.is_empty() {
        Ok(settings)
    } else {
        Err(Mistakes(mistakes))
    }
}

/// Where the control socket is, whatever else is wrong.
pub fn admin_socket(document: Document) -> Option<std::path::PathBuf> {
    let mut reader = Reader {
        document,
        wrong: HashSet::new(),
    };
    if !reader.document.mistakes.is_empty() {
        return None;
    }
    reader.structure();
    let settings = reader.read();
    let is_said = !["data_dir", "admin", "admin.socket"]
        .iter()
        .any(|key| reader.wrong.contains(*key));
    is_said.then(|| settings.admin_socket())
}

struct Reader {
    document: Document,
    /// Paths whose value was refused: what would follow from them is not reported again.
    wrong: HashSet<String>,
}

impl Reader {
    /// Every key is known and stands where it belongs; every name is one.
    fn structure(&mut self) {
        let entries = std::mem::take(&mut self.document.entries);
        let mut found = Vec::new();
        check_table(&entries, "", "", &mut found);
        self.document.entries = entries;
        for fault in found {
            self.wrong.insert(fault.path);
            self.document
                .mistake(&fault.place, fault.message, fault.help, None);
        }
    }

    /// Every value; where one is wrong or missing the default stands in, so that the rest can
    /// still be looked at.
    fn read(&mut self) -> Settings {
        Settings {
            data_dir: self.value(&key::DATA_DIR, ""),
            shards: self.value(&key::SHARDS, ""),
            io: self.value(&key::IO, ""),
            user: self.given(&key::USER, ""),
            stop_timeout: self.value(&key::STOP_TIMEOUT, ""),
            memory_max: self.value(&key::MEMORY_MAX, ""),
            log: LogSettings {
                level: self.value(&key::LOG_LEVEL, ""),
                format: self.value(&key::LOG_FORMAT, ""),
            },
            admin: AdminSettings {
                address: self.value(&key::ADMIN_ADDRESS, ""),
                socket: self.given(&key::ADMIN_SOCKET, ""),
            },
            journal: JournalSettings {
                max_size: self.value(&key::JOURNAL_MAX_SIZE, ""),
                min_free: self.value(&key::JOURNAL_MIN_FREE, ""),
                on_full: self.value(&key::JOURNAL_ON_FULL, ""),
                sync: self.value(&key::JOURNAL_SYNC, ""),
                sync_interval: self.value(&key::JOURNAL_SYNC_INTERVAL, ""),
                commit_interval: self.value(&key::JOURNAL_COMMIT_INTERVAL, ""),
                commit_size: self.value(&key::JOURNAL_COMMIT_SIZE, ""),
                producer_expiry: self.value(&key::JOURNAL_PRODUCER_EXPIRY, ""),
            },
            gate: GateSettings {
                mode: self.value(&key::GATE_MODE, ""),
                policy: self.gate_policy(),
            },
            listeners: self.listeners(),
            tenants: self.tenants(),
            sinks: self.sinks(),
            schemas_dir: self.given(&key::SCHEMAS_DIR, ""),
            schemas: self.schemas(),
        }
    }

    fn listeners(&mut self) -> Vec<ListenerSettings> {
        let Some(names) = self.names("listeners", "listener", LISTENERS_MAX) else {
            return BUILTIN_LISTENERS
                .map(|(name, protocol)| ListenerSettings {
                    name: name.to_owned(),
                    protocol,
                    address: BUILTIN_LISTENER_ADDRESS,
                    receive_buffer: receive_buffer(protocol, None),
                })
                .into();
        };
        let mut listeners = Vec::new();
        for name in names {
            let given = self.given(&key::LISTENER_RECEIVE_BUFFER, &name);
            let example = "\"udp://0.0.0.0:4600\"";
            let Some((protocol, address)) = self.required(&key::LISTENER_ADDRESS, &name, example)
            else {
                continue;
            };
            listeners.push(ListenerSettings {
                receive_buffer: receive_buffer(protocol, given),
                name,
                protocol,
                address,
            });
        }
        listeners
    }

    fn sinks(&mut self) -> Vec<SinkSettings> {
        let Some(names) = self.names("sinks", "sink", SINKS_MAX) else {
            return vec![self.sink(BUILTIN_SINK, SinkKind::File)];
        };
        names
            .iter()
            .map(|name| {
                let kind = self.required(&key::SINK_TYPE, name, "\"file\"");
                self.sink(name, kind.unwrap_or(SinkKind::File))
            })
            .collect()
    }

    fn sink(&mut self, name: &str, kind: SinkKind) -> SinkSettings {
        let to = self.forward_targets(name, kind);
        let format: FileFormat = self.value(&key::SINK_FORMAT, name);
        SinkSettings {
            name: name.to_owned(),
            kind,
            to,
            format,
            compression: self.value(&key::SINK_COMPRESSION, name),
            rotate_size: self.value(&key::SINK_ROTATE_SIZE, name),
            rotate_age: self.value(&key::SINK_ROTATE_AGE, name),
            keep_size: self.value(&key::SINK_KEEP_SIZE, name),
            keep_age: self.value(&key::SINK_KEEP_AGE, name),
            enabled: self.value(&key::SINK_ENABLED, name),
        }
    }

    /// `to`, and no key of the other kind of sink.
    fn forward_targets(&mut self, name: &str, kind: SinkKind) -> Vec<String> {
        let (own, others) = match kind {
            SinkKind::File => ("file", &[key::SINK_TO.path][..]),
            SinkKind::Penstock => ("penstock", &key::FILE_SINK_ONLY[..]),
        };
        for path in others.iter().map(|path| path.replace('*', name)) {
            let Some((_, place)) = self.document.leaf(&path) else {
                continue;
            };
            let place = place.clone();
            let help = match kind {
                SinkKind::File => "remove it, or make it type = \"penstock\"",
                SinkKind::Penstock => {
                    "remove it: frames are forwarded as they came, and stored where they arrive"
                }
            };
            let message = format!("{path} is no key of a sink of type \"{own}\"");
            self.document
                .mistake(&place, message, help.to_owned(), None);
            self.wrong.insert(path);
        }
        match kind {
            SinkKind::File => Vec::new(),
            SinkKind::Penstock => self
                .required(&key::SINK_TO, name, "[\"tcp://logs.example:4600\"]")
                .unwrap_or_default(),
        }
    }

    /// The names of a table's tables, in the file's order; `None` where the table is not given.
    fn names(&mut self, table: &str, what: &str, count_max: usize) -> Option<Vec<String>> {
        let (entries, place) = self.document.table(table)?;
        let place = place.clone();
        let names: Vec<String> = entries
            .iter()
            .filter(|entry| matches!(entry.value, Value::Table(_)))
            .map(|entry| entry.key.clone())
            .collect();
        let is_empty = entries.is_empty();
        if is_empty {
            self.document.mistake(
                &place,
                format!("{table} is empty: there is no {what}"),
                format!("add a table such as [{table}.NAME], or remove this one for the built-in"),
                None,
            );
        }
        if names.len() > count_max {
            self.document.mistake(
                &place,
                format!("{} {what}s, where at most {count_max} may be", names.len()),
                format!("remove {}", names.len() - count_max),
                None,
            );
        }
        Some(names)
    }

    /// The value that is given, or the key's default.
    fn value<T>(&mut self, key: &Key<T>, name: &str) -> T {
        self.given(key, name)
            .or_else(|| key.default_value())
            .unwrap_or_else(|| panic!("{} has no default", key.path))
    }

    fn required<T>(&mut self, key: &Key<T>, name: &str, example: &str) -> Option<T> {
        let path = key.path_of(name);
        let value = self.given(key, name);
        if value.is_none() && !self.wrong.contains(&path) && !self.document.is_broken() {
            let (table, last) = path.rsplit_once('.').unwrap_or(("", &path));
            if let Some(place) = self.document.table(table).map(|(_, place)| place.clone()) {
                self.document.mistake(
                    &place,
                    format!("{table} has no {last}"),
                    format!("add {last} = {example}"),
                    None,
                );
            }
        }
        value
    }

    /// The value that is given, if it is right.
    fn given<T>(&mut self, key: &Key<T>, name: &str) -> Option<T> {
        let path = key.path_of(name);
        let (leaf, place) = self.document.leaf(&path)?;
        let (leaf, place): (Leaf, Place) = (leaf.clone(), place.clone());
        match (key.parse)(&leaf) {
            Ok(value) => Some(value),
            Err(wrong) => {
                let message = format!("{path}: {}", wrong.message);
                self.document.mistake(&place, message, wrong.help, None);
                self.wrong.insert(path);
                None
            }
        }
    }

    /// What no value shows by itself.
    fn relations(&mut self, settings: &Settings) {
        // In a broken file a default may stand for a value that was given.
        if self.document.is_broken() {
            return;
        }
        self.addresses(settings);
        let interval = key::JOURNAL_SYNC_INTERVAL.path;
        if settings.journal.sync != SyncMode::Interval && self.document.leaf(interval).is_some() {
            self.contradiction(
                &[interval, key::JOURNAL_SYNC.path],
                format!("{interval} has no meaning where journal.sync is not \"interval\""),
                "write sync = \"interval\", or leave it out".into(),
            );
        }
        self.capacity(settings);
        self.schema_relations(settings);
        self.tenant_relations(settings);
        for sink in settings
            .sinks
            .iter()
            .filter(|sink| sink.kind == SinkKind::File)
        {
            if sink.compression == Compression::Snappy && sink.format != FileFormat::Avro {
                let compression = key::SINK_COMPRESSION.path_of(&sink.name);
                let format = key::SINK_FORMAT.path_of(&sink.name);
                self.contradiction(
                    &[&compression, &format],
                    format!("{compression} is \"snappy\", which only format \"avro\" can frame"),
                    "write compression = \"zstd\" or \"none\", or format = \"avro\"".into(),
                );
            }
            let keep = key::SINK_KEEP_SIZE.path_of(&sink.name);
            let rotate = key::SINK_ROTATE_SIZE.path_of(&sink.name);
            if sink.keep_size < sink.rotate_size {
                self.contradiction(
                    &[&keep, &rotate],
                    format!(
                        "{keep} is {}, less than one file of {} (rotate.size)",
                        format_size(sink.keep_size),
                        format_size(sink.rotate_size)
                    ),
                    "keep at least what one file may hold, better ten times that".into(),
                );
            }
        }
    }

    /// No two sockets on one address; port 0 is a new port each time.
    fn addresses(&mut self, settings: &Settings) {
        let mut taken: Vec<(Protocol, SocketAddr, String)> = vec![(
            Protocol::Tcp,
            settings.admin.address,
            key::ADMIN_ADDRESS.path.to_owned(),
        )];
        for listener in &settings.listeners {
            let path = key::LISTENER_ADDRESS.path_of(&listener.name);
            let same = taken.iter().find(|(protocol, address, _)| {
                *protocol == listener.protocol
                    && *address == listener.address
                    && address.port() != 0
            });
            if let Some((_, _, other)) = same {
                let message = format!(
                    "{path} is {}://{}, which {other} already has",
                    listener.protocol.scheme(),
                    listener.address
                );
                let help = "give each its own address or port".to_owned();
                self.contradiction(&[&path, &other.clone()], message, help);
            }
            taken.push((listener.protocol, listener.address, path));
        }
    }

    /// The pools and the segments fit what they are given.
    fn capacity(&mut self, settings: &Settings) {
        let shards = match settings.shards {
            Shards::Count(count) => count,
            // `auto` takes as many as fit: one must.
            Shards::Auto => 1,
        };
        let plural = if shards == 1 { "shard" } else { "shards" };
        let sinks = settings.sinks.len();
        let needed = limits::memory_needed(shards, sinks);
        if needed > settings.memory_max {
            self.contradiction(
                &[key::MEMORY_MAX.path, key::SHARDS.path],
                format!(
                    "memory_max is {}, but {shards} {plural} and {sinks} sinks need {}",
                    format_size(settings.memory_max),
                    about_size(needed)
                ),
                format!(
                    "a shard takes {}, and {} more for each sink, the rest of the agent {}: \
                     raise memory_max or lower shards",
                    about_size(SHARD_MEMORY),
                    about_size(SINK_SHARD_MEMORY),
                    about_size(limits::PROCESS_MEMORY),
                ),
            );
        }
        let needed = limits::journal_needed(shards);
        if needed > settings.journal.max_size {
            self.contradiction(
                &[key::JOURNAL_MAX_SIZE.path, key::SHARDS.path],
                format!(
                    "journal.max_size is {}, but {shards} {plural} need {}",
                    format_size(settings.journal.max_size),
                    format_size(needed)
                ),
                format!(
                    "a shard needs {SHARD_SEGMENTS_MIN} segments of at least {}: \
                     raise journal.max_size or lower shards",
                    format_size(SEGMENT_LEN_MIN)
                ),
            );
        }
    }

    /// A mistake at the first of the paths that is given; the next one given is the other place.
    fn contradiction(&mut self, paths: &[&str], message: String, help: String) {
        if paths.iter().any(|path| self.wrong.contains(*path)) {
            return;
        }
        let mut places = paths
            .iter()
            .filter_map(|path| self.document.leaf(path))
            .map(|(_, place)| place.clone());
        let place = places.next().unwrap_or_else(|| {
            panic!("defaults contradict each other: {message}");
        });
        let other = places.next();
        self.document.mistake(&place, message, help, other.as_ref());
    }
}

/// SO_RCVBUF: UDP has nothing but this buffer while the agent is busy; TCP's own tuning is better
/// than a fixed size.
fn receive_buffer(protocol: Protocol, given: Option<u64>) -> Option<u64> {
    match protocol {
        Protocol::Udp => Some(given.unwrap_or(key::UDP_RECEIVE_BUFFER)),
        Protocol::Tcp => given,
    }
}

struct Fault {
    path: String,
    place: Place,
    message: String,
    help: String,
}

/// Checks a table's keys against the known ones; `pattern` is the table's path with `*` for names.
fn check_table(entries: &[Entry], path: &str, pattern: &str, found: &mut Vec<Fault>) {
    let next = next_segments(pattern);
    for entry in entries {
        let path = join(path, &entry.key);
        let mut fault = |message: String, help: String| {
            found.push(Fault {
                path: path.clone(),
                place: entry.place.clone(),
                message,
                help,
            });
        };
        if next == ["*"] && key::KNOWN.contains(&join(pattern, "*").as_str()) {
            // Names and values that are the user's own: looked at where they are read.
            continue;
        }
        if next == ["*"] {
            if pattern == "schemas" {
                if !schemas::is_schema_name(&entry.key) {
                    fault(
                        format!("\"{}\" is no schema file's name", entry.key),
                        schemas::NAME_HELP.to_owned(),
                    );
                }
            } else if pattern == "gate.limits" {
                if let Err(wrong) = key::parse_prefix(&entry.key) {
                    fault(format!("gate.limits: {}", wrong.message), wrong.help);
                }
            } else if !is_name(&entry.key) {
                fault(
                    format!("\"{}\" is no name", entry.key),
                    format!(
                        "a name begins with a to z, goes on with a to z, 0 to 9, _ and -, and has \
                         at most {NAME_LEN_MAX} characters"
                    ),
                );
            }
            match &entry.value {
                Value::Table(inner) => check_table(inner, &path, &join(pattern, "*"), found),
                Value::Leaf(..) => fault(
                    format!("{path} is a value, where a table is wanted"),
                    format!("write [{path}] and its keys below"),
                ),
            }
            continue;
        }
        let key_pattern = join(pattern, &entry.key);
        if key::LATER.contains(&key_pattern.as_str()) {
            fault(
                format!("{path} is not in this version"),
                format!("remove it; this is penstock {}", env!("CARGO_PKG_VERSION")),
            );
        } else if key::KNOWN.contains(&key_pattern.as_str()) {
            if matches!(entry.value, Value::Table(_)) {
                fault(
                    format!("{path} is a table, where a value is wanted"),
                    format!(
                        "write {} = \"...\"; penstock config example has it",
                        entry.key
                    ),
                );
            }
        } else if next.contains(&entry.key.as_str()) {
            match &entry.value {
                Value::Table(inner) => check_table(inner, &path, &key_pattern, found),
                Value::Leaf(..) => fault(
                    format!("{path} is a value, where a table is wanted"),
                    format!("write [{path}] and its keys below"),
                ),
            }
        } else {
            fault(
                format!("{} is no key here", entry.key),
                unknown_help(&entry.key, pattern, &next),
            );
        }
    }
}

/// The segments that may follow a pattern, in the table's order.
fn next_segments(pattern: &str) -> Vec<&'static str> {
    let mut next: Vec<&str> = Vec::new();
    for path in key::KNOWN {
        let rest = match pattern {
            "" => Some(*path),
            _ => path.strip_prefix(pattern).and_then(|r| r.strip_prefix('.')),
        };
        let segment = rest.and_then(|rest| rest.split('.').next());
        if let Some(segment) = segment
            && !next.contains(&segment)
        {
            next.push(segment);
        }
    }
    next
}

/// The nearest key of this table, else the same key in another, else all there are.
fn unknown_help(given: &str, pattern: &str, next: &[&'static str]) -> String {
    if let Some(near) = nearest(given, next) {
        return format!("did you mean {near}?");
    }
    let elsewhere = key::KNOWN.iter().find(|path| {
        let (table, last) = path.rsplit_once('.').unwrap_or(("", path));
        table != pattern && last == given
    });
    if let Some(path) = elsewhere {
        return match path.rsplit_once('.') {
            Some((table, _)) => format!("it belongs in [{}]", table.replace('*', "NAME")),
            None => "it belongs at the top, before every table".to_owned(),
        };
    }
    format!("known here: {}", next.join(", "))
}

fn is_name(text: &str) -> bool {
    text.len() <= NAME_LEN_MAX
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}
