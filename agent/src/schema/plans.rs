//! A schema file's ways into records: as a batch, which is an array, and as a single record.

use std::sync::Arc;

use super::file::{Fingerprints, SchemaFile};
use super::table::{Known, SchemaTable};
use crate::decode::avro::plan::{CompileError, Mapping, Plan};

#[derive(Clone, Debug)]
pub struct Plans {
    record: Arc<Plan>,
    array: Arc<Plan>,
    fingerprints: Fingerprints,
    /// The file holds the array, not the record.
    is_array: bool,
}

impl Plans {
    pub fn compile(file: &SchemaFile, mapping: &Mapping) -> Result<Self, CompileError> {
        let plan = Plan::compile(file.record.schema(), mapping)?;
        Ok(Self {
            array: Arc::new(plan.of_array()),
            record: Arc::new(plan),
            fingerprints: file.fingerprints,
            is_array: file.model.is_array(),
        })
    }

    pub fn fingerprints(&self) -> Fingerprints {
        self.fingerprints
    }

    pub fn is_array(&self) -> bool {
        self.is_array
    }

    /// Under both fingerprints. A registry's id means the schema as it stands in the file.
    pub fn register(&self, registry_ids: impl IntoIterator<Item = u32>, table: &mut SchemaTable) {
        let record = Known::Plan(Arc::clone(&self.record));
        let array = Known::Plan(Arc::clone(&self.array));
        let as_it_stands = match self.is_array {
            true => &array,
            false => &record,
        };
        for id in registry_ids {
            table.by_registry_id.insert(id, as_it_stands.clone());
        }
        let prints = self.fingerprints;
        table.by_fingerprint.insert(prints.record, record);
        table.by_fingerprint.insert(prints.array, array);
    }
}
