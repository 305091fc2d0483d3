//! Named scenarios of the writer: what random steps found, or a review feared.

use super::disk::Rng;
use super::rig::{Outcome, Rig, What};

const BIG: usize = 1_000_000;

/// Segments n and n+1 are both open when a write of n fails.
fn both_poisoned() -> Rig {
    let mut rig = Rig::new();
    rig.tick(0);
    rig.make_segment();
    rig.append_blocks(&[BIG]);
    rig.end(What::Header(1), Outcome::Good);
    rig.end(What::Write(1), Outcome::Good);
    rig.end(What::Sync(1), Outcome::Good);
    rig.append_blocks(&[BIG, BIG, BIG, BIG, BIG]);
    assert!(
        rig.pending().contains(&What::Header(2)),
        "{:?}",
        rig.pending()
    );
    // The first of segment 1's blocks that are in flight fails; the others of both stay.
    let settled = rig.end(What::Write(1), Outcome::Bad);
    assert_eq!(settled.lost.map(|(_, records)| records > 0), Some(true));
    rig
}

#[test]
fn two_segments_poisoned_at_once_leave_what_was_durable() {
    for seed in 0..64 {
        let mut rig = both_poisoned();
        let mut rng = Rng::new(seed);
        // At once, or with the successor's header in flight, or with its first block durable.
        if seed % 4 > 0 {
            rig.append_blocks(&[500]);
        }
        if seed % 4 > 1 {
            let pending = rig.pending();
            let header = pending.iter().rfind(|w| matches!(w, What::Header(_)));
            rig.end(*header.expect("the successor's"), Outcome::Good);
        }
        if seed % 4 > 2 {
            rig.end_all();
            assert_eq!(rig.durable_numbers(), [0, 6]);
        }
        rig.crash(&mut rng);
        assert_eq!(rig.durable_numbers()[0], 0);
        rig.append_blocks(&[41]);
        rig.end_all();
        rig.crash(&mut rng);
    }
}

#[test]
fn a_segment_that_was_wholly_durable_when_the_next_began_does_not_stop_the_syncs() {
    let mut rig = Rig::new();
    rig.tick(0);
    rig.make_segment();
    for _ in 0..9 {
        rig.append_blocks(&[BIG]);
        rig.make_segment();
        rig.end_all();
        assert!(rig.writer.is_settled(), "a block was never synced");
    }
    assert_eq!(rig.durable_numbers().len(), 9);
}

#[test]
fn the_successor_of_a_poisoned_segment_names_it_while_its_writes_are_still_in_flight() {
    let mut rig = both_poisoned();
    rig.append_blocks(&[500]);
    let folder = tempfile::tempdir().expect("a folder");
    super::disk::write_image(&rig.disk.view(), folder.path());
    let listing = crate::journal::reader::list_segments(folder.path(), &Default::default());
    let segments = listing.expect("list").segments;
    let last = &segments.last().expect("the successor").header;
    assert_eq!((last.number, last.predecessor), (3, 1));
}

#[test]
fn retention_waits_for_a_poisoned_segment_that_is_older() {
    let mut rig = both_poisoned();
    // The write hangs while two more segments are filled, made durable and committed.
    let stuck = |what: &What| *what == What::Write(1);
    for _ in 0..9 {
        rig.append_blocks(&[BIG]);
        while let Some(what) = rig.pending().into_iter().find(|what| !stuck(what)) {
            rig.end(what, Outcome::Good);
        }
        rig.commit();
        rig.tick(0);
    }
    let removals = |rig: &Rig| {
        rig.pending()
            .into_iter()
            .filter(|w| matches!(w, What::Remove(_)))
    };
    assert_eq!(removals(&rig).count(), 0, "{:?}", rig.pending());
    rig.crash(&mut Rng::new(1));
}

#[test]
fn retention_goes_on_after_a_poisoned_segment_was_buried() {
    let mut rig = both_poisoned();
    for _ in 0..14 {
        rig.append_blocks(&[BIG]);
        rig.end_all();
        rig.commit();
        rig.tick(0);
    }
    rig.end_all();
    assert!(rig.disk.names().len() <= 3, "{:?}", rig.disk.names());
}

#[test]
fn positions_survive_lives_in_which_nothing_came() {
    let mut rig = Rig::new();
    rig.append_blocks(&[BIG, 41]);
    rig.end_all();
    rig.commit();
    for seed in 0..4 {
        let recovered = rig.crash(&mut Rng::new(seed));
        assert!(recovered.start.position > BIG as u64, "{recovered:?}");
        // Retention has its chance, and the next segment is made and not used.
        for _ in 0..3 {
            rig.tick(1_200_000_000);
            rig.end_all();
        }
    }
}
