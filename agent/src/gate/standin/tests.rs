use agent_common::frame::FrameHeader;

use super::*;
use crate::gate::frame_slot;
use crate::gate::policy::{GatePolicy, Prefix, Rate, SourceLimit};
use crate::shard::op::ListenerId;

fn frame(payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader {
        encoding: 3,
        flags: 0,
        priority: 2,
        payload_len: 0,
        records: 1,
        producer: 0,
        sequence: 1,
        payload_crc: 0,
    };
    let mut bytes = Vec::new();
    penstock_proto::wire::write_frame(&mut bytes, header, payload);
    bytes
}

fn apply(stand_in: &StandIn, policy: &GatePolicy) {
    stand_in.apply(&Rules::new(policy).unwrap());
}

/// The verdict of one frame from an address.
fn verdict(stand_in: &mut StandIn, from: &str) -> Verdict {
    let from = Some(SocketAddr::new(from.parse().unwrap(), 9));
    let slot = frame_slot(ListenerId(0), 100);
    stand_in
        .judge(&slot, from, &frame(b"{}"), None, 1_000)
        .verdict
}

#[test]
fn counts_what_it_says() {
    let good = frame(b"{}");
    let mut stand_in = StandIn::new();
    let mut counts = [0; Verdict::COUNT];
    let mut judge = |bytes: &[u8], segment_len, payload_len_max| {
        let slot = frame_slot(ListenerId(0), payload_len_max);
        let outcome = stand_in.judge(&slot, None, bytes, segment_len, 0);
        count(&outcome, &mut counts);
        (outcome.passes(), counts)
    };
    assert_eq!(judge(&good, None, 100), (true, [1, 0, 0, 0, 0, 0]));
    let mixed = [&b"x".repeat(42)[..], &good, &good[..41]].concat();
    assert_eq!(judge(&mixed, Some(42), 100), (true, [4, 0, 0, 0, 0, 0]));
    assert_eq!(
        judge(&mixed[..84], Some(43), 100),
        (false, [4, 0, 2, 0, 0, 0])
    );
    assert_eq!(judge(&good, None, 1), (false, [4, 0, 3, 0, 0, 0]));
    assert_eq!(judge(&[], None, 1), (false, [4, 0, 4, 0, 0, 0]));
}

/// Limits are the host's: two shards share what a source has, and see a new policy at their next
/// bundle.
#[test]
fn shards_share_rules_and_what_sources_have_left() {
    let mut one = StandIn::new();
    let mut other = one.clone();
    assert_eq!(verdict(&mut other, "192.0.2.1"), Verdict::Passed);
    let limit = Rate {
        sustained: 1,
        burst: 10,
    };
    let mut policy = GatePolicy {
        source_limit: SourceLimit {
            datagrams: Some(limit),
            ..SourceLimit::default()
        },
        ..GatePolicy::default()
    };
    apply(&one, &policy);
    let mut passed = 0;
    for _ in 0..20 {
        for shard in [&mut one, &mut other] {
            passed += u32::from(verdict(shard, "192.0.2.1") == Verdict::Passed);
        }
    }
    assert_eq!(passed, 10);
    assert_eq!(
        verdict(&mut other, "::ffff:192.0.2.1"),
        Verdict::RateLimited
    );
    assert_eq!(verdict(&mut other, "192.0.2.2"), Verdict::Passed);

    policy.deny = vec![Prefix::of("192.0.2.0".parse().unwrap(), 24)];
    apply(&one, &policy);
    assert_eq!(verdict(&mut other, "192.0.2.2"), Verdict::Denied);
    policy.deny.clear();
    apply(&other, &policy);
    assert_eq!(
        verdict(&mut one, "192.0.2.1"),
        Verdict::RateLimited,
        "used up stays so"
    );
    one.keep().set_pressure([16, 16, 0, 0]);
    assert_eq!(verdict(&mut other, "192.0.2.2"), Verdict::Shed);
}
