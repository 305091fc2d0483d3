//! The operators' pages say what is so: each command line in them is one that the binary takes, each
//! configuration is right, each link leads somewhere, and the numbers are those of limits.rs.

use std::path::{Path, PathBuf};

use penstock::command::parses;
use penstock::{config, limits};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Name and text of the pages that operators read.
fn pages() -> Vec<(PathBuf, String)> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(workspace().join("docs"))
        .expect("docs/")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    paths.sort();
    for other in ["README.md", "agent/OPERATING.md", "packaging/INSTALL.md"] {
        paths.push(workspace().join(other));
    }
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path);
        (
            path.clone(),
            text.unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        )
    };
    paths.into_iter().map(read).collect()
}

/// The lines between ```LANGUAGE and ```.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    let begun = text.split(fence.as_str()).skip(1);
    begun
        .map(|rest| rest.split("```").next().unwrap_or_default())
        .collect()
}

/// The commands of a shell's line: its words, split at pipes and the like. Enough of a shell for
/// documents: quotes, comments, continued lines.
fn commands(script: &str) -> Vec<Vec<String>> {
    let mut all = vec![Vec::new()];
    let mut word = String::new();
    let mut quote = None;
    let mut is_word = false;
    let mut letters = script.chars().peekable();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (Some(_), _) => word.push(letter),
            (None, '\'' | '"') => {
                quote = Some(letter);
                is_word = true;
            }
            (None, '\\') if letters.peek() == Some(&'\n') => {
                letters.next();
            }
            (None, '#') if !is_word => while letters.next_if(|next| *next != '\n').is_some() {},
            (None, ' ' | '\t' | '\n' | '|' | '&' | ';' | '>' | '<') => {
                if is_word {
                    all.last_mut()
                        .expect("begun")
                        .push(std::mem::take(&mut word));
                    is_word = false;
                }
                if !matches!(letter, ' ' | '\t') {
                    all.push(Vec::new());
                }
            }
            (None, _) => {
                word.push(letter);
                is_word = true;
            }
        }
    }
    if is_word {
        all.last_mut().expect("begun").push(word);
    }
    all.retain(|words| !words.is_empty());
    all
}

#[test]
fn every_command_line_is_one_that_the_binary_takes() {
    let mut seen = 0;
    for (path, text) in pages() {
        for words in blocks(&text, "sh").into_iter().flat_map(commands) {
            if !words[0].ends_with("penstock") {
                continue;
            }
            let rest = words[1..].iter().map(String::as_str);
            parses(["penstock"].into_iter().chain(rest))
                .unwrap_or_else(|error| panic!("{}: {words:?}: {error}", path.display()));
            seen += 1;
        }
    }
    assert!(seen >= 10, "the pages have command lines: {seen}");
}

/// Subcommands that stand in running text, as `penstock check`.
#[test]
fn every_subcommand_that_is_mentioned_exists() {
    let mut seen = 0;
    for (path, text) in pages() {
        let code = text.split('`').skip(1).step_by(2);
        for mention in code.filter_map(|code| code.strip_prefix("penstock ")) {
            let name = mention.split_whitespace().next().unwrap_or_default();
            if !name.bytes().all(|byte| byte.is_ascii_lowercase()) {
                continue;
            }
            parses(["penstock", name, "--help"])
                .unwrap_or_else(|error| panic!("{}: {mention}: {error}", path.display()));
            seen += 1;
        }
    }
    assert!(seen >= 15, "the pages mention commands: {seen}");
}

#[test]
fn every_configuration_is_right() {
    let mut seen = 0;
    for (path, text) in pages() {
        for block in blocks(&text, "toml") {
            if let Err(mistakes) = config::parse("page.toml", block) {
                panic!("{}: {mistakes}\n{block}", path.display());
            }
            seen += 1;
        }
    }
    assert!(seen >= 4, "the pages have configurations: {seen}");
}

#[test]
fn every_link_leads_to_a_file() {
    for (path, text) in pages() {
        let folder = path.parent().expect("a folder");
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let (file, _) = target.split_once('#').unwrap_or((target, ""));
            let is_elsewhere = target.contains("://") || file.is_empty();
            assert!(
                is_elsewhere || folder.join(file).exists(),
                "{}: {target}",
                path.display()
            );
        }
    }
}

/// The cells of a table's row, by its first cell.
fn row<'a>(text: &'a str, first: &str) -> Vec<&'a str> {
    let begins = format!("| {first} |");
    let line = text.lines().find(|line| line.starts_with(&begins));
    let line = line.unwrap_or_else(|| panic!("sizing.md has no row {first}"));
    line.trim_matches('|').split('|').map(str::trim).collect()
}

const MIB: u64 = 1 << 20;

#[test]
fn the_numbers_of_sizing_are_those_of_limits() {
    let text = std::fs::read_to_string(workspace().join("docs/sizing.md")).expect("sizing.md");
    for shards in [1, 2, 4, 8, 16] {
        let mib = |bytes: u64| format!("{} MiB", bytes.div_ceil(MIB));
        let expected = [
            shards.to_string(),
            mib(limits::memory_needed(shards, 1)),
            mib(limits::memory_needed(shards, 2)),
            mib(limits::memory_needed(shards, 3)),
            mib(limits::journal_needed(shards)),
            limits::open_files_needed(shards, 2, 1).to_string(),
            mib(limits::locked_memory_needed(shards)),
        ];
        assert_eq!(row(&text, &shards.to_string()), expected, "docs/sizing.md");
    }
    let per_shard = limits::SHARD_MEMORY as f64 / MIB as f64;
    let per_sink = limits::SINK_SHARD_MEMORY as f64 / MIB as f64;
    let formula = format!(
        "{} MiB + shards × ({per_shard:.0} MiB + sinks × {per_sink:.1} MiB)",
        limits::PROCESS_MEMORY / MIB
    );
    assert!(text.contains(&formula), "{formula}");
    for (what, number) in [
        ("connections", limits::CONNECTIONS_MAX),
        (
            "producers remembered (segments of 256 MiB)",
            limits::producers_max(limits::SEGMENT_LEN_MAX),
        ),
        (
            "producers remembered (segments of 8 MiB)",
            limits::producers_max(limits::SEGMENT_LEN_MIN),
        ),
        (
            "frames of one producer that are not settled",
            limits::OUTSTANDING_FRAMES_MAX,
        ),
    ] {
        assert_eq!(row(&text, what), [what.to_owned(), number.to_string()]);
    }
    let segments = [limits::SEGMENT_LEN_MIN, limits::SEGMENT_LEN_MAX].map(|len| len / MIB);
    assert_eq!(segments, [8, 256], "the rows' names say so");
    let longest = format!("{} MiB", limits::TCP_PAYLOAD_LEN_MAX as u64 / MIB);
    assert_eq!(
        row(&text, "longest frame over TCP"),
        ["longest frame over TCP", &longest]
    );
}

#[test]
fn a_shell_s_line_is_split_as_a_shell_would() {
    let split =
        commands("echo 'a | b' | penstock send --to x  # one\npenstock \\\n  check && true\n");
    let expected: [&[&str]; 4] = [
        &["echo", "a | b"],
        &["penstock", "send", "--to", "x"],
        &["penstock", "check"],
        &["true"],
    ];
    assert_eq!(split, expected);
}
