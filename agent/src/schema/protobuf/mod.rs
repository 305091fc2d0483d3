//! How two versions of Protobuf messages get along, by their descriptor sets (what `protoc -o` and
//! `buf build` write).
//!
//! The wire format knows numbers and wire types only, and a reader steps over what it does not
//! know: so a field may come or go, but its number may not come to mean something else. The rules
//! are those of "Updating A Message Type" in Protobuf's language guides; services, options of our
//! own and extensions are not looked at.

mod fields;
mod oneof;
mod types;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet, VecDeque};

use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

use super::pair::{Comparison, Finding, Hurts};
use crate::limits::SCHEMA_NESTING_MAX;

/// The messages and enums of a descriptor set, by full name.
#[derive(Clone, Debug, Default)]
pub struct Descriptors {
    messages: BTreeMap<String, DescriptorProto>,
    enums: BTreeMap<String, EnumDescriptorProto>,
}

impl Descriptors {
    /// Reads a serialised `FileDescriptorSet`; `Err` says why it is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let set = FileDescriptorSet::decode(bytes)
            .map_err(|error| format!("this is no descriptor set (as protoc -o writes): {error}"))?;
        let mut descriptors = Self::default();
        for file in set.file {
            let package = file.package.unwrap_or_default();
            for message in file.message_type {
                descriptors.add_message(&package, message, 0)?;
            }
            for each in file.enum_type {
                descriptors.add_enum(&package, each)?;
            }
        }
        if descriptors.messages.is_empty() {
            return Err("this descriptor set has no message".to_owned());
        }
        Ok(descriptors)
    }

    pub fn message_names(&self) -> impl Iterator<Item = &str> {
        self.messages.keys().map(String::as_str)
    }

    fn add_message(
        &mut self,
        scope: &str,
        mut message: DescriptorProto,
        depth: usize,
    ) -> Result<(), String> {
        if depth > SCHEMA_NESTING_MAX {
            return Err(format!(
                "messages nested deeper than {SCHEMA_NESTING_MAX} in {scope}"
            ));
        }
        let name = full_name(scope, message.name());
        for nested in std::mem::take(&mut message.nested_type) {
            self.add_message(&name, nested, depth + 1)?;
        }
        for each in std::mem::take(&mut message.enum_type) {
            self.add_enum(&name, each)?;
        }
        match self.messages.insert(name.clone(), message) {
            None => Ok(()),
            Some(_) => Err(format!("the message {name} is defined twice")),
        }
    }

    fn add_enum(&mut self, scope: &str, each: EnumDescriptorProto) -> Result<(), String> {
        let name = full_name(scope, each.name());
        match self.enums.insert(name.clone(), each) {
            None => Ok(()),
            Some(_) => Err(format!("the enum {name} is defined twice")),
        }
    }

    /// By a field's `type_name`, which begins with a dot.
    fn message(&self, type_name: &str) -> Option<&DescriptorProto> {
        self.messages.get(type_name.trim_start_matches('.'))
    }

    fn enumeration(&self, type_name: &str) -> Option<&EnumDescriptorProto> {
        self.enums.get(type_name.trim_start_matches('.'))
    }
}

fn full_name(scope: &str, name: &str) -> String {
    match scope {
        "" => name.to_owned(),
        _ => format!("{scope}.{name}"),
    }
}

/// Compares an older and a newer version.
pub fn compare(old: &Descriptors, new: &Descriptors) -> Comparison {
    let mut walk = Walk {
        old,
        new,
        seen: HashSet::new(),
        waiting: VecDeque::new(),
        findings: Vec::new(),
    };
    for (name, message) in &old.messages {
        match new.messages.get(name) {
            Some(_) => walk.meet(name, name),
            // Entries of a map come and go with their field.
            None if is_map_entry(message) => {}
            None => walk.found(Hurts::Both, name, "the message is gone".to_owned()),
        }
    }
    while let Some((older, newer)) = walk.waiting.pop_front() {
        walk.message(&old.messages[&older], &new.messages[&newer], &older, &newer);
    }
    for (name, older) in &old.enums {
        match new.enums.get(name) {
            Some(newer) => walk.enumeration(older, newer, name, name),
            None => walk.found(Hurts::Note, name, "the enum is gone".to_owned()),
        }
    }
    Comparison {
        findings: walk.findings,
    }
}

struct Walk<'a> {
    old: &'a Descriptors,
    new: &'a Descriptors,
    /// Pairs of names that were compared, or are being compared: messages contain themselves.
    seen: HashSet<(String, String)>,
    /// Pairs of messages that are still to be compared: a queue, so that the stack does not grow
    /// with what refers to what.
    waiting: VecDeque<(String, String)>,
    findings: Vec<Finding>,
}

impl Walk<'_> {
    fn found(&mut self, hurts: Hurts, path: &str, what: String) {
        self.findings.push(Finding {
            hurts,
            path: path.to_owned(),
            what,
            line: None,
        });
    }

    /// Has two messages compared, once; both are there.
    fn meet(&mut self, old_name: &str, new_name: &str) {
        let names = (old_name.to_owned(), new_name.to_owned());
        if self.seen.insert(names.clone()) {
            self.waiting.push_back(names);
        }
    }

    fn enumeration(
        &mut self,
        old: &EnumDescriptorProto,
        new: &EnumDescriptorProto,
        old_name: &str,
        new_name: &str,
    ) {
        if !self.seen.insert((old_name.to_owned(), new_name.to_owned())) {
            return;
        }
        let reserved: Vec<(i32, i32)> = new
            .reserved_range
            .iter()
            .map(|range| (range.start(), range.end()))
            .collect();
        for value in &old.value {
            let path = format!("{old_name}.{}", value.name());
            let number = value.number();
            let same_number = new.value.iter().find(|other| other.number() == number);
            match same_number {
                Some(other) if other.name() == value.name() => {}
                Some(other) if new.value.iter().any(|any| any.name() == value.name()) => {
                    let what = format!("{number} now means {}", other.name());
                    self.found(Hurts::Both, &path, what);
                }
                Some(other) => {
                    let what = format!(
                        "{number} is now called {}: JSON and text know it by name",
                        other.name()
                    );
                    self.found(Hurts::Note, &path, what);
                }
                // Both ends of an enum's range are within it.
                None if reserved.iter().any(|(a, b)| (*a..=*b).contains(&number)) => {
                    let what = format!("removed, {number} is reserved: a number without a name");
                    self.found(Hurts::Note, &path, what);
                }
                None => {
                    let what = format!(
                        "removed without `reserved {number}`: the next one to use the number \
                         changes what old data means"
                    );
                    self.found(Hurts::Both, &path, what);
                }
            }
        }
        for value in &new.value {
            let path = format!("{new_name}.{}", value.name());
            let number = value.number();
            let was_reserved = old
                .reserved_range
                .iter()
                .any(|range| (range.start()..=range.end()).contains(&number));
            if was_reserved || old.reserved_name.iter().any(|name| name == value.name()) {
                let what = format!("{number} or its name was reserved");
                self.found(Hurts::Both, &path, what);
            }
        }
    }
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message
        .options
        .as_ref()
        .is_some_and(|options| options.map_entry())
}
