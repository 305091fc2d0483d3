//! The configuration as its users meet it: files in, settings or mistakes out.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use penstock::config::settings::{
    AdminSettings, Compression, FileFormat, GateMode, GateSettings, IoMode, JournalSettings,
    ListenerSettings, MinFree, OnFull, Protocol, Settings, Shards, SinkKind, SinkSettings,
    SyncMode,
};
use penstock::config::{self, LoadError};
use penstock::exit::{Exit, Failure};
use penstock::gate::policy::{GatePolicy, Prefix, Rate, SourceLimit};
use penstock::limits;
use penstock::log::{LogFormat, LogSettings};
use proptest::prelude::*;

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// The built-in settings, written out by hand from the design.
fn builtin() -> Settings {
    let listener = |name: &str, protocol, receive_buffer| ListenerSettings {
        name: name.to_owned(),
        protocol,
        address: address("127.0.0.1:4600"),
        receive_buffer,
    };
    Settings {
        data_dir: PathBuf::from("./penstock-data"),
        shards: Shards::Auto,
        io: IoMode::Auto,
        memory_max: 256 * MIB,
        user: None,
        stop_timeout: Duration::from_secs(30),
        log: LogSettings {
            level: "info".parse().expect("a level"),
            format: LogFormat::Auto,
        },
        admin: AdminSettings {
            address: address("127.0.0.1:4680"),
            socket: None,
        },
        journal: JournalSettings {
            max_size: 8 * GIB,
            min_free: MinFree::Percent(10.0),
            on_full: OnFull::Backpressure,
            sync: SyncMode::Always,
            sync_interval: Duration::from_secs(1),
            commit_interval: Duration::from_millis(5),
            commit_size: MIB,
            producer_expiry: Duration::from_secs(3_600),
        },
        listeners: vec![
            listener("udp", Protocol::Udp, Some(16 * MIB)),
            listener("tcp", Protocol::Tcp, None),
        ],
        gate: GateSettings {
            mode: GateMode::Auto,
            policy: GatePolicy::default(),
        },
        tenants: Vec::new(),
        sinks: vec![SinkSettings {
            name: "files".to_owned(),
            kind: SinkKind::File,
            to: Vec::new(),
            format: FileFormat::Avro,
            compression: Compression::Zstd,
            rotate_size: 256 * MIB,
            rotate_age: Duration::from_secs(300),
            keep_size: 50 * GIB,
            keep_age: Duration::from_secs(7 * 86_400),
            enabled: true,
        }],
        schemas_dir: None,
        schemas: Vec::new(),
    }
}

/// All mistakes of a text, as they are printed.
fn mistakes(text: &str) -> String {
    match config::parse("penstock.toml", text) {
        Ok(settings) => panic!("no mistake found in:\n{text}\n{settings:?}"),
        Err(mistakes) => mistakes.to_string(),
    }
}

fn settings(text: &str) -> Settings {
    config::parse("penstock.toml", text).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

#[test]
fn builtin_settings_are_the_design_s() {
    assert_eq!(config::builtin(), builtin());
    assert_eq!(settings(""), builtin());
}

#[test]
fn a_forwarding_sink_has_targets_and_no_key_of_a_file_sink() {
    let text =
        "[sinks.up]\ntype = \"penstock\"\nto = [\"tcp://a.example:4600\", \"tcp://[::1]:1\"]\n";
    let read = settings(text);
    assert_eq!(read.sinks[0].kind, SinkKind::Penstock);
    assert_eq!(read.sinks[0].to, ["a.example:4600", "[::1]:1"]);
    // What `config show` prints reads back to the same.
    assert_eq!(settings(&config::show(&read)), read);
    for (wrong, words) in [
        ("to = [\"udp://a:1\"]", "does not begin with tcp://"),
        ("to = [\"tcp://a\"]", "is no host and port"),
        ("to = []", "0 targets"),
        ("to = [1]", "a list, where text is wanted"),
        ("", "sinks.up has no to"),
        (
            "to = \"tcp://a:1\"\nformat = \"avro\"",
            "sinks.up.format is no key of a sink of type \"penstock\"",
        ),
        (
            "to = \"tcp://a:1\"\nkeep = { size = \"1GiB\" }",
            "sinks.up.keep.size is no key of a sink of type \"penstock\"",
        ),
    ] {
        let text = format!("[sinks.up]\ntype = \"penstock\"\n{wrong}\n");
        let mistakes = mistakes(&text);
        assert!(mistakes.contains(words), "{wrong}: {mistakes}");
    }
    let file = mistakes("[sinks.files]\ntype = \"file\"\nto = \"tcp://a:1\"\n");
    assert!(
        file.contains("sinks.files.to is no key of a sink of type \"file\""),
        "{file}"
    );
}

#[test]
fn the_example_holds_every_key_at_its_built_in_value() {
    let example = settings(config::EXAMPLE);
    let expected = Settings {
        data_dir: PathBuf::from("/var/lib/penstock"),
        ..builtin()
    };
    assert_eq!(example, expected);
    // Commented-out keys are right too: what is shown can be used.
    let mut uncommented = config::EXAMPLE.replace("# receive_buffer", "receive_buffer");
    uncommented = uncommented
        .replace("\nsync = \"always\"", "\nsync = \"interval\"")
        .replace("# sync_interval", "sync_interval");
    for key in [
        "allow =",
        "deny =",
        "source_limit =",
        "limits.",
        "newcomers =",
        "connections_per_source =",
        "[tenants.default]",
        "[tenants.billing]",
        "sources =",
        "producers =",
        "weight =",
        "rate =",
        "burst =",
        "bytes_in_flight =",
        "journal_share =",
        "[sinks.upstream]",
        "type = \"penstock\"",
        "to =",
        "socket =",
        "user =",
        "schemas_dir =",
        "[schemas.",
        "fields =",
        "unmapped =",
        "registry_id =",
    ] {
        uncommented = uncommented.replace(&format!("# {key}"), key);
    }
    assert_eq!(settings(&uncommented).schemas[0].registry_id, Some(17));
    assert_eq!(settings(&uncommented).sinks[1].to.len(), 2);
    assert_eq!(
        settings(&uncommented).listeners[1].receive_buffer,
        Some(4 * MIB)
    );
    // Each key that exists stands in it, and in what `config show` prints.
    let shown = config::show(&settings(&uncommented));
    for text in [uncommented.as_str(), shown.as_str()] {
        let table: toml::Table = text.parse().expect("TOML");
        let keys = config::known_keys();
        assert_eq!(
            keys.len(),
            68,
            "a new key: does this test still say enough?"
        );
        for key in keys {
            assert!(has_key(&table, key), "{key} is missing in\n{text}");
        }
    }
}

/// Whether a dotted key is in the table; `*` is any name.
fn has_key(table: &toml::Table, path: &str) -> bool {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    table.iter().any(|(key, value)| {
        (first == "*" || first == key)
            && (rest.is_empty() || value.as_table().is_some_and(|inner| has_key(inner, rest)))
    })
}

#[test]
fn what_show_prints_reads_back_to_the_same() {
    let text = r#"
        data_dir = "/srv/pen \"stock\""
        shards = 2
        memory_max = "1GB"
        admin.address = "[::1]:0"
        log = { level = "warn,penstock::journal=debug", format = "json" }
        [journal]
        max_size = "2147483647B"
        min_free = "2.5%"
        on_full = "drop_oldest"
        commit_interval = "1500us"
        [listeners.zeta]
        address = "tcp://[::]:4600"
        receive_buffer = "100kB"
        [listeners.alpha-1_x]
        address = "udp://0.0.0.0:0"
        [gate]
        mode = "off"
        [sinks.b]
        type = "file"
        compression = "none"
        rotate = { size = "1MB", age = "90s" }
        [sinks.a]
        type = "file"
        keep.age = "36h"
        enabled = false
    "#;
    let first = settings(text);
    assert_eq!(first.shards, Shards::Count(2));
    assert_eq!(first.memory_max, 1_000_000_000);
    assert_eq!(first.journal.max_size, 2_147_483_647);
    assert_eq!(first.journal.min_free, MinFree::Percent(2.5));
    assert_eq!(first.journal.on_full, OnFull::DropOldest);
    assert_eq!(first.journal.commit_interval, Duration::from_micros(1500));
    assert_eq!(first.data_dir, PathBuf::from("/srv/pen \"stock\""));
    let names: Vec<_> = first.listeners.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["zeta", "alpha-1_x"], "the file's order");
    assert_eq!(first.listeners[0].receive_buffer, Some(100_000));
    assert_eq!(first.sinks[0].rotate_age, Duration::from_secs(90));
    assert_eq!(first.sinks[1].keep_age, Duration::from_secs(36 * 3600));
    assert!(first.sinks[0].enabled && !first.sinks[1].enabled);
    assert_eq!(settings(&config::show(&first)), first);
    assert_eq!(settings(&config::show(&builtin())), builtin());
}

#[test]
fn a_bare_number_and_an_unknown_key_are_shown_with_what_would_be_right() {
    let text = "[journal]\nmax_sise = \"8GiB\"\ncommit_interval = 5\n";
    assert_eq!(
        mistakes(text),
        "\
penstock.toml:2:1: max_sise is no key here
 2 | max_sise = \"8GiB\"
   | ^^^^^^^^
   = did you mean max_size?

penstock.toml:3:19: journal.commit_interval: the bare number 5, where a time with its unit is wanted
 3 | commit_interval = 5
   |                   ^
   = write as in \"5ms\" or \"5s\"

2 mistakes"
    );
}

#[test]
fn every_kind_of_mistake_is_named_at_its_place() {
    // Text, where the mistake stands, what it says, what would be right.
    let cases: &[(&str, &str, &str, &str)] = &[
        (
            "memory_max = 268435456",
            "1:14",
            "the bare number 268435456",
            "write \"256MiB\"",
        ),
        (
            "memory_max = 1000",
            "1:14",
            "the bare number 1000",
            "\"1000B\"",
        ),
        (
            "memory_max = 256MiB",
            "1:14",
            "this is no TOML",
            "memory_max = \"256MiB\", in quotes",
        ),
        (
            "memory_max = \"256mib\"",
            "1:14",
            "no unit of a size",
            "\"256MiB\"?",
        ),
        (
            "memory_max = true",
            "1:14",
            "a boolean, where text",
            "\"256MiB\"",
        ),
        (
            "memory_max = \"1KiB\"",
            "1:14",
            "1KiB is out of range",
            "from \"1MiB\"",
        ),
        (
            "memory_max = \"64MiB\"",
            "1:14",
            "memory_max is 64MiB, but 1 shard",
            "raise memory_max",
        ),
        (
            "shards = 8",
            "1:10",
            "8 shards and 1 sinks need",
            "raise memory_max or lower shards",
        ),
        (
            "[sinks.a]\ntype = \"file\"\nenabled = \"no\"",
            "3:11",
            "\"no\", where true or false is wanted",
            "without quotes",
        ),
        ("shards = 0", "1:10", "0 is no number of shards", "\"auto\""),
        (
            "data_dir = \"\"",
            "1:12",
            "an empty path",
            "/var/lib/penstock",
        ),
        (
            "max_size = \"8GiB\"",
            "1:1",
            "max_size is no key here",
            "[journal]",
        ),
        ("journal = 3", "1:1", "journal is a value", "[journal]"),
        (
            "[journal]\nmax_size.x = 1",
            "2:1",
            "max_size is a table",
            "max_size = ",
        ),
        (
            "[journal]\nmin_free = 10",
            "2:12",
            "bare number 10",
            "\"10%\"",
        ),
        (
            "[journal]\nmin_free = \"95%\"",
            "2:12",
            "95% is out of range",
            "\"90%\"",
        ),
        (
            "[journal]\nsync = \"always\"\nsync_interval = \"2s\"",
            "3:17",
            "journal.sync_interval has no meaning",
            "sync = \"interval\"",
        ),
        (
            "[journal]\nsync = \"interval\"\nsync_interval = \"2m\"",
            "3:17",
            "2m is out of range",
            "\"1m\"",
        ),
        (
            "[journal]\ncommit_size = \"2MiB\"",
            "2:15",
            "2MiB is out of range",
            "\"1MiB\"",
        ),
        (
            "[journal]\nproducer_expiry = \"1s\"",
            "2:19",
            "1s is out of range",
            "\"1m\"",
        ),
        (
            "[journal]\nsync = \"alway\"",
            "2:8",
            "\"alway\" is not known",
            "did you mean \"always\"",
        ),
        (
            "[journal]\ncommit_interval = \"2s\"",
            "2:19",
            "2s is out of range",
            "\"1s\"",
        ),
        (
            "[journal]\nmax_size = \"20MiB\"",
            "2:12",
            "1 shard need 32MiB",
            "segments of at least 8MiB",
        ),
        (
            "[gate]\nmode = \"require\"",
            "2:8",
            "\"require\" is not known",
            "did you mean \"required\"",
        ),
        (
            "[listeners]",
            "1:2",
            "there is no listener",
            "[listeners.NAME]",
        ),
        (
            "[listeners.Apps]\naddress = \"udp://0.0.0.0:1\"",
            "1:12",
            "is no name",
            "a to z",
        ),
        (
            "[listeners.apps]",
            "1:12",
            "listeners.apps has no address",
            "udp://0.0.0.0:4600",
        ),
        (
            "[listeners.a]\naddress = \"udp://localhost:1\"",
            "2:11",
            "is no address",
            "udp://127.0.0.1:1",
        ),
        (
            "[listeners.a]\naddress = \"tls://0.0.0.0:1\"",
            "2:11",
            "not in this version",
            "tcp://",
        ),
        (
            "[listeners.a]\naddress = \"udp://0.0.0.0:1\"\nreceive_buffer = \"1GiB\"",
            "3:18",
            "1GiB is out of range",
            "\"64KiB\"",
        ),
        (
            "[sinks.f]\nformat = \"avro\"",
            "1:8",
            "sinks.f has no type",
            "type = \"file\"",
        ),
        (
            "[sinks.f]\ntype = \"kafka\"",
            "2:8",
            "not in this version",
            "\"file\"",
        ),
        (
            "[sinks.f]\ntype = \"file\"\nformat = \"json\"",
            "3:10",
            "format",
            "\"jsonl\"",
        ),
        (
            "[sinks.f]\ntype = \"file\"\ncompression = \"snappy\"\nformat = \"jsonl\"",
            "3:15",
            "snappy",
            "\"zstd\" or \"none\"",
        ),
        (
            "[sinks.f]\ntype = \"file\"\nkeep.size = \"1MiB\"",
            "3:13",
            "less than one file of 256MiB",
            "keep at least",
        ),
        (
            "admin.address = \"localhost:4680\"",
            "1:17",
            "is no address",
            "127.0.0.1:4680",
        ),
        ("a\u{1b}b = 1", "1:2", "this is no TOML", "key = \"value\""),
        (
            "memory_max = \"\\u001b[2J\"",
            "1:14",
            "is no size",
            "256MiB",
        ),
        (
            "\"\\u001b[2J\" = 1",
            "1:1",
            "is no key here",
            "known here: data_dir, shards, io, memory_max, user, stop_timeout, admin, journal, listeners, gate, tenants, sinks, \
             schemas_dir, schemas",
        ),
    ];
    for (text, place, message, help) in cases {
        let printed = mistakes(text);
        let start = format!("penstock.toml:{place}: ");
        assert!(printed.starts_with(&start), "{text:?}: {printed}");
        assert!(printed.contains(message), "{text:?}: {printed}");
        assert!(printed.contains(help), "{text:?}: {printed}");
        assert!(printed.ends_with("\n1 mistake"), "{text:?}: {printed}");
        assert!(!printed.contains('\u{1b}'), "{printed:?}");
    }
}

#[test]
fn what_is_said_of_schemas() {
    use penstock::decode::avro::plan::Target;
    let read = settings(
        "schemas_dir = \"s\"\n[schemas.\"com.acme.Order-v2\"]\nunmapped = \"count\"\nregistry_id = 17\n\
         fields = { ts = \"time_unix_nano\", ctx.request = \"attribute\", \"ctx.debug\" = \"count\" }\n",
    );
    assert_eq!(read.schemas_dir, Some(PathBuf::from("s")));
    let schema = &read.schemas[0];
    assert_eq!(schema.name, "com.acme.Order-v2");
    assert_eq!(schema.registry_id, Some(17));
    assert!(schema.mapping.count_unmapped);
    let fields: Vec<(&str, Target)> = schema
        .mapping
        .fields
        .iter()
        .map(|(path, target)| (path.as_str(), *target))
        .collect();
    assert_eq!(
        fields,
        [
            ("ts", Target::TimeUnixNano),
            ("ctx.request", Target::Attribute),
            ("ctx.debug", Target::Count)
        ]
    );
    assert_eq!(settings(&config::show(&read)), read);
    let dir = "schemas_dir = \"s\"\n";
    for (text, place, message, help) in [
        (
            "[schemas.a]\nfields.x = \"bodi\"",
            "3:12",
            "schemas.a.fields.x: \"bodi\" is not known",
            "did you mean \"body\"?",
        ),
        (
            "[schemas.a]\nunmaped = \"count\"",
            "3:1",
            "unmaped is no key here",
            "did you mean unmapped?",
        ),
        (
            "[schemas.a]\nregistry_id = \"17\"",
            "3:15",
            "\"17\" is no id of a registry",
            "without quotes",
        ),
        (
            "[schemas.a]\nregistry_id = -1",
            "3:15",
            "-1 is no id of a registry",
            "as in 17",
        ),
        (
            "[schemas.a]\nregistry_id = 5\n[schemas.b]\nregistry_id = 5",
            "5:1",
            "schemas.b.registry_id is 5, which schemas.a already has",
            "penstock.toml:3:1",
        ),
        (
            "[schemas.\"../a\"]\nunmapped = \"count\"",
            "2:10",
            "\"../a\" is no schema file's name",
            "without .avsc",
        ),
        (
            "[schemas.a]\nfields = \"ts\"",
            "3:1",
            "schemas.a.fields is a value",
            "[schemas.a.fields]",
        ),
        (
            "[schemas.a]\nfields = { c.d = \"body\", \"c.d\" = \"count\" }",
            "3:",
            "schemas.a.fields.c.d is given twice",
            "keep one",
        ),
    ] {
        let printed = mistakes(&format!("{dir}{text}"));
        assert!(
            printed.contains(&format!("penstock.toml:{place}")),
            "{text}: {printed}"
        );
        assert!(printed.contains(message), "{text}: {printed}");
        assert!(printed.contains(help), "{text}: {printed}");
        assert!(printed.ends_with("1 mistake"), "{text}: {printed}");
    }
    let printed = mistakes("[schemas.a]\nregistry_id = 5");
    assert!(
        printed.contains("schemas.a has no file: schemas_dir is not given"),
        "{printed}"
    );
}

#[test]
fn a_broken_line_does_not_hide_the_mistakes_on_others() {
    let printed = mistakes("memory_max = 256MiB\n[admin]\nadress = \"127.0.0.1:1\"\n");
    assert!(printed.contains("penstock.toml:1:"), "{printed}");
    assert!(
        printed.contains("penstock.toml:3:1: adress is no key here"),
        "{printed}"
    );
    assert!(printed.ends_with("2 mistakes"), "{printed}");
}

#[test]
fn the_same_key_twice_names_both_places() {
    let printed = mistakes("[admin]\naddress = \"127.0.0.1:1\"\n\naddress = \"127.0.0.1:2\"\n");
    assert!(
        printed.starts_with("penstock.toml:4:1: address is given twice"),
        "{printed}"
    );
    assert!(
        printed.contains("the other is at penstock.toml:2:1"),
        "{printed}"
    );

    let listener = "[listeners.apps]\naddress = \"udp://0.0.0.0:1\"\n";
    let again = "[listeners.apps]\nreceive_buffer = \"1MiB\"\n";
    let printed = mistakes(&format!("{listener}{again}"));
    assert!(
        printed.starts_with("penstock.toml:3:12: apps is given twice"),
        "{printed}"
    );
    assert!(
        printed.contains("the other is at penstock.toml:1:12"),
        "{printed}"
    );
}

#[test]
fn two_sockets_on_one_address_are_refused_but_udp_and_tcp_share_a_port() {
    let two = |first: &str, second: &str| {
        format!("[listeners.a]\naddress = \"{first}\"\n[listeners.b]\naddress = \"{second}\"\n")
    };
    let printed = mistakes(&two("udp://0.0.0.0:4600", "udp://0.0.0.0:4600"));
    assert!(
        printed.starts_with("penstock.toml:4:11: listeners.b.address is udp://0.0.0.0:4600, which"),
        "{printed}"
    );
    assert!(
        printed.contains("the other is at penstock.toml:2:11"),
        "{printed}"
    );
    assert_eq!(
        settings(&two("udp://0.0.0.0:4600", "tcp://0.0.0.0:4600"))
            .listeners
            .len(),
        2
    );
    assert_eq!(
        settings(&two("udp://127.0.0.1:0", "udp://127.0.0.1:0"))
            .listeners
            .len(),
        2
    );
    // The admin server's address is taken too, even where it is the built-in one.
    let printed = mistakes("[listeners.a]\naddress = \"tcp://127.0.0.1:4680\"\n");
    assert!(
        printed.contains("which admin.address already has"),
        "{printed}"
    );
}

#[test]
fn listeners_and_names_have_their_bounds() {
    let many = |count: usize| -> String {
        (0..count)
            .map(|i| {
                format!(
                    "[listeners.l{i}]\naddress = \"udp://127.0.0.1:{}\"\n",
                    5000 + i
                )
            })
            .collect()
    };
    assert_eq!(settings(&many(64)).listeners.len(), 64);
    assert!(mistakes(&many(65)).contains("65 listeners, where at most 64 may be"));
    let named = |name: &str| format!("[listeners.{name}]\naddress = \"udp://127.0.0.1:1\"\n");
    assert_eq!(
        settings(&named(&"a".repeat(32))).listeners[0].name.len(),
        32
    );
    for bad in [
        &"a".repeat(33),
        "Ab",
        "1a",
        "_a",
        "\"a.b\"",
        "\"\"",
        "\"a b\"",
        "\"ä\"",
    ] {
        assert!(mistakes(&named(bad)).contains("is no name"), "{bad}");
    }
}

#[test]
fn memory_is_what_the_pools_add_up_to() {
    // One shard, by hand: 17 journal blocks of 1 MiB + 4 KiB, 8 MiB and 128 × 68 KiB of receive
    // buffers, 256 × 4 KiB to send, 32 MiB of cut frames, 8 MiB of tables, 4,096 producers of 4,352
    // bytes and a decoder: 1 MiB of text and 64 KiB of names, 209,715 attributes of 16 bytes, 1 MiB
    // decompressed and 192 KiB for that; a sink a block, a decoder and 8 MiB; the process 16 MiB.
    let block = 1024 * 1024 + 4096;
    let decoder = MIB + 64 * 1024 + 209_715 * 16 + MIB + 192 * 1024;
    let windows = 4096 * 4352;
    let pools = 17 * block + 8 * MIB + 128 * 68 * 1024 + MIB + 32 * MIB;
    let shard = pools + 8 * MIB + windows + decoder;
    let sink = block + decoder + 8 * MIB;
    assert_eq!(limits::memory_needed(1, 1), 16 * MIB + shard + sink);
    assert_eq!(
        limits::memory_needed(3, 2),
        16 * MIB + 3 * (shard + 2 * sink)
    );
    assert_eq!(limits::journal_needed(3), 3 * 32 * MIB);
    // `auto` takes what fits into 256 MiB, and never less than one.
    assert_eq!(builtin().shard_count(1), 1);
    assert_eq!(builtin().shard_count(2), 2);
    assert_eq!(builtin().shard_count(64), 2);
    assert_eq!(settings("shards = 2").shard_count(64), 2);
}

#[test]
fn files_in_conf_d_are_merged_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let main = folder.path().join("penstock.toml");
    let more = folder.path().join("conf.d");
    std::fs::create_dir(&more).expect("conf.d");
    std::fs::write(&main, "shards = 1\n[journal]\nmax_size = \"1GiB\"\n").expect("a file");
    let write = |name: &str, text: &str| std::fs::write(more.join(name), text).expect("a file");
    write(
        "20-b.toml",
        "[listeners.b]\naddress = \"udp://127.0.0.1:2\"\n",
    );
    write(
        "10-a.toml",
        "[listeners.a]\naddress = \"udp://127.0.0.1:1\"\n[journal]\nmin_free = \"0%\"\n",
    );
    write("ignored.conf", "this is no TOML");

    let loaded = config::load(Some(&main)).unwrap_or_else(|error| panic!("{error}"));
    let names: Vec<_> = loaded
        .settings
        .listeners
        .iter()
        .map(|l| l.name.as_str())
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(loaded.settings.journal.max_size, GIB);
    assert_eq!(loaded.settings.journal.min_free, MinFree::Percent(0.0));
    assert_eq!(
        loaded.files,
        [main.clone(), more.join("10-a.toml"), more.join("20-b.toml")]
    );

    write("30-c.toml", "\n[journal]\nmax_size = \"2GiB\"\n");
    let Err(LoadError::Mistakes(mistakes)) = config::load(Some(&main)) else {
        panic!("the same key in two files passed");
    };
    let [mistake] = mistakes.0.as_slice() else {
        panic!("{mistakes}");
    };
    assert_eq!(mistake.message, "journal.max_size is given twice");
    assert_eq!(mistake.position.path, more.join("30-c.toml"));
    assert_eq!((mistake.position.line, mistake.position.column), (3, 1));
    let other = mistake.other.as_ref().expect("the other place");
    assert_eq!((&other.path, other.line, other.column), (&main, 3, 1));
}

#[test]
fn what_cannot_be_read_ends_with_its_own_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = config::load(Some(&folder.path().join("none.toml"))).expect_err("missing");
    let failure = Failure::from(missing);
    assert_eq!(failure.exit, Exit::NoInput);
    assert!(failure.message.contains("none.toml"), "{failure}");

    let file = folder.path().join("penstock.toml");
    std::fs::write(&file, b"# fine\nshards = \"\xff\"\n").expect("a file");
    let error = config::load(Some(&file)).expect_err("not UTF-8");
    assert!(
        error.to_string().contains("line 2, column 11: not UTF-8"),
        "{error}"
    );

    std::fs::write(&file, "#".repeat(1024 * 1024 + 1)).expect("a file");
    let error = config::load(Some(&file)).expect_err("too long");
    assert!(error.to_string().contains("longer than 1MiB"), "{error}");

    std::fs::write(&file, "shards = 0").expect("a file");
    let error = config::load(Some(&file)).expect_err("wrong");
    assert_eq!(Failure::from(error).exit, Exit::Config);
}

/// Pieces that a careless hand might leave anywhere in the file.
const PIECES: [&str; 16] = [
    "[",
    "]",
    "=",
    "\"",
    ".",
    "#",
    "\n",
    "\r\n",
    "{",
    "}",
    "\u{e4}",
    "\\u001b",
    "\0",
    "[sinks.x]\n",
    "address = 1\n",
    "[[listeners]]\n",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever becomes of the example: it is read, and reads back the same, or mistakes are named
    /// at places that exist. It never panics.
    #[test]
    fn a_damaged_file_is_read_or_refused(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0..12_usize, 0..16_usize), 1..6)
    ) {
        let mut text: Vec<char> = config::EXAMPLE.chars().collect();
        for (at, removed, piece) in edits {
            let start = at.index(text.len());
            let end = (start + removed).min(text.len());
            text.splice(start..end, PIECES[piece].chars());
        }
        let text: String = text.into_iter().collect();
        match config::parse("penstock.toml", &text) {
            Ok(settings) => {
                let shown = config::show(&settings);
                prop_assert_eq!(config::parse("shown.toml", &shown), Ok(settings));
            }
            Err(mistakes) => {
                prop_assert!(!mistakes.0.is_empty());
                for mistake in &mistakes.0 {
                    let line = text.split('\n').nth(mistake.position.line - 1);
                    let columns = line.map(|line| line.chars().count());
                    prop_assert!(columns.is_some_and(|c| mistake.position.column <= c + 1), "{}", mistake);
                    prop_assert!(!mistake.to_string().contains(['\u{1b}', '\0', '\r']), "{}", mistake);
                }
            }
        }
    }
}

/// The design's own example, as it stands there.
const DESIGN: &str = r#"
data_dir = "/var/lib/penstock"
shards = "auto"
memory_max = "256MiB"
[admin]
address = "127.0.0.1:4680"
[journal]
max_size = "8GiB"
min_free = "10%"
sync = "always"
commit_interval = "5ms"
[listeners.apps]
address = "udp://0.0.0.0:4600"
receive_buffer = "16MiB"
[gate]
mode = "auto"
deny = ["203.0.113.0/24"]
limits."10.0.0.0/8" = { rate = "50k/s", burst = "200k" }
[sinks.files]
type = "file"
format = "avro"
compression = "zstd"
rotate = { size = "256MiB", age = "5m" }
keep = { size = "50GiB", age = "7d" }
"#;

#[test]
fn the_design_s_example_holds() {
    let apps = ListenerSettings {
        name: "apps".to_owned(),
        protocol: Protocol::Udp,
        address: address("0.0.0.0:4600"),
        receive_buffer: Some(16 * MIB),
    };
    let prefix = |text| Prefix::parse(text).expect("a prefix");
    let limit = SourceLimit {
        datagrams: Some(Rate {
            sustained: 50_000,
            burst: 200_000,
        }),
        ..SourceLimit::default()
    };
    let expected = Settings {
        data_dir: PathBuf::from("/var/lib/penstock"),
        listeners: vec![apps],
        gate: GateSettings {
            mode: GateMode::Auto,
            policy: GatePolicy {
                deny: vec![prefix("203.0.113.0/24")],
                limits: vec![(prefix("10.0.0.0/8"), limit)],
                // Nobody has said, so it is what the one source may.
                newcomers: limit,
                ..GatePolicy::default()
            },
        },
        ..builtin()
    };
    assert_eq!(settings(DESIGN), expected);
}
