//! A schema file's ways into records: as a batch, which is an array, and as a single record.

use std::sync::Arc;

use super::file::SchemaFile;
use super::table::{Known, SchemaTable};
use crate::decode::avro::plan::{CompileError, Mapping, Plan};

pub struct Plans {
    record: Arc<Plan>,
    array: Arc<Plan>,
}

impl Plans {
    pub fn compile(file: &SchemaFile, mapping: &Mapping) -> Result<Self, CompileError> {
        let plan = Plan::compile(file.record.schema(), mapping)?;
        Ok(Self {
            array: Arc::new(plan.of_array()),
            record: Arc::new(plan),
        })
    }

    /// Under both fingerprints. A registry's id means the schema as it stands in the file.
    pub fn register(
        self,
        file: &SchemaFile,
        registry_ids: impl IntoIterator<Item = u32>,
        table: &mut SchemaTable,
    ) {
        let record = Known::Plan(self.record);
        let array = Known::Plan(self.array);
        let as_it_stands = match file.model.is_array() {
            true => &array,
            false => &record,
        };
        for id in registry_ids {
            table.by_registry_id.insert(id, as_it_stands.clone());
        }
        let prints = file.fingerprints;
        table.by_fingerprint.insert(prints.record, record);
        table.by_fingerprint.insert(prints.array, array);
    }
}
