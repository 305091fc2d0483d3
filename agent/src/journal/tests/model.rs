//! Random appends, completions in any order, failures, crashes: whatever happens, the journal is
//! the vector.

use proptest::prelude::*;

use super::disk::Rng;
use super::rig::{Outcome, Rig};
use crate::limits::FRAME_LEN_MAX;

#[derive(Clone, Copy, Debug)]
enum Step {
    Append {
        len: usize,
        count: usize,
    },
    Tick {
        ns: u64,
    },
    /// Ends an op in flight: which one, and how, is drawn from the seed.
    End {
        seed: u64,
    },
    /// Ends all ops in flight in any order, well.
    EndAll {
        seed: u64,
    },
    Commit,
    DiskLow(bool),
    Crash {
        seed: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![
        3 => Just(41_usize),
        6 => 41..4_000_usize,
        4 => 4_000..=65_536_usize,
        3 => FRAME_LEN_MAX - 70_000..=FRAME_LEN_MAX,
    ];
    prop_oneof![
        16 => (len, 1..4_usize).prop_map(|(len, count)| Step::Append { len, count }),
        6 => prop_oneof![Just(0), Just(1_000_000), Just(6_000_000), Just(1_200_000_000)]
            .prop_map(|ns| Step::Tick { ns }),
        20 => any::<u64>().prop_map(|seed| Step::End { seed }),
        4 => any::<u64>().prop_map(|seed| Step::EndAll { seed }),
        2 => Just(Step::Commit),
        1 => any::<bool>().prop_map(Step::DiskLow),
        1 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
    ]
}

fn take(rig: &mut Rig, step: Step) {
    match step {
        Step::Append { len, count } => {
            for _ in 0..count {
                rig.append(len);
            }
        }
        Step::Tick { ns } => rig.tick(ns),
        Step::End { seed } => {
            let mut rng = Rng::new(seed);
            let in_flight = rig.pending().len();
            if in_flight > 0 {
                let outcome = match rng.below(40) {
                    0 | 1 => Outcome::Bad,
                    2 => Outcome::Short,
                    _ => Outcome::Good,
                };
                rig.end_at(rng.below(in_flight), outcome);
            }
        }
        Step::EndAll { seed } => {
            let mut rng = Rng::new(seed);
            while !rig.pending().is_empty() {
                rig.end_at(rng.below(rig.pending().len()), Outcome::Good);
            }
        }
        Step::Commit => rig.commit(),
        Step::DiskLow(low) => rig.set_disk_low(low),
        Step::Crash { seed } => drop(rig.crash(&mut Rng::new(seed))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 4_000, ..ProptestConfig::default() })]
    #[test]
    fn the_journal_is_a_vector(steps in prop::collection::vec(step(), 1..300), last in any::<u64>()) {
        let mut rig = Rig::new();
        rig.tick(0);
        for step in steps {
            take(&mut rig, step);
        }
        // Whatever it went through, with a disk that works it comes to rest: nothing hangs.
        rig.set_disk_low(false);
        rig.writer.flush(rig.now);
        for _ in 0..10 {
            rig.tick(1_200_000_000);
            rig.end_all();
        }
        prop_assert!(rig.writer.is_settled(), "something was never asked of the disk");
        rig.crash(&mut Rng::new(last));
        rig.crash(&mut Rng::new(last));
    }
}
