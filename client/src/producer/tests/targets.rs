//! Several targets: when one is left, which is taken, and the way back.

use super::*;

fn failover_options() -> Options {
    Options {
        failover_after: 10_000 * MS,
        return_after: 60_000 * MS,
        backoff_base: MS,
        backoff_max: MS,
        ..options()
    }
}

fn bench(targets: usize) -> Bench {
    Bench::of(Producer::with_targets(failover_options(), targets))
}

impl Bench {
    /// The target that is to be connected to next; the time passes until it is.
    fn wanted(&mut self) -> usize {
        loop {
            match self.producer.poll(self.now) {
                Demand::Connect { target } => return target,
                Demand::Idle { wake: Some(wake) } => self.now = wake,
                demand => panic!("{demand:?}"),
            }
        }
    }

    fn fail(&mut self, target: usize) {
        assert_eq!(self.wanted(), target);
        self.producer.on_connect_failed(self.now);
    }

    fn succeed(&mut self, target: usize) {
        assert_eq!(self.wanted(), target);
        self.producer.on_connected(self.now);
    }
}

#[test]
fn what_was_never_sent_goes_to_the_next_at_once() {
    let mut bench = bench(3);
    let start = bench.now;
    bench.push(0..1);
    bench.fail(0);
    bench.fail(1);
    bench.succeed(2);
    assert!(bench.now < start + 10 * MS, "only the backoff's moments");
    assert_eq!(bench.sequences(), [1]);
    bench.durable(1, 1);
    let report = bench.producer.report();
    assert_eq!((report.failovers, report.durable.records), (2, 1));
    // It stays there.
    bench.push(1..2);
    assert_eq!(bench.sequences(), [2]);
    bench.durable(2, 1);
    bench.cut();
    bench.push(2..3);
    bench.succeed(2);
}

#[test]
fn what_may_be_at_an_agent_waits_for_that_agent_first() {
    let mut bench = bench(2);
    bench.push(0..1);
    bench.succeed(0);
    let sent = bench.sent();
    bench.cut();
    let cut_at = bench.now;
    while bench.now < cut_at + 9_990 * MS {
        bench.fail(0);
        bench.now += 100 * MS;
    }
    bench.now = cut_at + 10_000 * MS;
    bench.fail(0);
    bench.succeed(1);
    assert_eq!(bench.sent(), sent, "under its number");
}

#[test]
fn a_target_that_only_says_try_later_is_left_and_left_alone() {
    let mut bench = bench(2);
    let later = |bench: &mut Bench, sequence| {
        bench.answer(Ack {
            retry_after_ms: 60_000,
            ..bench.ack(AckStatus::TryLater, sequence, 1)
        });
    };
    bench.push(0..1);
    bench.succeed(0);
    assert_eq!(bench.sequences(), [1]);
    later(&mut bench, 1);
    let asked_at = bench.now;
    let Demand::Exchange {
        wake: Some(wake), ..
    } = bench.producer.poll(bench.now)
    else {
        panic!("connected");
    };
    assert_eq!(wake, asked_at + 10_000 * MS, "when patience ends");
    bench.now = wake;
    bench.succeed(1);
    // The second agent asked for nothing.
    assert_eq!(bench.sequences(), [1]);
    later(&mut bench, 1);
    // Now both want to be left alone for a minute: no third to turn to.
    bench.now += 15_000 * MS;
    assert!(matches!(
        bench.producer.poll(bench.now),
        Demand::Exchange { .. }
    ));
    // Ninety seconds after the first was asked, its wish is over whatever the jitter.
    bench.now = asked_at + 90_000 * MS;
    bench.succeed(0);
    assert_eq!(bench.sequences(), [1]);
    bench.durable(1, 1);
    assert_eq!(bench.producer.report().failovers, 2);
}

#[test]
fn the_way_back_to_the_first_waits_for_all_answers() {
    let mut bench = bench(2);
    bench.push(0..1);
    bench.fail(0);
    bench.succeed(1);
    assert_eq!(bench.sequences(), [1]);
    bench.durable(1, 1);
    let adopted = bench.now;
    bench.now = adopted + 55_000 * MS;
    bench.push(1..3);
    assert_eq!(bench.sequences(), [2, 3]);
    bench.durable(2, 1);
    bench.now = adopted + 60_000 * MS;
    // Frame 3 may be stored here: nothing new is begun, and nobody is left.
    bench.push(3..4);
    assert_eq!(bench.sequences(), [0; 0]);
    bench.durable(3, 1);
    // The first is still not there: straight back to the second.
    bench.fail(0);
    let now = bench.now;
    bench.succeed(1);
    assert_eq!(bench.now, now, "without a pause");
    assert_eq!(bench.sequences(), [4]);
    bench.durable(4, 1);
    bench.now += 60_000 * MS;
    bench.push(4..5);
    bench.producer.poll(bench.now);
    bench.succeed(0);
    assert_eq!(bench.sequences(), [5]);
    bench.durable(5, 1);
    let report = bench.producer.report();
    assert_eq!((report.durable.records, report.resent.frames), (5, 0));
}

#[test]
fn nothing_is_lost_among_targets_that_come_and_go() {
    for seed in 0..100 {
        chaos_among_targets(seed);
    }
}

/// Three agents that remember what they took, each down for long stretches, each slow to answer.
/// What is settled as acknowledged stands with at least one of them.
fn chaos_among_targets(seed: u64) {
    const RECORDS: u64 = 300;
    let mut random = StdRng::seed_from_u64(seed);
    let producer = Producer::with_targets(
        Options {
            failover_after: 2_000 * MS,
            return_after: 3_000 * MS,
            batch_records_max: 3,
            jitter_seed: Some(seed),
            ..options()
        },
        3,
    );
    let mut bench = Bench::of(producer);
    let mut agents: [Agent; 3] = Default::default();
    let mut down = [false; 3];
    let mut connected = 0;
    let mut answers: Vec<Ack> = Vec::new();
    let mut pushed = 0;
    for _ in 0..200_000 {
        bench.now += random.random_range(0..50) * MS;
        if random.random_bool(0.01) {
            let agent = random.random_range(0..3);
            down[agent] = !down[agent];
        }
        if pushed < RECORDS && random.random_bool(0.3) {
            bench.push(pushed..pushed + 1);
            pushed += 1;
        } else if pushed == RECORDS {
            bench.producer.finish();
        }
        match bench.producer.poll(bench.now) {
            Demand::Done => break,
            Demand::Idle { .. } => {}
            Demand::Connect { target } if down[target] => {
                bench.producer.on_connect_failed(bench.now);
            }
            Demand::Connect { target } => {
                connected = target;
                bench.producer.on_connected(bench.now);
                agents[target].unread.clear();
                answers.clear();
            }
            Demand::Exchange { .. } if down[connected] => bench.cut(),
            Demand::Exchange { .. } => {
                let bytes = bench.producer.outbound(bench.now).to_vec();
                bench.producer.on_sent(bytes.len());
                for (header, records) in agents[connected].read(&bytes) {
                    let status = match random.random_bool(0.2) {
                        true => AckStatus::TryLater,
                        false => agents[connected].store(&header, records),
                    };
                    answers.push(bench.ack(status, header.sequence, 1));
                }
                if !answers.is_empty() && random.random_bool(0.5) {
                    let ack = answers.swap_remove(random.random_range(0..answers.len()));
                    bench.answer(ack);
                }
            }
        }
    }
    assert_eq!(bench.producer.poll(bench.now), Demand::Done, "seed {seed}");
    let report = bench.producer.report();
    assert_eq!(report.acknowledged().records, RECORDS, "seed {seed}");
    let stored: std::collections::BTreeSet<u64> = agents
        .iter()
        .flat_map(|agent| agent.stored.values())
        .flat_map(|(_, records)| records.clone())
        .collect();
    assert_eq!(stored, (0..RECORDS).collect(), "seed {seed}");
}
