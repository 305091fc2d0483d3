use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::*;
use crate::bucket::{Bucket, TICKS_PER_NS};
use crate::frame::{FRAME_HEADER_LEN, FrameHeader};
use crate::layout::SOCKET_SYSLOG;
use crate::limit::{SourceState, StateWords};
use crate::source::mask;

const SECOND: u64 = TICKS_PER_NS * 1_000_000_000;

/// The maps as plain memory, prefixes by linear scan.
struct Host {
    policy: Policy,
    lists: Vec<(Source, u32, ListEntry)>,
    limits: Vec<(Source, u32, Limit)>,
    keep: Keep,
    sources: RefCell<HashMap<Source, &'static [AtomicU64; 4]>>,
    newcomers: &'static [AtomicU64; 4],
    now: Cell<u64>,
}

fn words() -> &'static [AtomicU64; 4] {
    Box::leak(Box::default())
}

fn state(words: &'static [AtomicU64; 4]) -> StateWords<&'static AtomicU64> {
    let [datagrams, bytes, connections, settled] = words;
    StateWords {
        datagrams,
        bytes,
        connections,
        settled,
    }
}

fn source(address: &str) -> Source {
    address.parse::<IpAddr>().unwrap().into()
}

fn network(prefix: &str) -> (Source, u32) {
    let (address, bits) = prefix.split_once('/').unwrap();
    (source(address), bits.parse().unwrap())
}

/// The longest prefix, whichever stands first.
fn longest<'a, T>(entries: &'a [(Source, u32, T)], key: &PrefixKey) -> Option<&'a T> {
    let holds = |(source, bits, _): &&(Source, u32, T)| {
        let address = Source {
            family: key.head & 0xff,
            words: key.words,
        };
        address.masked(&mask(*bits)) == *source
    };
    let longest = entries.iter().filter(holds).max_by_key(|entry| entry.1);
    longest.map(|entry| &entry.2)
}

impl Host {
    fn new() -> Self {
        Self {
            policy: Policy {
                mask_v4: mask(32),
                mask_v6: mask(64),
                ..Policy::EMPTY
            },
            lists: Vec::new(),
            limits: Vec::new(),
            keep: Keep::ALL,
            sources: RefCell::default(),
            newcomers: words(),
            now: Cell::new(1000 * SECOND),
        }
    }

    fn allow(&mut self, prefix: &str) {
        let (source, bits) = network(prefix);
        self.lists.push((source, bits, ListEntry::Allow));
        self.policy.flags |= POLICY_LISTS | POLICY_ALLOW;
    }

    fn deny(&mut self, prefix: &str) {
        let (source, bits) = network(prefix);
        self.lists.push((source, bits, ListEntry::Deny));
        self.policy.flags |= POLICY_LISTS;
    }

    /// Of every source, unless a longer prefix says otherwise.
    fn limit_all(&mut self, limit: Limit) {
        self.policy.flags |= POLICY_LIMITS;
        self.limits.retain(|(_, bits, _)| *bits > 0);
        for family in ["0.0.0.0/0", "::/0"] {
            let (source, bits) = network(family);
            self.limits.push((source, bits, limit));
        }
    }

    fn frame(&self, from: &str, bundle: &Bundle) -> Outcome {
        judge(&self, &slot(0), &source(from), bundle.shape, bundle)
    }

    /// How many of `count` lone frames pass.
    fn passing(&self, from: &str, count: usize) -> usize {
        let one = bundle(&[good(0, 0)]);
        (0..count)
            .filter(|_| self.frame(from, &one).passes())
            .count()
    }

    fn wait(&self, ticks: u64) {
        self.now.set(self.now.get() + ticks);
    }
}

impl Rules for &Host {
    fn policy(&self) -> Option<&Policy> {
        Some(&self.policy)
    }

    fn list(&self, key: &PrefixKey) -> Option<ListEntry> {
        longest(&self.lists, key).copied()
    }

    fn limit(&self, key: &PrefixKey) -> Option<&Limit> {
        longest(&self.limits, key)
    }

    fn keep(&self) -> Keep {
        self.keep
    }
}

impl Sources for &Host {
    type Word = &'static AtomicU64;

    fn source(&self, source: &Source) -> Option<StateWords<&'static AtomicU64>> {
        self.sources.borrow().get(source).map(|words| state(words))
    }

    fn admit(&self, source: &Source, new: SourceState) {
        let words: [u64; 4] = [new.datagrams, new.bytes, new.connections, new.settled];
        let words = Box::leak(Box::new(words.map(AtomicU64::new)));
        self.sources.borrow_mut().insert(*source, words);
    }

    fn newcomers(&self) -> Option<StateWords<&'static AtomicU64>> {
        Some(state(self.newcomers))
    }

    fn now_ticks(&self) -> u64 {
        self.now.get()
    }
}

/// All datagrams but the last of one length.
struct Bundle {
    bytes: Vec<u8>,
    shape: BundleShape,
    ticks: Cell<u64>,
}

impl Packet for Bundle {
    fn look<const N: usize, R>(&self, offset: u32, look: impl FnOnce(&[u8; N]) -> R) -> Option<R> {
        self.bytes.get(offset as usize..)?.first_chunk().map(look)
    }

    fn tick(&self, _: u32, _: u8) -> u64 {
        self.ticks.set(self.ticks.get() + 1);
        self.ticks.get() - 1
    }
}

const LEN: u32 = 50;

fn good(priority: u8, sequence: u64) -> Vec<u8> {
    let header = FrameHeader {
        encoding: 1,
        flags: 0,
        priority,
        payload_len: LEN - FRAME_HEADER_LEN as u32,
        records: 1,
        producer: 7,
        sequence,
        payload_crc: 0,
    };
    let mut bytes = header.write().to_vec();
    bytes.resize(LEN as usize, 0);
    bytes
}

fn bad() -> Vec<u8> {
    vec![b'x'; LEN as usize]
}

fn bundle(datagrams: &[Vec<u8>]) -> Bundle {
    let bytes = datagrams.concat();
    Bundle {
        shape: BundleShape {
            payload_len: bytes.len() as u32,
            segment_len: LEN,
        },
        bytes,
        ticks: Cell::new(0),
    }
}

fn slot(flags: u32) -> SocketSlot {
    SocketSlot {
        listener: 0,
        payload_len_max: 1000,
        flags,
        reserved: 0,
    }
}

fn limit(rate: u64, burst: u64) -> Limit {
    Limit {
        datagrams: Bucket::new(rate, burst, BUNDLE_DATAGRAMS_MAX),
        ..Limit::NONE
    }
}

fn outcome(verdict: Verdict, datagrams: u32, malformed: u32) -> Outcome {
    Outcome {
        verdict,
        datagrams,
        malformed,
        contended: false,
    }
}

// ---- the order ------------------------------------------------------------------------------

/// A bundle that earns every verdict at once is given the first; each reason that goes shows the
/// next.
#[test]
fn the_first_reason_is_the_verdict() {
    let three = bundle(&[good(0, 0), bad(), good(0, 16)]);
    let mut host = Host::new();
    host.deny("192.0.2.0/24");
    host.limit_all(limit(1, 1));
    host.keep = Keep::new([0; 4]);
    let at = |host: &Host, flags, from: &str, bundle: &Bundle| {
        judge(&host, &slot(flags), &source(from), bundle.shape, bundle)
    };
    use Verdict::*;
    assert_eq!(
        at(&host, SOCKET_CLOSING, "192.0.2.1", &three),
        outcome(Closing, 3, 0)
    );
    assert_eq!(at(&host, 0, "192.0.2.1", &three), outcome(Denied, 3, 0));
    let garbage = bundle(&[bad(), bad()]);
    assert_eq!(
        at(&host, 0, "198.51.100.1", &garbage),
        outcome(Malformed, 2, 0)
    );
    // The first pays for two from a bucket of one, and is shed; the second finds it empty.
    assert_eq!(at(&host, 0, "198.51.100.1", &three), outcome(Shed, 2, 1));
    assert_eq!(
        at(&host, 0, "198.51.100.1", &three),
        outcome(RateLimited, 2, 1)
    );
    host.wait(10 * SECOND);
    host.keep = Keep::ALL;
    assert_eq!(at(&host, 0, "198.51.100.1", &three), outcome(Passed, 3, 0));
}

#[test]
fn one_datagram_that_is_kept_takes_the_others_along() {
    let mut host = Host::new();
    host.keep = Keep::new([16, 16, 16, 4]);
    let sheds = [good(3, 4), bad(), good(3, 15)];
    assert_eq!(
        host.frame("192.0.2.1", &bundle(&sheds)),
        outcome(Verdict::Shed, 2, 1)
    );
    for kept in [good(3, 3), good(3, 16), good(0, 15)] {
        let datagrams = [&sheds[..], &[kept]].concat();
        let expected = outcome(Verdict::Passed, 4, 0);
        assert_eq!(host.frame("192.0.2.1", &bundle(&datagrams)), expected);
    }
}

#[test]
fn messages_are_judged_by_pri_and_shed_by_count() {
    let mut host = Host::new();
    host.keep = Keep::new([16, 16, 16, 2]);
    let packet = Bundle {
        bytes: b"<15>debug".to_vec(),
        shape: BundleShape {
            payload_len: 9,
            segment_len: 0,
        },
        ticks: Cell::new(0),
    };
    let slot = slot(SOCKET_SYSLOG);
    let verdicts = (0..32).map(|_| judge(&&host, &slot, &Source::UNKNOWN, packet.shape, &packet));
    let kept: Vec<bool> = verdicts.map(|outcome| outcome.passes()).collect();
    let expected: Vec<bool> = (0..32).map(|number| number % 16 < 2).collect();
    assert_eq!(kept, expected);
    // A frame is no message.
    let frame = bundle(&[good(0, 0)]);
    let outcome = judge(&&host, &slot, &Source::UNKNOWN, frame.shape, &frame);
    assert_eq!(outcome.verdict, Verdict::Malformed);
}

#[test]
fn more_datagrams_than_are_looked_at_count_as_well_formed() {
    let mut host = Host::new();
    let long = bundle(&vec![bad(); 129]);
    assert_eq!(
        host.frame("192.0.2.1", &long),
        outcome(Verdict::Passed, 129, 0)
    );
    host.limit_all(limit(1, 200));
    assert!(host.frame("192.0.2.1", &long).passes());
    assert!(host.frame("192.0.2.1", &long).passes());
    assert_eq!(
        host.frame("192.0.2.1", &long),
        outcome(Verdict::RateLimited, 129, 0)
    );
}

// ---- lists ----------------------------------------------------------------------------------

#[test]
fn the_longest_prefix_wins_and_an_allow_list_denies_the_rest() {
    let mut host = Host::new();
    let denied = |host: &Host, from: &str| is_denied(&host, &source(from));
    assert!(!denied(&host, "192.0.2.1"));
    host.deny("10.0.0.0/8");
    assert!(denied(&host, "10.1.1.1"));
    assert!(!denied(&host, "11.1.1.1"));
    host.allow("10.1.0.0/16");
    host.deny("10.1.2.3/32");
    assert!(!denied(&host, "10.1.1.1"));
    assert!(denied(&host, "10.1.2.3"));
    assert!(denied(&host, "10.2.1.1"));
    // There is an allow list now, and these stand in none.
    assert!(denied(&host, "11.1.1.1"));
    assert!(denied(&host, "2001:db8::1"));
    assert!(is_denied(&&host, &Source::UNKNOWN));
    // The same addresses over IPv6 sockets.
    assert!(!denied(&host, "::ffff:10.1.1.1"));
    assert!(denied(&host, "::ffff:10.1.2.3"));
    // All of IPv6 is not all of IPv4.
    host.allow("::/0");
    assert!(!denied(&host, "2001:db8::1"));
    assert!(denied(&host, "11.1.1.1"));
}

// ---- limits ---------------------------------------------------------------------------------

#[test]
fn a_source_has_its_rate_and_its_burst_and_others_have_theirs() {
    let mut host = Host::new();
    host.limit_all(limit(10, 100));
    assert_eq!(host.passing("192.0.2.1", 300), 100);
    assert_eq!(host.passing("192.0.2.2", 300), 100);
    assert_eq!(host.passing("::ffff:192.0.2.2", 300), 0, "the same host");
    host.wait(SECOND);
    assert_eq!(host.passing("192.0.2.1", 300), 10);
}

#[test]
fn a_source_is_as_long_as_its_prefix() {
    let mut host = Host::new();
    host.limit_all(limit(1, 10));
    host.policy.mask_v4 = mask(24);
    assert_eq!(host.passing("192.0.2.1", 6), 6);
    assert_eq!(host.passing("192.0.2.200", 6), 4);
    assert_eq!(host.passing("192.0.3.1", 6), 6);
    assert_eq!(host.passing("2001:db8:0:1::1", 6), 6);
    assert_eq!(host.passing("2001:db8:0:1:ffff::", 6), 4);
    assert_eq!(host.passing("2001:db8:0:2::1", 6), 6);
}

#[test]
fn the_longest_prefix_with_a_limit_wins() {
    let mut host = Host::new();
    host.limit_all(limit(1, 10));
    for (prefix, of) in [
        ("10.0.0.0/8", limit(1, 20)),
        ("10.1.0.0/16", Limit::NONE),
        ("10.1.1.0/24", limit(1, 5)),
    ] {
        let (source, bits) = network(prefix);
        host.limits.push((source, bits, of));
    }
    let passing = ["11.1.1.1", "10.2.1.1", "10.1.2.1", "10.1.1.1"].map(|s| host.passing(s, 50));
    assert_eq!(passing, [10, 20, 50, 5]);
}

/// Only what is well formed is charged, as a whole, and bytes beside datagrams.
#[test]
fn bytes_and_datagrams_are_both_charged_or_neither() {
    let mut host = Host::new();
    host.limit_all(Limit {
        datagrams: Bucket::new(1, 10, BUNDLE_DATAGRAMS_MAX),
        bytes: Bucket::new(1, 4 * u64::from(LEN), 65_535),
        connections: Bucket::NONE,
    });
    assert_eq!(
        host.frame("192.0.2.1", &bundle(&vec![bad(); 100])).verdict,
        Verdict::Malformed
    );
    // Four of 50 bytes empty the 200.
    assert_eq!(host.passing("192.0.2.1", 20), 4);
    // Six datagrams are left: bytes come in for two bundles more.
    host.wait(2 * u64::from(LEN) * SECOND);
    assert_eq!(host.passing("192.0.2.1", 20), 2);

    // The other way round.
    let mut host = Host::new();
    host.limit_all(Limit {
        datagrams: Bucket::new(1, 3, BUNDLE_DATAGRAMS_MAX),
        bytes: Bucket::new(1, 1 << 20, 65_535),
        connections: Bucket::NONE,
    });
    assert_eq!(host.passing("192.0.2.1", 20), 3);
}

#[test]
fn connections_have_a_bucket_of_their_own() {
    let mut host = Host::new();
    host.deny("198.51.100.0/24");
    host.limit_all(Limit {
        connections: Bucket::new(1, 3, 1),
        ..limit(1, 5)
    });
    let connections = |from: &str| {
        let verdicts = (0..5).map(|_| judge_connection(&&host, &source(from)));
        verdicts.collect::<Vec<_>>()
    };
    use Verdict::{Denied, Passed, RateLimited};
    let expected = [Passed, Passed, Passed, RateLimited, RateLimited];
    assert_eq!(connections("192.0.2.1"), expected);
    assert_eq!(host.passing("192.0.2.1", 9), 5, "datagrams are not touched");
    assert_eq!(connections("198.51.100.1"), [Denied; 5]);
    // No limit of connections, no place in the table.
    host.limit_all(limit(1, 5));
    assert_eq!(judge_connection(&&host, &source("192.0.2.9")), Passed);
    assert!(!host.sources.borrow().contains_key(&source("192.0.2.9")));
}

// ---- newcomers ------------------------------------------------------------------------------

fn with_newcomers() -> Host {
    let mut host = Host::new();
    host.limit_all(limit(1000, 5000));
    host.policy.newcomers = limit(10, 100);
    host
}

#[test]
fn invented_addresses_share_one_allowance() {
    let host = with_newcomers();
    let invented = |second: u32| {
        let from = |n: u32| IpAddr::from((second << 24 | n).to_be_bytes()).to_string();
        (0..5000).map(|n| host.passing(&from(n), 1)).sum::<usize>()
    };
    assert_eq!(invented(1), 100);
    assert_eq!(invented(2), 0);
    host.wait(SECOND);
    assert_eq!(invented(3), 10);
    // None but those that passed took a place from another.
    assert_eq!(host.sources.borrow().len(), 110);
}

/// A source that has used up what it had gains nothing by a new address.
#[test]
fn a_new_address_is_worth_no_more_than_a_drained_one() {
    let host = with_newcomers();
    assert_eq!(
        host.passing("192.0.2.1", 10_000),
        100,
        "the newcomers' burst, not its own"
    );
    assert_eq!(host.passing("192.0.2.2", 10_000), 0);
    // It is known, and earns by its own rate; what the allowance brings in comes on top.
    host.wait(SECOND);
    assert_eq!(host.passing("192.0.2.1", 10_000), 1000 + 10);
    // Another that comes now finds the allowance empty.
    assert_eq!(host.passing("192.0.2.2", 10_000), 0);
}

#[test]
fn a_source_that_has_earned_its_burst_has_it_whatever_newcomers_do() {
    let host = with_newcomers();
    assert_eq!(host.passing("192.0.2.1", 1), 1);
    assert_eq!(host.passing("192.0.2.2", 10_000), 99);
    // 5000 at 1000 a second.
    host.wait(5 * SECOND);
    assert_eq!(
        host.passing("192.0.2.3", 10_000),
        50,
        "who comes now drains the allowance"
    );
    assert_eq!(host.passing("192.0.2.1", 10_000), 5000);
    assert_eq!(host.passing("192.0.2.1", 10_000), 0, "and it is settled");
    host.wait(SECOND);
    assert_eq!(
        host.passing("192.0.2.1", 10_000),
        1000,
        "no newcomer's any more"
    );
}

#[test]
fn a_forgotten_source_is_a_newcomer_again() {
    let host = with_newcomers();
    assert_eq!(host.passing("192.0.2.1", 1), 1);
    host.wait(60 * SECOND);
    host.sources.borrow_mut().clear();
    assert_eq!(host.passing("192.0.2.1", 10_000), 100);
}

/// An allowance of one kind leaves the other kinds to the source's own buckets.
#[test]
fn what_newcomers_do_not_share_is_the_sources_own() {
    let mut host = with_newcomers();
    host.limit_all(Limit {
        bytes: Bucket::new(1, 7 * u64::from(LEN), 65_535),
        ..limit(1000, 5000)
    });
    // The first is paid by the allowance and begins its bytes; datagrams come in at 1000 a second.
    assert_eq!(host.passing("192.0.2.1", 100), 1);
    host.wait(SECOND);
    assert_eq!(host.passing("192.0.2.1", 100), 7);
}

proptest! {
    /// Whatever addresses somebody invents, and whenever: the allowance, and for each address that
    /// got in what its own rate brings from then on, is all there is.
    #[test]
    fn inventing_buys_nothing(
        steps in prop::collection::vec((0_u32..40, 0_u64..SECOND / 4, 1_usize..64), 1..300),
    ) {
        let host = with_newcomers();
        let start = host.now.get();
        let mut admitted: HashMap<u32, u64> = HashMap::new();
        let mut passed = 0;
        for (address, gap, len) in steps {
            host.wait(gap);
            let from = IpAddr::from((10 << 24 | address).to_be_bytes()).to_string();
            if host.frame(&from, &bundle(&vec![good(0, 0); len])).passes() {
                admitted.entry(address).or_insert(host.now.get());
                passed += len as u64;
            }
        }
        let now = host.now.get();
        let brought = |rate: u64, since: u64| rate * (now - since) / SECOND + 1;
        let own: u64 = admitted.values().map(|since| brought(1000, *since) + 64).sum();
        let shared = 100 + brought(10, start) + 64;
        prop_assert!(passed <= own + shared, "{passed} of {own} and {shared}");
    }
}

// ---- all of it ------------------------------------------------------------------------------

proptest! {
    /// Against the rules read one after the other, datagram by datagram.
    #[test]
    fn is_what_the_rules_say(
        datagrams in prop::collection::vec(prop::option::of((0_u8..4, 0_u64..64)), 1..40),
        keep in prop::array::uniform4(0_u8..=16),
        listed in prop::option::of(any::<bool>()),
        allow_elsewhere: bool,
        credit in prop::option::of(0_u64..3),
    ) {
        let mut host = Host::new();
        host.keep = Keep::new(keep);
        match listed {
            Some(true) => host.allow("192.0.2.1/32"),
            Some(false) => host.deny("192.0.2.0/25"),
            None => {}
        }
        if allow_elsewhere {
            host.allow("203.0.113.0/24");
        }
        if let Some(credit) = credit {
            host.limit_all(limit(1, credit.max(1)));
            if credit == 0 {
                host.passing("192.0.2.1", 2);
                let words = words();
                words[0].store(limit(1, 1).datagrams.empty(host.now.get()), std::sync::atomic::Ordering::Relaxed);
                host.sources.borrow_mut().insert(source("192.0.2.1"), words);
            }
        }

        let all = datagrams.len() as u32;
        let well_formed = datagrams.iter().flatten().count() as u32;
        let kept = datagrams.iter().flatten().any(|(priority, sequence)| {
            sequence % 16 < u64::from(keep[usize::from(*priority)])
        });
        let denied = listed == Some(false)
            || (listed.is_none() && allow_elsewhere);
        let expected = if denied {
            outcome(Verdict::Denied, all, 0)
        } else if well_formed == 0 {
            outcome(Verdict::Malformed, all, 0)
        } else if credit == Some(0) {
            outcome(Verdict::RateLimited, well_formed, all - well_formed)
        } else if !kept {
            outcome(Verdict::Shed, well_formed, all - well_formed)
        } else {
            outcome(Verdict::Passed, all, 0)
        };

        let datagrams: Vec<Vec<u8>> = datagrams
            .iter()
            .map(|datagram| datagram.map_or_else(bad, |(priority, sequence)| good(priority, sequence)))
            .collect();
        prop_assert_eq!(host.frame("192.0.2.1", &bundle(&datagrams)), expected);
    }
}
