//! What is remembered of producers, across segments that go and crashes that come.

use super::disk::Rng;
use super::rig::{Outcome, Rig, What};

const BIG: usize = 1_000_000;

#[test]
fn what_is_remembered_outlives_the_segments_that_held_it() {
    let mut rig = Rig::new();
    rig.tick(0);
    rig.make_segment();
    for _ in 0..40 {
        rig.append_blocks(&[BIG]);
        rig.end_all();
        rig.commit();
        rig.tick(0);
        rig.end_all();
    }
    // Three or so frames a segment: most of the forty are in segments that are gone. `reopen`
    // compares what is remembered with all that were ever durable.
    let recovered = rig.crash(&mut Rng::new(1));
    let first = recovered.start.existing.first().expect("a segment");
    assert!(first.number > 8, "segments were removed: {recovered:?}");
    assert_eq!(rig.durable_numbers().len(), 40);
    // And once more, from snapshots alone, as nothing was appended in between.
    rig.crash(&mut Rng::new(2));
}

#[test]
fn a_crash_between_a_snapshot_and_the_frames_behind_it_forgets_nothing() {
    for seed in 0..32 {
        let mut rig = Rig::new();
        rig.tick(0);
        rig.make_segment();
        // As many as fit.
        rig.append_blocks(&[BIG, BIG, BIG, BIG]);
        rig.end_all();
        // The next frame turns to segment 2: header page, snapshot, frame, in flight together.
        rig.append_blocks(&[BIG]);
        let writes = [What::Header(2), What::Write(2), What::Write(2)];
        assert!(
            writes.iter().all(|write| rig.pending().contains(write)),
            "{:?}",
            rig.pending()
        );
        for write in writes.iter().take(seed as usize % 4) {
            rig.end(*write, Outcome::Good);
        }
        rig.crash(&mut Rng::new(seed));
        assert_eq!(rig.durable_numbers()[..4], [0, 1, 2, 3]);
        rig.append_blocks(&[41]);
        rig.end_all();
        rig.crash(&mut Rng::new(seed));
    }
}
