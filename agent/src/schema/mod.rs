//! Writer schemas: which are known, and the plan by which each becomes records.
//!
//! ```text
//! folder    what stands in schemas_dir           file      one file, read, with lines for mistakes
//! registry  which schemas are in force           kept      copies in the data folder
//! table     what decoders look schemas up in; it is replaced as a whole, never changed
//! resolve, protobuf   which version reads which: for `penstock schema`
//! ```

pub mod builtin;
pub mod check;
pub mod file;
pub mod folder;
pub mod kept;
pub mod located;
pub mod model;
pub mod pair;
mod plans;
pub mod protobuf;
pub mod registry;
pub mod resolve;
pub mod table;
pub mod version;
pub mod watch;
