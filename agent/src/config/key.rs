//! Every key there is, once: its name, its default, how its value is read and how it is written.
//! Parsing, `config show` and the test of the example all go by this table.

mod address;
mod gate;
mod schema;
mod tenant;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::document::Leaf;
use super::mistake::Wrong;
use super::settings::{
    Compression, FileFormat, IoMode, MinFree, OnFull, Protocol, Shards, SinkKind, SyncMode,
};
use super::unit::{format_size, format_time, parse_percent, parse_size, parse_time};
use crate::decode::avro::plan::Target;
use crate::limits::SHARDS_MAX;
use crate::log::{LogFilter, LogFormat, NoLevel};
use address::{parse_forward_targets, parse_listener_address, socket_address};
pub use gate::*;
pub use tenant::*;

/// A key whose value is a `T`.
pub struct Key<T: 'static> {
    /// Dotted; `*` stands for a name.
    pub path: &'static str,
    /// What holds where the key is not given, as text; `None` where it must be given, or where
    /// nothing holds without it.
    pub default: Option<&'static str>,
    pub parse: fn(&Leaf) -> Result<T, Wrong>,
    /// The value as TOML.
    pub show: fn(&T) -> String,
}

pub const DATA_DIR: Key<PathBuf> = Key {
    path: "data_dir",
    default: Some("./penstock-data"),
    parse: |leaf| match text(leaf, "/var/lib/penstock")? {
        "" => Err(Wrong::new(
            "an empty path",
            "write as in \"/var/lib/penstock\"",
        )),
        path => Ok(PathBuf::from(path)),
    },
    show: |path| quote(&path.to_string_lossy()),
};

pub const SHARDS: Key<Shards> = Key {
    path: "shards",
    default: Some("auto"),
    parse: parse_shards,
    show: |shards| match shards {
        Shards::Auto => quote("auto"),
        Shards::Count(count) => count.to_string(),
    },
};

pub const IO: Key<IoMode> = Key {
    path: "io",
    default: Some("auto"),
    parse: |leaf| word(leaf, &IO_WORDS, &[]),
    show: |io| show_word(io, &IO_WORDS),
};
const IO_WORDS: [(&str, IoMode); 3] = [
    ("auto", IoMode::Auto),
    ("io_uring", IoMode::Uring),
    ("epoll", IoMode::Epoll),
];

pub const MEMORY_MAX: Key<u64> = Key {
    path: "memory_max",
    default: Some("256MiB"),
    parse: |leaf| size(leaf, 1 << 20, 1 << 44),
    show: show_size,
};

/// Without it the agent stays who started it.
pub const USER: Key<String> = Key {
    path: "user",
    default: None,
    parse: |leaf| match text(leaf, "penstock")? {
        "" => Err(Wrong::new(
            "an empty name",
            "write a user's name as in \"penstock\"",
        )),
        name => Ok(name.to_owned()),
    },
    show: |name| quote(name),
};

pub const STOP_TIMEOUT: Key<Duration> = Key {
    path: "stop_timeout",
    default: Some("30s"),
    // Two seconds of it are kept for a sink that hangs in a call.
    parse: |leaf| time(leaf, Duration::from_secs(4), Duration::from_secs(600)),
    show: show_time,
};

pub const LOG_LEVEL: Key<LogFilter> = Key {
    path: "log.level",
    default: Some("info"),
    parse: |leaf| {
        let text = text(leaf, "info")?;
        text.parse().map_err(|NoLevel { part }| {
            Wrong::new(format!("\"{part}\" is no level"), NoLevel::HELP)
        })
    },
    show: |level| quote(&level.to_string()),
};

pub const LOG_FORMAT: Key<LogFormat> = Key {
    path: "log.format",
    default: Some("auto"),
    parse: |leaf| word(leaf, &LOG_FORMAT_WORDS, &[]),
    show: |format| show_word(format, &LOG_FORMAT_WORDS),
};
const LOG_FORMAT_WORDS: [(&str, LogFormat); 4] = [
    ("auto", LogFormat::Auto),
    ("journald", LogFormat::Journald),
    ("human", LogFormat::Human),
    ("json", LogFormat::Json),
];

pub const ADMIN_ADDRESS: Key<SocketAddr> = Key {
    path: "admin.address",
    default: Some("127.0.0.1:4680"),
    parse: |leaf| {
        let text = text(leaf, "127.0.0.1:4680")?;
        socket_address(text, "127.0.0.1:4680", "")
    },
    show: |address| quote(&address.to_string()),
};

pub const ADMIN_SOCKET: Key<PathBuf> = Key {
    path: "admin.socket",
    // `control.sock` in the data folder.
    default: None,
    parse: |leaf| match text(leaf, "/run/penstock/control.sock")? {
        "" => Err(Wrong::new(
            "an empty path",
            "write as in \"/run/penstock/control.sock\"",
        )),
        path => Ok(PathBuf::from(path)),
    },
    show: |path| quote(&path.to_string_lossy()),
};

pub const JOURNAL_MAX_SIZE: Key<u64> = Key {
    path: "journal.max_size",
    default: Some("8GiB"),
    parse: |leaf| size(leaf, 1 << 20, 1 << 50),
    show: show_size,
};

pub const JOURNAL_MIN_FREE: Key<MinFree> = Key {
    path: "journal.min_free",
    default: Some("10%"),
    parse: parse_min_free,
    show: |min_free| match min_free {
        MinFree::Percent(percent) => quote(&format!("{percent}%")),
        MinFree::Bytes(bytes) => show_size(bytes),
    },
};

pub const JOURNAL_ON_FULL: Key<OnFull> = Key {
    path: "journal.on_full",
    default: Some("backpressure"),
    parse: |leaf| word(leaf, &ON_FULL_WORDS, &[]),
    show: |on_full| show_word(on_full, &ON_FULL_WORDS),
};
const ON_FULL_WORDS: [(&str, OnFull); 2] = [
    ("backpressure", OnFull::Backpressure),
    ("drop_oldest", OnFull::DropOldest),
];

pub const JOURNAL_SYNC: Key<SyncMode> = Key {
    path: "journal.sync",
    default: Some("always"),
    parse: |leaf| word(leaf, &SYNC_WORDS, &[]),
    show: |sync| show_word(sync, &SYNC_WORDS),
};
const SYNC_WORDS: [(&str, SyncMode); 3] = [
    ("always", SyncMode::Always),
    ("interval", SyncMode::Interval),
    ("never", SyncMode::Never),
];

/// A mistake where `journal.sync` is not "interval".
pub const JOURNAL_SYNC_INTERVAL: Key<Duration> = Key {
    path: "journal.sync_interval",
    default: Some("1s"),
    parse: |leaf| time(leaf, Duration::from_millis(1), Duration::from_secs(60)),
    show: show_time,
};

pub const JOURNAL_COMMIT_INTERVAL: Key<Duration> = Key {
    path: "journal.commit_interval",
    default: Some("5ms"),
    parse: |leaf| time(leaf, Duration::ZERO, Duration::from_secs(1)),
    show: show_time,
};

/// A whole block is a little longer: what is in it when it is full.
pub const JOURNAL_COMMIT_SIZE: Key<u64> = Key {
    path: "journal.commit_size",
    default: Some("1MiB"),
    parse: |leaf| size(leaf, 4 << 10, 1 << 20),
    show: show_size,
};

/// At the least longer than the longest wait of a client that retries (PROTOCOL.md: 10 s and half
/// of what it was told); in practice longer than an outage.
pub const JOURNAL_PRODUCER_EXPIRY: Key<Duration> = Key {
    path: "journal.producer_expiry",
    default: Some("1h"),
    parse: |leaf| time(leaf, Duration::from_secs(60), DAYS_3650),
    show: show_time,
};

pub const LISTENER_ADDRESS: Key<(Protocol, SocketAddr)> = Key {
    path: "listeners.*.address",
    default: None,
    parse: parse_listener_address,
    show: |(protocol, address)| quote(&format!("{}://{address}", protocol.scheme())),
};

/// For UDP `UDP_RECEIVE_BUFFER` holds where it is not given; for TCP the kernel sizes the buffer.
pub const LISTENER_RECEIVE_BUFFER: Key<u64> = Key {
    path: "listeners.*.receive_buffer",
    default: None,
    // Below 64 KiB not even one bundle fits; SO_RCVBUF is an int that the kernel doubles.
    parse: |leaf| size(leaf, 64 << 10, (1 << 30) - 1),
    show: show_size,
};
pub const UDP_RECEIVE_BUFFER: u64 = 16 << 20;

pub const SINK_TYPE: Key<SinkKind> = Key {
    path: "sinks.*.type",
    default: None,
    parse: |leaf| word(leaf, &SINK_WORDS, &["kafka", "otlp"]),
    show: |kind| show_word(kind, &SINK_WORDS),
};
const SINK_WORDS: [(&str, SinkKind); 2] =
    [("file", SinkKind::File), ("penstock", SinkKind::Penstock)];

/// Of `penstock` sinks: `HOST:PORT` of each target.
pub const SINK_TO: Key<Vec<String>> = Key {
    path: "sinks.*.to",
    default: None,
    parse: parse_forward_targets,
    show: |targets| {
        let targets = targets
            .iter()
            .map(|target| quote(&format!("tcp://{target}")));
        format!("[{}]", targets.collect::<Vec<_>>().join(", "))
    },
};
/// The keys that only `file` sinks have.
pub const FILE_SINK_ONLY: [&str; 6] = [
    SINK_FORMAT.path,
    SINK_COMPRESSION.path,
    SINK_ROTATE_SIZE.path,
    SINK_ROTATE_AGE.path,
    SINK_KEEP_SIZE.path,
    SINK_KEEP_AGE.path,
];

pub const SINK_FORMAT: Key<FileFormat> = Key {
    path: "sinks.*.format",
    default: Some("avro"),
    parse: |leaf| word(leaf, &FORMAT_WORDS, &[]),
    show: |format| show_word(format, &FORMAT_WORDS),
};
const FORMAT_WORDS: [(&str, FileFormat); 3] = [
    ("avro", FileFormat::Avro),
    ("jsonl", FileFormat::Jsonl),
    ("protobuf", FileFormat::Protobuf),
];

pub const SINK_COMPRESSION: Key<Compression> = Key {
    path: "sinks.*.compression",
    default: Some("zstd"),
    parse: |leaf| word(leaf, &COMPRESSION_WORDS, &[]),
    show: |compression| show_word(compression, &COMPRESSION_WORDS),
};
const COMPRESSION_WORDS: [(&str, Compression); 3] = [
    ("zstd", Compression::Zstd),
    ("snappy", Compression::Snappy),
    ("none", Compression::None),
];

pub const SINK_ROTATE_SIZE: Key<u64> = Key {
    path: "sinks.*.rotate.size",
    default: Some("256MiB"),
    parse: |leaf| size(leaf, 64 << 10, 1 << 40),
    show: show_size,
};

pub const SINK_ROTATE_AGE: Key<Duration> = Key {
    path: "sinks.*.rotate.age",
    default: Some("5m"),
    parse: |leaf| time(leaf, Duration::from_millis(100), DAYS_30),
    show: show_time,
};

pub const SINK_KEEP_SIZE: Key<u64> = Key {
    path: "sinks.*.keep.size",
    default: Some("50GiB"),
    parse: |leaf| size(leaf, 64 << 10, 1 << 50),
    show: show_size,
};

pub const SINK_KEEP_AGE: Key<Duration> = Key {
    path: "sinks.*.keep.age",
    default: Some("7d"),
    parse: |leaf| time(leaf, Duration::from_secs(1), DAYS_3650),
    show: show_time,
};

pub const SINK_ENABLED: Key<bool> = Key {
    path: "sinks.*.enabled",
    default: Some("true"),
    parse: flag,
    show: bool::to_string,
};

/// Without it there are no schemas but the built-in ones.
pub const SCHEMAS_DIR: Key<PathBuf> = Key {
    path: "schemas_dir",
    default: None,
    parse: |leaf| match text(leaf, "/etc/penstock/schemas")? {
        "" => Err(Wrong::new(
            "an empty path",
            "write as in \"/etc/penstock/schemas\"",
        )),
        path => Ok(PathBuf::from(path)),
    },
    show: |path| quote(&path.to_string_lossy()),
};

/// The last `*` is a field's path in the schema, which may have dots.
pub const SCHEMA_FIELD: Key<Target> = Key {
    path: "schemas.*.fields.*",
    default: None,
    parse: |leaf| word(leaf, &schema::TARGET_WORDS, &[]),
    show: |target| show_word(target, &schema::TARGET_WORDS),
};

/// Whether fields without a place are counted (and not stored).
pub const SCHEMA_UNMAPPED: Key<bool> = Key {
    path: "schemas.*.unmapped",
    default: Some("attribute"),
    parse: |leaf| word(leaf, &schema::UNMAPPED_WORDS, &[]),
    show: |count| show_word(count, &schema::UNMAPPED_WORDS),
};

pub const SCHEMA_REGISTRY_ID: Key<u32> = Key {
    path: "schemas.*.registry_id",
    default: None,
    parse: schema::parse_registry_id,
    show: u32::to_string,
};

const DAYS_30: Duration = Duration::from_secs(30 * 86_400);
const DAYS_3650: Duration = Duration::from_secs(3_650 * 86_400);

/// The paths of all keys above.
pub const KNOWN: &[&str] = &[
    DATA_DIR.path,
    SHARDS.path,
    IO.path,
    MEMORY_MAX.path,
    USER.path,
    STOP_TIMEOUT.path,
    LOG_LEVEL.path,
    LOG_FORMAT.path,
    ADMIN_ADDRESS.path,
    ADMIN_SOCKET.path,
    JOURNAL_MAX_SIZE.path,
    JOURNAL_MIN_FREE.path,
    JOURNAL_ON_FULL.path,
    JOURNAL_SYNC.path,
    JOURNAL_SYNC_INTERVAL.path,
    JOURNAL_COMMIT_INTERVAL.path,
    JOURNAL_COMMIT_SIZE.path,
    JOURNAL_PRODUCER_EXPIRY.path,
    LISTENER_ADDRESS.path,
    LISTENER_RECEIVE_BUFFER.path,
    gate::KNOWN[0],
    gate::KNOWN[1],
    gate::KNOWN[2],
    gate::KNOWN[3],
    gate::KNOWN[4],
    gate::KNOWN[5],
    gate::KNOWN[6],
    gate::KNOWN[7],
    gate::KNOWN[8],
    gate::KNOWN[9],
    gate::KNOWN[10],
    gate::KNOWN[11],
    gate::KNOWN[12],
    gate::KNOWN[13],
    gate::KNOWN[14],
    gate::KNOWN[15],
    gate::KNOWN[16],
    gate::KNOWN[17],
    gate::KNOWN[18],
    gate::KNOWN[19],
    gate::KNOWN[20],
    gate::KNOWN[21],
    gate::KNOWN[22],
    gate::KNOWN[23],
    gate::KNOWN[24],
    gate::KNOWN[25],
    gate::KNOWN[26],
    gate::KNOWN[27],
    tenant::KNOWN[0],
    tenant::KNOWN[1],
    tenant::KNOWN[2],
    tenant::KNOWN[3],
    tenant::KNOWN[4],
    tenant::KNOWN[5],
    tenant::KNOWN[6],
    SINK_TYPE.path,
    SINK_TO.path,
    SINK_FORMAT.path,
    SINK_COMPRESSION.path,
    SINK_ROTATE_SIZE.path,
    SINK_ROTATE_AGE.path,
    SINK_KEEP_SIZE.path,
    SINK_KEEP_AGE.path,
    SINK_ENABLED.path,
    SCHEMAS_DIR.path,
    SCHEMA_FIELD.path,
    SCHEMA_UNMAPPED.path,
    SCHEMA_REGISTRY_ID.path,
];

/// Keys of later versions, known so that the answer is not "unknown key".
pub const LATER: &[&str] = &["sinks.*.on_full"];

impl<T> Key<T> {
    /// The value that holds where the key is not given.
    pub fn default_value(&self) -> Option<T> {
        let text = self.default?;
        let leaf = match text.parse() {
            Ok(flag) => Leaf::Flag(flag),
            Err(_) => Leaf::Text(text.to_owned()),
        };
        Some((self.parse)(&leaf).unwrap_or_else(|wrong| {
            panic!("the default {text:?} of {} is wrong: {wrong:?}", self.path)
        }))
    }

    /// The path with `name` in the place of `*`.
    pub fn path_of(&self, name: &str) -> String {
        self.path.replace('*', name)
    }
}

/// A string as TOML writes it.
pub fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn show_size(bytes: &u64) -> String {
    quote(&format_size(*bytes))
}

fn show_time(time: &Duration) -> String {
    quote(&format_time(*time))
}

fn show_word<T: PartialEq>(value: &T, words: &[(&str, T)]) -> String {
    words
        .iter()
        .find(|(_, known)| known == value)
        .map(|(word, _)| quote(word))
        .expect("every value of a closed set has its word in the table beside its key")
}

fn text<'a>(leaf: &'a Leaf, example: &str) -> Result<&'a str, Wrong> {
    match leaf {
        Leaf::Text(text) => Ok(text),
        Leaf::Number(_) => Err(Wrong::new("a number, where text is wanted", as_in(example))),
        Leaf::Flag(_) => Err(Wrong::new(
            "a boolean, where text is wanted",
            as_in(example),
        )),
        Leaf::List(_) => Err(Wrong::new("a list, where text is wanted", as_in(example))),
        Leaf::Other(what) => Err(Wrong::new(
            format!("{what}, where text is wanted"),
            as_in(example),
        )),
    }
}

fn flag(leaf: &Leaf) -> Result<bool, Wrong> {
    let given = match leaf {
        Leaf::Flag(flag) => return Ok(*flag),
        Leaf::Text(text) => format!("\"{text}\""),
        Leaf::Number(number) => number.clone(),
        Leaf::List(_) => "a list".to_owned(),
        Leaf::Other(what) => (*what).to_owned(),
    };
    Err(Wrong::new(
        format!("{given}, where true or false is wanted"),
        "write true or false, without quotes",
    ))
}

fn as_in(example: &str) -> String {
    format!("write it in quotes, as in \"{example}\"")
}

fn size(leaf: &Leaf, min: u64, max: u64) -> Result<u64, Wrong> {
    let bytes = match leaf {
        Leaf::Number(number) => return Err(bare_size(number)),
        _ => parse_size(text(leaf, "256MiB")?)?,
    };
    in_range(bytes, min, max, format_size)
}

/// A bare number is most often bytes: show both that and what else may have been meant.
fn bare_size(number: &str) -> Wrong {
    let message = format!("the bare number {number}, where a size with its unit is wanted");
    let help = match number.replace('_', "").parse::<u64>() {
        Ok(bytes) if bytes >= 1024 && bytes.is_multiple_of(1024) => {
            format!("write \"{}\", which is {bytes} bytes", format_size(bytes))
        }
        Ok(bytes) => format!("write \"{bytes}B\" for bytes, or as in \"{bytes}MiB\""),
        Err(_) => "write as in \"256MiB\"".to_owned(),
    };
    Wrong::new(message, help)
}

fn time(leaf: &Leaf, min: Duration, max: Duration) -> Result<Duration, Wrong> {
    let time = match leaf {
        Leaf::Number(number) => {
            return Err(Wrong::new(
                format!("the bare number {number}, where a time with its unit is wanted"),
                match number.parse::<u64>() {
                    Ok(number) => format!("write as in \"{number}ms\" or \"{number}s\""),
                    Err(_) => "write as in \"5ms\"".to_owned(),
                },
            ));
        }
        _ => parse_time(text(leaf, "5ms")?)?,
    };
    in_range(time, min, max, format_time)
}

fn in_range<T: PartialOrd + Copy>(
    value: T,
    min: T,
    max: T,
    format: fn(T) -> String,
) -> Result<T, Wrong> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(Wrong::new(
        format!("{} is out of range", format(value)),
        format!("from \"{}\" to \"{}\"", format(min), format(max)),
    ))
}

/// One of a closed set of words; `later` are words of later versions.
fn word<T: Copy>(leaf: &Leaf, words: &[(&str, T)], later: &[&str]) -> Result<T, Wrong> {
    let all = words
        .iter()
        .map(|(word, _)| format!("\"{word}\""))
        .collect::<Vec<_>>()
        .join(", ");
    let given = text(leaf, words[0].0)?;
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == given) {
        return Ok(*value);
    }
    if later.contains(&given) {
        return Err(Wrong::new(
            format!("\"{given}\" is not in this version"),
            format!("this version knows {all}"),
        ));
    }
    let candidates: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let help = match nearest(given, &candidates) {
        Some(near) => format!("did you mean \"{near}\"? It may be {all}"),
        None => format!("it may be {all}"),
    };
    Err(Wrong::new(format!("\"{given}\" is not known"), help))
}

fn parse_shards(leaf: &Leaf) -> Result<Shards, Wrong> {
    let help = format!("write \"auto\", or a number from 1 to {SHARDS_MAX} without quotes");
    match leaf {
        Leaf::Text(text) if text == "auto" => Ok(Shards::Auto),
        Leaf::Number(number) => match number.parse::<u16>() {
            Ok(count) if (1..=SHARDS_MAX).contains(&count) => Ok(Shards::Count(count)),
            _ => Err(Wrong::new(format!("{number} is no number of shards"), help)),
        },
        Leaf::Text(text) => Err(Wrong::new(
            format!("\"{text}\" is no number of shards"),
            help,
        )),
        Leaf::Flag(_) => Err(Wrong::new("a boolean is no number of shards", help)),
        Leaf::List(_) => Err(Wrong::new("a list is no number of shards", help)),
        Leaf::Other(what) => Err(Wrong::new(format!("{what} is no number of shards"), help)),
    }
}

fn parse_min_free(leaf: &Leaf) -> Result<MinFree, Wrong> {
    const HELP: &str = "write a share of the disk as in \"10%\", or a size as in \"20GiB\"";
    match leaf {
        Leaf::Number(number) => Err(Wrong::new(
            format!("the bare number {number}, where a percentage or a size is wanted"),
            HELP,
        )),
        _ => {
            let text = text(leaf, "10%")?;
            if text.ends_with('%') {
                let percent = parse_percent(text)?;
                if percent > 90.0 {
                    return Err(Wrong::new(
                        format!("{percent}% is out of range"),
                        "from \"0%\" to \"90%\"",
                    ));
                }
                return Ok(MinFree::Percent(percent));
            }
            match parse_size(text) {
                Ok(bytes) => in_range(bytes, 0, 1 << 50, format_size).map(MinFree::Bytes),
                Err(wrong) => Err(Wrong::new(wrong.message, HELP)),
            }
        }
    }
}

/// The candidate that was probably meant.
pub fn nearest<'a>(given: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let given = given.to_lowercase().replace('-', "_");
    let mut best: Option<(usize, &str)> = None;
    for &candidate in candidates {
        let distance = strsim::damerau_levenshtein(&given, candidate);
        // A slip in every third letter is still the same word; `interval` is a part of
        // `commit_interval`.
        let is_near = distance <= 1 + candidate.len() / 4
            || (given.len() >= 4 && candidate.contains(&given))
            || (candidate.len() >= 4 && given.contains(candidate));
        if is_near && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}
