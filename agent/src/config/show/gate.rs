//! `[gate]` as TOML.

use super::{line, put};
use crate::config::key::{self, Key};
use crate::config::settings::GateSettings;
use crate::gate::policy::{GatePolicy, Prefix, Rate, SourceLimit};

pub(super) fn gate(out: &mut String, gate: &GateSettings) {
    let policy = &gate.policy;
    out.push_str("\n[gate]\n");
    line(out, &key::GATE_MODE, &gate.mode);
    list(out, &key::GATE_ALLOW, &policy.allow);
    list(out, &key::GATE_DENY, &policy.deny);
    limit(out, "source_limit", &policy.source_limit);
    for (prefix, own) in &policy.limits {
        limit(out, &format!("limits.\"{prefix}\""), own);
    }
    limit(out, "newcomers", &policy.newcomers);
    line(out, &key::GATE_SOURCE_PREFIX_V4, &policy.source_prefix_v4);
    line(out, &key::GATE_SOURCE_PREFIX_V6, &policy.source_prefix_v6);
    let keep = key::GATE_KEEP.iter().zip(&policy.keep);
    let keep: Vec<String> = keep
        .map(|(key, keep)| format!("{} = {}", last(key), (key.show)(keep)))
        .collect();
    put(out, format_args!("keep = {{ {} }}\n", keep.join(", ")));
    if let Some(count) = &policy.connections_max {
        line(out, &key::GATE_CONNECTIONS_PER_SOURCE, count);
    }
}

/// An empty list is no line: an `allow` that is there and empty would read as if nothing may pass.
fn list(out: &mut String, key: &Key<Prefix>, prefixes: &[Prefix]) {
    if prefixes.is_empty() {
        return;
    }
    let shown: Vec<String> = prefixes.iter().map(key.show).collect();
    put(
        out,
        format_args!("{} = [{}]\n", last(key), shown.join(", ")),
    );
}

fn limit(out: &mut String, name: &str, limit: &SourceLimit) {
    let pairs = limit_pairs(limit);
    if pairs.is_empty() {
        return;
    }
    let shown: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    put(out, format_args!("{name} = {{ {} }}\n", shown.join(", ")));
}

/// What holds for unknown sources where there is a limit, in a line: it may be derived.
pub fn newcomers_note(policy: &GatePolicy) -> Option<String> {
    let derived = policy.derived_newcomers();
    if derived.is_none() {
        return None;
    }
    let by = match policy.newcomers == derived {
        true => "as much as the one source that may send the most",
        false => "gate.newcomers",
    };
    let pairs = limit_pairs(&policy.newcomers);
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{name} {}", value.trim_matches('"')))
        .collect();
    Some(format!(
        "sources that the gate does not know yet may send together {} ({by})",
        pairs.join(", ")
    ))
}

/// Each key of a limit and its value as TOML.
pub fn limit_pairs(limit: &SourceLimit) -> Vec<(&'static str, String)> {
    let SourceLimit {
        datagrams,
        bytes,
        connections,
    } = limit;
    let of = |rate: &Option<Rate>, keys: [Key<u64>; 2]| {
        let rate = rate.as_ref()?;
        let [sustained, burst] = keys;
        Some([
            (sustained.path, (sustained.show)(&rate.sustained)),
            (burst.path, (burst.show)(&rate.burst)),
        ])
    };
    [
        of(datagrams, [key::LIMIT_RATE, key::LIMIT_BURST]),
        of(bytes, [key::LIMIT_BYTE_RATE, key::LIMIT_BYTE_BURST]),
        of(
            connections,
            [key::LIMIT_CONNECTION_RATE, key::LIMIT_CONNECTION_BURST],
        ),
    ]
    .into_iter()
    .flatten()
    .flatten()
    .collect()
}

fn last<T>(key: &Key<T>) -> &'static str {
    key.path.rsplit('.').next().unwrap_or(key.path)
}
