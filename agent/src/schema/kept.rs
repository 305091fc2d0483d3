//! Copies of schemas in the data folder: what sinks and `penstock cat` read the journal by when the
//! user's own file is changed or gone.
//!
//! ```text
//! DATA/schemas/<fingerprint of the array, hex>.json
//!     {"name": …, "registry_ids": […], "unmapped": …, "fields": {…}, "schema": {…}}
//! ```
//!
//! Schema and mapping stand in one file, so that no crash can leave one without the other. A copy
//! is durable before the first frame of its schema is accepted: written under another name, synced,
//! renamed, the folder synced. Nothing here is removed by the agent: which schemas the journal
//! speaks of is known to nobody without reading all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::file::{FileError, SchemaFile, read_text};
use super::plans::Plans;
use crate::config::settings::SchemaSettings;
use crate::config::{target_of, target_word};
use crate::decode::avro::plan::Mapping;
use crate::limits::{SCHEMA_KEPT_FILE_LEN_MAX, SCHEMAS_KEPT_LEN_MAX, SCHEMAS_KEPT_MAX};

/// The folder's name in the data folder.
pub const FOLDER: &str = "schemas";

/// One copy.
#[derive(Clone, Debug)]
pub struct Kept {
    pub name: String,
    pub mapping: Mapping,
    /// All that it ever had: frames with each may stand in the journal.
    pub registry_ids: BTreeSet<u32>,
    /// Of the schema, as it was written.
    pub text: String,
    pub plans: Plans,
}

/// What stands in a copy's file.
#[derive(Serialize, Deserialize)]
struct Written<'a> {
    name: String,
    registry_ids: BTreeSet<u32>,
    unmapped: String,
    fields: BTreeMap<String, String>,
    #[serde(borrow)]
    schema: &'a RawValue,
}

/// All copies, by the fingerprint of the array.
#[derive(Debug)]
pub struct KeptSchemas {
    folder: PathBuf,
    pub schemas: BTreeMap<u64, Kept>,
}

impl KeptSchemas {
    /// Reads the copies in a data folder; the second is what could not be read. A folder that is
    /// not there has none.
    pub fn read(data_dir: &Path) -> (Self, Vec<FileError>) {
        let folder = data_dir.join(FOLDER);
        let mut kept = Self {
            folder,
            schemas: BTreeMap::new(),
        };
        let mut errors = Vec::new();
        let entries = match std::fs::read_dir(&kept.folder) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    let message = format!("cannot be read: {error}");
                    errors.push(FileError::whole(&kept.folder, message));
                }
                return (kept, errors);
            }
        };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        for path in paths.filter(|path| path.extension().is_some_and(|end| end == "json")) {
            match read_copy(&path) {
                Ok(copy) => {
                    let fingerprint = copy.plans.fingerprints().array;
                    kept.schemas.insert(fingerprint, copy);
                }
                Err(error) => errors.push(error),
            }
        }
        (kept, errors)
    }

    /// Keeps a schema as it is now, durably; does nothing where that is what is kept already.
    pub fn keep(
        &mut self,
        settings: &SchemaSettings,
        file: &SchemaFile,
        plans: &Plans,
    ) -> Result<(), FileError> {
        let fingerprint = file.fingerprints.array;
        let known = self.schemas.get(&fingerprint);
        let mut registry_ids = known
            .map(|kept| kept.registry_ids.clone())
            .unwrap_or_default();
        registry_ids.extend(settings.registry_id);
        let is_same = |kept: &Kept| {
            kept.name == settings.name
                && kept.mapping == settings.mapping
                && kept.registry_ids == registry_ids
                && kept.text == file.text
        };
        if known.is_some_and(is_same) {
            return Ok(());
        }
        let path = self.folder.join(format!("{fingerprint:016x}.json"));
        let others = self
            .schemas
            .iter()
            .filter(|(print, _)| **print != fingerprint);
        let (count, bytes) =
            others.fold((0, 0), |(n, sum), (_, kept)| (n + 1, sum + kept.text.len()));
        if count >= SCHEMAS_KEPT_MAX || bytes + file.text.len() > SCHEMAS_KEPT_LEN_MAX {
            let message = format!(
                "{count} schemas of {bytes} bytes are kept there already, of at most \
                 {SCHEMAS_KEPT_MAX} and {SCHEMAS_KEPT_LEN_MAX}: once every sink has caught up, \
                 stop the agent and remove those that are no longer in use"
            );
            return Err(FileError::whole(&self.folder, message));
        }
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            FileError::whole(&path, format!("cannot be kept: {what}: {error}"))
        };
        let schema: &RawValue = serde_json::from_str(&file.text)
            .map_err(|error| failed("read the schema again", &error))?;
        let mapping = &settings.mapping;
        let fields = mapping.fields.iter();
        let written = Written {
            name: settings.name.clone(),
            registry_ids: registry_ids.clone(),
            unmapped: unmapped_word(mapping.count_unmapped).to_owned(),
            fields: fields
                .map(|(path, target)| (path.clone(), target_word(target)))
                .collect(),
            schema,
        };
        let text = serde_json::to_vec(&written).map_err(|error| failed("write it", &error))?;
        if text.len() as u64 > SCHEMA_KEPT_FILE_LEN_MAX {
            let message = "cannot be kept: its mapping is longer than the longest schema";
            return Err(FileError::whole(&path, message));
        }
        write_durably(&self.folder, &path, &text).map_err(|error| failed("write it", &error))?;
        let copy = Kept {
            name: settings.name.clone(),
            mapping: settings.mapping.clone(),
            registry_ids,
            text: file.text.clone(),
            plans: plans.clone(),
        };
        self.schemas.insert(fingerprint, copy);
        Ok(())
    }

    /// The schema that was kept under a registry's id.
    pub fn by_registry_id(&self, id: u32) -> Option<&Kept> {
        let mut all = self.schemas.values();
        all.find(|kept| kept.registry_ids.contains(&id))
    }

    pub fn path(&self, fingerprint: u64) -> PathBuf {
        self.folder.join(format!("{fingerprint:016x}.json"))
    }
}

fn unmapped_word(count: bool) -> &'static str {
    if count { "count" } else { "attribute" }
}

fn read_copy(path: &Path) -> Result<Kept, FileError> {
    let text = read_text(path, SCHEMA_KEPT_FILE_LEN_MAX)?;
    let damaged = |why: String| FileError::whole(path, format!("this is no kept schema: {why}"));
    let written: Written<'_> =
        serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    let mut fields = Vec::new();
    for (field, word) in &written.fields {
        let target = target_of(word);
        let target = target.ok_or_else(|| damaged(format!("\"{word}\" is no target")))?;
        fields.push((field.clone(), target));
    }
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    let mapping = Mapping {
        fields,
        count_unmapped: written.unmapped == unmapped_word(true),
    };
    let file = SchemaFile::parse(path, written.schema.get().to_owned())?;
    // It compiled when it was kept; a later version of the agent may see that differently.
    let plans = Plans::compile(&file, &mapping)
        .map_err(|error| damaged(format!("no records can be made of it: {error}")))?;
    Ok(Kept {
        name: written.name,
        mapping,
        registry_ids: written.registry_ids,
        text: file.text,
        plans,
    })
}

/// After this the file is there as a whole, whatever happens.
fn write_durably(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    if !folder.exists() {
        DirBuilder::new().mode(0o750).create(folder)?;
        if let Some(parent) = folder.parent() {
            File::open(parent)?.sync_all()?;
        }
    }
    let partial = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&partial, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::avro::plan::Target;

    #[test]
    fn what_was_kept_is_read_back() {
        let data = tempfile::tempdir().expect("a folder");
        let (mut kept, errors) = KeptSchemas::read(data.path());
        assert!(kept.schemas.is_empty() && errors.is_empty());
        let text = r#"{"type": "record", "name": "R", "fields": [ {"name":"b.".. "#;
        assert!(SchemaFile::parse(data.path(), text.to_owned()).is_err());
        let text = r#"{"type": "record", "name": "R", "fields": [{"name": "b", "type": "long"},  {"name": "a", "type": "string"}]}"#;
        let file = SchemaFile::parse(data.path(), text.to_owned()).expect("a schema");
        let settings = SchemaSettings {
            name: "Orders.v1".to_owned(),
            mapping: Mapping {
                fields: vec![
                    ("a".to_owned(), Target::Body),
                    ("b".to_owned(), Target::TimeUnixNano),
                ],
                count_unmapped: true,
            },
            registry_id: Some(17),
        };
        let plans = Plans::compile(&file, &settings.mapping).expect("plans");
        kept.keep(&settings, &file, &plans).expect("kept");
        let (again, errors) = KeptSchemas::read(data.path());
        assert!(errors.is_empty(), "{errors:?}");
        let copy = again.by_registry_id(17).expect("kept");
        assert_eq!(
            (&copy.name, &copy.mapping),
            (&settings.name, &settings.mapping)
        );
        assert_eq!(
            copy.text, text,
            "byte for byte: the order of fields is the encoding's"
        );
        assert_eq!(again.schemas.len(), 1);
        assert!(again.by_registry_id(18).is_none());

        // An id that it no longer has may still stand in the journal.
        let without = SchemaSettings {
            registry_id: None,
            ..settings
        };
        kept.keep(&without, &file, &plans).expect("kept");
        let (again, _) = KeptSchemas::read(data.path());
        assert!(again.by_registry_id(17).is_some());

        // A damaged copy is told and costs no other.
        std::fs::write(data.path().join("schemas/0000000000000001.json"), "{").expect("write");
        let (again, errors) = KeptSchemas::read(data.path());
        assert_eq!((again.schemas.len(), errors.len()), (1, 1));
    }
}
