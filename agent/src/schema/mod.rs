//! Writer schemas: which are known, and the plan by which each becomes records.
//!
//! `table` is what decoders look schemas up in; it is replaced as a whole, never changed.

pub mod builtin;
pub mod table;
