//! The plans against apache-avro, on random schemas, with valid, damaged and random data.
//!
//! Whether a datum is in order says `slow`, a reader as simple as the specification, for
//! apache-avro is more patient than it: at the end of its input it makes up values, it passes over
//! a block's length, and over bits of a number beyond the 64th. What a datum says, where it is in
//! order, says apache-avro; `expected` gives it the places that `proto/RECORDS.md` does.

mod expected;
mod made;
mod slow;

use apache_avro::Schema;
use apache_avro::types::Value as Avro;
use penstock_proto::reason::Reason;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{Mapping, Plan};
use super::tests::read;
use super::writer::WriterSchema;
use crate::decode::damage::{any_damage, cases};
use crate::schema::builtin::LOG_RECORDS;
use expected::{Expected, expected};
use made::Made;
use slow::Slow;

fn theirs(schema: &Schema, reader: Option<&Schema>, datum: &[u8]) -> Option<Vec<Avro>> {
    // Once for the process: more than any datum here can ask for in earnest.
    apache_avro::util::max_allocation_bytes(1 << 21);
    let mut rest = datum;
    let value = apache_avro::from_avro_datum(schema, &mut rest, reader).ok()?;
    let is_whole = rest.is_empty() && value.validate(reader.unwrap_or(schema));
    match value {
        Avro::Array(records) if is_whole => Some(records),
        _ => None,
    }
}

fn array_of(schema: &Value) -> WriterSchema {
    let schema = json!({"type": "array", "items": schema});
    WriterSchema::parse(&schema.to_string()).unwrap_or_else(|error| panic!("{error}: {schema}"))
}

/// Reads a datum in all three ways; what ours found.
fn agree(schema: &Value, count_unmapped: bool, datum: &[u8]) -> Result<usize, TestCaseError> {
    let writer = array_of(schema);
    let mapping = Mapping {
        fields: Vec::new(),
        count_unmapped,
    };
    let plan = Plan::compile(writer.schema(), &mapping).expect("a plan");
    let ours = read(&plan, datum);
    let slow = Slow::new(schema).array(datum);
    if ours == Err(Reason::TooLong) {
        // In order, but for its text.
        return Ok(0);
    }
    prop_assert_eq!(ours.is_ok(), slow.is_ok(), "{:?}, slowly {:?}", ours, slow);
    let Ok((seen, unmapped)) = ours else {
        return Ok(0);
    };
    let theirs = theirs(writer.schema(), None, datum);
    let Some(theirs) = theirs else {
        return Err(TestCaseError::fail("apache-avro refuses what we take"));
    };
    prop_assert_eq!(seen.len(), theirs.len());
    let mut unmapped_expected = 0;
    for (seen, theirs) in seen.iter().zip(&theirs) {
        let (expected, fields) = expected(schema, count_unmapped, theirs);
        prop_assert_eq!(Expected::of(seen, &expected), expected);
        unmapped_expected += fields;
    }
    prop_assert_eq!(unmapped, unmapped_expected);
    Ok(seen.len())
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn valid_data_of_random_schemas(seed in any::<u64>(), count_unmapped in any::<bool>()) {
        let mut made = Made::new(seed);
        let schema = made.schema();
        let (datum, records) = made.array(&schema);
        prop_assert_eq!(agree(&schema, count_unmapped, &datum)?, records);
    }

    #[test]
    fn damaged_data(
        seed in any::<u64>(),
        count_unmapped in any::<bool>(),
        damage in any_damage(),
    ) {
        let mut made = Made::new(seed);
        let schema = made.schema();
        let (mut datum, _) = made.array(&schema);
        damage.iter().for_each(|damage| damage.apply(&mut datum));
        agree(&schema, count_unmapped, &datum)?;
    }

    #[test]
    fn random_bytes(seed in any::<u64>(), datum in prop::collection::vec(any::<u8>(), 0..48)) {
        let schema = Made::new(seed).schema();
        agree(&schema, false, &datum)?;
    }

    /// Cut anywhere, a datum ends in the middle of a value.
    #[test]
    fn every_prefix_is_truncated(seed in any::<u64>()) {
        let mut made = Made::new(seed);
        let schema = made.schema();
        let (datum, _) = made.array(&schema);
        let writer = array_of(&schema);
        let plan = Plan::compile(writer.schema(), &Mapping::default()).expect("a plan");
        for len in 0..datum.len() {
            prop_assert_eq!(read(&plan, &datum[..len]).err(), Some(Reason::TruncatedPayload));
        }
    }

    /// Our own versions, damaged or not, resolved to the newest by apache-avro.
    #[test]
    fn our_own_versions(
        seed in any::<u64>(),
        version in 0..3usize,
        damage in prop_oneof![Just(Vec::new()), any_damage()],
    ) {
        let schema: Value = serde_json::from_str(LOG_RECORDS[version]).expect("JSON");
        let newest: Value = serde_json::from_str(LOG_RECORDS[2]).expect("JSON");
        let (mut datum, _) = Made::new(seed).array(&schema);
        damage.iter().for_each(|damage| damage.apply(&mut datum));
        agree(&schema, false, &datum)?;
        resolved(&schema, &newest, &datum, damage.is_empty())?;
    }

    /// Writers with the record's fields in another order and of other types, and with more.
    #[test]
    fn resolution_to_the_newest_version(seed in any::<u64>()) {
        let mut made = Made::new(seed);
        let schema = made.relative_of_the_record();
        let newest: Value = serde_json::from_str(LOG_RECORDS[2]).expect("JSON");
        let (datum, _) = made.array(&schema);
        resolved(&schema, &newest, &datum, true)?;
    }
}

/// What a plan finds in a datum is what apache-avro resolves it to. Fields that the newest version
/// does not have are counted here, as Avro's resolution passes over them.
fn resolved(
    schema: &Value,
    newest: &Value,
    datum: &[u8],
    is_in_order: bool,
) -> Result<(), TestCaseError> {
    let (writer, reader) = (array_of(schema), array_of(newest));
    let mapping = Mapping {
        fields: Vec::new(),
        count_unmapped: true,
    };
    let plan = Plan::compile(writer.schema(), &mapping).expect("a plan");
    let ours = read(&plan, datum);
    if is_in_order {
        prop_assert!(ours.is_ok(), "{:?}", ours);
    }
    let Ok((seen, _)) = ours else {
        return Ok(());
    };
    let theirs = theirs(writer.schema(), Some(reader.schema()), datum);
    prop_assert!(theirs.is_some(), "apache-avro does not resolve {}", schema);
    let theirs = theirs.unwrap_or_default();
    prop_assert_eq!(seen.len(), theirs.len());
    for (seen, theirs) in seen.iter().zip(&theirs) {
        let (expected, _) = expected(newest, true, theirs);
        prop_assert_eq!(Expected::of(seen, &expected), expected);
    }
    Ok(())
}
