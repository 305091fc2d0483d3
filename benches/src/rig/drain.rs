//! The end of a UDP run: what is queued is taken.

use std::time::{Duration, Instant};

use super::agent::Agent;
use super::samples::Samples;

/// What is queued in a UDP socket after the last send is taken within milliseconds; the wait is
/// over when nothing has moved for this long.
const DRAIN_QUIET: Duration = Duration::from_millis(200);
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// Waits until no datagram has moved for a while.
pub fn drain(agent: &Agent, labels: &[&str]) -> anyhow::Result<()> {
    let settled = |samples: &Samples| -> anyhow::Result<u64> {
        Ok(samples.sum("penstock_received_datagrams_total", labels)?
            + samples.sum("penstock_kernel_drops_total", labels)?)
    };
    let began = Instant::now();
    let mut before = settled(&agent.samples()?)?;
    while began.elapsed() < DRAIN_TIME_MAX {
        std::thread::sleep(DRAIN_QUIET);
        let now = settled(&agent.samples()?)?;
        if now == before {
            return Ok(());
        }
        before = now;
    }
    anyhow::bail!("datagrams still move {DRAIN_TIME_MAX:?} after the last one was sent")
}
