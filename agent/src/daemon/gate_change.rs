//! A change of the gate's policy as a person asks for it: words in, another policy out, or why not.
//! Nothing is applied here.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::{self, Wrong};
use crate::gate::policy::{GatePolicy, Prefix, SourceLimit};
use crate::limits::{GATE_LIMITS_MAX, GATE_PREFIXES_MAX};

/// Words that stand where a prefix may: the policy's other limits.
const SOURCE_LIMIT: &str = "source_limit";
const NEWCOMERS: &str = "newcomers";

/// By the priority's number, as `gate.keep` has them.
const PRIORITIES: [&str; 4] = ["critical", "high", "normal", "background"];

/// A limit as text, by the configuration's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitWords {
    pub rate: Option<String>,
    pub burst: Option<String>,
    pub byte_rate: Option<String>,
    pub byte_burst: Option<String>,
    pub connection_rate: Option<String>,
    pub connection_burst: Option<String>,
}

impl LimitWords {
    fn get(&self, key: &str) -> Option<&str> {
        let word = match key {
            "rate" => &self.rate,
            "burst" => &self.burst,
            "byte_rate" => &self.byte_rate,
            "byte_burst" => &self.byte_burst,
            "connection_rate" => &self.connection_rate,
            "connection_burst" => &self.connection_burst,
            _ => unreachable!("{key} is no key of a limit"),
        };
        word.as_deref()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    Allow,
    Deny,
}

impl List {
    const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }

    fn of(self, policy: &mut GatePolicy) -> (&mut Vec<Prefix>, &Vec<Prefix>) {
        match self {
            Self::Allow => (&mut policy.allow, &policy.deny),
            Self::Deny => (&mut policy.deny, &policy.allow),
        }
    }

    const fn other(self) -> &'static str {
        match self {
            Self::Allow => Self::Deny.name(),
            Self::Deny => Self::Allow.name(),
        }
    }
}

/// What was done to the policy, a line each; or why nothing may be.
type Done = Result<Vec<String>, String>;

/// Puts prefixes into a list. What is there already is no mistake.
pub fn list(policy: &mut GatePolicy, list: List, words: &[String]) -> Done {
    let mut lines = Vec::new();
    for word in words {
        let prefix = prefix(word)?;
        let name = list.name();
        let (own, other) = list.of(policy);
        if other.contains(&prefix) {
            let other = list.other();
            return Err(format!(
                "{prefix} is in gate.{other}: `penstock gate remove {prefix}` takes it out there \
                 first; within a wider prefix a longer one may say otherwise"
            ));
        }
        if own.contains(&prefix) {
            lines.push(format!("{name} {prefix}: already there"));
            continue;
        }
        own.push(prefix);
        lines.push(format!("{name} {prefix}: added"));
    }
    let (entries, _) = policy.entries();
    if entries > GATE_PREFIXES_MAX {
        return Err(format!(
            "gate.allow and gate.deny would have {entries} prefixes together, where \
             {GATE_PREFIXES_MAX} fit the gate's map: name wider prefixes"
        ));
    }
    Ok(lines)
}

/// Sets the limit of each source within a prefix, of every source, or of the newcomers.
pub fn limit(policy: &mut GatePolicy, sources: &str, words: &LimitWords) -> Done {
    let limit = parse_limit(words)?;
    let shown = shown(&limit);
    match sources {
        SOURCE_LIMIT => policy.change_limits(|policy| policy.source_limit = limit),
        NEWCOMERS => {
            policy.newcomers = limit;
            policy.fill_newcomers();
        }
        _ => {
            let prefix = prefix(sources)?;
            let known = policy.limits.iter().position(|(known, _)| *known == prefix);
            if known.is_none() && policy.limits.len() >= GATE_LIMITS_MAX {
                return Err(format!(
                    "gate.limits has {GATE_LIMITS_MAX} prefixes, which is what fits the gate's \
                     map: name a wider prefix"
                ));
            }
            policy.change_limits(|policy| match known {
                Some(at) => policy.limits[at].1 = limit,
                None => policy.limits.push((prefix, limit)),
            });
        }
    }
    let mut lines = vec![format!("limit {sources}: {shown}")];
    if sources != NEWCOMERS {
        let newcomers = self::shown(&policy.newcomers);
        lines.push(format!("sources not known yet, together: {newcomers}"));
    }
    Ok(lines)
}

/// Sets how much of a priority is kept at the most.
pub fn keep(policy: &mut GatePolicy, priority: &str, ratio: &str) -> Done {
    let Some(at) = PRIORITIES.iter().position(|name| *name == priority) else {
        return Err(format!(
            "\"{priority}\" is no priority: it may be {}",
            PRIORITIES.join(", ")
        ));
    };
    let keep = config::parse_keep(ratio).map_err(in_a_line)?;
    policy.keep[at] = keep;
    Ok(vec![format!("keep {priority}: {keep}/16 at the most")])
}

/// Takes prefixes out of whatever has them; one that nothing has is a mistake, as it is most often a
/// slip of the fingers.
pub fn remove(policy: &mut GatePolicy, words: &[String]) -> Done {
    let mut lines = Vec::new();
    for word in words {
        let before = lines.len();
        match word.as_str() {
            SOURCE_LIMIT if !policy.source_limit.is_none() => {
                policy.change_limits(|policy| policy.source_limit = SourceLimit::default());
                lines.push(format!("limit {word}: removed"));
            }
            NEWCOMERS if !policy.newcomers.is_none() => {
                policy.newcomers = SourceLimit::default();
                policy.fill_newcomers();
                lines.push(format!(
                    "{word}: as derived from the limits, {}",
                    shown(&policy.newcomers)
                ));
            }
            SOURCE_LIMIT | NEWCOMERS => {}
            _ => {
                let prefix = prefix(word)?;
                for list in [List::Allow, List::Deny] {
                    let (own, _) = list.of(policy);
                    let count = own.len();
                    own.retain(|known| *known != prefix);
                    if own.len() < count {
                        lines.push(format!("{} {prefix}: removed", list.name()));
                    }
                }
                if policy.limits.iter().any(|(known, _)| *known == prefix) {
                    policy.change_limits(|policy| {
                        policy.limits.retain(|(known, _)| *known != prefix);
                    });
                    lines.push(format!("limit {prefix}: removed"));
                }
            }
        }
        if lines.len() == before {
            return Err(format!(
                "{word} is in no list and has no limit: `penstock gate show` says what there is"
            ));
        }
    }
    Ok(lines)
}

/// The policy as the configuration writes it.
pub fn to_json(policy: &GatePolicy) -> Value {
    let prefixes = |list: &[Prefix]| -> Vec<String> {
        let mut list = list.to_vec();
        list.sort();
        list.iter().map(Prefix::to_string).collect()
    };
    let mut limits = policy.limits.clone();
    limits.sort_by_key(|(prefix, _)| *prefix);
    let limits: Map<String, Value> = limits
        .iter()
        .map(|(prefix, limit)| (prefix.to_string(), limit_json(limit)))
        .collect();
    let keep: Map<String, Value> = PRIORITIES
        .iter()
        .zip(policy.keep)
        .map(|(name, keep)| ((*name).to_owned(), json!(format!("{keep}/16"))))
        .collect();
    json!({
        "allow": prefixes(&policy.allow),
        "deny": prefixes(&policy.deny),
        "source_limit": limit_json(&policy.source_limit),
        "limits": limits,
        "newcomers": limit_json(&policy.newcomers),
        "source_prefix_v4": policy.source_prefix_v4,
        "source_prefix_v6": policy.source_prefix_v6,
        "keep": keep,
        "connections_per_source": policy.connections_max,
    })
}

fn limit_json(limit: &SourceLimit) -> Value {
    let pairs = config::limit_pairs(limit).into_iter();
    let pairs = pairs.map(|(key, value)| (key.to_owned(), json!(value.trim_matches('"'))));
    Value::Object(pairs.collect())
}

fn shown(limit: &SourceLimit) -> String {
    let pairs = config::limit_pairs(limit).into_iter();
    let pairs: Vec<String> = pairs
        .map(|(key, value)| format!("{key} {}", value.trim_matches('"')))
        .collect();
    match pairs.is_empty() {
        true => "no limit".to_owned(),
        false => pairs.join(", "),
    }
}

fn prefix(word: &str) -> Result<Prefix, String> {
    config::parse_prefix(word).map_err(in_a_line)
}

fn parse_limit(words: &LimitWords) -> Result<SourceLimit, String> {
    let limit = config::parse_limit(|key| words.get(key)).map_err(in_a_line)?;
    match limit.is_none() {
        true => Err("a limit of nothing: give a rate and a burst, as in 50k/s 200k".to_owned()),
        false => Ok(limit),
    }
}

fn in_a_line(Wrong { message, help }: Wrong) -> String {
    format!("{message}: {help}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::policy::Rate;

    fn words(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn limit_words(rate: &str, burst: &str) -> LimitWords {
        LimitWords {
            rate: Some(rate.to_owned()),
            burst: Some(burst.to_owned()),
            ..LimitWords::default()
        }
    }

    #[test]
    fn a_prefix_goes_into_one_list_and_out_again() {
        let mut policy = GatePolicy::default();
        let done = list(
            &mut policy,
            List::Deny,
            &words(&["203.0.113.7", "2001:db8::/32"]),
        );
        assert_eq!(
            done,
            Ok(words(&[
                "deny 203.0.113.7/32: added",
                "deny 2001:db8::/32: added"
            ]))
        );
        let done = list(&mut policy, List::Deny, &words(&["203.0.113.7/32"]));
        assert_eq!(done, Ok(words(&["deny 203.0.113.7/32: already there"])));
        assert_eq!(policy.deny.len(), 2);
        let why = list(&mut policy, List::Allow, &words(&["203.0.113.7"])).expect_err("denied");
        assert!(why.contains("is in gate.deny"), "{why}");
        let done = remove(&mut policy, &words(&["203.0.113.7", "2001:db8::/32"]));
        assert_eq!(
            done,
            Ok(words(&[
                "deny 203.0.113.7/32: removed",
                "deny 2001:db8::/32: removed"
            ]))
        );
        assert_eq!(policy, GatePolicy::default());
        for wrong in [
            "203.0.113.7",
            "source_limit",
            "newcomers",
            "10.0.0.1/8",
            "x",
        ] {
            remove(&mut policy, &words(&[wrong])).expect_err(wrong);
        }
    }

    #[test]
    fn a_limit_is_set_replaced_and_removed_and_the_newcomers_follow() {
        let mut policy = GatePolicy::default();
        let rate = |sustained, burst| Some(Rate { sustained, burst });
        limit(&mut policy, "10.0.0.0/8", &limit_words("50k/s", "200k")).expect("set");
        assert_eq!(policy.limits[0].1.datagrams, rate(50_000, 200_000));
        assert_eq!(policy.newcomers.datagrams, rate(50_000, 200_000));
        limit(&mut policy, "10.0.0.0/8", &limit_words("1/s", "2")).expect("replaced");
        assert_eq!(policy.limits.len(), 1);
        assert_eq!(policy.newcomers.datagrams, rate(1, 2));
        limit(&mut policy, "newcomers", &limit_words("7/s", "9")).expect("set");
        limit(&mut policy, "source_limit", &limit_words("3/s", "4")).expect("set");
        assert_eq!(policy.source_limit.datagrams, rate(3, 4));
        assert_eq!(policy.newcomers.datagrams, rate(7, 9), "as it was given");
        remove(&mut policy, &words(&["newcomers"])).expect("removed");
        assert_eq!(policy.newcomers.datagrams, rate(3, 4), "derived again");
        remove(&mut policy, &words(&["source_limit", "10.0.0.0/8"])).expect("removed");
        assert_eq!(policy, GatePolicy::default());
    }

    #[test]
    fn what_is_wrong_says_what_would_be_right() {
        let mut policy = GatePolicy::default();
        let half = LimitWords {
            rate: Some("50k/s".to_owned()),
            ..LimitWords::default()
        };
        for (why, words) in [
            (limit(&mut policy, "10.0.0.0/8", &half), "burst = \"100k\""),
            (
                limit(&mut policy, "10.0.0.0/8", &LimitWords::default()),
                "50k/s 200k",
            ),
            (
                limit(&mut policy, "10.0.0.0/8", &limit_words("0/s", "1")),
                "limit of zero",
            ),
            (
                limit(&mut policy, "10.0.0.1/8", &limit_words("1/s", "1")),
                "\"10.0.0.0/8\"",
            ),
            (keep(&mut policy, "normal", "30%"), "\"4/16\" (25%)"),
            (
                keep(&mut policy, "urgent", "50%"),
                "critical, high, normal, background",
            ),
            (
                list(&mut policy, List::Allow, &self::words(&["10.0.0.1/8"])),
                "\"10.0.0.0/8\"",
            ),
        ] {
            let why = why.expect_err(words);
            assert!(why.contains(words), "{words}: {why}");
        }
        assert_eq!(
            keep(&mut policy, "background", "25%"),
            Ok(words(&["keep background: 4/16 at the most"]))
        );
        assert_eq!(policy.keep, [16, 16, 16, 4]);
    }

    #[test]
    fn the_lists_end_where_the_map_does() {
        let mut policy = GatePolicy::default();
        let many: Vec<String> = (0..=GATE_PREFIXES_MAX)
            .map(|at| format!("10.0.{}.{}", at >> 8, at & 255))
            .collect();
        list(&mut policy, List::Deny, &many[1..]).expect("as many as fit");
        let why = list(&mut policy, List::Allow, &many[..1]).expect_err("one more");
        assert!(why.contains("name wider prefixes"), "{why}");
    }
}
