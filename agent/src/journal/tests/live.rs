//! Names that come while the writer writes, and sinks that come and go.

use super::disk::Rng;
use super::rig::{Outcome, Rig, What};
use crate::journal::feed::feed;
use crate::journal::writer::Room;
use crate::shard::op::ListenerId;
use std::sync::Arc;

const BIG: usize = 1_000_000;

#[test]
fn a_new_name_has_its_segment_before_an_entry_speaks_of_it() {
    let mut rig = Rig::new();
    assert!(rig.writer.knows_listener(ListenerId(0)));
    rig.append_blocks(&[41, 41]);
    rig.end_all();
    rig.writer.name_listener("more");
    assert!(!rig.writer.knows_listener(ListenerId(1)));
    assert_eq!(rig.writer.room(), Room::Yes, "the others go on meanwhile");
    rig.tick(0);
    assert!(
        rig.pending().contains(&What::Making(2)),
        "{:?}",
        rig.pending()
    );
    rig.append_blocks(&[41]);
    assert!(
        !rig.writer.knows_listener(ListenerId(1)),
        "the segment is not there yet"
    );
    rig.make_segment();
    rig.tick(0);
    assert!(
        rig.pending().contains(&What::Header(2)),
        "{:?}",
        rig.pending()
    );
    assert!(rig.writer.knows_listener(ListenerId(1)));
    rig.end_all();
    rig.append_blocks(&[41]);
    rig.end_all();
    let recovered = rig.crash(&mut Rng::new(1));
    assert_eq!(rig.durable_numbers(), [0, 1, 2, 3]);
    assert_eq!(recovered.start.existing.len(), 2, "{recovered:?}");
}

#[test]
fn names_at_any_moment_cost_no_frame() {
    for seed in 0..48 {
        let mut rng = Rng::new(seed);
        let mut rig = Rig::new();
        let mut names = 1;
        for step in 0..24 {
            if rng.one_in(3) {
                rig.writer.name_listener(&format!("more-{names}"));
                names += 1;
            }
            // What a block waits for may be anything that is in flight: it ends in order.
            while rig.writer.room() == Room::Wait
                && let Some(first) = rig.pending().first().copied()
            {
                rig.end(first, Outcome::Good);
            }
            rig.append_blocks(&[if step % 2 == 0 { 41 } else { BIG }]);
            match rng.below(4) {
                0 => rig.end_all(),
                1 => {
                    if let Some(what) = rig.pending().first().copied() {
                        rig.end(what, Outcome::Good);
                    }
                }
                2 => rig.tick(1),
                _ => {}
            }
            rig.commit();
        }
        rig.end_all();
        rig.tick(0);
        rig.end_all();
        let durable = rig.durable_numbers().len();
        assert_eq!(durable, 24, "seed {seed}");
        rig.crash(&mut rng);
        assert_eq!(rig.durable_numbers().len(), durable, "seed {seed}");
    }
}

#[test]
fn a_name_waits_for_a_segment_that_may_not_be_made() {
    let mut rig = Rig::new();
    rig.append_blocks(&[41]);
    rig.end_all();
    rig.set_disk_low(true);
    rig.writer.name_listener("more");
    for _ in 0..3 {
        rig.tick(1_000_000_000);
        assert!(!rig.writer.knows_listener(ListenerId(1)));
        assert_eq!(rig.writer.room(), Room::Yes);
    }
    rig.append_blocks(&[41]);
    rig.set_disk_low(false);
    rig.tick(1_000_000_000);
    rig.make_segment();
    rig.tick(0);
    assert!(rig.writer.knows_listener(ListenerId(1)));
}

#[test]
fn a_sink_that_comes_keeps_what_it_has_not_got_and_one_that_goes_keeps_nothing() {
    let mut rig = Rig::new();
    for _ in 0..7 {
        rig.append_blocks(&[BIG]);
        rig.end_all();
    }
    let removes = |rig: &Rig| rig.pending().contains(&What::Remove(1));
    let (sender, receiver) = feed(&Arc::default(), 1);
    let mark = Arc::clone(&receiver.mark);
    rig.writer.change_feed(None, Some(sender));
    rig.commit();
    rig.tick(0);
    assert!(!removes(&rig), "the new one has nothing");
    // Another in its place, in one step.
    let (sender, receiver) = feed(&Arc::default(), 1);
    let second = Arc::clone(&receiver.mark);
    rig.writer.change_feed(Some(mark), Some(sender));
    rig.tick(0);
    assert!(!removes(&rig));
    rig.writer.change_feed(Some(second), None);
    rig.tick(0);
    assert!(removes(&rig), "nobody wants it any more");
    assert!(rig.writer.is_removing());
    rig.end_all();
    assert!(!rig.writer.is_removing());
}
