//! Room: when segments go, what happens where they cannot, and what the writer says meanwhile.

use penstock_proto::reason::Reason;

use super::rig::{Outcome, Rig, SEGMENT_LEN, What};
use crate::config::settings::OnFull;
use crate::journal::writer::Room;
use crate::shard::counters::{Refusal, SegmentCall};

const BIG: usize = 1_000_000;
const SEGMENT_BYTES: u64 = SEGMENT_LEN + 4096;
const SECOND: u64 = 1_000_000_000;

fn removals(rig: &Rig) -> Vec<u64> {
    let removals = rig.pending().into_iter().filter_map(|what| match what {
        What::Remove(number) => Some(number),
        _ => None,
    });
    removals.collect()
}

/// Four blocks a segment, all durable; nothing is committed.
fn filled(rig: &mut Rig, blocks: usize) {
    for _ in 0..blocks {
        rig.append_blocks(&[BIG]);
        rig.end_all();
    }
}

#[test]
fn a_removal_that_fails_is_counted_and_tried_again_and_its_bytes_count_until_it_succeeds() {
    let mut rig = Rig::new();
    filled(&mut rig, 7);
    let before = rig.writer.bytes();
    rig.commit();
    rig.tick(0);
    assert_eq!(removals(&rig), [1]);
    rig.end(What::Remove(1), Outcome::Bad);
    assert_eq!(rig.writer.bytes(), before);
    assert_eq!(rig.writer.call_errors()[SegmentCall::Remove as usize], 1);
    rig.tick(SECOND / 2);
    assert_eq!(removals(&rig), [0; 0], "not as fast as it can");
    rig.tick(SECOND / 2);
    assert_eq!(removals(&rig), [1], "the oldest first, still");
    rig.end(What::Remove(1), Outcome::Good);
    assert_eq!(rig.writer.bytes(), before - SEGMENT_BYTES);
    assert!(!rig.disk.names().contains(&1));
}

#[test]
fn a_segment_that_was_given_up_counts_until_it_is_gone() {
    let mut rig = Rig::new();
    rig.tick(0);
    // Opened, then not allocated, then not removed.
    rig.end(What::Making(1), Outcome::Good);
    rig.end(What::Making(1), Outcome::Bad);
    rig.end(What::Remove(1), Outcome::Bad);
    assert_eq!(rig.writer.bytes(), SEGMENT_BYTES);
    assert!(
        rig.writer.is_settled(),
        "a stop does not wait for the next try"
    );
    let errors = rig.writer.call_errors();
    assert_eq!(
        (
            errors[SegmentCall::Allocate as usize],
            errors[SegmentCall::Remove as usize]
        ),
        (1, 1)
    );
    rig.tick(SECOND);
    rig.end(What::Remove(1), Outcome::Good);
    assert_eq!(rig.writer.bytes(), 0);
    assert_eq!(rig.pending(), [What::Making(2)]);
}

#[test]
fn a_folder_in_which_nothing_can_be_removed_does_not_fill_without_end() {
    let mut rig = Rig::new();
    for _ in 0..40 {
        rig.tick(SECOND);
        while let Some(what) = rig.pending().first().copied() {
            let opens = matches!(what, What::Making(number) if !rig.disk.names().contains(&number));
            rig.end(what, if opens { Outcome::Good } else { Outcome::Bad });
        }
    }
    assert_eq!(rig.disk.names().len(), 4);
    assert_eq!(rig.marks().refusal(), Some(Refusal::Failed));
}

#[test]
fn the_cause_of_a_refusal_is_known_and_goes_when_it_does() {
    let mut rig = Rig::new();
    while rig.writer.room() == Room::Yes || rig.marks().refusal().is_none() {
        match rig.writer.room() {
            Room::Yes => rig.append_blocks(&[BIG]),
            _ => rig.tick(0),
        }
        rig.end_all();
    }
    assert_eq!(rig.writer.room(), Room::Refused(Reason::Backpressure));
    assert_eq!(rig.marks().refusal(), Some(Refusal::MaxSize));
    assert!(!rig.marks().is_writable());
    rig.set_disk_low(true);
    rig.commit();
    for _ in 0..8 {
        rig.tick(0);
        rig.end_all();
    }
    assert_eq!(rig.marks().refusal(), Some(Refusal::MinFree));
    rig.set_disk_low(false);
    rig.tick(0);
    // Opening it fails: tried again after a second, and not before.
    let making = rig.pending()[0];
    assert!(matches!(making, What::Making(_)), "{making:?}");
    rig.end(making, Outcome::Bad);
    rig.tick(SECOND / 2);
    assert_eq!(rig.pending(), []);
    assert_eq!(rig.marks().refusal(), Some(Refusal::Failed));
    assert_eq!(rig.writer.room(), Room::Refused(Reason::JournalFailed));
    rig.tick(SECOND / 2);
    rig.end_all();
    rig.tick(0);
    assert_eq!(
        (rig.marks().refusal(), rig.writer.room()),
        (None, Room::Yes)
    );
}

#[test]
fn drop_oldest_goes_on_for_ever_within_the_limit() {
    let mut rig = Rig::with(OnFull::DropOldest);
    for block in 0..40 {
        rig.append_blocks(&[BIG]);
        rig.end_all();
        assert!(
            rig.disk.names().len() <= 6,
            "block {block}: {:?}",
            rig.disk.names()
        );
        assert_eq!(rig.marks().refusal(), None);
    }
    let dropped = rig.marks().dropped_until();
    // Forty blocks are ten segments of four, of which the newest five or six are left.
    assert!(dropped >= 4 * 4 * BIG as u64, "{dropped}");
    // A sink that has everything has nothing dropped.
    rig.commit();
    rig.tick(0);
    rig.end_all();
    assert_eq!(rig.marks().dropped_until(), dropped);
}

#[test]
fn for_the_disks_sake_one_segment_a_second_is_dropped() {
    let mut rig = Rig::with(OnFull::DropOldest);
    // Four full segments, and two blocks: the next one makes the writer want another segment.
    filled(&mut rig, 18);
    rig.set_disk_low(true);
    let before = rig.disk.names().len();
    filled(&mut rig, 1);
    for _ in 0..10 {
        rig.tick(SECOND / 10);
        rig.end_all();
    }
    // At once, and at the second's end.
    let left = rig.disk.names().len();
    assert!(
        (before - 2..before).contains(&left),
        "{before} and then {left}"
    );
    for _ in 0..60 {
        rig.tick(SECOND);
        rig.end_all();
    }
    // The last one stays: it says which positions were given out.
    assert!(!rig.disk.names().is_empty());
    // It takes its last block, and then nothing.
    filled(&mut rig, 1);
    rig.tick(0);
    assert_eq!(rig.marks().refusal(), Some(Refusal::MinFree));
}
