//! kill -9 at random moments under load from producers that retry: what was acknowledged is stored.

use std::time::Duration;

use penstock_tests::crash::campaign::Campaign;
use penstock_tests::crash::tally::{Request, Tally};

/// What the test suite runs; `cargo xtask crash --kind kill` runs more.
const ROUNDS: u64 = 10;

#[test]
fn rounds() {
    let request = Request::new(ROUNDS);
    let setting = request.setting();
    let mut tally = Tally::new("kill", request);
    for (number, rounds, mut random) in request.campaigns() {
        let mut campaign = Campaign::start_with(number, None, &setting, &mut random);
        for _ in 0..rounds {
            campaign.work(Duration::from_millis(400), &mut random);
            campaign.kill(&mut random);
        }
        campaign.work(Duration::from_millis(200), &mut random);
        let kills = campaign.kills;
        tally.add(rounds, kills, &campaign.finish());
    }
    tally.print();
}
