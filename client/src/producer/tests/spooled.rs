//! A producer with a spool, through its own restarts and its host's power losses.

use std::path::Path;

use super::*;
use crate::spool::SpoolOptions;
use crate::spool::tests::scratch_folder;

fn spool_options(folder: &Path) -> SpoolOptions {
    SpoolOptions {
        sync_interval: 5 * MS,
        ..SpoolOptions::new(folder)
    }
}

fn spooled(options: Options, spool: SpoolOptions) -> Bench {
    let (spool, recovered) = Spool::open(spool, options.payload_len_max).expect("a spool");
    Bench::of(Producer::with_spool(options, 1, spool, recovered))
}

impl Bench {
    fn tend(&mut self) {
        self.producer.tend(self.now).expect("the disk works");
    }
}

#[test]
fn nothing_is_sent_before_it_is_synced() {
    let folder = scratch_folder();
    let mut bench = spooled(options(), spool_options(folder.path()));
    bench.push(0..1);
    bench.tend();
    let Demand::Idle { wake: Some(due) } = bench.producer.poll(bench.now) else {
        panic!("not synced, so not to be sent");
    };
    assert_eq!(due, bench.now + 5 * MS);
    bench.now = due;
    bench.tend();
    bench.connect();
    assert_eq!(bench.sequences(), [1]);
    bench.push(1..2);
    bench.tend();
    assert_eq!(bench.sequences(), [0; 0]);
    bench.producer.persist(bench.now).unwrap();
    bench.tend();
    assert_eq!(bench.sequences(), [2]);
}

#[test]
fn a_restart_sends_the_same_bytes_under_the_same_numbers() {
    let folder = scratch_folder();
    let mut bench = spooled(options(), spool_options(folder.path()));
    bench.push(0..5);
    bench.producer.persist(bench.now).unwrap();
    bench.tend();
    bench.connect();
    let (id, first) = (bench.producer.id(), bench.sent());
    bench.durable(2, 2);
    bench.tend();
    drop(bench);

    let mut bench = spooled(options(), spool_options(folder.path()));
    assert_eq!(bench.producer.id(), id);
    let report = bench.producer.report();
    assert_eq!((report.recovered.records, report.unsettled.records), (3, 3));
    bench.push(5..6);
    bench.producer.persist(bench.now).unwrap();
    bench.tend();
    bench.connect();
    let again = bench.sent();
    let frames = Agent::default().read(&again);
    let sequences: Vec<u64> = frames.iter().map(|(header, _)| header.sequence).collect();
    assert_eq!(sequences, [3, 4, 5, 6]);
    let resent_len = again.len() - frames[3].0.frame_len();
    assert!(first.ends_with(&again[..resent_len]));
    bench.durable(6, 4);
    bench.producer.finish();
    bench.tend();
    assert_eq!(bench.producer.poll(bench.now), Demand::Done);
    drop(bench);
    // Nothing is left, and the numbers go on.
    let mut bench = spooled(options(), spool_options(folder.path()));
    assert_eq!(bench.producer.report().recovered, Tally::default());
    bench.push(6..7);
    bench.producer.persist(bench.now).unwrap();
    bench.tend();
    bench.connect();
    assert_eq!(bench.sequences(), [7]);
}

#[test]
fn refusals_of_a_recovered_frame_are_reported() {
    let folder = scratch_folder();
    let mut bench = spooled(options(), spool_options(folder.path()));
    bench.push(0..2);
    bench.producer.persist(bench.now).unwrap();
    drop(bench);
    let mut bench = spooled(options(), spool_options(folder.path()));
    bench.producer.finish();
    bench.tend();
    bench.connect();
    assert_eq!(bench.sequences(), [1, 2]);
    for (sequence, reason) in [(1, Reason::SequenceTooOld), (2, Reason::SequenceConflict)] {
        bench.answer(Ack {
            reason: reason as u8,
            ..bench.ack(AckStatus::Refused, sequence, 1)
        });
    }
    let report = bench.producer.report();
    let refused: Vec<_> = report.refused.iter().map(|(l, t)| (l, t.records)).collect();
    assert_eq!(refused, [("sequence_conflict", 1), ("sequence_too_old", 1)]);
    assert_eq!(bench.producer.poll(bench.now), Demand::Done);
}

#[test]
fn more_than_memory_and_window_hold_waits_on_disk() {
    let folder = scratch_folder();
    let mut bench = spooled(options(), spool_options(folder.path()));
    bench.push(0..5_000);
    bench.producer.persist(bench.now).unwrap();
    assert_eq!(bench.producer.report().unsettled.records, 5_000);
    bench.producer.finish();
    bench.tend();
    bench.connect();
    let mut agent = Agent::default();
    let mut delivered = Vec::new();
    while bench.producer.poll(bench.now) != Demand::Done {
        let bytes = bench.sent();
        for (header, records) in agent.read(&bytes) {
            delivered.extend(records);
            bench.durable(header.sequence, 1);
        }
        bench.tend();
    }
    assert_eq!(delivered, (0..5_000).collect::<Vec<_>>());
}

#[test]
fn a_full_spool_waits_or_drops_its_oldest_segment() {
    for overflow in [Overflow::Wait, Overflow::DropNewest, Overflow::DropOldest] {
        let folder = scratch_folder();
        let options = Options {
            overflow,
            payload_len_max: 4_000,
            buffer_bytes_max: 8_000,
            ..options()
        };
        let spool = SpoolOptions {
            size_max: 1 << 20,
            ..spool_options(folder.path())
        };
        let mut bench = spooled(options, spool.clone());
        let mut offered = 0;
        let heavy = |number| LogRecord {
            body: "x".repeat(2000),
            ..record(number)
        };
        while offered < 2_000 && bench.producer.push(&heavy(offered), bench.now).is_ok() {
            offered += 1;
            bench.tend();
        }
        let len: u64 = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(len <= 1 << 20, "{overflow:?}: {len} bytes");
        let report = bench.producer.report();
        let kept = report.unsettled.records;
        assert!(kept > 400, "{overflow:?}: {kept}");
        match overflow {
            Overflow::Wait => assert_eq!((offered, report.records_lost()), (kept, 0)),
            Overflow::DropNewest => assert_eq!(report.records_dropped_newest, 2_000 - kept),
            Overflow::DropOldest => assert_eq!(report.dropped_oldest.records, 2_000 - kept),
        }
        // What was kept is delivered, the newest of them last.
        bench.producer.persist(bench.now).unwrap();
        drop(bench);
        let mut bench = spooled(options_again(), spool);
        bench.producer.finish();
        bench.tend();
        bench.connect();
        let mut agent = Agent::default();
        let mut delivered = Vec::new();
        while bench.producer.poll(bench.now) != Demand::Done {
            for (header, records) in agent.read(&bench.sent()) {
                delivered.extend(records);
                bench.durable(header.sequence, 1);
            }
            bench.tend();
        }
        let first = match overflow {
            Overflow::DropOldest => 2_000 - kept,
            _ => 0,
        };
        assert_eq!(delivered, (first..first + kept).collect::<Vec<_>>());
    }
}

fn options_again() -> Options {
    Options {
        payload_len_max: 4_000,
        ..options()
    }
}

/// Lives one after the other over one spool. Each ends with the program's death or the host's: then
/// the bytes of the last segment that were not synced are cut anywhere. The agent remembers the last
/// 1,024 sequences, as PROTOCOL.md says, and no more.
#[test]
fn nothing_persisted_is_lost_or_stored_twice_through_crashes() {
    for seed in 0..40 {
        crashes(seed);
    }
}

fn crashes(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let folder = scratch_folder();
    let mut stored: BTreeMap<u64, (u32, Vec<u64>)> = BTreeMap::new();
    let mut next = 0;
    // What `persist` promised.
    let mut persisted = std::collections::BTreeSet::new();
    let mut clock = Instant::now();
    let lives = 12;
    for life in 0..=lives {
        let is_last = life == lives;
        let life_start = next;
        let spool = SpoolOptions {
            size_max: 4 << 20,
            ..spool_options(folder.path())
        };
        let options = Options {
            payload_len_max: 4_000,
            batch_records_max: 2,
            jitter_seed: Some(seed + life),
            ..options()
        };
        let mut bench = spooled(options, spool);
        bench.now = clock;
        let mut agent = Agent::default();
        let mut answers: Vec<Ack> = Vec::new();
        let steps = if is_last {
            usize::MAX
        } else {
            random.random_range(0..400)
        };
        for _ in 0..steps {
            bench.now += random.random_range(0..4) * MS;
            if is_last {
                bench.producer.finish();
            } else {
                for _ in 0..random.random_range(0..20) {
                    if bench.producer.push(&record(next), bench.now).is_ok() {
                        next += 1;
                    }
                }
                if random.random_bool(0.1) && bench.producer.persist(bench.now).is_ok() {
                    persisted.extend(life_start..next);
                }
            }
            bench.tend();
            match bench.producer.poll(bench.now) {
                Demand::Done => break,
                Demand::Idle { .. } => {}
                Demand::Connect { .. } => {
                    bench.producer.on_connected(bench.now);
                    agent.unread.clear();
                    answers.clear();
                }
                Demand::Exchange { .. } => {
                    let bytes = bench.producer.outbound(bench.now).to_vec();
                    bench.producer.on_sent(bytes.len());
                    for (header, records) in agent.read(&bytes) {
                        let highest = stored.last_key_value().map_or(0, |(key, _)| *key);
                        assert!(
                            header.sequence + 1024 > highest,
                            "seed {seed}: {} is too old, {highest} was taken",
                            header.sequence
                        );
                        let status = match stored.get(&header.sequence) {
                            Some((crc, _)) => {
                                assert_eq!(*crc, header.payload_crc, "seed {seed}: a conflict");
                                AckStatus::Duplicate
                            }
                            None => {
                                stored.insert(header.sequence, (header.payload_crc, records));
                                AckStatus::Durable
                            }
                        };
                        answers.push(bench.ack(status, header.sequence, 1));
                    }
                    for _ in 0..random.random_range(0..3) {
                        if answers.is_empty() {
                            break;
                        }
                        let ack = answers.swap_remove(random.random_range(0..answers.len()));
                        bench.answer(ack);
                    }
                    if random.random_bool(0.01) {
                        bench.cut();
                    }
                }
            }
            bench.producer.report();
        }
        clock = bench.now;
        let synced_len = bench.producer.spool.as_ref().unwrap().synced_len();
        drop(bench);
        // The host's death, every other time: what was not synced is gone from anywhere on.
        if random.random_bool(0.5) && !is_last {
            let mut segments: Vec<_> = std::fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|e| e == "spool"))
                .collect();
            segments.sort();
            let last = segments.pop().expect("there is always one");
            let len = std::fs::metadata(&last).unwrap().len();
            let cut = random.random_range(synced_len..=len);
            let file = std::fs::OpenOptions::new().write(true).open(&last).unwrap();
            file.set_len(cut).unwrap();
        }
    }
    // In the order of their numbers, and none twice. Persisted ones are all there; of a life's last
    // records, which were in no synced frame, some may be missing.
    let records: Vec<u64> = stored
        .into_values()
        .flat_map(|(_, records)| records)
        .collect();
    assert!(
        records.windows(2).all(|pair| pair[0] < pair[1]),
        "seed {seed}"
    );
    assert!(!persisted.is_empty(), "seed {seed}");
    let stored: std::collections::BTreeSet<u64> = records.into_iter().collect();
    assert!(persisted.is_subset(&stored), "seed {seed}");
}
