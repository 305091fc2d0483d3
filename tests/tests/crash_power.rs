//! The power goes at random moments under load: what was acknowledged is stored. The disk is one
//! that forgets what was not synced, so an acknowledgement before its sync cannot stay hidden, as it
//! would behind the page cache after a kill.

use std::time::Duration;

use penstock_tests::crash::campaign::{Campaign, Setting};
use penstock_tests::crash::disk::cut::Survival;
use penstock_tests::crash::disk::fault::{Call, Effect, Fault};
use penstock_tests::crash::ledger::Verdict;
use penstock_tests::crash::mounted_or_skip;
use penstock_tests::crash::tally::{Request, Tally};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// What the test suite runs; `cargo xtask crash --kind power` runs more.
const ROUNDS: u64 = 8;

#[test]
fn rounds() {
    mounted_or_skip("rounds", |disk| {
        let request = Request::new(ROUNDS);
        let setting = request.setting();
        let mut tally = Tally::new("power", request);
        for (number, rounds, mut random) in request.campaigns() {
            let mut campaign =
                Campaign::start_with(number, Some(disk.path()), &setting, &mut random);
            for _ in 0..rounds {
                campaign.work(Duration::from_millis(400), &mut random);
                campaign.cut(disk, &mut random);
            }
            campaign.work(Duration::from_millis(200), &mut random);
            let kills = campaign.kills;
            tally.add(rounds, kills, &campaign.finish());
        }
        tally.print();
    });
}

/// The proof of the proof: a disk whose syncs say that they succeeded and do nothing must be caught.
/// Whoever acknowledges before the sync stands in the same place.
#[test]
fn a_disk_that_lies_about_syncs_is_caught() {
    let lost = mounted_or_skip("a_disk_that_lies_about_syncs_is_caught", |disk| {
        let mut random = StdRng::seed_from_u64(1);
        let mut campaign = Campaign::start(0, Some(disk.path()), &mut random);
        // The beginning was honest: the agent has its folders.
        for call in [Call::Sync, Call::SyncFolder] {
            disk.arm(Fault {
                call,
                within: "",
                after: 0,
                times: u64::MAX,
                effect: Effect::Lie,
            });
        }
        campaign.progress();
        campaign.cut_to(disk, Survival::NOTHING, &mut random);
        campaign.finish().lost
    });
    assert!(lost != Some(0), "nothing was lost, and nothing was synced");
}

/// Nothing was called durable, but for what was sent again after a crash and known by then.
fn assert_only_written(verdict: &Verdict) {
    assert!(verdict.only_written > 0, "{verdict}");
    let others = verdict.acknowledged - verdict.only_written;
    assert_eq!(others, verdict.duplicate, "{verdict}");
}

/// The same with an agent that is told not to sync: it says so in its acknowledgements, a kill takes
/// nothing, and a power cut does.
#[test]
fn without_syncs_a_power_cut_takes_what_was_acknowledged_as_written() {
    let test = "without_syncs_a_power_cut_takes_what_was_acknowledged_as_written";
    mounted_or_skip(test, |disk| {
        let mut random = StdRng::seed_from_u64(1);
        let run = |cut: bool, random: &mut StdRng| {
            let setting = Setting {
                journal: "sync = \"never\"",
                ..Setting::default()
            };
            let number = u64::from(cut);
            let mut campaign = Campaign::start_with(number, Some(disk.path()), &setting, random);
            // The sink may have delivered and synced a part of it: never all, while more comes in.
            campaign.progress();
            match cut {
                true => campaign.cut_to(disk, Survival::NOTHING, random),
                false => campaign.kill(random),
            }
            campaign.finish()
        };
        let killed = run(false, &mut random);
        assert!(killed.is_exactly_once(), "{killed}");
        assert_only_written(&killed);
        let cut = run(true, &mut random);
        assert!(
            cut.lost > 0,
            "nothing was lost, and nothing was synced: {cut}"
        );
        assert_only_written(&cut);
    });
}

// Scenarios: what the rounds once found.

/// The folders of the journal were made and the folders above them never synced: the first power cut
/// took the shard's folder, with every synced segment in it.
#[test]
fn the_first_life_is_cut() {
    mounted_or_skip("the_first_life_is_cut", |disk| {
        let mut random = StdRng::seed_from_u64(1);
        let mut campaign = Campaign::start(0, Some(disk.path()), &mut random);
        campaign.progress();
        campaign.cut_to(disk, Survival::NOTHING, &mut random);
        let verdict = campaign.finish();
        assert!(verdict.is_exactly_once(), "{verdict}");
    });
}

/// Segments were unlinked one after the other and nothing synced in between: a cut kept the later
/// unlinking and lost the earlier, and recovery called the gap between them a damaged journal.
#[test]
fn a_segment_that_was_removed_does_not_come_back_beside_a_gap() {
    let test = "a_segment_that_was_removed_does_not_come_back_beside_a_gap";
    mounted_or_skip(test, |disk| {
        let mut random = StdRng::seed_from_u64(1);
        let mut campaign = Campaign::start(0, Some(disk.path()), &mut random);
        let pause = || std::thread::sleep(Duration::from_millis(60));
        for _ in 0..2 {
            // Each life begins a segment, and leaves it short.
            for _ in 0..4 {
                pause();
                campaign.kill(&mut random);
            }
            // The sink commits at the latest after a second; then they all go.
            std::thread::sleep(Duration::from_millis(1300));
            let half = Survival {
                names: 0.5,
                ..Survival::NOTHING
            };
            campaign.cut_to(disk, half, &mut random);
        }
        let verdict = campaign.finish();
        assert!(verdict.is_exactly_once(), "{verdict}");
    });
}
