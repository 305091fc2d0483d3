//! Events to journald over its native protocol, with their fields.
//!
//! `journalctl` prints nothing but MESSAGE, so what an operator reads there ends in the fields, as
//! the human format does; and each stands by itself too, as PENSTOCK_NAME, to search by
//! (`journalctl PENSTOCK_LISTENER=apps`). The tracing-journald crate does only the latter: the line
//! would say "listening" and not where.

use std::fmt::{self, Write};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::limits::LOG_VALUE_LEN_MAX;

const SOCKET: &str = "/run/systemd/journal/socket";

pub struct Journald {
    /// Never waits: a journald that hangs must not hold a shard up.
    socket: UnixDatagram,
    /// Looked up at each entry, as a journald that is started anew may have made another.
    path: PathBuf,
    /// Entries that it did not take since the last one that it took.
    lost: AtomicU64,
}

impl Journald {
    pub fn connect() -> io::Result<Self> {
        Self::connect_to(Path::new(SOCKET))
    }

    fn connect_to(path: &Path) -> io::Result<Self> {
        // Only to see that somebody is there; the socket below would stay bound to this journald.
        UnixDatagram::unbound()?.connect(path)?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
            lost: AtomicU64::new(0),
        })
    }

    fn send(&self, entry: &[u8]) {
        if self.socket.send_to(entry, &self.path).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let message = format!("journald did not take {lost} lines before this one");
            let mut entry = Vec::new();
            put(&mut entry, "PRIORITY", priority(&Level::WARN));
            put(&mut entry, "SYSLOG_IDENTIFIER", "penstock");
            put(&mut entry, "MESSAGE", &message);
            if self.socket.send_to(&entry, &self.path).is_err() {
                self.lost.fetch_add(lost, Ordering::Relaxed);
            }
        }
    }
}

impl<S: Subscriber> Layer<S> for Journald {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.send(&entry(event));
    }
}

/// The event as journald reads it (systemd.io/JOURNAL_NATIVE_PROTOCOL).
fn entry(event: &Event<'_>) -> Vec<u8> {
    let metadata = event.metadata();
    let mut fields = Fields::default();
    event.record(&mut fields);
    let mut entry = Vec::with_capacity(512);
    put(&mut entry, "PRIORITY", priority(metadata.level()));
    put(&mut entry, "SYSLOG_IDENTIFIER", "penstock");
    put(&mut entry, "TARGET", metadata.target());
    if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
        put(&mut entry, "CODE_FILE", file);
        put(&mut entry, "CODE_LINE", &line.to_string());
    }
    let mut message = fields.message;
    for (name, value) in &fields.others {
        let _ = write!(message, " {name}={value}");
        put(&mut entry, &field_name(name), value);
    }
    put(&mut entry, "MESSAGE", &message);
    entry
}

/// syslog(3)'s numbers.
fn priority(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

/// Journald takes capitals, digits and underscores, at most 64 of them.
fn field_name(name: &str) -> String {
    let upper = |byte: char| match byte.to_ascii_uppercase() {
        upper @ ('A'..='Z' | '0'..='9') => upper,
        _ => '_',
    };
    "PENSTOCK_"
        .chars()
        .chain(name.chars().map(upper))
        .take(64)
        .collect()
}

/// The form that takes any bytes: the name, the length as a little-endian u64, the value.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    // A datagram has room for a dozen of them; longer ones would have to be handed over in a memfd.
    let value = &value[..value.floor_char_boundary(LOG_VALUE_LEN_MAX)];
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'\n');
    entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.keep(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.keep(field, value.to_owned());
    }
}

impl Fields {
    fn keep(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            name => self.others.push((name, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tracing_subscriber::layer::SubscriberExt;

    /// The protocol's fields, by its description.
    fn parsed(mut entry: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        while !entry.is_empty() {
            let end = entry
                .iter()
                .position(|&byte| byte == b'\n')
                .expect("a name");
            let (name, rest) = (&entry[..end], &entry[end + 1..]);
            let (len, rest) = rest.split_first_chunk().expect("a length");
            let (value, rest) = rest.split_at(u64::from_le_bytes(*len) as usize);
            assert_eq!(rest[0], b'\n');
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
            fields.insert(text(name), text(value));
            entry = &rest[1..];
        }
        fields
    }

    fn received(say: impl FnOnce()) -> BTreeMap<String, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let journald = UnixDatagram::bind(&path).expect("bound");
        let layer = Journald::connect_to(&path).expect("connected");
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), say);
        let mut buffer = vec![0; 1 << 18];
        let len = journald.recv(&mut buffer).expect("an entry");
        parsed(&buffer[..len])
    }

    #[test]
    fn an_event_arrives_with_its_fields() {
        let fields = received(|| {
            tracing::warn!(target: "penstock::x", listener = "apps", bytes = 5, "two\nlines");
        });
        let expected = [
            ("MESSAGE", "two\nlines listener=apps bytes=5"),
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "penstock"),
            ("TARGET", "penstock::x"),
            ("PENSTOCK_LISTENER", "apps"),
            ("PENSTOCK_BYTES", "5"),
        ];
        for (name, value) in expected {
            assert_eq!(fields[name], value, "{name}");
        }
        assert!(fields["CODE_FILE"].ends_with("journald.rs"));
        assert_eq!(fields.len(), expected.len() + 2);
    }

    #[test]
    fn priorities_are_syslog_s() {
        let said = [
            Level::ERROR,
            Level::WARN,
            Level::INFO,
            Level::DEBUG,
            Level::TRACE,
        ];
        assert_eq!(
            said.map(|level| priority(&level)),
            ["3", "4", "6", "7", "7"]
        );
    }

    #[test]
    fn what_is_too_long_for_a_datagram_is_cut() {
        let fields = received(|| tracing::error!(body = "é".repeat(1 << 20), "long"));
        assert_eq!(fields["PENSTOCK_BODY"].len(), LOG_VALUE_LEN_MAX);
        assert!(fields["MESSAGE"].starts_with("long body=éé"));
    }

    #[test]
    fn a_journald_that_hangs_holds_nobody_up_and_what_it_missed_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let journald = UnixDatagram::bind(&path).expect("bound");
        journald.set_nonblocking(true).expect("non-blocking");
        let layer = Journald::connect_to(&path).expect("connected");
        let mut buffer = vec![0; 1 << 18];
        let mut read_all = || {
            let mut messages = Vec::new();
            while let Ok(len) = journald.recv(&mut buffer) {
                messages.push(parsed(&buffer[..len])["MESSAGE"].clone());
            }
            messages
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            // More than any queue of a socket holds (net.unix.max_dgram_qlen).
            for _ in 0..100_000 {
                tracing::info!("said");
            }
            let taken = read_all().len();
            assert!((1..100_000).contains(&taken), "{taken}");
            tracing::info!("again");
            let lost = 100_000 - taken;
            let said = format!("journald did not take {lost} lines before this one");
            assert_eq!(read_all(), ["again", said.as_str()]);
        });
    }

    #[test]
    fn without_journald_there_is_an_error_and_no_panic() {
        assert!(Journald::connect_to(Path::new("/nonexistent/socket")).is_err());
    }
}
