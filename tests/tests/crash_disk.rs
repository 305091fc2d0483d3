//! The disk fails, fills up and stalls under load: the agent lives, acknowledges nothing that it
//! loses, and goes on by itself when the trouble is over. Each trouble is followed by a crash, so
//! that what was acknowledged meanwhile must be on the disk.

use std::time::{Duration, Instant};

use penstock_tests::agent::wait_for;
use penstock_tests::crash::campaign::{Campaign, Setting};
use penstock_tests::crash::disk::Disk;
use penstock_tests::crash::disk::cut::Survival;
use penstock_tests::crash::disk::fault::{Call, Effect, Fault};
use penstock_tests::crash::mounted_or_skip;
use penstock_tests::crash::tally::{Request, Tally};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What the test suite runs; `cargo xtask crash --kind disk` runs more.
const ROUNDS: u64 = 6;

/// What the agent asks of its disk, and for which part of its data.
const TARGETS: [(Call, &str); 11] = [
    (Call::Write, "journal"),
    (Call::Write, "records"),
    (Call::Write, "cursors"),
    (Call::Sync, "journal"),
    (Call::Sync, "records"),
    (Call::Sync, "cursors"),
    (Call::SyncFolder, "journal"),
    (Call::SyncFolder, "cursors"),
    (Call::Make, "cursors"),
    (Call::Allocate, "journal"),
    (Call::Rename, "cursors"),
];
/// How long a trouble is waited for, and how long it lasts then at the most.
const STRIKE_MAX: Duration = Duration::from_millis(600);
const LAST_MAX: Duration = Duration::from_millis(200);
/// How soon faults that are aimed at every commit of a sink strike.
const STRIKES_MAX: Duration = Duration::from_secs(10);

#[test]
fn rounds() {
    mounted_or_skip("rounds", |disk| {
        let request = Request::new(ROUNDS);
        let setting = request.setting();
        let mut tally = Tally::new("disk", request);
        for (number, rounds, mut random) in request.campaigns() {
            let struck = disk.struck();
            let mut campaign =
                Campaign::start_with(number, Some(disk.path()), &setting, &mut random);
            for _ in 0..rounds {
                campaign.work(Duration::from_millis(200), &mut random);
                let before = disk.struck();
                let trouble = trouble(disk, &mut random);
                let begun = Instant::now();
                while disk.struck() == before && begun.elapsed() < STRIKE_MAX {
                    std::thread::sleep(Duration::from_millis(2));
                }
                campaign.work(LAST_MAX, &mut random);
                disk.disarm();
                disk.lift_limit();
                campaign.must_be_alive(&trouble);
                if random.random_bool(0.5) {
                    campaign.progress();
                    campaign.must_be_alive(&trouble);
                }
                match random.random_range(0..3) {
                    0 => campaign.cut_to(disk, Survival::NOTHING, &mut random),
                    1 => campaign.cut(disk, &mut random),
                    _ => campaign.kill(&mut random),
                }
            }
            campaign.progress();
            let kills = campaign.kills;
            tally.struck(disk.struck() - struck);
            tally.add(rounds, kills, &campaign.finish());
        }
        tally.print();
    });
}

/// Something goes wrong; what, in words.
fn trouble(disk: &Disk, random: &mut StdRng) -> String {
    if random.random_bool(0.3) {
        let free = random.random_range(0..4 << 20);
        disk.limit_free(free);
        return format!("{free} bytes were left on the disk");
    }
    let (call, within) = TARGETS[random.random_range(0..TARGETS.len())];
    let effect = match random.random_range(0..4) {
        0 => Effect::Stall(Duration::from_millis(random.random_range(50..400))),
        1 => Effect::Fail(libc::ENOSPC),
        _ => Effect::Fail(libc::EIO),
    };
    let fault = Fault {
        call,
        within,
        // Of the others there are a few a second.
        after: match (call, within) {
            (Call::Write | Call::Sync, "journal") => random.random_range(0..20),
            _ => random.random_range(0..2),
        },
        times: [1, 3, u64::MAX][random.random_range(0..3)],
        effect,
    };
    let words = format!("{fault:?}");
    disk.arm(fault);
    words
}

// Scenarios: what the rounds once found.

/// The cursor was renamed and the sync of its folder failed; the sink started over, found the new
/// cursor, believed it, and sealed the file that it spoke of. The power cut brought the old cursor
/// back beside the sealed file, and its records were delivered again.
#[test]
fn a_cursor_whose_name_was_not_synced_is_not_believed() {
    let test = "a_cursor_whose_name_was_not_synced_is_not_believed";
    mounted_or_skip(test, |disk| {
        let mut random = StdRng::seed_from_u64(1);
        let setting = Setting {
            shards: Some(1),
            // Files are sealed at every commit.
            rotation: Some(0),
            ..Setting::default()
        };
        let mut campaign = Campaign::start_with(0, Some(disk.path()), &setting, &mut random);
        campaign.progress();
        let struck = disk.struck();
        disk.arm(Fault {
            call: Call::SyncFolder,
            within: "cursors",
            after: 0,
            times: u64::MAX,
            effect: Effect::Fail(libc::EIO),
        });
        // The first failure, and the sink's next try after a tenth of a second.
        wait_for("two failures", STRIKES_MAX, || {
            (disk.struck() >= struck + 2).then_some(())
        });
        campaign.cut_to(disk, Survival::NOTHING, &mut random);
        let verdict = campaign.finish();
        assert!(verdict.is_exactly_once(), "{verdict}");
    });
}
