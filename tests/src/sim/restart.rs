//! Between two lives: what a crash has left goes through the agent's own recovery; and after a stop
//! in good order the sums are taken.

use std::path::{Path, PathBuf};
use std::time::Duration;

use penstock::daemon::data::DataFolder;
use penstock::daemon::recall::recall;
use penstock::journal::dedup::Recalled;
use penstock::journal::format::shard_folder_name;
use penstock::journal::recovery;
use penstock::journal::writer::JournalStart;
use penstock::shard::counters::{ListenerCounters, ShardCounters};
use penstock_proto::reason::Reason;

use super::book::{Book, Tally};
use super::check::DurableIndex;
use super::disk::DiskImage;
use super::kernel::{Lie, World};
use super::life::Life;

/// Reasons for which a good frame may be refused: taken before, no room, a broken disk, the end, its
/// priority, its tenant.
pub const NOBODYS_FAULT: [Reason; 7] = [
    Reason::Duplicate,
    Reason::Backpressure,
    Reason::JournalFailed,
    Reason::Stopping,
    Reason::Shed,
    Reason::RateLimited,
    Reason::TenantShare,
];

/// More producers than any run has; and longer than any run.
const PRODUCERS_MAX: usize = 24;
const PRODUCER_EXPIRY: Duration = Duration::from_secs(3_600);

/// What an agent finds of one shard's journal.
pub struct Found {
    pub image: DiskImage,
    pub start: JournalStart,
    /// What is recalled of the producers, where the shard is still there.
    pub recalled: Option<Recalled>,
}

/// Lets the agent's own recovery look at what a crash has left, in a folder of real files; `count`
/// shards go on. Nothing acknowledged may be missing then, and no damage may be reported.
pub fn recover(data_dir: &Path, images: &[DiskImage], count: u16, world: &mut World) -> Vec<Found> {
    let folder = |shard: usize| {
        let name = shard_folder_name(shard as u16);
        data_dir.join("journal").join(name)
    };
    for (shard, image) in images.iter().enumerate() {
        lay_out(&folder(shard), image, world);
        let inspected = recovery::inspect(&folder(shard)).expect("sound files");
        let report = inspected.recovered.report;
        assert_eq!(
            report.damaged,
            [],
            "recovery reports damage, and there was none: {report:?}"
        );
        world.struck.torn_tails_cut += u64::from(report.cut_at.is_some());
    }
    let data = DataFolder::open(data_dir).expect("a data folder");
    let now_unix_ns = world.now().unix_ns;
    let inherited = recall(
        &data,
        &[],
        count,
        PRODUCERS_MAX,
        PRODUCER_EXPIRY,
        now_unix_ns,
    );
    let inherited = inherited.expect("recovery of sound files");
    let kept = inherited
        .shards
        .into_iter()
        .map(|(start, recalled)| (start, Some(recalled)));
    let left = inherited
        .left_behind
        .into_iter()
        .map(|(_, start)| (start, None));
    let mut found: Vec<Found> = Vec::new();
    for (shard, (start, recalled)) in kept.chain(left).enumerate() {
        let image = read_folder(&folder(shard));
        let index = DurableIndex::of_image(&image, &world.book);
        let stored = index.stored_records(&world.book);
        let before = start.existing.first().map_or(start.records, |first| {
            index.records_before(first.number).unwrap_or(start.records)
        });
        assert_eq!(
            start.records - before,
            stored,
            "records that recovery says it keeps, and records that are there: {start:?}"
        );
        let recalled = match world.lie {
            Some(Lie::DedupForgotten) => {
                recalled.map(|_| Recalled::nobody(PRODUCERS_MAX, PRODUCER_EXPIRY))
            }
            _ => recalled,
        };
        found.push(Found {
            image,
            start,
            recalled,
        });
    }
    found
}

/// Puts a journal where the agent looks for it.
fn lay_out(folder: &Path, image: &DiskImage, world: &World) {
    if folder.exists() {
        std::fs::remove_dir_all(folder).expect("a temporary folder");
    }
    std::fs::create_dir_all(folder).expect("a temporary folder");
    let mut image = image.clone();
    if world.lie == Some(Lie::GoodEntryCut) {
        cut_last_block(&mut image, &world.book);
    }
    for (name, bytes) in &image {
        std::fs::write(folder.join(name), bytes).expect("a temporary file");
    }
}

/// What a recovery would leave that takes the last good block for a torn one.
fn cut_last_block(image: &mut DiskImage, book: &Book) {
    let index = DurableIndex::of_image(image, book);
    if let Some((name, offset)) = index.last_block()
        && let Some(bytes) = image.get_mut(&name)
    {
        bytes[offset..].fill(0);
    }
}

fn read_folder(folder: &Path) -> DiskImage {
    let entries = std::fs::read_dir(folder).expect("the folder just made");
    let paths = entries.map(|entry| entry.expect("its entry").path());
    let read = |path: PathBuf| {
        let name = path.file_name().expect("a file").to_string_lossy();
        (name.into_owned(), std::fs::read(&path).expect("its bytes"))
    };
    paths.map(read).collect()
}

/// The counts of one listener, all shards together.
fn sum(counters: &[ShardCounters], listener: u16) -> ListenerCounters {
    let mut sum = ListenerCounters::default();
    for shard in counters {
        let counts = &shard.listeners[usize::from(listener)];
        let pairs = sum.accepted_frames.iter_mut().zip(counts.accepted_frames);
        pairs.for_each(|(sum, count)| *sum += count);
        let pairs = sum.refused_frames.iter_mut().zip(counts.refused_frames);
        pairs.for_each(|(sum, count)| *sum += count);
        sum.received_frames += counts.received_frames;
        sum.received_datagrams += counts.received_datagrams;
        let pairs = sum.gate_datagrams.iter_mut().zip(counts.gate_datagrams);
        pairs.for_each(|(sum, count)| *sum += count);
        sum.connections += counts.connections;
    }
    sum
}

/// After a stop in good order: nothing is left over, and what was counted is what happened.
pub fn check_stopped(life: &Life) {
    let counters: Vec<ShardCounters> = life.all_counters();
    for shard in &life.shards {
        shard.check_at_rest();
    }
    let tallies = {
        let world = life.world();
        world.check_answered(0);
        world.tallies(0)
    };
    for listener in counters.iter().flat_map(|counters| &counters.listeners) {
        let shed = listener.refused_frames[Reason::Shed.index()];
        life.world().struck.shed += shed;
    }
    for (listener, tally) in &tallies {
        check_listener(*listener, tally, &sum(&counters, *listener));
    }
    for (shard, counters) in life.shards.iter().zip(&counters) {
        check_records(counters, life.shard_records(shard));
    }
}

fn check_listener(listener: u16, tally: &Tally, counts: &ListenerCounters) {
    let accepted: u64 = counts.accepted_frames.iter().sum();
    let refused: u64 = counts.refused_frames.iter().sum();
    assert_eq!(
        counts.received_frames,
        accepted + refused,
        "received = accepted + refused at listener {listener}"
    );
    assert_eq!(
        counts.received_datagrams, tally.datagrams,
        "datagrams of listener {listener}"
    );
    let malformed = agent_common::verdict::Verdict::Malformed as usize;
    assert_eq!(
        counts.gate_datagrams[malformed], tally.gate_malformed,
        "datagrams that the gate of listener {listener} drops"
    );
    assert_eq!(counts.connections, 0, "connections of listener {listener}");
    let turned_away: u64 = NOBODYS_FAULT
        .iter()
        .map(|reason| counts.refused_frames[reason.index()])
        .sum();
    // Of a datagram that is shed nobody knows whether it was good.
    let shed = counts.refused_frames[Reason::Shed.index()];
    let good = tally.certain.good..=tally.certain.good + tally.perhaps.good + shed;
    assert!(
        good.contains(&(accepted + turned_away)),
        "listener {listener} took {accepted} frames and turned {turned_away} away; good ones that \
         arrived: {good:?}"
    );
    for &reason in Reason::ALL {
        if NOBODYS_FAULT.contains(&reason) {
            continue;
        }
        let certain = tally.certain.refused(reason);
        let most = certain + tally.perhaps.refused(reason);
        let counted = counts.refused_frames[reason.index()];
        assert!(
            (certain.saturating_sub(shed)..=most).contains(&counted),
            "listener {listener} refused {counted} frames as {}; such that arrived: \
             {certain}..={most}",
            reason.label()
        );
    }
}

fn check_records(counters: &ShardCounters, stored: u64) {
    let accepted: u64 = counters
        .listeners
        .iter()
        .flat_map(|listener| listener.accepted_records)
        .sum();
    let lost: u64 = counters.journal_lost_records.iter().sum();
    assert_eq!(
        accepted,
        counters.journal_appended_records + lost,
        "accepted records = appended + lost"
    );
    // What a failed write or sync left on the disk may be whole all the same; where no segment came
    // after it, nothing says yet that it is not valid.
    let appended = counters.journal_appended_records;
    assert!(
        (appended..=appended + lost).contains(&stored),
        "{appended} records appended, {lost} lost and {stored} on the disk"
    );
}
