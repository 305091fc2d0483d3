//! `schemas_dir` and `[schemas.NAME]`. Names and field paths are the user's own and may have dots.

use super::Reader;
use crate::config::document::{Entry, Place, Value, join};
use crate::config::key::{self, Key};
use crate::config::settings::{SchemaSettings, Settings};
use crate::decode::avro::plan::{Mapping, Target};
use crate::limits::{SCHEMA_FILES_MAX, SCHEMA_NAME_LEN_MAX};

pub(super) const NAME_HELP: &str = "it is the file's name without .avsc: A to Z, a to z, 0 to 9, _ - and ., beginning with a \
     letter or a digit, at most 128 characters";
const _: () = assert!(SCHEMA_NAME_LEN_MAX == 128, "NAME_HELP says so");

/// A schema file's name: also a file's name in the data folder and a word in the log.
pub(crate) fn is_schema_name(text: &str) -> bool {
    text.len() <= SCHEMA_NAME_LEN_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

impl Reader {
    pub(super) fn schemas(&mut self) -> Vec<SchemaSettings> {
        let Some((entries, place)) = self.document.table("schemas") else {
            return Vec::new();
        };
        let place = place.clone();
        let mut found = Vec::new();
        let mut values = Values { faults: Vec::new() };
        for entry in entries {
            if let Value::Table(inner) = &entry.value {
                found.push(values.schema(&entry.key, inner));
            }
        }
        if found.len() > SCHEMA_FILES_MAX {
            self.document.mistake(
                &place,
                format!(
                    "{} schemas, where at most {SCHEMA_FILES_MAX} may be",
                    found.len()
                ),
                format!("remove {}", found.len() - SCHEMA_FILES_MAX),
                None,
            );
        }
        for (place, message, help) in values.faults {
            self.document.mistake(&place, message, help, None);
        }
        found
    }

    pub(super) fn schema_relations(&mut self, settings: &Settings) {
        for (at, schema) in settings.schemas.iter().enumerate() {
            let path = join("schemas", &schema.name);
            let Some(own) = self.document.place(&path).cloned() else {
                continue;
            };
            if settings.schemas_dir.is_none() && !self.wrong.contains(key::SCHEMAS_DIR.path) {
                self.document.mistake(
                    &own,
                    format!("{path} has no file: schemas_dir is not given"),
                    "write schemas_dir = \"/etc/penstock/schemas\" at the top, before every table",
                    None,
                );
                return;
            }
            let Some(id) = schema.registry_id else {
                continue;
            };
            let same = |other: &&SchemaSettings| other.registry_id == Some(id);
            if let Some(first) = settings.schemas[..at].iter().find(same) {
                let place = |path: &str| self.document.place(&join(path, "registry_id")).cloned();
                let other = place(&join("schemas", &first.name));
                let own = place(&path).unwrap_or(own);
                self.document.mistake(
                    &own,
                    format!(
                        "{path}.registry_id is {id}, which schemas.{} already has",
                        first.name
                    ),
                    "a registry gives each schema its own id: correct one of the two",
                    other.as_ref(),
                );
            }
        }
    }
}

/// Reads values and keeps what is wrong with them, while the document is borrowed.
struct Values {
    faults: Vec<(Place, String, String)>,
}

impl Values {
    fn schema(&mut self, name: &str, entries: &[Entry]) -> SchemaSettings {
        let path = join("schemas", name);
        let find = |key: &str| entries.iter().find(|entry| entry.key == key);
        let mut fields = Vec::new();
        if let Some(Value::Table(inner)) = find("fields").map(|entry| &entry.value) {
            self.fields(&join(&path, "fields"), "", inner, &mut fields);
        }
        let count =
            find("unmapped").and_then(|entry| self.leaf(&key::SCHEMA_UNMAPPED, &path, entry));
        SchemaSettings {
            name: name.to_owned(),
            mapping: Mapping {
                fields,
                count_unmapped: count
                    .or_else(|| key::SCHEMA_UNMAPPED.default_value())
                    .unwrap_or_default(),
            },
            registry_id: find("registry_id")
                .and_then(|entry| self.leaf(&key::SCHEMA_REGISTRY_ID, &path, entry)),
        }
    }

    /// `"ctx.request" = …` and `ctx.request = …` say the same: TOML makes tables of the latter.
    fn fields(
        &mut self,
        table: &str,
        prefix: &str,
        entries: &[Entry],
        into: &mut Vec<(String, Target)>,
    ) {
        for entry in entries {
            let path = join(prefix, &entry.key);
            match &entry.value {
                Value::Table(inner) => {
                    self.fields(&join(table, &entry.key), &path, inner, into);
                }
                Value::Leaf(..) if into.iter().any(|(known, _)| *known == path) => {
                    self.faults.push((
                        entry.place.clone(),
                        format!("{table}.{} is given twice", entry.key),
                        "keep one of the two".to_owned(),
                    ));
                }
                Value::Leaf(..) => {
                    let target = self.leaf(&key::SCHEMA_FIELD, table, entry);
                    into.extend(target.map(|target| (path, target)));
                }
            }
        }
    }

    fn leaf<T>(&mut self, key: &Key<T>, table: &str, entry: &Entry) -> Option<T> {
        // A table where a value is wanted was refused by the structure.
        let Value::Leaf(leaf, place) = &entry.value else {
            return None;
        };
        match (key.parse)(leaf) {
            Ok(value) => Some(value),
            Err(wrong) => {
                let message = format!("{table}.{}: {}", entry.key, wrong.message);
                self.faults.push((place.clone(), message, wrong.help));
                None
            }
        }
    }
}
