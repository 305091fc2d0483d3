//! The books of one shard's tenants, against a journal that is a few numbers.

use super::*;
use crate::config::settings::TenantSettings;
use crate::gate::policy::Rate;

const MS: u64 = 1_000_000;
const MIB: u64 = 1 << 20;
/// A journal with room for as much.
const ROOM: u64 = 64 * MIB;
const MEMORY: u64 = 16 * MIB;

fn named(name: &str, producer: u64) -> TenantSettings {
    TenantSettings {
        producers: vec![producer],
        ..TenantSettings::unlimited(name)
    }
}

/// A shard, and the journal beside it.
struct Bench {
    tenants: Tenants,
    load: Load,
    now_ns: u64,
}

impl Bench {
    fn new(settings: &[TenantSettings]) -> Self {
        let plan = TenantPlan::new(settings).expect("tenants");
        Self::of(Arc::new(plan))
    }

    fn of(plan: Arc<TenantPlan>) -> Self {
        Self {
            tenants: Tenants::new(plan, ROOM, 0),
            load: Load {
                memory_bytes: MEMORY,
                room_bytes: ROOM,
                ..Load::default()
            },
            now_ns: 1_000_000 * MS,
        }
    }

    fn attach(&mut self, producer: u64) -> TenantSlot {
        self.tenants.attach(producer, None, self.now_ns)
    }

    /// One frame: taken, and then it is in the journal and in flight; or not.
    fn offer(&mut self, slot: TenantSlot, len: u64) -> Result<(), Wait> {
        self.tenants
            .admit(slot, len as usize, &self.load, self.now_ns)?;
        let position = self.load.delivered + self.load.undelivered_bytes;
        self.tenants.on_taken(slot, Ticket(position), len as usize);
        self.load.undelivered_bytes += len;
        self.load.unsynced_bytes += len;
        Ok(())
    }

    fn sync(&mut self) {
        self.load.unsynced_bytes = 0;
        self.tenants.on_synced(3 * MS);
        self.tenants
            .on_settled(self.load.delivered + self.load.undelivered_bytes);
    }

    fn deliver(&mut self, bytes: u64) {
        self.load.delivered += bytes;
        self.load.undelivered_bytes -= bytes;
    }

    /// Frames of each slot in turn, synced each time, until each is told to wait: how many each had.
    fn fill<const N: usize>(&mut self, slots: [TenantSlot; N], len: u64) -> [u64; N] {
        let mut taken = [0; N];
        loop {
            let mut any = false;
            for (slot, taken) in slots.iter().zip(&mut taken) {
                if self.offer(*slot, len).is_ok() {
                    *taken += 1;
                    any = true;
                }
                self.sync();
            }
            if !any {
                return taken;
            }
        }
    }
}

#[test]
fn each_producer_of_the_default_tenant_has_the_limit_to_itself_a_named_tenants_share_theirs() {
    let rate = Some(Rate {
        sustained: 10,
        burst: 5,
    });
    let mut bench = Bench::new(&[
        TenantSettings {
            rate,
            ..TenantSettings::unlimited(DEFAULT)
        },
        TenantSettings {
            rate,
            producers: vec![7, 8],
            ..TenantSettings::unlimited("two")
        },
    ]);
    let slots = [1, 2, 7, 8].map(|producer| bench.attach(producer));
    let mut taken = [0; 4];
    for _ in 0..20 {
        for (slot, taken) in slots.iter().zip(&mut taken) {
            *taken += u64::from(bench.offer(*slot, 10).is_ok());
        }
    }
    assert_eq!(taken, [5, 5, 3, 2]);
    let wait = bench.offer(slots[0], 10).expect_err("the bucket is empty");
    assert_eq!((wait.limit, wait.ns), (Limit::Rate, 250 * MS));
    assert_eq!(wait.limit.reason(), Reason::RateLimited);
    assert_eq!(bench.tenants.limited()[0][Limit::Rate as usize], 31);
    assert_eq!(bench.tenants.limited()[1][Limit::Rate as usize], 35);
}

#[test]
fn a_named_tenants_rate_and_bytes_in_flight_are_one_for_all_shards() {
    let tenant = TenantSettings {
        rate: Some(Rate {
            sustained: 1,
            burst: 6,
        }),
        bytes_in_flight: Some(400),
        ..named("one", 7)
    };
    let plan = Arc::new(TenantPlan::new(&[tenant]).expect("a tenant"));
    let (mut first, mut second) = (Bench::of(Arc::clone(&plan)), Bench::of(plan));
    let (one, other) = (first.attach(7), second.attach(7));
    first.offer(one, 300).expect("taken");
    let limit = second
        .offer(other, 300)
        .expect_err("too much in flight")
        .limit;
    assert_eq!(limit, Limit::BytesInFlight);
    first.sync();
    second.offer(other, 300).expect("taken");
    second.sync();
    for _ in 0..4 {
        first.offer(one, 10).expect("taken");
    }
    assert_eq!(
        second.offer(other, 10).expect_err("six in all").limit,
        Limit::Rate
    );
}

#[test]
fn what_is_in_flight_waits_for_two_syncs_and_one_frame_always_fits() {
    let mut bench = Bench::new(&[TenantSettings {
        bytes_in_flight: Some(100),
        ..TenantSettings::unlimited(DEFAULT)
    }]);
    let slot = bench.attach(1);
    bench.offer(slot, 5_000).expect("with nothing in flight");
    bench.tenants.on_synced(3 * MS);
    let wait = bench.offer(slot, 1).expect_err("in flight");
    assert_eq!((wait.limit, wait.ns), (Limit::BytesInFlight, 6 * MS));
    assert_eq!(wait.limit.reason(), Reason::TenantShare);
    bench.tenants.on_lost();
    bench.offer(slot, 60).expect("lost is out of flight");
    bench.offer(slot, 40).expect("the limit itself");
    bench.offer(slot, 1).expect_err("one more byte");
    bench.sync();
    bench.offer(slot, 1).expect("all is durable");
}

#[test]
fn a_share_of_the_journal_holds_until_it_is_delivered() {
    let mut bench = Bench::new(&[TenantSettings {
        journal_percent: Some(25),
        ..named("quarter", 7)
    }]);
    let (quarter, other) = (bench.attach(7), bench.attach(1));
    assert_eq!(bench.fill([quarter], MIB), [16]);
    let wait = bench.offer(quarter, MIB).expect_err("its share");
    assert_eq!((wait.limit, wait.ns), (Limit::JournalShare, 1_000 * MS));
    bench.offer(other, MIB).expect("it is not the other's");
    // A part of the journal, an eighth of it, is wholly delivered.
    bench.deliver(8 * MIB);
    assert_eq!(bench.fill([quarter], MIB), [8]);
    // All of it is, although no further part is.
    let all = bench.load.undelivered_bytes;
    bench.deliver(all);
    assert_eq!(bench.fill([quarter], MIB), [16]);
}

#[test]
fn room_that_is_short_is_dealt_out_by_weight_and_only_who_has_more_waits() {
    let heavy = TenantSettings {
        weight: 3,
        ..named("heavy", 7)
    };
    let mut bench = Bench::new(&[heavy, named("light", 8), named("modest", 9)]);
    let [heavy, light, modest] = [7, 8, 9].map(|producer| bench.attach(producer));
    bench.offer(modest, MIB).expect("there is room");
    let taken = bench.fill([heavy, light], MIB / 4);
    // 7/8 of 64 MiB are dealt out: 3, 1 and 1 parts of 5.
    let dealt = 64 * 4 * 7 / 8;
    assert_eq!(taken, [dealt * 3 / 5, dealt / 5]);
    for _ in 0..10 {
        bench
            .offer(modest, MIB)
            .expect("the modest one is never told to wait");
        bench.sync();
        bench.offer(heavy, MIB / 4).expect_err("has its share");
    }
    assert_eq!(bench.tenants.limited()[3], [0; Limit::COUNT]);
}

#[test]
fn alone_it_may_have_nearly_all_and_gives_way_to_who_comes() {
    let mut bench = Bench::new(&[TenantSettings::unlimited(DEFAULT)]);
    let greedy = bench.attach(1);
    assert_eq!(
        bench.fill([greedy], MIB),
        [56],
        "an eighth is for who comes"
    );
    let modest = bench.attach(2);
    assert_eq!(bench.fill([modest], MIB), [28]);
    bench.deliver(24 * MIB);
    bench
        .offer(greedy, MIB)
        .expect_err("more than the half that is left to it");
    bench.deliver(16 * MIB);
    bench.offer(greedy, MIB).expect("less again");
}

#[test]
fn memory_that_is_short_is_dealt_out_too() {
    let heavy = TenantSettings {
        weight: 3,
        ..named("heavy", 7)
    };
    let mut bench = Bench::new(&[heavy, named("light", 8)]);
    let slots = [7, 8].map(|producer| bench.attach(producer));
    let mut taken = [0; 2];
    for _ in 0..1_000 {
        for (slot, taken) in slots.iter().zip(&mut taken) {
            match bench.offer(*slot, MIB / 16) {
                Ok(()) => *taken += 1,
                Err(wait) => assert_eq!(wait.limit, Limit::Weight),
            }
        }
    }
    // 16 MiB: up to a half whoever comes may have what there is, which here is a quarter each.
    assert_eq!(taken, [12 * 16, 4 * 16]);
    bench.sync();
    bench.offer(slots[1], MIB / 16).expect("all is durable");
}

#[test]
fn who_is_gone_and_has_nothing_left_has_no_part() {
    let mut bench = Bench::new(&[TenantSettings::unlimited(DEFAULT)]);
    let (stays, goes) = (bench.attach(1), bench.attach(2));
    bench.offer(stays, MIB).expect("taken");
    bench.offer(goes, MIB).expect("taken");
    bench.sync();
    bench.tenants.detach(goes);
    assert_eq!(bench.tenants.weights, 2);
    bench.now_ns += 11_000 * MS;
    bench.tenants.sweep(0, bench.now_ns);
    assert_eq!(
        bench.tenants.weights, 2,
        "both have something in the journal"
    );
    bench.tenants.sweep(2 * MIB, bench.now_ns);
    assert_eq!(bench.tenants.weights, 0);
    bench.offer(stays, MIB).expect("taken");
    assert_eq!(bench.tenants.weights, 1);
}

#[test]
fn a_producer_that_comes_back_finds_what_it_left() {
    let mut bench = Bench::new(&[TenantSettings {
        rate: Some(Rate {
            sustained: 1,
            burst: 3,
        }),
        ..TenantSettings::unlimited(DEFAULT)
    }]);
    let first = bench.attach(5);
    bench.fill([first], 1);
    bench.tenants.detach(first);
    let again = bench.attach(5);
    assert_eq!(first, again);
    bench
        .offer(again, 1)
        .expect_err("the bucket is as empty as it was");
}

#[test]
fn invented_producers_come_to_share_one_place() {
    let mut bench = Bench::new(&[TenantSettings {
        rate: Some(Rate {
            sustained: 1,
            burst: 1,
        }),
        ..TenantSettings::unlimited(DEFAULT)
    }]);
    for producer in 1..=TENANT_SLOTS as u64 {
        let slot = bench.attach(producer);
        bench.offer(slot, 1).expect("a burst of one");
        bench.tenants.detach(slot);
    }
    assert_eq!(bench.tenants.crowded(), 0);
    let (one, other) = (bench.attach(1 << 40), bench.attach(2 << 40));
    assert_eq!(
        (one, other, bench.tenants.crowded()),
        (TenantSlot(0), TenantSlot(0), 2)
    );
    // A second later their buckets are full, and what they sent is durable and delivered.
    bench.sync();
    let all = bench.load.undelivered_bytes;
    bench.deliver(all);
    bench.now_ns += 1_000 * MS;
    bench.tenants.sweep(bench.load.delivered, bench.now_ns);
    assert_ne!(bench.attach(3 << 40), TenantSlot(0));
    // Nobody's frames are all one producer's.
    assert_eq!(bench.attach(0), TenantSlot(0));
}
