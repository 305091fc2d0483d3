//! Payloads that are encoded once, before the clock starts: a generator that encodes while it
//! measures would measure itself.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use agent_common::frame::{FLAG_ACKNOWLEDGE, FLAG_ZSTD, FrameHeader};
use penstock_client::LogRecord;
use penstock_client::batch::Batch;
use penstock_proto::avro::SchemaVersion;
use penstock_proto::checksum::crc32c;
use penstock_proto::encoding::Encoding;

use super::lines::{SplitMix64, line};
use super::plan::Plan;
use crate::exit::{Exit, Failure};

/// Generated lines fill this many templates: with 50 records of 215 bytes in each, 344 KB, which
/// a core's second cache holds.
const GENERATED_TEMPLATES: usize = 32;
/// Lines from files fill at most this much.
const TEMPLATE_BYTES_MAX: usize = 16 << 20;

/// A payload, and the header that belongs to it but for producer, sequence and checksum.
pub struct Template {
    pub payload: Vec<u8>,
    pub header: FrameHeader,
    records: Vec<LogRecord>,
}

impl Template {
    /// A payload that is no batch of records.
    pub fn forged(payload: Vec<u8>, header: FrameHeader) -> Self {
        Self {
            payload,
            header,
            records: Vec::new(),
        }
    }
}

pub struct Templates {
    pub all: Vec<Template>,
    zstd_level: Option<i32>,
    /// The first so many are whole; behind them stand what was cut from one, and forged ones.
    full: usize,
    payload_len_max: usize,
    encoding: Encoding,
    schema: SchemaVersion,
}

impl Templates {
    pub fn build(plan: &Plan) -> Result<Self, Failure> {
        let mut filling = Filling::new(plan);
        if plan.lines.is_empty() {
            let mut random = SplitMix64::new(plan.seed);
            while filling.done.len() < GENERATED_TEMPLATES {
                let line = line(&mut random);
                filling.push(LogRecord {
                    severity_number: line.severity_number,
                    service_name: line.service_name.to_owned(),
                    body: line.body,
                    ..filling.blank.clone()
                })?;
            }
        } else {
            for path in &plan.lines {
                filling.push_file(path)?;
            }
            filling.seal();
        }
        let all = filling.done;
        if all.is_empty() {
            let message = "the files given with --lines have no lines";
            return Err(Failure::new(Exit::NoInput, message));
        }
        Ok(Self {
            full: all.len(),
            all,
            zstd_level: plan.zstd_level,
            payload_len_max: plan.payload_len_max,
            encoding: plan.encoding,
            schema: plan.schema,
        })
    }

    /// The template of the `number`-th frame, with at most `records_max` records (not 0).
    pub fn choose(&mut self, number: u64, records_max: u64) -> usize {
        let index = (number % self.full as u64) as usize;
        if u64::from(self.all[index].header.records) <= records_max {
            return index;
        }
        // Once in a run, at its end.
        let whole = &self.all[index];
        let records = whole.records[..records_max as usize].to_vec();
        let mut batch = Batch::new(self.encoding, self.schema).with_zstd(self.zstd_level);
        for record in &records {
            let pushed = batch.push(record, self.payload_len_max);
            assert!(
                pushed.is_ok(),
                "a part of a payload is longer than the whole"
            );
        }
        // What the compression says of itself is set anew.
        let flags = whole.header.flags & !FLAG_ZSTD;
        let priority = whole.header.priority;
        self.all
            .push(template(&mut batch, flags, priority, records));
        self.all.len() - 1
    }

    /// Bytes of a payload per record, over all templates.
    pub fn record_len_mean(&self) -> f64 {
        let full = &self.all[..self.full];
        let bytes: usize = full.iter().map(|template| template.payload.len()).sum();
        let records: usize = full.iter().map(|template| template.records.len()).sum();
        bytes as f64 / records as f64
    }
}

/// Templates being filled.
struct Filling {
    done: Vec<Template>,
    bytes: usize,
    batch: Batch,
    records: Vec<LogRecord>,
    batch_records_max: u32,
    payload_len_max: usize,
    flags: u8,
    priority: u8,
    /// What all records share.
    blank: LogRecord,
}

impl Filling {
    fn new(plan: &Plan) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            done: Vec::new(),
            bytes: 0,
            batch: Batch::new(plan.encoding, plan.schema).with_zstd(plan.zstd_level),
            records: Vec::new(),
            batch_records_max: plan.batch_records,
            payload_len_max: plan.payload_len_max,
            priority: plan.priority,
            flags: if plan.acknowledge {
                FLAG_ACKNOWLEDGE
            } else {
                0
            },
            blank: LogRecord {
                time_unix_nano: now.map(|since| since.as_nanos() as u64).unwrap_or(0),
                severity_number: 9,
                service_name: "load".into(),
                host_name: "load-1".into(),
                ..LogRecord::default()
            },
        }
    }

    fn push_file(&mut self, path: &PathBuf) -> Result<(), Failure> {
        let name = path.display();
        let file = File::open(path).map_err(|e| Failure::io(format!("open {name}"), &e))?;
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        while self.bytes < TEMPLATE_BYTES_MAX {
            line.clear();
            let len = reader
                .read_until(b'\n', &mut line)
                .map_err(|error| Failure::io(format!("read {name}"), &error))?;
            if len == 0 {
                break;
            }
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            self.push(LogRecord {
                body: String::from_utf8_lossy(text).into_owned(),
                ..self.blank.clone()
            })?;
        }
        Ok(())
    }

    fn push(&mut self, record: LogRecord) -> Result<(), Failure> {
        if self.batch.records() >= self.batch_records_max
            || self.batch.push(&record, self.payload_len_max).is_err()
        {
            self.seal();
            if let Err(no_room) = self.batch.push(&record, self.payload_len_max) {
                return Err(Failure::new(
                    Exit::Usage,
                    format!(
                        "a record of {} bytes does not fit a payload of {} (--payload-max)",
                        no_room.record_len, self.payload_len_max
                    ),
                ));
            }
        }
        self.records.push(record);
        Ok(())
    }

    fn seal(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let records = std::mem::take(&mut self.records);
        let template = template(&mut self.batch, self.flags, self.priority, records);
        self.bytes += template.payload.len();
        self.done.push(template);
        self.batch.clear();
    }
}

fn template(batch: &mut Batch, flags: u8, priority: u8, records: Vec<LogRecord>) -> Template {
    let (encoding, count) = (batch.encoding() as u8, batch.records());
    let (payload, zstd_flag) = batch.sealed_payload();
    Template {
        header: FrameHeader {
            encoding,
            flags: flags | zstd_flag,
            priority,
            payload_len: payload.len() as u32,
            records: count,
            producer: 0,
            sequence: 0,
            payload_crc: crc32c(payload),
        },
        payload: payload.to_vec(),
        records,
    }
}
