//! Workers under the seeded simulator. One seed is replayed with `PENSTOCK_SIM_SEED`, another
//! number of seeds is run with `PENSTOCK_SIM_SEEDS`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use penstock_tests::sim::scenario::{Setup, run, try_run};

/// Seeds of an ordinary test run.
const SEEDS: u64 = 300;

#[test]
fn seeds() {
    if let Ok(seed) = std::env::var("PENSTOCK_SIM_SEED") {
        let seed = seed.parse().expect("PENSTOCK_SIM_SEED is a number");
        return replay(seed);
    }
    let count = std::env::var("PENSTOCK_SIM_SEEDS").map_or(SEEDS, |count| {
        count.parse().expect("PENSTOCK_SIM_SEEDS is a number")
    });
    let from = std::env::var("PENSTOCK_SIM_FROM").map_or(0, |from| {
        from.parse().expect("PENSTOCK_SIM_FROM is a number")
    });
    let mut acknowledged = 0;
    for seed in from..from + count {
        match catch_unwind(AssertUnwindSafe(|| run(&Setup::random(seed), None))) {
            Ok(outcome) => acknowledged += outcome.acknowledged,
            Err(_) => {
                panic!(
                    "seed {seed} fails; to replay it:\n    PENSTOCK_SIM_SEED={seed} cargo test \
                     -p penstock-tests --test simulation seeds -- --nocapture"
                );
            }
        }
    }
    assert!(acknowledged > 0, "nothing was ever acknowledged");
}

fn replay(seed: u64) {
    let setup = Setup::random(seed);
    println!("{setup:#?}");
    match try_run(&setup) {
        Ok(outcome) => println!("seed {seed}: {outcome:?}"),
        Err(failure) => {
            for line in &failure.trace {
                println!("{line}");
            }
            panic!("seed {seed}: {}", failure.message);
        }
    }
}
