//! Avro, in place: a payload names its writer's schema, and the schema's plan reads the datum.
//!
//! ```text
//! C3 01 │ fingerprint, 8 bytes, little-endian │ datum     single-object encoding
//! 00    │ schema id, 4 bytes, big-endian      │ datum     Confluent's wire format
//! ```
//! `compile` resolves a schema to the record once (`plan` is what comes of it); `walk` follows the
//! plan through a datum. `cursor` knows Avro's binary encoding, `node` and `value` what lies in a
//! datum beside the record's own fields, `fingerprint` how schemas are named.

#![forbid(unsafe_code)]

mod compile;
mod cursor;
pub mod fingerprint;
mod node;
pub mod plan;
mod value;
mod walk;
pub mod writer;

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;

use penstock_proto::reason::Reason;

use super::json::Scratch;
use crate::record::RecordView;
use crate::schema::table::{Known, SchemaTable};
pub use walk::Entries;

/// The first bytes of Avro's single-object encoding.
pub const SINGLE_OBJECT_MARKER: [u8; 2] = [0xc3, 0x01];
/// The first byte of Confluent's wire format.
pub const REGISTRY_MARKER: u8 = 0;

/// What a payload in order holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub records: u32,
    pub unmapped_fields: u64,
}

/// Shows every record to `visit`.
pub fn for_each(
    table: &SchemaTable,
    scratch: &mut Scratch,
    payload: &[u8],
    visit: impl FnMut(&RecordView<'_>),
) -> Result<Found, Reason> {
    let (known, datum) = find(table, payload)?;
    match known {
        Some(Known::Plan(plan)) => {
            walk::for_each((plan.shape, &plan.program), scratch, datum, visit)
        }
        Some(Known::Unusable) => Err(Reason::UnusableSchema),
        None => Err(Reason::UnknownSchema),
    }
}

/// What is known of the schema that a payload names, and the payload's datum.
fn find<'t, 'a>(
    table: &'t SchemaTable,
    payload: &'a [u8],
) -> Result<(Option<&'t Known>, &'a [u8]), Reason> {
    if payload.first() == Some(&REGISTRY_MARKER) {
        let (id, datum) = payload[1..]
            .split_first_chunk()
            .ok_or(Reason::TruncatedPayload)?;
        let id = u32::from_be_bytes(*id);
        return Ok((table.by_registry_id.get(&id), datum));
    }
    let marker_len = payload.len().min(SINGLE_OBJECT_MARKER.len());
    if payload[..marker_len] != SINGLE_OBJECT_MARKER[..marker_len] {
        return Err(Reason::MalformedPayload);
    }
    let (fingerprint, datum) = payload[marker_len..]
        .split_first_chunk()
        .ok_or(Reason::TruncatedPayload)?;
    let fingerprint = u64::from_le_bytes(*fingerprint);
    Ok((table.by_fingerprint.get(&fingerprint), datum))
}
