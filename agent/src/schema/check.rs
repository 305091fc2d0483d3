//! What is wrong with `schemas_dir` and with what the configuration says of it, for `penstock check`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::file::{FileError, SchemaFile};
use super::folder::Listing;
use super::plans::Plans;
use super::registry::settings_of;
use crate::config::settings::{SchemaSettings, Settings};
use crate::config::{Mistake, mistake_at, nearest};
use crate::decode::avro::plan::Mapping;

const SCHEMA_HELP: &str = "the file is an Avro schema in JSON: a record, or an array of one";

/// Every mistake; `config_files` are the files that the settings came from.
pub fn mistakes(settings: &Settings, config_files: &[PathBuf]) -> Vec<Mistake> {
    let Some(folder) = &settings.schemas_dir else {
        return Vec::new();
    };
    let mut check = Check {
        config_files,
        found: Vec::new(),
    };
    match Listing::of(folder) {
        Ok(listing) => check.files(settings, &listing),
        Err(error) => check.at_key(
            "schemas_dir",
            folder,
            &format!("schemas_dir: {} cannot be read: {error}", folder.display()),
            "make the folder, or remove the key",
        ),
    }
    check.found
}

struct Check<'a> {
    config_files: &'a [PathBuf],
    found: Vec<Mistake>,
}

impl Check<'_> {
    fn files(&mut self, settings: &Settings, listing: &Listing) {
        for (path, why) in &listing.left_out {
            let error = FileError::whole(path, why.as_str());
            self.found.push(error.mistake("rename it, or move it away"));
        }
        let mut files: BTreeMap<&str, Option<SchemaFile>> = BTreeMap::new();
        let mut first_names: BTreeMap<u64, &str> = BTreeMap::new();
        for listed in &listing.files {
            let file = match SchemaFile::read(&listed.path) {
                Ok(file) => Some(file),
                Err(error) => {
                    self.found.push(error.mistake(SCHEMA_HELP));
                    None
                }
            };
            if let Some(file) = &file {
                let first = first_names
                    .entry(file.fingerprints.array)
                    .or_insert(&listed.name);
                if *first != listed.name {
                    let message = format!("the same schema as {first}.avsc");
                    let error = FileError::whole(&listed.path, message);
                    self.found.push(error.mistake("remove one of the two"));
                }
                let own = settings_of(&settings.schemas, &listed.name);
                self.mapping(&own, file, &listed.path);
            }
            files.insert(&listed.name, file);
        }
        for schema in &settings.schemas {
            if !files.contains_key(schema.name.as_str()) {
                let names: Vec<&str> = files.keys().copied().collect();
                let help = match nearest(&schema.name, &names) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("put {}.avsc there, or remove the table", schema.name),
                };
                let key = format!("schemas.{}", schema.name);
                let message = format!("{key}: schemas_dir has no {}.avsc", schema.name);
                self.at_key(&key, Path::new(&schema.name), &message, &help);
            }
        }
    }

    /// The mapping's paths are fields, and records can be made of the schema.
    fn mapping(&mut self, settings: &SchemaSettings, file: &SchemaFile, path: &Path) {
        let table = format!("schemas.{}", settings.name);
        let mut right = Mapping {
            fields: Vec::new(),
            ..settings.mapping
        };
        for (field, target) in &settings.mapping.fields {
            let Err(known) = file.model.field_names(field) else {
                right.fields.push((field.clone(), *target));
                continue;
            };
            let (_, last) = field.rsplit_once('.').unwrap_or(("", field));
            let help = match nearest(last, &known) {
                Some(near) => format!("did you mean {near}?"),
                None if known.is_empty() => {
                    "what stands before the last dot is no record".to_owned()
                }
                None => format!("the fields there are {}", known.join(", ")),
            };
            let key = format!("{table}.fields.{field}");
            let message = format!("{table}.fields: {} has no field {field}", path.display());
            self.at_key(&key, path, &message, &help);
        }
        if let Err(error) = Plans::compile(file, &right) {
            let message = format!("{table}: no records can be made of this schema: {error}");
            let help = "map the field to something that can take it, or to \"attribute\" or \
                        \"count\"";
            self.at_key(&table, path, &message, help);
        }
    }

    /// At a key of the configuration, or where that has none at the schema's file.
    fn at_key(&mut self, key: &str, path: &Path, message: &str, help: &str) {
        let mistake = mistake_at(self.config_files, key, message, help)
            .unwrap_or_else(|| FileError::whole(path, message).mistake(help));
        self.found.push(mistake);
    }
}
