//! The power goes at random moments under load: what was acknowledged is stored. The disk is one
//! that forgets what was not synced, so an acknowledgement before its sync cannot stay hidden, as it
//! would behind the page cache after a kill.

use std::time::Duration;

use penstock_tests::crash::campaign::Campaign;
use penstock_tests::crash::disk::fault::{Call, Effect, Fault};
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
        let mut tally = Tally::new("power", request);
        for (number, rounds, mut random) in request.campaigns() {
            let mut campaign = Campaign::start(number, Some(disk.path()), &mut random);
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
        // The beginning was honest, so that the agent finds its folders.
        disk.arm(Fault {
            call: Call::Sync,
            within: "journal",
            after: 0,
            times: u64::MAX,
            effect: Effect::Lie,
        });
        std::thread::sleep(Duration::from_millis(300));
        campaign.cut_all(disk, &mut random);
        campaign.finish().lost
    });
    assert!(lost != Some(0), "nothing was lost, and nothing was synced");
}
