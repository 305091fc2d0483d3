//! The schemas that every agent knows: our own record, in each version.

use std::sync::{Arc, LazyLock};

use super::table::{Known, SchemaTable};
use crate::decode::avro::plan::Mapping;
use crate::decode::avro::writer::WriterSchema;

/// `penstock.LogRecord`, version 1 first.
pub const LOG_RECORDS: [&str; 3] = [
    include_str!("../../../schemas/log_record_v1.avsc"),
    include_str!("../../../schemas/log_record_v2.avsc"),
    include_str!("../../../schemas/log_record_v3.avsc"),
];

impl SchemaTable {
    /// What a table holds before anybody adds to it.
    pub fn builtin() -> Self {
        static BUILTIN: LazyLock<SchemaTable> = LazyLock::new(|| {
            let mut table = SchemaTable::default();
            for text in LOG_RECORDS {
                let schema = WriterSchema::parse(text).expect("our own schema parses");
                let plans = schema.plans(&Mapping::default());
                for (fingerprint, plan) in plans.expect("our own schema maps") {
                    let known = Known::Plan(Arc::new(plan));
                    table.by_fingerprint.insert(fingerprint, known);
                }
            }
            table
        });
        BUILTIN.clone()
    }
}
