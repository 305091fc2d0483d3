//! Avro: our views beside apache-avro's owned values and serde_avro_fast's borrowed records.

use std::collections::HashMap;
use std::fmt;
use std::hint::black_box;
use std::marker::PhantomData;

use criterion::{Criterion, Throughput};
use penstock::schema::builtin::LOG_RECORDS;
use penstock_benches::Line;
use penstock_client::SchemaVersion;
use penstock_client::batch::Batch as Encoder;
use penstock_proto::encoding::Encoding;
use penstock_proto::v1::LogRecord;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::{Batch, Group, bench_views, report};

/// Marker and fingerprint, which the peers' readers of a datum do not take.
const NAME_LEN: usize = 10;

pub fn benches(criterion: &mut Criterion, lines: &[Line]) {
    // What v1 can hold: so that all versions can be compared on the same content.
    let v1_lines: Vec<Line> = lines
        .iter()
        .map(|line| Line {
            host_name: String::new(),
            attributes: Vec::new(),
            ..line.clone()
        })
        .collect();
    let group = |name: &str, lines: &[Line], schema, criterion: &mut Criterion| {
        let batches = batches(lines, schema);
        report(name, lines, &batches);
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(lines.len() as u64));
        bench_peers(&mut group, schema, &batches);
        bench_views(&mut group, Encoding::Avro, &batches);
        group.finish();
    };
    group("avro", lines, SchemaVersion::V3, criterion);
    group("avro_v2", lines, SchemaVersion::V2, criterion);
    group(
        "avro_v1_fields_as_v3",
        &v1_lines,
        SchemaVersion::V3,
        criterion,
    );
    group(
        "avro_v1_fields_as_v2",
        &v1_lines,
        SchemaVersion::V2,
        criterion,
    );
    group(
        "avro_v1_fields_as_v1",
        &v1_lines,
        SchemaVersion::V1,
        criterion,
    );
}

fn batches(lines: &[Line], schema: SchemaVersion) -> Vec<Batch> {
    super::batches(lines, |lines| {
        let mut batch = Encoder::new(Encoding::Avro, schema);
        for line in lines {
            let record = LogRecord {
                time_unix_nano: line.time_unix_nano,
                severity_number: line.severity_number,
                service_name: line.service_name.clone(),
                body: line.body.clone(),
                host_name: line.host_name.clone(),
                attributes: line.attributes.iter().cloned().collect(),
                ..LogRecord::default()
            };
            batch.push(&record, usize::MAX).expect("no limit");
        }
        batch.payload().to_vec()
    })
}

fn bench_peers(group: &mut Group<'_>, schema: SchemaVersion, batches: &[Batch]) {
    let text = |version: SchemaVersion| {
        let record = LOG_RECORDS[version as usize];
        format!(r#"{{"type": "array", "items": {record}}}"#)
    };
    let writer = apache_avro::Schema::parse_str(&text(schema)).unwrap();
    let reader = apache_avro::Schema::parse_str(&text(SchemaVersion::V3)).unwrap();
    let reader = (schema != SchemaVersion::V3).then_some(&reader);
    group.bench_function("apache_avro_owned", |bencher| {
        bencher.iter(|| {
            for batch in batches {
                let mut datum = black_box(&batch.payload[NAME_LEN..]);
                black_box(apache_avro::from_avro_datum(&writer, &mut datum, reader).unwrap());
            }
        });
    });

    let schema: serde_avro_fast::Schema = text(schema).parse().unwrap();
    group.bench_function("serde_avro_fast_borrowed", |bencher| {
        bencher.iter(|| {
            for batch in batches {
                let datum = black_box(&batch.payload[NAME_LEN..]);
                let records: Vec<Borrowed<'_, HashMap<&str, &str>>> =
                    serde_avro_fast::from_datum_slice(datum, &schema).unwrap();
                black_box(records);
            }
        });
    });
    // The least it can be asked for: no vector of records, no map of attributes.
    group.bench_function("serde_avro_fast_borrowed_nothing_kept", |bencher| {
        bencher.iter(|| {
            for batch in batches {
                let datum = black_box(&batch.payload[NAME_LEN..]);
                let records: Each<Borrowed<'_, Pairs>> =
                    serde_avro_fast::from_datum_slice(datum, &schema).unwrap();
                black_box(records);
            }
        });
    });
}

/// What somebody who used serde would write down.
#[derive(Deserialize)]
#[allow(dead_code)]
struct Borrowed<'a, Attributes> {
    time_unix_nano: i64,
    severity_number: i32,
    #[serde(borrow)]
    service_name: &'a str,
    body: &'a str,
    #[serde(default)]
    host_name: &'a str,
    #[serde(default)]
    attributes: Attributes,
    #[serde(default)]
    trace_id: &'a [u8],
    #[serde(default)]
    span_id: &'a [u8],
}

/// A sequence whose elements are read, looked at and dropped.
struct Each<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Each<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<T> {
            type Value = Each<T>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Each<T>, A::Error> {
                while let Some(element) = all.next_element::<T>()? {
                    black_box(element);
                }
                Ok(Each(PhantomData))
            }
        }
        deserializer.deserialize_seq(Elements(PhantomData))
    }
}

/// A map whose entries are read as text and dropped.
#[derive(Default)]
struct Pairs;

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Pairs;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Pairs, A::Error> {
                while all.next_entry::<&str, &str>()?.is_some() {}
                Ok(Pairs)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
