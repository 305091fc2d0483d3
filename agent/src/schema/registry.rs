//! The schemas that are in force: the built-in ones, those of `schemas_dir`, and for whoever reads
//! the journal those that were.
//!
//! ```text
//! schemas_dir ─▶ files ─▶ plans ─▶ kept durably ─▶ known to sinks ─▶ known to shards
//! ```
//!
//! In that order, so that no frame is accepted that a sink, now or after a crash, could not read. A
//! schema whose file is removed is refused from then on as `unknown_schema`: its absence is what
//! the operator said. What stands in the journal is delivered by the kept copy.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::Serialize;

use super::file::{FileError, SchemaFile};
use super::folder::{Listed, Listing};
use super::kept::{self, KeptSchemas};
use super::plans::Plans;
use super::table::{Known, SchemaTable, Schemas};
use crate::config::settings::{SchemaSettings, Settings};

/// What became of a schema file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its frames are accepted.
    Usable,
    /// A schema, but not one that becomes records; its frames are refused as `unusable_schema`.
    Unusable,
    /// No schema, or not to be read; its frames are refused as `unknown_schema`.
    Broken,
}

impl State {
    pub const ALL: [Self; 3] = [Self::Usable, Self::Unusable, Self::Broken];

    pub const fn label(self) -> &'static str {
        match self {
            Self::Usable => "usable",
            Self::Unusable => "unusable",
            Self::Broken => "broken",
        }
    }
}

/// A schema file as `/api/v1/status` and the log show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SchemaStatus {
    pub name: String,
    pub state: State,
    /// Of the array of its record, in hexadecimal; none where it is broken.
    pub fingerprint: Option<String>,
    pub registry_id: Option<u32>,
    /// Why it is not usable.
    pub reason: Option<String>,
}

/// What the admin side sees of the registry.
#[derive(Debug, Default)]
pub struct SchemaView {
    files: Mutex<Vec<SchemaStatus>>,
}

impl SchemaView {
    pub fn files(&self) -> MutexGuard<'_, Vec<SchemaStatus>> {
        // What it guards is replaced as a whole.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many files are in a state.
    pub fn count(&self, state: State) -> usize {
        self.files()
            .iter()
            .filter(|file| file.state == state)
            .count()
    }
}

/// The registry; one thread looks after it.
pub struct Registry {
    folder: Option<PathBuf>,
    settings: Vec<SchemaSettings>,
    kept: KeptSchemas,
    /// What shards accept.
    accepted: Schemas,
    /// What the journal may hold.
    delivered: Schemas,
    view: Arc<SchemaView>,
    /// The last look, and the last one that was acted on.
    seen: Option<Listing>,
    in_force: Option<Listing>,
    /// The last look failed like this.
    failure: Option<String>,
}

impl Registry {
    /// Reads the copies and the folder; what is wrong there is logged.
    pub fn open(settings: &Settings, data_dir: &Path) -> Self {
        let (kept, errors) = KeptSchemas::read(data_dir);
        for error in errors {
            tracing::error!("a kept schema is lost to the sinks: {error}");
        }
        let mut registry = Self {
            folder: settings.schemas_dir.clone(),
            settings: settings.schemas.clone(),
            kept,
            accepted: Schemas::new(SchemaTable::builtin()),
            delivered: Schemas::default(),
            view: Arc::default(),
            seen: None,
            in_force: None,
            failure: None,
        };
        registry.deliver();
        if let Some(listing) = registry.list() {
            registry.take(listing);
        }
        registry
    }

    /// For the shards.
    pub fn accepted(&self) -> &Schemas {
        &self.accepted
    }

    /// For whoever reads the journal.
    pub fn delivered(&self) -> &Schemas {
        &self.delivered
    }

    pub fn view(&self) -> &Arc<SchemaView> {
        &self.view
    }

    pub fn has_folder(&self) -> bool {
        self.folder.is_some()
    }

    /// The configuration says otherwise of schemas: the folder is read at once.
    pub fn reconfigure(&mut self, folder: Option<PathBuf>, settings: Vec<SchemaSettings>) {
        self.folder = folder;
        self.settings = settings;
        (self.seen, self.in_force) = (None, None);
        match (self.list(), &self.folder) {
            (Some(listing), _) => self.take(listing),
            // It is tried again at each look.
            (None, Some(_)) => {}
            (None, None) => {
                self.accepted.replace(SchemaTable::builtin());
                let before = std::mem::take(&mut *self.view.files());
                log_changes(&before, &[]);
            }
        }
    }

    /// Looks at the folder. A change is acted on when it has stood for one look: a file that is
    /// being written is not read half.
    pub fn look(&mut self) {
        let Some(listing) = self.list() else {
            return;
        };
        let is_settled = self.seen.as_ref() == Some(&listing);
        if is_settled && self.in_force.as_ref() != Some(&listing) {
            self.take(listing);
        } else {
            self.seen = Some(listing);
        }
    }

    /// A folder that cannot be read leaves what is known as it is: a mount that is away for a
    /// moment takes no schema from anyone.
    fn list(&mut self) -> Option<Listing> {
        let folder = self.folder.as_ref()?;
        match Listing::of(folder) {
            Ok(listing) => {
                if self.failure.take().is_some() {
                    tracing::info!(folder = %folder.display(), "schemas_dir can be read again");
                }
                Some(listing)
            }
            Err(error) => {
                let failure = error.to_string();
                if self.failure.as_ref() != Some(&failure) {
                    tracing::error!(
                        folder = %folder.display(),
                        "schemas_dir cannot be read, what is known stays so: {error}"
                    );
                    self.failure = Some(failure);
                }
                None
            }
        }
    }

    /// Puts what was found in force.
    fn take(&mut self, listing: Listing) {
        let mut table = SchemaTable::builtin();
        let mut taken = Taken::default();
        for (path, why) in &listing.left_out {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let error = FileError::whole(path, why.as_str());
            taken.files.push(broken(&name, &error));
        }
        for listed in &listing.files {
            let status = self.take_file(listed, &mut table, &mut taken);
            taken.files.push(status);
        }
        for settings in &self.settings {
            if !listing.files.iter().any(|file| file.name == settings.name) {
                tracing::warn!(schema = %settings.name, "configured, and its file is not in schemas_dir");
            }
        }
        self.deliver();
        self.accepted.replace(table);
        let before = std::mem::replace(&mut *self.view.files(), taken.files);
        log_changes(&before, &self.view.files());
        // What could not be kept is tried again at the next look.
        self.in_force = Some(listing.clone()).filter(|_| !taken.try_again);
        self.seen = Some(listing);
    }

    fn take_file(
        &mut self,
        listed: &Listed,
        table: &mut SchemaTable,
        taken: &mut Taken,
    ) -> SchemaStatus {
        let settings = self.settings_of(&listed.name);
        let file = match SchemaFile::read(&listed.path) {
            Ok(file) => file,
            Err(error) => return broken(&listed.name, &error),
        };
        let fingerprint = file.fingerprints.array;
        if let Some(first) = taken.names.get(&fingerprint) {
            let message = format!("the same schema as {first}.avsc: remove one of the two");
            return broken(&listed.name, &FileError::whole(&listed.path, message));
        }
        taken.names.insert(fingerprint, listed.name.clone());
        if let Some(error) = self.moved_id(&settings, &file, &listed.path) {
            return broken(&listed.name, &error);
        }
        let mut status = SchemaStatus {
            name: listed.name.clone(),
            state: State::Usable,
            fingerprint: Some(format!("{fingerprint:016x}")),
            registry_id: settings.registry_id,
            reason: None,
        };
        match Plans::compile(&file, &settings.mapping) {
            Ok(plans) => match self.kept.keep(&settings, &file, &plans) {
                Ok(()) => plans.register(settings.registry_id, table),
                Err(error) => {
                    taken.try_again = true;
                    return broken(&listed.name, &error);
                }
            },
            Err(reason) => {
                for print in [file.fingerprints.record, file.fingerprints.array] {
                    table.by_fingerprint.insert(print, Known::Unusable);
                }
                if let Some(id) = settings.registry_id {
                    table.by_registry_id.insert(id, Known::Unusable);
                }
                status.state = State::Unusable;
                status.reason = Some(reason.to_string());
            }
        }
        status
    }

    /// A registry's id speaks of one schema for ever. Frames with it may stand in the journal.
    fn moved_id(
        &self,
        settings: &SchemaSettings,
        file: &SchemaFile,
        path: &Path,
    ) -> Option<FileError> {
        let id = settings.registry_id?;
        let before = self.kept.by_registry_id(id)?;
        let print = before.plans.fingerprints().array;
        let is_same =
            print == file.fingerprints.array && before.plans.is_array() == file.model.is_array();
        let message = format!(
            "registry_id {id} was another schema ({}), whose frames may still stand in the \
             journal: if that one was a mistake, stop the agent and remove {}",
            before.name,
            self.kept.path(print).display()
        );
        (!is_same).then(|| FileError::whole(path, message))
    }

    fn settings_of(&self, name: &str) -> SchemaSettings {
        settings_of(&self.settings, name)
    }

    /// The table of whoever reads the journal: all that is kept.
    fn deliver(&self) {
        self.delivered.replace(delivered_table(&self.kept));
    }
}

/// What the configuration says of a schema file, in the order in which copies are read back.
pub fn settings_of(all: &[SchemaSettings], name: &str) -> SchemaSettings {
    let found = all.iter().find(|settings| settings.name == name);
    let mut settings = found.cloned().unwrap_or_else(|| SchemaSettings {
        name: name.to_owned(),
        mapping: Default::default(),
        registry_id: None,
    });
    settings.mapping.fields.sort_by(|a, b| a.0.cmp(&b.0));
    settings
}

/// The schemas by which somebody outside the agent reads a journal, as they come to be.
pub struct JournalSchemas {
    data_dir: PathBuf,
    schemas: Schemas,
    /// When a copy was last added or removed.
    changed: Option<SystemTime>,
}

impl JournalSchemas {
    /// Of the data folder that `path` is, or is in; only the built-in ones where it is in none.
    pub fn around(path: &Path) -> Self {
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        // A segment is three levels down: journal/shard-NN/SEGMENT.
        let mut folders = path.ancestors().take(4);
        let data_dir = folders.find(|folder| folder.join(kept::FOLDER).is_dir());
        Self {
            data_dir: data_dir.unwrap_or(&path).to_owned(),
            schemas: Schemas::new(SchemaTable::builtin()),
            changed: None,
        }
    }

    pub fn schemas(&self) -> &Schemas {
        &self.schemas
    }

    /// Takes in what was kept, or was kept since the last call; returns what could not be read.
    pub fn refresh(&mut self) -> Vec<FileError> {
        let folder = std::fs::metadata(self.data_dir.join(kept::FOLDER));
        let changed = folder.and_then(|folder| folder.modified()).ok();
        if changed == self.changed {
            return Vec::new();
        }
        let (kept, errors) = KeptSchemas::read(&self.data_dir);
        self.schemas.replace(delivered_table(&kept));
        self.changed = changed;
        errors
    }
}

fn delivered_table(kept: &KeptSchemas) -> SchemaTable {
    let mut table = SchemaTable::builtin();
    for copy in kept.schemas.values() {
        let ids = copy.registry_ids.iter().copied();
        copy.plans.register(ids, &mut table);
    }
    table
}

/// What one pass over the folder has come to.
#[derive(Default)]
struct Taken {
    files: Vec<SchemaStatus>,
    names: BTreeMap<u64, String>,
    try_again: bool,
}

fn broken(name: &str, error: &FileError) -> SchemaStatus {
    SchemaStatus {
        name: name.to_owned(),
        state: State::Broken,
        fingerprint: None,
        registry_id: None,
        reason: Some(error.to_string()),
    }
}

/// A line for each file that is new, changed its state, or is gone.
fn log_changes(before: &[SchemaStatus], after: &[SchemaStatus]) {
    for file in after.iter().filter(|file| !before.contains(file)) {
        let schema = file.name.as_str();
        let fingerprint = file.fingerprint.as_deref().unwrap_or_default();
        let reason = file.reason.as_deref().unwrap_or_default();
        match file.state {
            State::Usable => tracing::info!(schema, fingerprint, "schema in force"),
            State::Unusable => tracing::error!(
                schema,
                fingerprint,
                "this schema cannot become records, its frames are refused: {reason}"
            ),
            State::Broken => tracing::error!(schema, "schema file not in use: {reason}"),
        }
    }
    for file in before {
        if !after.iter().any(|other| other.name == file.name) {
            tracing::info!(
                schema = %file.name,
                "schema file removed: its frames are refused from now on, those in the journal delivered"
            );
        }
    }
}

#[cfg(test)]
mod tests;
