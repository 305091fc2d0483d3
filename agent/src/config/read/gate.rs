//! `[gate]`: lists, limits and ratios, and how they relate.

use super::Reader;
use crate::config::document::{Entry, Item, Leaf, Place, Value, join};
use crate::config::key::{self, Key, parse_prefix};
use crate::gate::policy::{GatePolicy, Prefix, Rate, SourceLimit};
use crate::limits::{GATE_LIMITS_MAX, GATE_PREFIXES_MAX};

/// A prefix and where it was given.
struct Given {
    prefix: Prefix,
    place: Place,
}

/// What is wrong at a place, while the document is borrowed.
struct Fault {
    place: Place,
    message: String,
    help: String,
    other: Option<Place>,
}

impl Reader {
    pub(super) fn gate_policy(&mut self) -> GatePolicy {
        let allow = self.prefixes(&key::GATE_ALLOW);
        let deny = self.prefixes(&key::GATE_DENY);
        self.one_list_each(&allow, &deny);
        let limits = self.limits();
        let of = |given: Vec<Given>| given.into_iter().map(|given| given.prefix).collect();
        let mut policy = GatePolicy {
            allow: of(allow),
            deny: of(deny),
            source_limit: self.source_limit("gate.source_limit"),
            limits,
            source_prefix_v4: self.value(&key::GATE_SOURCE_PREFIX_V4, ""),
            source_prefix_v6: self.value(&key::GATE_SOURCE_PREFIX_V6, ""),
            newcomers: self.source_limit("gate.newcomers"),
            keep: std::array::from_fn(|priority| self.value(&key::GATE_KEEP[priority], "")),
            connections_max: self.given(&key::GATE_CONNECTIONS_PER_SOURCE, ""),
        };
        policy.fill_newcomers();
        policy
    }

    /// Each entry of a list is looked at by itself; a text alone is a list of one.
    fn prefixes(&mut self, key: &Key<Prefix>) -> Vec<Given> {
        let Some((leaf, place)) = self.document.leaf(key.path) else {
            return Vec::new();
        };
        let place = place.clone();
        let items: Vec<(Leaf, Place)> = match leaf {
            Leaf::List(items) => items
                .iter()
                .map(|Item { text, place }| (Leaf::Text(text.clone()), place.clone()))
                .collect(),
            other => vec![(other.clone(), place.clone())],
        };
        if items.len() > GATE_PREFIXES_MAX {
            let message = format!(
                "{}: {} prefixes, where allow and deny may have {GATE_PREFIXES_MAX} together",
                key.path,
                items.len()
            );
            let help = "name wider prefixes".to_owned();
            self.document.mistake(&place, message, help, None);
            return Vec::new();
        }
        let mut given = Vec::new();
        for (leaf, place) in items {
            match (key.parse)(&leaf) {
                Ok(prefix) => given.push(Given { prefix, place }),
                Err(wrong) => {
                    let message = format!("{}: {}", key.path, wrong.message);
                    self.document.mistake(&place, message, wrong.help, None);
                }
            }
        }
        given
    }

    /// No prefix stands twice, nor in both lists; and both fit the map that they share.
    fn one_list_each(&mut self, allow: &[Given], deny: &[Given]) {
        let mut all: Vec<(&Given, &str)> = allow
            .iter()
            .map(|given| (given, key::GATE_ALLOW.path))
            .chain(deny.iter().map(|given| (given, key::GATE_DENY.path)))
            .collect();
        if all.len() > GATE_PREFIXES_MAX {
            let message = format!(
                "gate.allow and gate.deny have {} prefixes together, where {GATE_PREFIXES_MAX} fit \
                 the gate's map",
                all.len()
            );
            let place = all[GATE_PREFIXES_MAX].0.place.clone();
            self.document
                .mistake(&place, message, "name wider prefixes", None);
        }
        // Equal prefixes stand side by side, in the order in which they were given.
        all.sort_by_key(|(given, _)| given.prefix);
        for pair in all.windows(2) {
            let [(first, first_list), (second, second_list)] = pair else {
                unreachable!("windows of 2");
            };
            if first.prefix != second.prefix {
                continue;
            }
            let (message, help) = match first_list == second_list {
                true => (
                    format!("{second_list} has {} twice", second.prefix),
                    "keep one of the two",
                ),
                false => (
                    format!("{} is both allowed and denied", second.prefix),
                    "keep one of the two; within a wider prefix a longer one may say otherwise",
                ),
            };
            self.document
                .mistake(&second.place, message, help, Some(&first.place));
        }
    }

    fn limits(&mut self) -> Vec<(Prefix, SourceLimit)> {
        let Some((entries, place)) = self.document.table("gate.limits") else {
            return Vec::new();
        };
        let place = place.clone();
        let mut reading = Reading { faults: Vec::new() };
        let mut found: Vec<(Given, SourceLimit)> = Vec::new();
        for entry in entries {
            // What is no prefix or no table was named by the structure.
            let (Ok(prefix), Value::Table(inner)) = (parse_prefix(&entry.key), &entry.value) else {
                continue;
            };
            let path = join("gate.limits", &entry.key);
            let limit = reading.limit(&path, &entry.place, inner);
            if let Some((first, _)) = found.iter().find(|(given, _)| given.prefix == prefix) {
                reading.faults.push(Fault {
                    place: entry.place.clone(),
                    message: format!("gate.limits has {prefix} twice"),
                    help: "keep one of the two".to_owned(),
                    other: Some(first.place.clone()),
                });
                continue;
            }
            let place = entry.place.clone();
            found.push((Given { prefix, place }, limit));
        }
        self.report(reading);
        if found.len() > GATE_LIMITS_MAX {
            let message = format!(
                "gate.limits has {} prefixes, where {GATE_LIMITS_MAX} fit the gate's map",
                found.len()
            );
            self.document
                .mistake(&place, message, "name wider prefixes", None);
        }
        found
            .into_iter()
            .map(|(given, limit)| (given.prefix, limit))
            .collect()
    }

    fn source_limit(&mut self, path: &str) -> SourceLimit {
        let Some((entries, place)) = self.document.table(path) else {
            return SourceLimit::default();
        };
        let mut reading = Reading { faults: Vec::new() };
        let limit = reading.limit(path, place, entries);
        self.report(reading);
        limit
    }

    fn report(&mut self, reading: Reading) {
        for fault in reading.faults {
            let Fault {
                place,
                message,
                help,
                other,
            } = fault;
            self.document.mistake(&place, message, help, other.as_ref());
        }
    }
}

/// Reads values and keeps what is wrong with them, while the document is borrowed.
struct Reading {
    faults: Vec<Fault>,
}

impl Reading {
    fn limit(&mut self, path: &str, table: &Place, entries: &[Entry]) -> SourceLimit {
        let before = self.faults.len();
        let limit = SourceLimit {
            datagrams: self.rate(path, entries, &key::LIMIT_RATE, &key::LIMIT_BURST),
            bytes: self.rate(path, entries, &key::LIMIT_BYTE_RATE, &key::LIMIT_BYTE_BURST),
            connections: self.rate(
                path,
                entries,
                &key::LIMIT_CONNECTION_RATE,
                &key::LIMIT_CONNECTION_BURST,
            ),
        };
        if limit.is_none() && self.faults.len() == before && entries.is_empty() {
            self.faults.push(Fault {
                place: table.clone(),
                message: format!("{path} limits nothing"),
                help: "add rate = \"50k/s\" and burst = \"200k\", or remove it".to_owned(),
                other: None,
            });
        }
        limit
    }

    /// A rate and its burst: neither means anything without the other.
    fn rate(
        &mut self,
        path: &str,
        entries: &[Entry],
        rate: &Key<u64>,
        burst: &Key<u64>,
    ) -> Option<Rate> {
        let find = |key: &Key<u64>| entries.iter().find(|entry| entry.key == key.path);
        let (given_rate, given_burst) = (find(rate), find(burst));
        let sustained = given_rate.map(|given| self.value(rate, path, given));
        let at_once = given_burst.map(|given| self.value(burst, path, given));
        match (sustained, at_once) {
            (None, None) => None,
            (Some(sustained), Some(burst)) => Some(Rate {
                sustained: sustained?,
                burst: burst?,
            }),
            (sustained, at_once) => {
                // Of a value that is wrong by itself nothing more is said.
                let sustained = sustained.map_or(Some(None), |value| value.map(Some))?;
                let at_once = at_once.map_or(Some(None), |value| value.map(Some))?;
                let given = given_rate.or(given_burst)?;
                let wrong = key::without_the_other(rate, sustained, burst, at_once);
                self.faults.push(Fault {
                    place: given.place.clone(),
                    message: format!("{path} has {}", wrong.message),
                    help: wrong.help,
                    other: None,
                });
                None
            }
        }
    }

    fn value(&mut self, key: &Key<u64>, path: &str, entry: &Entry) -> Option<u64> {
        // A table where a value is wanted was refused by the structure.
        let Value::Leaf(leaf, place) = &entry.value else {
            return None;
        };
        match (key.parse)(leaf) {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.faults.push(Fault {
                    place: place.clone(),
                    message: format!("{path}.{}: {}", entry.key, wrong.message),
                    help: wrong.help,
                    other: None,
                });
                None
            }
        }
    }
}
