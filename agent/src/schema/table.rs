//! What decoders know of writer schemas: a table that is replaced as a whole when a schema is added.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::decode::avro::plan::Plan;

/// What is known of a schema that a payload names.
#[derive(Clone, Debug)]
pub enum Known {
    /// How its data become records.
    Plan(Arc<Plan>),
    /// It parses, and cannot be mapped to records.
    Unusable,
}

/// One state of the registry.
#[derive(Clone, Debug, Default)]
pub struct SchemaTable {
    /// By CRC-64-AVRO fingerprint, as it stands in single-object encodings.
    pub by_fingerprint: HashMap<u64, Known>,
    /// By the id that Confluent's wire format carries.
    pub by_registry_id: HashMap<u32, Known>,
}

/// The current table, shared by all threads that decode. A thread keeps the table it last saw and
/// looks at the generation before each payload: one relaxed load, and the lock only after a change.
#[derive(Clone, Debug)]
pub struct Schemas {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    generation: AtomicU64,
    table: Mutex<Arc<SchemaTable>>,
}

impl Default for Schemas {
    /// Our own schemas.
    fn default() -> Self {
        Self::new(SchemaTable::builtin())
    }
}

impl Schemas {
    pub fn new(table: SchemaTable) -> Self {
        Self {
            shared: Arc::new(Shared {
                generation: AtomicU64::new(0),
                table: Mutex::new(Arc::new(table)),
            }),
        }
    }

    /// Changes whenever the table does.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Relaxed)
    }

    /// The table, and the generation it is at least of.
    pub fn current(&self) -> (u64, Arc<SchemaTable>) {
        // The generation first: a table that is newer than it is looked up once more, no harm done.
        let generation = self.shared.generation.load(Ordering::Acquire);
        let table = self.shared.table.lock();
        (
            generation,
            Arc::clone(&table.unwrap_or_else(PoisonError::into_inner)),
        )
    }

    /// Puts another table in the place of the current one.
    pub fn replace(&self, table: SchemaTable) {
        let current = self.shared.table.lock();
        *current.unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        self.shared.generation.fetch_add(1, Ordering::Release);
    }
}
