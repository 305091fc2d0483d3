//! placeholder until merge
pub fn table() -> super::table::SchemaTable {
    Default::default()
}
